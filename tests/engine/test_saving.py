"""How often a training is saved: at most a small share of its time goes into it."""

import types

import pytest

from benchmark.engine import hooks, state

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


def test_after_a_stop_the_first_epoch_is_saved_again(trained):
    assert trained(epochs=3, epoch=0.01, save=1.0) == [1, 3]
