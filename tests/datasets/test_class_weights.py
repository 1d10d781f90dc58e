"""`class_weights` of a user's own data: counted over training labels, as scikit-learn does."""

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from benchmark.engine.plan import open_datasets
from benchmark.errors import UserError
from benchmark.registry import discover, parse_spec
from datasets.common.class_weights import balanced

discover()


def vectors(tmp_path, target, split, **keys):
    file = tmp_path / 'mine.npz'
    rows = np.random.default_rng(0).random((len(target), 3), np.float32)
    np.savez(file, **{'inputs/a': rows, 'target': target, 'split': split, **keys})
    return file


def opened(file, *specs, **options):
    return open_datasets(specs or ['arrays'], [file], options)[0]


@pytest.fixture
def uneven(tmp_path):
    """Classes of other frequencies in each split."""
    target = np.r_[np.zeros(14, int), np.ones(3, int), np.full(5, 2), [0, 1, 2] * 6]
    split = np.r_[np.zeros(22, int), np.repeat([1, 2], 9)]
    return vectors(tmp_path, target, split), target[:22]


def test_balanced_weights_are_those_of_scikit_learn_over_the_training_split(uneven):
    file, train = uneven
    expected = compute_class_weight('balanced', classes=np.arange(3), y=train)
    found = opened(file, class_weights='balanced')
    assert found.task.class_weights == pytest.approx(expected)
    assert opened(file).task.class_weights == ()


def test_a_class_without_training_sample_and_samples_without_modality_do_not_count(tmp_path):
    target, split = np.array([0, 0, 2, 2, 2, 0, 2, 1, 0]), np.array([0] * 5 + [1, 1, 2, 2])
    available = np.ones((9, 1), bool)
    available[4] = False
    found = opened(vectors(tmp_path, target, split, available=available), class_weights='balanced')
    expected = compute_class_weight('balanced', classes=np.array([0, 2]), y=target[:4])
    assert found.task.class_weights == pytest.approx((expected[0], 1.0, expected[1]))


def test_pixels_are_counted_where_they_are_labelled(tmp_path):
    rng = np.random.default_rng(1)
    target = rng.choice([0, 1, 255], (9, 8, 8), p=[0.7, 0.2, 0.1])
    file, split = tmp_path / 'maps.npz', np.arange(9) % 3
    np.savez(file, **{'inputs/a': rng.random((9, 1, 8, 8)), 'target': target, 'split': split})
    train = target[split == 0]
    expected = compute_class_weight('balanced', classes=np.arange(2), y=train[train < 255])
    assert opened(file, class_weights='balanced').task.class_weights == pytest.approx(expected)


@pytest.mark.parametrize('dense', [False, True])
def test_folders_have_the_same_option(dense, tmp_path):
    rng = np.random.default_rng(2)
    samples = [f'{name}/{k}' for name in ('train', 'val', 'test') for k in range(4)]
    labels = {s: rng.integers(0, 2, (8, 8), np.uint8) | (k < 2) for k, s in enumerate(samples)}
    for folder in ('a', 'labels') if dense else ('a',):
        for sample in samples:
            (tmp_path / folder / sample).parent.mkdir(parents=True, exist_ok=True)
            pixels = (
                labels[sample] if folder == 'labels' else rng.integers(0, 255, (8, 8), np.uint8)
            )
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f'{sample}.png')
    train = np.concatenate([labels[s].ravel() for s in samples[:4]])
    if not dense:
        train = np.array([1, 0, 0, 0])
        rows = [f'{s},{"n" if k % 4 == 0 else "m"}\n' for k, s in enumerate(samples)]
        (tmp_path / 'labels.csv').write_text('sample,label\n' + ''.join(rows))
    expected = compute_class_weight('balanced', classes=np.arange(2), y=train)
    found = opened(tmp_path, 'folders', class_weights='balanced')
    assert found.task.class_weights == pytest.approx(expected)
    plain = opened(tmp_path, 'folders')
    assert plain.fingerprint != found.fingerprint
    assert 'class_weights' not in plain.options


def test_numbers_may_be_separated_by_commas_or_slashes(uneven):
    file, _ = uneven
    specs = ['arrays:class_weights=1,2.5,3', 'arrays:class_weights=1/2.5/3,width=16']
    found = [opened(file, spec) for spec in specs]
    found.append(opened(file, class_weights='1,2.50,3'))
    assert {data.task.class_weights for data in found} == {(1.0, 2.5, 3.0)}
    assert len({data.fingerprint for data in found}) == 1
    assert len({str(data.options) for data in found}) == 1


def test_weights_are_part_of_the_identity_and_their_absence_is_not(uneven):
    file, _ = uneven
    plain, weighted = opened(file), opened(file, class_weights='balanced')
    assert 'class_weights' not in plain.options
    assert weighted.options == {**plain.options, 'class_weights': 'balanced'}
    assert plain.fingerprint != weighted.fingerprint


@pytest.mark.parametrize(
    ('given', 'told'),
    [
        ('1,2', 'class_weights: expected balanced or 3 numbers, one for each class, found 2'),
        ('1,0,2', 'class_weights: expected positive numbers, found 0'),
        ('balance', "expected a number, found 'balance'; did you mean 'balanced'?"),
    ],
)
def test_other_weights_are_refused_in_one_line(given, told, uneven):
    with pytest.raises(UserError) as error:
        opened(uneven[0], class_weights=given)
    assert str(error.value).endswith(told)


def test_a_comma_before_a_name_separates_options():
    assert parse_spec('x:a=1,2,b=3') == ('x', {'a': '1/2', 'b': '3'})
    with pytest.raises(UserError, match='found .beta.'):
        parse_spec('x:a=1,beta')


def test_equal_counts_have_the_weight_one():
    assert balanced(np.array([4, 4, 4])) == (1.0, 1.0, 1.0)
