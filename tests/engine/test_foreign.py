"""State files of another training in the place of one's own: their weights fit, but are wrong."""

import contextlib
import shutil

import pytest
from repetitions import scientific
from tasks import TASKS, Toy

from benchmark.engine import execution, hooks, state
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.registry import discover

discover()
MACHINE = Machine('cpu')


class Stopped(Exception):
    """Stands for the end of a process."""


def run_of(results, seed):
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': 3, 'selection': 'worst'}, 'cpu')
    return experiment(Spec('modality_dropout'), data, protocol, seed, results)


def record_of(e):
    return scientific(execution.run(e, MACHINE, lambda *_: None))


@contextlib.contextmanager
def dying():
    """Stops each training after its first epoch has been saved."""
    real = hooks.Checkpoint._save

    def save(self, runner):
        real(self, runner)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.Checkpoint, '_save', save)
        yield


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """Results of two seeds that were stopped after an epoch."""
    results = tmp_path_factory.mktemp('stopped')
    with dying():
        for seed in (0, 1):
            with pytest.raises(Stopped):
                execution.run(run_of(results, seed), MACHINE, lambda *_: None)
    return results


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return record_of(run_of(tmp_path_factory.mktemp('whole'), 0))


def test_the_state_of_another_seed_is_not_gone_on_from(stopped, whole, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path / 'results')
    mine, other = (run_of(tmp_path / 'results', seed) for seed in (0, 1))
    for name in (state.RESUME, state.BEST):
        shutil.copy(other.folder / name, mine.folder / name)
    assert state.epochs_done(mine.folder, mine.identity) == 0
    assert record_of(mine) == whole
    file = mine.folder / state.RESUME
    assert f'{file}: cannot be used (it is of another training)' in capsys.readouterr().out


def test_the_selected_weights_of_another_seed_are_not_tested(stopped, whole, tmp_path, monkeypatch):
    shutil.copytree(stopped, tmp_path / 'results')
    mine, other = (run_of(tmp_path / 'results', seed) for seed in (0, 1))
    real = state.load_weights
    swapped = []

    def load(path, *rest):
        if path.name == state.BEST and rest[1:] and not swapped:  # the last reading, for the test
            swapped.append(shutil.copy(other.folder / state.BEST, path))
        return real(path, *rest)

    monkeypatch.setattr(state, 'load_weights', load)
    assert record_of(mine) == whole
    assert swapped


def parts_of(results):
    """A run with a network for each of three subsets, all of one form."""
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': 2, 'selection': 'worst'}, 'cpu')
    return experiment(Spec('customized'), data, protocol, 0, results)


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    """Results of such a run, of which each network was stopped after an epoch; and its record."""
    results = tmp_path_factory.mktemp('half')
    e = parts_of(results / 'half')
    with dying():
        for part in e.parts:
            with pytest.raises(Stopped):
                execution._train_part(e, part, MACHINE, execution.NOTHING, lambda *_: None)
    return results / 'half', record_of(parts_of(results / 'whole'))


STATES = [(state.RESUME,), (state.RESUME, state.OWNER, state.BEST), (state.BEST,)]


@pytest.mark.parametrize('names', STATES)
def test_the_state_of_another_network_of_the_run_is_not_gone_on_from(names, half, tmp_path):
    stopped, whole = half
    shutil.copytree(stopped, tmp_path / 'results')
    e = parts_of(tmp_path / 'results')
    mine, other, _ = e.parts
    for name in names:
        shutil.copy(other.folder / name, mine.folder / name)
    own = execution.build(e, 'cpu').state_dict()
    if names != (state.BEST,):  # which the selection looks at last
        assert state.read_resume(mine.folder, e.identity_of(mine), own) is None
    assert state.read_resume(other.folder, e.identity_of(other), own) is not None
    assert record_of(e) == whole


def test_the_weights_of_another_network_of_the_run_are_not_tested(tmp_path):
    e = parts_of(tmp_path)
    whole = record_of(e)
    mine, other, _ = e.parts
    for name in (state.WEIGHTS, state.TRAINED):
        shutil.copy(other.folder / name, mine.folder / name)
    (e.folder / 'record.json').unlink()
    assert record_of(e) == whole


HARM = {
    'record.json': lambda path: path.write_text('['),
    'outcomes.npz': lambda path: path.write_bytes(b''),
    'validation.npz': lambda path: path.unlink(),
}


@pytest.mark.parametrize('name', HARM)
def test_a_damaged_record_is_named_once_and_made_again(name, whole, tmp_path, capsys):
    e = run_of(tmp_path, 0)
    assert e.recorded() is None
    record_of(e)
    assert e.recorded() is not None
    assert capsys.readouterr().out == ''
    HARM[name](e.folder / name)
    assert e.recorded() is e.recorded() is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f'{e.folder}/record.json: cannot be used (')
    assert record_of(e) == whole
    assert e.recorded() is not None
