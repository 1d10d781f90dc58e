"""No number is rounded before it is standardised, and features that do not vary are named."""

import numpy as np
import pytest

from benchmark.errors import UserError
from datasets.arrays import Arrays
from datasets.common.io.any_image import AnyImage
from datasets.common.io.images import Scaled
from datasets.common.io.rows import Standardised, spread
from datasets.folders import Folders

N = 24
SPLIT = np.repeat([0, 1, 2], [12, 6, 6])
TARGET = np.arange(N) % 2
NAMES = ('train', 'val', 'test')


def images(root, values):
    """A folder of .npy images (N, H, W) or (N, C, H, W) of one modality, beside another one."""
    rows = ['sample,label,split']
    for k, (image, code) in enumerate(zip(values, SPLIT, strict=True)):
        for name, x in (('a', image), ('b', np.full((8, 8), k, np.uint8))):
            (root / name).mkdir(parents=True, exist_ok=True)
            np.save(root / name / f'{k:02d}.npy', x)
        rows.append(f'{k:02d},{"no" if TARGET[k] else "yes"},{NAMES[code]}')
    (root / 'labels.csv').write_text('\n'.join(rows))
    return Folders(root=str(root))


def file(root, values):
    """The same images as one array."""
    np.savez(root, target=TARGET, split=SPLIT, **{'inputs/a': values, 'inputs/b': values})
    return Arrays(root=f'{root}.npz')


def folder(root, values):
    """The same images as an array on disk."""
    (root / 'inputs').mkdir(parents=True)
    for name, x in (('inputs/a', values), ('inputs/b', values)):
        np.save(root / f'{name}.npy', x)
    np.save(root / 'target.npy', TARGET)
    np.save(root / 'split.npy', SPLIT)
    return Arrays(root=str(root))


LOADERS = pytest.mark.parametrize('opened', [images, file, folder])


def read(data, split, name='a'):
    rows = data.split(split).inputs[name]
    return rows[np.arange(len(rows))]


def drawn(*shape):
    return np.random.default_rng(1).integers(-50, 50, size=(N, *shape))


@LOADERS
@pytest.mark.parametrize('dtype', [np.float64, np.int64, np.uint64, np.int32, np.uint32])
def test_small_differences_of_large_numbers_are_kept(opened, dtype, tmp_path):
    base = 2 * 10**9 if np.dtype(dtype).itemsize == 4 else 2 * 10**11
    values = drawn(8, 8)
    data = opened(tmp_path / 'x', (values + base).astype(dtype))
    known = values[SPLIT == 0].astype(np.longdouble)
    for code, name in enumerate(NAMES):
        expected = (values[code == SPLIT] - known.mean()) / known.std()
        assert read(data, name)[:, 0] == pytest.approx(expected.astype(float), abs=1e-5)


@LOADERS
@pytest.mark.parametrize('scale', [1e-30, 1e-140])
def test_small_numbers_are_standardised_like_others(opened, scale, tmp_path):
    values = drawn(8, 8) * 1.0
    dtype = np.float32 if scale == 1e-30 else np.float64
    data = opened(tmp_path / 'x', (values * scale).astype(dtype))
    known = values[SPLIT == 0]
    expected = (values - known.mean()) / known.std()
    assert read(data, 'test')[:, 0] == pytest.approx(expected[SPLIT == 2], abs=1e-4)


@LOADERS
@pytest.mark.parametrize(('scale', 'dtype'), [(1e-170, np.float64), (1e-41, np.float32)])
def test_numbers_that_are_too_small_become_0_and_that_is_told(opened, scale, dtype, tmp_path):
    data = opened(tmp_path / 'x', (drawn(8, 8) * scale).astype(dtype))
    told = 'a: channels that do not vary in the training samples, or by no more than rounding, '
    assert any(note.startswith(f'{told}and become 0: 0') for note in data.notes)
    assert all((read(data, name) == 0).all() for name in NAMES)


@LOADERS
def test_what_is_constant_in_the_training_samples_alone_is_told(opened, tmp_path):
    values = drawn(3, 8, 8).astype(np.float32)
    values[:, 0] = 7
    values[SPLIT == 0, 2] = 0.1
    data = opened(tmp_path / 'x', values)
    told = [note for note in data.notes if note.startswith('a: channels that do not vary')]
    assert len(told) == 1
    assert told[0].endswith('become 0: 0, 2; of these, 2 vary in other splits')
    for name in NAMES:
        found = read(data, name)
        assert (found[:, [0, 2]] == 0).all()
        assert found[:, 1].std() > 0.5


