"""Losses that several methods share."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.method import IGNORE, one_hot


def total(terms: Iterable[Tensor]) -> Tensor:
    """Returns the sum of one or more tensors of one shape."""
    return functools.reduce(operator.add, terms)


def multi_scale(
    criterion: Callable[[Tensor, Tensor], Tensor], outputs: Sequence[Tensor], target: Tensor
) -> Tensor:
    """Returns the sum of a criterion over all outputs of a decoder.

    ESANet (Seichter et al., ICRA 2021) has side outputs at coarser scales and supervises all scales
    with equal weight. The label map is resized to each side output by the nearest pixel.

    Args:
        criterion: Maps (logits, target) to a scalar loss.
        outputs: The decoder's `outputs`: logits (B, K) or (B, K, H, W), then side outputs
            (B, K, H', W'), if any.
        target: (B,) or (B, H, W).

    Returns:
        A scalar.
    """
    logits, *sides = outputs
    terms = [criterion(logits, target)]
    for side in sides:
        # interpolate needs floating point; float32 holds class numbers and IGNORE exactly.
        labels = F.interpolate(target[:, None].float(), side.shape[2:])[:, 0].long()
        terms.append(criterion(side, labels))
    return total(terms)


def labels_of(target: Tensor, counted: Tensor) -> Tensor:
    """Returns the targets of some samples, with IGNORE, or NaN for values, in place of all others.

    Args:
        target: (B,) or (B, H, W), of several labels or values (B, K).
        counted: (B,) bool, the samples that keep their labels.
    """
    blank = torch.nan if target.is_floating_point() else IGNORE
    return target.where(counted.view(-1, *[1] * (target.ndim - 1)), blank)


def weighted_errors(logits: Tensor, target: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the weighted cross-entropy of each label, and the weight of the label's class.

    Args:
        logits: (B, K) or (B, K, H, W).
        target: (B,) or (B, H, W).
        class_weights: (K,).

    Returns:
        Two tensors in float32 of the target's shape; both are 0 where it is IGNORE.
    """
    errors = F.cross_entropy(
        logits.float(), target, class_weights, ignore_index=IGNORE, reduction='none'
    )
    labelled = target != IGNORE
    # IGNORE is no index of a class.
    return errors, torch.where(labelled, class_weights[target.where(labelled, 0)], 0.0)


def cross_entropy_sums(
    logits: Tensor, target: Tensor, counted: Tensor, class_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the weighted cross-entropy summed over some samples, and the sum of their weights.

    Their quotient is the task's cross-entropy of the counted samples alone. In segmentation the
    sums run over the labelled pixels of these samples.

    Args:
        logits: (B, K) or (B, K, H, W).
        target: (B,) or (B, H, W); elements labelled IGNORE are left out.
        counted: (B,) bool, the samples that count.
        class_weights: (K,).

    Returns:
        Two scalars in float32; both are 0 if nothing counts.
    """
    errors, weights = weighted_errors(logits, target, class_weights)
    there = counted.view(-1, *[1] * (target.ndim - 1))
    return torch.where(there, errors, 0.0).sum(), torch.where(there, weights, 0.0).sum()


def log_odds(probability: Tensor) -> Tensor:
    """Returns logits (B, K, H, W) whose softmax is the given probabilities of K classes.

    The smallest probability counts as 1e-7, so that its logarithm is finite.
    """
    return probability.float().clamp_min(1e-7).log()


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns RFNet's weighted cross-entropy plus Dice loss (Ding et al., ICCV 2021).

    With p the softmax of the logits, y the one-hot target and n_c the share of class c among the
    labelled pixels of a sample,

        L_CE   = - mean over pixels of sum_c (1 - n_c) y_c log max(p_c, 0.005)
        L_Dice = 1 - 1/K sum_c 2 sum p_c y_c / (sum p_c + sum y_c + 1e-7)

    where the sums of L_Dice run over all pixels of the batch. As in the released code, a class that
    no pixel has costs 1/K even if the prediction is perfect.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.

    Returns:
        A scalar in float32, which has no gradient if no pixel is labelled.
    """
    # In float32: half precision cannot hold counts and sums over all pixels.
    p = logits.float().softmax(1).flatten(2)
    known = (target != IGNORE).flatten(1).float()
    label = one_hot(target, p.shape[1]).flatten(2)
    pixels, inside = label.sum(2), (p * label).sum(2)
    weight = 1 - pixels / known.sum(1, keepdim=True).clamp(min=1)
    # The clamp bounds the cost of one pixel: a probability of 0 would cost infinitely much.
    entropy = -(weight * (p.clamp(0.005, 1).log() * label).sum(2)).sum()
    predicted = (p * known[:, None]).sum(2)
    dice = 2 * inside.sum(0) / (predicted.sum(0) + pixels.sum(0) + 1e-7)
    return entropy / known.sum().clamp(min=1) + 1 - dice.mean()


def squared_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Returns 1 - Dice with squared probabilities, averaged over classes and samples.

    This is the loss of NiftyNet, which the released code of U-HVED and U-HeMIS uses. Numerator and
    denominator are enlarged by 1e-5, so that a class that is absent and predicted absent scores 1.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.

    Returns:
        A scalar in float32.
    """
    p = logits.float().softmax(1) * (target != IGNORE)[:, None]
    label, axes = one_hot(target, p.shape[1]), [*range(2, p.ndim)]
    both, sizes = 2 * (p * label).sum(axes), (p.square() + label).sum(axes)
    return 1 - ((both + 1e-5) / (sizes + 1e-5)).mean()


def sigmoid_dice(logits: Tensor, target: Tensor, power: int = 1) -> Tensor:
    """Returns one minus the Dice of the sigmoid of each logit, averaged over classes.

    With p the sigmoid of the logits, y the one-hot target and sums over all pixels of the batch,

        L = 1 - mean_k (2 sum p_k y_k + 1) / (sum p_k^power + sum y_k + 1)

    With power 1 it is the loss of GMD's released code (Wang et al., AAAI 2024), which has three
    overlapping regions instead of classes. Background counts as a class here, because the
    prediction is the class of the largest logit.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.
        power: Exponent of p in the denominator.

    Returns:
        A scalar in float32.
    """
    label = one_hot(target, logits.shape[1])
    p = logits.float().sigmoid() * (target != IGNORE)[:, None]
    axes = [0, *range(2, p.ndim)]
    both, sizes = (p * label).sum(axes), (p**power + label).sum(axes)
    return 1 - ((2 * both + 1) / (sizes + 1)).mean()


def sigmoid_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the loss of M3AE: 0.7 `sigmoid_dice` with power 2 and 0.3 binary cross-entropy.

    Both are means over classes, as in the released code of Liu et al. (AAAI 2023), which has three
    overlapping regions instead of classes. Background counts as a class here, because the
    prediction is the class of the largest logit.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.

    Returns:
        A scalar in float32.
    """
    known = (target != IGNORE)[:, None].float()
    label = one_hot(target, logits.shape[1])
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label, known, reduction='none')
    mean = entropy.mean(1).sum() / known.sum().clamp(min=1)
    return 0.7 * sigmoid_dice(logits, target, 2) + 0.3 * mean
