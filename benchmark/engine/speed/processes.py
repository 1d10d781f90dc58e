"""Two processes against one: two trainings at a time, and one training that both share."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmark.engine.building import cores, use_threads
from benchmark.engine.speed.measuring import Row, Sizes, in_turns, ratios, seconds
from benchmark.files import ROOT
from benchmark.registry import discover

DATASET = 'synth_faces'


def _trainer(pipe: Connection, sizes: Sizes) -> None:
    """Trains an epoch whenever the pipe says so, and ends with the pipe."""
    from benchmark.engine.speed import trainings
    from benchmark.engine.speed.cases import embedded

    warnings.filterwarnings('ignore', message='Multi-processing start method')  # of mmengine
    use_threads(1, 'cpu')
    discover()
    with tempfile.TemporaryDirectory() as folder:
        e = embedded(trainings.UNIFIED, DATASET, sizes, Path(folder))
        trainings.harness(e, Path(folder))
        pipe.send('ready')
        while pipe.recv():
            trainings.harness(e, Path(folder))
            pipe.send('done')


@contextmanager
def _trainers(count: int, sizes: Sizes) -> Iterator[list[Connection]]:
    """Starts processes that train when they are told to."""
    context, pipes, processes = multiprocessing.get_context('spawn'), [], []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_trainer, args=(theirs, sizes), daemon=True)
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


def jobs(sizes: Sizes) -> Row:
    """Compares two trainings in two processes at a time with the two one after the other."""

    def train(pipes: list[Connection]) -> None:
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()

    what = '`--jobs 2`: two trainings at a time / one after the other, without the start'
    if cores() < 2:
        return Row(what, [], note='one core')
    with _trainers(2, sizes) as pipes:
        pairs = in_turns(
            lambda: seconds(lambda: train(pipes)),
            lambda: sum(seconds(partial(train, [pipe])) for pipe in pipes),
            sizes.repeats,
        )
    return Row(what, ratios(pairs), '<= 0.60', f'{DATASET}, epochs of {sizes.samples} samples')


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
