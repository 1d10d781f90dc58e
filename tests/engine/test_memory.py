"""Memory that was freed stays with the process."""

import resource
import sys

import pytest
import torch
from forks import status_of

from benchmark.engine import memory

BYTES = 24 * 2**20
"""Size of a block. Several of them together are more than what the C library keeps by itself."""


def faults():
    """How many pages the system has given to this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def pages_of_a_step():
    """How many pages the system gives out for blocks that were allocated and freed before."""

    def step():
        blocks = [torch.ones(BYTES, dtype=torch.uint8) for _ in range(4)]
        return sum(int(block[0]) for block in blocks)

    for _ in range(8):
        step()
    before = faults()
    step()
    return faults() - before


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='a setting of Linux')
def test_what_a_step_frees_serves_the_next_one():
    def action():
        assert memory.keep_freed()
        return pages_of_a_step() >= 100  # of the 24,576 that four blocks have

    assert status_of(action) == 0


def test_other_systems_keep_their_settings(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert not memory.keep_freed()
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: object())
    assert not memory.keep_freed()
