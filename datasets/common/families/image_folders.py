"""What a folder of images holds: the images of every modality, the labels and the splits."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import UserError, unknown
from datasets.common.io.files import lines
from datasets.common.io.folders import is_litter, walk
from datasets.common.io.splits import check_disjoint, held_out, set_apart

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.npy')
MAPS = ('.png', '.tif', '.tiff', '.bmp')
"""Formats of label maps. JPEG is none of them, since its compression changes labels along edges."""

SPLITS = ('train', 'val', 'test')
LABELS = 'labels'
LABEL_LIKE = re.compile(r'(label|mask|annotation|segmentation|seg|gt)s?([_-].*)?|groundtruth', re.I)
"""Folders that hold labels in another form: as a modality they would give the answer away."""

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
        clusters: Sample -> person, video or the like that it comes from; empty if that is unknown.
    """

    images: dict[str, dict[str, Path]]
    dense: bool
    maps: dict[str, Path]
    names: dict[str, str]
    splits: dict[str, list[str]]
    clusters: dict[str, str]

    def files(self) -> list[Path]:
        """Returns the images and label maps of all samples that have a label."""
        folders = [*self.images.values(), self.maps]
        samples = self.maps if self.dense else self.names
        return [files[sample] for sample in samples for files in folders if sample in files]

    def summary(self) -> list[str]:
        """Returns what was found, for the user, in lines."""
        samples = {sample for split in self.splits.values() for sample in split}
        counts = ', '.join(f'{name} {len(split)}' for name, split in self.splits.items())
        found = [f'found modalities {", ".join(self.images)}; samples: {counts}']
        for name, files in self.images.items():
            if lacking := len(samples - files.keys()):
                found.append(f'{lacking} of {len(samples)} samples lack {name}')
        for name, files in (*self.images.items(), (LABELS, self.maps)):
            if unused := len(files.keys() - samples):
                found.append(f'{unused} files of {name} belong to no sample of a split')
        if unused := len(set(self.maps if self.dense else self.names) - samples):
            found.append(f'{unused} labelled samples belong to no split')
        return found


def read_folder(root: Path, gaps: bool, modalities: Sequence[str] = ()) -> ImageFolder:
    """Reads what a root holds, without opening any image.

    Args:
        root: The folder; `datasets.folders.Folders` describes its layout.
        gaps: Whether a sample may lack the image of a modality.
        modalities: The modalities to read, in this order; all of them by default.

    Raises:
        UserError: The root is laid out otherwise, a sample is in two splits, lacks a label, or
            lacks an image.
    """
    images = {name: listed(root / name) for name in _modalities(root, modalities)}
    clusters: dict[str, str] = {}
    if (root / LABELS).is_dir():
        maps = listed(root / LABELS, MAPS)
        splits = _splits(root, maps, {})
        found = ImageFolder(images, True, maps, {}, splits, clusters)
    else:
        rows = _table(root)
        names = {row['sample']: row['label'] for row in rows}
        if 'cluster' in rows[0]:
            clusters = {row['sample']: row['cluster'] for row in rows}
        splits = _splits(root, names, {row['sample']: row.get('split') for row in rows})
        found = ImageFolder(images, False, {}, names, splits, clusters)
    check_disjoint(root, found.splits)
    for samples in found.splits.values():
        for sample in samples:
            _check_sample(root, found, sample, gaps)
    return found


def _modalities(root: Path, chosen: Sequence[str]) -> list[str]:
    if not root.is_dir():
        raise UserError(f'{root}: expected a folder, found nothing there')
    known = sorted(p.name for p in root.iterdir() if p.is_dir() and not is_litter(p.name))
    known = [name for name in known if name != LABELS]
    for name in chosen:
        if name not in known:
            raise unknown(f'modality in {root}', name, known)
    found = list(chosen) or known
    if not found:
        raise UserError(f'{root}: expected a folder per modality, found none')
    for name in found:
        if not chosen and LABEL_LIKE.fullmatch(name):
            others = '+'.join(n for n in known if not LABEL_LIKE.fullmatch(n)) or 'a+b'
            raise UserError(
                f'{root / name}: expected a modality, found a name that labels have; choose the '
                f'modalities, e.g. modalities={others}'
            )
    return found


def listed(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Returns sample -> file. The sample is 'a', or 'train/a' for a file in a sub-folder.

    Raises:
        UserError: A file has another suffix, or two files differ in their suffixes alone.
    """
    found: dict[str, Path] = {}
    for path in walk(folder):
        sample = path.relative_to(folder).with_suffix('').as_posix()
        if path.suffix.lower() not in suffixes:
            raise UserError(f'{path}: expected one of {", ".join(suffixes)}')
        if sample in found:
            raise UserError(f'{path}: a second file of sample {sample!r}: {found[sample].name}')
        found[sample] = path
    return found


def _table(root: Path) -> list[dict[str, str]]:
    """Returns the rows of `labels.csv`, whose samples have no suffix of a file any more."""
    file = root / 'labels.csv'
    try:
        text = file.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        expected = f'{LABELS}/ with label maps or labels.csv'
        raise UserError(f'{root}: expected {expected}, found neither') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{file}: expected a table in UTF-8: {error}') from None
    header = text.partition('\n')[0]
    # Spreadsheets write semicolons where the comma is the decimal mark.
    mark = max(',;\t', key=header.count)
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=mark)
    try:
        columns, *cells = [[cell.strip() for cell in row] for row in reader if any(row)] or [[]]
    except csv.Error as error:
        raise UserError(f'{file}: expected a table: {error}') from None
    if not {'sample', 'label'} <= set(columns) or not cells or len(set(columns)) < len(columns):
        found = 'no row' if not cells else ', '.join(columns)
        raise UserError(f'{file}: expected the columns sample,label; found {found}')
    rows: dict[str, dict[str, str]] = {}
    for row in cells:
        if len(row) != len(columns) or not all(row):
            told = ', '.join(map(repr, row))
            raise UserError(f'{file}: expected {len(columns)} values in every row, found {told}')
        values = dict(zip(columns, row, strict=True))
        sample = _stem(values['sample'])
        if sample in rows:
            raise UserError(f'{file}: sample {sample!r} is listed twice')
        rows[sample] = values | {'sample': sample}
    return list(rows.values())


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
    if len(lacking) == len(found.images):
        every = ', '.join(lacking)
        raise UserError(f'{root}: expected an image of sample {sample!r}, found none in {every}')
    if lacking and not gaps:
        where = root / lacking[0] / sample
        hint = 'gaps=true takes this for a gap'
        raise UserError(f'{where}: expected an image of this name, found none; {hint}')
