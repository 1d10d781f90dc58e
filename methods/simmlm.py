"""SimMLM: an expert for each modality, a gate over what is there, and a ranking of subsets."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmark.method import IGNORE, KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.encoders import fused_channels
from methods.common.losses import weighted_errors
from methods.common.networks import Encoders, decoder


class Expert(NamedTuple):
    """What one modality's expert says.

    Attributes:
        logits: (B, K) or (B, K, H, W).
        pooled: (B, C), its deepest map averaged over positions, which the gate reads.
    """

    logits: Tensor
    pooled: Tensor


def fewer(mask: Tensor) -> Tensor:
    """Draws for each sample a proper subset of its mask, of a size that is equally likely.

    Args:
        mask: (B, M) bool.

    Returns:
        (B, M) bool; not empty. A mask of one modality has no such subset and is returned as it is.
    """
    count = mask.sum(1, keepdim=True)
    size = 1 + (torch.rand(len(mask), 1, device=mask.device) * (count - 1)).long()
    # Ranks of random numbers among the present modalities; absent ones come last.
    noise = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, 2.0)
    return torch.where(count > 1, mask & (noise.argsort(1).argsort(1) < size), mask)


def errors(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    """Returns the cross-entropy of each sample, (B,), averaged by class weight.

    In segmentation the average is over a sample's labelled pixels. In classification, where a
    sample has one label, weights are divided by their mean over the labelled samples, so that the
    mean over samples is the weighted one.

    Args:
        logits: (B, K) or (B, K, H, W).
        target: (B,) or (B, H, W); a sample without labels has 0.
        class_weights: (K,).
    """
    each, weights = weighted_errors(logits, target, class_weights)
    if target.ndim == 1:
        labelled = (target != IGNORE).sum().clamp(min=1)
        return each / (weights.sum() / labelled).clamp_min(1e-6)
    each, weights = each.flatten(1), weights.flatten(1)
    return each.sum(1) / weights.sum(1).clamp_min(1e-6)


@METHODS.register_module('simmlm')
class SimMLM(Method):
    """Mixture of modality experts with a loss that ranks more modalities before fewer.

    Li, Chen & Han, SimMLM: A Simple Framework for Multi-modal Learning with Missing Modality, ICCV
    2025. Each modality m has a complete network, its expert, with logits z_m. A gate weighs the
    experts for each class; its softmax runs over the present modalities alone:

        z = sum_{m in K} w_m o z_m,  w = softmax_{m in K}(gate)

    In training each sample is seen under its mask K and under a proper subset K' of it (`fewer`).
    With l the cross-entropy of a sample,

        L = (L_task(K) + L_task(K')) / 2 + ranking mean(max(0, l(K) - l(K')))

    The last term asks that more modalities are not worse than fewer (MoFe).

    Adaptations of this project. The released gate reads all raw inputs, stacked, with zeros where
    one is missing; here it reads the pooled maps of the experts' encoders, zero where missing, so
    that inputs of different kinds can be compared. The released code draws pairs of subsets of all
    modalities; here K is the protocol's mask, and a mask of one modality, which has no proper
    subset, is its own K' and is not ranked. It ranks binary cross-entropy and Dice of each region,
    here the cross-entropy of a sample is ranked. Experts are not trained alone first; the released
    code offers both. Norms of the experts see the inputs that masks hide, as in all methods here
    whose encoders train on whole batches.

    What could not be verified: the paper's text; the formulas are those of the released code, of
    which a public copy was read. From given logits of experts and gate on, the fusion equals that
    code's, and without Dice and with one region all losses and gradients do, too
    (tests/methods/test_released_balance.py). A whole step cannot be compared, since its experts are
    U-Nets for volumes, which the copy lacks, and its gate reads the inputs.

    Args:
        task: What the data set requires.
        ranking: Weight of the ranking; 0.1 in the released code.
    """

    task_kinds = KINDS
    search = {'ranking': LogUniform(0.01, 1)}

    def __init__(self, task: Task, *, ranking: float = 0.1) -> None:
        super().__init__(task)
        self.ranking = ranking
        self.encoders = Encoders(task)
        channels = fused_channels(task)
        self.decoders = nn.ModuleDict({name: decoder(task, channels[0]) for name in task.names})
        count, self.classes = len(task.names), len(task.classes)
        self.gate = nn.Sequential(
            nn.Linear(count * channels[-1], channels[-1]),
            nn.ReLU(),
            nn.Linear(channels[-1], count * self.classes),
        )

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Expert]:
        """Returns what each modality's expert says."""
        maps = self.encoders(inputs)
        return {
            name: Expert(self.decoders[name](x), x[-1].mean((2, 3))) for name, x in maps.items()
        }

    def weights(self, features: dict[str, Expert], mask: Tensor) -> Tensor:
        """Returns w, (B, M, K): 0 where a modality is missing; the sum over M is one."""
        some = next(iter(features.values())).pooled
        parts = []
        for name, there in zip(self.task.names, mask.T, strict=True):
            x = features[name].pooled if name in features else torch.zeros_like(some)
            # A selection, not a product: missing modalities may hold NaN, and 0 times NaN is NaN.
            parts.append(torch.where(there[:, None], x, 0.0))
        logits = self.gate(torch.cat(parts, 1)).float().unflatten(1, (-1, self.classes))
        return logits.masked_fill(~mask[:, :, None], -math.inf).softmax(1)

    def decode(self, features: dict[str, Expert], mask: Tensor) -> Tensor:
        """Returns the weighted sum of the experts' logits; mask (B, M) bool."""
        some = next(iter(features.values())).logits
        nothing = torch.zeros_like(some)
        logits = torch.stack(
            [features[name].logits if name in features else nothing for name in self.task.names], 1
        ).float()
        spread = [1] * (logits.ndim - 3)
        there = mask.view(*mask.shape, 1, *spread)
        w = self.weights(features, mask)
        return (w.view(*w.shape, *spread) * logits.where(there, 0.0)).sum(1)

    def errors(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the error of each sample, (B,): of several labels or values their mean."""
        if self.task.kind in ('classification', 'segmentation'):
            return errors(logits, target, self.class_weights)
        each, there = self.column_errors(logits, target)
        return each.sum(1) / there.sum(1).clamp(min=1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_more, loss_fewer and loss_ranking."""
        features = self.encode(batch.inputs)
        more, less = (self.decode(features, m) for m in (batch.mask, fewer(batch.mask)))
        worse = (self.errors(more, batch.target) - self.errors(less, batch.target)).clamp(min=0)
        return {
            'loss_more': self.task_loss(more, batch.target) / 2,
            'loss_fewer': self.task_loss(less, batch.target) / 2,
            'loss_ranking': self.ranking * worse.mean(),
        }
