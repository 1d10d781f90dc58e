"""Forks of the test's process, which has loaded the libraries: a new process would load them anew.

What must be true of a process that has just started, such as which modules it imports, needs a new
one all the same.
"""

import io
import os
import sys
import traceback


def status_of(action, told=None):
    """How a fork of this process ends that does something, as an exit status.

    Args:
        action: What the fork does; it returns the status, where None counts as 0.
        told: File that takes standard output and error; those of the test by default.

    Returns:
        The status; the negative number of the signal where one ended the fork.
    """
    return ended(start(action, told))


def start(action, told=None):
    """Forks a process as `status_of` does, and returns its id without waiting for it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    child = os.fork()
    if not child:
        status = 70
        try:
            if told is not None:
                _write_to(told)
            status = action() or 0
            sys.stdout.flush()
        except BaseException:  # a fork must never go on with the tests
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return child


def ended(child):
    """Waits for a fork; how it ended, as of `status_of`."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _write_to(file):
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(handle, number)
        setattr(sys, name, io.TextIOWrapper(io.FileIO(number, 'w'), write_through=True))
