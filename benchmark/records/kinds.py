"""The names of the corruptions, and the words that choose among them.

This module imports nothing that takes long, so that the command line can refuse a name at once.
"""

from __future__ import annotations

from benchmark.errors import UserError, unknown

KINDS = {
    'gaussian': 'Gaussian noise',
    'shot': 'shot noise',
    'blur': 'Gaussian blur',
    'contrast': 'lower contrast',
    'patches': 'lost patches',
    'holes': 'holes in depth',
    'shift': 'misalignment',
    'segments': 'a lost segment',
    'delay': 'a shift in time',
    'features': 'lost features',
    'drift': 'drift of the scale',
    'frozen': 'a stuck sensor',
}
"""Name of a corruption -> the same in words, in the order of tables."""

FILE = 'corruptions.json'
"""The file of a run's tests under corruptions, beside its record."""

SEVERITIES = (1, 2, 3, 4, 5)
"""The grades of every corruption; 0 stands for the clean input."""


def kinds(given: str) -> tuple[str, ...]:
    """Reads the value of --corruptions, names that are separated by commas.

    Raises:
        UserError: There is no such corruption.
    """
    words = given.split(',')
    for word in words:
        if word not in (*KINDS, 'all'):
            raise unknown('corruption in --corruptions:', word, (*KINDS, 'all'))
    return tuple(name for name in KINDS if 'all' in words or name in words)


def severities(given: str) -> tuple[int, ...]:
    """Reads the value of --severities, for example '1,3,5', in ascending order.

    Raises:
        UserError: A part is not one of `SEVERITIES`.
    """
    known = {str(severity): severity for severity in SEVERITIES}
    for word in given.split(','):
        if word not in known:
            raise UserError(f'--severities: expected some of 1,2,3,4,5, found {ascii(word[:40])}')
    return tuple(sorted({known[word] for word in given.split(',')}))


def check(chosen: tuple[str, ...] | None, grades: tuple[int, ...] | None) -> None:
    """Checks that severities are given for corruptions.

    Raises:
        UserError: There are none.
    """
    if grades is not None and chosen is None:
        raise UserError('--severities: expected --corruptions beside it, whose severities they are')
