"""Graded corruptions of single samples: formulas, severities, and what they are measured in.

A corruption acts on what the network is given at test: after the data set has decoded and
normalised a sample. It therefore works for every data set, and units that belong to the sensor,
such as grey values, are replaced by statistics of the modality on the validation split: training
samples may be hidden by training gaps, and what is hidden is never read. The value 0 stands for
what was not measured, as in the readers of this project.

What is drawn depends on the modality, the corruption and the name of the sample, and on nothing
else: neither on the network nor on its seed, the batch, the order of the samples, or the subset.
All severities of a sample start from the same random numbers, so that a higher one destroys what a
lower one does and more; the Poisson numbers of shot noise alone are drawn for each severity.

The kinds `gaussian`, `shot`, `blur` and `contrast` and their severities are those of ImageNet-C
(D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019), without its clipping to 8-bit images. The others are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmark.dataset import Rows
from benchmark.method import Modality
from benchmark.missing import generator

VERSION = 1
"""Raised when a formula or a severity changes, so that older tests no longer count."""

LEVELS: dict[str, tuple[float, ...]] = {
    'gaussian': (0.35, 0.53, 0.80, 1.15, 1.68),
    'shot': (60, 25, 12, 5, 3),
    'blur': (1 / 224, 2 / 224, 3 / 224, 4 / 224, 6 / 224),
    'contrast': (0.4, 0.3, 0.2, 0.1, 0.05),
    'patches': (0.1, 0.2, 0.3, 0.45, 0.6),
    'holes': (0.05, 0.1, 0.2, 0.35, 0.5),
    'shift': (0.02, 0.04, 0.08, 0.12, 0.16),
    'segments': (0.1, 0.2, 0.35, 0.5, 0.7),
    'delay': (0.05, 0.1, 0.2, 0.3, 0.4),
    'features': (0.1, 0.2, 0.35, 0.5, 0.7),
    'drift': (0.1, 0.25, 0.5, 1.0, 2.0),
    'frozen': (0.2, 0.4, 0.6, 0.8, 1.0),
}
"""Name of a corruption -> its level at severity 1 to 5; what a level is, its formula says.

Those of `gaussian` are the 0.08 to 0.38 of ImageNet-C divided by 0.226, which is the mean standard
deviation of the channels of ImageNet; those of `blur` are its pixels as shares of 224 pixels.
"""

BY_SHAPE = {
    'image': ('gaussian', 'shot', 'blur', 'contrast', 'patches', 'holes', 'shift', 'frozen'),
    'sequence': ('gaussian', 'segments', 'delay', 'frozen'),
    'vector': ('gaussian', 'features', 'drift', 'frozen'),
}
"""Kind of a modality -> its corruptions. Holes are for depth alone."""

DEPTH = ('depth', 'disparity')
"""Words in the name of a modality that measures depth."""

MEASURED = 256
"""Most validation samples that the statistics of a modality are taken from."""

RANGE = (0.005, 0.995)
"""Quantiles between which the values of a modality are said to lie: single outliers do not count.
"""

GRID = 8
"""An image has this many patches in each direction, or as many as pixels if these are fewer."""


def kinds_of(modality: Modality) -> tuple[str, ...]:
    """Returns the corruptions that a modality can have, by its shape and name."""
    deep = any(word in modality.name.lower() for word in DEPTH)
    return tuple(k for k in BY_SHAPE[modality.kind] if k != 'holes' or deep)


@dataclass(frozen=True)
class Sensor:
    """A modality and the units of its corruptions.

    Attributes:
        modality: The modality.
        std: Standard deviation in the validation samples: of each channel (C, 1, 1), of each
            feature of the frames (1, D), or of each feature (D,); without the mark of padding.
        low: Lower end of the values in the validation samples, of the same shape.
        high: Their upper end.
    """

    modality: Modality
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measured(modality: Modality, rows: Rows, available: np.ndarray) -> Sensor:
    """Returns a modality with its statistics on the validation split.

    Args:
        modality: The modality.
        rows: Its samples in the validation split.
        available: (N,) bool, which of them exist; at most `MEASURED` of these are read, evenly
            spaced in the order of the split.
    """
    there = np.flatnonzero(available)
    places = np.linspace(0, len(there) - 1, min(MEASURED, len(there))).astype(int)
    x = np.asarray(rows[there[places]], np.float64)
    if modality.padded:
        x = x[x[..., -1] > 0][None, :, :-1]
    # No validation sample has the modality; its unit is then 0, and it is left as it is.
    if not x.size:
        x = np.zeros((1, *(n - modality.padded * k for k, n in enumerate(modality.shape))))
    axes = {'image': (0, 2, 3), 'sequence': (0, 1), 'vector': (0,)}[modality.kind]
    low, high = np.quantile(x, RANGE, axis=axes, keepdims=True)
    return Sensor(modality, x.std(axes, keepdims=True)[0], low[0], high[0])


def corrupt(
    kind: str,
    severity: int,
    x: np.ndarray,
    sensor: Sensor,
    name: str,
    other: np.ndarray | None = None,
) -> np.ndarray:
    """Returns a corrupted sample, or the very sample if the severity is 0.

    Of a sequence with padding only the real frames are corrupted, and their marks stay.

    Args:
        kind: One of `kinds_of` the modality.
        severity: 0 to 5.
        x: The sample, (*shape) float32.
        sensor: Its modality.
        name: Its name, from which the random numbers follow.
        other: For 'frozen' another sample of the modality.
    """
    if severity == 0:
        return x
    level = LEVELS[kind][severity - 1]
    # The severity is left out: a sample has one noise, which only grows, so that curves are smooth.
    rng = generator(0, 'corruption', sensor.modality.name, kind, name)
    if not sensor.modality.padded:
        return _apply(kind, level, x, rng, sensor, other).astype(np.float32)
    real = x[:, -1] > 0
    result = x.copy()
    if real.any():
        theirs = None if other is None else _as_long(other[other[:, -1] > 0, :-1], real.sum())
        result[real, :-1] = _apply(kind, level, x[real, :-1], rng, sensor, theirs)
    return result


def _as_long(x: np.ndarray, frames: int) -> np.ndarray:
    """Returns the first frames of a sequence (T, D), with zeros after its end."""
    return np.pad(x[:frames], [(0, max(0, frames - len(x))), (0, 0)])


def _apply(
    kind: str,
    level: float,
    x: np.ndarray,
    rng: np.random.Generator,
    sensor: Sensor,
    other: np.ndarray | None,
) -> np.ndarray:
    if kind == 'frozen':
        return frozen(x, level, x if other is None else other)
    return _FORMULAS[kind](x, level, rng, sensor)


def gaussian(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns x + level s z: white normal noise z in units of the standard deviation s."""
    return x + level * sensor.std * rng.standard_normal(x.shape)


