"""What is wrong with a user's volumes is mended aloud or told in one line."""

import gzip
import itertools
import os
import re
import shutil

import numpy as np
import pytest
from preparing import told_by_prepare

nibabel = pytest.importorskip('nibabel')

from benchmark.errors import UserError  # noqa: E402
from datasets import prepare  # noqa: E402
from datasets.common.families.volume_files import standardised  # noqa: E402
from datasets.common.families.volume_index import Case  # noqa: E402
from datasets.common.families.volume_rows import margin_of, window  # noqa: E402
from datasets.common.io.folders import walk_all  # noqa: E402
from datasets.common.io.nifti import grid, load_volume, mapped  # noqa: E402
from datasets.preview import sheet  # noqa: E402
from datasets.volumes import OwnVolumes  # noqa: E402

SHAPE = (6, 7, 4)
SPACING = np.diag([1.0, 1.0, 3.0, 1.0])


def save(file, values, affine=SPACING):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), file)


def drawn(seed):
    """Voxels (right, anterior, superior) of two sequences and labels with a lesion of label 1."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:3] = 1
    images = {k: rng.normal(100, 20, SHAPE).astype(np.float32) for k in ('flair', 't1')}
    return {**images, 'seg': labels}


def source(root, count=5):
    for i in range(count):
        for kind, values in drawn(i).items():
            save(root / f'p{i}' / f'{kind}.nii.gz', values)
    return root


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A source and its prepared root."""
    folder = tmp_path_factory.mktemp('volumes')
    assert prepare.main(['volumes', str(source(folder / 'in')), str(folder / 'root')]) == 0
    return folder


@pytest.fixture
def scans(sound, tmp_path):
    return shutil.copytree(sound / 'in', tmp_path / 'in')


@pytest.fixture
def root(sound, tmp_path):
    return shutil.copytree(sound / 'root', tmp_path / 'root')


@pytest.fixture
def prepared(scans, tmp_path, capsys):
    """Prepares the scans; returns what is printed on stdout, and the error or ''."""

    def run(name='volumes'):
        shutil.rmtree(tmp_path / 'new', ignore_errors=True)
        return told_by_prepare([name, str(scans), str(tmp_path / 'new')], capsys)

    return run


def stored_as(values, axes, mirrored):
    """The same anatomy in another order of storage: the voxels and their affine."""
    to_standard = np.zeros((4, 4))
    to_standard[3, 3] = 1
    for stored, (axis, back) in enumerate(zip(axes, mirrored, strict=True)):
        to_standard[axis, stored] = -1 if back else 1
        to_standard[axis, 3] = values.shape[axis] - 1 if back else 0
    turned = values.transpose(axes)
    return turned[tuple(slice(None, None, -1 if b else 1) for b in mirrored)], SPACING @ to_standard


@pytest.mark.parametrize('axes', [*itertools.permutations(range(3))])
@pytest.mark.parametrize('mirrored', [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 1, 1)])
def test_volumes_are_read_in_one_orientation(tmp_path, axes, mirrored):
    values = drawn(0)['t1']
    file = tmp_path / 't1.nii.gz'
    save(file, *stored_as(values, axes, mirrored))
    assert (load_volume(file) == values.transpose(2, 0, 1)).all()
    found = grid(file)
    assert found.shape == (4, 6, 7)
    assert found.affine == pytest.approx(SPACING)


def test_sequences_in_opposite_orientations_give_the_same_root(sound, scans, prepared, tmp_path):
    for k in range(5):
        file = scans / f'p{k}' / 'flair.nii.gz'
        save(file, *stored_as(drawn(k)['flair'], (0, 1, 2), (1, 1, 0)))
    assert not prepared()[1]
    for name in ('flair', 't1', 'seg'):
        files = [r / 'p3' / f'{name}.npy' for r in (sound / 'root', tmp_path / 'new')]
        assert files[0].read_bytes() == files[1].read_bytes()


MOVED = SPACING + np.array([[0, 0, 0, 2.5]] + [[0] * 4] * 3)


