"""What users' arrays may hold: the right reading, or one line that says what is wrong."""

import io
import json
import zipfile

import numpy as np
import pytest

from benchmark import run
from benchmark.dataset import Intake
from benchmark.engine import plan
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets.arrays import Arrays
from datasets.common.io import remembered, stored

discover()
N = 30
SPLIT = np.repeat([0, 1, 2], [18, 6, 6])
RNG = np.random.default_rng(0)
TARGET = np.arange(N) % 2
A, B = RNG.normal(size=(2, N, 4)) + TARGET[:, None]


def keys(**changes):
    """The keys of two vectors and two classes; a change of None leaves a key out."""
    found = {'inputs/a': A, 'inputs/b': B, 'target': TARGET, 'split': SPLIT}
    found |= {key.replace('__', '/'): x for key, x in changes.items()}
    return {key: x for key, x in found.items() if x is not None}


def write(root, how='file', **changes):
    """Writes the keys into one file or into a folder."""
    if how == 'file':
        np.savez(root.with_suffix('.npz'), **keys(**changes))
        return root.with_suffix('.npz')
    for key, x in keys(**changes).items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f'{key}.npy', x)
    return root


def told(match, root, **options):
    """Checks that the data are refused in one line."""
    with pytest.raises(UserError, match=match) as caught:
        Arrays(root=str(root), **options)
    assert '\n' not in str(caught.value)


HOW = pytest.mark.parametrize('how', ['file', 'folder'])


def maps(how, tmp_path, target, **options):
    images = RNG.integers(99, size=(N, 8, 6)).astype(np.uint8)
    root = write(tmp_path / 'maps', how, inputs__a=images, inputs__b=images + 1, target=target)
    return Arrays(root=str(root), **options)


@HOW
def test_masks_of_0_and_255_are_refused_unless_they_are_said_to_be_binary(how, tmp_path):
    mask = RNG.integers(2, size=(N, 8, 6)).astype(np.uint8)
    with pytest.raises(UserError, match=r'target: expected training labels.*binary=true'):
        maps(how, tmp_path, mask * 255)
    data = maps(how, tmp_path, mask * 255, binary=True)
    assert data.task.classes == ('0', '1')
    split = data.split('val')
    assert (split.target[np.arange(6)] == mask[SPLIT == 1]).all()
    with pytest.raises(UserError, match='target: expected 0 and 255 alone with binary=true'):
        maps(how, tmp_path, mask, binary=True)
    told('expected label maps with binary=true', write(tmp_path / 'x', how), binary=True)


@HOW
def test_a_split_without_labels_is_refused_and_unlabelled_images_are_not(how, tmp_path):
    labels = RNG.integers(2, size=(N, 8, 6)).astype(np.uint8)
    some = labels.copy()
    some[[0, 1, 20, 25]] = 255
    maps(how, tmp_path, some)
    for code, name in enumerate(('train', 'val', 'test')):
        none = np.where((code == SPLIT)[:, None, None], 255, labels)
        with pytest.raises(UserError, match=f'expected some labelled pixel in {name}, found 255'):
            maps(how, tmp_path, none)


@HOW
@pytest.mark.parametrize('target', [TARGET * 0, TARGET * 0 + 3, np.where(SPLIT, TARGET, 0)])
def test_training_needs_two_classes(how, target, tmp_path):
    told('target: expected training labels of 2 classes', write(tmp_path / 'x', how, target=target))


@pytest.mark.parametrize(
    ('shape', 'found'),
    [
        ((20, 24, 3), (3, 20, 24)),
        ((3, 20, 24), (3, 20, 24)),
        ((5, 5, 3), (3, 5, 5)),
        ((2, 5, 5), (2, 5, 5)),
        ((64, 64, 12), (12, 64, 64)),
        ((11, 11, 30), None),
        ((30, 11, 11), None),
        ((64, 32, 16), None),
        ((4, 4, 4), None),
    ],
)
def test_channels_are_where_the_shape_leaves_no_doubt(shape, found, tmp_path):
    x = RNG.normal(size=(N, *shape)).astype(np.float32)
    if found:
        root = write(tmp_path / 'x', inputs__a=x)
        assert Arrays(root=str(root)).task.modalities[0].shape == found
        return
    told('inputs/a: expected a key layout/a that says', write(tmp_path / 'x', inputs__a=x))
    for layout, expected in (('channels_first', x), ('channels_last', x.transpose(0, 3, 1, 2))):
        root = write(tmp_path / 'x', inputs__a=x, layout__a=np.array(layout))
        data = Arrays(root=str(root))
        assert data.task.modalities[0].shape == expected.shape[1:]
        assert np.array_equal(data.inputs['a'].values, expected)


