"""Kills runs at random moments, and lets several processes share a results folder.

python tools/processes.py --kills 50 --together 2 4 8

A killed run, once the same command has been repeated, must have left the record and the outcomes of
a run that nobody disturbed, apart from times, and no leftovers. Of the processes that share a
folder, exactly one must have trained each network, and every record must be that of a process
alone. Processes are forked after the imports, so that a moment is one of the run.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
sys.path.append(str(ROOT / 'tests' / 'helpers'))

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import torch  # noqa: E402
from repetitions import scientific  # noqa: E402

from benchmark import run  # noqa: E402
from benchmark.engine.contents import LEFTOVERS  # noqa: E402
from benchmark.records import store  # noqa: E402

DATA = ['train=32', 'val=16', 'test=16', 'size=24', 'width=8', 'batch_size=16', 'selection=worst']
WORDS = ['--datasets', 'synth_faces', '--device', 'cpu', '--cfg-options', *DATA]
KILLED = ['distilled']
"""The methods of a run that is killed; its teacher is trained in it."""
SHARED = ['complete', 'distilled', 'lcr', 'modality_dropout']
"""The methods of processes that share a folder; two of them share a teacher, the first one."""

Found = dict[str, tuple[dict, bytes]]
"""Place of a run in the results -> its record without times, and its outcomes."""


def start(results: Path, methods: list[str]) -> int:
    """Starts a process that runs methods, printing to a file beside the results; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        sink = os.open(results.with_suffix('.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        status = run.main(['--results', str(results), '--methods', *methods, *WORDS, 'epochs=3'])
        sys.stdout.flush()
    except BaseException:  # whatever it is, this process must not go on as a copy of its parent
        status = 70
    os._exit(status)


def status_of(pid: int) -> int:
    """Waits for a process; returns its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def found(results: Path) -> Found:
    """Returns what the runs in a results folder have left."""
    return {
        str(file.parent.relative_to(results)): (
            scientific(store.read(file)),
            file.with_name(store.OUTCOMES).read_bytes(),
        )
        for file in sorted((results / 'runs').rglob(store.RECORD))
    }


def leftovers(results: Path) -> list[str]:
    """Returns the files in the folders of runs that no finished run should leave."""
    names = ('.*', *LEFTOVERS)
    return [str(path) for name in names for path in (results / 'runs').rglob(name)]


def trainings(results: Path) -> dict[str, int]:
    """Returns how many epochs were trained in each folder, as its log tells."""
    return {
        str(log.parent.relative_to(results)): log.read_text().count(': loss')
        for log in (results / 'runs').rglob('train.log')
    }


def kill(folder: Path, count: int, seed: int) -> int:
    """Kills runs and repeats them; returns how many ended in another record."""
    whole = folder / 'whole'
    begun = time.perf_counter()
    if status_of(start(whole, KILLED)):
        raise SystemExit((folder / 'whole.txt').read_text())
    seconds, expected = time.perf_counter() - begun, found(whole)
    dice, wrong, died, unfinished = random.Random(seed), 0, 0, 0
    for number in range(count):
        results = folder / f'kill{number}'
        pid = start(results, KILLED)
        time.sleep(dice.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        died += status_of(pid) == -signal.SIGKILL
        unfinished += found(results) != expected
        ended = status_of(start(results, KILLED))
        if ended or found(results) != expected or leftovers(results):
            wrong += 1
            print(f'kill {number}: status {ended}, left over: {leftovers(results)}')
            print(results.with_suffix('.txt').read_text())
        shutil.rmtree(results)
    print(
        f'{count} runs of {seconds:.1f} s, {died} killed while they ran, {unfinished} before they '
        f'had a record: {count - wrong} ended in the record and outcomes of an undisturbed run'
    )
    return wrong


def together(folder: Path, processes: int) -> int:
    """Lets processes share a results folder; returns how many of the two ways went wrong."""
    alone = folder / 'alone'
    if not alone.exists() and status_of(start(alone, SHARED)):
        raise SystemExit((folder / 'alone.txt').read_text())
    expected, epochs = found(alone), trainings(alone)
    wrong = 0
    for way, spread in (('the same command', False), ('one method each', True)):
        results = folder / f'{"spread" if spread else "same"}{processes}'
        words = [[SHARED[k % len(SHARED)]] if spread else SHARED for k in range(processes)]
        ended = [status_of(pid) for pid in [start(results, methods) for methods in words]]
        runs = found(results)
        fine = (
            not any(ended)
            and not leftovers(results)
            and trainings(results).items() <= epochs.items()
        )
        fine = fine and all(runs[place] == expected[place] for place in runs)
        fine = fine and len(runs) >= min(processes, len(SHARED))
        wrong += not fine
        print(f'{processes} processes, {way}: {len(runs)} runs, {"once each" if fine else "WRONG"}')
        if not fine:
            print(ended, trainings(results), epochs, leftovers(results))
            print(results.with_suffix('.txt').read_text())
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Runs what was asked for; returns 1 if anything went wrong."""
    p = argparse.ArgumentParser(prog='tools/processes.py', description=__doc__.split('\n')[0])
    p.add_argument('--kills', type=int, default=50, help='runs to kill')
    p.add_argument(
        '--together', nargs='*', type=int, default=[2, 4, 8], help='numbers of processes'
    )
    p.add_argument('--seed', type=int, default=0, help='seed of the moments')
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # Whatever is imported or drawn once is so before the processes are forked.
        with contextlib.redirect_stdout(io.StringIO()):
            run.main(['--results', f'{folder}/warm', '--methods', *SHARED, *WORDS, 'epochs=1'])
        wrong = kill(Path(folder), args.kills, args.seed) if args.kills else 0
        wrong += sum(together(Path(folder), count) for count in args.together)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
