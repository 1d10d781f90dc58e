"""Odd headers of volumes, and prepared roots that were edited: read rightly or told in one line."""

import gzip
import json
import re
import shutil
import struct

import numpy as np
import pytest
from preparing import told_by_prepare

nibabel = pytest.importorskip('nibabel')

from benchmark.errors import UserError  # noqa: E402
from datasets import prepare  # noqa: E402
from datasets.common.io.nifti import mapped  # noqa: E402
from datasets.volumes import OwnVolumes  # noqa: E402

SHAPE = (6, 7, 4)
KINDS = ('flair', 't1', 'seg')


def drawn(seed):
    """Voxels (right, anterior, superior) of two sequences and labels with a lesion of label 1."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:3] = 1
    return {k: rng.integers(50, 150, SHAPE).astype(np.int16) for k in KINDS[:2]} | {'seg': labels}


def save(file, values, kind=nibabel.Nifti1Image):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(values, np.diag([1.0, 1.0, 3.0, 1.0])), file)


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A source and its prepared root."""
    folder = tmp_path_factory.mktemp('volumes')
    for i in range(4):
        for kind, values in drawn(i).items():
            save(folder / 'in' / f'p{i}' / f'{kind}.nii.gz', values)
    assert prepare.main(['volumes', str(folder / 'in'), str(folder / 'root')]) == 0
    return folder


@pytest.fixture
def scans(sound, tmp_path):
    return shutil.copytree(sound / 'in', tmp_path / 'in')


@pytest.fixture
def root(sound, tmp_path):
    mapped.cache_clear()
    return shutil.copytree(sound / 'root', tmp_path / 'root')


@pytest.fixture
def prepared(scans, tmp_path, capsys):
    """Prepares the scans; returns what is printed on stdout, and the error or ''."""

    def run():
        return told_by_prepare(['volumes', str(scans), str(tmp_path / 'new')], capsys)

    return run


def rewrite(file, offset, form, *values):
    """Writes values into the header of a volume."""
    raw = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into(form, raw, offset, *values)
    file.write_bytes(gzip.compress(bytes(raw)))


def opened(root):
    return OwnVolumes(root=str(root), size='32x32')


DIM, SLOPE, SFORM, SROW = 40, 112, 254, 280


@pytest.mark.parametrize('slope', [0.0, np.nan])
def test_without_a_slope_voxels_are_what_is_stored(slope, sound, scans, prepared, tmp_path):
    for kind in KINDS:
        rewrite(scans / 'p0' / f'{kind}.nii.gz', SLOPE, '<ff', slope, 0)
    assert not prepared()[1]
    for kind in KINDS:
        files = [folder / 'p0' / f'{kind}.npy' for folder in (sound / 'root', tmp_path / 'new')]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_slopes_apply_to_labels_as_to_images(scans, prepared, tmp_path):
    rewrite(scans / 'p0' / 'seg.nii.gz', SLOPE, '<ff', 3, 0)
    assert not prepared()[1]
    labels = np.load(tmp_path / 'new' / 'p0' / 'seg.npy')
    assert (labels == 3 * drawn(0)['seg'].transpose(2, 0, 1)).all()
    notes = opened(tmp_path / 'new').notes
    assert 'labels of 4 cases: 1 in 3, 3 in 1' in notes


@pytest.mark.parametrize(
    ('kinds', 'change', 'told'),
    [
        (
            KINDS[1:2],
            (DIM + 2, '<hhh', 30000, 30000, 5600),
            r'shapes are .* \(5600, 30000',
        ),
        (KINDS, (DIM + 2, '<hhh', 30000, 30000, 5600), 'expected 25200.0 GB of free disk space'),
        (KINDS, (DIM + 2, '<h', -6), 'flair.nii.gz: expected a volume of 3 axes, found .-6, 7, 4'),
        (KINDS, (DIM, '<h', 9), 'flair.nii.gz: cannot be read, broken or of another format'),
        (KINDS, (SLOPE, '<ff', 1, np.nan), 'invalid intercept nan'),
        (KINDS, (SROW, '<f', np.nan), 'expected an affine that places the voxels'),
        (KINDS, (SROW, '<f', 0), 'expected an affine that places the voxels'),
        (KINDS[1:2], (SFORM, '<h', 0), 'expected one grid of voxels'),
    ],
)
def test_headers_that_place_no_voxels_are_told(kinds, change, told, scans, prepared):
    for kind in kinds:
        rewrite(scans / 'p1' / f'{kind}.nii.gz', *change)
    error = prepared()[1]
    assert re.search(told, error), error


@pytest.mark.parametrize('values', [np.nan, np.inf, 0.5])
def test_labels_that_are_no_whole_numbers_are_told(values, scans, prepared):
    labels = drawn(2)['seg'].astype(np.float32)
    save(scans / 'p2' / 'seg.nii.gz', np.where(labels, values, 0).astype(np.float32))
    told = f'p2/seg.nii.gz: expected labels whole numbers from 0 to 254, found {values}'
    assert told in prepared()[1]


