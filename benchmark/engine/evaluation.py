"""Scores of every subset of the modalities, through mmengine's loops and metrics.

Each batch is encoded once and decoded once per subset. A method that overrides `predict` mixes
modalities in its encoders and is run subset by subset instead; the numbers mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from torch import Tensor

from benchmark.dataset import Split
from benchmark.engine.hooks import TrainingDiverged
from benchmark.engine.subset_metrics import (
    ClassificationMetric,
    SegmentationMetric,
    SubsetMetric,
    kept_logits,
    shares_of,
)
from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Method, SubsetScore, Task
from benchmark.missing import subset_id
from benchmark.records import metrics
from benchmark.subsets import subset_table


def subset_logits(
    method: Method, batch: Batch, masks: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields (mask, logits) for each subset, encoding once where the method allows.

    Args:
        method: The method, in eval mode.
        batch: A batch on the method's device.
        masks: The subsets, (M,) bool each; intersected with what each sample has.
    """
    once = type(method).predict is Method.predict
    features = method.encode(batch.inputs) if once else {}
    for mask in masks:
        allowed = batch.available & torch.as_tensor(mask, device=batch.available.device)
        yield (
            mask,
            (method.decode(features, allowed) if once else method.predict(batch.inputs, allowed)),
        )


class DiceMetric(SubsetMetric):
    """Dice of each region, pooled over the slices of a volume and averaged over volumes.

    All labelled voxels count: a network that sees a central window of the slices predicts the
    background, class 0, outside the window. A volume in which a region is neither labelled nor
    predicted scores 1 there, as in RFNet's code.

    Args:
        task: Gives the classes and the regions they make up.
        groups: (N,) name of the volume of each position of the split; None makes each its own.
    """

    def __init__(self, task: Task, groups: np.ndarray | None) -> None:
        super().__init__()
        self.task = task
        self.volume = None if groups is None else np.unique(groups, return_inverse=True)[1]

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps (position, areas (3, R), predicted pixels (K,)) of each slice."""
        for sample in data_samples:
            target = sample['gt_sem_seg']['data']
            pred, known = padded(sample['pred_sem_seg']['data'], target), target != IGNORE
            areas = [self._areas(pred, target, known, classes) for _, classes in self.task.regions]
            shares = torch.bincount(pred[known], minlength=len(self.task.classes))
            self.results.append((sample['id'], torch.stack(areas, 1), shares))

    @staticmethod
    def _areas(pred: Tensor, target: Tensor, known: Tensor, classes: tuple[int, ...]) -> Tensor:
        members = torch.tensor(classes)
        found, labelled = torch.isin(pred, members) & known, torch.isin(target, members)
        return torch.stack([(found & labelled).sum(), found.sum(), labelled.sum()])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns Dice per region and their mean, as fractions."""
        ids = np.array([r[0] for r in results])
        areas = torch.stack([r[1] for r in results]).numpy()
        shares = torch.stack([r[2] for r in results]).sum(0)
        self.predicted = shares_of(shares.numpy())
        volumes, place = np.unique(
            ids if self.volume is None else self.volume[ids], return_inverse=True
        )
        pooled = np.zeros((len(volumes), *areas.shape[1:]), np.int64)
        np.add.at(pooled, place, areas)
        self.outcomes = {'ids': volumes, 'areas': pooled}
        each = metrics.dice(pooled).mean(0)
        names = [f'Dice_{name}' for name, _ in self.task.regions]
        return {'Dice': float(each.mean()), **dict(zip(names, each.tolist(), strict=True))}


