"""A trained network in a program: from the folder of a run to probabilities of new samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_runs import arrays, trained

from benchmark.deploy import load
from benchmark.engine import prediction, state
from benchmark.errors import UserError
from benchmark.missing import subset_masks
from benchmark.records import store


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('deploy')
    np.savez(folder / 'mine.npz', **arrays())
    found = trained(folder, 'mine.npz', 'arrays', 'hemis', 'logistic')
    options = ['modalities=gait+scan']
    return found | trained(folder, 'mine.npz', 'arrays', 'customized', options=options)


def expected(folder, subset):
    """Probabilities of the test samples that the run's outcomes hold, computed from its logits."""
    logits = store.read_outcomes(folder / store.OUTCOMES)[f'logit/{subset}'].astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def raw_test():
    """The test samples as a user has them: neither normalised nor padded."""
    given = arrays()
    rows = np.flatnonzero(given['split'] == 2)
    found = {m: given[f'inputs/{m}'][rows] for m in ('rgb', 'gait', 'scan')}
    return found, given['length/gait'][rows]


@pytest.mark.parametrize('method', ['hemis', 'customized', 'logistic'])
def test_probabilities_are_those_of_the_run_on_every_subset(runs, method):
    model, (raw, lengths) = load(runs[method]), raw_test()
    assert model.classes == ('cat', 'dog', 'hen')
    for mask in subset_masks(len(model.names)):
        names = [m for m, there in zip(model.names, mask, strict=True) if there]
        found = []
        for k, length in enumerate(lengths):
            sample = {m: raw[m][k] if m in names else None for m in model.names}
            if 'gait' in names:
                sample['gait'] = sample['gait'][:length]  # shorter than in the training: padded
            found.append(model(sample))
        # Outcomes keep logits as float16.
        np.testing.assert_allclose(found, expected(runs[method], '+'.join(names)), atol=2e-3)


def test_a_network_for_every_subset_is_scored_as_in_the_record(runs):
    run = runs['customized']
    model, data = load(run), run.parents[5] / 'mine.npz'
    unseen = prediction.opened(model.card, prediction.Request(data, '', (), 0), True)
    found = prediction.evaluate(model, unseen.split, 0)
    record = store.read(run / store.RECORD)
    assert {s: score.metrics for s, score in found.items()} == record['scores']['test']


def test_a_batch_gives_what_its_samples_give_and_a_mask_hides_any_value(runs):
    model, (raw, _) = load(runs['hemis']), raw_test()
    pair = {'rgb': raw['rgb'], 'scan': raw['scan']}
    both = model(pair)
    np.testing.assert_allclose(both[3], model({m: x[3] for m, x in pair.items()}), atol=1e-5)
    spoiled = {**pair, 'rgb': raw['rgb'].copy()}
    spoiled['rgb'][::2] = np.nan
    mask = np.ones((len(both), 3), bool)
    mask[::2, model.names.index('rgb')] = False
    found = model(spoiled, mask)
    np.testing.assert_allclose(found[1::2], both[1::2], atol=1e-5)
    np.testing.assert_allclose(found[::2], model({'scan': raw['scan']})[::2], atol=1e-5)


def test_tensors_give_tensors_and_arrays_give_arrays(runs):
    model, (raw, _) = load(runs['hemis']), raw_test()
    array = model({'scan': raw['scan']})
    tensor = model({'scan': torch.from_numpy(raw['scan']), 'rgb': None})
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert not tensor.requires_grad
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_prepared_values_are_not_normalised_again(runs):
    model, (raw, _) = load(runs['hemis']), raw_test()
    given = arrays()
    train = given['inputs/scan'][given['split'] == 0]
    ready = (raw['scan'] - train.mean(0)) / train.std(0)
    found = model({'scan': ready}, prepared=True)
    np.testing.assert_allclose(found, model({'scan': raw['scan']}), atol=1e-5)
    assert abs(found - model({'scan': ready})).max() > 1e-4


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ({}, 'inputs: expected some of rgb, gait, scan, found nothing'),
        ({'rgb': None}, 'inputs: expected some of rgb, gait, scan, found nothing'),
        ({'rbg': np.zeros(4)}, "unknown modality 'rbg'; did you mean 'rgb'?"),
        ({'scan': np.zeros(5)}, r'scan: expected numbers of shape \(4,\) or \(B, 4\), found'),
        ({'scan': np.zeros((2, 3, 4))}, r'scan: expected numbers of shape'),
        ({'scan': 3.0}, r'scan: expected numbers of shape'),
        ({'scan': ['a', 'b', 'c', 'd']}, r'scan: expected numbers of shape'),
        ({'scan': [[1, 2], [3]]}, r'scan: expected numbers of shape'),
        ({'gait': np.zeros((7, 5))}, r'gait: expected numbers of shape \(6, 6\)'),
        ({'scan': np.zeros((0, 4))}, 'expected batches of one size above 0'),
        ({'scan': [1, 2, np.nan, 4]}, 'scan: expected finite numbers, found others in sample 0'),
        ({'scan': np.zeros(4), 'rgb': np.zeros((1, 3, 32, 32))}, 'samples or batches alone'),
        ({'scan': np.zeros((2, 4)), 'rgb': np.zeros((1, 3, 32, 32))}, 'batches of one size'),
        ([np.zeros(4)], "inputs: expected {'rgb': ..., 'gait': ..., 'scan': ...}, found list"),
    ],
)
def test_bad_inputs_are_told_in_one_line(runs, inputs, message):
    with pytest.raises(UserError, match=message) as caught:
        load(runs['hemis'])(inputs)
    assert '\n' not in str(caught.value)


