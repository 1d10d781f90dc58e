"""What two splits share: samples of equal content, and clusters such as persons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from benchmark.errors import UserError, unknown
from benchmark.shown import terminal
from datasets.common.io.remembered import hashes

Duplicates = Literal['report', 'refuse']
"""The option `duplicates` of data sets; see `copies` and `shared`."""

Contents = Mapping[str, Mapping[str, Mapping[str, str]]]
"""'train', 'val', 'test' -> sample -> modality -> hash of its content, where the sample has it."""

NAMED = 3
"""How many of the copies are named."""

COMMON = 50
"""Content that more samples share than this, such as a black image, identifies none of them."""

CALLED = {'train': 'training', 'val': 'validation'}

PAIRS = (('train', 'val'), ('train', 'test'), ('val', 'test'))
"""(earlier split, later split) that should share nothing."""


def copies(
    where: Path | str, contents: Contents, duplicates: Duplicates = 'report', what: str = 'sample'
) -> list[str]:
    """Returns what to say of samples that are in an earlier split as well.

    A sample is a copy of another if both have the same content in all modalities that both have,
    and in one at least.

    Args:
        where: The data root, for messages.
        contents: The splits in the order train, val, test.
        duplicates: 'report' returns the lines; 'refuse' takes a copy for an error.
        what: What a sample is called in messages.

    Raises:
        UserError: `duplicates` is 'refuse' and there are copies, or it is neither of both.
    """
    if duplicates not in ('report', 'refuse'):
        raise unknown('value of duplicates', duplicates, ('report', 'refuse'))
    told = []
    for earlier, name in PAIRS:
        found = list(_twins(contents[earlier], contents[name]))
        if not found:
            continue
        named = found[:NAMED]
        pairs = ', '.join(f'{terminal(k)} ({earlier}: {terminal(twin)})' for k, twin in named)
        more = ', ...' if found[NAMED:] else ''
        count = f'{len(found)} of {len(contents[name])} {what}s of {name}'
        told.append(f'{count} are copies of {CALLED[earlier]} {what}s: {pairs}{more}')
    if told and duplicates == 'refuse':
        raise UserError(f'{where}: duplicates=refuse: expected no copies, found {"; ".join(told)}')
    return told


def _twins(
    earlier: Mapping[str, Mapping[str, str]], later: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yields (later sample, the first earlier one that it is a copy of)."""
    whole: dict[tuple[tuple[str, str], ...], str] = {}
    sharing: dict[tuple[str, str], list[str]] = {}
    for sample, content in earlier.items():
        whole.setdefault(tuple(sorted(content.items())), sample)
        for one in content.items():
            sharing.setdefault(one, []).append(sample)
    for sample, content in later.items():
        if twin := content and whole.get(tuple(sorted(content.items()))):
            yield sample, twin
            continue
        near = (sharing.get(one, []) for one in content.items())
        candidates = {twin: None for twins in near if len(twins) <= COMMON for twin in twins}
        for twin in candidates:
            if all(earlier[twin].get(m, found) == found for m, found in content.items()):
                yield sample, twin
                break


def shared(
    where: Path | str, clusters: Mapping[str, Iterable[str]], duplicates: Duplicates = 'report'
) -> list[str]:
    """Returns what to say, in a line, of clusters that have samples in two splits.

    A network is then tested on persons, or recordings, that it has been trained on.

    Args:
        where: The data root, for messages.
        clusters: 'train', 'val', 'test' -> cluster of each sample, '' where it is not known.
        duplicates: 'report' returns the line; 'refuse' takes such a cluster for an error.

    Raises:
        UserError: `duplicates` is 'refuse' and there are such clusters.
    """
    members = {name: {*found} - {''} for name, found in clusters.items()}
    both = {pair: members[pair[0]] & members[pair[1]] for pair in PAIRS}
    if not any(both.values()):
        return []
    counts = ', '.join(
        f'{len(found)} of {len(members[later])} of {later} in {earlier}'
        for (earlier, later), found in both.items()
        if found
    )
    named = sorted(map(terminal, set().union(*both.values())))
    more = ', ...' if named[NAMED:] else ''
    told = f'clusters (persons, recordings or the like) in two splits: {counts}: '
    told += f'{", ".join(named[:NAMED])}{more}'
    if duplicates == 'refuse':
        raise UserError(f'{where}: duplicates=refuse: expected none, found {told}')
    return [told]


def copied_files(
    where: Path | str,
    files: Mapping[str, Mapping[str, Mapping[str, Path]]],
    duplicates: Duplicates = 'report',
    what: str = 'sample',
) -> list[str]:
    """Returns `copies` of samples that are made of files.

    Args:
        where: The data root, for messages.
        files: 'train', 'val', 'test' -> sample -> modality -> file, of those that a sample has.
        duplicates: See `copies`.
        what: See `copies`.

    Raises:
        UserError: A file is missing, or see `copies`.
    """
    paths = [p for samples in files.values() for one in samples.values() for p in one.values()]
    known = dict(zip(paths, hashes(paths), strict=True))
    contents = {
        name: {s: {m: known[p] for m, p in one.items()} for s, one in samples.items()}
        for name, samples in files.items()
    }
    return copies(where, contents, duplicates, what)


def of_modalities(
    samples: Sequence[str], digests: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """Returns sample -> modality -> hash, as `copies` takes them.

    Args:
        samples: Names of the samples.
        digests: Modality -> hash of each sample's content, '' where it lacks the modality.
    """
    return {
        sample: {m: found[k] for m, found in digests.items() if found[k]}
        for k, sample in enumerate(samples)
    }