def test_a_layout_that_means_nothing_is_told(tmp_path):
    def layout(text, key='a', **more):
        return write(tmp_path / 'x', **{f'layout__{key}': np.array(text)}, **more)

    told('layout/a: expected an image of 4 axes', layout('channels_last'))
    told("layout/c: unknown modality 'c'", layout('channels_last', 'c'))
    image = np.zeros((N, 4, 4, 4))
    told('layout/a: expected one of channels_first', layout('last', inputs__a=image))


@HOW
def test_a_constant_feature_stays_small(how, tmp_path):
    x = A.astype(np.float32)
    x[:, 1] = 0.1
    x[:, 2] = 3e8 + RNG.integers(2, size=N) * 1e-3  # float32 cannot tell these apart
    data = Arrays(root=str(write(tmp_path / 'x', how, inputs__a=x)))
    values = data.split('train').inputs['a'][np.arange(18)]
    assert np.abs(values[:, 1:3]).max() < 1e-3
    assert values[:, 0].std() == pytest.approx(1, abs=1e-3)


@HOW
def test_chosen_modalities_alone_are_read(how, tmp_path):
    available = np.ones((N, 2), bool)
    available[3, 1] = False
    root = write(tmp_path / 'x', how, available=available)
    data = Arrays(root=str(root), modalities='b')
    assert data.task.names == ('b',)
    assert data.available[:, 0].tolist() == available[:, 1].tolist()
    assert data.notes == (
        'found modalities b (vector 4); samples: train 18, val 6, test 6',
        '1 sample has no modality at all and is neither trained nor tested',
        'left aside: inputs/a',
    )
    assert data.fingerprint != Arrays(root=str(root)).fingerprint
    told("unknown modality in .*'c'", root, modalities='b+c')


@HOW
def test_copies_of_training_samples_are_reported_or_refused(how, tmp_path):
    a, b = A.copy(), B.copy()
    a[20], b[20] = a[2], b[2]
    a[27] = a[3]  # one modality is no copy
    root = write(tmp_path / 'x', how, inputs__a=a, inputs__b=b)
    expected = '1 of 6 samples of val are copies of training samples: row-20 (train: row-2)'
    assert Arrays(root=str(root)).notes[1:] == (expected,)
    told('duplicates=refuse: expected no copies, found 1 of 6', root, duplicates='refuse')


def test_the_clusters_of_samples_are_theirs(tmp_path):
    names = np.array([f'p{k // 3}' for k in range(N)])
    split = Arrays(root=str(write(tmp_path / 'x', cluster=names))).split('test')
    assert split.clusters.tolist() == names[SPLIT == 2].tolist()
    told(r'cluster: expected names.*\(30,\)', write(tmp_path / 'y', cluster=names[1:]))


def test_every_row_of_a_folder_counts_for_its_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, 'SETTLED', 0)
    rows = RNG.normal(size=(N, 50))
    root = write(tmp_path / 'x', 'folder', inputs__a=rows)
    before = Arrays(root=str(root)).fingerprint
    for row in (0, 13, N - 1):
        corrected = np.load(root / 'inputs/a.npy', mmap_mode='r+')
        corrected[row, 49] += 1
        corrected.flush()
        after = Arrays(root=str(root)).fingerprint
        assert after != before
        before = after


@pytest.mark.parametrize(
    'name', ['mean', 'Worst', 'expected', 'missing_0', 'ceiling', 'seeds', 'rgb_std', 'a b', '<b>',
             '=1+1', 'a\x1b[31m', 'a\nb', '-a', 'train', 'x' * 70]
)  # fmt: skip
def test_modalities_have_names_that_tables_can_bear(name, tmp_path):
    file = tmp_path / 'x.npz'
    buffer = io.BytesIO()
    np.save(buffer, A)
    np.savez(file, target=TARGET, split=SPLIT)
    with zipfile.ZipFile(file, 'a') as archive:
        archive.writestr(f'inputs/{name}.npy', buffer.getvalue())
    told('modality: expected', file)


