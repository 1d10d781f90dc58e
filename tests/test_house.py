"""The house rules: who imports whom, and how long things may get."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [f for d in ('benchmark', 'methods', 'datasets') for f in sorted((ROOT / d).rglob('*.py'))]
NAMES = [str(f.relative_to(ROOT)) for f in FILES]

ALLOWED = {
    'methods': {
        'benchmark.method',
        'benchmark.registry',
        'benchmark.errors',
        'benchmark.search',
        'methods',
    },
    'datasets': {
        'benchmark.method',
        'benchmark.registry',
        'benchmark.errors',
        'benchmark.dataset',
        'benchmark.missing',
        'datasets',
    },
    'benchmark': {'benchmark'},
}


def imported(file):
    """Modules of this project that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == 'benchmark':
            names = [f'benchmark.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        yield from (n for n in names if n.split('.')[0] in ALLOWED)


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_every_file_imports_only_what_it_may(file):
    allowed = ALLOWED[file.relative_to(ROOT).parts[0]]
    for name in imported(file):
        assert name in allowed or name.split('.')[0] in allowed, name


METHODS = sorted((ROOT / 'methods').glob('[!_]*.py'))


@pytest.mark.parametrize('file', METHODS, ids=[f.stem for f in METHODS])
def test_a_method_imports_another_only_to_subclass_it(file):
    tree = ast.parse(file.read_text())
    bases = {
        base.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and re.fullmatch(r'methods\.[a-z]\w*', node.module):
            if node.module == 'methods.common':
                continue
            assert {alias.name for alias in node.names} <= bases, node.module


def test_nothing_imports_the_command_line():
    assert not [f for f in FILES if 'benchmark.run' in imported(f)]


def test_tables_are_made_without_torch():
    code = 'import sys, benchmark.tables; sys.exit(bool({"torch", "mmengine"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize('file', FILES, ids=NAMES)
def test_functions_stay_within_60_lines(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_the_smallest_method_fits_on_a_screen():
    assert len((ROOT / 'methods' / 'modality_dropout.py').read_text().splitlines()) <= 35
