"""A preparation as the tests see it."""

from __future__ import annotations

from typing import Any

from datasets import prepare


def told_by_prepare(words: list[str], capsys: Any) -> tuple[str, str]:
    """Runs `datasets/prepare.py`; returns what it prints on stdout, and its error or ''.

    An error is one line and goes with the exit status 2.
    """
    status = prepare.main(words)
    out, err = capsys.readouterr()
    error = '\n'.join(line for line in err.splitlines() if ' left' not in line)
    assert status == (2 if error else 0)
    assert '\n' not in error
    return out, error
