"""Nothing before the final test reads the test split, and nothing ever reads a hidden value."""

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy

from benchmark.engine import execution
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.hooks import Checkpoint, TrainingDiverged
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.registry import METHODS, discover

discover()
NEEDY = [n for n, c in METHODS.module_dict.items() if c.needs_complete]
MODEST = [n for n in METHODS.module_dict if n not in NEEDY]
MACHINE = Machine('cpu')
FEW = (16, 8, 8)
"""Samples of the splits, of which every training reads all in two batches."""


def experiment(data, results, method='modality_dropout', **fields):
    given = {'mmanet': (('begin_epoch', 2), ('mining_start', 1))}.get(method, ())
    protocol = Protocol.build(data.recipe, fields, 'cpu')
    return experiment_of(Spec(method, given), data, protocol, 0, results)


def trained(e):
    """Runs an experiment and returns its weights; a test of NaN fails after the training."""
    if isinstance(e.data, Spoilt):
        with pytest.raises(TrainingDiverged, match='prediction is not finite: .* test-0'):
            execution.run(e, MACHINE, lambda *_: None)
    else:
        execution.run(e, MACHINE, lambda *_: None)
    return torch.load(e.folder / 'checkpoint.pth', weights_only=True)


class Spoilt(Toy):
    """A toy dataset of which one split holds NaN and wrong labels."""

    spoilt = 'test'

    def split(self, name):
        split = super().split(name)
        if name == self.spoilt:
            for x in split.inputs.values():
                x[...] = np.nan
            split.target[...] = 0
        return split


@pytest.mark.parametrize('method', ['mmanet', 'customized'])
def test_the_test_split_is_opened_once_after_all_networks_are_trained(
    method, tmp_path, monkeypatch
):
    data = Toy(TASKS['vectors'])
    e = experiment(data, tmp_path, method, epochs=3)
    opened = []
    real = execution.training.train

    def watched(*args):
        found = real(*args)
        opened.append('test' in data.opened)
        return found

    monkeypatch.setattr(execution.training, 'train', watched)
    execution.run(e, MACHINE, lambda *_: None)
    assert data.opened.count('test') == 1
    assert opened == [False] * (len(e.parts) + (e.teacher is not None))


def test_a_run_is_deterministic_and_tells_its_stages(tmp_path):
    torch.use_deterministic_algorithms(False)
    stages = []
    e = experiment(Toy(TASKS['vectors']), tmp_path, 'mmanet', epochs=1)
    execution.run(e, MACHINE, lambda stage, *_: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ['teacher complete', 'training', 'testing']
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ('method', 'selection'), [('modality_dropout', 'last'), ('mmanet', 'worst')]
)
def test_a_poisoned_test_split_changes_no_weight_and_no_mining(method, selection, tmp_path):
    weights = []
    for data in (Toy(TASKS['vectors'], FEW), Spoilt(TASKS['vectors'], FEW)):
        place = tmp_path / type(data).__name__
        e = experiment(data, place, method, selection=selection, epochs=3)
        weights.append(trained(e))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


class Hidden(Toy):
    """A toy dataset whose training values are NaN wherever an experiment hides them."""

    kept = None

    def split(self, name):
        split = super().split(name)
        if name == 'train' and self.kept is not None:
            for column, x in enumerate(split.inputs.values()):
                x[~self.kept[:, column]] = np.nan
        return split


def weights_of(data, results, method, poisoned=False, **fields):
    """Trains a method without testing it and returns the weights of all its networks."""
    e = experiment(data, results, method, epochs=3, **fields)
    kept = e.readable
    data.kept = kept if poisoned else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, 'before_train_epoch', lambda *_: None)  # the last state will do
        execution.train(e, MACHINE, lambda *_: None)
    assert 'test' not in data.opened
    return {
        (part.folder.name, k): v
        for part in e.parts
        for k, v in torch.load(part.folder / 'checkpoint.pth', weights_only=True).items()
    }


@pytest.mark.parametrize('method', MODEST)
def test_training_reads_neither_hidden_values_nor_the_test_split(method, tmp_path):
    # A network of its own for each of three subsets shows as much as one for each of seven.
    cls = METHODS.module_dict[method]
    task, rates = TASKS['faces'], 'rgb=0.5,depth=0.25,ir=0.8'
    if cls.dedicated or 'faces' in cls.contract_exceptions:
        task, rates = TASKS['vectors'], 'a=0.5,b=0.25'
    plain, poisoned = (
        weights_of(Hidden(task, FEW), tmp_path / str(nan), method, nan, rates=rates)
        for nan in (False, True)
    )
    assert all(torch.isfinite(v).all() for v in poisoned.values())
    assert plain.keys() == poisoned.keys()
    assert all(torch.equal(plain[k], poisoned[k]) for k in plain)


@pytest.mark.parametrize('method', NEEDY)
def test_training_on_complete_data_does_not_open_the_test_split(method, tmp_path):
    assert weights_of(Hidden(TASKS['faces'], FEW), tmp_path, method)


def test_realised_gaps_are_recorded(tmp_path):
    data = Toy(TASKS['faces'])
    record = execution.run(
        experiment(data, tmp_path, rates='rgb=0.5,depth=0.25,ir=0.8'), MACHINE, lambda *_: None
    )
    assert record['gaps']['rates'] == {'rgb': 0.5, 'depth': 0.25, 'ir': 0.8}
    assert record['gaps']['dropped'] > 0


@pytest.mark.parametrize('method', NEEDY)
def test_methods_that_need_complete_data_refuse_gaps(method, tmp_path):
    e = experiment(Toy(TASKS['faces']), tmp_path, method, rates='rgb=0.5')
    with pytest.raises(execution.UserError, match='complete samples only, and 20 of 40'):
        execution.run(e, MACHINE, lambda *_: None)
