"""The option `train` of a user's own arrays: which samples are used, and which are never read."""

import numpy as np
import pytest

from benchmark.errors import UserError
from datasets.arrays import Arrays
from datasets.common.families.fewer import chosen

N = 200
TRAIN, VAL, TEST = 120, 40, 40


def content():
    """Two vectors and three classes of unequal size; some samples have no modality."""
    rng = np.random.default_rng(0)
    available = rng.random((N, 2)) < 0.7
    available[::5] = True
    return {
        'inputs/sound': rng.standard_normal((N, 4)),
        'inputs/text': rng.standard_normal((N, 3)) + 7,
        'available': available,
        'target': np.repeat([0, 1, 2], [N // 2, N // 4, N // 4])[rng.permutation(N)],
        'split': np.repeat([0, 1, 2], [TRAIN, VAL, TEST]),
    }


def opened(tmp_path, keys, **options):
    np.savez(tmp_path / 'mine.npz', **keys)
    return Arrays(root=str(tmp_path / 'mine.npz'), **options)


def test_each_class_keeps_its_share_and_fewer_are_among_more():
    labels = np.repeat([0, 1, 2], [600, 300, 100])[np.random.default_rng(1).permutation(1000)]
    before: set[int] = set()
    for count in (10, 37, 100, 500, 999):
        rows = chosen(labels, count)
        assert len(set(rows.tolist())) == count
        assert before < set(rows.tolist())
        assert (
            np.abs(np.bincount(labels[rows], minlength=3) - count * np.array([0.6, 0.3, 0.1])).max()
            <= 1
        )
        before = set(rows.tolist())
    assert (chosen(labels, 1000) == np.arange(1000)).all()
    # The choice is drawn, not the first ones.
    assert chosen(labels, 100).max() > 900


def test_small_classes_have_their_share_of_few_samples():
    """One class of 500, and 100 classes of 5."""
    labels = np.repeat(np.arange(101), [500] + [5] * 100)
    for count in (20, 40, 100, 400):
        large = int((labels[chosen(labels, count)] == 0).sum())
        assert abs(large - count / 2) <= 0.1 * count
    assert len(np.unique(labels[chosen(labels, 400)])) > 80


def test_whole_numbers_of_a_regression_are_drawn_at_random(tmp_path):
    keys = content()
    keys['target'] = np.random.default_rng(4).normal(50, 15, N).round().astype(int)
    few = opened(tmp_path, keys, train=40, target='regression')
    drawn = keys['target'][[int(name.removeprefix('row-')) for name in few.split('train').ids]]
    assert drawn.std() > 0.75 * keys['target'][:TRAIN].std()


def test_a_choice_of_one_class_is_refused(tmp_path):
    keys = content()
    keys['target'] = (np.arange(N) % 60 == 0).astype(int)
    with pytest.raises(UserError, match='train: expected a number of samples that holds two'):
        opened(tmp_path, keys, train=2)


def test_the_other_samples_are_never_read(tmp_path):
    keys = content()
    few = opened(tmp_path, keys, train=30)
    train = few.split('train')
    used = [int(name.removeprefix('row-')) for name in train.ids]
    assert len(used) == 30
    assert keys['available'][used].any(1).all()
    poisoned = dict(keys)
    for key in ('inputs/sound', 'inputs/text'):
        poisoned[key] = keys[key].copy()
        poisoned[key][np.setdiff1d(np.arange(TRAIN), used)] = 1e6
    again = opened(tmp_path, poisoned, train=30)
    for name in ('train', 'val', 'test'):
        one, other = few.split(name), again.split(name)
        for modality in ('sound', 'text'):
            np.testing.assert_array_equal(one.inputs[modality][:], other.inputs[modality][:])
    # Neither validation nor test is touched, and the whole set is another one.
    whole = opened(tmp_path, keys)
    for name, count in (('val', VAL), ('test', TEST)):
        assert few.split(name).ids.tolist() == whole.split(name).ids.tolist()
        assert len(few.split(name).ids) == count
    assert whole.fingerprint != few.fingerprint != opened(tmp_path, keys, train=31).fingerprint
    assert few.recipe['batch_size'] == 7


@pytest.mark.parametrize('train', [-1, 1, 121])
def test_an_impossible_number_is_one_line(tmp_path, train):
    there = int(content()['available'][:TRAIN].any(1).sum())
    told = f'from 2 to {there}, which is how many have a modality, found {train}$'
    with pytest.raises(UserError, match=told):
        opened(tmp_path, content(), train=train)


def test_classes_and_scales_are_those_of_all_and_of_the_used_samples(tmp_path):
    keys = content()
    keys['target'][:TRAIN][keys['target'][:TRAIN] == 2] = 0
    keys['target'][TRAIN:][keys['target'][TRAIN:] == 2] = 1
    keys['target'][[3, 5]] = 2  # two training samples alone are of class 2
    keys['available'][[3, 5]] = True
    few, whole = opened(tmp_path, keys, train=10), opened(tmp_path, keys)
    assert few.task.classes == whole.task.classes == ('0', '1', '2')
    assert 'no training sample is of class 2' in few.notes
    assert not [note for note in whole.notes if 'no training sample' in note]
    keys['target'] = np.random.default_rng(3).standard_normal(N)
    few = opened(tmp_path, keys, train=30, target='regression')
    used = [int(name.removeprefix('row-')) for name in few.split('train').ids]
    ((mean, std),) = few.task.scale
    assert (mean, std) == pytest.approx((keys['target'][used].mean(), keys['target'][used].std()))


def test_what_is_counted_are_the_used_samples(tmp_path):
    keys = content()
    keys['available'][:] = True
    keys['available'][: TRAIN - 60, 0] = False
    few = opened(tmp_path, keys, train=20)
    lacking = 20 - int(few.split('train').available[:, 0].sum())
    assert f'{lacking} of {20 + VAL + TEST} samples lack sound' in few.notes


def test_what_is_wrong_with_others_is_told(tmp_path):
    keys = content()
    keys['target'][0] = -1
    with pytest.raises(UserError, match='labels from 0 up'):
        opened(tmp_path, keys, train=5)
    keys = content()
    keys['available'][:] = True
    keys['inputs/sound'][:TRAIN] = np.nan
    with pytest.raises(UserError, match='finite'):
        opened(tmp_path, keys, train=5)


def test_targets_that_are_wrong_are_told_as_without_the_option(tmp_path):
    keys = content()
    keys['target'] = keys['target'][:-1]
    with pytest.raises(UserError, match='target'):
        opened(tmp_path, keys, train=30)


def test_label_maps_are_drawn_at_random(tmp_path):
    maps = np.random.default_rng(2).integers(3, size=(N, 6, 6))
    images = np.random.default_rng(5).random((N, 3, 6, 6))
    keys = {'inputs/rgb': images, 'target': maps, 'split': content()['split']}
    data = opened(tmp_path, keys, train=30)
    rows = [int(name.removeprefix('row-')) for name in data.split('train').ids]
    assert len(rows) == 30
    assert max(rows) > 60
