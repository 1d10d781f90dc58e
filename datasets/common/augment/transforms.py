"""Augmentation of whole training batches, on the device that holds them.

A transform maps a batch to a new one and does not change the given one. Its random numbers are
drawn from torch's default generator on the CPU, and only a few numbers per sample are copied to the
device. A seed therefore gives the same augmentation on every device, and the CPU does not wait for
the device. Images keep their type; the computation is in float32.

These are the transforms of the papers. Where they crop, the stored images are larger than the
shape of the task:

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

The transforms differ from the released code of the papers: angles are real numbers instead of whole
degrees (MMANet, RFNet); a zoomed image that is smaller than the crop is padded instead of stretched
(ESANet, in whose recipes it does not occur); rotation precedes the crop instead of following it
(RFNet); and intermediate images are not rounded to eight bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import Batch
from datasets.common.augment.chosen import OfModalities
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
"""How many boxes ResizedCrop draws for a sample before it takes the central one."""


class Compose:
    """Applies several transforms one after the other.

    Args:
        steps: The transforms, which map a batch to a batch.
    """

    def __init__(self, *steps: Callable[[Batch], Batch]) -> None:
        self.steps = steps

    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch after all transforms."""
        for step in self.steps:
            batch = step(batch)
        return batch

    def among(self, names: Sequence[str]) -> Compose:
        """Returns the transforms of some modalities (`OfModalities.among`)."""
        kept = [s.among(names) if isinstance(s, OfModalities) else s for s in self.steps]
        return Compose(*kept)


@dataclass(frozen=True)
class Geometric(OfModalities):
    """Zooms, rotates, crops and mirrors the modalities and the label maps of a sample alike.

    A sample is zoomed, rotated about its centre, cropped at a whole pixel and mirrored. All this is
    one resampling: bilinear without anti-aliasing for inputs, to the nearest pixel for label maps.
    The crop lies in a canvas, a rectangle about the centre of the image, and every position is
    equally likely; a canvas that is smaller than the crop lies anywhere in it. What is outside the
    image is 0 in inputs and ignored in label maps. Without zoom and rotation, the result is
    exactly a slice of the image.

    Args:
        size: (H, W) of the crop in pixels.
        rotate: Greatest angle in degrees; angles are uniform between -rotate and rotate.
        scale: Least and greatest zoom factor; factors are uniform between them, as in ESANet.
        flip: Probability of mirroring left and right.
        modalities: The images to transform; None for all modalities.
        nearest: Those of them that are not interpolated, such as depth images with holes.
        canvas: Sides of the canvas as a share of the sides of the rotated image's bounding box.
            None: the canvas is as large as the zoomed image before the rotation.
        vertical_flip: Probability of mirroring top and bottom.

    Raises:
        UserError: The zoom factors are not positive and ascending. Applying the transform raises it
            if a modality is unknown or no image, or if heights or widths differ.
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
        """Returns the batch with images (B, C, *size) and, for segmentation, target (B, *size)."""
        names = images(batch, self.modalities)
        for name in self.nearest:
            if name not in names:
                raise unknown('modality in nearest', name, names)
        linear, origin = self._crops(len(batch.ids), extent(batch, names))
        linear, origin = mirrored(linear, origin, self.size, (self.flip, self.vertical_flip))
        # Shifts by whole pixels need no interpolation, which would only add rounding errors.
        whole = self.rotate == 0 and self.scale[0] == self.scale[1] == 1
        return resampled(batch, names, names if whole else self.nearest, linear, origin, self.size)

    def _crops(self, count: int, source: Size) -> tuple[Tensor, Tensor]:
        """Draws crops; returns their axes (B, 2, 2) and corners (B, 2), (x, y) in source pixels."""
        zoom = uniform(*self.scale, count)[:, None]
        angle = uniform(-self.rotate, self.rotate, count).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        sides = xy(source)
        image = canvas = zoom * sides
        if self.canvas is not None:
            # The smallest upright box around the rotated image, which loses no corner.
            box = cos.abs()[:, None] * sides + sin.abs()[:, None] * sides.flip(0)
            canvas = self.canvas * zoom * box
        corner = place(image, canvas, xy(self.size))
        linear = torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2) / zoom[:, None]
        return linear, sides / 2 + times(linear, corner - image / 2)


@dataclass(frozen=True)
class ResizedCrop(OfModalities):
    """Cuts out a box of random area and shape, resizes it to `size` and mirrors it at random.

    The box is drawn as by torchvision's RandomResizedCrop: its share of the image's area is
    uniform, its ratio of width to height log-uniform, and its sides are rounded to whole pixels.
    The first of ten boxes that fits into the image is taken, or, if none fits, the largest central
    box of an allowed ratio. All modalities of a sample get the same box. The resampling is bilinear
    without anti-aliasing, so the stored images should not be much larger than needed.

    Args:
        size: (H, W) of the result in pixels.
        scale: Least and greatest share of the image's area.
        ratio: Least and greatest ratio of width to height.
        flip: Probability of mirroring left and right.
        modalities: The images to transform; None for all modalities.

    Raises:
        UserError: The shares or ratios are not positive and ascending. Applying the transform
            raises it if a modality is unknown or no image, if heights or widths differ, or if the
            target is a label map.
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
        """Draws boxes; returns their corners and sides, each (B, 2) as (x, y) in source pixels."""
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
class ColourJitter(OfModalities):
    """Changes hue, saturation and value of a normalised RGB modality, per sample.

    Hue and saturation are multiplied by random factors, value is shifted by a random number, and
    each is then clipped to [0, 1]. Factors and shift are uniform. The defaults are ESANet's. Pixels
    of padding, which are 0, change as well.

    Args:
        modality: Name of the modality, (B, 3, H, W) as (rgb - mean) / std with rgb in [0, 1].
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        hue: The factor of hue (in turns) is uniform in 1 +- `hue`.
        saturation: The factor of saturation is uniform in 1 +- `saturation`.
        value: The shift of value is uniform in +- `value`.

    Raises:
        UserError: Applying the transform raises it if the modality is unknown or no RGB image.
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
class Intensity(OfModalities):
    """Scales and shifts the intensities of every channel of every sample and modality at random.

    RFNet changes MRI intensities in this way and draws both numbers for every slice of a volume.
    Its inputs have mean 0 and variance 1. Factor and shift are uniform.

    Args:
        modalities: The images or volumes (B, C, ...) to transform; None for all modalities.
        scale: Factors are uniform in 1 +- `scale`.
        shift: Shifts are uniform in +- `shift`.

    Raises:
        UserError: Applying the transform raises it if a modality is unknown or no image.
    """

    modalities: Names | None = None
    scale: float = 0.1
    shift: float = 0.1

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with changed intensities."""
        inputs = dict(batch.inputs)
        for name in images(batch, self.modalities, (3, 4)):
            x = inputs[name]
            each = (*x.shape[:2], *[1] * (x.ndim - 2))
            factor = onto(uniform(1 - self.scale, 1 + self.scale, *each), x)
            shift = onto(uniform(-self.shift, self.shift, *each), x)
            inputs[name] = (x * factor + shift).to(x.dtype)
        return batch._replace(inputs=inputs)


def _require_positive(what: str, values: tuple[float, float]) -> None:
    if not 0 < values[0] <= values[1]:
        raise UserError(f'augmentation: {what}: expected 0 < least <= greatest, found {values}')
