"""A command that `torchrun` has started in two processes leaves what one process leaves."""

import contextlib
import datetime
import errno
import io
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark import run, running
from benchmark.engine import building, hooks, recording
from benchmark.engine.building import Machine
from benchmark.engine.parallel import processes
from benchmark.errors import UserError
from benchmark.files import ROOT
from benchmark.records import store
from tests.helpers.ranks import run_in, started

PLACE = {'WORLD_SIZE': '2', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_ADDR': 'localhost'}


def command(results):
    """Distils a teacher that is trained first, and fits a model that needs no steps.

    Batches of 7 and a test split of 11 have no half. Plain gradient descent keeps differences by
    rounding as small as they are.
    """
    options = ('train=14', 'val=10', 'test=11', 'size=24', 'width=4', 'batch_size=7', 'epochs=2')
    rules = ('optimizer=SGD', 'lr=0.01', 'selection=mean', 'ema=0.5', 'val_interval=1')
    methods = ('mmanet:begin_epoch=1,mining_start=0', 'majority')
    what = ('--methods', *methods, '--datasets', 'synth_faces')
    how = ('--results', str(results), '--device', 'cpu', '--cfg-options')
    return [*what, *how, *options, *rules]


def told(results, *words):
    """The exit status of the command, and what it prints before tables and pictures are made."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(running, 'show_tables', lambda *_: True)
        patch.setattr(recording.showing, 'keep', lambda *_: None)
        status = run.main([*words, *command(results)])
    return status, out.getvalue()


def on_a_full_disk(results):
    """The same, where the leading process cannot keep what an epoch has left."""
    save = hooks.Checkpoint._save

    def failing(self, runner):
        save(self, runner)
        raise OSError(errno.ENOSPC, 'No space left on device', str(self.file))

    if os.environ['RANK'] == '0':
        hooks.Checkpoint._save = failing
    return told(results)


@pytest.fixture(scope='module')
def two(one, tmp_path_factory):
    """The results of two processes; what they said when the disk was full, and afterwards.

    They inherit what the process of the tests has counted of the networks for `one`.
    """
    folder = tmp_path_factory.mktemp('two')
    results = folder / 'results'
    full = started(2, folder / 'full', lambda: on_a_full_disk(results))
    files = {path.name for path in results.rglob('*') if path.is_file()}
    return results, full, files, started(2, folder / 'again', lambda: told(results))


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """The results of one process."""
    results = tmp_path_factory.mktemp('one')
    assert told(results)[0] == 0
    return results


def test_an_error_of_the_leading_process_stops_no_other_experiment(two):
    _, full, files, _ = two
    (status, said), (other, silent) = full
    assert (status, other, silent) == (1, 1, '')
    assert 'FAILED' in said
    assert 'No space left on device' in said
    assert 'majority  seed 0  ACER' in said
    assert 'resume.pth' in files


def test_the_same_command_goes_on_and_one_process_alone_prints(two):
    _, _, _, ((status, said), (other, silent)) = two
    assert (status, other, silent) == (0, 0, '')
    assert '1 of 2 experiments are recorded already' in said


def test_the_records_are_those_of_one_process(two, one):
    found = {r['method']['name']: (f, r) for f, r in store.scan(two[0] / 'runs').complete.items()}
    alone = {r['method']['name']: (f, r) for f, r in store.scan(one / 'runs').complete.items()}
    assert found.keys() == alone.keys() == {'mmanet', 'majority'}
    for name, (file, record) in found.items():
        expected_file, expected = alone[name]
        assert record['identity'] == expected['identity']
        assert record['environment']['processes'] == '2'
        assert 'processes' not in expected['environment']
        for key in ('n', 'samples', 'selected_epoch', 'collapsed', 'gaps'):
            assert record[key] == expected[key], key
        for split, scores in expected['scores'].items():
            for subset, values in scores.items():
                assert record['scores'][split][subset] == pytest.approx(values, abs=1e-6)
        for kept in (store.OUTCOMES, store.VALIDATION):
            same_outcomes(file.parent / kept, expected_file.parent / kept)
        weights, others = (torch.load(f.parent / 'checkpoint.pth') for f in (file, expected_file))
        torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-5)


def same_outcomes(file, other):
    """Every sample has the outcome that it has in one process, and none has two."""
    with np.load(file) as found, np.load(other) as expected:
        assert set(found) == set(expected)
        for key in expected:
            if expected[key].dtype.kind == 'f':
                np.testing.assert_allclose(found[key], expected[key], rtol=1e-3, atol=1e-5)
            else:
                np.testing.assert_array_equal(found[key], expected[key])


def test_nothing_is_left_behind(two, one):
    def files(results):
        return {path.relative_to(results) for path in results.rglob('*')}

    assert files(two[0]) == files(one)


def alone_in_failing():
    """What the process that fails alone would die of, and what it hears in the end."""
    processes.PATIENCE = 0.2
    if processes.leads():
        time.sleep(1)
        processes.say(processes.Stopped())
        processes._meet()
        return None
    seen = []
    processes._die = lambda error: seen.append(str(error))
    processes.stopped(ValueError('a file of its own'))
    return seen


def test_a_process_that_fails_alone_ends_the_command(tmp_path):
    assert run_in(2, tmp_path, alone_in_failing) == [None, ['a file of its own']]


def left_alone():
    """What each process says at its end when the other one is not there any more."""
    processes.everyone(None)  # one that leaves while the other still connects ends the joining
    said = []
    processes._end = lambda line='': said.append(line)
    return said


def leading_left_alone():
    """What the leading process says when the other one has ended, and it fails of that."""
    said = left_alone()
    if processes.leads():
        time.sleep(1)
        with contextlib.suppress(ValueError), processes.stopping():
            raise ValueError('the connection was closed')
    return said


def test_a_process_that_was_killed_makes_no_experiment_fail(tmp_path):
    told = 'another process has ended, which ends all; the same command goes on from the last epoch'
    assert run_in(2, tmp_path, leading_left_alone) == [[told], []]


def helper_left_alone():
    """What another process says when the leading one has ended, and has told why."""
    said = left_alone()
    if not processes.leads():
        time.sleep(1)
        processes.stopped(RuntimeError('the connection was closed'))
    return said


def test_the_end_of_the_leading_process_is_told_once(tmp_path):
    assert run_in(2, tmp_path, helper_left_alone) == [[], ['']]


def planned():
    """What processes do whose plans differ."""
    try:
        processes.agreed(processes.rank, lambda rank: rank)
    except UserError as error:
        return str(error)
    return ''


def test_processes_that_see_other_data_are_told(tmp_path):
    expected = 'process 1 of 2: expected the experiments and data of process 0, found others'
    assert run_in(2, tmp_path, planned) == [expected] * 2


def failing_plans():
    """What each of two processes meets when the first, the second or both of them cannot plan."""
    met = []
    for ranks in ({0}, {1}, {0, 1}):

        def make(ranks=ranks):
            if processes.rank() in ranks:
                raise KeyError('oops')

        try:
            processes.agreed(make, lambda _: 'the same')
        except (UserError, KeyError) as error:
            met.append(f'{type(error).__name__}: {error}')
    return met


def test_what_one_process_alone_meets_while_planning_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, '_FOREVER', datetime.timedelta(seconds=20))
    assert run_in(2, tmp_path, failing_plans) == [
        ["KeyError: 'oops'", "UserError: process 1 of 2: KeyError: 'oops'", "KeyError: 'oops'"],
        ["UserError: KeyError: 'oops'", "KeyError: 'oops'", "UserError: KeyError: 'oops'"],
    ]


def typed_where_the_plan_fails(results, which):
    """The end of a command in each of two processes, of which one cannot plan."""
    prepare = running.prepare

    def failing(*given):
        if processes.rank() == which:
            raise KeyError('oops')
        return prepare(*given)

    running.prepare = failing
    try:
        return run.main(command(results))
    except KeyError:
        return 'traceback'


def test_a_command_that_one_process_alone_cannot_plan_ends(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(processes, '_FOREVER', datetime.timedelta(seconds=20))
    first = started(2, tmp_path / 'first', lambda: typed_where_the_plan_fails(tmp_path, 0))
    assert first == ['traceback', 2]
    second = started(2, tmp_path / 'second', lambda: typed_where_the_plan_fails(tmp_path, 1))
    assert second == [2, 'traceback']


def test_a_forced_run_is_known_to_the_others_by_the_folder_of_the_finished_one(two, tmp_path):
    results = shutil.copytree(two[0], tmp_path / 'results')
    one, other = started(2, tmp_path / 'forced', lambda: told(results, '--force'))
    assert one[0] == other[0] == 0
    assert 'majority  seed 0  ACER' in one[1]


@pytest.mark.parametrize('rank', ['0', '2', '3'])
def test_more_processes_than_gpus_are_refused_in_one_line(rank, monkeypatch, capsys):
    place = {**PLACE, 'WORLD_SIZE': '4', 'RANK': rank, 'LOCAL_RANK': str(int(rank) % 2)}
    for name, value in {**place, 'LOCAL_WORLD_SIZE': '2'}.items():
        monkeypatch.setenv(name, value)
    said = io.StringIO()
    for name in ('stdout', 'stderr', 'excepthook'):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(sys, '__stderr__', said)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert run.main(['--methods', 'rfnet']) == 2
    line = (
        'error: torchrun: expected at most one process for each GPU of a machine, found 2 '
        'processes and 1 GPU; start fewer, or give --device cpu\n'
    )
    told = capsys.readouterr().err + said.getvalue()
    assert told == (line if rank != '3' else '')  # on each machine one process alone tells


def test_the_processes_of_a_machine_share_its_cores_among_their_loaders(monkeypatch):
    monkeypatch.setattr(building, 'cores', lambda: 12)
    monkeypatch.setattr(processes, 'count', lambda: 4)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    streamed = SimpleNamespace(streams=True)
    assert Machine('cpu').loader(streamed)[0] == 6
    assert Machine('cpu', jobs=3).loader(streamed)[0] == 2
    assert Machine('cpu', workers=5).loader(streamed)[0] == 5


@pytest.mark.parametrize(
    'option',
    ['--jobs 2', '--gpus 0,1', '--device cuda:1', '--compile', '--budget 1h', '--dry-run']
    + ['--list', '--status'],
)
def test_options_that_need_one_process_are_refused(option, monkeypatch, capsys):
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    assert run.main(['--methods', 'rfnet', *option.split()]) == 2
    named = option if option.startswith('--device') else option.split()[0]
    expected = f'error: {named}: expected one process, found 2; give it without torchrun\n'
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize('words', [['--help'], ['--metods', 'rfnet'], ['--jobs', 'x']])
def test_one_process_says_what_is_wrong_or_asked_for(words, monkeypatch, capsys):
    for name in ('stdout', 'stderr', 'excepthook'):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # which are replaced, and come back
    said = []
    for rank in ('0', '1'):
        for name, value in {**PLACE, 'RANK': rank}.items():
            monkeypatch.setenv(name, value)
        with contextlib.suppress(SystemExit):  # argparse ends the process after --help
            assert run.main(words) == 2
        told = capsys.readouterr()
        said.append(told.out + told.err)
    assert said[0]
    assert said[1] == ''


def test_torchrun_itself_starts_the_command(tmp_path):
    words = ['--methods', 'majority', '--datasets', 'synth_faces:train=14,val=10,test=11,size=24']
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command = [sys.executable, *launch, str(ROOT / 'benchmark/run.py'), *words, '--device', 'cpu']
    done = subprocess.run(
        [*command, '--results', str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = store.scan(tmp_path / 'runs').complete.values()
    assert found['environment']['processes'] == '2'
    assert done.stdout.count('synth_faces.md, .tex, .csv') == 1
