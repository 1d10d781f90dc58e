"""Tests for the recipe of users' own data."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from benchmark.engine.plan import protocol_for
from benchmark.engine.request import checked, trains
from benchmark.records import repetition
from benchmark.registry import discover
from datasets.arrays import Arrays
from datasets.common.recipe import EPOCHS, STEPS, VECTORS, recipe


@pytest.mark.parametrize('samples', [1, 2, 7, 8, 120, 1100, 4799, 4800, 4864, 10**6])
@pytest.mark.parametrize('largest', [16, 64])
def test_small_data_take_the_steps_and_large_data_the_epochs(samples, largest):
    found, _ = recipe(samples, largest)
    steps = max(1, samples // found['batch_size'])
    assert found['epochs'] * steps >= STEPS
    assert found['epochs'] >= EPOCHS
    # One epoch less would break one of the two floors.
    assert found['epochs'] == EPOCHS or (found['epochs'] - 1) * steps < STEPS
    assert 2 <= found['batch_size'] <= largest


@pytest.mark.parametrize(('modalities', 'steps'), [(1, 1500), (2, 1500), (3, 3000), (6, 7500)])
def test_vectors_of_many_modalities_take_more_steps_and_images_do_not(modalities, steps):
    found, told = recipe(1100, vectors=True, modalities=modalities)
    assert (found['epochs'] - 1) * 17 < steps <= found['epochs'] * 17
    assert f'{steps:,} steps' in told
    assert recipe(1100, modalities=modalities)[0]['epochs'] == 89


def test_a_million_samples_take_no_more_epochs_than_the_floor():
    assert recipe(10**6)[0]['epochs'] == EPOCHS


def test_the_line_says_how_long_and_why():
    _, line = recipe(1100)
    assert line.startswith('default training: 89 epochs of 17 steps (at least 20 epochs and 1,500')
    assert 'batches of 64' in line


def write(path, samples=40):
    rng = np.random.default_rng(0)
    split = np.repeat([0, 1, 2], (samples, 4, 4))
    values = rng.standard_normal((len(split), 3)) * [1, 50, 0.01] + [0, 9, -5]
    values[split > 0] += 7
    np.savez(path, **{'inputs/a': values, 'target': rng.integers(2, size=len(split)),
                      'split': split})  # fmt: skip
    return Arrays(root=str(path))


def test_users_arrays_train_by_the_recipe_and_say_so(tmp_path, capsys):
    data = write(tmp_path / 'mine.npz')
    assert (data.recipe, data.recipe_note) == recipe(40, vectors=True, modalities=1)
    checked([data], {'lr': '1'})
    assert f'mine: {data.recipe_note}\n' in capsys.readouterr().out
    assert protocol_for(data, {}, 'cpu').epochs == 375
    assert protocol_for(data, {'epochs': '3'}, 'cpu').epochs == 3


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'epochs': '3'}, '3 epochs with batches of 10 (epochs as given)'),
        ({'arrays.batch_size': '8'}, '375 epochs with batches of 8 (batch_size as given)'),
        (
            {'epochs': '9', 'arrays.epochs': '3', 'batch_size': '4'},
            '3 epochs with batches of 4 (epochs and batch_size as given)',
        ),
        ({'epochs': '1'}, '1 epoch with batches of 10 (epochs as given)'),
    ],
)
def test_what_was_typed_is_told_instead_of_the_recipe(options, told, tmp_path, capsys):
    data = write(tmp_path / 'mine.npz')
    data.spec = 'arrays'
    checked([data], options)
    out = capsys.readouterr().out
    assert f'mine: training: {told}\n' in out
    assert 'default training' not in out
    made = protocol_for(data, options, 'cpu')
    epochs, _, rest = told.partition(' ')
    assert int(epochs) == made.epochs
    assert rest.removeprefix('epoch').lstrip('s').startswith(f' with batches of {made.batch_size} ')


@pytest.mark.parametrize('given', [{}, {'ema': '0'}, {'ema': '0', 'vector_noise': '0'}])
def test_a_run_is_repeated_with_what_the_recipe_turns_on_and_the_run_had_off(given, tmp_path):
    assert {*repetition.CHOSEN['arrays']} == {*VECTORS}
    data = write(tmp_path / 'mine.npz')
    made = protocol_for(data, given, 'cpu')
    record = {
        'method': {'label': 'rfnet', 'source': 'default'},
        'dataset': {'name': 'mine', 'options': {}, 'reader': 'arrays'},
        'protocol': made.recorded(),
        'seed': 0,
    }
    words = shlex.split(repetition.command(record))
    typed = dict(word.split('=', 1) for word in words[words.index('--cfg-options') + 1 :])
    assert protocol_for(data, typed, 'cpu') == made


@pytest.mark.parametrize(
    ('methods', 'told'),
    [(['majority', 'logistic'], False), (['logistic', 'rfnet:x=1'], True), (['unknown'], True)],
)
def test_methods_that_are_fitted_have_no_epochs_to_tell(methods, told, tmp_path, capsys):
    discover()
    checked([write(tmp_path / 'mine.npz')], {}, None, trains(methods))
    assert ('default training' in capsys.readouterr().out) == told


def test_vectors_are_standardised_by_the_training_samples(tmp_path):
    data = write(tmp_path / 'mine.npz')
    train, test = (data.split(name).inputs['a'][np.arange(4)] for name in ('train', 'test'))
    whole = data.split('train').inputs['a'][np.arange(40)]
    np.testing.assert_allclose(whole.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(whole.std(0), 1, atol=1e-3)
    # The shift of the other splits stays: 7 is 7 standard deviations of the first feature.
    assert 5 < (test - train).mean(0)[0] < 11
