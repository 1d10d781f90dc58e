"""The moving average of the weights: what it is, who sees it, and that it survives a stop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy
from torch import nn

from benchmark.engine import averaging, execution, hooks
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.options import Spec
from benchmark.registry import METHODS, discover

discover()
MACHINE = Machine('cpu')


def experiment(results, method='modality_dropout', **fields):
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': 3, 'ema': 0.8, **fields}, 'cpu')
    return experiment_of(Spec(method), data, protocol, 0, results)


def weights_in(folder):
    return torch.load(folder / 'checkpoint.pth', weights_only=True)


def run(e):
    return execution.run(e, MACHINE, lambda *_: None)


@pytest.fixture
def steps(monkeypatch):
    """Folder of a training -> all weights after each of its steps."""
    found = {}
    real = averaging.Averaging.after_train_iter

    def kept(self, runner, *arguments, **named):
        real(self, runner, *arguments, **named)
        weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
        found.setdefault(runner._log_file.parent, []).append(weights)

    monkeypatch.setattr(averaging.Averaging, 'after_train_iter', kept)
    return found


def shares_of(count, decay):
    """The share of each step, in proportion: that of step t, times what later steps leave of it."""
    t = np.arange(1, count + 1)
    taken = np.maximum((1 - decay) / (1 - decay**t), np.minimum(1, 3 / t))
    return taken * np.append(np.cumprod((1 - taken)[::-1])[::-1][1:], 1)


def taken(decay, count):
    """What the average makes of `count` steps: the share that it gives to each of them."""
    model, hook = nn.Linear(count, 1, bias=False), averaging.Averaging(decay)
    for step in torch.eye(count):  # the weights of a step are one in its place, and zero elsewhere
        model.weight.data.copy_(step)
        hook.after_train_iter(SimpleNamespace(model=model))
    hook.use(model)
    return model.weight[0].detach().double().numpy()


@pytest.mark.parametrize(('decay', 'count'), [(0.8, 400), (0.98, 900), (0.9, 20), (0.9999, 60)])
def test_the_shares_of_the_steps_are_those_of_the_definition(decay, count):
    shares = taken(decay, count)
    np.testing.assert_allclose(shares, shares_of(count, decay), rtol=1e-3, atol=1e-7)
    assert shares.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(('decay', 'count'), [(0.8, 400), (0.98, 900)])
def test_in_a_long_training_a_step_counts_for_the_decay_as_much_as_the_next(decay, count):
    last = taken(decay, count)[-50:]
    np.testing.assert_allclose(last[:-1] / last[1:], decay, rtol=1e-4)


@pytest.mark.parametrize('count', [50, 1500])
def test_what_a_short_training_averages_is_a_quarter_of_it_old_in_the_mean(count):
    shares = taken(0.9999, count)
    assert shares @ (count - 1 - np.arange(count)) / count == pytest.approx(1 / 4, abs=0.02)


def averaged(history, decay):
    """The average by its definition, in float64: a weighted mean of all steps."""
    shares = shares_of(len(history), decay)
    return {
        key: np.average([h[key].double().numpy() for h in history], axis=0, weights=shares)
        for key in history[0]
    }


def test_what_is_tested_is_the_weighted_mean_of_all_steps(tmp_path, steps):
    e = experiment(tmp_path)
    run(e)
    history, found = steps[e.folder], weights_in(e.folder)
    assert len(history) == 15
    expected = averaged(history, 0.8)
    assert any('running_var' in key for key in found)
    for key, value in found.items():
        if 'num_batches' in key:
            assert value == history[-1][key]
            continue
        np.testing.assert_allclose(value.numpy(), expected[key], rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, history[-1][key])


def test_the_average_leaves_the_training_itself_alone(tmp_path, steps):
    with_it = experiment(tmp_path / 'a', selection='mean')
    without = experiment(tmp_path / 'b', selection='mean', ema=0)
    for e in (with_it, without):
        run(e)
    last, plain = steps[with_it.folder][-1], steps[without.folder][-1]
    assert all(torch.equal(last[k], plain[k]) for k in plain)


def test_without_an_average_the_last_weights_are_tested(tmp_path, steps):
    e = experiment(tmp_path, ema=0)
    run(e)
    assert all(torch.equal(steps[e.folder][-1][k], v) for k, v in weights_in(e.folder).items())


def test_validation_and_selection_see_the_average(tmp_path, monkeypatch):
    e = experiment(tmp_path, selection='mean')
    seen, cls = [], METHODS.module_dict['modality_dropout']

    def listen(self, scores):
        seen.append({k: v.clone() for k, v in self.state_dict().items()})

    monkeypatch.setattr(cls, 'on_validation', listen)
    record = run(e)
    assert len(seen) == 3
    chosen = seen[record['selected_epoch']]
    assert all(torch.equal(chosen[k], v) for k, v in weights_in(e.folder).items())


def test_the_teacher_is_averaged_under_the_same_protocol(tmp_path, steps):
    e = experiment(tmp_path, 'distilled')
    run(e)
    expected = averaged(steps[e.teacher.folder], 0.8)
    for key, value in weights_in(e.teacher.folder).items():
        if 'num_batches' not in key:
            np.testing.assert_allclose(value.numpy(), expected[key], rtol=1e-4, atol=1e-6)


def test_what_a_method_mines_in_validation_is_not_taken_back():
    class Miner(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
            self.register_buffer('mined', torch.zeros(3))

    model, hook = Miner(), averaging.Averaging(0.5)
    runner = SimpleNamespace(model=model)
    for _ in range(4):
        model.norm(model.layer(torch.randn(8, 2)))
        model.layer.weight.data.normal_()
        hook.after_train_iter(runner)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hook.before_val_epoch(runner)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {'layer.weight', 'norm.running_mean', 'norm.running_var'}
    model.mined.fill_(2)
    hook.after_val_epoch(runner)
    assert model.mined.tolist() == [2, 2, 2]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k != 'mined')


class Stopped(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize('selection', ['last', 'worst'])
@pytest.mark.parametrize('at', [1, 2, 3])
def test_a_stopped_run_ends_with_the_same_average(at, selection, tmp_path, monkeypatch):
    whole = experiment(tmp_path / 'whole', selection=selection)
    run(whole)
    e = experiment(tmp_path / 'parts', selection=selection)
    real, saved = hooks.Checkpoint._save, []

    def save(self, runner):
        real(self, runner)
        saved.append(runner.epoch)
        if runner.epoch == at and saved == list(range(1, at + 1)):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Checkpoint, '_save', save)
        with pytest.raises(Stopped):
            run(e)
        run(e)
    # It goes on from there, and does not begin anew.
    assert saved == [*range(1, at + 1), *range(at, 4)]
    expected, found = weights_in(whole.folder), weights_in(e.folder)
    assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_a_decay_of_one_is_refused():
    with pytest.raises(UserError, match=r'ema: expected 0 \(off\) to below 1, found 1.0'):
        Protocol(ema=1.0)
