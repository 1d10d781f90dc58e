"""Tools of the augmentations: random numbers, and resampling of images by affine maps.

Every sample has an affine map of its own. The maps are computed on the CPU in double precision, so
that a seed gives the same maps on every device and a shift by whole pixels is exact. Points are
(x, y) in pixels from the upper left corner of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Batch

Size = tuple[int, int]
"""Height and width in pixels."""

Names = tuple[str, ...]
"""Names of modalities."""


def images(batch: Batch, modalities: Names | None, axes: Sequence[int] = (3,)) -> Names:
    """Returns the names of the modalities to augment, after a check that they are images.

    Args:
        batch: The batch.
        modalities: The names; None for all modalities of the batch.
        axes: How many axes a sample may have: 3 of an image, 4 of a volume.

    Raises:
        UserError: There is no name, a name is unknown, or a modality has not the shape
            (B, C, H, W), or (B, C, D, H, W) of volumes.
    """
    names = tuple(batch.inputs) if modalities is None else modalities
    if not names or isinstance(names, str):
        raise UserError(f'augmentation: expected names of modalities, found {names!r}')
    for name in names:
        if name not in batch.inputs:
            raise unknown('modality in augmentation', name, batch.inputs)
        shape = tuple(batch.inputs[name].shape[1:])
        if len(shape) not in axes:
            expected = ' or '.join({3: '(C, H, W)', 4: '(C, D, H, W)'}[n] for n in axes)
            raise UserError(f'augmentation of {name!r}: expected shape {expected}, found {shape}')
    return names


def extent(batch: Batch, names: Names) -> Size:
    """Returns the common height and width of the named images and of the label maps, if any.

    Raises:
        UserError: Their heights or widths differ.
    """
    shapes = {name: batch.inputs[name].shape for name in names}
    if batch.target.ndim == 3:
        shapes['target'] = batch.target.shape
    sizes = {name: (shape[-2], shape[-1]) for name, shape in shapes.items()}
    if len(set(sizes.values())) != 1:
        found = ', '.join(f'{name} {size}' for name, size in sizes.items())
        raise UserError(f'augmentation: expected one height and width, found {found}')
    return next(iter(sizes.values()))


def uniform(low: float, high: float, *shape: int) -> Tensor:
    """Returns numbers (*shape) drawn uniformly from [low, high) on the CPU, in double precision."""
    return low + (high - low) * torch.rand(shape, dtype=torch.float64)


def xy(size: Size) -> Tensor:
    """Returns a size (height, width) as a vector (x, y) in double precision."""
    return torch.tensor(size[::-1], dtype=torch.float64)


def onto(numbers: Tensor, x: Tensor) -> Tensor:
    """Copies numbers, as float32, to the device of x without waiting for the device."""
    return numbers.float().to(x.device, non_blocking=True)


def times(linear: Tensor, vector: Tensor) -> Tensor:
    """Returns the products (B, 2) of matrices (B, 2, 2) and vectors (B, 2)."""
    return (linear * vector[..., None, :]).sum(-1)


def place(image: Tensor, canvas: Tensor, crop: Tensor) -> Tensor:
    """Draws the positions of crops at whole pixels.

    A crop lies in a canvas, which has the same centre as the image. Every position is equally
    likely. A crop that is larger than its canvas contains the canvas.

    Args:
        image: Widths and heights of the images, (B, 2) or (2,), in pixels.
        canvas: Widths and heights of the canvases, likewise.
        crop: Widths and heights of the crops, likewise.

    Returns:
        Upper left corners of the crops (B, 2), relative to those of the images.
    """
    ends = (image - canvas) / 2, (image + canvas) / 2 - crop
    least, greatest = torch.minimum(*ends).ceil(), torch.maximum(*ends).floor()
    positions = (greatest - least + 1).clamp(min=1)
    return least + (torch.rand_like(positions) * positions).floor()


def mirrored(
    linear: Tensor, origin: Tensor, size: Size, chances: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Mirrors crops at random along x and along y.

    Args:
        linear: (B, 2, 2), the linear parts of the crops' affine maps.
        origin: (B, 2), the offsets of the maps.
        size: Height and width of the crops.
        chances: Probabilities of mirroring along x and along y.

    Returns:
        The new linear parts and offsets.
    """
    flip = torch.rand(len(origin), 2) < torch.tensor(chances)
    # A mirrored axis starts at the opposite edge of the crop and has the opposite direction.
    far = origin + times(linear, flip * xy(size))
    return torch.where(flip[:, None], -linear, linear), far


def resampled(
    batch: Batch, names: Names, nearest: Names, linear: Tensor, origin: Tensor, size: Size
) -> Batch:
    """Resamples images, and label maps if there are any, by one affine map for each sample.

    Point p of a new image shows the point `linear @ p + origin` of the old image. What lies outside
    the old image is 0 in images and ignored in label maps.

    Args:
        batch: A batch whose images have one height and width.
        names: The modalities to resample, by default bilinearly.
        nearest: Those of `names` of which, as of label maps, every pixel takes the nearest value.
        linear: (B, 2, 2), linear parts of the maps.
        origin: (B, 2), offsets of the maps in pixels.
        size: Height and width of the new images.

    Returns:
        A new batch; the given one is not changed.
    """
    grid = _grid(linear, origin, extent(batch, names), size, batch.inputs[names[0]])
    inside = grid.abs().amax(-1) <= 1
    inputs = dict(batch.inputs)
    for name in names:
        mode = 'nearest' if name in nearest else 'bilinear'
        inputs[name] = _sample(inputs[name], grid, inside, mode, 0)
    target = batch.target
    if target.ndim == 3:
        # float32 represents class indices exactly.
        target = _sample(target[:, None], grid, inside, 'nearest', IGNORE)[:, 0]
    return batch._replace(inputs=inputs, target=target)


def _grid(linear: Tensor, origin: Tensor, source: Size, size: Size, x: Tensor) -> Tensor:
    """Returns the points (x, y) to sample, (B, *size, 2), in a system where the image is [-1, 1]^2.

    F.affine_grid is not used: it multiplies matrices, and in the reduced precision of autocast and
    TF32 a product can be wrong by whole pixels.
    """
    unit = 2 / xy(source)
    affine = torch.cat([linear * unit[:, None], (origin * unit - 1)[..., None]], -1)
    across, down, start = onto(affine[:, None, None], x).unbind(-1)
    rows, columns = (torch.arange(n, device=x.device) + 0.5 for n in size)
    return across * columns[:, None] + (down * rows[:, None, None] + start)


def _sample(x: Tensor, grid: Tensor, inside: Tensor, mode: str, outside: int) -> Tensor:
    # With grid_sample's own padding by zeros, the outermost pixels of the image would get darker.
    y = F.grid_sample(x.float(), grid, mode, padding_mode='border', align_corners=False)
    return torch.where(inside[:, None], y, outside).to(x.dtype)
