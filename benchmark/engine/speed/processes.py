"""Two processes against one: two trainings at a time, and one training that both share."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmark.engine.building import cores, use_threads
from benchmark.engine.memory import keep_freed
from benchmark.engine.speed.cases import compute_on, machine
from benchmark.engine.speed.measuring import Row, Sizes, in_turns, ratios, seconds
from benchmark.files import ROOT
from benchmark.registry import discover

DATASET, DENSE = 'synth_faces', 'synth_rooms'


Job = Callable[[], object]


def _training(sizes: Sizes, folder: Path) -> Job:
    """Prepares an epoch in the suite."""
    from benchmark.engine.speed import trainings
    from benchmark.engine.speed.cases import embedded

    keep_freed()
    e = embedded(trainings.UNIFIED, DATASET, sizes, folder)
    return lambda: trainings.in_suite(e, folder)


def _test(sizes: Sizes, folder: Path) -> Job:
    """Prepares the test of all subsets of a data set with dense labels."""
    from benchmark.engine.speed import testing, trainings
    from benchmark.engine.speed.cases import embedded, network

    e = embedded(trainings.UNIFIED, DENSE, sizes, folder)
    method = network(e).eval()
    return lambda: testing.tested(e, method, None)


def _test_with_kept_memory(sizes: Sizes, folder: Path) -> Job:
    """Prepares what `_test` does, in a process that keeps what is freed."""
    keep_freed()
    return _test(sizes, folder)


def _begin(device: str) -> None:
    """Sets a process up that was started to measure."""
    warnings.filterwarnings('ignore', message='Multi-processing start method')  # of mmengine
    use_threads(1, device)
    discover()
    compute_on(device)


def _work(
    pipe: Connection, sizes: Sizes, device: str, prepare: Callable[[Sizes, Path], Job]
) -> None:
    """Does a job whenever the pipe says so, and ends with the pipe."""
    _begin(device)
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(sizes, Path(folder))
        job()
        pipe.send('ready')
        while pipe.recv():
            job()
            pipe.send('done')


@contextmanager
def _workers(sizes: Sizes, *prepare: Callable[[Sizes, Path], Job]) -> Iterator[list[Connection]]:
    """Starts a process for each of some jobs, which does it when it is told to."""
    context, pipes, processes = multiprocessing.get_context('spawn'), [], []
    for one in prepare:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, sizes, machine().device, one), daemon=True
        )
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            pipe.recv()
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send(False)
            process.join()


def _done(pipes: list[Connection]) -> None:
    """Has some processes do their jobs at the same time, and waits for them."""
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()


def _memories(sizes: Sizes, device: str) -> list[float]:
    """Trains in this process, which keeps nothing that is freed; returns its memory by step."""
    from benchmark.engine.speed import trainings

    _begin(device)
    with tempfile.TemporaryDirectory() as folder:
        return trainings.memories(sizes, Path(folder))


def memory(sizes: Sizes) -> Row:
    """Compares the memory at the end of an epoch with that after a tenth of its steps.

    The epoch runs in a process of its own: one that has held more before would hide what is lost.
    """
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        found = pool.apply(_memories, (sizes, machine().device))
    early = found[len(found) // 10]
    what = f'memory of the process after {len(found)} training steps / after {len(found) // 10}'
    if not early:
        return Row(what, [], note='this system does not tell it')
    return Row(what, [found[-1] / early], '<= 1.02', f'{early:.0f} MiB and {found[-1]:.0f} MiB')


def kept(sizes: Sizes) -> Row:
    """Compares a process that keeps freed memory with one that gives it back to the system."""
    with _workers(sizes, _test_with_kept_memory, _test) as pipes:
        keeps, gives_back = (partial(seconds, partial(_done, [pipe])) for pipe in pipes)
        pairs = in_turns(keeps, gives_back, 2 * sizes.repeats - 1)
    what = 'test of all subsets in a process that keeps freed memory / in one that gives it back'
    return Row(f'{DENSE}: {what}', ratios(pairs))


def jobs(sizes: Sizes, count: int = 2) -> Row:
    """Compares trainings in as many processes at a time with the same ones one after the other."""
    named = 'two trainings' if count == 2 else f'{count} trainings'
    what = f'`--jobs {count}`: {named} at a time / one after the other, without the start'
    if cores() < count:
        return Row(what, [], note=f'{cores()} cores' if cores() > 1 else 'one core')
    with _workers(sizes, *[_training] * count) as pipes:
        pairs = in_turns(
            lambda: seconds(lambda: _done(pipes)),
            lambda: sum(seconds(partial(_done, [pipe])) for pipe in pipes),
            sizes.repeats,
        )
    goal = '<= 0.60' if count == 2 else ''
    return Row(what, ratios(pairs), goal, f'{DATASET}, epochs of {sizes.samples} samples')


def shared(sizes: Sizes) -> Row:
    """Compares a training that two processes share by torchrun with one of one process."""
    what = '`torchrun --nproc_per_node=2`: one training in two processes / in one'
    if cores() < 2:
        return Row(what, [], note='one core')
    found = [_trained(2, sizes), _trained(1, sizes)]
    if None in found:
        return Row(what, [], note='`torchrun` did not train in two processes')
    two, one = (x or 1.0 for x in found)
    note = f'{DATASET}, {two:.1f} s and {one:.1f} s without the start; gloo, one measurement'
    return Row(what, [two / one], '', note)


def together(sizes: Sizes) -> Row:
    """Compares the README's main command with one experiment at a time that has all cores."""
    what = "the README's main command / the same, one experiment at a time with all cores"
    if cores() < 2:
        return Row(what, [], note='one core')
    found = [_main_command(sizes), _main_command(sizes, '--jobs', '1', '--threads', str(cores()))]
    if None in found:
        return Row(what, [], note='the command failed')
    ours, alone = (x or 1.0 for x in found)
    note = f'{ours:.0f} s and {alone:.0f} s by the clock; one measurement'
    return Row(what, [ours / alone], '<= 0.60', note)


def _main_command(sizes: Sizes, *words: str) -> float | None:
    """Returns the wall seconds of the README's main command; None if it fails."""
    tiny = [f'{data}:train=16,val=16,test=16{sizes.embedded}' for data in (DATASET, DENSE)]
    short = ['--datasets', *tiny, '--cfg-options', 'epochs=2'] if sizes.embedded else []
    with tempfile.TemporaryDirectory() as results:
        command = [
            sys.executable, str(ROOT / 'benchmark/run.py'), '--methods', 'mmanet', 'rfnet',
            '--device', 'cpu', '--results', results, *short, *words,
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        return None if done.returncode else time.perf_counter() - start


def _trained(processes: int, sizes: Sizes) -> float | None:
    """Returns the seconds of a training, as its record states them; None if it did not come off."""
    launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    with tempfile.TemporaryDirectory() as results:
        command = [
            sys.executable, *(launch if processes > 1 else []), str(ROOT / 'benchmark/run.py'),
            '--methods', 'modality_dropout', '--device', 'cpu', '--results', results, '--threads',
            '1', '--datasets', f'{DATASET}:train={sizes.samples},val=32,test=32', '--cfg-options',
            'epochs=4', f'batch_size={min(64, sizes.samples // 2)}', 'warmup=0',
        ]  # fmt: skip
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=300
        )
        records = list(Path(results).glob('runs/**/record.json'))
        if done.returncode or len(records) != 1:
            return None
        record = json.loads(records[0].read_text())
    if record['environment'].get('processes', '1') != str(processes):
        return None
    return float(record['cost']['train_seconds'])
