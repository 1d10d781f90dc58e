"""Volumes from NIfTI files, which are brought to one orientation, and from .npy files."""

from __future__ import annotations

import functools
import gzip
import io
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.errors import UserError
from benchmark.files import stamp
from datasets.common.io.files import decoded
from datasets.common.io.folders import VOLUMES
from datasets.common.io.optional import package

# What is wrong with a header is told in the error; nibabel would also write it to standard error.
logging.getLogger('nibabel.global').setLevel(logging.CRITICAL)

OPENED = 64
"""Number of .npy files that are kept mapped; each takes a file handle."""

TOLERANCE = 0.1
"""How far two grids may lie apart anywhere, as a share of the smallest edge of a voxel. Programs
round the numbers of the header differently; a shift that matters is far greater."""


@dataclass(frozen=True)
class Channel:
    """One channel of a NIfTI file of four axes, whose last axis counts channels.

    Attributes:
        file: The file.
        number: The channel, from 0.
    """

    file: Path
    number: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.file.name

    def __str__(self) -> str:
        return f'{self.file}, channel {self.number}'


Volume = Path | Channel
"""Where a volume is: a file, or a channel of one."""


class Grid(NamedTuple):
    """Where the voxels of a volume lie.

    Attributes:
        shape: (S, H, W).
        affine: (4, 4), from voxel numbers in the canonical orientation (right, anterior, superior)
            to millimetres; None for a .npy file, which does not say it.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray | None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Distance in millimetres of neighbouring slices, rows and columns, where it is known."""
        if self.affine is None:
            return None
        rows, columns, slices = np.sqrt((self.affine[:3, :3] ** 2).sum(0)).tolist()
        return slices, rows, columns

    def differs(self, other: Grid) -> str:
        """Returns what differs between two grids, for a message; '' if they are the same."""
        if (self.affine is None) != (other.affine is None):
            return 'one is a NIfTI file and one a .npy file, which does not say its orientation'
        if self.shape != other.shape:
            return f'their shapes are {self.shape} and {other.shape}'
        if self.affine is None or other.affine is None:
            return ''
        slices, *plane = self.shape
        ends = np.array(np.meshgrid(*([0, n - 1] for n in (*plane, slices)))).reshape(3, -1)
        gaps = (self.affine - other.affine)[:3] @ np.vstack([ends, np.ones(ends.shape[1])])
        apart = float(np.sqrt((gaps**2).sum(0)).max())
        edge = float(np.sqrt((self.affine[:3, :3] ** 2).sum(0)).min())
        return f'their voxels lie up to {apart:.3g} mm apart' if apart > TOLERANCE * edge else ''


def suffix(name: str) -> str:
    """Returns how the name of a volume's file ends, as in `VOLUMES`; '' for another file.

    Upper and lower case are the same.
    """
    return next((s for s in VOLUMES if name.lower().endswith(s)), '')


def channels(file: Path) -> int:
    """Reads from the header of a NIfTI file how many channels it has; 1 without a fourth axis.

    Raises:
        UserError: The file is missing or broken.
    """
    shape = _spatial(_opened(file).shape)
    return shape[3] if len(shape) == 4 else 1


def grid(file: Volume) -> Grid:
    """Reads the grid of a volume from its header, without its voxels.

    Raises:
        UserError: The file is missing, broken, or holds no volume of numbers.
    """
    if isinstance(file, Path) and suffix(file.name) == '.npy':
        found = mapped(file)
        _check(file, found.shape, found.dtype)
        return Grid(found.shape, None)
    image = _opened(file)
    shape = _shape(file, image)
    _check(file, shape, image.header.get_data_dtype())
    orientation = _orientation(file, image)
    orientations = package('nibabel.orientations', 'MRI volumes')
    canonical = image.affine @ orientations.inv_ornt_aff(orientation, shape)
    right, anterior, superior = (shape[int(np.argmax(orientation[:, 0] == k))] for k in range(3))
    return Grid((superior, right, anterior), canonical)


