"""Conversion of batches of images between the colour spaces RGB and HSV, on any device."""

from __future__ import annotations

import torch
from torch import Tensor


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """Converts RGB (B, 3, H, W) to hue (in turns), saturation and value; all are in [0, 1]."""
    red, green, blue = rgb.unbind(1)
    value = rgb.amax(1)
    chroma = value - rgb.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(value == red, (green - blue) / divisor, sixths)
    saturation = chroma / torch.where(value > 0, value, 1)
    return torch.stack([(sixths / 6) % 1, saturation, value], 1)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """Converts hue (in turns), saturation and value (B, 3, H, W) to RGB; all are in [0, 1]."""
    hue, saturation, value = hsv.unbind(1)
    chroma = value * saturation
    sixths = [(n + 6 * hue) % 6 for n in (5, 3, 1)]
    channels = [value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in sixths]
    return torch.stack(channels, 1)
