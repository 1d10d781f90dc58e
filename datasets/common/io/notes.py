"""What a user is told of the data that were found, in lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized

from benchmark.method import Modality

NAMED = 5
"""How many of the things that were left aside are named."""


def found(
    modalities: Sequence[Modality], splits: Mapping[str, Sized], what: str = 'samples'
) -> str:
    """Returns the line that names the modalities, their kinds and shapes, and sizes of the splits.

    Args:
        modalities: Those that were found.
        splits: 'train', 'val', 'test' -> samples.
        what: What samples are called.
    """
    counts = ', '.join(f'{name} {len(samples)}' for name, samples in splits.items())
    return f'found modalities {", ".join(map(described, modalities))}; {what}: {counts}'


def untrained(classes: Sequence[str], labels: Iterable[int]) -> list[str]:
    """Returns a line that names the labels of other splits that no training sample has."""
    names = [classes[label] for label in sorted(labels)]
    return [f'no training sample is of class {_listed(names)}'] if names else []


def empty(names: Sequence[str], what: str = 'samples') -> list[str]:
    """Returns a line that counts the samples which were left out for want of any modality."""
    if not names:
        return []
    named = ', '.join(names[:3]) + (', ...' if names[3:] else '')
    return [f'{len(names)} {what} have no modality at all and are left out: {named}']


def described(modality: Modality) -> str:
    """Returns name, kind and shape of a modality, e.g. 'rgb (image 3x480x640)'."""
    *more, last = modality.shape
    # The last feature of a padded sequence marks its padding, which the data do not hold.
    shape = 'x'.join(map(str, [*more, last - modality.padded]))
    return f'{modality.name} ({modality.kind} {shape})'


def constant(
    name: str, features: Sequence[int], varying: Sequence[int], what: str = 'feature'
) -> list[str]:
    """Returns a line on the features of a modality that do not vary in the training samples.

    Args:
        name: The modality.
        features: Their numbers, from 0.
        varying: Those among them of which other splits hold other values.
        what: What a feature is called.
    """
    if not features:
        return []
    told = f'; of these, {_listed(list(map(str, varying)))} vary in other splits' if varying else ''
    return [
        f'{name}: {what}s that do not vary in the training samples, or by no more than rounding, '
        f'and become 0: {_listed(list(map(str, features)))}{told}'
    ]


def aside(names: Iterable[str]) -> list[str]:
    """Returns a line that names what was left aside; no line if nothing was."""
    known = sorted(set(names))
    return [f'left aside: {_listed(list(map(printable, known)))}'] if known else []


def unchecked(numbers: Mapping[str, str]) -> list[str]:
    """Returns a line on new images whose numbers cannot be compared with those of a training.

    Args:
        numbers: Modality -> the type of the numbers of its new images, in words.
    """
    told = ', '.join(f'{name} {kind}' for name, kind in numbers.items())
    lacking = 'the run is of a version that did not keep which numbers the images of the training'
    return (
        [f'{lacking} hold, so that those of the new ones are not compared: {told}'] if told else []
    )


def gone(names: Iterable[str]) -> list[str]:
    """Returns a line that names files which are no longer there; no line if all are."""
    known = sorted(names)
    return [f'written by the preparation, and missing now: {_listed(known)}'] if known else []


def _listed(names: Sequence[str]) -> str:
    more = f' and {len(names) - NAMED} more' if names[NAMED:] else ''
    return f'{", ".join(names[:NAMED])}{more}'


def printable(name: str) -> str:
    """Returns a name in which every character is seen and none is obeyed by a terminal."""
    return name if name.isprintable() else ascii(name)
