"""How long a command takes to answer, and to begin its first training step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmark.engine.speed.measuring import Row, Sizes, seconds
from benchmark.files import ROOT

COMMAND = str(ROOT / 'benchmark/run.py')
UNTIL_STEP = f"""
import os, runpy, sys
sys.path[0] = {str(ROOT / 'benchmark')!r}
sys.argv = [{COMMAND!r}, *sys.argv[1:]]
sys.path.insert(0, {str(ROOT)!r})
from benchmark.method import Method
del sys.path[0]
Method.train_step = lambda *_, **__: os._exit(0)
runpy.run_path({COMMAND!r}, run_name='__main__')
"""
"""A program that runs the command of its arguments and ends where the first training step begins.

All that it imports earlier than the command would, the command imports, too.
"""
WAITING = """
import os
import time
from pathlib import Path

from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('waiting')
class Waiting(ModalityDropout):
    def train_step(self, *_, **__):
        Path(os.environ['BEGUN'], str(os.getpid())).touch()
        time.sleep(LONGEST)
        os._exit(1)
"""
"""A method that leaves a file where its first training step begins, waits, and ends its process."""

LONGEST = 120
"""Seconds after which a start is given up."""

WRONG = 'rfnet:fuse_stat=0.1'
TRAINING = ('--methods', 'modality_dropout', '--datasets', 'synth_faces', '--device', 'cpu')


def starts(sizes: Sizes) -> list[Row]:
    """Measures the seconds from the start of a process until it answers or trains."""
    cases = (
        ('`--help` answers', (COMMAND, '--help'), '<= 1'),
        ('a mistyped option is told', (COMMAND, '--metods', 'mmanet'), '<= 1'),
        ('a mistyped option of a method is told', (COMMAND, '--methods', WRONG), '<= 1'),
        ('`--list` answers', (COMMAND, '--list'), '<= 3'),
        ('the first training step of one experiment begins', ('-c', UNTIL_STEP, *TRAINING), '<= 6'),
    )
    note = f'{sizes.repeats} starts'
    rows = [
        Row(f'seconds until {what}', _seconds(words, sizes.repeats), goal, note)
        for what, words, goal in cases
    ]
    two = [_two() for _ in range(sizes.repeats)]
    return [*rows, Row('seconds until two experiments at a time train', two, '<= 6', note)]


def _seconds(words: Sequence[str], repeats: int) -> list[float]:
    """Returns what some starts of Python took; one before them fills the system's caches."""

    def start() -> None:
        with tempfile.TemporaryDirectory() as results:
            out = ('--results', results, '--jobs', '1') if '-c' in words else ()
            subprocess.run(
                [sys.executable, *words, *out], capture_output=True, check=False, timeout=LONGEST
            )

    start()
    return [seconds(start) for _ in range(repeats)]


def _two() -> float:
    """Returns the seconds until both processes of `--jobs 2` have begun their first step.

    Raises:
        RuntimeError: They do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        begun, method = Path(folder, 'begun'), Path(folder, 'waiting.py')
        begun.mkdir()
        method.write_text(WAITING.replace('LONGEST', str(LONGEST)), encoding='utf-8')
        words = [sys.executable, COMMAND, '--methods', f'{method}:waiting', *TRAINING[2:]]
        words += ['--seeds', '0', '1', '--jobs', '2', '--threads', '1', '--results', folder]
        start = time.perf_counter()
        with subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, 'BEGUN': str(begun)},
            start_new_session=True,
        ) as command:
            try:
                while (took := time.perf_counter() - start) < LONGEST and command.poll() is None:
                    if len(list(begun.iterdir())) == 2:
                        break
                    time.sleep(0.01)
            finally:
                # An interruption does not reach it, whose session is its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGKILL)
        if len(list(begun.iterdir())) < 2:
            raise RuntimeError(f'two experiments did not begin to train within {took:.0f} s')
    return took
