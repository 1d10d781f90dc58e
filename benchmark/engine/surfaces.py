"""HD95: how far the surface of a predicted region lies from that of the label, in millimetres.

It takes about as long as many predictions, so that it is measured on the test split alone and only
where the data set asks for it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmark.dataset import Dataset, Geometry
from benchmark.engine.parallel import processes
from benchmark.errors import UserError
from benchmark.method import IGNORE, Task

PERCENTILE = 95


class Surfaces:
    """HD95 of each region of the volumes of a split, under one subset of the modalities.

    A volume is measured as soon as all its slices were added, and its slices are then forgotten.

    Args:
        task: Gives the regions, and the rule on small predictions.
        groups: (N,) name of the volume of each slice of the split, whose slices are in order.
        geometry: Where the voxels of the volumes lie.

    Attributes:
        found: Number of the volume, in the order of the names -> (R,) HD95 in millimetres.
    """

    def __init__(self, task: Task, groups: np.ndarray, geometry: Geometry) -> None:
        self.task, self.geometry = task, geometry
        names = np.unique(groups, return_inverse=True, return_counts=True)
        self.volume, self.count = names[1], names[2]
        self.found: dict[int, np.ndarray] = {}
        self._open: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, pred: Tensor, target: Tensor, ids: Tensor, has: Tensor) -> None:
        """Adds slices.

        Args:
            pred: (B, H, W) predicted classes, or (B, D, H, W) of whole volumes.
            target: (B, H, W) labels.
            ids: (B,) positions of the slices in the split.
            has: (B,) bool, the slices that have the subset; the others do not count.
        """
        # What is ignored, such as what fills up volumes behind their ends, belongs to no region.
        pred, target = (torch.where(target == IGNORE, 0, x) for x in (pred, target))
        arrays = (pred[has].byte(), target[has].byte(), ids[has])
        for guess, label, position in zip(*(x.cpu().numpy() for x in arrays), strict=True):
            number = int(self.volume[position])
            slices = self._open.setdefault(number, {})
            slices[int(position)] = guess, label
            if len(slices) == self.count[number]:
                del self._open[number]
                self.found[number] = self._measured(slices)

    def _measured(self, slices: dict[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Returns HD95 of each region of a volume, of its slices by position."""
        first, order = min(slices), sorted(slices)
        # A whole volume is a sample of its own.
        joined = np.stack if slices[first][0].ndim == 2 else np.concatenate
        guess, label = (joined([slices[k][i] for k in order]) for i in (0, 1))
        if self.task.fewest:
            small, fewest, other = self.task.fewest
            there = guess == small
            guess = np.where(there & (there.sum() < fewest), other, guess)
        spacing, diagonal = self.geometry.spacing[first], float(self.geometry.diagonal[first])
        return np.array(
            [
                hd95(np.isin(guess, classes), np.isin(label, classes), spacing, diagonal)
                for _, classes in self.task.regions
            ],
            np.float32,
        )

    def taken(self, volumes: np.ndarray) -> np.ndarray:
        """Returns (V, R) HD95 of volumes by their numbers, and forgets everything."""
        found, self.found, self._open = self.found, {}, {}
        return np.stack([found[int(k)] for k in volumes])


def hd95(pred: np.ndarray, label: np.ndarray, spacing: Sequence[float], diagonal: float) -> float:
    """Returns the greater of the two 95th percentiles of distances from surface to surface, in mm.

    The percentiles are over the surface voxels of the prediction, each with its distance to the
    nearest surface voxel of the label, and the other way round; MONAI computes them.

    Args:
        pred: (S, H, W) bool, the predicted region.
        label: (S, H, W) bool, the labelled region.
        spacing: Distance of neighbouring voxels along each axis in millimetres.
        diagonal: What it is where one of both is empty and the other is not. It is 0 if both are.
    """
    if not pred.any() or not label.any():
        return diagonal if pred.any() or label.any() else 0.0
    there = np.argwhere(pred | label)
    box = tuple(map(slice, there.min(0), there.max(0) + 1))
    masks = (torch.from_numpy(np.ascontiguousarray(x[box]))[None, None] for x in (pred, label))
    measure = importlib.import_module('monai.metrics').compute_hausdorff_distance
    options = {'include_background': True, 'percentile': PERCENTILE}
    with warnings.catch_warnings():
        # MONAI warns of an argument that it passes to a function of its own.
        warnings.simplefilter('ignore', FutureWarning)
        return float(measure(*masks, spacing=[float(x) for x in spacing], **options))


def check(data: Dataset) -> None:
    """Checks what the measurement needs, before a training whose test would end without it.

    Args:
        data: The data set, which may not ask for it.

    Raises:
        UserError: MONAI is not installed, or several processes share the slices of a volume.
    """
    if not data.surfaces:
        return
    if importlib.util.find_spec('monai') is None:
        raise UserError("hd95=true: expected the package monai, found none; pip install '.[hd95]'")
    if (count := processes.count()) > 1:
        raise UserError(
            f'hd95=true: expected one process, found {count}; slices of a volume would be in '
            'several'
        )
