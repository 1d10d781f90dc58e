"""Which subsets of the modalities are tested: all, a sample stratified by size, or a list.

M modalities have N_k = C(M, k) subsets of size k. A sample holds all single modalities, all subsets
that lack one modality, and the complete set, whose sizes it covers wholly; of every other size it
holds at least two, drawn without replacement, the more the more there are. The mean over all
2^M - 1 subsets is then the stratified estimate (Cochran, Sampling Techniques, 1977, chapter 5):

    mean = sum over k of N_k / (2^M - 1) * mean over the tested subsets of size k

The field `subsets` of a protocol says which subsets are tested: nothing for all of them,
'sampled:K', or 'list:' and a hexadecimal number of each subset, whose bit m stands for modality m.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.subsets import LISTED, subset_ids, subset_named, subset_order

ALL, SAMPLED, LIST = 'all', 'sampled', 'list'

EVERY = 8
"""Most modalities of which all subsets are tested unless something else is asked for."""

USUAL = f'{SAMPLED}:128'
"""What is tested of more modalities unless something else is asked for."""

MOST = 1000
"""Most subsets in a sample or in a list; a list of so many still fits into a field of a record."""


def is_sample(spec: str) -> bool:
    """Returns whether the tested subsets are a sample, so that their mean estimates that of all."""
    return spec.startswith(f'{SAMPLED}:')


def fewest(modalities: int) -> int:
    """Returns how many subsets a sample has at least: two of each size that it does not cover."""
    return min(2 * modalities + 1 + 2 * max(modalities - 3, 0), 2**modalities - 1)


def spelled(given: str, names: Sequence[str]) -> str:
    """Returns the field `subsets` of a protocol for what --subsets says.

    Args:
        given: 'all', 'sampled:K', 'list:...' as a record has it, the path of a file with the id of
            a subset in each line, or nothing for the default.
        names: The modalities of the data set.

    Raises:
        UserError: It is none of these, or does not fit the modalities.
    """
    count = len(names)
    text = given.strip() or (ALL if count <= EVERY else USUAL)
    kind, colon, value = text.partition(':')
    if text == ALL:
        if count > LISTED:
            raise UserError(
                f'--subsets all: expected at most {LISTED} modalities, found {count}, which have '
                f'{2**count - 1:,} subsets; --subsets {USUAL} tests a sample of them'
            )
        return ''
    if kind == SAMPLED and colon:
        return _spelled_sample(value, count)
    if kind == LIST and colon:
        return _spelled_list(_decoded(value, names), names)
    return _spelled_list(_read(Path(text), names), names)


def _spelled_sample(value: str, count: int) -> str:
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if count <= LISTED and 2**count - 1 <= number <= MOST:
        return ''
    if not fewest(count) <= number <= MOST:
        raise UserError(
            f'--subsets {SAMPLED}:{value}: expected a number from {fewest(count)} to {MOST} for '
            f'{count} modalities: a sample holds the complete set, each modality alone, each '
            'subset that lacks one modality, and at least two of every other size'
        )
    return f'{SAMPLED}:{number}'


def _spelled_list(subsets: Sequence[str], names: Sequence[str]) -> str:
    """Returns the field for a list; nothing if it holds all subsets.

    Raises:
        UserError: The complete set is not in it, or it is too long.
    """
    whole = '+'.join(names)
    if whole not in subsets:
        raise UserError(
            f'--subsets: expected the set of all modalities {whole!r}, with which all others are '
            f'compared, found {len(subsets)} subsets without it'
        )
    if len(names) <= LISTED and len(subsets) == 2 ** len(names) - 1:
        return ''
    if len(subsets) > MOST:
        raise UserError(f'--subsets: expected at most {MOST} subsets, found {len(subsets)}')
    places = {name: place for place, name in enumerate(names)}
    codes = [
        f'{sum(1 << places[name] for name in subset.split("+")):x}'
        for subset in subset_order(subsets, names)
    ]
    return f'{LIST}:{",".join(codes)}'


def _decoded(value: str, names: Sequence[str]) -> list[str]:
    """Returns the subsets of a list as records spell it.

    Raises:
        UserError: A code is no number of a subset.
    """
    found = []
    for code in value.split(','):
        digits = code if code.isascii() and code.isalnum() and len(code) < 20 else ''
        try:
            number = int(digits, 16)
        except ValueError:
            number = 0
        if not 0 < number < 1 << len(names):
            raise UserError(
                f'--subsets {LIST}: expected hexadecimal numbers from 1 to '
                f'{(1 << len(names)) - 1:x}, found {code[:40]!r}'
            )
        found.append('+'.join(name for m, name in enumerate(names) if number >> m & 1))
    return list(dict.fromkeys(found))


def _read(file: Path, names: Sequence[str]) -> list[str]:
    """Returns the subsets that a text file names, one in each line; '#' begins a comment.

    Raises:
        UserError: The file cannot be read, is empty, or names a subset wrongly or twice.
    """
    try:
        # Editors of Windows begin a file with a mark, which is no part of the first name.
        lines = file.read_text(encoding='utf-8-sig').splitlines() if file.is_file() else None
    except (OSError, ValueError) as error:
        raise UserError(f'--subsets {file}: cannot be read: {error}') from None
    if lines is None:
        raise UserError(
            f'--subsets: expected {ALL}, {SAMPLED}:K (e.g. {USUAL}) or a file with a subset in '
            f'each line, found {str(file)!r}, which is no file'
        )
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.partition('#')[0].strip()):
            continue
        members = '+'.join(name.strip() for name in text.split('+'))
        subset = subset_named(members, names, f'{file}, line {number}: subset')
        if subset in found:
            raise UserError(
                f'{file}, line {number}: expected every subset once, found {subset} again, as in '
                f'line {found[subset]}'
            )
        found[subset] = number
    if not found:
        raise UserError(f'--subsets {file}: expected a subset in each line, found none')
    return list(found)


def tested(spec: str, names: Sequence[str]) -> list[str]:
    """Returns the ids of the subsets that the field `subsets` of a protocol stands for.

    They are in the order of `subset_ids`; the last one is that of all modalities.

    Args:
        spec: The field, as `spelled` returns it.
        names: The modalities of the data set.

    Raises:
        UserError: It is no such field.
    """
    kind, _, value = spec.partition(':')
    if kind == LIST:
        return subset_order(_decoded(value, names), names)
    # Anybody may have made the file that the field is from.
    checked = _spelled_sample(value, len(names)) if spec else ''
    if not checked:
        return subset_ids(names)
    chosen = sample(len(names), int(checked.partition(':')[2]))
    return ['+'.join(names[m] for m in members) for members in chosen]


@functools.lru_cache(maxsize=8)
def sample(modalities: int, number: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Returns a stratified sample of subsets, each as its members, in the order of `subset_ids`.

    It depends on its arguments alone, through SHA-256, so that it is the same on every machine. A
    larger sample holds every smaller one.

    Args:
        modalities: M.
        number: Number of subsets, at least `fewest`.
        seed: Seed of the draws.
    """
    found: list[tuple[int, ...]] = []
    for size, wanted in sizes(modalities, number).items():
        there = math.comb(modalities, size)
        if wanted == there:
            found += itertools.combinations(range(modalities), size)
            continue
        ranks: dict[int, None] = {}
        for draw in itertools.count():
            digest = hashlib.sha256(f'{seed}/{modalities}/{size}/{draw}'.encode()).digest()
            ranks[int.from_bytes(digest, 'big') % there] = None
            if len(ranks) == wanted:
                break
        found += sorted(_member_of(rank, modalities, size) for rank in ranks)
    return tuple(found)


