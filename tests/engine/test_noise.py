"""Noise on vectors in training, and that users' vectors have it by default."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmark.engine import execution, noise, plan
from benchmark.engine.building import Machine, loaders
from benchmark.engine.loading import Samples
from benchmark.errors import UserError
from benchmark.method import Preprocessor
from benchmark.registry import discover
from datasets.arrays import Arrays
from datasets.common.recipe import VECTORS
from tests.helpers.tasks import TASKS, Toy, batch_of

discover()


def samples(kind='vectors', available=None, augment=None):
    data = Toy(TASKS[kind], (16, 8, 8))
    split = dataclasses.replace(data.split('train'), augment=augment)
    given = np.ones((16, len(data.task.names)), bool) if available is None else available
    return Samples(split, data.task, given)


def test_on_average_over_the_noise_a_linear_fit_is_penalised_as_by_ridge_regression():
    """Of squared errors, n samples and the variance f D / n: the factor is f D."""
    rng, n, d, field = np.random.default_rng(0), 40, 6, 1.5
    x, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    ridge = np.linalg.solve(x.T @ x + field * d * np.eye(d), x.T @ y)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    copies = 4000
    deviation = np.sqrt(noise.variance(field, d, n))
    task = dataclasses.replace(TASKS['vectors'], modalities=TASKS['vectors'].modalities[:1])
    one = batch_of(task, 1)._replace(inputs={'a': torch.from_numpy(np.tile(x, (copies, 1)))})
    noisy = noise.Noise({'a': deviation})(one).inputs['a'].numpy()
    fitted = np.linalg.lstsq(noisy, np.tile(y, copies), rcond=None)[0]
    np.testing.assert_allclose(fitted, ridge, atol=5e-3)
    assert np.abs(plain - ridge).max() > 0.02


def test_the_noise_of_a_vector_follows_from_its_features_and_the_samples_that_have_it():
    available = np.ones((16, 2), bool)
    available[:8, 1] = False  # a has 6 features and 16 samples, b has 3 and 8
    added = noise.augmentation(samples(available=available), 0.5)
    zeros = batch_of(TASKS['vectors'], 4)._replace(
        inputs={'a': torch.zeros(9000, 6), 'b': torch.zeros(9000, 3)}
    )
    drawn = {name: x.double() for name, x in added(zeros).inputs.items()}
    for x in drawn.values():
        assert x.mean(0).abs().max() < 0.02
        np.testing.assert_allclose(torch.cov(x.T), 3 / 16 * np.eye(x.shape[1]), atol=0.02)


@pytest.mark.parametrize(
    ('field', 'n', 'expected'), [(1, 6, 1), (1, 5, 1), (1, 7, 6 / 7), (9, 0, 1)]
)
def test_noise_is_never_greater_than_the_features_themselves(field, n, expected):
    assert noise.variance(field, 6, n) == pytest.approx(expected)


def test_images_and_sequences_have_none():
    given = batch_of(TASKS['mixed'], 4)
    added = noise.augmentation(samples('mixed'), 1.0)(given)
    assert torch.equal(added.inputs['image'], given.inputs['image'])
    assert torch.equal(added.inputs['sound'], given.inputs['sound'])
    assert not torch.isclose(added.inputs['text'], given.inputs['text']).any()


def test_without_noise_and_without_vectors_training_does_what_the_data_set_says():
    def own(batch):
        return batch

    assert noise.augmentation(samples(augment=own), 0.0) is own
    assert noise.augmentation(samples('faces', augment=own), 1.0) is own
    assert noise.augmentation(samples(augment=own), 1.0).first is own


def test_absent_modalities_stay_zero_and_tests_have_no_noise():
    prepare = Preprocessor()
    prepare.augment = noise.augmentation(samples(), 1.0)
    given = batch_of(TASKS['vectors'], 6)
    given.available[2:, 0] = False
    noisy, plain = prepare(given, training=True), prepare(given, training=False)
    assert (noisy.inputs['a'][2:] == 0).all()
    assert (noisy.inputs['a'][:2] != given.inputs['a'][:2]).all()
    for name, x in plain.inputs.items():
        assert torch.equal(x, given.inputs[name])


def experiment(results, kind='vectors', **fields):
    data = Toy(TASKS[kind], (16, 8, 8))
    request = plan.Request(['modality_dropout'], (0,), {'epochs': '1', **fields}, results, 'cpu')
    (e,) = plan.experiments(request, [data])
    return e


def test_records_hold_noise_and_only_where_there_is_some(tmp_path):
    without, zero = experiment(tmp_path), experiment(tmp_path, vector_noise='0')
    e = experiment(tmp_path, vector_noise='0.5', rates='b=0.5')
    assert 'vector_noise' not in without.header['protocol']
    assert zero.folder == without.folder
    record = execution.run(e, Machine('cpu'), lambda *_: None)
    assert record['protocol']['vector_noise'] == 0.5
    assert e.folder != experiment(tmp_path, rates='b=0.5').folder
    # Half of the samples have b, so that its noise is that of twice the features.
    train = loaders(e, e.parts[0], Machine('cpu'))[0].dataset
    found = noise.augmentation(train, 0.5).deviations
    assert {m: s**2 for m, s in found.items()} == pytest.approx({'a': 3 / 16, 'b': 3 / 16})


def test_noise_on_images_alone_is_refused(tmp_path):
    told = 'vector_noise=1 on toy: expected vectors among the modalities, found images alone'
    with pytest.raises(UserError, match=told):
        experiment(tmp_path, 'faces', vector_noise='1').check()
    with pytest.raises(
        UserError, match='vector_noise: expected 0 .off. or a positive number, found -1'
    ):
        experiment(tmp_path, vector_noise='-1')


@pytest.mark.parametrize(('shape', 'expected'), [((3,), VECTORS), ((8, 8), {})])
def test_users_vectors_have_noise_and_an_average_and_images_do_not(shape, expected, tmp_path):
    rng, split = np.random.default_rng(0), np.repeat([0, 1, 2], (8, 4, 4))
    arrays = {'inputs/a': rng.standard_normal((16, *shape)), 'target': np.tile([0, 1], 8)}
    np.savez(tmp_path / 'mine.npz', **arrays, split=split)
    recipe = Arrays(root=str(tmp_path / 'mine.npz')).recipe
    assert {k: v for k, v in recipe.items() if k in VECTORS} == expected
