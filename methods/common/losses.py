"""Losses that several methods share."""

import torch
import torch.nn.functional as F  # noqa: N812

from benchmark.method import IGNORE


def multi_scale(criterion, outputs, target):
    """Returns the criterion of a decoder's outputs against one target, summed.

    Label maps shrink to the size of a side output by the nearest pixel. ESANet (Seichter et al.,
    ICRA 2021) has these, and supervises all scales with equal weight.

    Args:
        criterion: (output, target) -> scalar.
        outputs: The decoder's `outputs`: logits (B, K) or (B, K, H, W), then side outputs
            (B, K, H', W'), if any.
        target: (B,) or (B, H, W).
    """
    logits, *sides = outputs
    total = criterion(logits, target)
    for side in sides:
        # Class numbers and IGNORE are exact in float32, which interpolation needs.
        labels = F.interpolate(target[:, None].float(), side.shape[2:])[:, 0].long()
        total = total + criterion(side, labels)
    return total


def segmentation_loss(probability, target, counted):
    """Returns weighted cross-entropy plus Dice loss of T predictions of one target, (T,).

    Cross-entropy weighs class c of a sample by 1 minus its share of the sample's pixels and clamps
    probabilities at 0.005. Dice pools the whole batch and averages all classes, so that a class
    that is absent costs 1/K even where the prediction is perfect.

    Args:
        probability: p (T, B, K, H, W), float32.
        target: (B, H, W); pixels labelled IGNORE do not count.
        counted: (T, B) bool, which samples count in which term.
    """
    # Counts and sums over all pixels do not fit half precision.
    with torch.autocast(target.device.type, enabled=False):
        known, p = (target != IGNORE).flatten(1), probability.flatten(3)
        label = target.flatten(1).where(known, 0)
        classes = torch.arange(p.shape[2], device=target.device)
        onehot = (label[:, None] == classes[:, None]).float()

        def by_class(x):
            return torch.bmm(onehot, x.permute(1, 2, 0)).permute(2, 0, 1)

        valid = (known & counted[:, :, None]).float()
        label = label.expand(*valid.shape)
        own = p.gather(2, label[:, :, None])[:, :, 0] * valid
        pixels, inside, predicted = by_class(valid), by_class(own), (p * valid[:, :, None]).sum(3)
        weight = 1 - pixels / pixels.sum(2, keepdim=True).clamp(min=1)
        entropy = -(weight.gather(2, label) * own.clamp(0.005, 1).log() * valid).sum((1, 2))
        dice = 2 * inside.sum(1) / (predicted.sum(1) + pixels.sum(1) + 1e-7)
        return entropy / valid.sum((1, 2)).clamp(min=1) + 1 - dice.mean(1)
