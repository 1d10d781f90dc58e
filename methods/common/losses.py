"""Losses that several methods share."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.method import IGNORE


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
    errors = F.cross_entropy(
        logits.float(), target, class_weights, ignore_index=IGNORE, reduction='none'
    )
    there = counted.view(-1, *[1] * (target.ndim - 1)) & (target != IGNORE)
    # IGNORE is no index of a class.
    weights = class_weights[target.where(there, 0)]
    return torch.where(there, errors, 0.0).sum(), torch.where(there, weights, 0.0).sum()


def segmentation_loss(probability: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Returns RFNet's weighted cross-entropy plus Dice loss (Ding et al., ICCV 2021).

    With p the probabilities, y the one-hot target and n_c the share of class c among the pixels of
    a sample,

        L_CE   = - mean over pixels of sum_c (1 - n_c) y_c log max(p_c, 0.005)
        L_Dice = 1 - 1/K sum_c 2 sum p_c y_c / (sum p_c + sum y_c + 1e-7)

    where the sums of L_Dice run over all pixels of the batch. As in the released code, a class that
    no pixel has costs 1/K even if the prediction is perfect.

    Args:
        probability: p of T predictions of the same target, (T, B, K, H, W), float32.
        target: (B, H, W); pixels labelled IGNORE are left out.
        counted: (T, B) bool, the samples that each prediction's loss covers.

    Returns:
        (T,), the loss of each prediction, in float32; a prediction without samples has no gradient.
    """
    # float32, even inside autocast: half precision cannot hold counts and sums over all pixels.
    with torch.autocast(target.device.type, enabled=False):
        known, p = (target != IGNORE).flatten(1), probability.flatten(3)
        # IGNORE is no index of a class: gather needs a valid one, and `valid` removes the pixel.
        label = target.flatten(1).where(known, 0)
        classes = torch.arange(p.shape[2], device=target.device)
        onehot = (label[:, None] == classes[:, None]).float()

        def by_class(x: Tensor) -> Tensor:
            # A matrix product instead of a one-hot tensor per prediction: (T, B, N) -> (T, B, K).
            return torch.bmm(onehot, x.permute(1, 2, 0)).permute(2, 0, 1)

        valid = (known & counted[:, :, None]).float()
        label = label.expand(*valid.shape)
        own = p.gather(2, label[:, :, None])[:, :, 0] * valid
        pixels, inside, predicted = by_class(valid), by_class(own), (p * valid[:, :, None]).sum(3)
        weight = 1 - pixels / pixels.sum(2, keepdim=True).clamp(min=1)
        # The clamp bounds the cost of one pixel: a probability of 0 would cost infinitely much.
        entropy = -(weight.gather(2, label) * own.clamp(0.005, 1).log() * valid).sum((1, 2))
        dice = 2 * inside.sum(1) / (predicted.sum(1) + pixels.sum(1) + 1e-7)
        return entropy / valid.sum((1, 2)).clamp(min=1) + 1 - dice.mean(1)
