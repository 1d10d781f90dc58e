"""The processes that `torchrun` has started: their number, and what they exchange.

Process 0 leads: it alone reads and writes the results folder, prints, and decides what is done.
The others compute shares of trainings and tests. A command without `torchrun` is one process that
leads; every function here then does nothing or returns its argument.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from benchmark.errors import UserError

T = TypeVar('T')

PATIENCE = 60.0
"""Seconds that a process in which something failed waits for the others to notice."""

_FOREVER = datetime.timedelta(days=30)
"""The others wait for as long as the leading process writes tables or waits for a folder."""

_words: list[Any] = []
"""The group of processes that words go through, apart from the tensors of a training."""

_together: list[bool] = []
"""Not empty while the processes work on one thing."""


class Stopped(Exception):
    """The leading process has given up what the others were helping with."""


def count() -> int:
    """Returns the number of processes that were started."""
    return dist.get_world_size() if _words else 1


def here() -> int:
    """Returns how many of them were started on this machine."""
    return _started() if count() > 1 else 1


def _started() -> int:
    """Returns how many processes `torchrun` says that it started on this machine."""
    return int(os.environ.get('LOCAL_WORLD_SIZE', '1'))


def world() -> int:
    """Returns the number of processes that work on the same thing now: 1 outside `together`."""
    return count() if _together else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if _words else 0


def leads() -> bool:
    """Returns whether this process reads, writes and decides."""
    return rank() == 0


@contextlib.contextmanager
def joined(device: str, **place: Any) -> Iterator[None]:
    """Joins the processes of `torchrun` until the block ends.

    Args:
        device: 'cpu' or 'cuda'; each process takes the GPU of its number on this machine.
        **place: Where the processes meet, as of `torch.distributed.init_process_group`; by default
            what `torchrun` says.

    Raises:
        UserError: This machine has fewer GPUs than processes.
    """
    if device == 'cuda':
        _check_gpus()
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if device == 'cuda' else 'gloo', **place)
    try:
        # Words need no GPU, and nobody knows how long the next one takes.
        _words.append(dist.new_group(backend='gloo', timeout=_FOREVER))
        yield
    finally:
        _words.clear()
        dist.destroy_process_group()


def _check_gpus() -> None:
    gpus, started = torch.cuda.device_count(), _started()
    if started <= gpus:
        return
    told = (
        f'torchrun: expected at most one process for each GPU of a machine, found {started} '
        f'processes and {gpus} GPU{"s" if gpus > 1 else ""}; start fewer, or give --device cpu'
    )
    # The first process of all may be on another machine, and sees other GPUs.
    if os.environ['LOCAL_RANK'] == '0' != os.environ['RANK']:
        print(f'error: {told}', file=sys.__stderr__, flush=True)
    raise UserError(told)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Makes the processes share the work of the block, which all of them have to enter."""
    _together.append(True)
    try:
        yield
    finally:
        _together.pop()


def everyone(value: T) -> list[T]:
    """Returns the values of all processes, in their order."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value, group=_words[0])
    return found


def say(value: Any) -> None:
    """Sends a value from the leading process to the others."""
    if count() > 1:
        dist.broadcast_object_list([value], 0, _words[0])


def hear() -> Any:
    """Returns what the leading process says next.

    Raises:
        Stopped: It has given up.
    """
    box: list[Any] = [None]
    dist.broadcast_object_list(box, 0, _words[0])
    if isinstance(box[0], Stopped):
        raise box[0]
    return box[0]


def told(make: Callable[[], T]) -> T:
    """Returns in all processes that work together what the leading one finds out.

    Args:
        make: Finds it out. If it fails, the leading process has to say `Stopped` (`stopping`).

    Raises:
        Stopped: The leading process has failed.
    """
    if world() == 1:
        return make()
    if not leads():
        return hear()
    value = make()
    say(value)
    return value


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Tells the others that the leading process has failed in what they help with."""
    try:
        yield
    except (Exception, SystemExit) as error:
        with _deadline(error):
            try:
                say(Stopped())
                _meet()
            except RuntimeError:  # this error may follow from that; the experiment has not failed
                _end(
                    'another process has ended, which ends all; the same command goes on from the '
                    'last epoch'
                )
        raise


def stopped(error: BaseException) -> None:
    """Waits, in a process other than the leading one, until that one has failed as well.

    An error in one process alone ends the command: the others wait for that process in the middle
    of a step, and nothing but their end frees them.

    Args:
        error: Why this process does not go on.
    """
    with _deadline(error):
        try:
            if not isinstance(error, Stopped):
                with contextlib.suppress(Stopped):
                    hear()
                    _die(error)
            _meet()
        except RuntimeError:  # the leading process has ended; it has told why, unless it was killed
            _end()


def _meet() -> None:
    dist.barrier(_words[0])


@contextlib.contextmanager
def _deadline(error: BaseException) -> Iterator[None]:
    """Ends the process if the block takes longer than `PATIENCE`."""
    timer = threading.Timer(PATIENCE, _die, [error])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _die(error: BaseException) -> None:
    _end(f'process {rank()} of {count()} alone failed, which ends all: {_line(error)}')


def _line(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'


def _end(line: str = '') -> None:
    """Ends the process, whatever its threads wait for, after a line if there is one."""
    if line:
        print(f'error: {line}', file=sys.__stderr__, flush=True)
    os._exit(1)


def agreed(make: Callable[[], T], sign: Callable[[T], Any]) -> T:
    """Returns what every process makes for itself, if all make the same.

    Args:
        make: Makes it.
        sign: Returns what must be equal in all processes.

    Raises:
        UserError: A process could not make it, or has made something else.
        Exception: In the process that failed first alone, if that was no mistake of the user.
    """
    if count() == 1:
        return make()
    found: Any = None
    error: BaseException | None = None
    try:
        found = make()
        mine: tuple[str, Any] = ('', sign(found))
    except (Exception, SystemExit) as raised:  # else the others would wait for this process
        error, mine = raised, (_line(raised), None)
    with together():
        every = everyone(mine)
    for number, (why, signed) in enumerate(every):
        if not why and signed == every[0][1]:
            continue
        if error is not None and number == rank():
            raise error
        what = why or 'expected the experiments and data of process 0, found others'
        raise UserError(what if number == 0 else f'process {number} of {count()}: {what}')
    return found