@pytest.mark.parametrize(
    ('affine', 'told'),
    [
        (MOVED, 'their voxels lie up to 2.5 mm apart'),
        (np.diag([1.1, 1, 3, 1]), 'their voxels lie up to 0.5 mm apart'),
        (SPACING + 1e-4 * (np.arange(16).reshape(4, 4) < 12), ''),
    ],
)
def test_grids_that_differ_are_refused_and_rounding_is_not(scans, prepared, affine, told):
    save(scans / 'p1' / 't1.nii.gz', drawn(1)['t1'], affine)
    error = prepared()[1]
    if not told:
        assert not error
        return
    todo = 'resample one of the files to the grid of the other'
    for text in ('case p1', f'{scans}/p1/flair.nii.gz', f'{scans}/p1/t1.nii.gz', told, todo):
        assert text in error


def test_files_that_do_not_say_their_orientation_are_not_mixed_with_others(scans, prepared):
    (scans / 'p1' / 't1.nii.gz').unlink()
    np.save(scans / 'p1' / 't1.npy', drawn(1)['t1'].transpose(2, 0, 1))
    assert 'case p1' in prepared()[1]
    flat = nibabel.Nifti1Image(drawn(1)['t1'], None)
    flat.header.set_sform(np.diag([1.0, 1, 0, 1]), 'scanner')
    nibabel.save(flat, scans / 'p1' / 't1.nii')
    (scans / 'p1' / 't1.npy').unlink()
    assert 't1.nii: expected an affine that places the voxels' in prepared()[1]


def test_nan_outside_the_lesion_is_background_and_said_aloud(scans, prepared, tmp_path):
    zero, nan = drawn(2)['t1'], drawn(2)['t1']
    zero[4:], nan[4:] = 0, np.nan
    found = []
    for values in (zero, nan):
        save(scans / 'p2' / 't1.nii.gz', values)
        out, error = prepared()
        assert not error
        found.append((tmp_path / 'new/p2/t1.npy').read_bytes())
    assert found[0] == found[1]
    assert 'NaN and are taken as background, 0 (1):' in out
    assert f'{scans}/p2/t1.nii.gz: 56 of 168' in out


@pytest.mark.parametrize(
    ('where', 'value', 'told'),
    [
        (np.s_[:], np.nan, 'found NaN in all 168 voxels'),
        (np.s_[1, 2, 1], np.nan, 'expected numbers in the labelled voxels, found NaN in 1'),
        (np.s_[5, 5, :2], np.inf, 'found 2 of 168 voxels that are infinite'),
        (np.s_[5, 5, 2], -1e30, 'found 1 of 168 voxels that are infinite or greater than 1e+15'),
    ],
)
def test_other_voxels_that_are_not_finite_are_refused(scans, prepared, where, value, told):
    values = drawn(2)['t1']
    values[where] = value
    save(scans / 'p2' / 't1.nii.gz', values)
    error = prepared()[1]
    assert f'{scans}/p2/t1.nii.gz: ' in error
    assert told in error


def test_a_volume_of_one_value_shows_nothing_and_is_told(scans, prepared):
    save(scans / 'p0' / 't1.nii.gz', np.full(SHAPE, 0.1, np.float32))
    save(scans / 'p1' / 't1.nii.gz', np.zeros(SHAPE, np.float32))
    out, error = prepared()
    assert not error
    assert 'become 0, for no voxels differ by more than rounding (2):' in out
    assert not standardised(np.full((50, 50, 50), 0.1, np.float32)).any()


def test_damage_is_told_with_the_file(scans, prepared):
    file = scans / 'p4' / 't1.nii.gz'
    raw = gzip.decompress(file.read_bytes())
    whole = gzip.compress(raw)
    # The checksum stands behind the last voxel, where a reader of voxels alone never comes.
    file.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    assert f'{file}: cannot be read, broken or of another format: CRC' in prepared()[1]
    for broken in (whole[:30], whole[:-20], b'', gzip.compress(raw[:-4]), gzip.compress(b'no')):
        file.write_bytes(broken)
        assert f'{file}: cannot be read, broken or of another format' in prepared()[1]


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        (np.zeros((6, 7, 4, 2), np.float32), r'found \(6, 7, 4, 2\); write one file per modality'),
        (np.zeros((6, 7), np.float32), r'expected a volume of 3 axes, found \(6, 7\)'),
        (np.zeros(SHAPE, np.complex64), 'one real number per voxel, found the type complex64'),
        (np.zeros(SHAPE, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]), 'one real number per voxel'),
    ],
)
def test_what_is_no_volume_is_told_from_the_header(tmp_path, values, told):
    file = tmp_path / 't1.nii.gz'
    save(file, values)
    with pytest.raises(UserError, match=told):
        grid(file)


