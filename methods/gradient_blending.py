"""Gradient blending: weighs the losses of modalities by how they overfit and generalise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Task
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.losses import labels_of
from methods.common.unimodal import UnimodalHeads

FLOOR = 1e-3
"""Smallest growth of overfitting that divides; that of a loss which hardly moves is noise."""
MIX = 0x45D9F3B
"""Factor of the hash that draws samples: neighbours are drawn independently of each other."""


def blend(before: Tensor, after: Tensor, fallback: Tensor) -> Tensor:
    """Returns the weights of H losses, (H,), which sum to one.

        w_h ~ G_h / dO_h^2,  G = L* before - L* after,  O = L* - L,  dO = O after - O before

    L is a head's loss on the samples that it learns from, L* on those that were held out. G is how
    much it generalises better, dO how much more it overfits. A head that has not become better has
    weight 0.

    Args:
        before: L in the first row and L* in the second, (2, H), at the start of a period.
        after: The same at its end.
        fallback: (H,) weights for the case that no head has become better.
    """
    gain = (before[1] - after[1]).clamp(min=0)
    overfit = ((after[1] - after[0]) - (before[1] - before[0])).abs().clamp(min=FLOOR)
    weights = gain / overfit.square()
    # NaN: a head without a single sample, in one of the rows.
    weights = weights.nan_to_num(0.0, 0.0)
    return torch.where(weights.sum() > 0, weights / weights.sum(), fallback)


@METHODS.register_module('gradient_blending')
class GradientBlending(UnimodalHeads):
    """Gradient blending: L = w_0 L_task + sum_u w_u L_u with weights that are estimated.

    Wang, Tran & Feiszli, What Makes Training Multi-modal Classification Networks Hard?, CVPR 2020
    (arXiv 1905.12681). Each modality has a decoder of its own beside the joint one. Modalities
    overfit and generalise at different rates; `blend` weighs the losses so that the ratio of
    overfitting to generalisation is least. The weights start equal and are estimated again at the
    end of every period (the paper's online form).

    The estimate needs samples that are not learned from: a share of the training split, chosen by
    the samples' positions, whose labels enter no loss. Only the counts of class_weights=balanced
    and the statistics of normalisation are those of the whole training split. The validation and
    test splits play no part in it. Losses of both kinds of samples are those of the training passes
    of an epoch.

    Departures. The paper trains every head by itself for a period from the same weights, so as to
    measure it; here all heads train together under their present weights, as in later
    reimplementations, which costs no further training. A head with weight 0 would not learn and
    could not be measured again; the weights are therefore the mean of the former ones and of those
    that were estimated. The paper's offline form, which estimates once, is left out. Masks of the
    protocol's sampler apply: L_u covers the samples whose mask holds modality u. Losses of batches
    are averaged by their numbers of samples, which is exact for the unweighted cross-entropy of
    classification and close to it for other losses.

    What could not be verified: the paper's text beyond excerpts. The authors' code
    (facebookresearch/VMZ) takes the weights as given; none of the estimate is known.
    The bound `FLOOR` and the treatment of heads that become worse are this project's.

    Args:
        task: What the data set requires.
        period: Share of the epochs between two estimates, at least one epoch.
        held_out: Share of the training samples that are held out.

    Raises:
        UserError: `held_out` is not between 0 and 1.
    """

    search = {'period': Uniform(0.05, 0.5)}
    shares_convolution = True
    before: Tensor
    running: Tensor
    weights: Tensor

    def __init__(self, task: Task, *, period: float = 0.1, held_out: float = 0.1) -> None:
        super().__init__(task)
        if not 0 < held_out < 1:
            raise UserError(
                f'held_out of gradient_blending: expected a share between 0 and 1, found {held_out}'
            )
        if not 0 < period <= 1:
            raise UserError(
                f'period of gradient_blending: expected a share above 0, up to 1, found {period}'
            )
        self.period, self.held_out = period, held_out
        heads = 1 + len(task.names)
        # Sums of losses and numbers of samples, (2, 2, H): of what is learned from and of what is
        # held out. Means would be NaN for a head without samples, and a state holds no NaN.
        for name in ('before', 'running'):
            self.register_buffer(name, torch.zeros(2, 2, heads))
        self.register_buffer('weights', torch.full((heads,), 1 / heads))
        self._opened = -1  # the epoch whose sums are being taken, in this process

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Returns a sentence where no estimate changes the training."""
        if 2 * cls.epochs_of(options['period'], epochs) <= epochs and epochs > 2:
            return []
        return [
            f'the weights of the losses stay equal for more than half of the training: {epochs} '
            'epochs do not hold two periods'
        ]

    @staticmethod
    def epochs_of(period: float, epochs: int) -> int:
        """Returns the length of a period in epochs."""
        return max(1, round(period * epochs))

    def held(self, ids: Tensor) -> Tensor:
        """Returns which samples are held out, (B,) bool, by their positions in the split."""
        x = ids + 1
        for _ in range(2):
            x = ((x ^ (x >> 16)) * MIX) % 2**32
        return (x ^ (x >> 16)) < self.held_out * 2**32

    def open_epoch(self) -> None:
        """Estimates the weights where a period has ended, and starts the sums of an epoch."""
        ended = self.epoch > 1 and self.epoch % self.epochs_of(self.period, self.epochs) == 0
        if ended:
            before, after = (sums / counts for sums, counts in (self.before, self.running))
            self.weights.copy_((self.weights + blend(before, after, self.weights)) / 2)
        if ended or self.epoch == 1:
            self.before.copy_(self.running)
        self.running.zero_()
        self._opened = self.epoch

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the weighted loss of each head; the weights are logged, the joint head's first.

        Weights are named by number: a term whose name holds 'loss', as a modality's may, would be
        minimised.
        """
        if self._opened != self.epoch:
            self.open_epoch()
        held = self.held(batch.ids)
        features = self.encode(batch.inputs)
        joint = self.decoder(self.fusion(features, batch.mask))
        heads = [('loss_task', joint, batch.mask.any(1))]
        for name, there in zip(self.task.names, batch.mask.T, strict=True):
            heads.append((f'loss of {name}', self.heads[name](features[name]), there))
        losses = {}
        for h, (name, logits, there) in enumerate(heads):
            learned = self._measured(0, h, logits, labels_of(batch.target, there & ~held))
            self._measured(1, h, logits.detach(), labels_of(batch.target, there & held))
            losses[name] = self.weights[h] * learned
            losses[f'weight {h}'] = self.weights[h].clone()
        return losses

    def _measured(self, row: int, head: int, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the task loss, after its value and number of samples were added to the sums."""
        value = self.task_loss(logits, target)
        count = (target != IGNORE).view(len(target), -1).any(1).sum()
        self.running[0, row, head] += value.detach() * count
        self.running[1, row, head] += count
        return value
