"""The types of the whole project, as mypy reads them."""

import subprocess
import sys

import pytest

from benchmark.files import ROOT


def test_mypy_finds_nothing():
    pytest.importorskip('mypy', reason='needs mypy')
    command = [sys.executable, '-m', 'mypy']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
