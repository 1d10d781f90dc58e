"""Checks of the options of methods, data sets and the protocol, as their files state them.

The files are read and not imported, which takes hundredths of a second instead of seconds. What a
file does not state plainly is not checked here: the experiments are planned by the constructors
themselves, and what they refuse is told in the same words.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import unknown
from benchmark.files import ROOT
from benchmark.names import given_in
from benchmark.options import read

SHARED = {'modalities': str}
"""Options of every data set beside those of its constructor (`Dataset.shared_options`)."""

PROTOCOL = ROOT / 'benchmark' / 'engine' / 'protocol.py'

Hints = dict[str, Any]
"""Option -> the type of its values; None where the file does not state it plainly."""

NAMES: dict[str, Any] = {
    'bool': bool, 'float': float, 'int': int, 'str': str, 'Literal': Literal, 'tuple': tuple,
}  # fmt: skip


def check(
    methods: Sequence[str],
    datasets: Sequence[str],
    folders: Mapping[str, Path],
    keys: Sequence[str],
) -> None:
    """Checks the options of specs, and the keys of --cfg-options.

    Args:
        methods: Specs of methods.
        datasets: Specs of data sets.
        folders: 'methods' and 'datasets' -> the folders of their files.
        keys: The keys of --cfg-options.

    Raises:
        UserError: There is no such option, or its value is of another type.
    """
    for spec in methods:
        _check_spec(spec, folders['methods'], {})
    known: list[Hints | None] = [
        _check_spec(spec, folders['datasets'], SHARED) for spec in datasets
    ]
    if None in known or not keys:
        return
    fields = protocol_fields()
    plain = {*fields, *(key for hints in known if hints for key in hints)}
    dotted = {
        f'{spec.partition(":")[0]}.{key}'
        for spec, hints in zip(datasets, known, strict=True)
        for key in {*(hints or {}), *fields}
    }
    for key in keys:
        if key not in plain | dotted:
            raise unknown('option in --cfg-options', key, plain, dotted)


def _check_spec(spec: str, folder: Path, shared: Hints) -> Hints | None:
    """Returns the options that a spec may have, None if its file does not state them plainly.

    Raises:
        UserError: The spec has others, or values of another type.
    """
    name, _, tail = spec.partition(':')
    hints = None if '.py:' in spec else stated(name, folder)
    if hints is None:
        return None
    hints = {**shared, **hints}
    for key, value in given_in(spec, tail).items():
        if '.' in key:  # for one data set alone, as in mmanet:synth_faces.alpha=30
            continue
        if key not in hints:
            raise unknown(f'option of {name}', key, hints)
        if hints[key] is not None:
            read(f'{name}:{key}', value, hints[key])
    return hints


def stated(name: str, folder: Path) -> Hints | None:
    """Returns the options of the constructor of a registered class, as its file states them.

    Args:
        name: The registered name.
        folder: Holds the files that register names.

    Returns:
        The options; None where no file registers the name in one line, or the class has no
        constructor of its own, or one that hands on options.
    """
    mark = f".register_module('{name}')\n"
    texts = (file.read_text(encoding='utf-8') for file in sorted(folder.glob('[!_]*.py')))
    text = next((text for text in texts if mark in text), '')
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):  # which the import tells
        return None
    for node in body:
        if isinstance(node, ast.ClassDef) and _registers(node, name):
            return _options(node)
    return None


def protocol_fields() -> list[str]:
    """Returns the fields of the protocol."""
    tree = ast.parse(PROTOCOL.read_text(encoding='utf-8'))
    (cls,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == 'Protocol')
    fields = (n.target for n in cls.body if isinstance(n, ast.AnnAssign))
    return [target.id for target in fields if isinstance(target, ast.Name)]


def _registers(node: ast.ClassDef, name: str) -> bool:
    return any(
        isinstance(made, ast.Call)
        and any(isinstance(a, ast.Constant) and a.value == name for a in made.args)
        for made in node.decorator_list
    )


def _options(node: ast.ClassDef) -> Hints | None:
    for made in node.body:
        if isinstance(made, ast.FunctionDef) and made.name == '__init__':
            given = made.args
            if given.kwarg is not None or given.defaults:
                return None
            pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
            return {a.arg: _hint(a.annotation) for a, default in pairs if default is not None}
    return None


def _hint(annotation: ast.expr | None) -> Any:
    """Returns the type that an annotation names; None where it needs an import."""
    if annotation is None:
        return None
    code = compile(ast.Expression(annotation), '<annotation>', 'eval')
    try:
        return eval(code, {'__builtins__': {}}, NAMES)
    except Exception:  # whatever it is that only an import knows
        return None
