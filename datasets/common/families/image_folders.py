"""What a folder of images holds: the images of every modality, the labels and the splits."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import UserError, unknown
from datasets.common.io.files import lines
from datasets.common.io.splits import check_disjoint, held_out, set_apart

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.npy')
MAPS = ('.png', '.tif', '.tiff', '.bmp')
"""Formats of label maps. JPEG is none of them, since its compression changes labels along edges."""

SPLITS = ('train', 'val', 'test')
LABELS = 'labels'
HELD_OUT = 0.15
"""Share of the training samples that validates where the user names no validation split."""


class ImageFolder(NamedTuple):
    """The content of a root.

    Attributes:
        images: Modality -> sample -> image.
        dense: Whether labels are maps, for segmentation, rather than names of classes.
        maps: Sample -> label map; empty in classification.
        names: Sample -> name of its class; empty in segmentation.
        splits: 'train', 'val', 'test' -> samples.
    """

    images: dict[str, dict[str, Path]]
    dense: bool
    maps: dict[str, Path]
    names: dict[str, str]
    splits: dict[str, list[str]]

    def files(self) -> list[Path]:
        """Returns the images and label maps of all samples that have a label."""
        folders = [*self.images.values(), self.maps]
        samples = self.maps if self.dense else self.names
        return [files[sample] for sample in samples for files in folders if sample in files]


def read_folder(root: Path, gaps: bool) -> ImageFolder:
    """Reads what a root holds, without opening any image.

    Args:
        root: The folder; `datasets.folders.Folders` describes its layout.
        gaps: Whether a sample may lack the image of a modality.

    Raises:
        UserError: The root is laid out otherwise, a sample is in two splits, lacks a label, or
            lacks an image.
    """
    images = {name: listed(root / name) for name in _modalities(root)}
    if (root / LABELS).is_dir():
        maps = listed(root / LABELS, MAPS)
        found = ImageFolder(images, True, maps, {}, _splits(root, maps, {}))
    else:
        rows = _table(root)
        names = {row['sample']: row['label'] for row in rows}
        column = {row['sample']: row.get('split') for row in rows}
        found = ImageFolder(images, False, {}, names, _splits(root, names, column))
    check_disjoint(root, found.splits)
    for samples in found.splits.values():
        for sample in samples:
            _check_sample(root, found, sample, gaps)
    return found


def _modalities(root: Path) -> list[str]:
    if not root.is_dir():
        raise UserError(f'{root}: expected a folder, found nothing there')
    found = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith('.')]
    found = sorted(set(found) - {LABELS})
    for name in found:
        if not re.fullmatch(r'[\w-]+', name):
            raise UserError(f'{root / name}: expected a name of letters, digits, _ and -')
    if not found:
        raise UserError(f'{root}: expected a folder per modality, found none')
    return found


def listed(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Returns sample -> file. The sample is 'a', or 'train/a' for a file in a sub-folder.

    Raises:
        UserError: A file has another suffix, or two files differ in their suffixes alone.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob('*')):
        if path.name.startswith('.') or path.is_dir():
            continue
        sample = path.relative_to(folder).with_suffix('').as_posix()
        if path.suffix.lower() not in suffixes:
            raise UserError(f'{path}: expected one of {", ".join(suffixes)}')
        if sample in found:
            raise UserError(f'{path}: a second file of sample {sample!r}: {found[sample].name}')
        found[sample] = path
    return found


def _table(root: Path) -> list[dict[str, str]]:
    """Returns the rows of `labels.csv`."""
    file = root / 'labels.csv'
    try:
        with file.open(encoding='utf-8', newline='') as handle:
            rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        expected = f'{LABELS}/ with label maps or labels.csv'
        raise UserError(f'{root}: expected {expected}, found neither') from None
    for key in ('sample', 'label'):
        if not rows or rows[0].get(key) is None:
            found = ', '.join(rows[0]) if rows else 'no row'
            raise UserError(f'{file}: expected the columns sample,label; found {found}')
    seen: set[str] = set()
    for row in rows:
        if row['sample'] in seen:
            raise UserError(f'{file}: sample {row["sample"]!r} is listed twice')
        seen.add(row['sample'])
    return rows


def _splits(
    root: Path, labelled: Iterable[str], column: dict[str, str | None]
) -> dict[str, list[str]]:
    """Returns split -> samples, from sub-folders, lists or a column, in this order.

    Args:
        root: The folder.
        labelled: The samples that have a label.
        column: Sample -> its split in `labels.csv`, None where the table has no such column.
    """
    samples = list(labelled)
    where: dict[str, list[str]] = {name: [] for name in SPLITS}
    lists = {name: root / f'{name}.txt' for name in SPLITS}
    in_folders = all('/' in sample for sample in samples)
    if not in_folders and lists['train'].is_file():
        for name, file in lists.items():
            where[name] = [_stem(s) for s in lines(file)] if file.is_file() else []
    else:
        for sample in samples:
            split = sample.partition('/')[0] if in_folders else column.get(sample)
            if split is None:
                raise UserError(
                    f'{root}: expected splits: sub-folders train, val and test, lists train.txt '
                    'and test.txt, or a column split in labels.csv'
                )
            if split not in where:
                raise unknown(f'split of sample {sample!r} in {root}', split, SPLITS)
            where[split].append(sample)
    if not where['val']:
        where['train'], where['val'] = set_apart(where['train'], lambda s: held_out(s, HELD_OUT))
    return where


def _stem(sample: str) -> str:
    return sample[: -len(Path(sample).suffix)] if sample.lower().endswith(SUFFIXES) else sample


def _check_sample(root: Path, found: ImageFolder, sample: str, gaps: bool) -> None:
    if sample not in (found.maps if found.dense else found.names):
        raise UserError(f'{root}: expected a label of sample {sample!r}, found none')
    lacking = [m for m, files in found.images.items() if sample not in files]
    if len(lacking) == len(found.images) or lacking and not gaps:
        hint = '' if len(lacking) == len(found.images) else '; gaps=true takes this for a gap'
        where = root / lacking[0] / sample
        raise UserError(f'{where}: expected an image of this name, found none{hint}')
