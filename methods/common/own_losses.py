"""Losses in segmentation of the released code of RobustSeg and of ShaSpec."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.method import IGNORE, one_hot


def squared_segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns RobustSeg's weighted cross-entropy plus Dice loss (Chen et al., MICCAI 2019).

    With p the softmax of the logits, y the one-hot target and n_c the share of class c among the
    labelled pixels of the batch,

        L_CE   = - mean over pixels of sum_c (1 - n_c) y_c log max(p_c, 0.005)
        L_Dice = 1 - 1/K sum_c 2 sum p_c y_c / (sum p_c^2 + sum y_c + 1e-7)

    where all sums run over the batch, as in the released code, whose batches have one sample.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.

    Returns:
        A scalar in float32.
    """
    known = (target != IGNORE)[:, None]
    label, axes = one_hot(target, logits.shape[1]), [0, *range(2, logits.ndim)]
    p, pixels, count = logits.float().softmax(1), label.sum(axes), known.sum().clamp(min=1)
    each = (p.clamp(0.005, 1).log() * label).sum(axes)
    sizes = (p.square() * known).sum(axes) + pixels
    dice = 2 * (p * label).sum(axes) / (sizes + 1e-7)
    return 1 - dice.mean() - ((1 - pixels / count) * each).sum() / count


def sample_sigmoid_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns ShaSpec's Dice loss and binary cross-entropy of the sigmoid of each logit.

    With q the sigmoid of the logits, y the one-hot target, and sums over the pixels of a sample b,

        L = 1 - mean_{b,k} 2 sum q_k y_k / (sum q_k + sum y_k + 1) + sum_k mean BCE(q_k, y_k)

    Cross-entropy is summed over classes, as in the released code (Wang et al., CVPR 2023), which
    has three overlapping regions instead of classes. Background counts as a class here, because
    the prediction is the class of the largest logit.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE are left out.

    Returns:
        A scalar in float32.
    """
    known = (target != IGNORE)[:, None].float()
    label, axes = one_hot(target, logits.shape[1]), [*range(2, logits.ndim)]
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label, known, reduction='sum')
    q = logits.float().sigmoid() * known
    dice = 2 * (q * label).sum(axes) / ((q + label).sum(axes) + 1)
    return 1 - dice.mean() + entropy / known.sum().clamp(min=1)
