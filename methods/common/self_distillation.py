"""A network that teaches itself: distillation of its prediction and of its class prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

LEAST = 0.005
"""Smallest probability in the divergence of the released code."""

LOWEST, HIGHEST = 0.1, 4.0
"""Bounds of the weights of modalities, before they are normalised."""


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns T^2 KL(softmax(teacher / T) || softmax(student / T)) of each sample.

    Args:
        student: Logits (B, K) or (B, K, H, W).
        teacher: Logits of the same shape, without a gradient.
        temperature: T.

    Returns:
        (B,), summed over classes and averaged over pixels.
    """
    q, p = ((z.float() / temperature).log_softmax(1) for z in (student, teacher))
    each = F.kl_div(q, p, reduction='none', log_target=True).sum(1)
    return temperature**2 * each.view(len(each), -1).mean(1)


def clamped_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns the divergence of the released code, (B,), from probabilities (B, K) or (B, K, H, W).

    It is averaged over classes, too, and no probability is below 0.005.
    """
    q, p = (x.float().clamp(LEAST, 1) for x in (student, teacher))
    return temperature**2 * (p * (p.log() - q.log())).flatten(1).mean(1)


def pairs(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the rows of `count` students, and for each the teacher's row, without a gradient.

    Args:
        x: ((count + 1) B, ..), the B rows of the teacher first.
        count: Number of students.
    """
    teacher = x[: len(x) // (count + 1)].detach()
    return x[len(teacher) :], teacher.repeat(count, *[1] * (x.ndim - 1))


def similarities(features: Tensor, members: Tensor) -> Tensor:
    """Returns the cosine of each feature with the prototype of each class.

    A class's prototype is the mean of the features of its members.

    Args:
        features: (G, C, P): G groups of P features.
        members: (G, K, P), how much of a feature belongs to each of the K classes.

    Returns:
        (G, K, P); 0 for a class without members.
    """
    features = features.float()
    sizes = members.sum(2, keepdim=True)
    prototypes = members @ features.transpose(1, 2) / (sizes + 1e-5)
    return F.normalize(prototypes, dim=2, eps=1e-5) @ F.normalize(features, dim=1, eps=1e-5)


def prototype_gaps(student: Tensor, teacher: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how far the similarities to prototypes of a student are from those of a teacher.

    Args:
        student: Features (G, C, P).
        teacher: Features (G, C, P), without a gradient.
        members: (G, K, P); each of the two has prototypes of its own over these members.

    Returns:
        The squared and the absolute differences, (G, P), averaged over the classes with members; 0
        where there is none.
    """
    gap = similarities(student, members) - similarities(teacher, members)
    count = (members.sum(2) > 0).sum(1, keepdim=True).clamp_min(1)
    return gap.square().sum(1) / count, gap.abs().sum(1) / count


def weak(distances: Tensor, present: Tensor) -> Tensor:
    """Returns which modalities are weak in a batch, (M,) bool.

    The relative preference of a sample for a modality is 1 - D_m / mean D, over the modalities that
    it has. Its sum over the samples is negative for a weak modality, which is far from the teacher.

    Args:
        distances: D, (M, B), 0 where missing.
        present: (M, B) bool.
    """
    mean = distances.sum(0) / present.sum(0).clamp_min(1)
    # A sample with one modality is its own teacher: all its distances are 0.
    ratio = torch.where(mean > 0, distances / mean.clamp_min(1e-30), 1.0)
    return torch.where(present, ratio - 1, 0.0).sum(1) > 0


def rebalanced(weights: Tensor, distances: Tensor, rate: float) -> Tensor:
    """Returns the weights of the modalities after an epoch.

        RP_m = 1 - D_m / mean D,  b_m <- clamp(b_m - rate RP_m, 0.1, 4),  b <- sqrt(M) b / ||b||

    Args:
        weights: b, (M,).
        distances: D, (M,), averages of the epoch.
        rate: Step size.
    """
    mean = distances.mean()
    preference = torch.where(mean > 0, 1 - distances / mean.clamp_min(1e-30), 0.0)
    moved = (weights - rate * preference).clamp(LOWEST, HIGHEST)
    return len(weights) ** 0.5 * F.normalize(moved, dim=0)
