"""What `--force` does to a finished run: nothing, until the new run is whole."""

import contextlib
import dataclasses
import os
import shutil

import pytest
import torch
from repetitions import scientific
from tasks import TASKS, Toy

from benchmark.engine import again, card, execution, grid, state, status, training, trials
from benchmark.engine.building import Machine
from benchmark.engine.contents import ANEW, FAILED
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.grid import Worker
from benchmark.engine.locks import Busy, holding
from benchmark.engine.protocol import Protocol
from benchmark.files import digest
from benchmark.options import Spec
from benchmark.progress import Progress
from benchmark.records import store
from benchmark.registry import discover
from benchmark.report import writer

discover()
MACHINE = Machine('cpu')
METHODS = ('modality_dropout', 'customized')


def experiment(results, method):
    data = Toy(TASKS['vectors'], sizes=(16, 8, 8))
    protocol = Protocol.build(data.recipe, {'epochs': 2, 'batch_size': 8}, 'cpu')
    return experiment_of(Spec(method), data, protocol, 0, results)


def run(e, force=False):
    return execution.run(e, MACHINE, lambda *_: None, force)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Method -> its record where nothing is there before."""
    results = tmp_path_factory.mktemp('whole')
    return {method: scientific(run(experiment(results, method))) for method in METHODS}


@pytest.fixture(scope='module')
def others(tmp_path_factory):
    """Finished runs of the same methods that have begun with other weights."""
    results, real = tmp_path_factory.mktemp('others'), execution.build

    def moved(e, device):
        method = real(e, device)
        with torch.no_grad():
            [p.add_(0.5) for p in method.parameters()]
        return method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, 'build', moved)
        for method in METHODS:
            run(experiment(results, method))
    return results


@pytest.fixture(params=METHODS)
def finished(request, others, tmp_path):
    """A finished run with other weights than it would have now."""
    shutil.copytree(others, tmp_path / 'results')
    return experiment(tmp_path / 'results', request.param)


def files(e):
    """File of a run -> its content; but the log and the note that a repetition failed."""
    own = (path for path in e.folder.rglob('*') if path.is_file())
    found = (path for path in own if path.name not in (training.LOG, FAILED))
    return {path: path.read_bytes() for path in found}


@contextlib.contextmanager
def failing(where, error):
    """Makes a part of a run fail."""

    def fail(*_):
        raise error

    real = training.EpochState.before_train_epoch

    def begin(self, runner):
        real(self, runner)
        if runner.epoch:
            fail()

    places = {
        'second epoch': (training.EpochState, 'before_train_epoch', begin),
        'test': (training, 'test', fail),
        'outcomes': (store, 'write_outcomes', fail),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*places[where])
        yield


def fits(e):
    """Whether the weights of a run are those that its files name."""
    networks = card.read(e.folder).networks
    found = []
    for part in e.parts:
        noted = state.read_json(part.folder / state.TRAINED, e.identity_of(part))['sha256']
        named = networks[part.only[0] if part.only else '']
        found.append(noted == named == digest(part.folder / state.WEIGHTS).sha256)
    return all(found)


@pytest.mark.parametrize('where', ['second epoch', 'test', 'outcomes'])
def test_a_forced_run_that_fails_leaves_the_finished_one_and_can_be_typed_again(
    where, finished, whole, capsys
):
    before = files(finished)
    with failing(where, RuntimeError('oops')):
        assert not grid.execute([finished], MACHINE, True, writer.brief)
    assert 'FAILED: RuntimeError: oops' in capsys.readouterr().out
    assert files(finished) == before
    assert 'oops' in (finished.folder / training.LOG).read_text()
    assert not (finished.folder / ANEW).exists()
    assert grid.execute([finished], MACHINE, True, writer.brief)
    assert scientific(finished.recorded()) == whole[finished.name]
    assert fits(finished)


def test_an_interrupted_one_leaves_the_finished_one(finished):
    before = files(finished)
    with failing('second epoch', KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        grid.execute([finished], MACHINE, True, writer.brief)
    assert files(finished) == before


@pytest.mark.parametrize('moves', [0, 1, 3])
def test_where_the_exchange_is_cut_off_the_run_is_unfinished_and_becomes_the_new_one(
    moves, finished, whole, monkeypatch
):
    real, left, weights = os.replace, iter(range(moves)), finished.parts[0].folder / state.WEIGHTS
    before = weights.read_bytes()

    def replace(source, target):
        if ANEW in source.parts and ANEW not in target.parts and next(left, None) is None:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(again.os, 'replace', replace)
        with pytest.raises(KeyboardInterrupt):
            run(finished, force=True)
    assert finished.recorded() is None
    assert scientific(run(finished)) == whole[finished.name]
    assert fits(finished)
    assert weights.read_bytes() != before


def worker(e, before):
    """One of several processes of a command that was given --force, and what it runs."""
    told = Progress({e.data.name: 2}, 2)
    return Worker(MACHINE, told, True, writer.brief, before)


def test_what_one_process_could_not_do_again_no_other_one_tries(finished, capsys):
    for _ in ('typed', 'typed again'):
        before = {finished.folder: again.stamps(finished)}
        with failing('test', RuntimeError('oops')):
            assert not worker(finished, before).work([finished])
        assert 'FAILED: RuntimeError: oops (see ' in capsys.readouterr().out
        # Here it would succeed.
        assert not worker(finished, before).work([finished])
        assert 'FAILED in another process: RuntimeError: oops' in capsys.readouterr().out
        # A command without --force has nothing to do with it.
        plain = Worker(MACHINE, Progress({}, 1), False, writer.brief, before)
        assert plain.work([finished])
    assert worker(finished, {finished.folder: again.stamps(finished)}).work([finished])
    assert not (finished.folder / FAILED).exists()


def test_a_trial_that_cannot_be_done_again_keeps_its_result(tmp_path):
    trial = dataclasses.replace(experiment(tmp_path, 'modality_dropout'), trial=True)
    result = trials.attempt(trial, MACHINE, lambda *_: None)
    before = {trial.folder: again.stamps(trial)}
    with failing('second epoch', RuntimeError('oops')):
        assert not worker(trial, before)._one(trial)
    assert trials.result_of(trial)['score'] == result['score']
    assert not worker(trial, before)._one(trial)
    assert worker(trial, {trial.folder: again.stamps(trial)})._one(trial)


def test_what_a_killed_process_left_is_not_read_and_goes_with_the_next_lock(finished):
    left = finished.folder / ANEW
    left.mkdir()
    shutil.copy(finished.folder / store.RECORD, left)
    found = store.scan(finished.folder.parents[3])
    assert finished.folder / store.RECORD in found.complete
    assert found.problems == []
    with holding(finished.folder):
        assert not left.exists()


def test_a_teacher_that_is_trained_anew_is_waited_for(tmp_path):
    student = experiment(tmp_path, 'distilled')
    run(student.teacher)
    with holding(student.teacher.folder):
        (student.teacher.folder / ANEW).mkdir()
        with pytest.raises(Busy):
            run(student)
    run(student)


def test_the_state_of_a_results_folder_tells_the_epoch_of_the_new_training(finished, capsys):
    said = []

    def look(stage, epoch, *_):
        if epoch == 1:
            status.show(finished.folder.parents[4], str)
            said.append(capsys.readouterr().out)

    with holding(finished.folder):
        execution.run(finished, MACHINE, look, force=True)
    assert 'running (' in said[0]
    assert 'epoch 2 of 2' in said[0]
