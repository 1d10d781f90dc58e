"""Kinds of task, and the losses by which all methods train on the targets of each."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

KINDS = ('classification', 'segmentation', 'multilabel', 'regression')
"""Kinds of task."""
LOSSES = {
    'classification': ('ce',),
    'segmentation': ('ce_dice', 'ce', 'own'),
    'multilabel': ('bce',),
    'regression': ('mse', 'l1'),
}
"""Kind of task -> the task losses that a protocol may choose (`Method.task_loss`), the default
first.

The default of segmentation has a Dice term on all data sets: mIoU and Dice both measure overlap,
with equal weight for every class, whereas cross-entropy counts pixels and favours large classes.
"""
IGNORE = -1
"""Label, in a batch, of samples and pixels that are left out of losses and metrics."""


def one_hot(target: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns for each class whether it is that of a pixel, (B, count - first, H, W) float32.

    Args:
        target: (B, H, W); a pixel labelled IGNORE is of no class.
        count: Number of classes.
        first: The first class to return.
    """
    classes = torch.arange(first, count, device=target.device)
    return (target[:, None] == classes.view(-1, *[1] * (target.ndim - 1))).float()


def dice_loss(logits: Tensor, target: Tensor, first: int = 0) -> Tensor:
    """Returns one minus the soft Dice of the classes, averaged over classes.

    With p the softmax of the logits and y the one-hot target, summed over all pixels of the batch,

        L = 1 - 1 / (K - first) sum_{k >= first} (2 sum p_k y_k + 1) / (sum p_k + sum y_k + 1)

    Adding 1 to numerator and denominator makes the term of an absent class nearly 0 unless the
    class is predicted.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.
        first: The first class that has a term: 1 where class 0 is background.

    Returns:
        A scalar in float32.
    """
    # In float32: half precision cannot hold sums over all pixels of a batch.
    p = logits.float().softmax(1)[:, first:] * (target != IGNORE)[:, None]
    label, axes = one_hot(target, logits.shape[1], first), [0, *range(2, logits.ndim)]
    both, sizes = (p * label).sum(axes), (p + label).sum(axes)
    return 1 - ((2 * both + 1) / (sizes + 1)).mean()


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor, weighted: bool) -> Tensor:
    """Returns the cross-entropy, averaged over samples or labelled pixels; 0 if none is labelled.

    Args:
        logits: (B, K) or (B, K, H, W).
        target: (B,) or (B, H, W); elements labelled IGNORE are left out.
        weights: (K,) weights of the classes.
        weighted: Whether the weights apply.

    Returns:
        A scalar in float32.
    """
    # The mean over no pixel is NaN, and so is its gradient, whatever it is multiplied by. A
    # class with a weight stands in, and the factor 0 takes its loss away again.
    labelled = (target != IGNORE).any()
    counted = torch.where(labelled, target, weights.argmax())
    used = weights if weighted else None
    return F.cross_entropy(logits.float(), counted, used, ignore_index=IGNORE) * labelled


def column_errors(
    name: str, outputs: Tensor, target: Tensor, weights: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the error of each label or value (B, K), 0 where left out, and what is not left out.

    'bce' is the binary cross-entropy of a label; 'mse' and 'l1' are the squared and the absolute
    difference from (y - mean) / std.

    Args:
        name: The loss.
        outputs: (B, K) logits, or standardised values.
        target: (B, K); what is IGNORE, or in a regression NaN, is left out.
        weights: (K,) weights of the positive samples of each label.
        scale: (K, 2) mean and standard deviation of each value (`Task.scale`).
    """
    outputs = outputs.float()
    if name == 'bce':
        there = target != IGNORE
        known = target.where(there, 0).float()
        each = F.binary_cross_entropy_with_logits(
            outputs, known, reduction='none', pos_weight=weights
        )
    else:
        there = ~target.isnan()
        known = standardised(target.where(there, 0.0), scale)
        each = (outputs - known).square() if name == 'mse' else (outputs - known).abs()
    return torch.where(there, each, 0.0), there


def standardised(values: Tensor, scale: Tensor | None) -> Tensor:
    """Returns (y - mean) / std of values (B, K) by a scale (K, 2); y without one."""
    return values if scale is None else (values - scale[:, 0]) / scale[:, 1]