def sizes(modalities: int, number: int) -> dict[int, int]:
    """Returns how many subsets of each size a sample has, by highest averages of the rest.

    Args:
        modalities: M.
        number: Number of subsets, at least `fewest`.
    """
    there = {size: math.comb(modalities, size) for size in range(1, modalities + 1)}
    covered = {1, modalities - 1, modalities}
    found = {size: count if size in covered else 2 for size, count in there.items()}
    for _ in range(number - sum(found.values())):
        open_ones = [size for size, count in there.items() if found[size] < count]
        found[max(open_ones, key=lambda size: there[size] / found[size])] += 1
    return found


def _member_of(rank: int, count: int, size: int) -> tuple[int, ...]:
    """Returns the combination of `size` of `count` members with a rank in alphabetical order."""
    members = []
    for member in range(count):
        if not size:
            break
        with_it = math.comb(count - member - 1, size - 1)
        if rank < with_it:
            members.append(member)
            size -= 1
        else:
            rank -= with_it
    return tuple(members)


def shares(modalities: int) -> np.ndarray:
    """Returns the share (M,) of the subsets of size 1, ..., M among all subsets."""
    counts = [math.comb(modalities, size) for size in range(1, modalities + 1)]
    return np.array(counts) / (2**modalities - 1)


def mean(scores: Mapping[str, float], modalities: int, spec: str) -> float:
    """Returns the mean over subsets: of those tested, or the estimate for all from a sample.

    Args:
        scores: Subset id -> its score, at least one.
        modalities: M.
        spec: The field `subsets` of the protocol.
    """
    values = list(scores.values())
    if not is_sample(spec):
        return sum(values) / len(values)
    found = np.array([subset.count('+') + 1 for subset in scores])
    there = np.unique(found)
    weights = shares(modalities)[there - 1]
    means = [np.mean(np.array(values)[found == size]) for size in there]
    # Where no sample has any subset of some size, the other sizes count.
    return float(weights @ means / weights.sum())
