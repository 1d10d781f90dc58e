"""The subsets of the modalities: their masks and ids, listed one by one only where they are few."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from benchmark.errors import UserError, unknown

LISTED = 12
"""Most modalities whose 2^M-1 subsets are listed one by one."""


def subset_masks(count: int) -> np.ndarray:
    """Returns all non-empty subsets of `count` modalities, (2^M-1, M) bool, smallest first.

    Raises:
        UserError: There are more than `LISTED` modalities.
    """
    if count > LISTED:
        raise UserError(
            f'expected at most {LISTED} modalities where every subset is listed, found {count}, '
            f'which have {2**count - 1:,}'
        )
    by_size = (itertools.combinations(range(count), size) for size in range(1, count + 1))
    members = list(itertools.chain.from_iterable(by_size))
    return np.array([[m in chosen for m in range(count)] for chosen in members], dtype=bool)


def subset_id(names: Sequence[str], mask: Sequence[bool] | np.ndarray) -> str:
    """Returns the id of one subset: its modality names joined by '+', in the dataset's order."""
    return '+'.join(name for name, there in zip(names, mask, strict=True) if there)


def subset_ids(names: Sequence[str]) -> list[str]:
    """Returns the ids of all non-empty subsets, in the order of `subset_masks`."""
    return [subset_id(names, mask) for mask in subset_masks(len(names))]


def subset_named(text: str, names: Sequence[str], what: str) -> str:
    """Returns the id of a subset whose modalities may be named in any order.

    Args:
        text: The modalities, joined by '+'.
        names: The modalities of the data set.
        what: What names the subset, for messages.

    Raises:
        UserError: A modality is unknown or occurs twice.
    """
    members = text.split('+')
    for name in members:
        if name not in names:
            raise unknown(f'modality in {what} {text!r}:', name, names)
    if len(set(members)) < len(members):
        raise UserError(f'{what} {text!r}: expected every modality once, found one twice')
    return '+'.join(name for name in names if name in members)


def subset_order(subsets: Iterable[str], names: Sequence[str]) -> list[str]:
    """Returns ids of subsets in the order of `subset_ids`, without listing all that there are."""
    places = {name: place for place, name in enumerate(names)}
    members = {subset: [places[name] for name in subset.split('+')] for subset in subsets}
    return sorted(members, key=lambda subset: (len(members[subset]), members[subset]))


def is_subset(text: str, names: Sequence[str]) -> bool:
    """Returns whether a text is the id of a subset, with its modalities in their order."""
    members = text.split('+')
    return members == [name for name in names if name in members]


def extremes(names: Sequence[str]) -> list[str]:
    """Returns each modality alone, each subset that lacks one, and the set of all, in order."""
    lacking = ('+'.join(n for n in names if n != gone) for gone in names)
    return subset_order({*names, *filter(None, lacking), '+'.join(names)}, names)


def subset_table(names: Sequence[str], only: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the id of each subset with its mask, (M,) bool, in the order of `subset_ids`.

    Args:
        names: The modalities in order.
        only: Ids of subsets; all of them by default.
    """
    if only is None:
        return dict(zip(subset_ids(names), subset_masks(len(names)), strict=True))
    return {s: np.isin(names, s.split('+')) for s in subset_order(only, names)}
