"""A user's own volumes for a trained network, as they are before any preparation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import Intake, Split, Unseen, no_target
from benchmark.errors import UserError
from benchmark.files import writing
from benchmark.method import Task
from datasets.common.families.unneeded import check_spelling
from datasets.common.families.volume_files import Files, finite, labels, one_grid, standardised
from datasets.common.families.volume_patches import Boxes
from datasets.common.families.volume_rows import Size, Slices, margin_of, window
from datasets.common.families.volumes import SEGMENTATION
from datasets.common.io import notes
from datasets.common.io.folders import walk_all
from datasets.common.io.nifti import encoded_like, grid, load_volume, suffix
from datasets.common.io.paths import check_access, check_folder
from datasets.common.prepare.findings import Findings

KEPT = 16
"""Number of volumes that are kept in memory: slices are read case by case."""


@dataclass(frozen=True)
class Saver:
    """Writes label maps in the geometry of the volumes that they are of.

    Attributes:
        files: Case -> a volume of it.
        size: (H, W) of the network's window; None where whole volumes are predicted.
        table: Class -> label in the file; the classes themselves if it is empty.
    """

    files: Mapping[str, Path]
    size: Size | None
    table: Mapping[int, int]

    def __call__(self, folder: Path, case: str, found: np.ndarray) -> Path:
        """Writes the classes (S, H, W) of a case; what the network does not see is background."""
        file = self.files[case]
        slices, *plane = grid(file).shape
        if self.size is None:  # padded behind its end
            whole = found[:slices, : plane[0], : plane[1]]
        else:
            whole = np.zeros((slices, *plane), np.uint8)
            places = map(window, plane, self.size)
            inside, outside = zip(*places, strict=True)
            whole[(slice(None), *inside)] = found[(slice(None), *outside)]
        written = np.arange(256, dtype=np.uint8)
        for number, label in self.table.items():
            written[number] = label
        end = '.npy' if suffix(file.name) == '.npy' else '.nii.gz'
        path = folder / f'{case}{end}'
        with writing(path) as out:
            out.write(encoded_like(file, written[whole]))
        return path


def unseen_volumes(
    root: Path,
    intake: Intake,
    labelled: bool,
    part: str,
    table: dict[int, int] | None = None,
    words: Mapping[str, str] | None = None,
) -> Unseen:
    """Opens cases `<case>/<modality>.nii.gz` or `<case>/<case>_<modality>.nii.gz`.

    The arguments and errors are those of `benchmark.dataset.Dataset.unseen`.

    Args:
        root: The folder of cases.
        intake: What the network takes in.
        labelled: Whether `seg` is read.
        part: '' or 'all': such a folder names no splits.
        table: Label in the files -> class; the same by default.
        words: Word in the names of files -> modality; the same by default.
    """
    if part not in ('', 'all'):
        raise UserError(f'--split {part}: expected a prepared root, found a folder of cases {root}')
    names = intake.task.names
    cases, aside = _cases(root, names, words or {m: m for m in names})
    if labelled and (bare := [case for case, files in cases.items() if SEGMENTATION not in files]):
        raise UserError(f'{root}: expected {SEGMENTATION} of case {bare[0]} to score, found none')
    grids = {case: one_grid(case, files).shape for case, files in cases.items()}
    read_labels = functools.lru_cache(KEPT)(functools.partial(_labels, table=table))
    masks = {f: c[SEGMENTATION] for c in cases.values() if labelled for f in c.values()}

    @functools.lru_cache(KEPT)
    def read(file: Path) -> np.ndarray:
        return _prepared(file, read_labels(masks[file]) if labelled else None)

    files = {case: next(found[m] for m in names if m in found) for case, found in cases.items()}
    told = [*_told(cases, names, files), *notes.aside(aside)]
    back = {number: label for label, number in (table or {}).items()}
    if intake.task.volumes:
        sides = np.max([*grids.values()], axis=0).tolist()
        split = _whole(root, cases, intake.task, sides, (read, read_labels if labelled else None))
        return Unseen(split, Saver(files, None, back), told)
    rows = [(case, number) for case, shape in grids.items() for number in range(shape[0])]
    numbers = [number for _, number in rows]
    size = (intake.task.modalities[0].shape[1], intake.task.modalities[0].shape[2])
    high, wide = (margin_of([g[k] for g in grids.values()], size[k - 1]) for k in (1, 2))

    def rows_of(kind: str, channel: bool, margin: Size, opened: Any) -> Slices:
        files = [cases[case].get(kind, root / case / kind) for case, _ in rows]
        return Slices(files, numbers, size, channel, margin, opened)

    target = rows_of(SEGMENTATION, False, (high, wide), read_labels) if labelled else None
    split = Split(
        inputs={m: rows_of(m, True, (0, 0), read) for m in names},
        target=no_target(intake.task, len(rows)) if target is None else target,
        available=np.array([[m in cases[case] for m in names] for case, _ in rows]),
        ids=np.array([f'{case}/{number:03d}' for case, number in rows]),
        groups=np.array([case for case, _ in rows]),
    )
    return Unseen(split, Saver(files, size, back), told)


def _whole(
    root: Path,
    cases: Mapping[str, Files],
    task: Task,
    sides: Sequence[int],
    opened: tuple[Callable[[Path], np.ndarray], Callable[[Path], np.ndarray] | None],
) -> Split:
    """Returns whole volumes, padded behind their ends to common sides.

    Args:
        root: The folder of cases.
        cases: Case -> its files.
        task: Gives the modalities.
        sides: The sides.
        opened: Returns the volume of a file; the same of labels, None where they are not read.
    """

    def boxes(kind: str, channel: bool, read: Callable[[Path], np.ndarray]) -> Any:
        files = [found.get(kind, root / case / kind) for case, found in cases.items()]
        return Boxes(files, sides, channel, opened=read)

    read, labels = opened
    ids = np.array([*cases])
    return Split(
        inputs={m: boxes(m, True, read) for m in task.names},
        target=boxes(SEGMENTATION, False, labels) if labels else no_target(task, len(ids)),
        available=np.array([[m in found for m in task.names] for found in cases.values()]),
        ids=ids,
        groups=ids,
    )


def _told(
    cases: Mapping[str, Files], names: tuple[str, ...], files: Mapping[str, Path]
) -> list[str]:
    """Returns what the user ought to know of the cases, in lines.

    Args:
        cases: Case -> its files.
        names: The modalities.
        files: Case -> one volume of it.
    """
    gaps = {m: sum(m not in found for found in cases.values()) for m in names}
    told = notes.lacking(gaps, cases, 'cases')
    if plain := sum(suffix(file.name) == '.npy' for file in files.values()):
        told.append(
            f'{plain} of {len(cases)} cases are .npy files, which do not say their orientation: '
            'slices are taken to go from the feet to the head, rows from left to right and '
            'columns from back to front'
        )
    return told


def check_part(intake: Intake, part: str) -> None:
    """Checks that a part of a prepared root consists of samples that can be predicted.

    Raises:
        UserError: It is the training split of a network of volumes, which has patches.
    """
    if intake.task.volumes and part == 'train':
        raise UserError('--split: expected val or test with network=unet3d, found train: patches')


def with_arrays(root: Path | None, found: Unseen, intake: Intake) -> Unseen:
    """Returns the samples of a prepared root, whose label maps are written as .npy files."""
    groups = found.split.groups
    cases = [] if groups is None or root is None else np.unique(groups).tolist()
    files = {case: Path(root or '') / case / f'{SEGMENTATION}.npy' for case in cases}
    shape = intake.task.modalities[0].shape
    size = None if intake.task.volumes else (shape[1], shape[2])
    return found._replace(save=Saver(files, size, {}))


def _cases(
    root: Path, names: tuple[str, ...], words: Mapping[str, str]
) -> tuple[dict[str, Files], list[str]]:
    """Returns the cases below a folder that have some modality, in the order of their names.

    Args:
        root: The folder.
        names: The modalities.
        words: Word in the names of files -> modality.

    Returns:
        Case -> its files, and the files that belong to none, as paths below the folder.

    Raises:
        UserError: There is no folder or no case, two folders have the name of one, two files are of
            one modality, or a file of none is called nearly like a modality that its case lacks.
    """
    check_access(root)
    check_folder(root)
    cases: dict[str, Files] = {}
    aside = []
    strange: dict[str, list[str]] = {}
    for file in walk_all(root):
        # The folder may be that of a case, and be given as '.'.
        case = file.parent.name or file.parent.resolve().name
        kind = file.name[: -len(suffix(file.name)) or None]
        kind = kind.removeprefix(case).lstrip('_-.') or kind
        kind = words.get(kind, kind)
        path = file.relative_to(root)
        hidden = any(part.startswith('.') for part in path.parts)
        if hidden or not suffix(file.name) or kind not in (*names, SEGMENTATION):
            aside.append(str(path))
            if not hidden and suffix(file.name):
                strange.setdefault(case, []).append(kind)
            continue
        known = cases.setdefault(case, {})
        if other := next((f for f in known.values() if f.parent != file.parent), None):
            raise UserError(
                f'{root}: expected one folder of case {case}, found {other.parent} and '
                f'{file.parent}'
            )
        if kind in known:
            raise UserError(f'case {case}: expected one {kind}, found {known[kind]} and {file}')
        known[kind] = file
    for case, kinds in strange.items():
        known = cases.get(case, {})
        lacking = [word for word, name in words.items() if name in names and name not in known]
        check_spelling(f'{root}: case {case}', kinds, lacking)
    found = {case: files for case, files in sorted(cases.items()) if set(files) - {SEGMENTATION}}
    if not found:
        expected = ' or '.join(f'<case>/{w}.nii.gz' for w, name in words.items() if name in names)
        raise UserError(f'{root}: expected {expected}, found none')
    return found, aside


def _prepared(file: Path, found: np.ndarray | None) -> np.ndarray:
    """Returns a volume as `volume_files.prepare_cases` writes it.

    Args:
        file: The volume.
        found: The labels (S, H, W) of the case, where they are known.

    Raises:
        UserError: A voxel is infinite, or is NaN where there is a label.
    """
    volume = load_volume(file)
    labelled = np.zeros(volume.shape, bool) if found is None else found > 0
    # A single case is predicted without a report of what was found in it.
    return standardised(finite(Findings(), file, volume, labelled))


def _labels(file: Path, table: dict[int, int] | None) -> np.ndarray:
    return labels(load_volume(file), table, file)
