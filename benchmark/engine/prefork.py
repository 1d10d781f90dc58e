"""A process that imports what experiments need while a command is being planned.

Each process of `--jobs` needs PyTorch and the libraries on it, whose import takes seconds. One
process imports them once, beside the planning, and those of the experiments are forked from it. It
must not have asked for GPUs, for what is forked from it then cannot use them, and some libraries
ask while they are imported: where there is a GPU, every process imports for itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

from benchmark.engine.granted import cores
from benchmark.files import ROOT

IMPORTED = ['benchmark.running']
"""What is imported."""

DRIVERS = ('/dev/nvidiactl', '/dev/kfd', '/dev/dxg')
"""Files of the drivers of GPUs."""

_begun = False


def fits(args: argparse.Namespace) -> bool:
    """Returns whether a command may run several experiments at a time on a CPU of this machine.

    Args:
        args: The arguments of `benchmark/run.py`.
    """
    if sys.platform != 'linux' or 'torch' in sys.modules:  # nothing is left to save then
        return False
    if args.dry_run or args.only is not None or args.launcher != 'local':
        return False
    if args.device != 'cpu' and any(Path(file).exists() for file in DRIVERS):
        return False
    if (args.jobs or cores()) == 1 or cores() == 1:
        return False
    parts = (args.methods, args.datasets or [1, 2], args.seeds or [0], args.data_root or [1])
    count = 1
    for part in parts:
        count *= len(part)
    return count > 1 or bool(args.grid or args.tune or args.gaps)


def begin() -> None:
    """Starts the process, which ends when this one and all that were forked from it have ended."""
    global _begun  # noqa: PLW0603
    forkserver.set_forkserver_preload(IMPORTED)
    # An interruption from the terminal reaches it, too, and whoever it is for ends the others.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    here = os.open('.', os.O_RDONLY)
    try:
        # It looks for what it imports in the folder that it is started in. Those that are forked
        # from it go back to the folder of this process.
        os.chdir(ROOT)
        forkserver.ensure_running()
    finally:
        os.fchdir(here)
        os.close(here)
        signal.signal(signal.SIGINT, before)
    _begun = True


def context() -> ForkServerContext | SpawnContext:
    """Returns what starts processes: it forks them if `begin` was called, or starts them anew."""
    if _begun:
        return multiprocessing.get_context('forkserver')
    return multiprocessing.get_context('spawn')
