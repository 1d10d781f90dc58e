"""The style of the whole project, as ruff reads it."""

import subprocess
import sys

import pytest

from benchmark.files import ROOT


@pytest.mark.parametrize('command', [['check'], ['format', '--check']], ids=['rules', 'format'])
def test_ruff_finds_nothing(command):
    pytest.importorskip('ruff', reason='needs ruff')
    words = [sys.executable, '-m', 'ruff', *command, '--no-cache', '.']
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
