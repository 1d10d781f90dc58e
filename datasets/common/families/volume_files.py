"""Turns NIfTI files into arrays whose slices can be read one by one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from datasets.common.families.volume_index import INDEX, REGIONS, SPACING, Case, spacing_line
from datasets.common.families.volumes import SEGMENTATION, Regions
from datasets.common.io.nifti import Grid, Volume, grid, load_volume
from datasets.common.io.rows import spread, working
from datasets.common.prepare.findings import Findings
from datasets.common.prepare.preparation import Preparation

Files = dict[str, Path]
"""Modality or 'seg' -> its file, of one case."""

Sources = Mapping[str, Volume]
"""The same where files may hold several channels."""

GREATEST = 1e15
"""Greatest magnitude of a voxel. A greater number, such as that of the largest float32, says that
nothing was measured; beside it, all other voxels would be equal."""


def prepare_cases(
    work: Preparation,
    cases: Mapping[str, Sources],
    table: dict[int, int] | None = None,
    required: Sequence[str] = (),
    regions: Regions = (),
) -> None:
    """Writes every case's volumes as .npy files (S, H, W), standardised, and the list of cases.

    Args:
        work: The preparation.
        cases: Case -> its files, NIfTI or .npy.
        table: Label in the files -> label in the root; labels stay as they are by default.
        required: Modalities that every case must have.
        regions: For Dice, (name, labels) of each region, of which those that occur are written.

    Raises:
        UserError: A file is missing or broken, the volumes of a case do not lie on one grid, or
            voxels are not finite where they cannot be background.
    """
    # What a data set requires of every case is checked below.
    empty = [c for c, files in cases.items() if set(files) == {SEGMENTATION} and not required]
    for case in empty:
        work.remarks.add('cases left out, for they have no modality at all', case)
    cases = {case: files for case, files in cases.items() if case not in empty}
    if not cases:
        raise UserError(f'{work.source}: expected a modality beside the labels, found none')
    size, spacings = 0, list[str]()
    # All headers are read first: a case that cannot be used shows before hours of conversion.
    for case, files in cases.items():
        if case.strip() != case or not case.isprintable():
            raise UserError(
                f'{work.source}: expected a printable name of a case without white space around '
                f'it, found {ascii(case)}'
            )
        for kind in (*required, SEGMENTATION):
            if kind not in files:
                there = ', '.join(sorted(files))
                raise UserError(
                    f'{work.source}: expected {kind} of case {case}, found none beside {there}'
                )
        found = one_grid(case, files)
        spacings += [] if found.spacing is None else [spacing_line(case, found.spacing)]
        slices, high, wide = found.shape
        size += slices * high * wide * (2 * len(files) - 1)
    work.need(size)
    index = []
    with work.steps(len(cases), 'cases') as step:
        for case, files in sorted(cases.items()):
            index.append(_prepare_case(work, case, files, table))
            step()
    work.write(INDEX, '\n'.join([*(case.line for case in index), '']).encode())
    if spacings:
        work.write(SPACING, '\n'.join([*sorted(spacings), '']).encode())
    if regions:
        work.write(REGIONS, _lines_of(work, regions, index).encode())
    work.finish({'cases': len(cases)})


def _lines_of(work: Preparation, regions: Regions, index: Sequence[Case]) -> str:
    """Returns the regions as the file that `OwnVolumes` reads, without labels that no case has."""
    found = {label for case in index for label in case.labels}
    lines = []
    for name, members in regions:
        there = [label for label in members if label in found]
        for label in members:
            if label not in found:
                work.remarks.add('labels that no case has', f'{label} of {name}')
        lines += [' '.join([name, *map(str, there)])] if there else []
    return '\n'.join([*lines, ''])


def one_grid(case: str, files: Sources) -> Grid:
    """Returns the grid of a case.

    Raises:
        UserError: Two volumes of the case lie on different grids.
    """
    first, *others = sorted(files.values(), key=str)
    expected = grid(first)
    for file in others:
        if why := expected.differs(grid(file)):
            raise UserError(
                f'case {case}: expected one grid of voxels, but those of {first} and {file} '
                f'differ: {why}; resample one of the files to the grid of the other, for example '
                'in 3D Slicer, or, if both show the same anatomy at the same voxels, copy the '
                'header of one to the other'
            )
    return expected


def _prepare_case(
    work: Preparation, case: str, files: Sources, table: dict[int, int] | None
) -> Case:
    """Writes one case and returns its entry of the list."""
    segmentation = labels(load_volume(files[SEGMENTATION]), table, files[SEGMENTATION])
    work.write(f'{case}/{SEGMENTATION}.npy', stored(segmentation))
    shown = np.zeros(len(segmentation), bool)
    for kind, file in sorted(files.items()):
        if kind != SEGMENTATION:
            volume = finite(work.remarks, file, load_volume(file), segmentation > 0)
            values = standardised(volume)
            if not values.any():
                work.remarks.add(
                    'volumes that become 0, for no voxels differ by more than rounding', str(file)
                )
            work.write(f'{case}/{kind}.npy', stored(values))
            shown |= (volume != 0).any((1, 2))
    if not segmentation.any():
        work.remarks.add('cases without a labelled voxel', case)
    there = np.flatnonzero(shown)
    first, last = (there[0], there[-1]) if len(there) else (0, len(segmentation) - 1)
    slices, high, wide = segmentation.shape
    found = tuple(map(int, np.unique(segmentation)))
    return Case(case, (slices, high, wide), int(first), int(last), found)


def finite(remarks: Findings, file: Volume, volume: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Returns a volume with 0 where it was NaN, which many tools write outside the brain.

    Args:
        remarks: Takes what the user ought to know of the voxels.
        file: Where the volume is from, for messages.
        volume: (S, H, W).
        labelled: (S, H, W) bool, the voxels that cannot be background.

    Raises:
        UserError: Every voxel or a labelled one is NaN, or a voxel is infinite.
    """
    values = volume.astype(working(volume.dtype))
    lost = np.isnan(values)
    infinite = int((abs(values) > GREATEST).sum())
    if infinite:
        raise UserError(
            f'{file}: expected finite numbers, found {infinite} of {values.size} voxels that are '
            f'infinite or greater than {GREATEST:g}'
        )
    if lost.all():
        raise UserError(
            f'{file}: expected numbers, found NaN in all {lost.size} voxels; '
            'remove the file if the case lacks this modality'
        )
    if inside := int((lost & labelled).sum()):
        raise UserError(f'{file}: expected numbers in the labelled voxels, found NaN in {inside}')
    if lost.any():
        remarks.add(
            'voxels that are NaN and are taken as background, 0',
            f'{file}: {int(lost.sum())} of {lost.size}',
        )
        values[lost] = 0
    return values


