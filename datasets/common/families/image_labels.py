"""The classes of a folder of images, and checks of every label before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError, unknown
from benchmark.names import check_classes
from datasets.common.families.image_folders import LABELS, NAMES, TABLE, ImageFolder
from datasets.common.io import inspection
from datasets.common.io.files import decoded, lines
from datasets.common.io.images import LabelFile
from datasets.common.io.paths import has_file
from datasets.common.meaning import Meaning, check_number, trained

Sizes = Mapping[str, Mapping[str, tuple[int, int]]]
"""Sample -> modality -> (H, W) of its image."""


def map_classes(root: Path, found: ImageFolder, sizes: Sizes, meaning: Meaning) -> tuple[str, ...]:
    """Decodes all label maps once, checks them, and returns the names of the classes.

    Args:
        root: The data root, which may hold `classes.txt`.
        found: Its content.
        sizes: Sizes of the images, one of which each label map must have.
        meaning: What the numbers in label maps mean.

    Raises:
        UserError: A label map is broken, has another size than the images, or has a label that is
            no class; the training split has fewer than two classes; or another split has no
            labelled pixel.
    """
    meaning.check(str(root))
    values = {
        name: map_values({s: found.maps[s] for s in samples}, sizes)
        for name, samples in found.splits.items()
    }
    for name, numbers in values.items():
        if numbers <= {*meaning.ignored}:
            raise UserError(
                f'{root / LABELS}: expected some labelled pixel in {name}, found '
                f'{", ".join(map(str, sorted(numbers)))} alone'
            )
    trained(str(root / LABELS), values['train'], meaning)
    count = 2 if meaning.binary else max(meaning.of(values['train'])) + 1
    names = _given_names(root) or tuple(map(str, range(count)))
    check_number(str(root), len(names), meaning)
    for name, samples in found.splits.items():
        if not meaning.strange(values[name], len(names)):
            continue
        # The decoder of the training says which label of which file is wrong.
        for sample in samples:
            path = found.maps[sample]
            (one,) = inspection.maps([path])
            decoded(path, LabelFile(one.size, len(names), meaning.table(len(names))))
    return names


def map_values(files: Mapping[str, Path], sizes: Sizes) -> frozenset[int]:
    """Decodes label maps once and returns all values in them.

    Args:
        files: Sample -> label map.
        sizes: Sizes of the images, one of which each label map must have.

    Raises:
        UserError: A label map is broken or has another size than the images of its sample.
    """
    maps = inspection.maps(list(files.values()))
    for (sample, file), one in zip(files.items(), maps, strict=True):
        if one.size not in sizes[sample].values():
            images = ', '.join(f'{m} {size}' for m, size in sizes[sample].items())
            raise UserError(
                f'{file}: expected a label map as large as an image of its sample '
                f'({images}), found {one.size}'
            )
    return frozenset().union(*(one.values for one in maps))


def shown(found: ImageFolder, classes: Sequence[str], meaning: Meaning) -> dict[str, set[int]]:
    """Returns split -> the classes of its samples.

    Args:
        found: The content of the data root.
        classes: Names of the K classes.
        meaning: What the numbers in label maps mean.
    """
    splits = found.splits.items()
    if not found.dense:
        index = {label: k for k, label in enumerate(classes)}
        return {name: {index[found.names[s]] for s in samples} for name, samples in splits}
    maps = {name: inspection.maps([found.maps[s] for s in samples]) for name, samples in splits}
    return {name: meaning.of(set().union(*(m.values for m in some))) for name, some in maps.items()}


def _given_names(root: Path) -> tuple[str, ...]:
    file = root / NAMES
    if not has_file(file):
        return ()
    names = tuple(lines(file))
    check_classes(str(file), names)
    return names


def table_targets(
    root: Path, found: ImageFolder, kind: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the names of the columns, and sample -> target (K,), of `labels.csv`.

    Args:
        root: The data root, which may hold `classes.txt`.
        found: Its content.
        kind: 'multilabel', where the labels of a sample are joined by '|' and '-' stands for none,
            or 'regression'.

    Raises:
        UserError: A label is none of `classes.txt`, or is no number.
    """
    if found.dense:
        raise UserError(f'{root}: target={kind}: expected {TABLE}, found the folder {LABELS}')
    if kind == 'regression':
        values = {s: np.array([number(root, s, text)]) for s, text in found.names.items()}
        return ('value',), values
    each = {s: {*text.split('|')} - {'-', ''} for s, text in found.names.items()}
    used = sorted(set().union(*each.values()))
    names = _given_names(root) or tuple(used)
    for word in set(used) - set(names):
        raise unknown(f'label in {root / TABLE}', word, names)
    check_classes(str(root / TABLE), names, 1)
    return names, {s: np.array([n in words for n in names], np.uint8) for s, words in each.items()}


def number(root: Path, sample: str, text: str) -> float:
    """Returns the number that `labels.csv` gives to a sample.

    Raises:
        UserError: It is no finite number.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f'{root / TABLE}: label of {sample!r}: expected a number, found {text!r}')
    return value


def table_classes(root: Path, found: ImageFolder) -> tuple[str, ...]:
    """Returns the names of the classes in `labels.csv`, those that are numbers in front.

    Raises:
        UserError: The training samples have fewer than two classes, or `classes.txt` lacks one.
    """
    names = {part: {found.names[s] for s in samples} for part, samples in found.splits.items()}
    if len(names['train']) < 2:
        alone = ', '.join(map(repr, names['train']))
        raise UserError(
            f'{root / TABLE}: expected training labels of 2 classes or more, found {alone} alone'
        )
    used = set().union(*names.values())
    given = _given_names(root)
    for name in used - set(given or used):
        raise unknown(f'label in {root / TABLE}', name, given)
    check_number(str(root), len(given or used), None)
    check_classes(str(root / TABLE), sorted(used))
    return given or tuple(sorted(used, key=lambda n: (not n.isdigit(), n.zfill(9))))
