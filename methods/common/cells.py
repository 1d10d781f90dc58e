"""Steps of a fusion cell: chosen features of each modality, an operator and a nonlinearity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from methods.common.fusion import (
    Bilinear,
    Concat,
    LowRank,
    Mean,
    Multiplicative,
    Operator,
    Product,
    Sum,
)
from methods.common.gates import Attention, Gated, Mixture
from methods.common.resize import bilinear

OPERATORS: dict[str, Callable[[int, int], Operator]] = {
    'concat': Concat,
    'sum': Sum,
    'mean': Mean,
    'product': Product,
    'multiplicative': Multiplicative,
    'bilinear': Bilinear,
    'low_rank': LowRank,
    'gated': Gated,
    'attention': Attention,
    'mixture': Mixture,
}
"""The operators that a step may use, with the formulas of `fusion`. Its 'tensor' is left out, whose
size grows exponentially with the inputs, and 'shifting', which singles one modality out."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': F.relu,
    'sigmoid': torch.sigmoid,
    'leaky_relu': F.leaky_relu,
}
"""The nonlinearities of the paper."""


class Gene(NamedTuple):
    """What is chosen for one step: a level for each modality, an operator, a nonlinearity."""

    levels: str
    operator: str
    activation: str

    def level(self, modality: int) -> int:
        """Returns the level that a modality gives, from 1; the digits are repeated if need be."""
        return int(self.levels[modality % len(self.levels)])


class Step(nn.Module):
    """One step of a cell: h = activation(BN(operator(P_1 x_1, .., P_M x_M, Q h'))).

    Each x_m is brought to the step's size and by a 1x1 convolution P_m to its channels; an absent
    one is zero, and the operator leaves it out. h', of the step before, is always there.

    Args:
        gene: What was chosen for the step.
        inputs: Channels of the features that each modality gives.
        channels: Channels of the step.
        before: Channels of h'; None for a step that has none before it.
    """

    def __init__(
        self, gene: Gene, inputs: Sequence[int], channels: int, before: int | None
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[gene.activation]
        given = [*inputs, *([before] if before else [])]
        # Without a bias, so that what is zero stays zero.
        self.project = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=False) for c in given)
        self.operator = OPERATORS[gene.operator](len(given), channels)
        self.norm = build_norm_layer({'type': 'BN'}, channels)[1]

    def forward(
        self, x: Sequence[Tensor], mask: Tensor, size: Sequence[int], before: Tensor | None
    ) -> Tensor:
        """Returns h, (B, C, *size).

        Args:
            x: For each modality the features (B, C_m, ., .) that it gives.
            mask: (B, M) bool.
            size: Height and width of the step.
            before: h' (B, C', ., .), if the step has one before it.
        """
        # A selection, not a product: missing modalities may hold NaN.
        kept = [one.where(on[:, None, None, None], 0.0) for one, on in zip(x, mask.T, strict=True)]
        if before is not None:
            kept.append(before)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        parts = zip(self.project, kept, strict=True)
        inputs = torch.stack([layer(resized(one, size)) for layer, one in parts], 1)
        return self.activation(self.norm(self.operator(inputs, mask)))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Returns maps at another size, unchanged if it is theirs."""
    return x if tuple(x.shape[2:]) == tuple(size) else bilinear(x, size)