def test_values_beyond_the_range_of_the_training_s_images_are_refused(runs):
    model, (raw, _) = load(runs['hemis']), raw_test()
    assert model.card.intake.preparation['rgb']['numbers'] == 'floating-point numbers'
    deep = {'rgb': np.full((2, 3, 32, 32), 4095, np.uint16), 'scan': raw['scan'][:2]}
    assert model(deep).shape == (2, 3)
    model.card.intake.preparation['rgb']['numbers'] = 'whole numbers of 8 bits'
    expected = 'rgb: expected whole numbers of 8 bits as in the training, found 4095'
    with pytest.raises(UserError, match=expected):
        model(deep)
    # What the mask leaves out may hold any value, and interpolated values may overshoot.
    assert model(deep, [[0, 0, 1], [0, 0, 1]]).shape == (2, 3)
    assert model({'rgb': np.full((3, 32, 32), 270.5)}).shape == (3,)


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (np.ones((2, 2)), r'mask: expected bool \(2, 3\)'),
        (
            np.array([[1, 0, 1], [1, 0, 0]]),
            'mask: expected some modality of every sample, .* row 1',
        ),
    ],
)
def test_bad_masks_are_told_in_one_line(runs, mask, message):
    with pytest.raises(UserError, match=message):
        load(runs['hemis'])({'scan': np.zeros((2, 4))}, mask)


def test_a_run_is_used_away_from_its_data(runs, tmp_path):
    moved = shutil.copytree(runs['hemis'], tmp_path / 'elsewhere')
    raw, _ = raw_test()
    # Neither the record nor the data set is needed.
    for file in ('record.json', 'outcomes.npz', 'validation.npz', 'trained.json'):
        (moved / file).unlink()
    before = load(runs['hemis'])({'rgb': raw['rgb']})
    np.testing.assert_array_equal(load(moved / 'checkpoint.pth')({'rgb': raw['rgb']}), before)
    assert str(runs['hemis'].parents[4]) not in (moved / 'model.json').read_text()


def edited(change):
    def edit(folder):
        file = folder / 'model.json'
        content = json.loads(file.read_text())
        change(content)
        del content['content']
        state.write_json(file, content)

    return edit


def altered(folder):
    """Changes how samples are prepared, as a disk that loses a bit may."""
    file = folder / 'model.json'
    content = json.loads(file.read_text())
    content['preparation']['rgb']['std'][0][0][0] *= 2
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda f: (f / 'model.json').unlink(), 'found a run of an older version.* --force'),
        (lambda f: (f / 'model.json').write_text('{"format": 1'), 'model.json: cannot be used'),
        (lambda f: (f / 'model.json').write_text('[]'), 'model.json: cannot be used'),
        (edited(lambda c: c.update(format=9)), 'model.json: expected format 1, found 9'),
        (edited(lambda c: c.pop('task')), "model.json: cannot be used, .*KeyError: 'task'"),
        (altered, 'model.json: cannot be used, damaged or .*content does not fit its hash'),
        (edited(lambda c: c['task'].update(width=8)), 'weights are those of another network'),
        (edited(lambda c: c['method'].update(name='hemsi')), "did you mean 'hemis'"),
        (lambda f: (f / 'checkpoint.pth').unlink(), 'checkpoint.pth: cannot be used'),
        (
            lambda f: (
                torch.save(torch.load(f / 'checkpoint.pth'), f / 'checkpoint.pth')
                or (f / 'checkpoint.pth').write_bytes((f / 'checkpoint.pth').read_bytes()[:-9])
            ),
            'checkpoint.pth: cannot be used: its hash is another one',
        ),
        (shutil.rmtree, 'expected the folder of a run, which holds model.json, found none'),
    ],
)
def test_a_run_that_cannot_be_used_is_told_in_one_line(runs, tmp_path, damage, message):
    folder = shutil.copytree(runs['hemis'], tmp_path / 'run')
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert '\n' not in str(caught.value)


def test_a_pattern_that_matches_no_run_is_told_with_what_lies_there(tmp_path, monkeypatch):
    for name in ('mmanet', 'hemis', '.hidden', *(f'variant{k}' for k in range(8))):
        (tmp_path / 'runs' / name).mkdir(parents=True)
    listed = 'hemis, mmanet, variant0, variant1, variant2, variant3, variant4, variant5 and 2 more'
    for folder in ('rfnet/uniform-*/seed0', 'rfnet'):
        with pytest.raises(UserError) as caught:
            load(tmp_path / 'runs' / folder)
        assert str(caught.value).endswith(f'found none; {tmp_path / "runs"} holds {listed}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='found none; the current folder holds runs$'):
        load(Path('results'))
    with pytest.raises(UserError, match='found none; runs/hemis holds no folder$'):
        load(Path('runs/hemis/uniform-*/seed0'))
    with pytest.raises(UserError, match='found none$'):
        load(Path())


def test_a_folder_of_several_runs_is_no_run(runs):
    with pytest.raises(UserError, match='expected one run, found .*customized.*hemis'):
        load(runs['hemis'].parents[4])


def test_changed_code_is_noted(runs, tmp_path):
    folder = shutil.copytree(runs['hemis'], tmp_path / 'run')
    assert load(folder).notes == []
    edited(lambda c: c['method'].update(code='0' * 16))(folder)
    (note,) = load(folder).notes
    assert 'the code of hemis has changed since the training' in note


def test_a_folder_above_one_run_names_it(runs):
    with pytest.raises(UserError, match=f'a run; did you mean {runs["hemis"]}\\?$'):
        load(runs['hemis'].parents[1])
