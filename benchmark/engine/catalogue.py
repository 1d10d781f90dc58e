"""What the files of `methods/` and `datasets/` register, read from their source without an import.

An import of all of them takes seconds, because it brings PyTorch along.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.files import ROOT

REGISTRIES = {'METHODS': 'method', 'DATASETS': 'dataset'}
COMMANDS = ('prepare.py', 'preview.py')
"""Files of `datasets/` that are typed on the command line and register nothing."""


class Unclear(Exception):
    """Only an import shows what a file registers, or the file cannot be imported."""


class Entry(NamedTuple):
    """A registered class.

    Attributes:
        name: The name under which it is registered.
        line: The first line of its docstring.
        embedded: Of a data set, whether it needs no data root.
        licence: Of a data set, the terms of use.
        how_to_get: Of a data set, where its data come from.
    """

    name: str
    line: str
    embedded: bool = False
    licence: str = ''
    how_to_get: str = ''


def entries() -> tuple[list[Entry], list[Entry]]:
    """Returns the methods and the data sets in alphabetical order.

    Raises:
        Unclear: A file registers in another way than by `@METHODS.register_module('name')` over a
            class, or has a fault that the source shows, such as an import of a missing package.
    """
    found: dict[str, dict[str, Entry]] = {'method': {}, 'dataset': {}}
    for folder in ('methods', 'datasets'):
        for file in sorted((ROOT / folder).glob('[!_]*.py')):
            if folder == 'datasets' and file.name in COMMANDS:
                continue
            for kind, name, node in _registered(file):
                if name in found[kind]:
                    raise Unclear(f'{name} is registered twice')
                found[kind][name] = _entry(kind, name, file, node)
    methods, datasets = ([known[n] for n in sorted(known)] for known in found.values())
    return methods, datasets


def _registered(file: Path) -> Iterator[tuple[str, str, ast.ClassDef]]:
    """Yields (kind, name, class) of what a file registers."""
    tree, count = _tree(file), 0
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for call in node.decorator_list:
            match call:
                case ast.Call(
                    func=ast.Attribute(ast.Name(registry), 'register_module'),
                    args=[ast.Constant(str(name))],
                    keywords=[],
                ) if registry in REGISTRIES:
                    count += 1
                    yield REGISTRIES[registry], name, node
    # Whatever else speaks of registering does it in a way that only an import shows.
    if count != sum(getattr(n, 'attr', '') == 'register_module' for n in ast.walk(tree)):
        raise Unclear(file.name)


@functools.cache
def _tree(file: Path) -> ast.Module:
    """Returns the syntax tree of a file, all of whose imported packages are there."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise Unclear(file.name) from error
    for node in tree.body:
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            wanted = [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        for package in {name.partition('.')[0] for name in wanted}:
            if not _installed(package):
                raise Unclear(f'{file.name}: {package}')
    return tree


@functools.cache
def _installed(package: str) -> bool:
    return bool(package) and importlib.util.find_spec(package) is not None


def _entry(kind: str, name: str, file: Path, node: ast.ClassDef) -> Entry:
    lines = inspect.cleandoc(_attribute(file, node, '__doc__') or '').split('\n')
    fields = ('embedded', 'licence', 'how_to_get') if kind == 'dataset' else ()
    return Entry(name, lines[0], *(_attribute(file, node, field) for field in fields))


def _attribute(file: Path, node: ast.ClassDef, name: str) -> Any:
    """Returns an attribute of a class or of the first of its bases that has it; None without one.

    Raises:
        Unclear: It is no constant, or a base is not found.
    """
    if name == '__doc__' and (text := ast.get_docstring(node, clean=False)) is not None:
        return text
    for statement in node.body:
        if name in _targets(statement):
            return _value(file, statement.value)  # type: ignore[attr-defined]
    for base in node.bases:
        found = _class(file, base)
        if found is not None and (value := _attribute(*found, name)) is not None:
            return value
    return None


def _value(file: Path, node: ast.expr) -> Any:
    """Returns the value of a constant, of a text with constants in it, or of a name for one.

    Raises:
        Unclear: It is something else.
    """
    if isinstance(node, ast.JoinedStr):
        return ''.join(str(_value(file, part)) for part in node.values)
    if isinstance(node, ast.FormattedValue) and node.format_spec is None and node.conversion == -1:
        return _value(file, node.value)
    if isinstance(node, ast.Name):
        for statement in _tree(file).body:
            if node.id in _targets(statement):
                return _value(file, statement.value)  # type: ignore[attr-defined]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise Unclear(f'{file.name}, line {node.lineno}') from error


def _targets(statement: ast.stmt) -> list[str]:
    """Returns the names to which a statement assigns a value."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [statement.target.id] if isinstance(statement.target, ast.Name) else []
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def _class(file: Path, base: ast.expr) -> tuple[Path, ast.ClassDef] | None:
    """Returns the class that a base names, with its file; None for one of a library."""
    if not isinstance(base, ast.Name):
        return None
    for node in _tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == base.id:
            return file, node
        if isinstance(node, ast.ImportFrom) and node.module:
            place = ROOT / f'{node.module.replace(".", "/")}.py'
            for alias in node.names:
                if base.id == (alias.asname or alias.name) and place.is_file():
                    return _class(place, ast.Name(alias.name))
    return None
