"""The classes of a folder of images, and checks of every label before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE
from benchmark.names import check_classes
from datasets.common.families.image_folders import LABELS, NAMES, TABLE, ImageFolder
from datasets.common.io import inspection
from datasets.common.io.files import decoded, lines
from datasets.common.io.images import LabelFile
from datasets.common.io.paths import has_file

BINARY = (0, *[-1] * 254, 1)
"""Value in a binary mask -> class; -1 stands for values that such masks do not have."""

Sizes = Mapping[str, Mapping[str, tuple[int, int]]]
"""Sample -> modality -> (H, W) of its image."""


def table(binary: bool) -> tuple[int, ...] | None:
    """Returns value in a label map -> class, None if the values are the classes.

    Args:
        binary: Whether label maps are masks with the foreground 255.
    """
    return BINARY if binary else None


def map_classes(root: Path, found: ImageFolder, sizes: Sizes, binary: bool) -> tuple[str, ...]:
    """Decodes all label maps once, checks them, and returns the names of the classes.

    Args:
        root: The data root, which may hold `classes.txt`.
        found: Its content.
        sizes: Sizes of the images, one of which each label map must have.
        binary: Whether label maps are masks with the foreground 255.

    Raises:
        UserError: A label map is broken, has another size than the images, or has a label that is
            no class; the training split has fewer than two classes; or another split has no
            labelled pixel.
    """
    values = {
        name: map_values({s: found.maps[s] for s in samples}, sizes)
        for name, samples in found.splits.items()
    }
    for name, labels in values.items():
        if labels == {IGNORE} and not binary:
            raise UserError(
                f'{root / LABELS}: expected some labelled pixel in {name}, found {IGNORE} alone'
            )
    trained, ignored = values['train'], None if binary else IGNORE
    inspection.check_trained_classes(root / LABELS, trained, ignored)
    top = 1 if binary else max(trained - {IGNORE})
    names = _given_names(root) or tuple(map(str, range(top + 1)))
    inspection.check_number(root, len(names))
    known = {0, IGNORE} if binary else {*range(len(names)), IGNORE}
    for name, samples in found.splits.items():
        if values[name] <= known:
            continue
        # The decoder of the training says which label of which file is wrong.
        for sample in samples:
            path = found.maps[sample]
            (one,) = inspection.maps([path])
            decoded(path, LabelFile(one.size, len(names), table(binary)))
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


def shown(found: ImageFolder, classes: Sequence[str], binary: bool) -> dict[str, set[int]]:
    """Returns split -> the classes of its samples.

    Args:
        found: The content of the data root.
        classes: Names of the K classes.
        binary: Whether label maps are masks with the foreground 255.
    """
    splits = found.splits.items()
    if not found.dense:
        index = {label: k for k, label in enumerate(classes)}
        return {name: {index[found.names[s]] for s in samples} for name, samples in splits}
    known = BINARY if binary else range(IGNORE)
    maps = {name: inspection.maps([found.maps[s] for s in samples]) for name, samples in splits}
    values = {name: set().union(*(one.values for one in some)) for name, some in maps.items()}
    return {name: {known[v] for v in some if v < len(known)} for name, some in values.items()}


def _given_names(root: Path) -> tuple[str, ...]:
    file = root / NAMES
    if not has_file(file):
        return ()
    names = tuple(lines(file))
    check_classes(str(file), names)
    return names


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
    inspection.check_number(root, len(given or used))
    check_classes(str(root / TABLE), sorted(used))
    return given or tuple(sorted(used, key=lambda n: (not n.isdigit(), n.zfill(9))))
