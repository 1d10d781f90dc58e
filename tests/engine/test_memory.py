"""Memory that was freed stays with the process."""

import ctypes
import subprocess
import sys

import pytest

from benchmark.engine import memory
from benchmark.files import ROOT

STEPS = f"""
import ctypes, resource, sys
sys.path[0] = {str(ROOT)!r}
from benchmark.engine import memory

library = ctypes.CDLL(None)
library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
library.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: all pages have one size
# Several blocks together are more than what the C library keeps by itself.
size, count = 24 * 2**20, 4

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [library.malloc(size) for _ in range(count)]
    for block in blocks:
        library.memset(block, 1, size)
    for block in blocks:
        library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == 'keep':
    assert memory.keep_freed()
for _ in range(4):
    step()
print(min(step() for _ in range(4)), count * size // resource.getpagesize())
"""
"""A program that writes to the same blocks again and again, as the steps of a training do. It
prints how many pages the system gives it for each step, and how many pages the blocks have. The
smallest of several numbers is taken, for other work of the process may need pages, too."""


@pytest.mark.skipif(
    not (sys.platform.startswith('linux') and hasattr(ctypes.CDLL(None), 'mallopt')),
    reason='a setting of the C library of GNU',
)
def test_what_a_step_frees_serves_the_next_one():
    given = {}
    for how in ('default', 'keep'):
        command = [sys.executable, '-c', STEPS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        given[how], pages = map(int, done.stdout.split())
    assert given['keep'] < 0.01 * pages
    assert given['default'] > 0.9 * pages


def test_other_systems_keep_their_settings(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert not memory.keep_freed()
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: object())
    assert not memory.keep_freed()
