"""Bilinear resizing with a fast and deterministic gradient on GPUs, and a head that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from mmseg.models.decode_heads import FPNHead
from mmseg.models.utils import Upsample
from torch import Tensor, nn

MANY = 16
"""Channels from which on PyTorch's own kernel is the faster one on CPUs."""


def bilinear(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resizes maps bilinearly by two matrix products, one for the rows and one for the columns.

    The values are those of `F.interpolate`. On GPUs the gradient of that function adds in an order
    that differs between runs; where deterministic algorithms are asked for, PyTorch replaces it by
    one that sorts indices and is many times slower. On CPUs the function is used for maps of many
    channels, where it is faster than the products.

    Args:
        x: (B, C, H, W), or (B, C, D, H, W) of volumes, which are resized along all three axes.
        size: Height and width of the result, after the depth of a volume.
        align_corners: Whether the centres of the corner pixels of x and of the result coincide,
            instead of the outer edges of these pixels.

    Returns:
        (B, C, *size) in float32.
    """
    if x.ndim == 5:
        return _trilinear(x, size, align_corners, x.device.type != 'cpu')
    height, width = x.shape[2:]
    # Autocast would compute the products in half precision.
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        if (height, width) == tuple(size):
            return x
        if x.device.type == 'cpu' and x.shape[1] >= MANY:
            return F.interpolate(x, tuple(size), mode='bilinear', align_corners=align_corners)
        rows = _matrix(height, size[0], align_corners, x.device)
        return rows.T @ x @ _matrix(width, size[1], align_corners, x.device)


def _matrix(count: int, length: int, align_corners: bool, device: torch.device) -> Tensor:
    """Returns the matrix (count, length) that interpolates rows of numbers linearly."""
    # Interpolating the unit vectors gives the matrix of the interpolation.
    basis = torch.eye(count, device=device)[:, None]
    return F.interpolate(basis, length, mode='linear', align_corners=align_corners)[:, 0]


def _trilinear(x: Tensor, size: Sequence[int], align_corners: bool, products: bool) -> Tensor:
    """Resizes volumes (B, C, D, H, W) as `bilinear` does, by a product for each axis or not."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        if x.shape[2:] == tuple(size):
            return x
        if not products:
            return F.interpolate(x, tuple(size), mode='trilinear', align_corners=align_corners)
        for axis, length in enumerate(size, 2):
            turned = x.transpose(axis, -1)
            turned = turned @ _matrix(x.shape[axis], length, align_corners, x.device)
            x = turned.transpose(axis, -1)
        return x


class Doubling(nn.Module):
    """Doubles height and width of maps bilinearly."""

    def forward(self, x: Tensor) -> Tensor:
        """Resizes (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return bilinear(x, (2 * x.shape[2], 2 * x.shape[3]))


class PyramidHead(FPNHead):
    """mmsegmentation's head of a feature pyramid, resizing by `bilinear`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for scale in self.scale_heads:
            for k, layer in enumerate(scale):
                if isinstance(layer, Upsample):
                    scale[k] = Doubling()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns logits (B, K, H, W) at the resolution of the first of the pyramid's maps."""
        first, *others = (head(x) for head, x in zip(self.scale_heads, inputs, strict=True))
        return self.cls_seg(sum((bilinear(x, first.shape[2:]) for x in others), first))
