"""Augmentation of whole batches, on the device they are on.

A step maps a training batch to a new one and leaves the given one as it is. Its random numbers
come from torch's default generator and are worked up on the CPU; what reaches the device are a few
numbers per sample, so that a seed augments alike on every device and no step waits for one. Images
keep their dtype; all is computed in float32. What the papers use, on rows that are larger than the
task's shape where a crop follows:

    CASIA-SURF, CeFA (MMANet, DMRNet), rows 144 x 144:
        Geometric((112, 112), rotate=30, canvas=0.8)
    NYUv2 (ESANet, and MMANet and DMRNet with it), rows 480 x 640:
        Geometric((480, 640), scale=(1, 1.4), nearest=('depth',)), then ColourJitter
    Cityscapes (the same), rows 1024 x 2048:
        Geometric((512, 1024), scale=(0.5, 2), nearest=('depth',)), then ColourJitter
    CREMA-D, Kinetics-Sounds (DMRNet), video frames:
        ResizedCrop((224, 224))
    BraTS (RFNet), slices, every modality in `nearest`:
        Geometric(size, rotate=10, vertical_flip=0.5), then Intensity

Known differences to the released code: angles are real numbers, not whole degrees (MMANet, RFNet);
a zoomed image smaller than the crop is padded, not stretched (ESANet; in its recipes none is);
rotation comes before the crop, not after it (RFNet); nothing is rounded to eight bits in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import Batch
from datasets.common.augment.colour import hsv_to_rgb, rgb_to_hsv
from datasets.common.augment.resampling import (
    Names,
    Size,
    extent,
    images,
    mirrored,
    onto,
    place,
    resampled,
    times,
    uniform,
    xy,
)

ATTEMPTS = 10
"""Boxes that ResizedCrop draws for a sample before it falls back to the centre."""


class Compose:
    """Applies steps one after the other.

    Args:
        steps: Callables from a batch to a batch.
    """

    def __init__(self, *steps: Callable[[Batch], Batch]) -> None:
        self.steps = steps

    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch after all steps."""
        for step in self.steps:
            batch = step(batch)
        return batch


@dataclass(frozen=True)
class Geometric:
    """Zooms, rotates, crops and mirrors all modalities, and dense labels, alike.

    A sample is zoomed, turned about its centre, cropped at a whole pixel and mirrored, all in one
    resampling: bilinear for inputs, without anti-aliasing, and nearest for labels. Every position
    in the canvas is equally likely; where the canvas is smaller than the crop, it lies anywhere in
    the crop. What is outside the image is 0 in inputs and 255 in labels. Without zoom and rotation
    the result is a slice of the image, exactly.

    Args:
        size: (H, W) of the crop.
        rotate: Angles are uniform in +- this, in degrees.
        scale: Zoom factors are uniform between these, as in ESANet.
        flip: Probability of mirroring left and right.
        modalities: The images that move; all inputs if None.
        nearest: Those of them that are not interpolated, such as depth with holes.
        canvas: Sides of the canvas as a share of those of the rotated image's bounding box; those
            of the image before rotation if None. About the image's centre in either case.
        vertical_flip: Probability of mirroring top and bottom.

    Raises:
        UserError: A modality is unknown or no image, or heights and widths differ.
    """

    size: Size
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    modalities: Names | None = None
    nearest: Names = ()
    canvas: float | None = None
    vertical_flip: float = 0.0

    def __post_init__(self) -> None:
        _require_positive('scale', self.scale)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with images (B, C, *size) and, if dense, target (B, *size)."""
        names = images(batch, self.modalities)
        for name in self.nearest:
            if name not in names:
                raise unknown('modality in nearest', name, names)
        linear, origin = self._crops(len(batch.ids), extent(batch, names))
        linear, origin = mirrored(linear, origin, self.size, (self.flip, self.vertical_flip))
        # Whole pixels need no interpolation, and without it no rounding shows.
        whole = self.rotate == 0 and self.scale[0] == self.scale[1] == 1
        return resampled(batch, names, names if whole else self.nearest, linear, origin, self.size)

    def _crops(self, count: int, source: Size) -> tuple[Tensor, Tensor]:
        """Returns the crops' axes (B, 2, 2) and corners (B, 2), as (x, y) in source pixels."""
        zoom = uniform(*self.scale, count)[:, None]
        angle = uniform(-self.rotate, self.rotate, count).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        sides = xy(source)
        image = canvas = zoom * sides
        if self.canvas is not None:
            box = cos.abs()[:, None] * sides + sin.abs()[:, None] * sides.flip(0)
            canvas = self.canvas * zoom * box
        corner = place(image, canvas, xy(self.size))
        linear = torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2) / zoom[:, None]
        return linear, sides / 2 + times(linear, corner - image / 2)


