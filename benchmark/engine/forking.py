"""The process whose copies train: it loads all libraries while the command is planned.

A new process needs seconds to load PyTorch and the methods; a copy has both at once, and shares
their memory. Copies are made on a CPU alone. Where there is a GPU, each process is a new one.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

from benchmark.engine.granted import cores
from benchmark.engine.grids import EMBEDDED
from benchmark.files import ROOT
from benchmark.streams import uninterrupted

LOADED = ['benchmark.loaded']
"""What that process imports."""

GPU = Path('/dev/nvidiactl')
"""Is there where the driver of a GPU runs; PyTorch, which knows, is not loaded yet."""

_loaded_for: int | None = None
"""The process for which libraries are loaded. A fork of it inherits this and may not use it."""


def load_beside(args: argparse.Namespace) -> None:
    """Starts the process, if the command will probably run several experiments at a time.

    It ends with the command. On systems other than Linux, libraries may not work in copies.

    Args:
        args: The arguments of the command.
    """
    global _loaded_for
    each = [args.methods, args.seeds, args.datasets or EMBEDDED]
    several = args.grid or args.tune or args.gaps or any(len(words or []) > 1 for words in each)
    several = several and (args.jobs or cores()) > 1
    here = not args.dry_run and args.only is None and args.launcher == 'local'
    on_cpu = args.device == 'cpu' or (args.device == 'auto' and not GPU.exists())
    # The process finds modules in its working directory first, unless the user has forbidden that.
    finds = sys.platform == 'linux' and not getattr(sys.flags, 'safe_path', False)
    if not (several and here and on_cpu and finds):
        return
    try:
        before = os.getcwd()
    except FileNotFoundError:  # somebody has deleted it
        return
    multiprocessing.get_context('forkserver').set_forkserver_preload(LOADED)
    os.chdir(ROOT)  # most versions of Python tell the process no other path
    try:
        with starting():
            forkserver.ensure_running()
    except ChildProcessError:  # this process is a fork of one that has started it
        return
    finally:
        os.chdir(before)
    _loaded_for = os.getpid()


def forget() -> None:
    """Lets processes be new ones again, because the plan is to train on a GPU."""
    global _loaded_for
    _loaded_for = None


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Keeps interruptions from the terminal from processes that start in the block.

    They reach the process that starts them, once the block has ended, and that one ends the others.
    A process that was interrupted while it loads libraries would print where.
    """
    # It would lift the block of the signal if it were started within.
    resource_tracker.ensure_running()
    with uninterrupted():  # another thread may take the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def context() -> ForkServerContext | SpawnContext:
    """Returns what starts processes that train: copies after `load_beside`, otherwise new ones."""
    if _loaded_for == os.getpid():
        return multiprocessing.get_context('forkserver')
    # A copy of this process could use neither CUDA nor threads.
    return multiprocessing.get_context('spawn')
