"""Several processes in one results folder: each run is done once, and nobody waits for the dead."""

import errno
import os
import subprocess
import sys
import time

import pytest
from flocks import refuse_flock
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import again, contents, execution, grid, locks, state, trials, tuning
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment
from benchmark.engine.hooks import Checkpoint
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.files import ROOT
from benchmark.options import Spec
from benchmark.records import store
from benchmark.registry import discover
from benchmark.report.writer import brief

discover()


@pytest.fixture(params=['files', 'folders'])
def kind(request, monkeypatch):
    """Locks of files, and what takes their place where a file system has none."""
    if request.param == 'folders':
        refuse_flock(monkeypatch)
    return request.param


def test_a_folder_is_held_by_one_and_free_afterwards(kind, tmp_path):
    folder = tmp_path / 'new' / 'run'
    for _ in range(2):
        with locks.holding(folder), pytest.raises(locks.Busy), locks.holding(folder):
            pass
    with locks.holding(tmp_path / 'other'):
        pass
    assert list(folder.iterdir()) == []


def test_the_lock_is_released_after_an_error(kind, tmp_path):
    with pytest.raises(KeyError), locks.holding(tmp_path):
        raise KeyError
    with locks.holding(tmp_path):
        pass


def test_the_holder_sweeps_what_a_killed_process_left_half_written(kind, tmp_path):
    (tmp_path / 'part').mkdir()
    for left in ('.part-1-resume.pth', 'part/.part-2-best.pth'):
        (tmp_path / left).touch()
    (tmp_path / 'best.pth').touch()
    with locks.holding(tmp_path):
        names = {path.name for path in tmp_path.rglob('*')}
    assert names - {'.lock', '.lock.d'} >= {'part', 'best.pth'}
    assert not [name for name in names if name.startswith('.part')]


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    code = (
        f'import sys, time; sys.path[0] = {str(ROOT)!r}\n'
        'from pathlib import Path; from benchmark.engine.locks import holding\n'
        f'with holding(Path({str(tmp_path)!r})): print("held", flush=True); time.sleep(60)'
    )
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(locks.Busy), locks.holding(tmp_path):
        pass
    other.kill()
    other.communicate()
    with locks.holding(tmp_path):
        pass


