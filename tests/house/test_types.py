"""The types of the whole project, as mypy reads them."""

import re
import subprocess
import sys

import pytest

from benchmark.files import ROOT


def test_mypy_finds_nothing():
    pytest.importorskip('mypy', reason='needs mypy')
    command = [sys.executable, '-m', 'mypy']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_project_uses_no_module_that_mypy_skips():
    settings = (ROOT / 'pyproject.toml').read_text().split('[[tool.mypy.overrides]]')[1]
    skipped = re.findall(r'"(torch[\w.]+\w)', settings)
    assert len(skipped) > 5
    pattern = re.compile('|'.join(rf'\b{re.escape(name)}\b' for name in skipped))
    files = [f for d in ('benchmark', 'methods', 'datasets') for f in (ROOT / d).rglob('*.py')]
    found = [str(f.relative_to(ROOT)) for f in files if pattern.search(f.read_text())]
    # How many graphs a `forward` may have is a setting of PyTorch that stands nowhere else.
    assert found == ['benchmark/engine/compiling.py']