@pytest.mark.parametrize(
    'name', ['', ' ', '=SUM(1)', '<script>x', 'a\x1b[31m', 'a\nb', 'x' * 70, 'b']
)
def test_classes_have_names_that_tables_can_bear(name, tmp_path):
    told('class', write(tmp_path / 'x', classes=np.array(['b', name])))


@pytest.mark.parametrize('name', ['a & b_100%$#{x}~^', 'глубина', 'name with space', '<5'])
def test_odd_names_are_names_all_the_same(name, tmp_path):
    data = Arrays(root=str(write(tmp_path / 'x', classes=np.array(['b', name]))), name=name)
    assert data.task.classes[1] == data.task.dataset == name


@pytest.mark.parametrize('name', ['.', '..', '.hidden', 'a/b', 'x' * 300, 'a\nb', 'mine-gaps'])
def test_a_name_never_leads_elsewhere(name, tmp_path):
    told('name of the data set: expected', write(tmp_path / 'x'), name=name)


def test_a_file_that_is_called_by_a_dot_gives_no_name(tmp_path):
    np.savez(tmp_path / '..npz', **keys())
    told(r"name of the data set: expected .*found '\.'", tmp_path / '..npz')


@pytest.mark.parametrize('name', ['casia_surf', 'nyuv2'])
def test_a_file_called_like_a_registered_data_set_is_not_taken_for_it(name, tmp_path):
    file = write(tmp_path / name)
    with pytest.raises(UserError, match=f"'{name}' is that of a registered.*name=my_{name}"):
        plan.open_datasets(['arrays'], [file], {})
    (data,) = plan.open_datasets([f'arrays:name=my_{name}'], [file], {})
    assert data.name == f'my_{name}'


def test_what_was_found_is_printed_when_the_data_are_opened(tmp_path, capsys):
    words = [
        '--methods',
        'modality_dropout',
        '--datasets',
        'arrays',
        '--dry-run',
        '--device',
        'cpu',
    ]
    words += ['--data-root', str(write(tmp_path / 'mine')), '--results', str(tmp_path / 'results')]
    assert run.main(words) == 0
    expected = (
        'mine: found modalities a (vector 4), b (vector 4); samples: train 18, val 6, test 6\n'
    )
    assert capsys.readouterr().out.startswith(expected)


def test_many_modalities_are_refused_in_one_line(tmp_path):
    more = {f'inputs__s{k:02d}': A for k in range(31)}
    told('expected 1 to 32 modalities.*found 33', write(tmp_path / 'x', **more))


def archive(file, *members):
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as out:
        for name, content in members:
            out.writestr(name, content)
    return file


