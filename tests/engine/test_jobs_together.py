"""Jobs of one command: their GPUs, their display, a failure among them, and an interruption."""

import collections
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from forks import fork_jobs

from benchmark import run, running
from benchmark.engine import corruption_runs, grid, jobs, request
from benchmark.engine.building import Machine, use_threads
from benchmark.errors import UserError
from benchmark.progress import Progress
from benchmark.records import store

FORK = multiprocessing.get_context('fork')
"""Forks the jobs of a test: new processes would load the libraries anew."""


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that PyTorch finds four GPUs; holds the numbers that became the current one."""
    taken = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.cuda, 'set_device', taken.append)
    return taken


def placed(*words):
    return request.place(run.parser().parse_args([*words]))


def test_without_a_choice_several_experiments_share_all_gpus(gpus, monkeypatch):
    def found(count, *words, typed=True):
        args = run.parser().parse_args([*words])
        args.typed = typed
        return request.all_gpus(args, count)

    assert found(9) == (0, 1, 2, 3)
    assert found(3) == (0, 1, 2)
    assert found(1) == ()
    assert found(9, typed=False) == ()
    assert found(9, '--jobs', '1') == ()
    assert found(9, '--launcher', 'slurm') == ()
    with monkeypatch.context() as patch:  # torchrun gives each process one of them
        patch.setattr(request.arguments, 'processes', lambda: 4)
        assert found(9) == ()
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert found(9) == ()


def test_gpus_are_those_that_were_asked_for(gpus):
    assert placed() == ('cuda', ())
    assert placed('--device', 'cuda', '--jobs', '1') == ('cuda', ())
    assert placed('--jobs', '2') == ('cuda', (0, 1, 2, 3))
    assert placed('--gpus', '3,1') == ('cuda', (3, 1))
    assert placed('--gpus', '3,1', '--jobs', '6') == ('cuda', (3, 1))
    assert placed('--device', 'cuda:2', '--jobs', '2') == ('cuda', (2,))
    assert placed('--device', 'cpu', '--jobs', '2') == ('cpu', ())
    for words, told in (
        (('--gpus', '0,4'), '--gpus 0,4: expected some of the GPUs 0 to 3, found 4'),
        (('--device', 'cuda:9'), '--device cuda:9: expected some of the GPUs 0 to 3, found 9'),
    ):
        with pytest.raises(UserError, match=told):
            placed(*words)


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--gpus', '0,1'], '--gpus 0,1: no CUDA device was found'),
        (['--device', 'cuda:1'], '--device cuda:1: no CUDA device was found'),
        (['--device', 'cuda'], '--device cuda: no CUDA device was found'),
        (['--gpus', '0,0'], '--gpus: expected each GPU once, found 0,0'),
        (['--gpus', '0;1'], "--gpus: expected numbers of GPUs, e.g. 0,1, found '0;1'"),
        (['--gpus=-1'], "--gpus: expected numbers of GPUs, e.g. 0,1, found '-1'"),
        (['--gpus', '0', '--device', 'cpu'], '--gpus: expected no --device cpu beside it'),
        (['--gpus', '0', '--device', 'cuda:1'], '--gpus: expected no --device cuda:1 beside it'),
        (['--device', 'cuda:x'], "e.g. cuda:1, found 'cuda:x'"),
        (['--device', 'gpu'], 'expected auto, cpu, cuda or the number of a GPU'),
    ],
)
def test_gpus_that_cannot_be_had_are_one_line(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert run.main(['--methods', 'majority', '--results', str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert told in line


def tells_its_gpu(reporter):
    """A job that tells which GPU is the current one."""
    reporter.start('toy', str(torch.cuda.current_device()), 0)
    reporter.end('well')
    return True


@pytest.mark.parametrize(('chosen', 'found'), [((3, 1), [1, 1, 3, 3, 3]), ((), 5 * ['none'])])
def test_jobs_get_the_gpus_in_turn(chosen, found, monkeypatch, capsys):
    current = ['none']
    monkeypatch.setattr(torch.cuda, 'set_device', current.append)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: current[-1])
    fork_jobs(monkeypatch.setattr)
    with Progress({}, 5, jobs=5) as progress:
        assert jobs.share(tells_its_gpu, 5, progress, chosen)
    told = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert sorted(told) == sorted(map(str, found))
    assert current == ['none']  # this process holds no memory of a GPU


def test_a_process_that_computes_itself_takes_the_first_gpu(gpus, monkeypatch, tmp_path, capsys):
    machine = Machine('cuda', gpus=(2, 1))
    assert grid.execute([], machine, False, str)
    assert gpus == [2]
    monkeypatch.setattr(corruption_runs, 'pending', lambda *_: [(None, None)])
    monkeypatch.setattr(corruption_runs, 'show', lambda *_: None)
    monkeypatch.setattr(corruption_runs, 'work', lambda *_: True)
    assert corruption_runs.execute([], machine, None)
    assert gpus == [2, 2]
    # A plan measures steps.
    monkeypatch.setattr(running, 'prepare', lambda *_: ([None], machine))
    monkeypatch.setattr(running, 'show_plan', lambda *_: len(gpus) == 3)
    assert run.main(['--methods', 'majority', '--results', str(tmp_path), '--dry-run']) == 0
    assert gpus == [2, 2, 2]


def test_each_gpu_has_a_job_and_jobs_share_the_cores(monkeypatch):
    assert jobs.usual('cuda', 1, [], 3) == 3
    found = []
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(torch, 'set_num_threads', found.append)
    monkeypatch.setattr('benchmark.engine.building.cores', lambda: 16)
    for threads, device, count in (
        (None, 'cuda', 1), (None, 'cuda', 3), (None, 'cuda', 99), (2, 'cuda', 3), (None, 'cpu', 3)
    ):  # fmt: skip
        use_threads(threads, device, count)
    assert found == [5, 1, 2, 1]


class Terminal:
    """A stream that says it is a terminal, and keeps what is written to it."""

    def __init__(self):
        self.text = ''

    def write(self, text):
        """Keeps the text."""
        self.text += text

    def flush(self):
        """Does nothing: the text is kept already."""

    def isatty(self):
        return True


def test_on_a_terminal_all_jobs_are_in_one_display(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setenv('TERM', 'xterm')
    with Progress({'faces': 8}, 4, jobs=3) as progress:
        progress.start('faces', 'mmanet', 0, job=0)
        progress.start('faces', 'rfnet', 1, job=2)
        progress.report('training', 0, 4, 0.0, job=0)
        progress.report('training', 2, 4, 6.0, job=0)
        progress.report('teacher complete', 1, 4, 3.0, job=2)
        stream.text = ''
        progress._display.refresh()
        lines = [line for line in stream.text.split('\n') if 'faces' in line]
    assert ['mmanet  seed 0 | training 2/4' in line for line in lines] == [True, False]
    assert ['rfnet  seed 1 | teacher complete 1/4' in line for line in lines] == [False, True]
    # The time of all jobs together is told once: five epochs at 3 s each, three at a time.
    assert ['0:05 left' in line for line in lines] == [True, False]


METHODS = """
import os
import time
from pathlib import Path