def standardised(volume: np.ndarray) -> np.ndarray:
    """Returns float16 with mean 0 and standard deviation 1 over the voxels that are not 0.

    Voxels that are 0 stay 0. The mask is that of one modality alone: the published preparation
    takes the mask of the brain from all four modalities, so that each contains information on
    those that will be missing. Voxels that are all equal become 0.
    """
    values = volume.astype(np.float64)
    shown = values != 0
    if not shown.any():
        return values.astype(np.float16)
    mean = values[shown].mean()
    std = spread(mean, values[shown].std(), volume.dtype)
    found = np.where(shown, (values - mean) / std, 0)
    # Half precision ends at 65504.
    return found.clip(-60000, 60000).astype(np.float16)


def labels(volume: np.ndarray, table: dict[int, int] | None, file: Volume) -> np.ndarray:
    """Returns a segmentation's labels as uint8, translated by the table.

    Raises:
        UserError: A label is not in the table or, without a table, no whole number from 0 to 254.
    """
    found = np.unique(volume)
    known = table or {int(v): int(v) for v in found if 0 <= v < 255 and v == int(v)}
    for value in found:
        if value not in known:
            expected = ', '.join(map(str, table)) if table else 'whole numbers from 0 to 254'
            advice = '; write 1 where the mask is 255' if set(found) <= {0, 255} else ''
            raise UserError(f'{file}: expected labels {expected}, found {value}{advice}')
    result = np.zeros(volume.shape, np.uint8)
    for value, label in known.items():
        result[volume == value] = label
    return result


def stored(values: np.ndarray) -> bytes:
    """Returns an array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
