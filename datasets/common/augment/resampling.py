"""What augmentations share: random numbers, and resampling under one affine map per sample.

Maps are made on the CPU, in double precision, so that a seed gives the same ones on every device
and whole pixels stay whole. Points are (x, y) in pixels from the upper left corner of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Batch

Size = tuple[int, int]
"""Height and width."""

Names = tuple[str, ...]
"""Names of modalities."""


def images(batch: Batch, modalities: Names | None) -> Names:
    """Returns the names of the modalities meant, all of them images (B, C, H, W).

    Raises:
        UserError: None is meant, one is unknown or one is no image.
    """
    names = tuple(batch.inputs) if modalities is None else modalities
    if not names or isinstance(names, str):
        raise UserError(f'augmentation: expected names of modalities, found {names!r}')
    for name in names:
        if name not in batch.inputs:
            raise unknown('modality in augmentation', name, batch.inputs)
        shape = tuple(batch.inputs[name].shape[1:])
        if len(shape) != 3:
            raise UserError(f'augmentation of {name!r}: expected shape (C, H, W), found {shape}')
    return names


def extent(batch: Batch, names: Names) -> Size:
    """Returns the height and width that the images, and dense labels, have in common.

    Raises:
        UserError: They differ.
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
    """Draws numbers of the given shape from torch's default generator, on the CPU."""
    return low + (high - low) * torch.rand(shape, dtype=torch.float64)


def xy(size: Size) -> Tensor:
    """Returns (height, width) as the vector (x, y), in double precision."""
    return torch.tensor(size[::-1], dtype=torch.float64)


def onto(numbers: Tensor, x: Tensor) -> Tensor:
    """Sends numbers, as float32, to the device of x without waiting for it."""
    return numbers.float().to(x.device, non_blocking=True)


def times(linear: Tensor, vector: Tensor) -> Tensor:
    """Multiplies matrices (B, 2, 2) with vectors (B, 2)."""
    return (linear * vector[..., None, :]).sum(-1)


def place(image: Tensor, canvas: Tensor, crop: Tensor) -> Tensor:
    """Draws the corners of crops, on whole pixels, in canvases about the images' centres.

    Args:
        image: Sides (B, 2) or (2,) of the images.
        canvas: Sides of the canvases.
        crop: Sides of the crops. One larger than its canvas contains it.

    Returns:
        (B, 2), from the images' own corners.
    """
    ends = (image - canvas) / 2, (image + canvas) / 2 - crop
    least, greatest = torch.minimum(*ends).ceil(), torch.maximum(*ends).floor()
    positions = (greatest - least + 1).clamp(min=1)
    return least + (torch.rand_like(positions) * positions).floor()


def mirrored(
    linear: Tensor, origin: Tensor, size: Size, chances: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Mirrors crops of `size` along x and y with the given probabilities."""
    flip = torch.rand(len(origin), 2) < torch.tensor(chances)
    # A mirrored axis starts from the crop's far edge and runs back.
    far = origin + times(linear, flip * xy(size))
    return torch.where(flip[:, None], -linear, linear), far


def resampled(
    batch: Batch, names: Names, nearest: Names, linear: Tensor, origin: Tensor, size: Size
) -> Batch:
    """Resamples images, and dense labels, where an affine map per sample says.

    Args:
        batch: Images of one height and width.
        names: The modalities to resample, bilinearly and with 0 outside the image.
        nearest: Those of them that, like labels, take the nearest pixel.
        linear: (B, 2, 2) and
        origin: (B, 2): the new image's point p is the old one's linear p + origin.
        size: The new images' height and width.
    """
    grid = _grid(linear, origin, extent(batch, names), size, batch.inputs[names[0]])
    inside = grid.abs().amax(-1) <= 1
    inputs = dict(batch.inputs)
    for name in names:
        mode = 'nearest' if name in nearest else 'bilinear'
        inputs[name] = _sample(inputs[name], grid, inside, mode, 0)
    target = batch.target
    if target.ndim == 3:
        # Class indices pass through float32 unharmed.
        target = _sample(target[:, None], grid, inside, 'nearest', IGNORE)[:, 0]
    return batch._replace(inputs=inputs, target=target)


def _grid(linear: Tensor, origin: Tensor, source: Size, size: Size, x: Tensor) -> Tensor:
    """Returns where to sample, (B, *size, 2) as (x, y), with the old image from -1 to 1.

    F.affine_grid multiplies matrices, which autocast and TF32 round by whole pixels.
    """
    unit = 2 / xy(source)
    affine = torch.cat([linear * unit[:, None], (origin * unit - 1)[..., None]], -1)
    across, down, start = onto(affine[:, None, None], x).unbind(-1)
    rows, columns = (torch.arange(n, device=x.device) + 0.5 for n in size)
    return across * columns[:, None] + (down * rows[:, None, None] + start)


def _sample(x: Tensor, grid: Tensor, inside: Tensor, mode: str, outside: int) -> Tensor:
    # Padding with zeros by grid_sample itself would darken the image's outermost pixels as well.
    y = F.grid_sample(x.float(), grid, mode, padding_mode='border', align_corners=False)
    return torch.where(inside[:, None], y, outside).to(x.dtype)
