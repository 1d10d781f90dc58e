"""The metrics of one subset of the modalities, and the outcomes that they keep of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from benchmark.method import IGNORE, Task
from benchmark.records import metrics

LARGEST = float(np.finfo(np.float32).max)
"""Largest number in float32."""

LARGEST_HALF = 65504.0
"""Largest number in float16."""


def kept_logits(task: Task, logits: Tensor) -> np.ndarray:
    """Returns what outcomes keep of logits (B, K), in the layout of `records.schema.Outcomes`.

    Two classes are told by (B,) log-odds. Of more classes all logits are kept; float16 is enough
    for calibration, but attack detection ranks samples by them and needs float32.
    """
    logits = logits.detach().float()
    if len(task.classes) == 2:
        positive = task.live if task.metric == 'ACER' else 1
        # Two finite logits may be so far apart that float32 cannot hold the difference.
        odds = logits[:, positive].double() - logits[:, 1 - positive].double()
        return odds.clamp(-LARGEST, LARGEST).cpu().numpy().astype(np.float32)
    if task.metric == 'ACER':
        return logits.cpu().numpy()
    return logits.clamp(-LARGEST_HALF, LARGEST_HALF).cpu().numpy().astype(np.float16)


class SubsetMetric(BaseMetric):
    """A metric of one subset, which also keeps what the record needs beside its value.

    Attributes:
        predicted: After `evaluate`, the share of each class among the predictions.
        outcomes: After `evaluate`, the positions ('ids') of what was measured in the split's order,
            and per-sample outcomes for them (`benchmark.records.schema.Outcomes`).
    """

    default_prefix = ''
    predicted: tuple[float, ...] = ()
    outcomes: dict[str, np.ndarray]

    @property
    def measured(self) -> bool:
        """Whether any sample was handed over since the last evaluation."""
        return bool(self.results)


class ClassificationMetric(SubsetMetric):
    """Accuracy, UAR and macro F1; for presentation attack detection APCER, BPCER and their mean.

    The decision is the larger logit. APCER is the share of attacks taken for live, BPCER the share
    of live samples taken for attacks (ISO/IEC 30107-3, over all attacks together), ACER their mean;
    EER and AUC say what other thresholds could do.

    Args:
        task: Gives the classes and which of them is live.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps (position, target, prediction, logit) of each sample; logit as in `kept_logits`."""
        self.results.extend((s['id'], s['target'], s['pred'], s['logit']) for s in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the metrics as fractions."""
        ids, target, pred, logit = (np.array(column) for column in zip(*results, strict=True))
        count = len(self.task.classes)
        self.predicted = shares_of(np.bincount(pred, minlength=count))
        self.outcomes = {'ids': ids, 'pred': pred, 'logit': logit}
        if self.task.metric != 'ACER':
            return metrics.of_decisions(target, pred, count)
        rank = logit if logit.ndim == 1 else metrics.log_odds(logit, self.task.live)
        return metrics.of_decisions(target, pred, count, self.task.live, rank)


class SegmentationMetric(SubsetMetric):
    """mIoU, accuracy of all pixels and mean class accuracy over the pooled areas of all images.

    Classes that neither occur nor are predicted are left out of the mean, as in mmsegmentation,
    whose sums in float32 cannot count more than 2^24 pixels of a class one by one.

    Args:
        task: Gives the classes.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps (position, areas (3, K)) of each image."""
        count = len(self.task.classes)
        for sample in data_samples:
            pred, target = sample['pred_sem_seg']['data'], sample['gt_sem_seg']['data']
            known = target != IGNORE
            pred, target = pred[known], target[known]
            areas = [
                torch.bincount(x, minlength=count) for x in (target[pred == target], pred, target)
            ]
            self.results.append((sample['id'], torch.stack(areas)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the metrics as fractions."""
        areas = torch.stack([r[1] for r in results]).numpy()
        self.predicted = shares_of(areas[:, 1].sum(0))
        self.outcomes = {'ids': np.array([r[0] for r in results]), 'areas': areas}
        return metrics.of_areas(areas)


def shares_of(counts: np.ndarray) -> tuple[float, ...]:
    """Returns counts as shares of their sum, and zeros where nothing was counted."""
    return tuple((counts / max(1, counts.sum())).tolist())
