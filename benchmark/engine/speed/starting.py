"""How long a command takes to answer, and to begin its first training step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence

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
TRAINING = ('--methods', 'modality_dropout', '--datasets', 'synth_faces', '--device', 'cpu')


def starts(sizes: Sizes) -> list[Row]:
    """Measures the seconds from the start of a process until it answers or trains."""
    cases = (
        ('`--help` answers', (COMMAND, '--help'), '<= 1'),
        ('a mistyped option is told', (COMMAND, '--metods', 'mmanet'), '<= 1'),
        ('`--list` answers', (COMMAND, '--list'), '<= 3'),
        ('the first training step of one experiment begins', ('-c', UNTIL_STEP, *TRAINING), '<= 6'),
    )
    return [
        Row(
            f'seconds until {what}', _seconds(words, sizes.repeats), goal, f'{sizes.repeats} starts'
        )
        for what, words, goal in cases
    ]


def _seconds(words: Sequence[str], repeats: int) -> list[float]:
    """Returns what some starts of Python took; one before them fills the system's caches."""

    def start() -> None:
        with tempfile.TemporaryDirectory() as results:
            out = ('--results', results, '--jobs', '1') if '-c' in words else ()
            subprocess.run(
                [sys.executable, *words, *out], capture_output=True, check=False, timeout=120
            )

    start()
    return [seconds(start) for _ in range(repeats)]
