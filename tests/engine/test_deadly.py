"""Experiments that end the process in which they run, as a lack of memory or a fault in C does."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from forks import fork_jobs
from tasks import TASKS, Toy

from benchmark.engine import corruption_runs, execution, grid, jobs, plan, trials
from benchmark.engine.building import Machine
from benchmark.engine.grid import Worker
from benchmark.errors import UserError
from benchmark.progress import Progress
from benchmark.records import store
from benchmark.registry import METHODS, discover
from benchmark.report import writer
from benchmark.search import Uniform
from methods.modality_dropout import ModalityDropout

discover()
HERE = os.getpid()


def die(how):
    """Ends the process, unless it is that of the tests."""
    assert os.getpid() != HERE, 'it ran in the process of the command'
    os.kill(os.getpid(), how)


class Deadly(ModalityDropout):
    """Ends its process (made up, 2026)."""


class Crashes(ModalityDropout):
    """Ends its process in another way (made up, 2026)."""


class Sometimes(ModalityDropout):
    """Ends its process unless an option is chosen (made up, 2026)."""

    search = {'gain': Uniform(2, 3)}

    def __init__(self, task, *, gain: float = 1.0):
        super().__init__(task)
        self.gain = gain


HOW = {'deadly': signal.SIGKILL, 'crashes': signal.SIGTERM}


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Forks the jobs of a test: new processes would load the libraries anew.

    Instead of a training, a process ends.
    """
    fork_jobs(monkeypatch.setattr)
    for cls in (Deadly, Crashes, Sometimes):
        monkeypatch.setitem(METHODS.module_dict, cls.__name__.lower(), cls)

    def run(e, machine, *given):
        return die(HOW[e.name]) if e.name in HOW else execution.run(e, machine, *given)

    monkeypatch.setattr(grid, 'run', run)


def grid_of(results, *methods, seeds=(0,), tune=None):
    data = Toy(TASKS['vectors'], sizes=(16, 8, 8))
    data.recipe = {**Toy.recipe, 'epochs': 1}
    return plan.experiments(plan.Request(methods, seeds, {}, results, 'cpu', tune), [data])


def executed(asked, count, apart=False):
    """Runs a grid in several processes."""
    machine = Machine('cpu', jobs=count)

    def helper(before, told):
        return Worker(machine, told, False, writer.brief, before).work(asked)

    return grid.execute(asked, machine, False, writer.brief, helper, apart)


def outcomes(results):
    """Method and seed -> what its record says."""
    files = (store.read(file) for file in (results / 'runs').rglob(store.RECORD))
    return {(r['method']['name'], r['seed']): r.get('error', r['status']) for r in files}


@pytest.mark.parametrize('count', [2, 4])
def test_experiments_that_kill_their_processes_are_recorded_and_the_others_run(
    count, tmp_path, capsys
):
    asked = grid_of(tmp_path, 'deadly', 'crashes', 'majority', seeds=(0, 1))
    assert executed(asked, count) is False
    assert outcomes(tmp_path) == {
        **{('deadly', seed): 'its process ended: signal 9 (Killed)' for seed in (0, 1)},
        **{('crashes', s): 'its process ended: signal 15 (Terminated)' for s in (0, 1)},
        **{('majority', seed): 'complete' for seed in (0, 1)},
    }
    told = capsys.readouterr().out
    lines = [line for line in told.splitlines() if line.startswith('[')]
    assert [line[:5] for line in lines] == [f'[{n}/6]' for n in range(1, 7)]
    assert sum('FAILED: its process ended: signal 9 (Killed)' in line for line in lines) == 2
    assert told.count(f' of {count} ended: signal 9') >= 2 * jobs.TWICE
    # Typed again, the command tries what has failed once more, and nothing else.
    assert executed(asked, 2) is False
    assert '2 of 6 experiments are recorded already' in capsys.readouterr().out


def test_what_another_process_holds_is_recorded_once_it_is_free(tmp_path, monkeypatch):
    held = grid.holding

    def holding(folder):
        # The worst case: others have whatever is to be recorded for as long as they live.
        if os.getpid() == HERE and multiprocessing.active_children():
            raise grid.Busy
        return held(folder)

    monkeypatch.setattr(grid, 'holding', holding)
    asked = grid_of(tmp_path, 'deadly', 'crashes', 'majority', seeds=(0, 1))
    assert executed(asked, 2) is False
    assert outcomes(tmp_path) == {
        **{('deadly', seed): 'its process ended: signal 9 (Killed)' for seed in (0, 1)},
        **{('crashes', s): 'its process ended: signal 15 (Terminated)' for s in (0, 1)},
        **{('majority', seed): 'complete' for seed in (0, 1)},
    }


def test_a_task_of_slurm_outlives_what_ends_its_process(tmp_path, capsys):
    # A task has one process unless it has several cores.
    asked = grid_of(tmp_path, 'deadly', 'majority')
    assert executed(asked, 1, apart=True) is False
    assert outcomes(tmp_path) == {
        ('deadly', 0): 'its process ended: signal 9 (Killed)',
        ('majority', 0): 'complete',
    }
    assert capsys.readouterr().out.count('job 1 of 1 ended: signal 9 (Killed)') == jobs.TWICE


