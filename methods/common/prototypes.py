"""Prototypes of features, by k-means while features are learned, and what SMIL makes of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

DEAD = 0.01
"""Share of the mean count below which a prototype counts as one that nothing belongs to."""


class Prototypes(nn.Module):
    """K means of C features, kept as moving sums and counts.

    Every batch does one step of k-means (MacQueen, 1967; by batches as Sculley, WWW 2010): each
    feature x belongs to the nearest prototype, and with n_k features of the sum s_k

        N_k <- m N_k + n_k,  S_k <- m S_k + s_k,  M_k = S_k / N_k

    m forgets features that the encoder no longer makes; with m = 0 and the same features in every
    batch these are Lloyd's steps. A prototype that (nearly) nothing belongs to moves to a random
    feature of the batch, as all do in the first one.

    Args:
        count: K.
        channels: C.
        memory: m, from 0 to below 1.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, count: int, channels: int, memory: float) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer('sums', torch.zeros(count, channels))
        self.register_buffer('counts', torch.zeros(count))

    @property
    def means(self) -> Tensor:
        """M, (K, C) float32; zero before the first batch."""
        return self.sums / self.counts.clamp_min(torch.finfo(torch.float32).tiny)[:, None]

    @torch.no_grad()
    def update(self, x: Tensor, counted: Tensor) -> None:
        """Takes a batch into the means; without a sample that counts nothing changes.

        Args:
            x: (B, C, H, W); each position is a feature.
            counted: (B,) bool, the samples that count; the others may hold any value.
        """
        rows = x.float().movedim(1, -1).reshape(-1, x.shape[1])
        weights = counted.repeat_interleave(rows.shape[0] // len(counted)).to(rows)
        rows = torch.where(weights[:, None] > 0, rows, 0.0)
        there = weights.sum() > 0
        self._revive(rows, weights, there)
        nearest = torch.cdist(rows, self.means).argmin(1)
        places = torch.arange(len(self.counts), device=rows.device)
        own = (nearest[:, None] == places).to(rows) * weights[:, None]
        memory = torch.where(there, self.memory, 1.0)
        self.sums.copy_(memory * self.sums + own.T @ rows)
        self.counts.copy_(memory * self.counts + own.sum(0))

    def _revive(self, rows: Tensor, weights: Tensor, there: Tensor) -> None:
        """Moves prototypes that nothing belongs to."""
        place = torch.rand(len(self.counts), device=rows.device, dtype=rows.dtype) * weights.sum()
        drawn = torch.searchsorted(weights.cumsum(0), place, right=True).clamp(max=len(rows) - 1)
        dead = there & (self.counts <= DEAD * self.counts.mean())
        usual = self.counts.mean().clamp_min(1.0)
        self.sums.copy_(torch.where(dead[:, None], usual * rows[drawn], self.sums))
        self.counts.copy_(torch.where(dead, usual, self.counts))


class Replacement(nn.Module):
    """What takes the place of the maps of one modality, at one scale: a mean of K prototypes M.

    With x the maps of the other modalities, at each position:

        official: w = softplus(A x), sum_k w_k M_k / sum_k w_k
        paper: w_k normal with mean 1 and deviation softplus(A x)_k, sum_k w_k M_k / K

    Args:
        others: Channels of the other modalities' maps together.
        channels: Channels of the modality's own maps.
        count: K.
        memory: As of `Prototypes`.
        official: The variant.
    """

    def __init__(
        self, others: int, channels: int, count: int, memory: float, official: bool
    ) -> None:
        super().__init__()
        self.predict = nn.Conv2d(others, count, 1)
        self.prototypes = Prototypes(count, channels, memory)
        self.official = official

    def forward(self, others: Tensor) -> Tensor:
        """Returns the maps (B, C, H, W), in float32."""
        weights = F.softplus(self.predict(others).float())
        if not self.official:
            # At test the mean, which is one, takes the place of a draw.
            weights = 1 + weights * (torch.randn_like(weights) if self.training else 0.0)
        means = self.prototypes.means
        sums = torch.einsum('bkhw,kc->bchw', weights, means)
        return sums / (weights.sum(1, keepdim=True) if self.official else len(means))