@dataclass(frozen=True)
class ResizedCrop:
    """Cuts a box of random area and shape, resizes it to `size` and mirrors it.

    As torchvision's RandomResizedCrop: the share of the area is uniform, the ratio of width to
    height log-uniform, sides are rounded to whole pixels; of ten boxes the first that fits is
    taken, else the largest central one of an allowed ratio. All modalities named get the same box.
    Bilinear without anti-aliasing, so rows should not be much larger than the crop is meant to be.

    Args:
        size: (H, W) of the result.
        scale: Least and greatest share of the image's area.
        ratio: Least and greatest width divided by height.
        flip: Probability of mirroring left and right.
        modalities: The images that are cut; all inputs if None.

    Raises:
        UserError: A modality is unknown or no image, heights and widths differ, or labels are
            dense.
    """

    size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    modalities: Names | None = None

    def __post_init__(self) -> None:
        _require_positive('scale', self.scale)
        _require_positive('ratio', self.ratio)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with images (B, C, *size)."""
        if batch.target.ndim == 3:
            raise UserError('augmentation ResizedCrop: expected target (B,), found dense labels')
        names = images(batch, self.modalities)
        corner, sides = self._boxes(len(batch.ids), extent(batch, names))
        linear = torch.diag_embed(sides / xy(self.size))
        linear, origin = mirrored(linear, corner, self.size, (self.flip, 0.0))
        return resampled(batch, names, (), linear, origin, self.size)

    def _boxes(self, count: int, source: Size) -> tuple[Tensor, Tensor]:
        """Returns the boxes' corners and sides, each (B, 2) as (x, y) in source pixels."""
        whole = xy(source)
        area = whole.prod() * uniform(*self.scale, ATTEMPTS, count)
        low, high = self.ratio
        ratio = uniform(math.log(low), math.log(high), ATTEMPTS, count).exp()
        sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).round()
        fits = ((sides >= 1) & (sides <= whole)).all(-1)
        first = fits.byte().argmax(0)
        sides = sides[first, torch.arange(count)]
        corner = place(whole, whole, sides)
        height, width = source
        largest = torch.tensor([min(width, round(height * high)), min(height, round(width / low))])
        found = fits.any(0)[:, None]
        return (
            torch.where(found, corner, (whole - largest) // 2),
            torch.where(found, sides, largest),
        )


@dataclass(frozen=True)
class ColourJitter:
    """Changes hue, saturation and value of a normalised RGB modality, per sample.

    Hue and saturation are multiplied, value is shifted, each is clipped to [0, 1]; factors and
    shift are uniform. The defaults are ESANet's. Pixels that padding set to 0 change as well.

    Args:
        modality: Name of the modality, (B, 3, H, W) as (rgb - mean) / std with rgb in [0, 1].
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        hue: The factor of hue, in turns, is 1 +- this.
        saturation: The factor of saturation is 1 +- this.
        value: The shift of value is +- this.

    Raises:
        UserError: The modality is unknown or no RGB image.
    """

    modality: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hue: float = 0.1
    saturation: float = 0.1
    value: float = 25 / 255

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with the modality's colours changed."""
        images(batch, (self.modality,))
        x = batch.inputs[self.modality]
        if x.shape[1] != 3:
            raise UserError(
                f'augmentation ColourJitter of {self.modality!r}: expected 3 channels, '
                f'found {x.shape[1]}'
            )
        mean, std = (onto(torch.tensor(v)[:, None, None], x) for v in (self.mean, self.std))
        hue, saturation, value = (
            onto(uniform(-most, most, len(x), 1, 1), x)
            for most in (self.hue, self.saturation, self.value)
        )
        h, s, v = rgb_to_hsv((x * std + mean).clamp(0, 1)).unbind(1)
        hsv = torch.stack([h * (1 + hue), s * (1 + saturation), v + value], 1).clamp(0, 1)
        jittered = (hsv_to_rgb(hsv) - mean) / std
        return batch._replace(inputs={**batch.inputs, self.modality: jittered.to(x.dtype)})


@dataclass(frozen=True)
class Intensity:
    """Scales and shifts every channel of every sample and modality by numbers of its own.

    RFNet's change of MRI intensities, which there is drawn for each slice of a volume; its rows
    have zero mean and unit variance. Both numbers are uniform.

    Args:
        modalities: The modalities (B, C, H, W) that change; all inputs if None.
        scale: Factors are 1 +- this.
        shift: Shifts are +- this.

    Raises:
        UserError: A modality is unknown or no image.
    """

    modalities: Names | None = None
    scale: float = 0.1
    shift: float = 0.1

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with other intensities."""
        inputs = dict(batch.inputs)
        for name in images(batch, self.modalities):
            x = inputs[name]
            factor = onto(uniform(1 - self.scale, 1 + self.scale, *x.shape[:2], 1, 1), x)
            shift = onto(uniform(-self.shift, self.shift, *x.shape[:2], 1, 1), x)
            inputs[name] = (x * factor + shift).to(x.dtype)
        return batch._replace(inputs=inputs)


def _require_positive(what: str, values: tuple[float, float]) -> None:
    if not 0 < values[0] <= values[1]:
        raise UserError(f'augmentation: {what}: expected 0 < least <= greatest, found {values}')
