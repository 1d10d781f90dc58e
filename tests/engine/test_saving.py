"""How often a training is saved: at most a small share of its time goes into it."""

import types

import pytest
from tasks import TASKS, Toy

from benchmark.engine import hooks, state
from benchmark.engine.building import Machine
from benchmark.engine.execution import run
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.registry import discover

discover()

SHARE = 0.02


class Clock:
    """A clock that stands still but for what a test lets it do."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Returns a function: epochs, seconds of an epoch and of a save -> epochs that were saved."""

    def train(epochs, epoch, save):
        clock, saved, told = Clock(), [], []
        nothing = types.SimpleNamespace(state_dict=dict)
        runner = types.SimpleNamespace(
            epoch=0, iter=0, model=nothing, optim_wrapper=nothing, param_schedulers=[]
        )

        def write(content, path):
            assert path == tmp_path / 'resume.pth'
            saved.append(content['epoch'])
            clock.now += save
            assert content['seconds'] == pytest.approx(sum_of(content['epoch'], saved[:-1]))

        def sum_of(done, before):
            return done * epoch + len(before) * save

        monkeypatch.setattr(hooks, 'SHARE', SHARE)
        monkeypatch.setattr(hooks, 'time', clock)
        monkeypatch.setattr(state, 'save', write)
        selection = types.SimpleNamespace(state={}, folder=tmp_path)
        averaging = types.SimpleNamespace(decay=0.0)
        tell = lambda done, seconds: told.append(done)  # noqa: E731
        hook = hooks.Checkpoint(tmp_path / 'resume.pth', 'id', selection, averaging, {}, tell)
        hook.before_train(runner)
        for _ in range(epochs):
            hook.before_train_epoch(runner)
            clock.now += epoch
            runner.epoch += 1
        hook.after_train(runner)
        assert told == list(range(epochs + 1))  # whoever waits hears of every epoch
        return saved

    return train


def test_long_epochs_are_all_saved(trained):
    assert trained(epochs=5, epoch=30.0, save=0.5) == [1, 2, 3, 4, 5]


def test_saving_takes_a_fiftieth_of_short_epochs(trained):
    saved = trained(epochs=2000, epoch=0.01, save=0.01)
    assert saved[:3] == [1, 51, 101]
    assert saved[-1] == 2000
    assert len(saved) == 1 + 2000 // 50


def test_the_first_epoch_and_the_last_are_saved_in_any_case(trained):
    assert trained(epochs=3, epoch=0.01, save=1.0) == [1, 3]


def test_a_save_that_took_long_puts_off_the_next_by_ten_minutes_at_most(trained):
    assert trained(epochs=25, epoch=60.0, save=120.0) == [1, 11, 21, 25]


class Stopped(Exception):
    """Ends a training, as a kill does."""


@pytest.mark.parametrize('fields', [{}, {'selection': 'worst', 'ema': 0.9}])
def test_epochs_after_the_last_save_are_trained_again_with_the_same_numbers(
    fields, tmp_path, monkeypatch
):
    """A method with a teacher is stopped in its fifth epoch; its first one alone was saved."""
    monkeypatch.setattr(hooks, 'SHARE', 1e-9)
    data = Toy(TASKS['vectors'], (24, 8, 8))
    given = {'epochs': '7', 'batch_size': '8', **{k: str(v) for k, v in fields.items()}}
    protocol = Protocol.build(data.recipe, given, 'cpu')

    def experiment(name):
        return experiment_of(Spec('mmanet', ()), data, protocol, 0, tmp_path / name)

    whole = run(experiment('whole'), Machine('cpu'), lambda *_: None)
    epochs, stop = [], [True]
    draw = hooks.EpochState.before_train_epoch

    def begin(self, runner):
        draw(self, runner)
        if runner.model._teacher:  # not the training of the teacher itself
            epochs.append(runner.epoch)
            if stop and runner.epoch == 4:
                raise Stopped

    monkeypatch.setattr(hooks.EpochState, 'before_train_epoch', begin)
    with pytest.raises(Stopped):
        run(experiment('stopped'), Machine('cpu'), lambda *_: None)
    stop.clear()
    again = run(experiment('stopped'), Machine('cpu'), lambda *_: None)
    assert epochs == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    times = {'cost', 'finished', 'content'}
    assert {k: v for k, v in again.items() if k not in times} == {
        k: v for k, v in whole.items() if k not in times
    }
