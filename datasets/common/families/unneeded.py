"""What lies beside the modalities of a trained network in new data, and may be one misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from benchmark.errors import UserError

ALIKE = 0.7
"""How alike two names are, by difflib, before one is taken for a misspelling of the other."""


def check_spelling(where: str, found: Iterable[str], lacking: Iterable[str]) -> None:
    """Checks that nothing beside the modalities of a network is called nearly like one that lacks.

    A modality that lacks is no error, since the network predicts without it; one that is misspelt
    would lack as well, and nobody would notice.

    Args:
        where: What holds the names, for messages.
        found: The names that are no modality of the network.
        lacking: The modalities of the network that are not there.

    Raises:
        UserError: A name resembles a modality that is not there.
    """
    wanted = list(lacking)
    for name in found:
        for other in wanted:
            if _alike(name, other):
                raise UserError(
                    f'{where}: expected {other}, found {name!r}; did you mean {other!r}? '
                    'Rename it, or move it away if it is something else'
                )


def _alike(name: str, other: str) -> bool:
    # Names that differ in their numbers, such as t1 and t2, are those of different things.
    numbers = [re.findall('[0-9]+', word) for word in (name, other)]
    one, two = name.lower(), other.lower()
    return numbers[0] == numbers[1] and difflib.SequenceMatcher(None, one, two).ratio() >= ALIKE
