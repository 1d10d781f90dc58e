"""Text that comes from data and methods, in a form in which it can do nothing but be read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

MAX_TEXT = 10_000
"""Characters of the longest text in a record."""

_UNSAFE = {'Cc', 'Cs', 'Zl', 'Zp'}
"""Categories of characters that move a terminal's cursor, break a line or are half of one."""


def terminal(text: str) -> str:
    """Returns text in one line without control characters, which a terminal would obey."""
    return printable(' '.join(text.split()))


def printable(text: str) -> str:
    """Returns text without control characters; its blanks stay."""
    return ''.join(c if c.isprintable() else '\ufffd' for c in text)


def csv(text: str) -> str:
    """Returns text that a spreadsheet does not compute: formulas get an apostrophe in front."""
    shown = terminal(text)
    return f"'{shown}" if shown.startswith(('=', '+', '-', '@')) else shown


def noun(plural: str, number: int) -> str:
    """Returns a noun that ends in -s in the form that a number asks for: 1 sample, 2 samples."""
    return plural.removesuffix('s') if number == 1 else plural


def few(names: Sequence[Any], most: int = 3) -> str:
    """Returns the first names of a list, and how many more there are: 'a, b, c and 2 more'."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'{", ".join(map(str, names[:most]))}{more}'


def unsafe(character: str) -> bool:
    """Returns whether a record may not hold a character."""
    return unicodedata.category(character) in _UNSAFE


def one_line(text: str) -> str:
    """Returns a text as a record can hold it: without control characters, and not too long."""
    return ''.join(' ' if unsafe(c) else c for c in text[:MAX_TEXT])
