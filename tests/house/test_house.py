"""The house rules: who imports whom, how long things may get, what works without torch."""

import ast
import re
import statistics
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('benchmark', 'methods', 'datasets')
FILES = [f for d in PACKAGES for f in sorted((ROOT / d).rglob('*.py'))]
NAMES = [str(f.relative_to(ROOT)) for f in FILES]

CONTRACT = 'benchmark.surface'
"""Stands for every module that lies directly in benchmark/ and is no command."""

COMMANDS = {
    'benchmark.run',
    'benchmark.running',
    'benchmark.helpers',
    'benchmark.tables',
    'benchmark.plot',
    'benchmark.deploy',
    'benchmark.predict',
    'benchmark.export',
    'benchmark.speed',
    'benchmark.show',
    'benchmark.compare',
}

MAY_IMPORT = {
    'benchmark.surface': {CONTRACT},
    'benchmark.records': {CONTRACT, 'benchmark.records'},
    'benchmark.engine': {CONTRACT, 'benchmark.records', 'benchmark.engine'},
    'benchmark.report': {CONTRACT, 'benchmark.records', 'benchmark.report'},
    'benchmark.tables': {CONTRACT, 'benchmark.records', 'benchmark.report'},
    'benchmark.plot': {CONTRACT, 'benchmark.records', 'benchmark.report'},
    'benchmark.deploy': {CONTRACT, 'benchmark.records', 'benchmark.engine'},
    'benchmark.predict': {CONTRACT, 'benchmark.records', 'benchmark.engine'},
    'benchmark.export': {CONTRACT, 'benchmark.records', 'benchmark.engine'},
    'benchmark.speed': {CONTRACT, 'benchmark.records', 'benchmark.engine'},
    'benchmark.show': {CONTRACT, 'benchmark.records', 'benchmark.engine', 'benchmark.report'},
    'benchmark.run': {
        CONTRACT,
        'benchmark.records',
        'benchmark.engine',
        'benchmark.report',
        'benchmark.running',
    },
    'benchmark.running': {
        CONTRACT,
        'benchmark.records',
        'benchmark.engine',
        'benchmark.report',
        'benchmark.helpers',
    },
    'benchmark.helpers': {CONTRACT, 'benchmark.records', 'benchmark.engine', 'benchmark.report'},
    'benchmark.loaded': {CONTRACT, 'benchmark.running'},
    'benchmark.compare': {CONTRACT, 'benchmark.records', 'benchmark.engine', 'benchmark.running'},
    'methods': {CONTRACT, 'methods'},
    'datasets': {CONTRACT, 'datasets'},
}
"""Part of the house -> the parts that it may import."""

LONG_FILES: dict[str, str] = {
    'benchmark/method.py': 'the contract of a method is read in one piece',
}
"""File of more than 300 lines -> why it stays in one piece."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Function of more than 60 lines, as file:name -> why it stays in one piece."""


def part_of(module):
    """The part of the house in which a module lies."""
    if module in COMMANDS:
        return module
    words = module.split('.')
    if words[0] != 'benchmark':
        return words[0]
    inner = f'benchmark.{words[1]}' if len(words) > 1 else ''
    return inner if inner in MAY_IMPORT else CONTRACT


@cache
def nodes(file):
    """All nodes of a file's syntax tree; parsed once, because most rules look at every file."""
    return list(ast.walk(ast.parse(file.read_text())))


def module_of(file):
    words = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(words[:-1] if words[-1] == '__init__' else words)


@pytest.fixture(autouse=True, scope='module')
def _forgotten():
    """Keeps the syntax trees no longer than the tests here: very many objects to look through."""
    yield
    nodes.cache_clear()


MODULES = {module_of(f) for f in FILES}


def imported(file):
    """Modules of this project that a file imports."""
    for node in nodes(file):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f'{node.module}.{alias.name}' for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name.split('.')[0] in PACKAGES)


def test_every_file_imports_only_what_it_may():
    forbidden = {
        (file, name)
        for file in FILES
        for name in imported(file)
        if part_of(name) not in MAY_IMPORT[part_of(module_of(file))]
    }
    assert forbidden == set()


def test_the_rules_name_every_part_of_the_house():
    parts = {part_of(module_of(f)) for f in FILES}
    assert parts == set(MAY_IMPORT)


def test_no_module_imports_itself_by_a_detour():
    graph = {module_of(f): set(imported(f)) - {module_of(f)} for f in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


METHODS = sorted((ROOT / 'methods').glob('[!_]*.py'))


@pytest.mark.parametrize('file', METHODS, ids=[f.stem for f in METHODS])
def test_a_method_imports_another_only_to_subclass_it(file):
    bases = {
        base.id
        for node in nodes(file)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    for node in nodes(file):
        if isinstance(node, ast.ImportFrom) and re.fullmatch(r'methods\.[a-z]\w*', node.module):
            if node.module == 'methods.common':
                continue
            assert {alias.name for alias in node.names} <= bases, node.module


def test_nothing_depends_on_assert_statements_which_python_can_leave_out():
    found = {(f, n.lineno) for f in FILES for n in nodes(f) if isinstance(n, ast.Assert)}
    assert found == set()


def test_tables_page_and_figures_are_made_without_torch():
    modules = 'benchmark.tables, benchmark.report.page.command, benchmark.plot'
    heavy = '{"torch", "mmengine", "matplotlib"}'
    code = f'import sys, {modules}; sys.exit(bool({heavy} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


def functions(file):
    for node in nodes(file):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_long_files_and_functions_have_a_reason():
    files = {n: len(f.read_text().splitlines()) for f, n in zip(FILES, NAMES, strict=True)}
    assert {n for n, lines in files.items() if lines > 300} == set(LONG_FILES)
    long = {
        f'{n}:{name}'
        for f, n in zip(FILES, NAMES, strict=True)
        for name, lines in functions(f)
        if lines > 60
    }
    assert long == set(LONG_FUNCTIONS)


def test_the_median_function_has_at_most_15_lines():
    assert statistics.median(lines for f in FILES for _, lines in functions(f)) <= 15


def test_the_smallest_method_fits_on_a_screen():
    assert len((ROOT / 'methods' / 'modality_dropout.py').read_text().splitlines()) <= 37
