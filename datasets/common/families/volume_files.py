"""Turns NIfTI files into arrays whose slices can be read one by one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from datasets.common.families.volumes import INDEX, SEGMENTATION, mapped
from datasets.common.io.files import decoded
from datasets.common.io.optional import package
from datasets.common.prepare.preparation import Preparation


def prepare_cases(
    work: Preparation,
    cases: dict[str, dict[str, Path]],
    table: dict[int, int] | None = None,
    required: Sequence[str] = (),
) -> None:
    """Writes every case's volumes as .npy files (S, H, W), standardised, and the list of cases.

    Args:
        work: The preparation.
        cases: Case -> {modality or 'seg': a NIfTI or .npy file}.
        table: Label in the files -> label in the root; labels stay as they are by default.
        required: Modalities that every case must have.

    Raises:
        UserError: A file is missing or broken, or volumes of a case differ in shape.
    """
    if not cases:
        raise UserError(f'{work.source}: expected a folder per case, found none')
    for case, files in cases.items():
        for kind in (*required, SEGMENTATION):
            if kind not in files:
                raise UserError(f'{work.source}: expected {kind} of case {case}, found none')
    work.need(sum(4 * f.stat().st_size for files in cases.values() for f in files.values()))
    index = []
    with work.steps(len(cases), 'cases') as step:
        for case, files in sorted(cases.items()):
            index.append(_prepare_case(work, case, files, table))
            step()
    work.write(INDEX, '\n'.join([*index, '']).encode())
    work.finish({'cases': len(cases)})


def _prepare_case(
    work: Preparation, case: str, files: dict[str, Path], table: dict[int, int] | None
) -> str:
    """Writes one case and returns its line of the list."""
    volumes = {kind: load_volume(file) for kind, file in sorted(files.items())}
    shapes = {kind: v.shape for kind, v in volumes.items()}
    if len(set(shapes.values())) > 1:
        found = ', '.join(f'{k} {s}' for k, s in shapes.items())
        raise UserError(f'{work.source}: case {case}: expected one shape, found {found}')
    segmentation = labels(volumes.pop(SEGMENTATION), table, files[SEGMENTATION])
    work.write(f'{case}/{SEGMENTATION}.npy', stored(segmentation))
    for kind, volume in volumes.items():
        work.write(f'{case}/{kind}.npy', stored(standardised(volume)))
    shown = np.flatnonzero(np.any([(v != 0).any((1, 2)) for v in volumes.values()], axis=0))
    ends = (shown[0], shown[-1]) if len(shown) else (0, len(segmentation) - 1)
    return ' '.join(map(str, [case, *segmentation.shape, *ends, segmentation.max()]))


def load_volume(file: Path) -> np.ndarray:
    """Returns the volume (S, H, W) of a NIfTI file, whose last axis is S, or of a .npy file.

    Raises:
        UserError: The file is missing, broken or no volume.
    """
    if file.suffix == '.npy':
        return np.asarray(mapped(file))
    nibabel = package('nibabel', 'MRI volumes')
    found = decoded(file, lambda path: np.asarray(nibabel.load(path).dataobj))
    if found.ndim != 3:
        raise UserError(f'{file}: expected a volume of 3 axes, found {found.shape}')
    return np.ascontiguousarray(found.transpose(2, 0, 1))


def standardised(volume: np.ndarray) -> np.ndarray:
    """Returns float16 with mean 0 and standard deviation 1 over the voxels that are not 0.

    Voxels that are 0 stay 0. The mask is that of one modality alone: the published preparation
    takes the mask of the brain from all four modalities, so that each contains information on
    those that will be missing.
    """
    values = volume.astype(np.float32)
    shown = values != 0
    if not shown.any():
        return values.astype(np.float16)
    mean, std = values[shown].mean(), values[shown].std()
    found = np.where(shown, (values - mean) / (std if std > 0 else 1), 0)
    # Half precision ends at 65504.
    return found.clip(-60000, 60000).astype(np.float16)


def labels(volume: np.ndarray, table: dict[int, int] | None, file: Path) -> np.ndarray:
    """Returns a segmentation's labels as uint8, translated by the table.

    Raises:
        UserError: A label is not in the table or, without a table, no whole number from 0 to 254.
    """
    found = np.unique(volume)
    known = table or {int(v): int(v) for v in found if 0 <= v < 255 and v == int(v)}
    for value in found:
        if value not in known:
            expected = ', '.join(map(str, table)) if table else 'whole numbers from 0 to 254'
            raise UserError(f'{file}: expected labels {expected}, found {value}')
    result = np.zeros(volume.shape, np.uint8)
    for value, label in known.items():
        result[volume == value] = label
    return result


def stored(values: np.ndarray) -> bytes:
    """Returns an array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
