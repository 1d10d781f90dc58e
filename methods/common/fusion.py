"""Fusion operators by sums and products: from the maps of several modalities to one map.

They are those of the survey of multimodal learning by Liang, Zadeh & Morency (arXiv 2209.03430) and
of its authors' code, MultiBench. All work on each pixel alone, so that a linear layer is a 1x1
convolution; vectors and sequences are maps of one pixel. All return as many channels as one
modality has, so that the same decoder follows.

Every operator states what becomes of an absent modality, whose maps are zero. `present` tells it
which are there. Where all are called present although some maps are zero, an operator does what it
does with plain zeros; method `fusion` offers this as absent='zero'. The operators that weigh
modalities are in `methods.common.gates`.
"""

from __future__ import annotations

import functools
import itertools
import operator

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

LARGEST_OUTER = 256
"""Largest number of elements of the outer product of tensor fusion, per pixel."""


class Operator(nn.Module):
    """Base class of the operators.

    Args:
        count: Number of modalities M.
        channels: Number of channels C of one modality, and of the result.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.count, self.channels = count, channels

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps.

        Args:
            x: (B, M, C, H, W); zero where a modality is absent.
            present: (B, M) bool; at least one of each row is true.

        Returns:
            (B, C, H, W).
        """
        raise NotImplementedError


