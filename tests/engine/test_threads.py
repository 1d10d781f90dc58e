"""How many threads compute and how many processes load, unless the user says so."""

import os
from types import SimpleNamespace

import pytest
import torch

from benchmark.engine.building import Machine, cores, use_threads


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that were set."""
    found = []
    monkeypatch.setattr(torch, 'set_num_threads', found.append)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    return found


def test_one_thread_computes_on_a_cpu_unless_the_user_says_otherwise(threads, monkeypatch):
    use_threads(None, 'cpu')
    use_threads(3, 'cpu')
    use_threads(None, 'cuda')
    use_threads(2, 'cuda')
    assert threads == [1, 3, 2]
    monkeypatch.setenv('OMP_NUM_THREADS', '8')
    use_threads(None, 'cpu')
    use_threads(5, 'cpu')
    assert threads == [1, 3, 2, 5]


@pytest.mark.parametrize(('granted', 'workers'), [({0, 3}, 2), (set(range(64)), 8)])
def test_there_are_as_many_loaders_as_cores_that_the_process_may_use(granted, workers, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: granted, raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 128)
    assert cores() == len(granted)
    assert Machine('cpu').loader(SimpleNamespace(streams=True)) == (workers, False)
    assert Machine('cpu').loader(SimpleNamespace(streams=False)) == (0, False)
    assert Machine('cpu', 3).loader(SimpleNamespace(streams=True)) == (3, False)
