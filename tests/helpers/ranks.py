"""Processes that compute together, forked from the one that runs the tests."""

import os
import pickle
import socket
from functools import partial

from benchmark.engine.parallel import processes
from tests.helpers.forks import ended, start


def run_in(count, folder, work):
    """Calls a function in several processes that know of each other.

    Args:
        count: Number of processes.
        folder: A folder in which nothing else is written.
        work: The function, without arguments; its result can be pickled.

    Returns:
        The results, in the order of the processes.
    """

    def joined(rank):
        place = {'init_method': f'file://{folder}/meeting', 'rank': rank, 'world_size': count}
        with processes.joined('cpu', **place), processes.together():
            return work()

    return forked(count, folder, joined)


def started(count, folder, work):
    """Calls a function in several processes that look as if `torchrun` had started them.

    Arguments and result are those of `run_in`.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    told = {'WORLD_SIZE': str(count), 'MASTER_ADDR': 'localhost', 'MASTER_PORT': port}

    def start(rank):
        os.environ.update(told, RANK=str(rank), LOCAL_RANK=str(rank))
        return work()

    return forked(count, folder, start)


def forked(count, folder, work):
    """Calls work(number) in several processes; arguments and result are those of `run_in`."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(rank):
        (folder / f'result{rank}').write_bytes(pickle.dumps(work(rank)))

    told = [folder / f'told{rank}' for rank in range(count)]
    children = [start(partial(keep, rank), told[rank]) for rank in range(count)]
    failed = [file.read_text() for file, child in zip(told, children, strict=True) if ended(child)]
    assert not failed, '\n'.join(failed)
    return [pickle.loads((folder / f'result{rank}').read_bytes()) for rank in range(count)]
