"""A hash of a method's source code, so that results of edited code are not taken for its own."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.files import ROOT

METHODS = ROOT / 'methods'
TOLD = {
    'ranges', 'from_complete', 'official_loss', 'mines', 'later', 'only_with', 'shares_convolution'
}  # fmt: skip
"""Attributes of methods that refuse values of options, or tell of data or of the code, and change
no number by more than rounding."""
INSTALLED = {'site-packages', 'dist-packages'}
"""Folders in which packages are installed."""
ENVIRONMENTS = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
"""Where Python and its libraries are."""


def code_of(*classes: type) -> str:
    """Returns a hash of the code of some classes, 16 hexadecimal digits.

    The code is that of the file of each class and of all files that it imports from `methods/` or
    from its own folder, directly or through another such file. Comments, docstrings, the layout
    of the text and the attributes `TOLD` do not count.

    Args:
        *classes: Registered methods, such as a method and its teacher.
    """
    return _hash(tuple(file for cls in classes if (file := _file(cls.__module__))))


@functools.cache
def _hash(first: tuple[Path, ...]) -> str:
    """Returns the hash of some files and of what they import."""
    files: dict[Path, str] = {}
    waiting = list(first)
    folders = {METHODS, *(file.parent for file in first)}
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files[file], imported = _read(file)
        found = (_file(name) for name in imported)
        waiting += [f for f in found if f and _counts(f, folders)]
    # Sorted by content instead of by path: where the project lies changes nothing.
    return hashlib.sha256('\0'.join(sorted(files.values())).encode()).hexdigest()[:16]


def _counts(file: Path, folders: set[Path]) -> bool:
    """Returns whether a file that is imported belongs to a method, and not to a library.

    The folder of a method in a file of the user's own may hold everything that he has: this
    checkout, Python, and environments with libraries.
    """
    if file.is_relative_to(METHODS):
        return True
    if INSTALLED & {*file.parts} or any(file.is_relative_to(at) for at in ENVIRONMENTS):
        return False
    inside = file.is_relative_to(ROOT)
    return any(file.is_relative_to(at) and at.is_relative_to(ROOT) >= inside for at in folders)


@functools.cache
def _read(file: Path) -> tuple[str, list[str]]:
    """Returns the code of a file, which many methods share, and the modules that it may import."""
    tree = ast.parse(file.read_bytes())
    return '\n'.join(_lines(tree)), list(_imported(tree))


def _file(module: str) -> Path | None:
    """Returns the file of a module, whether it was imported or lies in the project unimported."""
    known = getattr(sys.modules.get(module), '__file__', None)
    file = Path(known) if known else ROOT / f'{module.replace(".", "/")}.py'
    return file.resolve() if file.is_file() else None


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yields the names of modules that a file may import; some are functions or classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _lines(node: Any, depth: int = 0) -> Iterator[str]:
    """Yields a syntax tree as text, without docstrings and what is empty.

    `ast.dump` would serve, but its text for the same code differs between versions of Python.
    """
    if isinstance(node, ast.AST):
        yield f'{" " * depth}{type(node).__name__}'
        for name, value in ast.iter_fields(node):
            if value is None or value == []:
                continue
            yield f'{" " * depth}.{name}'
            yield from _lines(value, depth + 1)
    elif isinstance(node, list):
        for item in node:
            if not _is_docstring(item) and not _is_told(item):
                yield from _lines(item, depth)
    else:
        yield f'{" " * depth}{node!r}'


def _is_docstring(node: Any) -> bool:
    """Returns whether a statement is a text that nothing reads."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text and isinstance(node.value.value, str)


def _is_told(statement: Any) -> bool:
    """Returns whether a statement is one of `TOLD`, or imports what these consist of."""
    if isinstance(statement, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id in TOLD for t in statement.targets)
    imported = isinstance(statement, ast.ImportFrom) and statement.module == 'benchmark.options'
    return imported and [alias.name for alias in statement.names] == ['Range']