def shot(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns x + r (Poisson(level y) / level - y): the noise of counted photons.

    r is the range of the modality and y = max(0, (x - its lower end) / r) is what ImageNet-C has as
    a grey value from 0 to 1; `level` is the number of photons at the upper end.
    """
    reach = sensor.high - sensor.low
    light = np.maximum(0, (x - sensor.low) / np.where(reach > 0, reach, 1))
    return x + reach * (rng.poisson(level * light) / level - light)


def blur(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns an image (C, H, W) after a Gaussian filter; level is sigma / min(H, W)."""
    sigma = level * min(x.shape[1:])
    return gaussian_filter(x, (0, sigma, sigma), mode='nearest')


def contrast(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns m + level (x - m), where m is the mean of each channel of this image."""
    mean = x.mean((1, 2), keepdims=True)
    return mean + level * (x - mean)


def patches(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns an image (C, H, W) in which a share `level` of the patches of a grid is 0."""
    high, wide = (min(GRID, n) for n in x.shape[1:])
    row, column = (np.arange(n) * min(GRID, n) // n for n in x.shape[1:])
    lost = rng.permutation(high * wide)[: round(level * high * wide)]
    return np.where(np.isin(row[:, None] * wide + column, lost), 0, x)


def holes(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns a depth image (C, H, W) with irregular holes, where it is 0.

    The holes are where white noise after a Gaussian filter of a sixteenth of the shorter side (but
    at least a pixel) is lowest, on a share `level` of the pixels.
    """
    noise = rng.standard_normal(x.shape[1:])
    field = gaussian_filter(noise, max(1.0, min(noise.shape) / 16), mode='wrap')
    return np.where(field <= np.quantile(field, level), 0, x)


def shift(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns an image (C, H, W) moved in a random direction; labels stay where they are.

    It is moved by level min(H, W) pixels, but at least by one; pixels at the border are repeated.
    """
    angle, reach = rng.uniform(0, 2 * math.pi), max(1, round(level * min(x.shape[1:])))
    # Rounding may make one of the two 0, never both: the direction has a side of at least 0.7.
    down, right = round(reach * math.sin(angle)), round(reach * math.cos(angle))
    row, column = (
        np.clip(np.arange(n) - by, 0, n - 1)
        for n, by in zip(x.shape[1:], (down, right), strict=True)
    )
    return x[:, row[:, None], column]


def segments(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns a sequence (T, D) in which one segment of level T frames, at least one, is 0."""
    lost = max(1, round(level * len(x)))
    # Its centre is uniform over the frames; a uniform start would hardly ever lose the ends.
    start = int(np.clip(rng.integers(len(x)) - lost // 2, 0, len(x) - lost))
    result = x.copy()
    result[start : start + lost] = 0
    return result


def delay(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns a sequence (T, D) that is early or late by level T frames, at least one.

    What moves beyond an end is lost, and zeros follow at the other end.
    """
    by = max(1, round(level * len(x))) * int(rng.choice((-1, 1)))
    result = np.zeros_like(x)
    result[max(0, by) : len(x) + min(0, by)] = x[max(0, -by) : len(x) - max(0, by)]
    return result


def features(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns a vector (D,) in which level D features, at least one, are 0."""
    result = x.copy()
    result[rng.permutation(len(x))[: max(1, round(level * len(x)))]] = 0
    return result


def drift(x: np.ndarray, level: float, rng: np.random.Generator, sensor: Sensor) -> np.ndarray:
    """Returns (1 + level) x or x / (1 + level): the gain of the sensor has drifted."""
    return x * (1 + level) ** int(rng.choice((-1, 1)))


def frozen(x: np.ndarray, level: float, other: np.ndarray) -> np.ndarray:
    """Returns a sample whose first share `level` is still that of another sample.

    It is the share of the rows of an image (C, H, W), of the frames of a sequence, or of the
    features of a vector that the sensor did not read anew; at level 1 it is the other sample.
    """
    axis = 1 if x.ndim == 3 else 0
    count = math.ceil(level * x.shape[axis])
    kept = np.arange(x.shape[axis]).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
    return np.where(kept < count, other, x)


_FORMULAS: dict[str, Callable[[np.ndarray, float, np.random.Generator, Sensor], np.ndarray]] = {
    'gaussian': gaussian,
    'shot': shot,
    'blur': blur,
    'contrast': contrast,
    'patches': patches,
    'holes': holes,
    'shift': shift,
    'segments': segments,
    'delay': delay,
    'features': features,
    'drift': drift,
}
