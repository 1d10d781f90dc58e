"""The metrics of one subset of the modalities, and the outcomes that they keep of each sample.

What is kept of a batch stays on its device until the split has ended: no batch waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.dataset import Geometry
from benchmark.engine.column_metrics import MultilabelMetric, RegressionMetric
from benchmark.engine.kept import SubsetMetric
from benchmark.engine.outputs import areas, confusion, decisions, kept_logits, padded
from benchmark.engine.surfaces import Surfaces
from benchmark.method import Batch, Task
from benchmark.records import distances, metrics


class ClassificationMetric(SubsetMetric):
    """Accuracy, UAR and macro F1; for presentation attack detection APCER, BPCER and their mean.

    The decision is the larger logit. APCER is the share of attacks taken for live, BPCER the share
    of live samples taken for attacks (ISO/IEC 30107-3, over all attacks together), ACER their mean;
    EER and AUC say what other thresholds could do.
    """

    def kept(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Keeps target, prediction and logit, which is as in `kept_logits`."""
        logit = kept_logits(self.task, logits)
        return {'target': batch.target, 'pred': decisions(logits), 'logit': logit}

    def measure(self, samples: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics as fractions."""
        target, pred, logit = samples.pop('target'), samples['pred'], samples['logit']
        count = len(self.task.classes)
        self.predicted, self.outcomes = shares_of(np.bincount(pred, minlength=count)), samples
        if self.task.metric != 'ACER':
            return metrics.of_decisions(target, pred, count)
        rank = logit if logit.ndim == 1 else metrics.log_odds(logit, self.task.live)
        return metrics.of_decisions(target, pred, count, self.task.live, rank)


class SegmentationMetric(SubsetMetric):
    """mIoU, accuracy of all pixels and mean class accuracy over the pooled areas of all images.

    Classes that neither occur nor are predicted are left out of the mean, as in mmsegmentation,
    whose sums in float32 cannot count more than 2^24 pixels of a class one by one.
    """

    def kept(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Keeps the areas (B, 3, K) of each image: right, predicted and labelled pixels."""
        if logits.shape[2:] != batch.target.shape[1:]:
            # Scored at the label's own resolution, as ESANet and the papers on its data sets do.
            size = batch.target.shape[1:]
            logits = F.interpolate(logits, size, mode='bilinear', align_corners=False)
        return self.areas(decisions(logits), batch.target)

    def areas(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns what is kept of predicted label maps and targets, (B, H, W) both."""
        return {'areas': areas(pred, target, len(self.task.classes))}

    def measure(self, samples: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics as fractions."""
        self.predicted, self.outcomes = shares_of(samples['areas'][:, 1].sum(0)), samples
        return metrics.of_areas(samples['areas'])


class DiceMetric(SubsetMetric):
    """Dice of each region, pooled over the slices of a volume and averaged over volumes.

    All labelled voxels count: a network that sees a central window of the slices predicts the
    background, class 0, outside the window. A volume in which a region is neither labelled nor
    predicted scores 1 there, as in RFNet's code. `Task.fewest` changes what counts as predicted.

    Args:
        task: Gives the classes and the regions they make up.
        groups: (N,) name of the volume of each position of the split; None makes each its own.
        geometry: Where the voxels lie, if HD95 is measured as well; `groups` is then given.
    """

    def __init__(
        self, task: Task, groups: np.ndarray | None, geometry: Geometry | None = None
    ) -> None:
        super().__init__(task)
        self.volume = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self.surfaces = None
        if groups is not None and geometry is not None:
            self.surfaces = Surfaces(task, groups, geometry)

    def process(self, data_batch: Batch, data_samples: Any) -> None:
        """Keeps what the metric needs of a batch, whose `Predicted` is `data_samples`."""
        super().process(data_batch, data_samples)
        if self.surfaces is not None:
            logits, has, _ = data_samples
            pred = padded(decisions(logits), data_batch.target)
            self.surfaces.add(pred, data_batch.target, data_batch.ids, has)

    def kept(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Keeps areas (B, 3, R): found, predicted, labelled; and predicted pixels (B, K)."""
        return self.areas(padded(decisions(logits), batch.target), batch.target)

    def areas(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns what is kept of predicted label maps and targets, (B, H, W) both.

        The areas are those that `settled` takes.
        """
        table = confusion(pred, target, len(self.task.classes))
        found = [region_areas(table, self.task.regions)]
        if self.task.fewest:
            small, _, other = self.task.fewest
            merged = table.clone()
            merged[:, :, other] += merged[:, :, small]
            merged[:, :, small] = 0
            count = table[:, :, small].sum(1)[:, None, None].expand(-1, 3, 1)
            found += [region_areas(merged, self.task.regions), count]
        return {'areas': torch.cat(found, 2), 'shares': table.sum(1)}

    def settled(self, areas: np.ndarray) -> np.ndarray:
        """Returns the areas (V, 3, R) of volumes by the task's rule on small predictions.

        Args:
            areas: Sums over the slices of what `areas` returns, (V, 3, R) without such a rule. With
                it (V, 3, 2R + 1): the areas as predicted, those with the other class in the place
                of the small one, and the number of voxels of the small one.
        """
        if not self.task.fewest:
            return areas
        regions = len(self.task.regions)
        few = areas[:, :, -1:] < self.task.fewest[1]
        return np.where(few, areas[:, :, regions:-1], areas[:, :, :regions])

    def measure(self, samples: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns Dice per region and their mean, as fractions; HD95 likewise, in millimetres."""
        ids, areas = samples['ids'], samples['areas']
        self.predicted = shares_of(samples['shares'].sum(0))
        volumes, place = np.unique(
            ids if self.volume is None else self.volume[ids], return_inverse=True
        )
        pooled = np.zeros((len(volumes), *areas.shape[1:]), np.int64)
        np.add.at(pooled, place, areas)
        pooled = self.settled(pooled)
        self.outcomes = {'ids': volumes, 'areas': pooled}
        names = [name for name, _ in self.task.regions]
        found = metrics.of_volumes(pooled, names)
        if self.surfaces is not None:
            self.outcomes['hd95'] = self.surfaces.taken(volumes)
            found |= distances.of_volumes(self.outcomes['hd95'], names)
        return found


def region_areas(table: Tensor, regions: Sequence[tuple[str, tuple[int, ...]]]) -> Tensor:
    """Returns areas (B, 3, R): found, predicted, labelled, of confusion matrices (B, K, K)."""
    areas = []
    for _, classes in regions:
        found, labelled = table[:, :, classes], table[:, classes]
        areas.append(torch.stack([x.sum((1, 2)) for x in (found[:, classes], found, labelled)]))
    return torch.stack(areas, 2).movedim(1, 0)


def metric_for(
    task: Task, groups: np.ndarray | None, geometry: Geometry | None = None
) -> SubsetMetric:
    """Returns a fresh metric for one subset.

    Args:
        task: What is measured.
        groups: As in `DiceMetric`.
        geometry: As in `DiceMetric`.
    """
    if task.metric == 'Dice':
        return DiceMetric(task, groups, geometry)
    kinds: dict[str, type[SubsetMetric]] = {
        'segmentation': SegmentationMetric,
        'multilabel': MultilabelMetric,
        'regression': RegressionMetric,
    }
    return kinds.get(task.kind, ClassificationMetric)(task)


def shares_of(counts: np.ndarray) -> tuple[float, ...]:
    """Returns counts as shares of their sum, and zeros where nothing was counted."""
    return tuple((counts / max(1, counts.sum())).tolist())
