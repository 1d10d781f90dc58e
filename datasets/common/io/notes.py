"""What a user is told of the data that were found, in lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set, Sized

import numpy as np

from benchmark.method import Modality
from benchmark.shown import few, terminal

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


def labels(
    classes: Sequence[str], shown: Mapping[str, Set[int]], numbered: bool = False
) -> list[str]:
    """Returns lines on classes that the training lacks, and on other splits of one class alone.

    Args:
        classes: Names of the K classes.
        shown: 'train', 'val', 'test' -> the labels, 0 to K - 1, in the split.
        numbered: Whether the data hold these numbers, which may count from 1 by mistake.
    """
    lacking = [name for label, name in enumerate(classes) if label not in shown['train']]
    shifted = numbered and 0 not in set().union(*shown.values())
    hint = f'; labels count from 0, and no split has class {classes[0]}' if shifted else ''
    told = [f'no training sample is of class {_listed(lacking)}{hint}'] if lacking else []
    for split in ('val', 'test'):
        if len(shown[split]) == 1:
            (label,) = shown[split]
            told.append(
                f'all labels of {split} are of class {_listed([classes[label]])}: whoever always '
                'answers this class gets the best score there'
            )
    return told


def several(names: Sequence[str], training: np.ndarray) -> list[str]:
    """Returns lines on labels that no training sample has, and on those that all of them have.

    Args:
        names: Names of the K labels, of which a sample has any number.
        training: (N, K) of 0 and 1, the labels of the training samples.
    """
    counts = np.asarray(training).sum(0)
    known = [(c, name) for c, name in zip(counts.tolist(), names, strict=True)]
    none, every = ([n for c, n in known if c == wanted] for wanted in (0, len(training)))
    return [
        *([f'no training sample has label {_listed(none)}'] if none else []),
        *([f'all training samples have label {_listed(every)}'] if every else []),
    ]


def empty(names: Sequence[str], what: str = 'samples') -> list[str]:
    """Returns a line that counts the samples which were left out for want of any modality."""
    if not names:
        return []
    return [f'{len(names)} {what} have no modality at all and are left out: {_listed(names)}']


def gaps(
    modalities: Sequence[str], available: Mapping[str, np.ndarray], what: str = 'samples'
) -> list[str]:
    """Returns a line that counts the samples without each modality, in all splits together.

    Args:
        modalities: Names of the M modalities.
        available: 'train', 'val', 'test' -> (N, M) bool, what exists of each sample.
        what: What samples are called.
    """
    rows = np.concatenate(list(available.values()))
    lacking = zip(modalities, (~rows).sum(0).tolist(), strict=True)
    told = [f'{count} lack {terminal(name)}' for name, count in lacking if count]
    if nothing := int((~rows.any(1)).sum()):
        told.append(f'{nothing} have no modality at all and are neither trained nor tested')
    return [f'of {len(rows)} {what}, {", ".join(told)}'] if told else []


def replaced(counts: Mapping[str, int], what: str) -> list[str]:
    """Returns a line that counts values that are not finite and become 0.

    Args:
        counts: Where they are -> how many there are.
        what: What they are.
    """
    told = [f'{count} in {terminal(where)}' for where, count in counts.items() if count]
    return [f'{what} that are not finite, which become 0: {", ".join(told)}'] if told else []


def described(modality: Modality) -> str:
    """Returns name, kind and shape of a modality, e.g. 'rgb (image 3x480x640)'."""
    *more, last = modality.shape
    # The last feature of a padded sequence marks its padding, which the data do not hold.
    shape = 'x'.join(map(str, [*more, last - modality.padded]))
    return f'{terminal(modality.name)} ({modality.kind} {shape})'


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
        f'{terminal(name)}: {what}s that do not vary in the training samples, or by no more than '
        f'rounding, and become 0: {_listed(list(map(str, features)))}{told}'
    ]


def told(what: str, names: Sequence[str]) -> list[str]:
    """Returns a line that names what was found; no line if nothing was.

    Args:
        what: What it is.
        names: Its names.
    """
    return [f'{what}: {_listed(names)}'] if names else []


def aside(names: Iterable[str]) -> list[str]:
    """Returns a line that names what was left aside; no line if nothing was."""
    known = sorted(set(names))
    return [f'left aside: {_listed(known)}'] if known else []


def counted(count: int, one: str, many: str) -> str:
    """Returns a count with the words that go with it: those for one thing or those for several."""
    return f'{count} {one if count == 1 else many}'


def lacking(gaps: Mapping[str, int], every: Sized, what: str = 'samples') -> list[str]:
    """Returns a line for each modality that some samples lack.

    Args:
        gaps: Modality -> how many samples lack it.
        every: All samples.
        what: What samples are called.
    """
    words = f'of {len(every)} {what}'
    return [
        counted(count, f'{words} lacks {terminal(name)}', f'{words} lack {terminal(name)}')
        for name, count in gaps.items()
        if count
    ]


def part(name: str, count: int, every: int) -> list[str]:
    """Returns a line on the samples that a trained network does not predict.

    Args:
        name: The split that is predicted.
        count: How many samples it has.
        every: How many samples there are.
    """
    if count == every:
        return []
    told = counted(count, 'sample', 'samples')
    return [f'{told} of split {name}; {every - count} others left out (--split all)']


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
    return few([*map(terminal, names)], NAMED)
