"""Medical volumes, trained and tested slice by slice and scored volume by volume."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypedDict

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.augment.volumes import for_patches, for_slices
from datasets.common.families.volume_index import (
    INDEX,
    SEGMENTATION,
    geometry_of,
    gone,
    lacking,
    read_index,
    read_spacing,
)
from datasets.common.families.volume_patches import RECIPE, YOUNGER, Cut, extents_of, patched
from datasets.common.families.volume_rows import VERSION, Size, Slices, look, margin_of
from datasets.common.io import notes, remembered
from datasets.common.io.copies import Duplicates, copied_files, shared
from datasets.common.io.files import fingerprint
from datasets.common.io.folders import entries
from datasets.common.io.nifti import mapped
from datasets.common.io.paths import has_file
from datasets.common.io.splits import check_disjoint

OWN = re.compile(r'(train|val|test)\d+\.txt|regions\.txt|cases\.txt|spacing\.txt|manifest\.json')
"""Files of a root beside its cases."""

Regions = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, labels) of each region."""


class SliceOptions(TypedDict):
    """Options of the constructors of data sets of volumes.

    Attributes:
        size: (H, W) of the slices.
        width: Channels of the encoders' first stage.
        augment: Whether training changes slices at random.
    """

    size: Size
    width: int
    augment: bool


