"""The list of methods and data sets: `python benchmark/run.py --list`."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from benchmark.dataset import Dataset
from benchmark.engine import plan
from benchmark.errors import UserError
from benchmark.registry import BROKEN, DATASETS, METHODS


def show_list(roots: list[Path]) -> int:
    """Prints every method and data set with one line each."""
    print('methods')
    for name, cls in sorted(METHODS.module_dict.items()):
        print(f'  {name:20} {_first_line(cls)}')
    print('data sets')
    for name, cls in sorted(DATASETS.module_dict.items()):
        print(f'  {name:20} {_first_line(cls)} [{_found(cls, name, roots)}]')
    for file, why in BROKEN.items():
        print(f'  {file} could not be imported: {why}')
    if not roots:
        _show_sources()
    return 0


def _show_sources() -> None:
    """Prints how to get the data sets that are not embedded, and their terms of use."""
    print('how to get the data sets that need --data-root, and their terms of use')
    for name, cls in sorted(DATASETS.module_dict.items()):
        if not cls.embedded:
            terms = f' Terms of use: {cls.licence}.' if cls.licence else ''
            told = f'{name}: {cls.how_to_get}{terms}'
            print(textwrap.fill(told, 100, initial_indent='  ', subsequent_indent='      ',
                                break_long_words=False, break_on_hyphens=False))  # fmt: skip


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or '').split('\n')[0]


def _found(cls: type[Dataset], name: str, roots: list[Path]) -> str:
    if cls.embedded:
        return 'embedded'
    if not roots:
        return 'needs --data-root'
    try:
        opened = plan.open_datasets([name], roots, {})
    except UserError as error:
        return f'not found: {error}'
    return f'found: {", ".join(d.name for d in opened)}'
