"""Several processes that share the experiments of one command.

Each of them plans the whole command and takes what is free: the locks of the folders
(`benchmark.engine.locks`) deal the work out. What they tell goes to the process that started them,
which alone writes to the terminal.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from benchmark.dataset import Dataset
from benchmark.engine.building import cores, use_gpu
from benchmark.errors import UserError
from benchmark.progress import Progress, Reporter

MEMORY = 2 * 2**30
"""Bytes of the machine's memory that a job is expected to need: networks, a batch, data."""

Job = Callable[[Reporter], bool]
"""What a process does; it can be pickled."""


def usual(device: str, threads: int, opened: Iterable[Dataset], gpus: int = 0) -> int:
    """Returns how many experiments run at a time unless the user says otherwise.

    Small trainings on a CPU use one thread each and fill the cores side by side. Each GPU is left
    to one experiment. So are data that are decoded while they are read: their loader processes fill
    the cores.

    Args:
        device: 'cpu' or 'cuda'.
        threads: Threads of one experiment.
        opened: The data sets.
        gpus: How many GPUs were asked for.
    """
    if device != 'cpu':
        return max(1, gpus)
    if any(data.streams for data in opened):
        return 1
    fits = cores() // threads
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        fits = min(fits, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // MEMORY)
    return max(1, fits)


class Remote:
    """Tells a `Progress` in the process that started this one; an unknown method is its method.

    Args:
        pipe: Where the words go.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, word: str, *values: Any) -> None:
        """Sends a word; without a reader the process ends, as a killed one does."""
        try:
            self._pipe.send((word, values))
        except OSError:
            # Nobody waits for the results any more; trainings go on from the last epoch.
            os._exit(1)

    def start(self, dataset: str, label: str, seed: int) -> None:
        """Names the experiment that starts."""
        self.send('start', dataset, label, seed)

    def report(self, stage: str, epoch: int, epochs: int, seconds: float) -> None:
        """Takes note of finished epochs."""
        self.send('report', stage, epoch, epochs, seconds)

    def end(self, outcome: str) -> None:
        """Tells what became of the experiment."""
        self.send('end', outcome)

    def elsewhere(self, dataset: str, label: str, seed: int, outcome: str) -> None:
        """Tells what another process made of an experiment."""
        self.send('elsewhere', dataset, label, seed, outcome)

    def waiting(self, count: int) -> None:
        """Tells that nothing is left to do but what other processes run."""
        self.send('waiting', count)


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # What is written is whole, and trainings go on from the last epoch.
        os._exit(1)


def _work(job: Job, pipe: Connection, number: int, gpus: Sequence[int]) -> None:
    """The life of one process."""
    # A process that was killed can tell nobody, and an epoch may take hours.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # An interruption from the terminal reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Loader processes are forked, as elsewhere; mmengine warns of a method that was set.
    multiprocessing.set_start_method(None, force=True)
    use_gpu(gpus, number)
    remote = Remote(pipe)
    try:
        remote.send('ok', job(remote))
    except UserError:
        # The data or the results have changed since the plan; whoever waits meets it, and tells it.
        sys.exit(1)


def share(job: Job, count: int, progress: Progress, gpus: Sequence[int] = ()) -> bool | None:
    """Runs a job in several processes and shows what they tell.

    Args:
        job: What each process does.
        count: How many processes there are.
        progress: Shows what they tell.
        gpus: The GPUs that the processes get in turn, if some were chosen.

    Returns:
        Whether all of them found everything recorded in the end; None if one of them died.
    """
    context = multiprocessing.get_context('spawn')  # a forked process cannot use CUDA or threads
    pipes: dict[Connection, int] = {}
    processes: list[SpawnProcess] = []
    results: list[bool] = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, theirs, number, gpus))
            process.start()
            theirs.close()
            pipes[ours] = number
            processes.append(process)
        while pipes:
            ready = wait(pipes)
            for pipe in [pipe for pipe in pipes if pipe in ready]:
                try:
                    word, values = pipe.recv()
                except (EOFError, OSError):  # OSError: it was killed within a word
                    del pipes[pipe]
                    continue
                if word == 'ok':
                    results += values
                else:
                    getattr(progress, word)(*values, job=pipes[pipe])
        for number, process in enumerate(processes):
            process.join()
            if process.exitcode:
                print(f'job {number + 1} of {count} ended: {_how(process.exitcode)}', flush=True)
    finally:
        # Killing is safe at any moment: what is written is whole, and trainings are resumed.
        for process in processes:
            process.kill()
            process.join()
    return all(results) if len(results) == count else None


def _how(status: int) -> str:
    if status >= 0:
        return f'exit status {status}'
    return f'signal {-status} ({signal.strsignal(-status)})'
