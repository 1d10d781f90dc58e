"""The script that kills runs and lets several processes share a results folder, in short."""

import gc
import importlib.util
import sys

import pytest
from forks import get_ready

from benchmark.files import ROOT

before = list(sys.path)
spec = importlib.util.spec_from_file_location('processes', ROOT / 'tools' / 'processes.py')
processes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)
sys.path[:] = before  # a script may change where modules are found, the tests of others may not


@pytest.fixture(autouse=True)
def _ready_to_fork(monkeypatch):
    """What all processes need is loaded once, and none searches through it when it ends."""
    small = ['train=16', 'val=8', 'test=8', 'size=16', 'width=4', 'batch_size=8']
    words = processes.WORDS[: -len(processes.DATA)]
    monkeypatch.setattr(processes, 'WORDS', [*words, *small, 'selection=worst'])
    get_ready()
    gc.freeze()
    yield
    gc.unfreeze()


def test_killed_runs_end_in_the_record_of_an_undisturbed_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, 'KILLED', ['modality_dropout'])
    assert processes.kill(tmp_path, 2, seed=0) == 0
    told = capsys.readouterr().out
    assert told.startswith('2 runs of ')
    assert '2 ended in the record and outcomes of an undisturbed run' in told


def test_four_processes_share_the_runs_of_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, 'SHARED', ['majority', 'logistic'])
    assert processes.together(tmp_path, 4) == 0
