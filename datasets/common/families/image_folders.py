"""What a folder of images holds: the images of every modality, the labels and the splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.dataset import SPLITS
from benchmark.errors import UserError, unknown
from benchmark.method import Modality
from benchmark.narrowed import named
from datasets.common.io import notes
from datasets.common.io.files import lines
from datasets.common.io.folders import SUFFIXES, entries, is_litter, walk
from datasets.common.io.images import image_side
from datasets.common.io.paths import check_folder, has_file, has_folder
from datasets.common.io.splits import check_disjoint, held_out, set_apart
from datasets.common.io.tables import read_table, stem

MAPS = ('.png', '.tif', '.tiff', '.bmp')
"""Formats of label maps. JPEG is none of them, since its compression changes labels along edges."""

LABELS = 'labels'
TABLE = 'labels.csv'
NAMES = 'classes.txt'
FILES = (TABLE, NAMES, *(f'{name}.txt' for name in SPLITS))
"""Files that a root may hold beside its folders."""
COLUMNS = ('sample', 'label', 'split', 'cluster')
LABEL_WORDS = {
    *('label', 'mask', 'annotation', 'annot', 'anno', 'segmentation', 'seg', 'semantic', 'target'),
    *('gt', 'truth', 'groundtruth'),
}
"""Words in the names of folders that hold labels in another form: as a modality they would give the
answer away."""

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
        aside: What lies in the root and is not read, as paths below it.
        empty: The samples that have no image at all, and are in no split.
    """

    images: dict[str, dict[str, Path]]
    dense: bool
    maps: dict[str, Path]
    names: dict[str, str]
    splits: dict[str, list[str]]
    clusters: dict[str, str]
    aside: list[str]
    empty: list[str]

    def files(self) -> list[Path]:
        """Returns the images and label maps of all samples that have a label."""
        folders = [*self.images.values(), self.maps]
        samples = self.maps if self.dense else self.names
        return [files[sample] for sample in samples for files in folders if sample in files]

    def summary(self) -> list[str]:
        """Returns what was found, for the user, in lines."""
        samples = {sample for split in self.splits.values() for sample in split}
        found = notes.empty(self.empty)
        gaps = {name: len(samples - files.keys()) for name, files in self.images.items()}
        found += notes.lacking(gaps, samples)
        for name, files in (*self.images.items(), (LABELS, self.maps)):
            if unused := sorted(files.keys() - samples - set(self.empty)):
                words = f'file of {name} belongs', f'files of {name} belong'
                told = f'{notes.counted(len(unused), *words)} to no sample of a split'
                found += notes.told(told, [files[sample].name for sample in unused])
        labelled = set(self.maps if self.dense else self.names)
        if unused := sorted(labelled - samples - set(self.empty)):
            words = 'labelled sample belongs', 'labelled samples belong'
            found += notes.told(f'{notes.counted(len(unused), *words)} to no split', unused)
        return [*found, *notes.aside(self.aside)]


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
    left: list[Path] = []
    images = {name: listed(root / name, left=left) for name in _modalities(root, modalities)}
    maps: dict[str, Path] = {}
    rows: list[dict[str, str]] = []
    dense = has_folder(root / LABELS)
    if dense:
        maps = listed(root / LABELS, MAPS, left)
        if not maps:
            there = f'an empty folder beside {TABLE}' if has_file(root / TABLE) else 'none'
            raise UserError(f'{root / LABELS}: expected label maps, found {there}')
    else:
        rows = read_table(root / TABLE)
    names = {row['sample']: row['label'] for row in rows}
    clusters = {row['sample']: row['cluster'] for row in rows if 'cluster' in row}
    column = {row['sample']: row.get('split') for row in rows}
    splits, used = _splits(root, maps if dense else names, column)
    used |= {*images, LABELS if dense else TABLE, NAMES, '.cache'}
    unused = [column for column in rows[0] if column not in COLUMNS] if rows else []
    aside = [
        *(str(path.relative_to(root)) for path in left),
        *(path.name for path in entries(root) if path.name not in used),
        *(f'column {column} of {TABLE}' for column in unused),
    ]
    if 'split' not in used and any(column.values()):
        aside.append(f'column split of {TABLE}')
    found = ImageFolder(images, dense, maps, names, splits, clusters, aside, [])
    check_disjoint(root, splits)
    _check_trained(root, found)
    for name, samples in splits.items():
        splits[name] = [s for s in samples if _check_sample(root, found, s, gaps)]
    if found.empty:
        check_disjoint(root, splits)
    return found


def _modalities(root: Path, chosen: Sequence[str]) -> list[str]:
    check_folder(root)
    known = [p.name for p in entries(root) if p.is_dir() and not is_litter(p.name)]
    # Of these names a file is expected, whether it is needed or not.
    for name in FILES:
        has_file(root / name)
    known = [name for name in known if name != LABELS]
    for name in chosen:
        if name not in known:
            raise unknown(f'modality in {root}', name, known)
    found = list(chosen) or known
    if not found:
        raise UserError(f'{root}: expected a folder per modality, found none')
    for name in found:
        if not chosen and _holds_labels(name):
            others = '+'.join(n for n in known if not _holds_labels(n)) or 'a+b'
            raise UserError(
                f'{root / name}: expected a modality, found a name that labels have; choose the '
                f'modalities, e.g. modalities={others}'
            )
    return found


