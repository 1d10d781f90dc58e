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
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import TestLoop, ValLoop
from mmseg.evaluation import IoUMetric
from torch import Tensor

from benchmark.method import IGNORE, Batch, Method, SubsetScore, Task
from benchmark.missing import subset_id, subset_masks
from benchmark.records import metrics

_ATTACK_RATES = {'APCER': metrics.apcer, 'BPCER': metrics.bpcer, 'ACER': metrics.acer}


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
        """Keeps (position, target, prediction, score) of each sample."""
        self.results.extend((s['id'], s['target'], s['pred'], s['score']) for s in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the metrics as fractions."""
        ids, target, pred, score = (np.array(column) for column in zip(*results, strict=True))
        count = len(self.task.classes)
        self.predicted = tuple(np.bincount(pred, minlength=count) / len(pred))
        self.outcomes = {'ids': ids, 'pred': pred, 'score': score.astype(np.float32)}
        confusion = metrics.confusion(target, pred, count)
        found: dict[str, Any] = {'accuracy': metrics.accuracy(confusion)}
        if self.task.metric == 'ACER':
            for name, rate in _ATTACK_RATES.items():
                found[name] = rate(confusion, self.task.live)
            found['EER'], found['AUC'] = metrics.eer_auc(target == self.task.live, score)
        else:
            found['UAR'], found['F1'] = metrics.uar(confusion), metrics.macro_f1(confusion)
        return {name: float(value) for name, value in found.items()}


class SegmentationMetric(SubsetMetric, IoUMetric):
    """mmsegmentation's mIoU over the pooled confusion matrix, unrounded and silent.

    Classes that neither occur nor are predicted are left out of the mean.

    Args:
        task: Gives the classes.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(ignore_index=IGNORE, iou_metrics=['mIoU'])
        self.dataset_meta = {'classes': task.classes}
        self.ids: list[int] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps each image's areas per class."""
        super().process(data_batch, data_samples)
        self.ids.extend(s['id'] for s in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns mIoU, the accuracy of all pixels and the mean class accuracy, as fractions."""
        areas = [torch.stack(column) for column in zip(*results, strict=True)]
        intersect, union, predicted, labelled = (a.sum(0) for a in areas)
        self.predicted = tuple((predicted / predicted.sum()).tolist())
        per_image = torch.stack([areas[0], areas[2], areas[3]], 1)
        self.outcomes = {'ids': np.array(self.ids), 'areas': per_image.numpy().astype(np.int32)}
        self.ids = []
        found = self.total_area_to_metrics(
            intersect, union, predicted, labelled, self.metrics, self.nan_to_num, self.beta
        )
        return {
            'mIoU': float(np.nanmean(found['IoU'])),
            'pixel_accuracy': float(found['aAcc']),
            'class_accuracy': float(np.nanmean(found['Acc'])),
        }


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
            pred, known = _padded(sample['pred_sem_seg']['data'], target), target != IGNORE
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
        self.predicted = tuple((shares / shares.sum()).tolist())
        volumes, place = np.unique(
            ids if self.volume is None else self.volume[ids], return_inverse=True
        )
        pooled = np.zeros((len(volumes), *areas.shape[1:]), np.int64)
        np.add.at(pooled, place, areas)
        self.outcomes = {'ids': volumes, 'areas': pooled}
        each = metrics.dice(pooled).mean(0)
        names = [f'Dice_{name}' for name, _ in self.task.regions]
        return {'Dice': float(each.mean()), **dict(zip(names, each.tolist(), strict=True))}


def _padded(pred: Tensor, target: Tensor) -> Tensor:
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
        groups: The split's volumes, for Dice.

    Attributes:
        scores: After a pass, subset id -> its score, for subsets that some sample has.
        outcomes: After a pass, subset id -> per-sample outcomes and their positions.
    """

    def __init__(
        self, task: Task, only: Sequence[str] | None = None, groups: np.ndarray | None = None
    ) -> None:
        masks = {subset_id(task.names, m): m for m in subset_masks(len(task.names))}
        self.masks = {s: m for s, m in masks.items() if only is None or s in only}
        self.by_subset = {subset: metric_for(task, groups) for subset in self.masks}
        super().__init__(list(self.by_subset.values()))
        self.task = task
        self.scores: dict[str, SubsetScore] = {}
        self.outcomes: dict[str, dict[str, np.ndarray]] = {}

    def process_subset(self, mask: np.ndarray, logits: Tensor, batch: Batch) -> None:
        """Hands one subset's logits to its metric, for the samples that have the subset."""
        has = (batch.available.cpu().numpy() >= mask).all(1)
        rows = np.flatnonzero(has)
        if len(rows):
            samples = _samples(self.task, logits, batch, rows)
            self.by_subset[subset_id(self.task.names, mask)].process(batch, samples)

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
    share = logits.float().softmax(1)
    score = share[:, task.live] if task.metric == 'ACER' else share.amax(1)
    columns = (ids, batch.target.tolist(), pred.tolist(), score.tolist())
    return [
        dict(zip(('id', 'target', 'pred', 'score'), (column[i] for column in columns), strict=True))
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
            self.evaluator.process_subset(mask, logits, batch)
        self.runner.call_hook(
            f'after_{stage}_iter', batch_idx=idx, data_batch=data_batch, outputs=[]
        )


class SubsetValLoop(_SubsetLoop, ValLoop):
    """mmengine's validation loop over every subset."""


class SubsetTestLoop(_SubsetLoop, TestLoop):
    """mmengine's test loop over every subset."""
