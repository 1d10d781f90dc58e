"""The process that imports the libraries once for all experiments of a command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import run
from benchmark.engine import prefork
from benchmark.files import ROOT

COMMAND = ['--methods', 'mmanet', 'rfnet', '--device', 'cpu']

BESIDE = """
import os
import time
from pathlib import Path

from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('beside')
class Beside(ModalityDropout):
    def train_step(self, *arguments, **named):
        Path(os.environ['BEGUN'], f'{os.getpid()}-{os.getppid()}').touch()
        while 'GO' not in os.environ and not Path(os.environ['BEGUN'], 'go').exists():
            time.sleep(0.01)
        return super().train_step(*arguments, **named)
"""
"""A method that tells its process and the parent of that, and waits until a file lets it train."""


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (COMMAND, True),
        ([*COMMAND, '--jobs', '4'], True),
        ([*COMMAND, '--jobs', '1'], False),
        ([*COMMAND, '--dry-run'], False),
        ([*COMMAND, '--launcher', 'slurm'], False),
        (['--methods', 'mmanet', '--datasets', 'synth_faces'], False),
        (['--methods', 'mmanet', '--datasets', 'synth_faces', '--seeds', '0', '1'], True),
        (['--methods', 'mmanet', '--datasets', 'synth_faces', '--tune', '8'], True),
        (['--methods', 'mmanet', '--datasets', 'arrays', '--data-root', 'a.npz', 'b.npz'], True),
        (['--grid', 'reference'], True),
    ],
)
def test_it_is_started_where_a_command_may_run_several_experiments(words, expected, monkeypatch):
    monkeypatch.setattr(prefork, 'DRIVERS', ())
    monkeypatch.setattr(prefork, 'cores', lambda: 2)
    args = run.parser().parse_args(words)
    assert not prefork.fits(args)  # PyTorch has been imported
    monkeypatch.delitem(sys.modules, 'torch')
    assert prefork.fits(args) == expected
    monkeypatch.setattr(prefork, 'cores', lambda: 1)
    assert not prefork.fits(args)


def test_where_there_is_a_gpu_it_is_started_for_a_command_on_the_cpu_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(prefork, 'DRIVERS', (str(tmp_path),))
    monkeypatch.setattr(prefork, 'cores', lambda: 2)
    monkeypatch.delitem(sys.modules, 'torch')
    assert prefork.fits(run.parser().parse_args(COMMAND))
    assert not prefork.fits(run.parser().parse_args(COMMAND[:-2]))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A command with two experiments that have both begun; it runs in a folder of its own."""
    (tmp_path / 'beside.py').write_text(BESIDE)
    # A package of this name in the folder of the command is not the project's.
    (tmp_path / 'benchmark').mkdir()
    (tmp_path / 'benchmark' / '__init__.py').write_text("raise SystemExit('the decoy')")
    begun = tmp_path / 'begun'
    begun.mkdir()
    words = ['--methods', 'beside.py:beside', '--datasets', 'synth_faces', '--seeds', '0', '1']
    sizes = ['epochs=2', 'train=8', 'val=8', 'test=8', 'batch_size=8']
    words += ['--device', 'cpu', '--jobs', '2', '--threads', '1', '--results', 'results']
    with subprocess.Popen(
        [sys.executable, str(ROOT / 'benchmark' / 'run.py'), *words, '--cfg-options', *sizes],
        cwd=tmp_path, env={**os.environ, 'BEGUN': str(begun)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as command:  # fmt: skip
        try:
            while len(list(begun.iterdir())) < 2 and command.poll() is None:
                time.sleep(0.05)
            yield command, begun
        finally:
            if command.poll() is None:
                os.killpg(command.pid, signal.SIGKILL)


def parents(begun):
    """Returns the processes of the experiments and their parents."""
    pairs = [tuple(map(int, file.name.split('-'))) for file in begun.iterdir()]
    return [child for child, _ in pairs], {parent for _, parent in pairs}


def alive(pid):
    """Returns whether a process works; one that only waits to be collected does not."""
    try:
        status = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return False
    return status.rpartition(')')[2].split()[0] != 'Z'


def ended(pids):
    """Returns whether processes end within some seconds."""
    for _ in range(300):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != 'linux', reason='it is started under Linux alone')
def test_both_experiments_are_forked_from_one_process_that_ends_with_the_command(started):
    command, begun = started
    children, (server,) = parents(begun)
    assert server not in (command.pid, os.getpid())
    assert len(set(children)) == 2
    (begun / 'go').touch()
    told, _ = command.communicate(timeout=120)
    assert command.returncode == 0, told
    assert 'the decoy' not in told
    assert ended([server, *children])


@pytest.mark.skipif(sys.platform != 'linux', reason='it is started under Linux alone')
def test_an_interruption_ends_all_of_them(started):
    command, begun = started
    children, (server,) = parents(begun)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    told, _ = command.communicate(timeout=120)
    assert command.returncode == 130
    assert 'Traceback' not in told
    assert ended([server, *children])
