"""The list of methods and data sets: `python benchmark/run.py --list`."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmark.engine import catalogue
from benchmark.engine.catalogue import Entry
from benchmark.errors import UserError


def show_list(roots: Sequence[Path]) -> int:
    """Prints every method and data set with one line each.

    They are read from the source, unless only an import shows what there is, or data roots are
    given, which are then opened.

    Args:
        roots: Data roots.

    Returns:
        The exit status, 0.
    """
    # A program that has loaded the registry may have registered what no file shows.
    imports = bool(roots) or 'benchmark.registry' in sys.modules
    broken: dict[str, str] = {}
    if not imports:
        try:
            methods, datasets = catalogue.entries()
        except catalogue.Unclear:
            imports = True
    if imports:
        methods, datasets, broken = _imported()
    print('methods')
    for found in methods:
        print(f'  {found.name:20} {found.line}')
    print('data sets')
    for found in datasets:
        print(f'  {found.name:20} {found.line} [{_place(found, roots)}]')
    for file, why in broken.items():
        print(f'  {file} could not be imported: {why}')
    if not roots:
        _show_sources(datasets)
    return 0


def _imported() -> tuple[list[Entry], list[Entry], dict[str, str]]:
    """Imports all files; returns methods, data sets, and which files could not be imported."""
    from benchmark.registry import BROKEN, DATASETS, METHODS, discover

    discover()
    methods = [Entry(name, _first_line(cls)) for name, cls in sorted(METHODS.module_dict.items())]
    datasets = [
        Entry(name, _first_line(cls), cls.embedded, cls.licence, cls.how_to_get)
        for name, cls in sorted(DATASETS.module_dict.items())
    ]
    return methods, datasets, BROKEN


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or '').split('\n')[0]


def _show_sources(datasets: Sequence[Entry]) -> None:
    """Prints how to get the data sets that are not embedded, and their terms of use."""
    print('how to get the data sets that need --data-root, and their terms of use')
    for found in datasets:
        if not found.embedded:
            terms = f' Terms of use: {found.licence}.' if found.licence else ''
            told = f'{found.name}: {found.how_to_get}{terms}'
            print(textwrap.fill(told, 100, initial_indent='  ', subsequent_indent='      ',
                                break_long_words=False, break_on_hyphens=False))  # fmt: skip


def _place(found: Entry, roots: Sequence[Path]) -> str:
    """Says where the data of a data set are."""
    if found.embedded:
        return 'embedded'
    if not roots:
        return 'needs --data-root'
    from benchmark.engine import plan

    try:
        opened = plan.open_datasets([found.name], roots, {})
    except UserError as error:
        return f'not found: {error}'
    return f'found: {", ".join(d.name for d in opened)}'
