"""Names that data give to data sets, modalities and classes, checked before they reach anything.

Names become folders, columns of tables and cells of Markdown, LaTeX, CSV and JSON files. A name
that would not survive there, or that would be taken for something else, is refused here, once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmark.errors import UserError
from benchmark.options import TUPLE, keyed

LONGEST = 64
"""Number of bytes of the longest name of a data set, a modality or a class."""

MODALITIES = 32
"""The greatest number of modalities; of many, a sample of the subsets is tested."""

COLUMN = re.compile(
    r'mean|worst|expected|ceiling|chance|method|protocol|seeds|missing_.*|.*_std', re.I
)
"""Ids of columns and rows of tables, which no modality may be called."""

MARKUP = re.compile(r'^[=@\t]|<[A-Za-z/!?]')
"""What a spreadsheet would compute, or a browser would take for markup."""


def check_dataset_name(name: str) -> None:
    """Checks the name of a data set, which is also that of a folder and of files.

    Raises:
        UserError: The name is empty or too long, begins with a dot, holds a path, or holds
            characters that are not printable.
    """
    what = 'name of the data set'
    _check_text(what, name)
    if name.startswith('.') or name != name.strip() or {'/', '\\'} & set(name):
        raise UserError(
            f'{what}: expected no path, no dot in front and no blank at either end, found {name!r}'
        )
    if name.endswith(('-gaps', '-common', '-baseline')):
        raise UserError(
            f'{what}: expected no -gaps, -common or -baseline at its end, as tables have, '
            f'found {name!r}'
        )


def given_in(spec: str, tail: str) -> dict[str, str]:
    """Returns the options of a spec 'name:key=value,key=value', as text.

    Args:
        spec: The spec, for messages.
        tail: What follows the name and the colon.

    Raises:
        UserError: An option is not of the form key=value, or a key is given twice.
    """
    # A number after a comma goes on with a value of several, as in class_weights=1,2.
    tail = re.sub(r',(?=[-+.\d]*\d[-+.\deE]*(,|$))', TUPLE, tail)
    return keyed(filter(None, tail.split(',')), repr(spec), 'key=value after the colon')


def check_spec(spec: str) -> None:
    """Checks that a file which is named as a method or data set comes with a name in it.

    Raises:
        UserError: It does not.
    """
    if spec.endswith('.py'):
        raise UserError(
            f'{spec}: expected FILE.py:NAME with the registered name, found the file alone'
        )


def check_modalities(dataset: str, names: Sequence[str]) -> None:
    """Checks the names of the modalities, of which the ids of subsets are made.

    Args:
        dataset: Name of the data set, for messages.
        names: The names, in their order.

    Raises:
        UserError: There is none or more than `MODALITIES`, a name occurs twice, holds anything but
            letters, digits, '_' and '-', is too long, or means something else in tables or PyTorch.
    """
    from torch import nn  # records are checked without PyTorch

    if not 1 <= len(names) <= MODALITIES:
        raise UserError(f'{dataset}: expected 1 to {MODALITIES} modalities, found {len(names)}')
    for name in names:
        what = f'{dataset}: modality'
        _check_text(what, name)
        if not re.fullmatch(r'\w[\w-]*', name):
            raise UserError(f'{what}: expected a name of letters, digits, _ and -, found {name!r}')
        if COLUMN.fullmatch(name):
            raise UserError(f'{what}: expected a name that is no column of tables, found {name!r}')
        # Encoders are kept in a ModuleDict by modality, which refuses names of its attributes.
        if hasattr(nn.ModuleDict(), name):
            raise UserError(f'{what}: expected a name that is no torch method, found {name!r}')
    _check_unique(f'{dataset}: modalities', names)


def check_classes(dataset: str, names: Sequence[str], least: int = 2) -> None:
    """Checks the names of the classes.

    Args:
        dataset: Name of the data set, for messages.
        names: The names, in the order of the labels.
        least: The least number of them.

    Raises:
        UserError: There are fewer than that, a name occurs twice, is empty or too long, or holds
            markup or characters that are not printable.
    """
    if len(names) < least:
        found = f'{len(names)} ({", ".join(map(repr, names))})' if names else 'none'
        raise UserError(f'{dataset}: classes: expected at least {least}, found {found}')
    for name in names:
        _check_text(f'{dataset}: class', name)
    _check_unique(f'{dataset}: classes', names)


def _check_text(what: str, name: str) -> None:
    """Checks what every name must be: printable, no markup, and neither empty nor too long."""
    size = len(name.encode('utf-8', 'surrogatepass'))
    if not 1 <= size <= LONGEST:
        shown = repr(name if size <= LONGEST else f'{name[:20]}...')
        raise UserError(f'{what}: expected 1 to {LONGEST} bytes, found {size}: {shown}')
    if not name.isprintable() or not name.strip():
        raise UserError(f'{what}: expected printable characters, found {ascii(name)}')
    if MARKUP.search(name):
        raise UserError(f'{what}: expected no markup and no formula, found {name!r}')


def _check_unique(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f'{what}: expected different names, found {name!r} twice')
        seen.add(name)
