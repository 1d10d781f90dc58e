"""Forks of the test's process, which has loaded the libraries: a new process would load them anew.

What must be true of a process that has just started, such as which modules it imports, needs a new
one all the same.
"""

import importlib
import io
import multiprocessing
import os
import runpy
import sys
import traceback
from pathlib import Path

from benchmark.engine import forking

ROOT = Path(__file__).resolve().parents[2]


def get_ready():
    """Loads what several forks would load otherwise, each anew: the commands and the methods."""
    importlib.import_module('torch._inductor')  # PyTorch itself loads it when a training begins
    importlib.import_module('benchmark.running')
    importlib.import_module('benchmark.registry').discover()


def fork_jobs(replace=setattr):
    """Makes the jobs of a command forks of this process.

    Args:
        replace: Sets an attribute, e.g. that of `monkeypatch`, which sets it back.
    """
    context = multiprocessing.get_context('fork')
    replace(forking, 'context', lambda: context)
    replace(forking, 'load_beside', lambda args: None)


def status_of(action, told=None, errors=None):
    """How a fork of this process ends that does something, as an exit status.

    Args:
        action: What the fork does; it returns the status, where None counts as 0.
        told: File that takes standard output and error; those of the test by default.
        errors: File that takes standard error instead.

    Returns:
        The status; the negative number of the signal where one ended the fork.
    """
    return ended(start(action, told, errors))


def start(action, told=None, errors=None):
    """Forks a process as `status_of` does, and returns its id without waiting for it."""
    child = os.fork()
    if not child:
        status = 70
        try:
            if told is not None:
                _write_to(told, errors)
            status = action() or 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # a fork must never go on with the tests
            traceback.print_exc()
        os._exit(_flushed(status))
    return child


def ended(child):
    """Waits for a fork; how it ended, as of `status_of`."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def typed(*words):
    """Does in a fork what a command of this checkout does, e.g. 'benchmark/tables.py', 'results'.

    Raises:
        SystemExit: With the status of the command.
    """
    script = ROOT / words[0]
    sys.argv = list(words)
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name='__main__')


def _write_to(file, errors):
    """Makes files standard output and error, as a shell does before a command starts."""
    handles = [os.open(f, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for f in (file, errors) if f]
    for number, handle in ((1, handles[0]), (2, handles[-1])):
        os.dup2(handle, number)
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        binary = io.BufferedWriter(io.FileIO(number, 'w', closefd=False))
        setattr(sys, name, io.TextIOWrapper(binary, line_buffering=number == 2))


def _flushed(status):
    """The status of an interpreter that writes at its end what is left to write."""
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError:
        return 120
    return status