class Each(nn.Conv2d):
    """A linear layer for each modality: (B, M, C, H, W) -> (B, M, D, H, W).

    Args:
        count: Number of modalities M.
        channels: C.
        out: D.
        bias: Whether an absent modality still gives the bias of its layer.
    """

    def __init__(self, count: int, channels: int, out: int, bias: bool = False) -> None:
        super().__init__(count * channels, count * out, 1, groups=count, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Applies each layer to its modality."""
        return super().forward(x.flatten(1, 2)).unflatten(1, (self.groups, -1))


def on_maps(present: Tensor) -> Tensor:
    """Returns (B, M) as (B, M, 1, 1, 1), to be broadcast over maps."""
    return present[:, :, None, None, None]


def product(factors: Tensor) -> Tensor:
    """Returns the product over M of (B, M, ..). The gradient of `prod` waits for the device."""
    return functools.reduce(operator.mul, factors.unbind(1))


class Concat(Operator):
    """Concatenation and a linear layer, z = W [x_1; ..; x_M] + b, which is additive fusion.

    An absent modality adds nothing, with or without the mask.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        self.linear = nn.Conv2d(count * channels, channels, 1)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        return self.linear(x.flatten(1, 2))


class Sum(Operator):
    """The sum of the maps, z = sum_{i in K} x_i. An absent modality adds nothing."""

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        return x.sum(1)


class Mean(Operator):
    """The mean over what is present, z = 1/|K| sum_{i in K} x_i; plain zeros would shrink it."""

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        return x.sum(1) / on_maps(present).sum(1)


class Product(Operator):
    """The product of projections, z = prod_{i in K} W_i x_i, element by element.

    An absent modality is the factor 1; a plain zero would make the whole result zero.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        self.each = Each(count, channels, channels)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        return product(torch.where(on_maps(present), self.each(x), 1.0))


class Multiplicative(Operator):
    """Multiplicative interactions (Jayakumar et al., ICLR 2020), in their diagonal form.

        z_0 = c,  z_i = (W_i x_i + v_i) o z_{i-1} + (U_i x_i + b_i)

    The modalities are folded in one after the other, as MultiBench does with three; c is learned.
    An absent modality is passed over, z_i = z_{i-1}. As a plain zero it would still change z by
    the biases v_i and b_i.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        self.scale = Each(count, channels, channels, bias=True)
        self.shift = Each(count, channels, channels, bias=True)
        self.start = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        scale, shift = self.scale(x), self.shift(x)
        z = self.start.expand_as(scale[:, 0])
        for i, there in enumerate(on_maps(present).unbind(1)):
            z = torch.where(there, scale[:, i] * z + shift[:, i], z)
        return z


class Bilinear(Operator):
    """Products of all pairs, in the factorised form of Kim et al. (ICLR 2017).

        z = P sum_{i < j} (U_i x_i) o (V_j x_j) + b

    The sum is over the pairs of which one modality or both are present. The factor of an absent one
    is 1, so that a single modality is passed through linearly. With plain zeros a single modality
    would leave nothing but b.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        # The last modality is never the first of a pair, nor the first the second.
        self.left, self.right = (Each(max(1, count - 1), channels, channels) for _ in range(2))
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        there = on_maps(present)
        if self.count == 1:
            return self.out(self.left(x)[:, 0])
        left = torch.where(there[:, :-1], self.left(x[:, :-1]), 1.0)
        right = torch.where(there[:, 1:], self.right(x[:, 1:]), 1.0)
        pairs = [
            (left[:, i] * right[:, j - 1]).where(there[:, i] | there[:, j], 0.0)
            for i, j in itertools.combinations(range(self.count), 2)
        ]
        return self.out(torch.stack(pairs).sum(0))


def outer_width(count: int, channels: int) -> int:
    """Returns d, the channels to which tensor fusion reduces each modality: (d+1)^M is bounded."""
    fits = int(LARGEST_OUTER ** (1 / count) + 1e-9) - 1
    return max(1, min(fits, channels))


class TensorFusion(Operator):
    """Tensor fusion (Zadeh et al., EMNLP 2017): the outer product of all modalities.

        z = W vec([1; h_1] x [1; h_2] x .. x [1; h_M]) + b,  h_i = W_i x_i

    The ones keep the terms of lower order. An absent modality has h = 0, so that exactly the terms
    without it remain, with or without the mask. The outer product has (d+1)^M elements, which
    `LARGEST_OUTER` bounds through d.

    Raises:
        UserError: There are so many modalities that even d = 1 exceeds the bound.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        if 2**count > LARGEST_OUTER:
            most = LARGEST_OUTER.bit_length() - 1
            raise UserError(f'tensor fusion: expected at most {most} modalities, found {count}')
        self.width = outer_width(count, channels)
        self.each = Each(count, channels, self.width)
        self.out = nn.Conv2d((self.width + 1) ** count, channels, 1)

    @staticmethod
    def outer(h: Tensor) -> Tensor:
        """Returns the outer product of the M vectors [1; h_i]: (B, M, d, ..) -> (B, (d+1)^M, ..).

        The first modality's index varies slowest.
        """
        one = torch.ones_like(h[:, :, :1])
        first, *others = torch.cat([one, h], 2).unbind(1)
        for factor in others:
            first = (first[:, :, None] * factor[:, None]).flatten(1, 2)
        return first

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        return self.out(self.outer(self.each(x)))


class LowRank(Operator):
    """Low-rank tensor fusion (Liu et al., ACL 2018): tensor fusion with factorised weights.

        z = sum_r w_r o prod_i (a_i^r + W_i^r x_i) + b

    a_i^r is the weight of the one in [1; x_i]. It is all that remains of an absent modality, with
    or without the mask: the terms of lower order.

    Args:
        count: Number of modalities M.
        channels: C.
        rank: Number of terms r.

    Raises:
        UserError: The rank is below 1.
    """

    def __init__(self, count: int, channels: int, rank: int = 4) -> None:
        super().__init__(count, channels)
        if rank < 1:
            raise UserError(f'rank of low-rank tensor fusion: expected 1 or more, found {rank}')
        self.rank = rank
        self.each = Each(count, channels, rank * channels)
        # Near one, so that a product of many factors neither vanishes nor grows at the start.
        # Without axes of pixels: a tensor of five axes has no channels-last layout.
        self.ones = nn.Parameter(1 + 0.1 * torch.randn(count, rank, channels))
        self.weights = nn.Parameter(torch.full((rank, 1, 1, 1), 1 / rank))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        factors = self.ones[..., None, None] + self.each(x).unflatten(2, (self.rank, self.channels))
        return (self.weights * product(factors)).sum(1) + self.bias
