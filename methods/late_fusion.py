"""Late fusion: one network per modality, whose decisions are combined."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from methods.common.encoders import fused_channels
from methods.common.losses import labels_of
from methods.common.networks import Encoders, decoder


@METHODS.register_module('late_fusion')
class LateFusion(Method):
    """Decision-level fusion: each modality has a network of its own down to the probabilities p_i.

    'mean' averages the probabilities of what is present (the sum rule), 'product' multiplies them
    (the product rule) and takes the root of their number, 'learned' weighs their logarithms:

        mean      p = 1/|K| sum_{i in K} p_i
        product   log p = 1/|K| sum_{i in K} log p_i + const
        learned   log p = sum_{i in K} w_i log p_i + const,  w = softmax_{i in K}(v)

    Both rules are those of Kittler et al. (On Combining Classifiers, TPAMI 1998). An absent
    modality is left out of sum, root and softmax; a single present one decides alone. No parameter
    is shared between modalities, except v. The loss is the sum of the modalities' own task losses,
    each over the samples whose mask holds the modality; 'learned' adds the task loss of p, through
    which v alone learns, so that the networks are those of the other two rules.

    Of several labels each is a decision of its own between yes and no, to which the rules apply
    with p_i = sigmoid(z_i) and 1 - p_i; what is returned are the log-odds log p - log (1 - p). In a
    regression 'mean' averages the values y_i that the networks predict, and 'learned' weighs them,
    sum_{i in K} w_i y_i; there is no product, since values are no probabilities.

    What could not be verified: the survey of Liang, Zadeh & Morency (2022, arXiv 2209.03430) names
    late fusion without prescribing a rule or a loss. The root in the product rule makes subsets of
    different sizes equally confident; it changes no decision. Norms of a modality's network see the
    inputs that masks hide, as in `modality_dropout`.

    Args:
        task: What the data set requires.
        combine: 'mean', 'product' or 'learned'; in a regression no 'product'.

    Raises:
        UserError: `combine` is unknown, or 'product' in a regression.
    """

    task_kinds = KINDS

    def __init__(
        self, task: Task, *, combine: Literal['mean', 'product', 'learned'] = 'mean'
    ) -> None:
        super().__init__(task)
        if combine not in ('mean', 'product', 'learned'):
            raise unknown('combine of late_fusion', combine, ('mean', 'product', 'learned'))
        if combine == 'product' and task.kind == 'regression':
            raise UserError(
                f'combine of late_fusion on {task.dataset}: expected mean or learned in a '
                'regression, found product, which multiplies probabilities'
            )
        self.combine = combine
        self.encoders = Encoders(task)
        channels = fused_channels(task)[0]
        self.decoders = nn.ModuleDict({name: decoder(task, channels) for name in task.names})
        if combine == 'learned':
            self.weights = nn.Parameter(torch.zeros(len(task.names)))

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the logits of each modality, (B, K) or (B, K, H, W)."""
        return {name: self.decoders[name](x) for name, x in self.encoders(inputs).items()}

    def decode(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the logarithms of the combined probabilities; mask (B, M) bool.

        Of several labels it returns the log-odds (B, K), in a regression the values (B, K).
        """
        some = next(iter(features.values()))
        each = [features.get(name, torch.zeros_like(some)) for name in self.task.names]
        answers = torch.stack(each, 1).float()
        if self.task.kind == 'multilabel':
            yes, no = (self._fused(F.logsigmoid(x), mask) for x in (answers, -answers))
            return yes - no
        if self.task.kind == 'regression':
            return self._fused(answers, mask)
        return self._fused(answers.log_softmax(2), mask)

    def _fused(self, logs: Tensor, mask: Tensor) -> Tensor:
        """Combines logarithms of probabilities, or values, (B, M, K, ...) of what is present."""
        there = mask.view(*mask.shape, *[1] * (logs.ndim - 2))
        count = there.sum(1)
        if self.combine == 'mean' and self.task.kind != 'regression':
            return logs.masked_fill(~there, -math.inf).logsumexp(1) - count.log()
        if self.combine != 'learned':
            return logs.where(there, 0.0).sum(1) / count
        weights = self.weights.expand(mask.shape).masked_fill(~mask, -math.inf).softmax(1)
        # A selection, not a product: what is absent may be NaN, and 0 times NaN is NaN.
        return (weights.view_as(there) * logs.where(there, 0.0)).sum(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss of each modality and, if learned, loss_fused."""
        logits = self.encode(batch.inputs)
        losses = {
            f'loss of {name}': self.task_loss(x, labels_of(batch.target, there))
            for (name, x), there in zip(logits.items(), batch.mask.T, strict=True)
        }
        if self.combine == 'learned':
            fixed = {name: x.detach() for name, x in logits.items()}
            losses['loss_fused'] = self.task_loss(self.decode(fixed, batch.mask), batch.target)
        return losses