def load_volume(file: Volume) -> np.ndarray:
    """Returns the voxels (S, H, W) of a volume.

    The axes of a NIfTI file are turned and mirrored to the canonical orientation: slices go from
    the feet to the head, rows from left to right and columns from back to front. A .npy file is
    taken as it is.

    Raises:
        UserError: The file is missing, broken, or holds no volume of numbers.
    """
    expected = grid(file).shape
    if isinstance(file, Path) and suffix(file.name) == '.npy':
        return np.asarray(mapped(file))
    image = _opened(file)
    if isinstance(file, Path):
        values = decoded(file, functools.partial(_voxels, kind=type(image)))
    else:
        kind: Any = type(image)
        values = _whole(file.file, stamp(file.file), kind)[..., file.number]
    orientations = package('nibabel.orientations', 'MRI volumes')
    turned = orientations.apply_orientation(
        values.reshape(_shape(file, image)), _orientation(file, image)
    )
    found = np.ascontiguousarray(turned.transpose(2, 0, 1))
    if found.shape != expected:
        raise UserError(f'{file}: expected {expected}, found {found.shape}; is it being written?')
    return found


def encoded_like(file: Path, volume: np.ndarray) -> bytes:
    """Returns a file of labels that lies on the grid of another volume, voxel on voxel.

    Args:
        file: The other volume.
        volume: (S, H, W) uint8, in the orientation of `load_volume`.

    Returns:
        The content of a .nii.gz file with the affine and the order of axes of `file`; of a .npy
        file if `file` is one.
    """
    if suffix(file.name) == '.npy':
        buffer = io.BytesIO()
        np.save(buffer, volume)
        return buffer.getvalue()
    image, orientations = _opened(file), package('nibabel.orientations', 'MRI volumes')
    canonical = [[0, 1], [1, 1], [2, 1]]
    back = orientations.ornt_transform(canonical, _orientation(file, image))
    values = orientations.apply_orientation(volume.transpose(1, 2, 0), back)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    kind = package('nibabel', 'MRI volumes').Nifti1Image
    found = kind(np.ascontiguousarray(values), image.affine, header)
    return gzip.compress(found.to_bytes(), mtime=0)


@functools.lru_cache(OPENED)
def mapped(file: Path) -> np.ndarray:
    """Opens a .npy file without reading it.

    Raises:
        UserError: It is missing, broken or no volume.
    """
    found = decoded(file, functools.partial(np.load, mmap_mode='r', allow_pickle=False))
    if found.ndim != 3:
        raise UserError(f'{file}: expected a volume (S, H, W), found {found.shape}')
    if isinstance(found, np.memmap) and found.offset + found.nbytes < file.stat().st_size:
        raise UserError(f'{file}: expected one array, found more behind it')
    return found


@functools.lru_cache(1)
def _whole(file: Path, written: tuple[int, int] | None, kind: Hashable) -> np.ndarray:
    """Returns all channels of a file, which are decoded together and read one after another."""
    values = decoded(file, functools.partial(_voxels, kind=kind))
    return values.reshape(_spatial(values.shape))


def _opened(file: Volume) -> Any:
    """Returns nibabel's image of a file, whose voxels have not been read."""
    file = file if isinstance(file, Path) else file.file
    return decoded(file, package('nibabel', 'MRI volumes').load)


def _spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape without axes of length 1 behind the third, which many programs write."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shape(file: Volume, image: Any) -> tuple[int, ...]:
    """Returns the shape of a volume, of which a channel has no fourth axis."""
    shape = _spatial(image.shape)
    return shape if isinstance(file, Path) else shape[:3]


def _check(file: Volume, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) == 4:
        raise UserError(
            f'{file}: expected a volume of 3 axes, found {shape}; '
            'write one file per modality, e.g. t1.nii.gz and flair.nii.gz'
        )
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f'{file}: expected a volume of 3 axes, found {shape}')
    if dtype.kind not in 'iufb':
        raise UserError(f'{file}: expected one real number per voxel, found the type {dtype}')


def _orientation(file: Volume, image: Any) -> np.ndarray:
    """Returns the canonical axis and the direction of each axis of the file, (3, 2)."""
    affine = np.asarray(image.affine, float)
    flat = not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3
    if flat:
        raise UserError(
            f'{file}: expected an affine that places the voxels, found {affine[:3].tolist()}'
        )
    return np.asarray(package('nibabel', 'MRI volumes').io_orientation(affine))


def _voxels(file: Path, kind: Any) -> np.ndarray:
    if file.name.lower().endswith('.gz'):
        # A gzip file is read to its end, because only there is the checksum of its content, which
        # tells a damaged file from a sound one.
        with gzip.open(file) as stream:
            found = np.asarray(kind.from_stream(stream).dataobj)
            while stream.read(1 << 20):
                pass
        return found
    return np.asarray(kind.from_filename(file).dataobj)