def _holds_labels(name: str) -> bool:
    """Returns whether a folder is named like labels, e.g. gtFine or colored_masks."""
    words = re.findall('[A-Z]?[a-z]+|[A-Z]+', name)
    return any({w.lower(), w.lower().removesuffix('s')} & LABEL_WORDS for w in words)


def listed(
    folder: Path, suffixes: tuple[str, ...] = SUFFIXES, left: list[Path] | None = None
) -> dict[str, Path]:
    """Returns sample -> file. The sample is 'a', or 'train/a' for a file in a sub-folder.

    Args:
        folder: The folder of a modality, or that of the labels.
        suffixes: The formats that its files may have.
        left: Takes hidden files and those that programs leave behind, which are left out.

    Raises:
        UserError: A file has another suffix, or two files differ in their suffixes alone.
    """
    found: dict[str, Path] = {}
    for path in walk(folder, left):
        sample = path.relative_to(folder).with_suffix('').as_posix()
        if path.suffix.lower() not in suffixes:
            raise UserError(f'{path}: expected one of {", ".join(suffixes)}')
        if sample in found:
            raise UserError(f'{path}: a second file of sample {sample!r}: {found[sample].name}')
        found[sample] = path
    return found


def _splits(
    root: Path, labelled: Iterable[str], column: Mapping[str, str | None]
) -> tuple[dict[str, list[str]], set[str]]:
    """Returns split -> samples, from sub-folders, lists or a column, in this order.

    Args:
        root: The folder.
        labelled: The samples that have a label.
        column: Sample -> its split in `labels.csv`, None where the table has no such column.

    Returns:
        The splits, and the names of the lists that they were read from or 'split' for the column.
    """
    samples = list(labelled)
    where: dict[str, list[str]] = {name: [] for name in SPLITS}
    lists = {name: root / f'{name}.txt' for name in SPLITS}
    in_folders = all('/' in sample for sample in samples)
    used: set[str] = set()
    there = [name for name, file in lists.items() if has_file(file)]
    if not in_folders and 'train' in there:
        used.update(file.name for file in lists.values())
        for name in there:
            where[name] = [stem(s) for s in lines(lists[name])]
    else:
        for sample in samples:
            split = sample.partition('/')[0] if in_folders else column.get(sample)
            if split is None:
                raise UserError(
                    f'{root}: expected splits: sub-folders train, val and test, lists train.txt '
                    'and test.txt, or a column split in labels.csv'
                )
            if split not in where:
                where_from = root if in_folders else root / TABLE
                told = unknown('split', split, SPLITS)
                raise UserError(f'{where_from}: sample {sample!r}: {told}')
            where[split].append(sample)
        used |= set() if in_folders else {'split'}
    if not where['val']:
        where['train'], where['val'] = set_apart(where['train'], lambda s: held_out(s, HELD_OUT))
    return where, used


def _check_trained(root: Path, found: ImageFolder) -> None:
    """Checks that every modality has an image of some training sample."""
    none = [m for m, files in found.images.items() if not files.keys() & found.splits['train']]
    if not none:
        return
    others = '+'.join(m for m in found.images if m not in none)
    hint = f'; every folder is taken for a modality: modalities={others} leaves it out'
    raise UserError(
        f'{root / none[0]}: expected an image of some training sample, found none'
        f'{hint if others else ""}'
    )


def _check_sample(root: Path, found: ImageFolder, sample: str, gaps: bool) -> bool:
    """Returns whether a sample has an image; one that has none is added to `found.empty`."""
    if sample not in (found.maps if found.dense else found.names):
        raise UserError(f'{root}: expected a label of sample {sample!r}, found none')
    lacking = [m for m, files in found.images.items() if sample not in files]
    if not lacking:
        return True
    every = len(lacking) == len(found.images)
    if not gaps and every:
        raise UserError(
            f'{root}: expected an image of sample {sample!r}, found none in {", ".join(lacking)}; '
            'gaps=true leaves such samples out'
        )
    if not gaps:
        where = root / lacking[0] / sample
        hint = 'gaps=true takes this for a gap'
        raise UserError(f'{where}: expected an image of this name, found none; {hint}')
    if every:
        found.empty.append(sample)
    return not every


def common_size(modalities: Sequence[Modality]) -> tuple[int, int] | None:
    """Returns the (H, W) that all images have, None if they differ."""
    sizes = {(m.shape[1], m.shape[2]) for m in modalities}
    return sizes.pop() if len(sizes) == 1 else None


def size_of(given: str) -> tuple[int, int] | None:
    """Reads the option `size`, 'HxW'; None where it is not given."""
    if not given:
        return None
    found = re.fullmatch(r'([0-9]{1,20})x([0-9]{1,20})', given)
    if not found:
        raise UserError(f'folders:size: expected HxW, e.g. 240x320, found {given!r}')
    return image_side('folders', int(found[1])), image_side('folders', int(found[2]))


def some_of(given: str, known: Iterable[str]) -> tuple[str, ...]:
    """Reads the option `nearest`, names of modalities joined by '+'."""
    names = named(given, 'folders:nearest')
    for name in names:
        if name not in known:
            raise unknown('modality in folders:nearest', name, known)
    return names