def test_features_and_frames_that_are_constant_are_told_by_number(tmp_path):
    x, frames = drawn(4) * 1.0, drawn(5, 3) * 1.0
    x[SPLIT == 0, 3] = 2
    # What is constant but for the padding is constant.
    frames[:, :3, 1] = 4
    keys = {'inputs/a': x, 'inputs/b': frames, 'kind/b': 'sequence', 'length/b': np.full(N, 3)}
    np.savez(tmp_path / 'x.npz', target=TARGET, split=SPLIT, **keys)
    notes = Arrays(root=str(tmp_path / 'x.npz')).notes
    told = [note for note in notes if 'features that do not vary' in note]
    assert [note[:1] for note in told] == ['a', 'b']
    assert told[0].endswith('become 0: 3; of these, 3 vary in other splits')
    assert told[1].endswith('become 0: 1')


def test_what_varies_in_few_training_images_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr('datasets.folders.MEASURED', 1)
    values = np.zeros((N, 8, 8), np.uint8)
    values[SPLIT == 0] = np.arange(12)[:, None, None] * 20
    found = read(images(tmp_path / 'x', values), 'train')
    assert np.ptp(found[:, 0, 0, 0]) == pytest.approx(1)


@pytest.mark.parametrize('nearest', [False, True])
def test_resizing_keeps_small_differences_of_large_numbers(nearest, tmp_path):
    values = drawn(8, 8)[0]
    for name, x in (('small', values.astype(np.float32)), ('large', values + 10**15)):
        np.save(tmp_path / f'{name}.npy', x)
    small, large = (AnyImage((5, 12), nearest)(tmp_path / f'{n}.npy') for n in ('small', 'large'))
    assert large - 10**15 == pytest.approx(small, abs=0.2)
    assert small.shape == large.shape == (1, 5, 12)


def test_images_are_resized_to_the_nearest_pixel_as_by_pillow(tmp_path):
    from PIL import Image

    values = drawn(2, 9, 7)[0].astype(np.float32)
    np.save(tmp_path / 'x.npy', values)
    found = AnyImage((6, 11), True, 'channels_first')(tmp_path / 'x.npy')
    for channel, expected in zip(found, values, strict=True):
        image = Image.fromarray(expected).resize((11, 6), Image.Resampling.NEAREST)
        assert (channel == np.asarray(image)).all()


@pytest.mark.parametrize('dtype', [np.int64, np.uint64])
def test_whole_numbers_that_no_float_holds_are_refused(dtype, tmp_path):
    values = (drawn(8, 8) + 2**53 + 100).astype(dtype)
    for opened, place in ((images, 'a/00.npy'), (file, 'inputs/a'), (folder, 'inputs/a')):
        with pytest.raises(UserError, match=f'{place}: expected whole numbers up to'):
            opened(tmp_path / opened.__name__, values)


def test_statistics_of_public_data_are_applied_without_rounding():
    rows = np.array([[[[10**9 + 1, 10**9 + 2]]]])
    assert Scaled(10**9, 0.5)(rows).tolist() == [[[[2, 4]]]]
    sequences = rows[0, 0].astype(np.float64)
    found = Standardised(sequences, np.arange(1), (np.array([1e9]), np.array([0.5])))
    assert found[np.arange(1)].tolist() == [[2, 4]]
    # The constant feature of float32 is not that of float64.
    assert spread(np.array(1e9), np.array(1.0), np.float32) == np.inf
    assert spread(np.array(1e9), np.array(1.0), np.float64) == 1


def test_what_is_remembered_of_an_array_depends_on_its_layout(tmp_path, monkeypatch):
    monkeypatch.setattr('datasets.common.io.remembered.SETTLED', -1)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'x' / 'layout').mkdir(parents=True)
    values = drawn(4, 4, 4) + np.arange(4) * 100.0
    for layout, axes in (('channels_first', (0, 2, 3)), ('channels_last', (0, 1, 2))):
        for name in ('a', 'b'):
            np.save(tmp_path / 'x' / 'layout' / f'{name}.npy', np.array(layout))
        if not (tmp_path / 'x' / 'inputs').exists():
            folder(tmp_path / 'x', values)
        data = Arrays(root=str(tmp_path / 'x'))
        expected = values[SPLIT == 0].mean(axes)
        assert data.measured['a'].mean.ravel() == pytest.approx(expected)