def test_axes_of_length_one_behind_the_third_are_no_axes(tmp_path):
    values = drawn(0)['t1']
    save(tmp_path / 't1.nii', values[..., None, None])
    assert (load_volume(tmp_path / 't1.nii') == values.transpose(2, 0, 1)).all()


def test_suffixes_in_upper_case_and_linked_folders_are_read(scans, prepared, tmp_path):
    (scans / 'p0' / 't1.nii.gz').rename(scans / 'p0' / 't1.NII.GZ')
    (scans / 'p3').rename(tmp_path / 'elsewhere')
    (scans / 'p3').symlink_to(tmp_path / 'elsewhere')
    (scans / 'p4' / 'up').symlink_to(scans)
    assert not prepared()[1]
    data = OwnVolumes(root=str(tmp_path / 'new'), size='32x32')
    assert all(data.split(name).available.all() for name in ('train', 'val', 'test'))
    assert len(data.cases) == 5
    assert sum(file.name == 'seg.nii.gz' for file in walk_all(scans)) == 5


def test_nothing_is_left_out_without_being_named(scans, prepared):
    others = ['p0/notes.txt', 'p0/.t2.nii.gz', 'readme.md', 'atlas.nii.gz', 'p1/deep/t2.nii']
    for name in others:
        (scans / name).parent.mkdir(exist_ok=True)
        (scans / name).write_bytes(b'')
    out, error = prepared()
    assert not error
    assert 'files left out, for they are no volumes (3):' in out
    assert 'files left out, for they are not <case>/<modality>.nii.gz' in out
    assert all(f'  {name}\n' in out for name in others)


@pytest.mark.parametrize(
    ('old', 'new', 'told'),
    [
        ('p0/t1.nii.gz', 'p0/t1.ce.nii.gz', "letters, digits, _ and -, found 't1.ce'"),
        ('p1/t1.nii.gz', 'p1/T1.nii.gz', 'p1/T1.nii.gz: expected the spelling t1'),
        ('p1/seg.nii.gz', 'p1/Seg.nii.gz', 'expected the spelling seg, as in other files'),
        ('p0/t1.nii.gz', 'p0/flair.nii', 'p0/flair.nii.gz: expected one file of flair, found two'),
        ('p0/seg.nii.gz', 'p0/mask.nii.gz', 'seg of case p0, found none beside flair, mask, t1'),
        ('p0', 'p0 ', "of a case without white space around it, found 'p0 '"),
        ('p0', 'imagesTr', 'expected labelsTr, found imagesTr, p1, p2, p3, p4'),
        ('p0/t1.nii.gz', 'p0/p0-t1c.nii.gz', 'repeats the case, as in BraTS; rename it to t1c.nii'),
    ],
)
def test_names_that_cannot_be_used_are_told(scans, prepared, old, new, told):
    (scans / old).rename(scans / new)
    assert told in prepared()[1]


