"""Samples, label maps and mistakes as small PNG files, with what they show in words."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmark.method import IGNORE, Modality, Task

SIDE = 128
"""Longest side of a picture in pixels; larger ones are made smaller, smaller ones are kept."""

SOUNDS = ('audio', 'sound', 'speech', 'voice')
"""Images of these names are spectrograms, which are drawn with low frequencies below."""

MOST_BARS = 64
"""Numbers of a vector that are drawn as bars; of longer ones each number is a coloured field."""

NAMED = 4
"""Classes of a label map that are named in words, the largest first."""

COLOURS = ('#56b4e9', '#e69f00', '#009e73', '#f0e442', '#0072b2', '#d55e00', '#cc79a7', '#9a9a9a')
"""Colours of the first classes; they differ for readers who confuse red and green (after Okabe and
Ito, 2008)."""

MOST_COLOURS = 255
"""Most colours of a palette that has a transparent one, too."""

BACKGROUND = '#26292e'
"""Colour of class 0 where the metric is Dice."""

SIGNS = 'orange above 0, blue below'
RIGHT, WRONG = '#d9d9d9', '#b2182b'
POSITIVE, NEGATIVE = (213, 94, 0), (0, 114, 178)


def colours(task: Task) -> list[str]:
    """Returns the colour of each class in label maps, as '#rrggbb'."""
    first = [BACKGROUND] if task.metric == 'Dice' else []
    count = len(task.classes) - len(first)
    more = [_hue(0.11 + 0.618 * k, k) for k in range(max(0, count - len(COLOURS)))]
    return [*first, *COLOURS[:count], *more]


def _hue(hue: float, number: int) -> str:
    """Returns one of many colours, neighbours of which differ in hue and in lightness."""
    red, green, blue = colorsys.hls_to_rgb(hue % 1, (0.35, 0.55, 0.75)[number % 3], 0.6)
    return '#' + ''.join(f'{round(255 * x):02x}' for x in (red, green, blue))


def sample(
    modality: Modality, values: np.ndarray, facts: Mapping[str, Any] | None, sides: int = SIDE
) -> tuple[bytes, str]:
    """Returns a sample of one modality as a PNG file, and what it shows in words.

    Images are drawn in the values of the data, stretched to full contrast; of other than three
    channels the first is drawn. In vectors and sequences blue is below 0 and orange above it.

    Args:
        modality: The modality.
        values: The network's input, of the modality's shape.
        facts: How the data set has normalised it, as in `benchmark.dataset.Preparation`, or None.
        sides: Longest side of the picture.
    """
    values = np.nan_to_num(np.asarray(values, np.float64), posinf=0, neginf=0)
    name = modality.name
    if modality.kind == 'vector':
        return _vector(values), f'{name}, {len(values)} numbers, {SIGNS}'
    if modality.kind == 'sequence':
        return _sequence(modality, values, sides)
    if facts is not None and 'mean' in facts:
        values = values * np.asarray(facts['std'], np.float64) + np.asarray(facts['mean'])
    channels = len(values)
    grey = np.moveaxis(values[: 3 if channels == 3 else 1], 0, -1)
    sound = name.lower() in SOUNDS
    if sound:
        grey = grey[::-1]
    low, high = grey.min(), grey.max()
    scaled = (255 * (grey - low) / (high - low or 1)).round().astype(np.uint8)
    image = Image.fromarray(scaled if channels == 3 else scaled[..., 0])
    size = _fitting(image.size, sides)
    more = f', first of {channels} channels' if channels not in (1, 3) else ''
    more += ', time to the right, low frequencies below' if sound else ''
    return _png(image.resize(size, Image.Resampling.BOX)), f'{name}{more}'


def _fitting(size: tuple[int, int], sides: int) -> tuple[int, int]:
    """Returns the width and height at which the longest side is no longer than `sides`."""
    scale = min(1, sides / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _vector(values: np.ndarray) -> bytes:
    """Draws numbers as bars from a line at 0 or, if they are many, as coloured fields in rows."""
    if len(values) > MOST_BARS:
        wide = int(np.ceil(np.sqrt(len(values))))
        rows = np.pad(values, (0, -len(values) % wide)).reshape(-1, wide)
        return _png(_heat(rows))
    half, wide = 24, max(2, 96 // len(values))
    heights = np.round(half * values / (np.abs(values).max() or 1)).astype(int)
    level = half - np.arange(2 * half + 1)[:, None]  # above the line is positive
    filled = ((level > 0) & (level <= heights)) | ((level < 0) & (level >= heights))
    drawn = np.full((*filled.shape, 3), 255, np.uint8)
    drawn[filled & (level > 0)], drawn[filled & (level < 0)] = POSITIVE, NEGATIVE
    drawn[half] = 120
    drawn = np.repeat(drawn, wide, 1)
    drawn[:, wide - 1 :: wide] = np.where(drawn[:, wide - 1 :: wide] == 120, 120, 255)
    return _png(Image.fromarray(drawn))


def _sequence(modality: Modality, values: np.ndarray, sides: int) -> tuple[bytes, str]:
    """Draws frames (T, D) from left to right, without those that only pad."""
    if modality.padded:
        values = values[values[:, -1] > 0.5, :-1]
    frames, features = values.shape
    text = f'{modality.name}, {frames} frames of {features} features, time to the right, {SIGNS}'
    image = _heat(values.T if frames else np.zeros((1, 1)))
    return _png(image.resize(_fitting(image.size, sides), Image.Resampling.BOX)), text


def _heat(values: np.ndarray) -> Image.Image:
    """Draws numbers (H, W) in colours: white at 0, orange above, blue below."""
    most = float(np.quantile(np.abs(values), 0.98)) or float(np.abs(values).max()) or 1.0
    share = np.clip(values / most, -1, 1)[..., None]
    full = np.where(share > 0, POSITIVE, NEGATIVE)
    return Image.fromarray((255 + np.abs(share) * (full - 255.0)).astype(np.uint8))


def labels(task: Task, classes: np.ndarray, sides: int = SIDE) -> tuple[bytes, str]:
    """Returns a label map (H, W) as a PNG file, and its largest classes in words.

    Pixels without a label are transparent.
    """
    counts = np.bincount(classes[classes != IGNORE].ravel(), minlength=len(task.classes))
    shares = 100 * counts / max(1, counts.sum())
    first = [k for k in np.argsort(-shares, kind='stable')[:NAMED] if shares[k] >= 0.5]
    text = ', '.join(f'{task.classes[k]} {shares[k]:.0f} %' for k in first)
    return _map(classes, colours(task), sides), text or 'nothing is labelled'


def mistakes(predicted: np.ndarray, truth: np.ndarray, sides: int = SIDE) -> tuple[bytes, float]:
    """Returns where a label map (H, W) is wrong as a PNG file, and the share of labelled pixels.

    Wrong pixels are red, right ones grey, and those without a label transparent.
    """
    known = truth != IGNORE
    wrong = known & (predicted != truth)
    drawn = np.where(known, wrong.astype(np.int64), IGNORE)
    return _map(drawn, (RIGHT, WRONG), sides), float(wrong.sum() / max(1, known.sum()))


def _map(classes: np.ndarray, of: Sequence[str], sides: int) -> bytes:
    """Draws a map of numbers (H, W) by a list of colours; `IGNORE` is transparent."""
    if len(of) > MOST_COLOURS:
        shown = np.array([[*bytes.fromhex(colour[1:]), 255] for colour in of] + [[0] * 4], np.uint8)
        image = Image.fromarray(shown[np.where(classes == IGNORE, len(of), classes)])
        return _png(image.resize(_fitting(image.size, sides), Image.Resampling.NEAREST))
    # The number after the last colour, since a palette is as long as its largest number.
    image = Image.fromarray(np.where(classes == IGNORE, len(of), classes).astype(np.uint8))
    image = image.resize(_fitting(image.size, sides), Image.Resampling.NEAREST).convert('P')
    image.putpalette(b''.join(bytes.fromhex(colour[1:]) for colour in (*of, RIGHT)))
    return _png(image, transparency=len(of))


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', optimize=True, **options)
    return buffer.getvalue()
