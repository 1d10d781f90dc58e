"""What is read from logits on their device: decisions, counts of pixels, and what records keep."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.method import IGNORE, Task

MATRIX = 255
"""Most classes of which confusion matrices are counted."""

LARGEST = float(np.finfo(np.float32).max)
"""Largest number in float32."""

LARGEST_HALF = 65504.0
"""Largest number in float16."""


def kept_logits(task: Task, logits: Tensor) -> Tensor:
    """Returns what outcomes keep of logits (B, K), in the layout of `records.schema.Outcomes`.

    Two classes are told by (B,) log-odds. Of more classes all logits are kept; float16 is enough
    for calibration, but attack detection ranks samples by them and needs float32.
    """
    logits = logits.detach().float()
    if len(task.classes) == 2:
        positive = task.live if task.metric == 'ACER' else 1
        # Two finite logits may be so far apart that float32 cannot hold the difference.
        odds = logits[:, positive].double() - logits[:, 1 - positive].double()
        return odds.clamp(-LARGEST, LARGEST).float()
    if task.metric == 'ACER':
        return logits
    return logits.clamp(-LARGEST_HALF, LARGEST_HALF).half()


def predicted_values(task: Task, outputs: Tensor) -> Tensor:
    """Returns the outputs (B, K) of a regression in the units of the targets, float32."""
    found = outputs.detach().float()
    if not task.scale:
        return found
    mean, std = torch.tensor(task.scale).to(found.device, non_blocking=True).T
    return found * std + mean


def answers(task: Task, outputs: Tensor) -> Tensor:
    """Returns what a network answers: probabilities, or values of a regression in their units.

    Args:
        task: Gives the kind; probabilities of several labels are each by itself.
        outputs: (B, K, ...).
    """
    if task.kind == 'regression':
        return predicted_values(task, outputs)
    return outputs.sigmoid() if task.kind == 'multilabel' else outputs.softmax(1)


def decisions(logits: Tensor) -> Tensor:
    """Returns the class with the largest logit, the first of several; (B, ...) of (B, K, ...).

    `argmax` gives the same and takes about ten times as long over label maps on a CPU.
    """
    return logits.max(1).indices


def finite(logits: Tensor) -> Tensor:
    """Returns whether all logits (B, ...) of each sample are finite, (B,) bool."""
    # All axes at once: to flatten maps that are channels_last would copy them.
    axes = tuple(range(1, logits.ndim))
    return logits.amax(axes).isfinite() & logits.amin(axes).isfinite()


def counted(places: Tensor, count: int) -> Tensor:
    """Returns how often each of 0 to count - 1 occurs among places (N,), int64.

    `bincount` gives the same, and waits for a GPU to tell it the largest place.
    """
    ones = places.new_ones(1).expand_as(places)
    return places.new_zeros(count).scatter_add_(0, places, ones)


def confusion(pred: Tensor, target: Tensor, classes: int) -> Tensor:
    """Returns how many labelled pixels of each image have which label and prediction.

    Args:
        pred: (B, H, W), or (B, D, H, W) of volumes, predicted classes.
        target: Labels, likewise; pixels labelled IGNORE do not count.
        classes: Number of classes K.

    Returns:
        (B, K, K) int64; rows are labels, columns predictions.
    """
    count, rows = len(target), classes + 1
    # The first row of each image takes the pixels labelled IGNORE, which is -1.
    first = (torch.arange(count, device=target.device) * rows - IGNORE) * classes
    # Labels of 8 bits would overflow; a map of labels, taken as a prediction, has IGNORE as well.
    place = torch.add(pred.clamp_min(0), target.long(), alpha=classes)
    place += first.view(-1, *[1] * (target.ndim - 1))
    counts = counted(place.flatten(), count * rows * classes)
    return counts.unflatten(0, (count, rows, classes))[:, 1:]


def areas(pred: Tensor, target: Tensor, classes: int) -> Tensor:
    """Returns right, predicted and labelled pixels of each class, (B, 3, K) int64.

    Args:
        pred: As in `confusion`.
        target: As in `confusion`.
        classes: Number of classes K.
    """
    if classes <= MATRIX:
        table = confusion(pred, target, classes)
        return torch.stack([table.diagonal(dim1=1, dim2=2), table.sum(1), table.sum(2)], 1)
    # The matrices of many classes would take K times as much memory as these rows.
    count, known = len(target), target != IGNORE
    first = torch.arange(count, device=target.device)[:, None, None] * classes
    rows = []
    for where, values in ((known & (pred == target), target), (known, pred), (known, target)):
        place = torch.where(where, first + values, count * classes).flatten()
        rows.append(counted(place, count * classes + 1)[:-1].unflatten(0, (count, -1)))
    return torch.stack(rows, 1)


def padded(pred: Tensor, target: Tensor) -> Tensor:
    """Returns predictions (..., h, w) padded with 0 about their centre to the size of targets."""
    high, wide = (t - p for t, p in zip(target.shape[-2:], pred.shape[-2:], strict=True))
    return F.pad(pred, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