def header(shape):
    """The beginning of an .npy file that declares float64 of this shape."""
    buffer = io.BytesIO()
    content = {'descr': '<f8', 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_2_0(buffer, content)
    return buffer.getvalue()


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_sizes_that_a_file_declares_are_checked_before_memory_is_taken(tmp_path, monkeypatch):
    file = tmp_path / 'x.npz'
    told(r'target: expected float64 \(5000000000000,\).*found', archive(
        file, ('target.npy', header((5 * 10**12,)) + bytes(80))
    ))  # fmt: skip
    told('target: expected one array of this key, found two', archive(
        file, ('target.npy', header((1,))), ('target.npy', header((2,)))
    ))  # fmt: skip
    monkeypatch.setattr(stored, 'memory', lambda: 10**6)
    told('expected less than half of the memory', archive(
        file, ('target.npy', header((10**6,)) + bytes(8 * 10**6))
    ))  # fmt: skip
    folder = write(tmp_path / 'folder', 'folder')
    (folder / 'inputs/a.npy').write_bytes(header((5 * 10**12,)) + bytes(80))
    told(r'inputs/a\.npy: cannot be read', folder)


def test_keys_and_files_that_are_not_read_are_named(tmp_path):
    extra = {'ids': np.arange(N), 'patient/age': np.arange(N)}
    assert Arrays(root=str(write(tmp_path / 'x', **extra))).notes[-1] == (
        'left aside: ids, patient/age'
    )
    root = write(tmp_path / 'y', 'folder')
    (root / 'README.md').write_text('x')
    (root / 'inputs/Thumbs.db').write_text('x')
    notes = Arrays(root=str(root)).notes
    assert notes[-1] == 'left aside: README.md, inputs/Thumbs.db'


@HOW
@pytest.mark.parametrize(
    ('keys', 'match'),
    [
        ({'target': np.arange(N) % 2 - 1}, 'target: expected labels from 0 up, found -1'),
        ({'target': np.arange(N) * 9000}, 'target: expected at most 65535 classes, found'),
        (
            {'target': np.arange(N) % 2, 'classes': np.arange(70000).astype(str)},
            'target: expected at most 65535 classes, found 70000',
        ),
        (
            {'target': np.arange(N, dtype=np.uint64) % 2 + np.uint64(2**63)},
            'target: expected at most 65535 classes',
        ),
        ({'classes': np.array([b'a', b'\xff'])}, "classes: expected text in UTF-8, found b'.xff'"),
        ({'cluster': np.array(['a', ''] * (N // 2))}, "cluster: expected printable.*'' in row 1"),
        (
            {'cluster': np.array(['a\x1b[31m'] * N)},
            r"cluster: expected printable names, found 'a\\x1b\[31m' in row 0",
        ),
        (
            {'inputs/a': np.arange(2 * N).reshape(N, 2) + 2**60},
            'inputs/a: expected whole numbers up to 9007199254740992.* found others in row 0',
        ),
        (
            {'inputs/a': np.full((N, 2), 2**64 - 1, np.uint64)},
            'inputs/a: expected whole numbers up to',
        ),
        ({'inputs/a': A * 1e300}, 'inputs/a: expected finite numbers of float32.*in row 0'),
        (
            {'inputs/a': np.zeros((N, 50, 4))},
            'inputs/a: expected a key kind/a that says sequence or image.*leaves it open',
        ),
        (
            {'available': (SPLIT != 1)[:, None] & np.ones((N, 2), bool)},
            'available: expected some sample of val with a modality, found none',
        ),
        (
            {
                'available': ((SPLIT != 0) | (np.arange(N) % 2 == 0))[:, None]
                & np.ones((N, 2), bool)
            },
            'target: expected training labels of 2 classes or more, found 0 alone',
        ),
    ],
)
def test_odd_content_is_told_in_one_line(how, keys, match, tmp_path):
    told(match, write(tmp_path / 'x', how, **{'target': np.arange(N) % 2, **keys}))


def test_classes_that_no_training_sample_has_are_named(tmp_path):
    def note(target, **more):
        return Arrays(root=str(write(tmp_path / 'x', target=target, **more))).notes[1:]

    labels = np.arange(N) % 2
    assert note(labels) == ()
    assert note(labels + 1) == (
        'no training sample is of class 0; labels count from 0, and no split has class 0',
    )
    assert note(np.where(SPLIT == 0, labels + 1, labels))[0] == 'no training sample is of class 0'
    assert note(np.where(SPLIT == 2, labels + 2, labels)) == (
        'no training sample is of class 2, 3',
    )
    assert note(labels, classes=np.array(['a', 'b', 'c'])) == ('no training sample is of class c',)
    told = 'whoever always answers this class gets the best score there'
    assert note(np.where(SPLIT == 2, 1, labels)) == (f'all labels of test are of class 1: {told}',)


@HOW
def test_an_outlier_that_float32_cannot_hold_is_told_where_it_is_read(how, tmp_path):
    a = A.astype(float) * 1e-3
    a[N - 1] = 3e38
    data = Arrays(root=str(write(tmp_path / 'x', how, inputs__a=a)))
    with pytest.raises(UserError, match=f'inputs/a: expected finite numbers, .*row {N - 1}'):
        data.split('test').inputs['a'][np.array([5])]


@HOW
def test_types_of_numbers_do_not_change_what_is_read(how, tmp_path):
    image = np.random.default_rng(5).normal(size=(N, 3, 9, 9))
    image = image.astype(np.float16)
    target = np.arange(N) % 2

    def read(values, labels):
        keys = {'inputs__a': values, 'target': labels, 'split': SPLIT.astype(labels.dtype)}
        split = Arrays(root=str(write(tmp_path / 'x', how, **keys))).split('test')
        return split.inputs['a'][np.arange(6)], np.asarray(split.target)

    first, labels = read(image, target)
    for kind in ('<f4', '>f4', '>f8', 'g'):
        for order in 'CF':
            found, other = read(np.array(image, kind, order=order), target.astype('>i2'))
            assert found == pytest.approx(first, abs=1e-6)
            assert found.dtype == np.float32
            assert other.tolist() == labels.tolist()


def test_what_lies_behind_an_array_in_its_file_is_no_longer_lost(tmp_path):
    root = write(tmp_path / 'x', 'folder')
    with (root / 'target.npy').open('ab') as file:
        np.save(file, np.arange(3))
    told('target.npy: expected one array, found 152 more bytes behind it', root)


@HOW
def test_narrow_images_beside_label_maps_need_no_kind(how, tmp_path):
    target = RNG.integers(2, size=(N, 2, 40)).astype(np.uint8)
    keys = {'inputs__a': RNG.normal(size=(N, 2, 40)), 'inputs__b': None, 'target': target}
    data = Arrays(root=str(write(tmp_path / 'x', how, **keys)))
    assert data.task.modalities[0].shape == (1, 2, 40)


def intake_of(data, *without):
    """What a network that was trained on the data takes in, as `model.json` keeps it."""
    known = json.loads(json.dumps(data.preparation(data.split('val'))))
    kept = {m: {k: v for k, v in facts.items() if k not in without} for m, facts in known.items()}
    return Intake(data.task, {}, kept)


CUBES = RNG.normal(size=(N, 5, 5, 5)) + np.arange(5)
"""Images whose shape does not tell which axis holds the channels."""
OTHERS = {
    'channels_first': ('channels_last', (0, 2, 3, 1)),
    'channels_last': ('channels_first', (0, 3, 1, 2)),
}
"""Layout -> the other one, and the axes that lead there."""


@HOW
@pytest.mark.parametrize('layout', ['channels_first', 'channels_last'])
def test_new_arrays_are_laid_out_as_those_of_the_training(how, layout, tmp_path):
    data = Arrays(root=str(write(tmp_path / 'a', how, inputs__b=CUBES, layout__b=np.array(layout))))
    new = write(tmp_path / 'new', how, inputs__b=CUBES)
    every = np.arange(len(data.split('test')))
    expected = data.split('test').inputs['b'][every]
    found = Arrays.unseen(new, intake_of(data), True, 'test')
    np.testing.assert_array_equal(found.split.inputs['b'][every], expected)
    # What the user says of the new array counts more than the training.
    turned, axes = OTHERS[layout]
    values, key = CUBES.transpose(axes), np.array(turned)
    other = write(tmp_path / 'other', how, inputs__b=values, layout__b=key)
    found = Arrays.unseen(other, intake_of(data), True, 'test')
    np.testing.assert_array_equal(found.split.inputs['b'][every], expected)
    with pytest.raises(UserError, match='inputs/b: expected a key layout/b that says channels_'):
        Arrays.unseen(new, intake_of(data, 'layout'), True, 'test')


@HOW
def test_new_images_hold_numbers_as_in_the_training(how, tmp_path):
    images = RNG.integers(255, size=(N, 3, 8, 8)).astype(np.uint8)
    data = Arrays(root=str(write(tmp_path / 'a', how, inputs__b=images)))
    for values, numbers in (
        (images / 255, 'floating-point numbers'),
        (images * np.uint16(257), 'whole numbers of 16 bits'),
    ):
        new = write(tmp_path / numbers[:3], how, inputs__b=values)
        expected = f'inputs/b: expected whole numbers of 8 bits as in the training, found {numbers}'
        with pytest.raises(UserError, match=expected):
            Arrays.unseen(new, intake_of(data), False, 'test')
        note, _ = Arrays.unseen(new, intake_of(data, 'numbers'), False, 'test').notes
        assert note.endswith(f'those of the new ones are not compared: b {numbers}')


@HOW
def test_classes_in_bytes_are_those_of_the_training(how, tmp_path):
    given = write(tmp_path / 'a', how, classes=np.array([b'cat', 'öde'.encode()]))
    data = Arrays(root=str(given))
    found = Arrays.unseen(given, intake_of(data), True, 'test')
    np.testing.assert_array_equal(found.split.target[np.arange(6)], TARGET[SPLIT == 2])
    other = write(tmp_path / 'b', how, classes=np.array([b'dog', b'cat']))
    expected = 'classes: expected cat, öde as in the training, found dog, cat'
    with pytest.raises(UserError, match=expected):
        Arrays.unseen(other, intake_of(data), True, 'test')
    spoiled = write(tmp_path / 'c', how, classes=np.array([b'cat', b'\xff']))
    with pytest.raises(UserError, match='classes: expected text in UTF-8, found'):
        Arrays.unseen(spoiled, intake_of(data), True, 'test')