def test_where_files_cannot_be_locked_an_abandoned_lock_is_taken_after_a_while(
    tmp_path, monkeypatch
):
    refuse_flock(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(locks, 'STALE', 0.2)
    monkeypatch.setattr(locks, 'BEAT', 0.01)

    def free():
        try:
            with locks.holding(tmp_path):
                return True
        except locks.Busy:
            return False

    with locks.holding(tmp_path):
        for _ in range(5):  # its holder renews it
            assert not free()
            time.sleep(0.1)
    (tmp_path / '.lock.d').mkdir()
    (tmp_path / '.lock.d' / 'dead').touch()
    assert not free()
    assert not free()
    time.sleep(0.25)
    assert not free()  # found abandoned, so that the next one gets it
    assert free()


def test_what_has_lost_its_folder_writes_nothing_more_there(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.ENOLCK)
    (e,) = experiments(tmp_path, 'modality_dropout', epochs=3)
    epochs = []

    def loses(stage, epoch, *_):
        """Another process takes the folder, as if this one had been stopped for minutes."""
        if stage == 'training' and epoch == 1:
            (held,) = (e.folder / locks.FOLDER).iterdir()
            held.rename(held.with_name('another'))
        epochs.append(epoch)

    with pytest.raises(locks.Busy), locks.holding(e.folder):
        execution.run(e, Machine('cpu'), loses)
    assert max(epochs) == 1
    assert (e.folder / locks.FOLDER / 'another').exists()
    assert state.epochs_done(e.folder, e.identity) == 1
    assert e.recorded() is None
    locks.check_held()


def test_what_has_lost_its_folder_neither_removes_nor_records_anything_there(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.ENOLCK)
    (e,) = experiments(tmp_path, 'modality_dropout')
    with locks.holding(e.folder):
        (held,) = (e.folder / locks.FOLDER).iterdir()

        def loses():
            with again.beside(e) as made:
                held.rename(held.with_name('another'))
                made.folder.mkdir()
                (made.folder / 'of another process').touch()

        with pytest.raises(locks.Busy):
            loses()
        assert (e.folder / contents.ANEW / 'of another process').exists()
        for write in (
            lambda: state.write_json(e.folder / 'trained.json', {}),
            lambda: execution.failure(e, UserError('no luck'), Machine('cpu')),
        ):
            with pytest.raises(locks.Busy):
                write()
    assert {path.name for path in e.folder.iterdir()} == {locks.FOLDER, contents.ANEW}


@pytest.mark.parametrize(
    'make',
    [
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to(path.parents[1] / 'elsewhere'),
        os.mkfifo,
    ],
)
def test_what_stands_in_the_place_of_a_lock_is_neither_followed_nor_in_the_way(make, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    make(folder / locks.FILE)
    with locks.holding(folder), pytest.raises(locks.Busy), locks.holding(folder):
        pass
    assert list(tmp_path.rglob('*')) == [folder]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / 'file').touch()
    held = locks.holding(tmp_path / 'file' / 'run')
    with pytest.raises(UserError, match='file/run: cannot be written: '):
        held.__enter__()


def experiments(results, *methods, epochs=1):
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': epochs}, 'cpu')
    return [experiment(Spec(m), data, protocol, 0, results) for m in methods]


def test_other_work_comes_first_and_what_others_have_done_is_not_done_again(
    tmp_path, monkeypatch, capsys
):
    first, taught, last = experiments(tmp_path, 'hemis', 'distilled', 'modality_dropout')
    (other,) = experiments(tmp_path / 'elsewhere', 'hemis')
    held = [locks.holding(e.folder) for e in (first, taught.teacher)]
    for lock in held:
        lock.__enter__()
    naps = []

    def nap(seconds):
        """Meanwhile the other process finishes the first one."""
        naps.append(seconds)
        assert last.recorded() is not None
        if not held:
            return
        assert grid.execute([other], Machine('cpu'), False, brief)
        for name in ('outcomes.npz', 'validation.npz', 'record.json'):
            (other.folder / name).rename(first.folder / name)
        while held:
            held.pop().__exit__(None, None, None)

    monkeypatch.setattr(grid.time, 'sleep', nap)
    assert grid.execute([first, taught, last], Machine('cpu'), False, brief)
    assert naps == [1.0]
    told = [x for x in capsys.readouterr().out.splitlines() if not x.startswith('note: ')]
    assert told[0].startswith('[1/3] toy  modality_dropout')
    assert told[1] == 'waiting for other processes, which run 2 of these'
    assert told[3].startswith('[2/3] toy  hemis')
    assert 'run by another process' in told[3]
    assert told[4].startswith('[3/3] toy  distilled')
    assert not (first.folder / 'train.log').exists()


def test_a_failure_of_another_process_is_not_repeated(tmp_path, monkeypatch, capsys):
    (e,) = experiments(tmp_path, 'hemis')
    worker = grid.Worker(Machine('cpu'), grid.Progress({}, 1), False, brief, {e.folder: None})
    grid.failure(e, UserError('no luck'), Machine('cpu'))
    assert worker.work([e]) is False
    assert 'FAILED in another process: no luck' in capsys.readouterr().out
    assert store.read(e.folder / store.RECORD)['status'] == 'failed'
    # The next command tries it again.
    assert grid.execute([e], Machine('cpu'), False, brief)


def test_a_disk_without_room_for_the_result_of_a_trial_stops_nothing_else(
    tmp_path, monkeypatch, capsys
):
    (e,) = experiments(tmp_path, 'modality_dropout')
    data, protocol = e.data, e.protocol
    search = tuning.search(Spec('distilled'), data, protocol, (0,), tmp_path, 2)

    def full(path, content):
        raise UserError(f'{path}: cannot be written: No space left on device')

    monkeypatch.setattr(trials.state, 'write_json', full)
    monkeypatch.setattr(trials.execution, 'train', lambda *_: ([], {'seconds': 0.0}))
    assert not grid.execute([search], Machine('cpu'), False, brief)
    assert 'trial.json: cannot be written: No space left on device' in capsys.readouterr().out


def test_two_processes_do_every_run_once(tmp_path, monkeypatch, capsys):
    """One command twice, whose methods share a teacher, which the other process is training."""
    words = '--datasets synth_faces --device cpu --methods distilled complete --cfg-options'
    options = 'train=16 val=8 test=8 size=16 width=4 batch_size=8 epochs=2'
    command = ['--results', str(tmp_path), *words.split(), *options.split()]
    save, (heard, tells) = Checkpoint._save, os.pipe()

    def slow(*args):
        os.write(tells, b'saving')
        time.sleep(0.5)
        save(*args)

    other = os.fork()  # it has loaded the libraries already
    if not other:
        monkeypatch.setattr(Checkpoint, '_save', slow)
        try:
            os._exit(run.main(command))
        finally:
            os._exit(1)
    os.close(tells)
    assert os.read(heard, 6) == b'saving'
    assert run.main(command) == 0
    assert 'waiting for other processes, which run 2 of these' in capsys.readouterr().out
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    os.close(heard)
    records = sorted((tmp_path / 'runs').rglob('record.json'))
    assert len(records) == 2
    for file in records:
        lines = (file.parent / 'train.log').read_text().splitlines()
        epochs = [line.split(' epoch ')[1][:7] for line in lines if 'loss' in line]
        assert epochs == ['0: loss', '1: loss']
    assert list((tmp_path / 'runs').rglob('.*')) == []
