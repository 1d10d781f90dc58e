"""Text that comes from data and methods, in a form in which it can do nothing but be read."""

from __future__ import annotations


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