def test_a_case_without_images_or_a_source_without_cases_is_told(scans, prepared):
    for kind in ('t1', 'flair'):
        (scans / 'p0' / f'{kind}.nii.gz').unlink()
    out, error = prepared()
    assert not error
    assert 'cases left out, for they have no modality at all (1):\n  p0\n' in out
    assert '4 cases' in out
    for k in range(5):
        for file in (scans / f'p{k}').glob('[tf]*'):
            file.unlink()
    assert 'expected a modality beside the labels, found none' in prepared()[1]
    for k in range(5):
        shutil.rmtree(scans / f'p{k}')
    assert 'seg.nii.gz, found no volume' in prepared()[1]
    save(scans / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz', drawn(0)['t1'])
    assert 'found sub-01/anat/sub-01_T1w.nii.gz' in prepared()[1]
    assert 'found sub-01/anat/sub-01_T1w.nii.gz' in prepared('brats2020')[1]


def test_masks_of_255_are_told_how_to_be_written(scans, prepared):
    save(scans / 'p0' / 'seg.nii.gz', drawn(0)['seg'] * np.uint8(255))
    assert 'found 255; write 1 where the mask is 255' in prepared()[1]


def test_brats_names_what_it_leaves_out(tmp_path, capsys):
    for k, kinds in enumerate([('flair', 't1', 't1ce', 't2', 'seg')] * 3 + [('flair',)]):
        for kind in kinds:
            values = drawn(k)['seg' if kind == 'seg' else 't1']
            save(tmp_path / 'in' / f'c{k}' / f'c{k}_{kind}.NII.gz', values)
    save(tmp_path / 'in' / 'c0' / 'c0_t1.ce.nii.gz', drawn(0)['t1'])
    (tmp_path / 'in/c0/c0_t1.mha').write_bytes(b'')
    assert prepare.main(['brats2020', str(tmp_path / 'in'), str(tmp_path / 'root')]) == 0
    out = capsys.readouterr().out
    assert 'files left out, for they are no NIfTI files (1):' in out
    assert 'c0/c0_t1.mha\n' in out
    assert 'c0/c0_t1.ce.nii.gz\n' in out
    assert 'cases left out, for they have no seg (1):\n  c3\n' in out


def opened(root, **options):
    return OwnVolumes(root=str(root), size='32x32', **options)


def lists(root, train, val, test):
    for name, cases in {'train': train, 'val': val, 'test': test}.items():
        (root / f'{name}1.txt').write_text('\n'.join(cases))


def test_lines_of_the_list_of_cases_hold_any_name():
    case = Case('patient 7  b', (4, 6, 7), 0, 3, (0, 2))
    assert Case.read(case.line) == case


@pytest.mark.parametrize(
    'line', ['p0 4 6 7 0 3 1', 'p0 4 6 7 0 4 labels=0', 'p0 4 6 0 0 3 labels=0', 'p labels=0', '']
)
def test_broken_lists_of_cases_are_told(root, line):
    (root / 'cases.txt').write_text(f'{line}\n')
    with pytest.raises(UserError, match=r'cases\.txt'):
        opened(root)


@pytest.mark.parametrize('change', [lambda x: x[:-1], lambda x: x.astype(np.float32)])
def test_headers_are_compared_when_data_are_opened(root, change):
    file = root / 'p2' / 't1.npy'
    np.save(file, change(np.load(file)))
    with pytest.raises(UserError, match=r't1\.npy: expected float16 \(4, 6, 7\), as in cases'):
        opened(root)


def test_labels_that_were_corrected_in_the_root_must_fit_the_list_of_cases(root):
    file = root / 'p2' / 'seg.npy'
    values = np.load(file)
    values[0, 0, 0] = 1
    np.save(file, values)
    opened(root)
    file.unlink()
    values[0, 0, 0] = 2
    np.save(file, values)
    mapped.cache_clear()
    with pytest.raises(UserError, match=r'seg\.npy: expected labels \(0, 1\), as in cases'):
        opened(root)


def test_a_source_that_was_corrected_since_is_told(scans, tmp_path, capsys):
    command = ['volumes', str(scans), str(tmp_path / 'new')]
    assert prepare.main(command) == 0
    file = scans / 'p2' / 't1.nii.gz'
    content = file.read_bytes()
    # Byte 4 of a gzip file is in its time stamp.
    file.write_bytes(content[:4] + bytes([content[4] ^ 1]) + content[5:])
    capsys.readouterr()
    assert prepare.main(command) == 2
    assert 'expected the content that in had, found other' in capsys.readouterr().err
    file.write_bytes(content)
    assert prepare.main(command) == 0


def relabel(root, case, *values):
    """Gives a case of a prepared root other labels, in its file and in the list of cases."""
    labels = np.zeros_like(np.load(root / case / 'seg.npy'))
    labels[1, 1, : len(values)] = values
    np.save(root / case / 'seg.npy', labels)
    mapped.cache_clear()
    listed = ','.join(map(str, (0, *values)))
    lines = (root / 'cases.txt').read_text().splitlines()
    changed = [re.sub('=.*', f'={listed}', x) if x.startswith(case) else x for x in lines]
    (root / 'cases.txt').write_text('\n'.join(changed))


def test_splits_without_a_labelled_voxel_are_refused(root):
    relabel(root, 'p1')
    lists(root, ['p0', 'p2'], ['p3'], ['p1'])
    with pytest.raises(UserError, match='expected a labelled voxel in some case of test, found'):
        opened(root)
    lists(root, ['p0', 'p2'], ['p3'], ['p1', 'p4'])
    assert 'cases without a labelled voxel: 1 of 2 of test' in opened(root).notes
    relabel(root, 'p0', 2)
    told = [note for note in opened(root).notes if 'region' in note]
    assert told == ['region 2 is in no case of val and test; Dice is 1 where it is not found']
    for k in range(5):
        relabel(root, f'p{k}')
    with pytest.raises(UserError, match='expected a label above 0 in some case, found none'):
        opened(root)


def test_dice_is_taken_of_the_labels_that_occur(root):
    for k in range(5):
        relabel(root, f'p{k}', 1, 4)
    data = opened(root)
    task = data.task
    assert task.regions == (('1', (1,)), ('4', (4,)))
    assert not any('no case has' in note for note in data.notes)
    assert len(task.classes) == 5
    for line, told in {
        'core 3': 'expected NAME and some of the labels 1, 4',
        'core ²': 'expected NAME and some of the labels 1, 4',
        'core 1\ncore 4': 'expected one line of core, found two',
    }.items():
        (root / 'regions.txt').write_text(line)
        with pytest.raises(UserError, match=told):
            opened(root)


def test_content_counts_and_neither_names_nor_places(root, tmp_path):
    before = opened(root).fingerprint
    moved = shutil.copytree(root, tmp_path / 'moved', copy_function=shutil.copyfile)
    assert opened(moved).fingerprint == before
    file = root / 'p2' / 't1.npy'
    values = np.load(file)
    values[0, 0, 0] += 1
    np.save(file, values)
    assert opened(root).fingerprint != before


def test_copies_in_two_splits_are_told_or_refused(root, capsys):
    lists(root, ['p0', 'p1', 'p2'], ['p3'], ['p4'])
    assert not any('copies' in note for note in opened(root).notes)
    told = '1 of 1 cases of test are copies of training cases: p4 (train: p1)'
    shutil.copyfile(root / 'p1' / 't1.npy', root / 'p4' / 't1.npy')
    assert told not in opened(root).notes
    (root / 'p4' / 'flair.npy').unlink()
    assert told in opened(root).notes
    with pytest.raises(UserError, match=f'no copies, found {re.escape(told)}$'):
        opened(root, duplicates='refuse')
    prepare.main(['check', 'volumes', str(root), 'size=32x32'])
    assert f'note: {told}' in capsys.readouterr().out


@pytest.mark.parametrize('size', range(1, 9))
@pytest.mark.parametrize('sources', [(5,), (8,), (3, 6), (6, 9), (4, 7, 9)])
def test_margins_show_the_whole_source_around_the_same_window(sources, size):
    margin = margin_of(sources, size)
    for source in sources:
        seen, place = window(source, size)
        whole, around = window(source, size, margin)
        assert whole == slice(0, source)
        assert around.stop - around.start == source
        assert 0 <= around.start <= around.stop <= size + 2 * margin
        # A pixel of the window lies `margin` further inside the row.
        assert around.start + seen.start == margin + place.start


def test_labels_outside_the_window_are_tested_and_drawn(tmp_path):
    for k in range(3):
        labels = np.zeros((2, 40, 36 + 10 * (k == 2)), np.uint8)
        labels[:, 0, 0], labels[:, 20, 15] = 1, 2
        file = tmp_path / 'in' / f'p{k}' / 't1.npy'
        file.parent.mkdir(parents=True)
        np.save(file, np.ones(labels.shape, np.float32) + labels)
        np.save(file.with_name('seg.npy'), labels)
    assert prepare.main(['volumes', str(tmp_path / 'in'), str(tmp_path / 'root')]) == 0
    lists(tmp_path / 'root', ['p0'], ['p1'], ['p2'])
    data = opened(tmp_path / 'root')
    shapes = {'train': (32, 32), 'val': (40, 36), 'test': (40, 46)}
    for name, shape in shapes.items():
        split = data.split(name)
        target, image = (rows[np.array([1])][0] for rows in (split.target, split.inputs['t1']))
        assert target.shape == shape
        assert (target == 1).any() == (name != 'train')
        high, wide = np.subtract(shape, 32) // 2
        inner = target[high : high + 32, wide : wide + 32]
        assert image[0][inner == 2] == pytest.approx(image.max())
        assert sheet(data, name, 1).ndim == 3
    assert any('slices of up to 40x46 pixels' in note for note in data.notes)


def test_what_was_found_and_what_was_left_aside_is_told(root):
    lists(root, ['p0', 'p1'], ['p3'], ['p4'])
    (root / 'p1' / 't2.nii.gz').write_bytes(b'x')
    (root / 'notes.txt').write_text('x')
    (root / '.DS_Store').write_text('x')
    notes = opened(root).notes
    assert notes[0] == (
        'found modalities flair (image 1x32x32), t1 (image 1x32x32); cases: train 2, val 1, test 1'
    )
    assert 'volumes of 4x6x7 voxels' in notes
    aside = 'left aside: .DS_Store, case p2, which is in no split, notes.txt, p1/t2.nii.gz'
    assert notes[-1] == aside


def test_what_lacks_is_told_in_one_line_for_all_splits(root):
    lists(root, ['p0', 'p1'], ['p3'], ['p4'])
    assert 'every case has every modality' in opened(root).notes
    for name in ('p1/t1', 'p3/t1', 'p4/flair'):
        (root / f'{name}.npy').unlink()
    (line,) = [note for note in opened(root).notes if note.startswith('lacking')]
    where = 't1 in 1 of 2 cases of train, t1 in 1 of 1 cases of val, flair in 1 of 1 cases of test'
    assert line == f'lacking: {where}'


def test_voxels_of_a_prepared_root_that_are_not_finite_are_told(root):
    file = root / 'p2' / 't1.npy'
    values = np.load(file)
    values[1, 2, 3] = np.nan
    np.save(file, values)
    with pytest.raises(UserError, match=r'p2/t1\.npy: expected finite numbers, found others'):
        opened(root)


@pytest.mark.parametrize('name', ['\x1b[31m', '=cmd()', '<b>'])
def test_names_of_regions_are_words(name, root):
    (root / 'regions.txt').write_text(f'{name} 1')
    with pytest.raises(UserError, match=r'regions\.txt: expected (a name of letters|printable)'):
        opened(root)


def test_labels_in_the_list_of_cases_are_those_that_a_map_can_hold(root):
    file = root / 'cases.txt'
    file.write_text(file.read_text().replace('labels=0,1', 'labels=0,-1'))
    with pytest.raises(UserError, match=r'cases\.txt, entry 1: expected CASE SLICES'):
        opened(root)


@pytest.mark.parametrize('name', ['\x1b[31m.txt', 'a\nb.nii.gz', b'\xff'])
def test_names_in_a_source_that_cannot_be_printed_are_told(name, scans, prepared):
    name = name.decode(errors='surrogateescape') if isinstance(name, bytes) else name
    (scans / 'p0' / name).write_text('x')
    assert 'in/p0: expected names of printable characters, found' in prepared()[1]


def test_a_pipe_in_the_place_of_a_volume_is_told(scans, prepared):
    file = scans / 'p0' / 't1.nii.gz'
    file.unlink()
    os.mkfifo(file)
    assert f'{file}: expected a file, found a pipe' in prepared()[1]


def test_more_than_one_array_in_a_file_is_told(tmp_path):
    file = tmp_path / 'a.npy'
    with file.open('wb') as out:
        np.save(out, np.zeros((2, 2, 2)))
        np.save(out, np.zeros((2, 2, 2)))
    with pytest.raises(UserError, match='a.npy: expected one array, found more behind it'):
        mapped(file)
