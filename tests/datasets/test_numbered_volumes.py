"""nnU-Net's layout and NIfTI files of four axes give the root that files by case give."""

import json
import shutil

import numpy as np
import pytest
from preparing import told_by_prepare

nibabel = pytest.importorskip('nibabel')

from benchmark.errors import UserError  # noqa: E402
from datasets import prepare  # noqa: E402
from datasets.common.families.numbered_volumes import read_content  # noqa: E402
from datasets.common.io.nifti import Channel, grid, load_volume  # noqa: E402
from datasets.volumes import OwnVolumes  # noqa: E402

SHAPE = (6, 7, 4)
SPACING = np.diag([1.0, 1.0, 3.0, 1.0])
MIRRORED = SPACING @ np.array([[-1, 0, 0, 5], [0, -1, 0, 6], [0, 0, 1, 0], [0, 0, 0, 1.0]])
NAMES = {'0': 'FLAIR', '1': 'T1 w'}
LABELS = {'background': 0, 'oedema': 1, 'whole tumour': [1, 2]}


def drawn(seed):
    """Voxels (right, anterior, superior) of two sequences, and labels 1 and 2."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:3] = 1
    labels[2, 3, 2] = 2
    images = [rng.integers(50, 150, SHAPE).astype(np.int16) for _ in NAMES]
    return {'FLAIR': images[0], 'T1_w': images[1], 'seg': labels}


def save(file, values, affine=SPACING):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), file)


def content(root, **fields):
    root.mkdir(parents=True, exist_ok=True)
    given = {'channel_names': NAMES, 'labels': LABELS, 'file_ending': '.nii.gz', **fields}
    (root / 'dataset.json').write_text(json.dumps(given))


def nnunet(root, count=5):
    content(root)
    for k in range(count):
        flair, t1, labels = drawn(k).values()
        save(root / 'imagesTr' / f'pat_{k:03d}_0000.nii.gz', flair)
        save(root / 'imagesTr' / f'pat_{k:03d}_0001.nii.gz', t1)
        save(root / 'labelsTr' / f'pat_{k:03d}.nii.gz', labels)
    return root


def decathlon(root, count=5):
    """The images are stored from left to right and the labels from right to left."""
    older = {'0': 'background', '1': 'oedema', '2': 'core'}
    root.mkdir(parents=True)
    (root / 'dataset.json').write_text(json.dumps({'modality': NAMES, 'labels': older}))
    for k in range(count):
        flair, t1, labels = drawn(k).values()
        both = np.stack([flair, t1], 3)[::-1, ::-1]
        save(root / 'imagesTr' / f'pat_{k:03d}.nii.gz', both, MIRRORED)
        save(root / 'labelsTr' / f'pat_{k:03d}.nii.gz', labels)
    (root / 'imagesTr' / '._pat_000.nii.gz').write_bytes(b'x')
    return root


def by_case(root, count=5):
    for k in range(count):
        for kind, values in drawn(k).items():
            save(root / f'pat_{k:03d}' / f'{kind}.nii.gz', values)
    return root


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """The same cases in the three layouts, and their prepared roots."""
    folder = tmp_path_factory.mktemp('volumes')
    for make in (nnunet, decathlon, by_case):
        source = make(folder / make.__name__)
        root = folder / f'{make.__name__}_root'
        assert prepare.main(['volumes', str(source), str(root)]) == 0
    return folder


@pytest.fixture(params=['nnunet', 'decathlon'])
def scans(request, sound, tmp_path):
    return shutil.copytree(sound / request.param, tmp_path / 'in')


@pytest.fixture
def prepared(tmp_path, capsys):
    """Prepares a source; returns what is printed on stdout, and the error or ''."""

    def run(source):
        return told_by_prepare(['volumes', str(source), str(tmp_path / 'new')], capsys)

    return run


@pytest.mark.parametrize('name', ['nnunet', 'decathlon'])
def test_all_layouts_give_the_same_volumes(name, sound):
    expected, found = sound / 'by_case_root', sound / f'{name}_root'
    files = sorted(p.relative_to(expected) for p in expected.rglob('*.npy'))
    assert len(files) == 15
    assert files == sorted(p.relative_to(found) for p in found.rglob('*.npy'))
    for file in (*files, 'cases.txt'):
        assert (found / file).read_bytes() == (expected / file).read_bytes()


def test_labels_are_regions_by_their_names(sound):
    regions = {
        name: OwnVolumes(root=str(sound / f'{name}_root'), size='32x32').task.regions
        for name in ('nnunet', 'decathlon')
    }
    assert regions['nnunet'] == (('oedema', (1,)), ('whole_tumour', (1, 2)))
    assert regions['decathlon'] == (('oedema', (1,)), ('core', (2,)))


def test_a_channel_lies_where_its_file_lies(tmp_path):
    values = np.stack([drawn(0)['FLAIR'], drawn(1)['FLAIR'], drawn(2)['FLAIR']], 3)
    save(tmp_path / 'a.nii.gz', values[::-1, ::-1], MIRRORED)
    for k in range(3):
        channel = Channel(tmp_path / 'a.nii.gz', k)
        assert grid(channel).shape == (4, 6, 7)
        assert grid(channel).affine == pytest.approx(SPACING)
        assert (load_volume(channel) == drawn(k)['FLAIR'].transpose(2, 0, 1)).all()
    # A file that was written anew is read anew.
    save(tmp_path / 'a.nii.gz', 2 * values)
    assert (load_volume(channel) == 2 * drawn(2)['FLAIR'].transpose(2, 0, 1)).all()


def test_what_is_left_out_is_named_and_a_missing_channel_is_a_gap(sound, tmp_path, prepared):
    root = shutil.copytree(sound / 'nnunet', tmp_path / 'in')
    save(root / 'imagesTs' / 'pat_900_0000.nii.gz', drawn(0)['FLAIR'])
    save(root / 'imagesTr' / 'pat_800_0000.nii.gz', drawn(0)['FLAIR'])
    (root / 'imagesTr' / 'notes.txt').write_text('x')
    (root / 'imagesTr' / 'pat_001_0001.nii.gz').unlink()
    content(root, labels={**LABELS, 'core': 7})
    out, error = prepared(root)
    assert not error
    for told in (
        'files of imagesTs left out, for only imagesTr has labels here (1):\n  pat_900_0000\n',
        'cases left out, for they have no file in labelsTr (1):\n  pat_800\n',
        'no NIfTI files of the layout (1):\n  imagesTr/notes.txt\n',
        'labels that no case has (1):\n  7 of core\n',
    ):
        assert told in out
    data = OwnVolumes(root=str(tmp_path / 'new'), size='32x32')
    assert data.task.names == ('FLAIR', 'T1_w')
    assert any(note.startswith('lacking: T1_w in 1 of') for note in data.notes)


def test_geometry_that_does_not_fit_is_told(scans, prepared):
    labels = drawn(3)['seg']
    save(scans / 'labelsTr' / 'pat_003.nii.gz', labels, np.diag([1.1, 1, 3, 1]))
    error = prepared(scans)[1]
    assert 'case pat_003: expected one grid of voxels' in error
    save(scans / 'labelsTr' / 'pat_003.nii.gz', labels[:-1])
    assert 'their shapes are' in prepared(scans)[1]


def test_labels_and_files_that_do_not_fit_are_told(scans, prepared):
    many = (scans / 'imagesTr/pat_001.nii.gz').exists()
    file = scans / 'imagesTr' / ('pat_001.nii.gz' if many else 'pat_001_0002.nii.gz')
    save(file, np.stack([drawn(1)['FLAIR']] * 3, 3) if many else drawn(1)['FLAIR'])
    found = 'expected 2 channels, FLAIR, T1_w' if many else 'expected a channel from 0000 to 0001'
    assert f'{file}: {found}' in prepared(scans)[1]
    file.unlink()
    if many:
        return
    save(scans / 'labelsTr' / 'pat_001.nii.gz', drawn(1)['seg'] * np.uint8(3))
    assert 'labelsTr/pat_001.nii.gz: expected labels 0, 1, 2, found 3' in prepared(scans)[1]
    shutil.rmtree(scans / 'labelsTr')
    assert 'in: expected labelsTr, found dataset.json, imagesTr' in prepared(scans)[1]


@pytest.mark.parametrize(
    ('fields', 'told'),
    [
        ({'file_ending': '.png'}, "file_ending: expected .nii.gz or .nii, found '.png'"),
        ({'channel_names': {}}, 'channel_names: expected the names of the channels'),
        ({'channel_names': {'1': 'a'}}, 'expected the names of the channels'),
        ({'channel_names': {'0': 'a', '1': 'A'}}, 'expected different names'),
        ({'channel_names': {'0': 'seg'}}, 'none of them seg, found seg'),
        ({'channel_names': {'0': '?'}}, "expected names with letters or digits, found '\\?'"),
        ({'channel_names': {'0': 'mean'}}, 'expected a name that is no'),
        ({'labels': {'background': 0}}, 'expected a label above 0'),
        ({'labels': {'a': 'b'}}, "expected whole numbers from 0 to 254, found 'b'"),
        ({'labels': {'a': 1, 'a?': 2}}, 'expected different names, found a twice'),
        (
            {'labels': {'a': 1, 'ignore': 2}},
            'because every voxel is trained and scored here, found ignore 2',
        ),
        ({'labels': [1, 2]}, 'expected {"background": 0'),
    ],
)
def test_contents_that_cannot_be_used_are_told(fields, told, tmp_path):
    content(tmp_path, **fields)
    with pytest.raises(UserError, match=f'dataset.json: .*{told}'):
        read_content(tmp_path / 'dataset.json')


def test_a_file_that_is_no_content_is_told(tmp_path):
    with pytest.raises(UserError, match='expected the names of channels and labels, found no file'):
        read_content(tmp_path / 'dataset.json')
    for text in ('{', '[]', 'x'):
        (tmp_path / 'dataset.json').write_text(text)
        with pytest.raises(UserError, match=r'dataset\.json'):
            read_content(tmp_path / 'dataset.json')
