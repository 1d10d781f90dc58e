"""The list of methods and data sets: `python benchmark/run.py --list`."""

from __future__ import annotations

import inspect
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
        terms = f' Terms of use: {cls.licence}.' if cls.licence else ''
        print(f'  {name:20} {_first_line(cls)}{terms} [{_found(cls, name, roots)}]')
    for file, why in BROKEN.items():
        print(f'  {file} could not be imported: {why}')
    return 0


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or '').split('\n')[0]


def _found(cls: type[Dataset], name: str, roots: list[Path]) -> str:
    if cls.embedded:
        return 'embedded'
    if not roots:
        return f'needs --data-root: {cls.how_to_get}'
    try:
        opened = plan.open_datasets([name], roots, {})
    except UserError as error:
        return f'not found: {error}'
    return f'found: {", ".join(d.name for d in opened)}'