def padded(pred: Tensor, target: Tensor) -> Tensor:
    """Returns a prediction (h, w) padded with 0 about its centre to the size (H, W) of a target."""
    high, wide = (t - p for t, p in zip(target.shape, pred.shape, strict=True))
    return F.pad(pred, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def metric_for(task: Task, groups: np.ndarray | None) -> SubsetMetric:
    """Returns a fresh metric for one subset."""
    if task.metric == 'Dice':
        return DiceMetric(task, groups)
    return SegmentationMetric(task) if task.kind == 'segmentation' else ClassificationMetric(task)


class SubsetEvaluator(Evaluator):
    """One metric per subset; samples count for the subsets that they have.

    Args:
        task: What is measured.
        only: Subset ids to measure; all of them by default.
        split: The split that is measured: its volumes, for Dice, and the ids of its samples, for
            messages.

    Attributes:
        scores: After a pass, subset id -> its score, for subsets that some sample has.
        outcomes: After a pass, subset id -> per-sample outcomes and their positions.
    """

    def __init__(
        self, task: Task, only: Sequence[str] | None = None, split: Split | None = None
    ) -> None:
        groups = None if split is None else split.groups
        self.masks = subset_table(task.names, only)
        self.by_subset = {subset: metric_for(task, groups) for subset in self.masks}
        super().__init__(list(self.by_subset.values()))
        self.task, self.split = task, split
        self._axes = 4 if task.kind == 'segmentation' else 2
        self.scores: dict[str, SubsetScore] = {}
        self.outcomes: dict[str, dict[str, np.ndarray]] = {}

    def process_subset(
        self, mask: np.ndarray, logits: Tensor, batch: Batch, number: int = 0
    ) -> None:
        """Hands one subset's logits to its metric, for the samples that have the subset.

        Args:
            mask: The subset, (M,) bool.
            logits: (B, K) or (B, K, H, W).
            batch: The samples.
            number: Which batch of the split this is, for the message.

        Raises:
            UserError: The logits are no tensor, or of another number of samples, classes or axes.
            TrainingDiverged: A logit of a sample that has the subset is NaN or infinite.
        """
        expected = (len(batch.ids), len(self.task.classes))
        if not isinstance(logits, Tensor):
            raise UserError(
                f'prediction: expected logits {expected} as a tensor, '
                f'found {type(logits).__name__}; `decode` or `predict` of the method returns them'
            )
        if tuple(logits.shape[:2]) != expected or logits.ndim != self._axes:
            raise UserError(
                f'prediction: expected logits {expected}{" and H, W" if self._axes == 4 else ""}, '
                f'found {tuple(logits.shape)}; `decode` or `predict` of the method returns them'
            )
        has = (batch.available.cpu().numpy() >= mask).all(1)
        rows = np.flatnonzero(has)
        if len(rows):
            subset = subset_id(self.task.names, mask)
            finite = logits.isfinite().flatten(1).all(1).cpu().numpy()
            if not finite[rows].all():
                positions = batch.ids.cpu().numpy()[rows[~finite[rows]]]
                raise TrainingDiverged(
                    f'prediction is not finite: subset {subset}, batch {number}, '
                    f'{self._named(positions)}'
                )
            self.by_subset[subset].process(batch, _samples(self.task, logits, batch, rows))

    def _named(self, positions: np.ndarray) -> str:
        """Returns the ids of at most three samples, and how many more there are."""
        ids = positions if self.split is None else np.asarray(self.split.ids)[positions]
        named = ', '.join(str(i) for i in ids[:3])
        rest = f' and {len(ids) - 3} more' if len(ids) > 3 else ''
        return f'{"samples" if len(ids) > 1 else "sample"} {named}{rest}'

    def evaluate(self, size: int) -> dict[str, float]:
        """Returns '<subset>/<metric>' -> value, and fills `scores` and `outcomes`."""
        flat = {}
        self.scores, self.outcomes = {}, {}
        for subset, metric in self.by_subset.items():
            if not metric.measured:
                continue
            metrics = metric.evaluate(size)
            self.outcomes[subset] = metric.outcomes
            n = len(metric.outcomes['ids'])
            self.scores[subset] = SubsetScore(metrics, metric.predicted, n)
            flat.update({f'{subset}/{name}': value for name, value in metrics.items()})
        return flat


def _samples(task: Task, logits: Tensor, batch: Batch, rows: np.ndarray) -> list[dict]:
    """Returns mmengine's per-sample dictionaries for the given rows of a batch."""
    resized = task.kind == 'segmentation' and task.metric != 'Dice'
    if resized and logits.shape[2:] != batch.target.shape[1:]:
        # Scored at the label's own resolution, as ESANet and the papers on its data sets do.
        logits = F.interpolate(logits, batch.target.shape[1:], mode='bilinear', align_corners=False)
    pred = logits.argmax(1)
    ids = batch.ids.tolist()
    if task.kind == 'segmentation':
        pred, target = pred.cpu(), batch.target.cpu()
        return [
            {
                'id': ids[i],
                'pred_sem_seg': {'data': pred[i]},
                'gt_sem_seg': {'data': target[i]},
            }
            for i in rows
        ]
    columns = (ids, batch.target.tolist(), pred.tolist(), kept_logits(task, logits))
    return [
        dict(zip(('id', 'target', 'pred', 'logit'), (column[i] for column in columns), strict=True))
        for i in rows
    ]


class _SubsetLoop:
    """One iteration of a loop over subsets; mixed into mmengine's validation and test loops."""

    runner: Any
    evaluator: Any

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Batch) -> None:
        """Encodes a batch and hands every subset's logits to the evaluator."""
        stage = 'test' if isinstance(self, TestLoop) else 'val'
        self.runner.call_hook(f'before_{stage}_iter', batch_idx=idx, data_batch=data_batch)
        model = self.runner.model
        batch = model.data_preprocessor(data_batch, False)
        for mask, logits in subset_logits(model, batch, list(self.evaluator.masks.values())):
            self.evaluator.process_subset(mask, logits, batch, idx)
        self.runner.call_hook(
            f'after_{stage}_iter', batch_idx=idx, data_batch=data_batch, outputs=[]
        )


class SubsetValLoop(_SubsetLoop, ValLoop):
    """mmengine's validation loop over every subset."""


class SubsetTestLoop(_SubsetLoop, TestLoop):
    """mmengine's test loop over every subset."""
