"""Text from records and outcomes as text of each format, where it can do nothing but be read."""

from __future__ import annotations

import re
import textwrap

from benchmark.shown import csv, terminal

__all__ = ['csv', 'markdown', 'terminal', 'tex', 'wrapped']

_TEX: dict[str, str | int | None] = {
    **{c: f'\\{c}' for c in '&%$#_{}'},
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '±': r'$\pm$',
    '↓': r'$\downarrow$',
    '↑': r'$\uparrow$',
    '●': r'$\bullet$',
    '○': r'$\circ$',
    '†': r'$^\dagger$',
    '‡': r'$^\ddagger$',
}

_MARKDOWN = re.compile(r'[\\`*\[\]|]|(?<!\w)_|_(?!\w)')
"""What Markdown may take for markup; an underscore within a word is none."""

WIDE = 120
"""Characters of a line of explanations in the terminal."""


def markdown(text: str) -> str:
    """Returns text that Markdown shows as it is, also in a cell of a table."""
    shown = _MARKDOWN.sub(lambda found: f'\\{found[0]}', terminal(text))
    return shown.replace('&', '&amp;').replace('<', '&lt;')


def tex(text: str) -> str:
    """Returns text that LaTeX shows as it is."""
    return terminal(text).translate(str.maketrans(_TEX))


def wrapped(text: str) -> str:
    """Returns a text whose lines are at most `WIDE` characters long."""
    lines = (
        textwrap.fill(line, WIDE, break_long_words=False, break_on_hyphens=False)
        for line in text.split('\n')
    )
    return '\n'.join(lines)