from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout

HERE = Path(__file__).parent


@METHODS.register_module('breaks')
class Breaks(ModalityDropout):
    '''Fails in its first step.'''

    def loss(self, batch):
        raise RuntimeError('it broke')


@METHODS.register_module('waits')
class Waits(ModalityDropout):
    '''Waits in its second epoch until it may go on.'''

    def loss(self, batch):
        with (HERE / 'steps').open('a') as file:
            file.write(f'{os.getpid()} {self.epoch}\\n')
        while self.epoch == 1 and not (HERE / 'go').exists():
            time.sleep(0.01)
        return super().loss(batch)
"""


def types(folder, count):
    """Types a command with some jobs in a process group of its own, as a shell does."""
    os.setpgrp()
    # A suite that runs in the background ignores the signal, and its processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(n, 'w', buffering=1) for n in (1, 2))
    fork_jobs()
    file = folder / 'own.py'
    sys.argv = [
        'run.py', '--methods', f'{file}:breaks', 'majority', f'{file}:waits', '--seeds', '0', '1',
        '--datasets', 'synth_faces', '--results', str(folder / 'results'), '--jobs', str(count),
        '--device', 'cpu', '--cfg-options', 'train=16', 'val=8', 'test=8', 'size=16', 'width=8',
        'batch_size=8', 'epochs=2',
    ]  # fmt: skip
    sys.exit(run.main())


def steps(folder):
    """Process -> the epochs of the steps that it began."""
    found = collections.defaultdict(list)
    if (folder / 'steps').exists():
        for line in (folder / 'steps').read_text().splitlines():
            process, epoch = line.split()
            found[int(process)].append(int(epoch))
    return found


def runs(processes):
    return [p for p in processes if Path(f'/proc/{p}').exists()]


def test_a_failure_stops_nothing_and_ctrl_c_stops_all_and_everything_resumes(tmp_path):
    (tmp_path / 'own.py').write_text(METHODS)
    command = FORK.Process(target=types, args=(tmp_path, 2))
    command.start()
    until = time.monotonic() + 200
    while time.monotonic() < until and command.is_alive():
        if [epochs.count(1) for epochs in steps(tmp_path).values()] == [1, 1]:
            break
        time.sleep(0.02)
    first = steps(tmp_path)
    assert len(first) == 2, (tmp_path / 'err').read_text()
    # The terminal sends Ctrl-C to all processes of the command.
    os.killpg(command.pid, signal.SIGINT)
    command.join(60)
    if command.exitcode is None:
        os.killpg(command.pid, signal.SIGKILL)
    assert command.exitcode == 130
    assert runs(first) == []
    told = (tmp_path / 'out').read_text()
    assert told.count('FAILED: RuntimeError: it broke') == 2
    assert 'interrupted; the same command goes on from here' in (tmp_path / 'err').read_text()
    labels = [r['method']['name'] for r in store.scan(tmp_path / 'results').complete.values()]
    assert labels == ['majority', 'majority']

    (tmp_path / 'go').touch()
    command = FORK.Process(target=types, args=(tmp_path, 1))
    command.start()
    command.join()
    assert command.exitcode == 1
    told = (tmp_path / 'out').read_text()
    assert '2 of 6 experiments are recorded already' in told
    assert told.count('FAILED: RuntimeError: it broke') == 2
    second = {p: epochs for p, epochs in steps(tmp_path).items() if p not in first}
    assert sorted(sum(second.values(), [])) == [1, 1, 1, 1]
    records = store.scan(tmp_path / 'results').complete.values()
    found = collections.Counter(r['method']['name'] for r in records)
    assert found == {'majority': 2, 'waits': 2}
