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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any

from benchmark.dataset import Dataset
from benchmark.engine import forking
from benchmark.engine.building import use_gpu
from benchmark.engine.granted import cores, memory
from benchmark.errors import UserError
from benchmark.progress import Progress, Reporter

MEMORY = 2 * 2**30
"""Bytes of the machine's memory that a job is expected to need: networks, a batch, data."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of what was interrupted, as shells report it."""

Job = Callable[[Reporter], bool]
"""What a process does; it can be pickled."""

Blame = Callable[[Path, str], bool]
"""Takes the folder of what has ended two processes, and how they ended; returns whether no process
that starts from now on runs it."""

TWICE = 2
"""Deaths of processes after which what ran in them is to blame; one may have had another cause."""


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
    return max(1, int(min(cores() // threads, memory() // MEMORY)))


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

    def start(self, dataset: str, label: str, seed: int, folder: Path | None = None) -> None:
        """Names the experiment that starts, and its folder."""
        self.send('start', dataset, label, seed, folder)

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
    # `forking.starting` keeps it from this one, and this from those that it starts.
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
    except KeyboardInterrupt:
        # Code of a method has raised it: that of the terminal does not arrive here.
        os._exit(INTERRUPTED)


class Crew:
    """The processes that run a job, each of which has a number from 0.

    Where one dies, the others go on, and one of them takes what it left. What has ended `TWICE`
    processes is to blame; then all numbers have a process again. So they have if all have died.

    Args:
        job: What each process does.
        count: How many processes there are.
        progress: Shows what they tell.
        gpus: The GPUs that the processes get in turn, if some were chosen.
        blame: Takes what is to blame, so that no process runs it again.
    """

    def __init__(
        self,
        job: Job,
        count: int,
        progress: Progress,
        gpus: Sequence[int],
        blame: Blame | None,
    ) -> None:
        self.job, self.count, self.progress, self.gpus = job, count, progress, gpus
        self.blame = blame
        self.pipes: dict[Connection, int] = {}
        self.processes: dict[int, ForkServerProcess | SpawnProcess] = {}
        self.results: dict[int, bool] = {}
        self.deaths: Counter[Path] = Counter()

    def fill(self) -> None:
        """Starts a process for each number that has none and has no result."""
        context = forking.context()
        for number in range(self.count):
            if number in self.results or number in self.processes:
                continue
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(self.job, theirs, number, self.gpus))
            # An interruption at the end of the block finds the process among those to be ended.
            with forking.starting():
                process.start()
                theirs.close()
                self.pipes[ours] = number
                self.processes[number] = process

    def listen(self) -> None:
        """Shows what the processes tell until all of them have ended."""
        while self.pipes:
            ready = wait(self.pipes)
            for pipe in [pipe for pipe in self.pipes if pipe in ready]:
                number = self.pipes[pipe]
                try:
                    word, values = pipe.recv()
                except (EOFError, OSError):  # OSError: it was killed within a word
                    del self.pipes[pipe]
                    self._ended(number)
                    continue
                if word == 'ok':
                    (self.results[number],) = values
                else:
                    getattr(self.progress, word)(*values, job=number)

    def _ended(self, number: int) -> None:
        """Takes note of the end of a process; one that has died may be replaced."""
        process = self.processes.pop(number)
        process.join()
        # Code of a method may end its process with status 0.
        if number in self.results:
            return
        how, folder = _how(process.exitcode or 0), self.progress.lost(number).folder
        print(f'job {number + 1} of {self.count} ended: {how}', flush=True)
        if folder is None or self.blame is None:
            return  # another process would not get further, and tells nothing else
        self.deaths[folder] += 1
        # While another process holds it, nothing can be said of it; that process ends, too.
        barred = self.deaths[folder] >= TWICE and self.blame(folder, how)
        # What a full disk keeps from being barred would end processes without an end.
        if barred or (not self.pipes and self.deaths[folder] < TWICE + self.count):
            self.fill()

    def end(self) -> None:
        """Ends the processes that still run."""
        # Killing is safe at any moment: what is written is whole, and trainings are resumed.
        for process in self.processes.values():
            process.kill()
            process.join()


def share(
    job: Job,
    count: int,
    progress: Progress,
    gpus: Sequence[int] = (),
    blame: Blame | None = None,
) -> bool | None:
    """Runs a job in several processes and shows what they tell.

    Args:
        job: What each process does.
        count: How many processes there are.
        progress: Shows what they tell.
        gpus: The GPUs that the processes get in turn, if some were chosen.
        blame: Takes what has ended several processes, so that no process runs it again; without it
            no process that has died is replaced.

    Returns:
        Whether all of them found everything recorded in the end; None if one of them has died and
        was not replaced.
    """
    crew = Crew(job, count, progress, gpus, blame)
    try:
        crew.fill()
        crew.listen()
    finally:
        crew.end()
    return all(crew.results.values()) if len(crew.results) == count else None


def _how(status: int) -> str:
    if status >= 0:
        return f'exit status {status}'
    return f'signal {-status} ({signal.strsignal(-status)})'