@pytest.mark.parametrize('form', ['f4', 'i2', 'f8'])
def test_the_order_of_bytes_changes_nothing(form, sound, scans, prepared, tmp_path):
    header = nibabel.Nifti1Header(endianness='>')
    header.set_data_dtype(f'>{form}')
    values = drawn(0)['t1'].astype(f'>{form}')
    image = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0]), header)
    nibabel.save(image, scans / 'p0' / 't1.nii.gz')
    assert not prepared()[1]
    files = [folder / 'p0' / 't1.npy' for folder in (sound / 'root', tmp_path / 'new')]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(('scale', 'base'), [(1, 1e9), (1e-25, 0)])
def test_no_voxel_is_rounded_before_it_is_standardised(
    scale, base, sound, scans, prepared, tmp_path
):
    save(scans / 'p0' / 't1.nii.gz', drawn(0)['t1'] * float(scale) + base)
    assert not prepared()[1]
    before, after = (np.load(r / 'p0' / 't1.npy') for r in (sound / 'root', tmp_path / 'new'))
    assert after == pytest.approx(before, abs=2e-3)


def test_volumes_that_become_0_are_told(scans, prepared):
    save(scans / 'p0' / 't1.nii.gz', drawn(0)['t1'] * 1e-200)
    assert 'volumes that become 0, for no voxels differ by more than rounding (1)' in prepared()[0]


@pytest.mark.parametrize('kind', ['t1', 'seg'])
@pytest.mark.parametrize('dtype', [[('R', 'u1'), ('G', 'u1'), ('B', 'u1')], np.complex64])
def test_voxels_of_several_numbers_are_told(kind, dtype, scans, prepared):
    save(scans / 'p0' / f'{kind}.nii.gz', np.zeros(SHAPE, dtype))
    assert f'p0/{kind}.nii.gz: expected one real number per voxel' in prepared()[1]


def test_two_files_of_one_modality_are_told(scans, prepared):
    save(scans / 'p0' / 't1.nii', drawn(0)['t1'])
    assert 't1.nii.gz: expected one file of t1, found two' in prepared()[1]


@pytest.mark.parametrize('name', ['mean', 'train', 'missing_0'])
def test_a_modality_that_tables_cannot_bear_is_told_before_it_is_prepared(name, scans, prepared):
    (scans / 'p0' / 't1.nii.gz').rename(scans / 'p0' / f'{name}.nii.gz')
    assert 'in: modality: expected a name that is no' in prepared()[1]


def test_volumes_of_one_slice_are_trained_and_tested(scans, prepared, tmp_path):
    for i in range(4):
        for kind, values in drawn(i).items():
            save(scans / f'p{i}' / f'{kind}.nii.gz', values[..., 1:2])
    assert not prepared()[1]
    data = opened(tmp_path / 'new')
    assert [len(data.split(name)) for name in ('train', 'val', 'test')] == [2, 1, 1]


def test_a_modality_that_no_training_case_has_is_told(root):
    (root / 'train1.txt').write_text('p0\np1')
    (root / 'val1.txt').write_text('p2')
    (root / 'test1.txt').write_text('p3')
    for case in ('p0', 'p1'):
        (root / case / 't1.npy').unlink()
    with pytest.raises(UserError, match=r'root: expected t1 of some training case, found none'):
        opened(root)


def test_files_that_are_gone_from_a_prepared_root_are_named(root):
    (root / 'p1' / 't1.npy').unlink()
    assert 'written by the preparation, and missing now: p1/t1.npy' in opened(root).notes


def test_an_edited_list_of_cases_makes_other_data(root):
    before = opened(root).fingerprint
    file = root / 'cases.txt'
    file.write_text(file.read_text().replace('p1 4 6 7 0 3', 'p1 4 6 7 1 2'))
    assert opened(root).fingerprint != before


@pytest.mark.parametrize(
    ('edit', 'told'),
    [
        (
            lambda x: x[:3],
            r'expected float16 \(4, 6, 7\), as in .*, found float16 \(3, 6, 7',
        ),
        (lambda x: x.astype(np.float32), 'expected float16 .* found float32'),
        (lambda x: x[None], r'expected a volume \(S, H, W\)'),
    ],
)
def test_an_edited_volume_of_a_prepared_root_is_told(edit, told, root):
    file = root / 'p1' / 't1.npy'
    np.save(file, edit(np.load(file)))
    with pytest.raises(UserError, match=rf'p1/t1\.npy: {told}'):
        opened(root)


def test_a_torn_volume_of_a_prepared_root_is_told(root):
    file = root / 'p1' / 't1.npy'
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r'p1/t1\.npy: cannot be read, broken or of another format'):
        opened(root)


def test_an_edited_manifest_is_told(root):
    file = root / 'manifest.json'
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {'files': []}))
    with pytest.raises(UserError, match=r'manifest\.json: cannot be read as a manifest'):
        opened(root)