def test_a_process_that_ends_without_its_result_has_not_finished(tmp_path, monkeypatch, capfd):
    def run(e, *given):
        assert os.getpid() != HERE
        if e.name == 'deadly':
            os._exit(0)
        if e.name == 'crashes':
            raise KeyboardInterrupt
        return execution.run(e, *given)

    monkeypatch.setattr(grid, 'run', run)
    assert executed(grid_of(tmp_path, 'deadly', 'crashes', 'majority'), 2) is False
    assert outcomes(tmp_path) == {
        ('deadly', 0): 'its process ended: exit status 0',
        ('crashes', 0): 'its process ended: exit status 130',
        ('majority', 0): 'complete',
    }
    assert 'Traceback' not in capfd.readouterr().err


def test_a_death_that_does_not_happen_again_is_no_failure(tmp_path, monkeypatch, capsys):
    def run(e, *given):
        if not (tmp_path / 'once').exists():
            (tmp_path / 'once').touch()
            die(signal.SIGKILL)
        return execution.run(e, *given)

    monkeypatch.setattr(grid, 'run', run)
    assert executed(grid_of(tmp_path, 'majority', seeds=(0, 1)), 2) is True
    assert set(outcomes(tmp_path).values()) == {'complete'}
    assert capsys.readouterr().out.count('ended: signal 9') == 1


def test_a_trial_that_kills_its_process_is_not_chosen(tmp_path, monkeypatch):
    def train(trial, *_):
        if trial.options['gain'] == 1.0:
            die(signal.SIGKILL)
        return {'status': 'complete', 'score': 0.5, 'seconds': 1.0, 'teacher_seconds': 0.0}

    def run(e, *_):
        raise UserError(f'it has the options of trial {e.search["chosen"]}')

    monkeypatch.setattr(trials, '_train', train)
    monkeypatch.setattr(grid, 'run', run)
    (search,) = asked = grid_of(tmp_path, 'sometimes', tune=2)
    assert executed(asked, 2) is False
    first, second = search.read()
    assert first['status'] == 'failed'
    assert first['error'] == 'its process ended: signal 9 (Killed)'
    assert second['score'] == 0.5
    assert outcomes(tmp_path) == {('sometimes', 0): 'it has the options of trial 1'}


def test_what_cannot_be_recorded_is_not_run_by_the_command_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid, 'failure', lambda *_: None)
    assert executed(grid_of(tmp_path, 'deadly', 'majority'), 2) is False
    told = capsys.readouterr().out
    assert 'it ran in the process of the command' not in told
    assert outcomes(tmp_path) == {('majority', 0): 'complete'}
    assert told.count('FAILED') == 1
    assert told.count(' of 2 ended: signal 9') <= jobs.TWICE + 3


@pytest.mark.parametrize('count', [1, 2])
def test_a_run_that_kills_the_processes_of_its_test_is_tested_no_more(
    count, tmp_path, monkeypatch, capsys
):
    todo = [(e, None) for e in grid_of(tmp_path, 'deadly', 'hemis', 'rfnet')]
    monkeypatch.setattr(corruption_runs, 'pending', lambda *_: todo)
    monkeypatch.setattr(corruption_runs, 'show', lambda *_: None)
    (tmp_path / 'tested').mkdir()

    def tests(folders, told):
        for e, _ in todo:
            if e.folder in folders:
                told.start(e.data.name, e.label, e.seed, e.folder)
                if e.name == 'deadly':
                    die(signal.SIGKILL)
                (tmp_path / 'tested' / e.name).touch()
                told.end('tested')
        return True

    machine = Machine('cpu', jobs=count)
    assert corruption_runs.execute([], machine, None, tests, apart=count == 1) is False
    assert {file.name for file in (tmp_path / 'tested').iterdir()} == {'hemis', 'rfnet'}
    told = capsys.readouterr().out
    assert told.count('deadly  seed 0  FAILED under corruptions: its process ended: sig') == 1


def test_the_display_forgets_what_a_dead_process_ran():
    progress = Progress({'toy': 4}, 2, jobs=2)
    progress.start('toy', 'mine', 0, Path('mine'), job=1)
    progress.report('training', 0, 4, 0.0, job=1)
    progress.report('training', 3, 4, 6.0, job=1)
    assert progress.lost(1).folder == Path('mine')
    assert [at.name for at in progress.jobs] == ['', '']
    # Whoever runs it goes on after its third epoch, so that one is left, at 2 s for each.
    progress.start('toy', 'mine', 0, Path('mine'), job=0)
    progress.report('training', 3, 4, 0.0, job=0)
    assert progress.remaining() == pytest.approx(1 * 2.0 / 2)


def test_what_is_told_of_the_dead_leaves_what_the_jobs_run(capsys):
    progress = Progress({'toy': 4}, 3, jobs=2)
    progress.start('toy', 'deadly', 0, Path('deadly'), job=1)
    progress.start('toy', 'mine', 0, Path('mine'), job=0)
    progress.lost(1)
    progress.fatal('toy', 'deadly', 0, 'FAILED')
    # The other job has found the record by now.
    progress.elsewhere('toy', 'deadly', 0, 'FAILED in another process', job=0)
    assert capsys.readouterr().out == '[1/3] toy  deadly  seed 0  FAILED\n'
    assert progress.lost(0).folder == Path('mine')


def test_only_rows_are_trained_again_by_force(tmp_path, monkeypatch):
    (pupil,) = asked = grid_of(tmp_path, 'distilled')
    assert grid._epochs_to_train(asked, True) == {'toy': 2}
    monkeypatch.setattr(grid, 'is_trained', lambda *_: True)
    assert grid._epochs_to_train(asked, False) == {}
    # Its teacher is no row here, and is one there.
    assert grid._epochs_to_train(asked, True) == {'toy': 1}
    both = grid_of(tmp_path, 'distilled', pupil.teacher.name)
    assert grid._epochs_to_train(both, True) == {'toy': 2}
