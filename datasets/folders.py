"""A user's own images: a folder per modality with like-named files."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Modality, Task
from benchmark.missing import derive
from benchmark.registry import DATASETS
from datasets.common.augment.transforms import Geometric
from datasets.common.io.files import Files, data_root, decoded, fingerprint, lines
from datasets.common.io.images import AnyImage, LabelFile, Pixels, Scaled
from datasets.common.io.splits import check_disjoint, held_out

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.npy')
MAPS = ('.png', '.tif', '.tiff', '.bmp')
"""Formats of label maps; a JPEG would invent labels along edges."""

SPLITS = ('train', 'val', 'test')
LABELS = 'labels'
HELD_OUT = 0.15
"""Share of the training samples that validates where the user names no validation split."""

MEASURED = 200
"""Training samples whose pixels give each modality's mean and deviation."""


@DATASETS.register_module('folders')
class Folders(Dataset):
    """Images in a folder per modality, with label maps or a table of labels.

    The root holds `<modality>/<sample>.png` (png, jpg, tif, bmp or npy, any channels), each
    modality under its own name, like-named over the folders; and either `labels/<sample>.png`,
    label maps with 255 ignored (segmentation), or `labels.csv` with the columns `sample,label`
    (classification). The splits are sub-folders `train`, `val`, `test` in every folder, as users of
    mmsegmentation have them, or lists `train.txt`, `val.txt`, `test.txt` of samples, or a column
    `split` in `labels.csv`. Without a validation split, the samples of train whose names hash below
    0.15 are taken for it. `classes.txt`, one name per line, names the classes of label maps; by
    default they are 0 to the largest label in train.

    Inputs are standardised per channel by 200 training samples.

    Args:
        root: The folder.
        name: Name in tables and folders; the root's by default.
        size: 'HxW' to which everything is resized; by default nothing is, and all must agree.
        gaps: A file that a modality lacks is a gap in the data; else it is an error.
        nearest: Modalities, joined by '+', that are resized to the nearest pixel, such as depth.
        augment: Training flips images at random.
        width: Channels of the first stage of the shared encoders.
        cache: 'none', 'ram' or 'disk': whether decoded images are kept.

    Raises:
        UserError: The root is not laid out as above.
    """

    licence = "the user's own"
    how_to_get = 'a folder per modality with like-named images, and labels/ or labels.csv'
    streams = True

    def __init__(
        self,
        *,
        root: str = '',
        name: str = '',
        size: str = '',
        gaps: bool = False,
        nearest: str = '',
        augment: bool = True,
        width: int = 16,
        cache: str = 'none',
    ) -> None:
        self.root = data_root('folders', root, self.how_to_get)
        self.name = name or self.root.resolve().name
        self.cache, self.augment, self.gaps = cache, augment, gaps
        self.size = _size(size)
        self.files = {m: _listed(self.root / m) for m in self._modalities()}
        self.nearest = _some_of(nearest, self.files)
        self.maps = (self.root / LABELS).is_dir()
        self._measured: dict[str, Scaled] = {}
        self.labels: dict[str, Any] = (
            _listed(self.root / LABELS, MAPS) if self.maps else self._table()
        )
        self.where = self._splits()
        self._check()
        self.task = self._task(width)
        used = [f for s in self.labels for f in self._of(s) if f is not None]
        shaped = (self.where, self.task.classes, width, self.size, self.nearest, augment)
        labels = None if self.maps else self.labels
        self.fingerprint = fingerprint(used, shaped, labels)
        self.recipe = self._recipe()

    def _modalities(self) -> list[str]:
        if not self.root.is_dir():
            raise UserError(f'{self.root}: expected a folder, found nothing there')
        found = [p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith('.')]
        found = sorted(set(found) - {LABELS})
        for name in found:
            if not re.fullmatch(r'[\w-]+', name):
                raise UserError(f'{self.root / name}: expected a name of letters, digits, _ and -')
        if not found:
            raise UserError(f'{self.root}: expected a folder per modality, found none')
        return found

    def _table(self) -> dict[str, str]:
        file = self.root / 'labels.csv'
        try:
            with file.open(encoding='utf-8', newline='') as handle:
                rows = list(csv.DictReader(handle))
        except FileNotFoundError:
            expected = f'{LABELS}/ with label maps or labels.csv'
            raise UserError(f'{self.root}: expected {expected}, found neither') from None
        for key in ('sample', 'label'):
            if not rows or rows[0].get(key) is None:
                found = ', '.join(rows[0]) if rows else 'no row'
                raise UserError(f'{file}: expected the columns sample,label; found {found}')
        self._column = {row['sample']: row.get('split') for row in rows}
        if len(self._column) < len(rows):
            names = [row['sample'] for row in rows]
            twice = next(n for n in names if names.count(n) > 1)
            raise UserError(f'{file}: sample {twice!r} is listed twice')
        return {row['sample']: row['label'] for row in rows}

    def _splits(self) -> dict[str, list[str]]:
        """Returns split -> samples, from sub-folders, lists or the table, in this order."""
        where: dict[str, list[str]] = {name: [] for name in SPLITS}
        lists = {name: self.root / f'{name}.txt' for name in SPLITS}
        in_folders = all('/' in s for s in self.labels)
        if not in_folders and lists['train'].is_file():
            for name, file in lists.items():
                where[name] = [_stem(s) for s in lines(file)] if file.is_file() else []
        else:
            for sample in self.labels:
                name = sample.partition('/')[0] if in_folders else self._column_of(sample)
                if name not in where:
                    raise unknown(f'split of sample {sample!r} in {self.root}', str(name), SPLITS)
                where[name].append(sample)
        if not where['val']:
            held = {s for s in where['train'] if held_out(s, HELD_OUT)}
            where['val'] = [s for s in where['train'] if s in held]
            where['train'] = [s for s in where['train'] if s not in held]
        return where

    def _column_of(self, sample: str) -> str:
        found = None if self.maps else self._column.get(sample)
        if found is None:
            raise UserError(
                f'{self.root}: expected splits: sub-folders train, val and test, lists train.txt '
                'and test.txt, or a column split in labels.csv'
            )
        return found

    def _of(self, sample: str) -> list[Path | None]:
        """Returns the sample's files, None where a modality has none."""
        files = [files.get(sample) for files in self.files.values()]
        return [*files, self.labels[sample]] if self.maps else files

    def _check(self) -> None:
        check_disjoint(self.root, self.where)
        for samples in self.where.values():
            for sample in samples:
                self._check_sample(sample)

    def _check_sample(self, sample: str) -> None:
        if sample not in self.labels:
            raise UserError(f'{self.root}: expected a label of sample {sample!r}, found none')
        lacking = [m for m, files in self.files.items() if sample not in files]
        if len(lacking) == len(self.files) or lacking and not self.gaps:
            hint = '' if len(lacking) == len(self.files) else '; gaps=true takes this for a gap'
            where = self.root / lacking[0] / sample
            raise UserError(f'{where}: expected an image of this name, found none{hint}')

    def _task(self, width: int) -> Task:
        modalities = []
        for name, files in self.files.items():
            known = [files[s] for s in self.where['train'] if s in files]
            if not known:
                raise UserError(f'{self.root / name}: expected some training sample, found none')
            modalities.append(Modality(name, self._read(known[0], name).shape))
        sides = {m.shape[1:] for m in modalities}
        if self.maps and len(sides) > 1:
            found = ', '.join(f'{m.name} {m.shape[1:]}' for m in modalities)
            raise UserError(
                f'{self.root}: expected images of one size, found {found}; use size=HxW'
            )
        kind = 'segmentation' if self.maps else 'classification'
        metric = 'mIoU' if self.maps else 'accuracy'
        return Task(self.name, kind, tuple(modalities), self._classes(), metric, width)

    def _read(self, path: Path, modality: str) -> np.ndarray:
        return decoded(path, AnyImage(self.size, modality in self.nearest))

    def _classes(self) -> tuple[str, ...]:
        file = self.root / 'classes.txt'
        if file.is_file():
            return tuple(lines(file))
        if self.maps:
            top = 0
            for sample in self.where['train']:
                labels = decoded(self.labels[sample], Pixels(colours=False))
                top = max(top, int(labels[labels != IGNORE].max(initial=0)))
            return tuple(map(str, range(top + 1)))
        names = {self.labels[s] for samples in self.where.values() for s in samples}
        return tuple(sorted(names, key=lambda n: (not n.isdigit(), n.zfill(9))))

    def _recipe(self) -> dict[str, Any]:
        """Batches of a quarter of the training set at most; about 1,500 steps, 20 to 60 epochs."""
        samples = len(self.where['train'])
        batch = int(np.clip(samples // 4, 2, 16 if self.maps else 64))
        epochs = int(np.clip(1500 * batch // samples, 20, 60))
        return {'epochs': epochs, 'batch_size': batch, 'lr': 2e-3, 'weight_decay': 0.05}

    def split(self, name: str) -> Split:
        """Returns a split; of the others only training images are read, for their statistics."""
        if name not in self.where:
            raise unknown(f'split of {self.name}', name, SPLITS)
        samples = self.where[name]
        size = self.task.modalities[0].shape[1:]
        flips = name == 'train' and self.augment
        return Split(
            inputs={m.name: self._rows(m, samples) for m in self.task.modalities},
            target=self._target(samples, size),
            available=np.array([[s in files for files in self.files.values()] for s in samples]),
            ids=np.array(samples),
            augment=Geometric(size) if flips and self._alike() else None,
        )

    def _alike(self) -> bool:
        return len({m.shape[1:] for m in self.task.modalities}) == 1

    def _target(self, samples: Sequence[str], size: tuple[int, ...]) -> Any:
        if self.maps:
            decode = LabelFile(size, len(self.task.classes))
            paths = [self.labels[s] for s in samples]
            return Files(paths, decode, size, cache=self.cache, cache_folder=self.root / '.cache')
        index = {label: k for k, label in enumerate(self.task.classes)}
        for sample in samples:
            if self.labels[sample] not in index:
                what = f'label of sample {sample!r} in {self.root / "labels.csv"}'
                raise unknown(what, self.labels[sample], index)
        return np.array([index[self.labels[s]] for s in samples], np.int64)

    def _rows(self, modality: Modality, samples: Sequence[str]) -> Files:
        files = self.files[modality.name]
        # Samples without a file are never read; the path only says what is not there.
        paths = [files.get(s, self.root / modality.name / s) for s in samples]
        decode = AnyImage(self.size, modality.name in self.nearest)
        scale = self._statistics(modality.name)
        return Files(paths, decode, modality.shape, scale, self.cache, self.root / '.cache')

    def _statistics(self, modality: str) -> Scaled:
        if modality in self._measured:
            return self._measured[modality]
        files = self.files[modality]
        known = [s for s in self.where['train'] if s in files]
        chosen = sorted(known, key=lambda s: derive(0, 'measured', s))[:MEASURED]
        read = [self._read(files[s], modality).astype(np.float64) for s in chosen]
        mean = np.mean([x.mean((1, 2)) for x in read], 0)
        square = np.mean([(x**2).mean((1, 2)) for x in read], 0)
        std = np.sqrt(np.maximum(square - mean**2, 0))
        self._measured[modality] = Scaled(mean, np.where(std > 0, std, 1))
        return self._measured[modality]


def _size(given: str) -> tuple[int, int] | None:
    if not given:
        return None
    found = re.fullmatch(r'(\d+)x(\d+)', given)
    if not found or 0 in (int(found[1]), int(found[2])):
        raise UserError(f'folders:size: expected HxW, e.g. 240x320, found {given!r}')
    return int(found[1]), int(found[2])


def _some_of(given: str, known: dict[str, Any]) -> tuple[str, ...]:
    names = tuple(filter(None, given.split('+')))
    for name in names:
        if name not in known:
            raise unknown('modality in folders:nearest', name, known)
    return names


def _listed(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Returns sample -> file: 'a', or 'train/a' for a file in a sub-folder."""
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


def _stem(sample: str) -> str:
    return sample[: -len(Path(sample).suffix)] if sample.lower().endswith(SUFFIXES) else sample
