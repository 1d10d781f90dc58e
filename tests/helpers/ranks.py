"""Processes that compute together, forked from the one that runs the tests."""

import os
import pickle
import traceback

from benchmark.engine.parallel import processes


def run_in(count, folder, work):
    """Calls a function in several processes that know of each other.

    Args:
        count: Number of processes.
        folder: A folder in which nothing else is written.
        work: The function, without arguments; its result can be pickled.

    Returns:
        The results, in the order of the processes.
    """
    children = [_fork(rank, count, folder, work) for rank in range(count)]
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    told = [(folder / f'error{rank}').read_text() for rank, status in enumerate(ended) if status]
    assert not any(ended), '\n'.join(told)
    return [pickle.loads((folder / f'result{rank}').read_bytes()) for rank in range(count)]


def _fork(rank, count, folder, work):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        place = {'init_method': f'file://{folder}/meeting', 'rank': rank, 'world_size': count}
        with processes.joined('cpu', **place):
            found = work()
        (folder / f'result{rank}').write_bytes(pickle.dumps(found))
        status = 0
    except BaseException:
        (folder / f'error{rank}').write_text(traceback.format_exc())
    finally:
        os._exit(status)
