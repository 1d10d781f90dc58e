"""Nothing before the final test reads the test split, and nothing ever reads a hidden value."""

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy

from benchmark.engine import execution
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.hooks import TrainingDiverged
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.registry import METHODS, discover

discover()
NEEDY = [n for n, c in METHODS.module_dict.items() if c.needs_complete]
MODEST = [n for n in METHODS.module_dict if n not in NEEDY]
MACHINE = Machine('cpu')


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


@pytest.mark.parametrize('method', sorted(METHODS.module_dict))
def test_the_test_split_is_opened_after_the_last_training_step(method, tmp_path, monkeypatch):
    data = Toy(TASKS['faces'])
    e = experiment(data, tmp_path, method, epochs=4)
    finished = []
    real = execution.training.train

    def watched(*args):
        found = real(*args)
        finished.append('test' in data.opened)
        return found

    monkeypatch.setattr(execution.training, 'train', watched)
    execution.run(e, MACHINE, lambda *_: None)
    assert data.opened.count('test') == 1
    networks = len(e.parts) + (e.teacher is not None)
    assert finished == [False] * networks


@pytest.mark.parametrize('selection', ['last', 'worst'])
@pytest.mark.parametrize('method', ['modality_dropout', 'mmanet'])
def test_a_poisoned_test_split_changes_no_weight_and_no_mining(method, selection, tmp_path):
    weights = []
    for data in (Toy(TASKS['faces']), Spoilt(TASKS['faces'])):
        place = tmp_path / type(data).__name__
        weights.append(trained(experiment(data, place, method, selection=selection)))
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


@pytest.mark.parametrize('method', MODEST)
def test_hidden_values_are_never_read(method, tmp_path):
    rates = {'rates': 'rgb=0.5,depth=0.25,ir=0.8', 'epochs': 3}
    weights = []
    for poisoned in (False, True):
        data = Hidden(TASKS['faces'])
        e = experiment(data, tmp_path / str(poisoned), method, **rates)
        kept = e.readable
        data.kept = kept if poisoned else None
        weights.append({})
        execution.run(e, MACHINE, lambda *_: None)
        for part in e.parts:
            state = torch.load(part.folder / 'checkpoint.pth', weights_only=True)
            weights[-1].update({(part.folder.name, k): v for k, v in state.items()})
    assert all(torch.isfinite(v).all() for v in weights[1].values())
    pairs = zip(weights[0].values(), weights[1].values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


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