class Volumes(Dataset):
    """Base of the data sets of volumes; `volume_files.prepare_cases` writes their roots.

    With a `cut` patches are trained and whole volumes tested. Without one every slice of a test
    volume is tested, and Dice is taken over the whole volume; training leaves out the slices before
    the first and after the last in which some modality is not 0 everywhere.

    Args:
        root: A prepared root.
        splits: 'train', 'val', 'test' -> names of cases.
        modalities: Their names in order.
        classes: Names of the labels.
        regions: For Dice, (name, labels) of each region.
        options: The options of the subclass's constructor.
        duplicates: Whether copies of cases in two splits are reported or refused.
        hd95: Whether the test measures HD95, too.
        fewest: `Task.fewest`.
        cut: How patches are cut for a three-dimensional network; None for slices.

    Attributes:
        notes: What the user ought to know of the data that were found.

    Raises:
        UserError: A file is missing or does not fit the list of cases, a case is in two splits, a
            split has no labelled voxel, or copies are refused.
    """

    streams = True
    younger: ClassVar[tuple[str, ...]] = ('hd95', *YOUNGER)

    def __init__(
        self,
        root: Path,
        splits: dict[str, list[str]],
        modalities: tuple[str, ...],
        classes: tuple[str, ...],
        regions: Regions,
        options: SliceOptions,
        duplicates: Duplicates = 'report',
        hd95: bool = False,
        fewest: tuple[int, ...] = (),
        cut: Cut | None = None,
    ) -> None:
        self.cut, self.recipe = cut, {**self.recipe, **(RECIPE if cut else {})}
        self.root, self.splits, self.augment = root, splits, options['augment']
        self.cases = {case.id: case for case in read_index(root)}
        self._check(modalities, regions)
        self.surfaces = hd95
        self.spacing = read_spacing(root, splits['test']) if hd95 else {}
        self.size, kinds = options['size'], (*modalities, SEGMENTATION)
        self._check_content(kinds)
        files = {c: self._files(c, kinds) for cases in splits.values() for c in cases}
        every = [file for found in files.values() for file in found.values()]
        hashes = dict(zip(every, remembered.hashes(every), strict=True))
        volumes = {
            name: {c: {m: f for m, f in files[c].items() if m != SEGMENTATION} for c in cases}
            for name, cases in splits.items()
        }
        copied = copied_files(root, volumes, duplicates, 'case')
        patients = self._patients()
        copied += shared(root, patients, duplicates) if patients else []
        content = [(c, k, hashes[f]) for c, found in files.items() for k, f in found.items()]
        used = [self.cases[case] for case in files]
        more = [('hd95', self.spacing)] * hd95 + [('fewest', fewest)] * bool(fewest)
        self.fingerprint = fingerprint(
            [], splits, (classes, regions, options), content, used, *more, *([cut] if cut else [])
        )
        self.task = Task(
            self.name,
            'segmentation',
            tuple(Modality(m, (1, *(cut.sides if cut else self.size))) for m in modalities),
            classes,
            'Dice',
            options['width'],
            regions=regions,
            fewest=fewest,
            network='unet3d' if cut else 'pyramid',
            extents=extents_of([self.cases[c] for c in splits['train']], cut) if cut else (),
        )
        self.notes = [
            *self._found(modalities, regions),
            *notes.aside(self._aside(kinds)),
            *notes.gone(gone(root, [*files])),
            *copied,
        ]

    def patient(self, case: str) -> str:
        """Returns the patient of a case; the case itself where its name does not tell."""
        return case

    def _patients(self) -> dict[str, list[str]]:
        """Returns split -> patient of each case; nothing where every case is its own patient."""
        found = {name: [self.patient(c) for c in cases] for name, cases in self.splits.items()}
        return found if any(found[name] != self.splits[name] for name in found) else {}

    def _clusters(self, cases: Iterable[str]) -> np.ndarray | None:
        return np.array([self.patient(c) for c in cases]) if self._patients() else None

    def _files(self, case: str, kinds: Sequence[str]) -> dict[str, Path]:
        """Returns modality or 'seg' -> file, of those that a case has."""
        files = {k: self.root / case / f'{k}.npy' for k in kinds}
        return {kind: file for kind, file in files.items() if has_file(file)}

    def _check(self, modalities: Sequence[str], regions: Regions) -> None:
        """Checks all that can be checked without reading voxels."""
        check_disjoint(self.root, self.splits, 'case')
        members = {label for _, labels in regions for label in labels}
        for name, cases in self.splits.items():
            for case in cases:
                if case not in self.cases:
                    raise UserError(f'{self.root / INDEX}: expected case {case!r} of {name}')
                self._check_case(case, modalities)
            if not any(members.intersection(self.cases[case].labels) for case in cases):
                raise UserError(
                    f'{self.root}: expected a labelled voxel in some case of {name}, found none '
                    f'in {", ".join(cases[:5])}{", ..." if cases[5:] else ""}'
                )
        for modality in modalities:
            if not any(self._files(case, (modality,)) for case in self.splits['train']):
                expected = f'{modality} of some training case'
                raise UserError(f'{self.root}: expected {expected}, found none')

    def _check_case(self, case: str, modalities: Sequence[str]) -> None:
        """Compares the headers of a case's files with the list of cases."""
        folder, shape = self.root / case, self.cases[case].shape
        files = self._files(case, (*modalities, SEGMENTATION))
        if SEGMENTATION not in files:
            raise UserError(f'{folder / SEGMENTATION}.npy: expected a file, found nothing')
        if len(files) == 1:
            raise UserError(f'{folder}: expected some of {", ".join(modalities)}, found none')
        for kind, file in files.items():
            found, dtype = mapped(file), 'uint8' if kind == SEGMENTATION else 'float16'
            if (found.dtype, found.shape) != (np.dtype(dtype), shape):
                raise UserError(
                    f'{file}: expected {dtype} {shape}, as in {INDEX}, '
                    f'found {found.dtype} {found.shape}'
                )

    def _check_content(self, kinds: Sequence[str]) -> None:
        """Reads all volumes once: voxels must be finite, and labels those of the list of cases."""
        for cases in self.splits.values():
            files = [(c, f) for c in cases for f in self._files(c, kinds).values()]
            looked = remembered.remembered(f'volume {VERSION}', [f for _, f in files], look)
            for (case, file), found in zip(files, map(json.loads, looked), strict=True):
                if found is None:
                    raise UserError(f'{file}: expected finite numbers, found others')
                labels = self.cases[case].labels
                if file.stem == SEGMENTATION and tuple(found) != labels:
                    raise UserError(
                        f'{file}: expected labels {labels}, as in {INDEX}, found {tuple(found)}; '
                        'prepare a new root from the corrected source'
                    )

    def _found(self, modalities: Sequence[str], regions: Regions) -> Iterator[str]:
        """Yields what was found, in words."""
        yield notes.found(self.task.modalities, self.splits, 'cases')
        yield from lacking(self.splits, self.cases, modalities, self._files)
        shown = {
            name: {label for case in self.splits[name] for label in self.cases[case].labels}
            for name in ('val', 'test')
        }
        for region, members in regions:
            without = [name for name, labels in shown.items() if labels.isdisjoint(members)]
            if without:
                where = ' and '.join(without)
                yield f'region {region} is in no case of {where}; Dice is 1 where it is not found'
        used = [self.cases[case] for cases in self.splits.values() for case in cases]
        known = {label for case in used for label in case.labels}
        found = (f'{k} in {sum(k in case.labels for case in used)}' for k in sorted(known - {0}))
        yield f'labels of {len(used)} cases: {", ".join(found)}'
        shapes = sorted({case.shape for case in self.cases.values()})
        more = f' to {"x".join(map(str, shapes[-1]))}' if shapes[1:] else ''
        yield f'volumes of {"x".join(map(str, shapes[0]))}{more} voxels'
        extents = np.max([shape[1:] for shape in shapes], axis=0)
        if not self.cut and (extents > self.size).any():
            high, wide = extents
            yield (
                f'size={self.size[0]}x{self.size[1]}: the network sees the centre of slices of up '
                f'to {high}x{wide} pixels; what is labelled outside counts as missed'
            )

    def _aside(self, kinds: Sequence[str]) -> Iterator[str]:
        """Yields what lies in the root and is not read."""
        used = {case for cases in self.splits.values() for case in cases}
        for path in entries(self.root):
            if path.name in self.cases:
                if path.name not in used:
                    yield f'case {path.name}, which is in no split'
                    continue
                files = (file.name for file in entries(path))
                yield from (
                    f'{path.name}/{f}' for f in files if f.removesuffix('.npy') not in kinds
                )
            elif not OWN.fullmatch(path.name):
                yield path.name

    def split(self, name: str) -> Split:
        """Returns the slices of a split; no file of another split is read."""
        if name not in self.splits:
            raise unknown(f'split of {self.name}', name, self.splits)
        train, used = name == 'train', [self.cases[case] for case in self.splits[name]]
        if self.cut:
            augment = for_patches(self.task.names) if self.augment else None
            found = patched(
                self.root, used, self.task.names, SEGMENTATION, self.cut, train, augment
            )
            measured = self.spacing and name == 'test'
            return replace(
                found,
                clusters=self._clusters(map(str, np.asarray(found.groups))),
                geometry=geometry_of(used, self.spacing) if measured else None,
            )
        rows = [
            (case.id, number)
            for case in used
            for number in (range(case.first, case.last + 1) if train else range(case.shape[0]))
        ]
        cases, numbers = [r[0] for r in rows], [r[1] for r in rows]
        names, (high, wide) = self.task.names, self.size
        every = [self.cases[case] for case in cases]
        geometry = geometry_of(every, self.spacing) if self.spacing and name == 'test' else None
        there = {c: [m in self._files(c, names) for m in names] for c in self.splits[name]}
        # Labels are tested in whole slices, and trained in the window that the network sees.
        around = (
            margin_of([0 if train else case.shape[1] for case in used], high),
            margin_of([0 if train else case.shape[2] for case in used], wide),
        )

        def rows_of(kind: str, margin: Size = (0, 0)) -> Slices:
            files = [self.root / case / f'{kind}.npy' for case in cases]
            return Slices(files, numbers, self.size, kind != SEGMENTATION, margin)

        return Split(
            inputs={m: rows_of(m) for m in names},
            target=rows_of(SEGMENTATION, around),
            available=np.array([there[case] for case in cases]),
            ids=np.array([f'{case}/{number:03d}' for case, number in rows]),
            groups=np.array(cases),
            geometry=geometry,
            clusters=self._clusters(cases),
            augment=for_slices(names, self.size) if train and self.augment else None,
        )
