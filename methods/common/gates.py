"""Fusion operators that weigh modalities: gates, shifts, attention and a mixture of fusions.

What holds for all operators is said in `methods.common.fusion`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from methods.common.fusion import Each, Operator, Product, Sum, on_maps


class Gated(Operator):
    """Gated multimodal units (Arevalo et al., 2017) for any number of modalities.

        z = sum_{i in K} g_i o tanh(V_i x_i),  g = softmax_{i in K}(W_i [x_1; ..; x_M] + c_i)

    For two modalities the softmax is the paper's sigmoid gate and its complement. For more, the
    paper is believed to have a sigmoid for each, which need not add up to one; the softmax is this
    project's. The gate reads the maps themselves; the released code's reads V_i x_i. An absent
    modality is left out of sum and softmax, so that the gates of the others add up to one; as a
    plain zero it would take a share of the gate and give nothing for it.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        self.value = Each(count, channels, channels)
        self.gate = nn.Conv2d(count * channels, count * channels, 1)

    def gates(self, x: Tensor, present: Tensor) -> Tensor:
        """Returns g, (B, M, C, H, W), 0 where a modality is absent; the sum over M is one."""
        logits = self.gate(x.flatten(1, 2)).unflatten(1, (self.count, self.channels))
        return logits.masked_fill(~on_maps(present), -math.inf).softmax(1)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        return (self.gates(x, present) * self.value(x).tanh()).sum(1)


class Shifting(Operator):
    """Modality shifting, the multimodal adaptation gate (Rahman et al., ACL 2020).

    The others shift the map e of an anchor:

        H = sum_j relu(G_j [x_j; e] + c_j) o (W_j x_j + d_j),  a = min(beta |e| / (|H| + 1e-6), 1)
        z = Dropout(LayerNorm(e + a H))

    with norms over the channels of a pixel, beta = 1 and a dropout of 0.5, the defaults of the
    released code (its README uses beta = 0.001).
    The sum is over the present modalities but the anchor. Where the anchor is absent, the first
    present modality takes its place. As a plain zero it would stay the anchor, with a = 0: nothing
    of the others would be left; other absent modalities would still shift e by their biases.

    Args:
        count: Number of modalities M.
        channels: C.
        anchor: Column of the anchor.
        dropout: Share of the features that training sets to zero.
    """

    order: Tensor

    def __init__(self, count: int, channels: int, anchor: int = 0, dropout: float = 0.5) -> None:
        super().__init__(count, channels)
        self.dropout, self.beta = dropout, 1.0
        order = [anchor, *(m for m in range(count) if m != anchor)]
        self.register_buffer('order', torch.tensor(order), persistent=False)
        self.gate = Each(count, 2 * channels, channels, bias=True)
        self.value = Each(count, channels, channels, bias=True)
        self.norm = nn.LayerNorm(channels)

    def shift(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the anchor's map e and its shift a H, each (B, C, H, W)."""
        # The first present one in this order; argmax returns the first of equal values.
        first = self.order[present.index_select(1, self.order).int().argmax(1)]
        is_anchor = F.one_hot(first, self.count).bool()
        e = x.where(on_maps(is_anchor), 0.0).sum(1)
        gate = self.gate(torch.cat([x, e[:, None].expand_as(x)], 2)).relu()
        moved = (gate * self.value(x)).where(on_maps(present & ~is_anchor), 0.0).sum(1)
        # float32: half precision has no 1e-6 beside a norm.
        size = self.beta * e.float().norm(dim=1, keepdim=True)
        share = (size / (moved.float().norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
        return e, share.to(moved.dtype) * moved

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        e, moved = self.shift(x, present)
        z = self.norm((e + moved).movedim(1, -1)).movedim(-1, 1)
        return F.dropout(z, self.dropout, self.training)


class Attention(Operator):
    """Self-attention over the modalities of a pixel, with the mask as key mask.

    Each modality is a token, its map plus a learned embedding of the modality. The result is the
    mean over the present tokens of x_i + attention_i. Absent modalities are neither keys nor part
    of the mean; as plain zeros their embeddings would be attended to.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count, channels)
        heads = math.gcd(channels, 4)
        self.position = nn.Parameter(0.02 * torch.randn(count, channels))
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        height, width = x.shape[3:]
        tokens = x.permute(0, 3, 4, 1, 2).flatten(0, 2) + self.position
        # One mask for all pixels of a sample.
        absent = ~present.repeat_interleave(height * width, 0)
        mixed, _ = self.attention(tokens, tokens, tokens, absent, need_weights=False)
        kept = (tokens + mixed).masked_fill(absent[..., None], 0.0).sum(1)
        z = kept / (~absent).sum(1, keepdim=True)
        return z.unflatten(0, (len(x), height, width)).movedim(-1, 1)


class Mixture(Operator):
    """A mixture of fusions: a gate weighs the results of sum, product and gated fusion.

        z = sum_k p_k F_k(x, K),  p = softmax(gate([mean over the pixels of x; K]))

    p is soft, or hard: in training a straight-through Gumbel sample, in testing the largest. The
    gate sees which modalities are present, and each fusion treats absent ones as it does alone.

    Args:
        count: Number of modalities M.
        channels: C.
        hard: Whether one fusion is chosen.
    """

    def __init__(self, count: int, channels: int, hard: bool = False) -> None:
        super().__init__(count, channels)
        self.hard = hard
        members = (Sum, Product, Gated)
        self.fusions = nn.ModuleList(kind(count, channels) for kind in members)
        self.gate = nn.Linear(count * channels + count, len(members))

    def shares(self, x: Tensor, present: Tensor) -> Tensor:
        """Returns p, (B, number of fusions); rows sum to one."""
        logits = self.gate(torch.cat([x.mean((3, 4)).flatten(1), present.to(x.dtype)], 1)).float()
        if not self.hard:
            return logits.softmax(1)
        if self.training:
            return F.gumbel_softmax(logits, hard=True)
        return F.one_hot(logits.argmax(1), logits.shape[1]).float()

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Fuses maps; see `Operator.forward`."""
        each = torch.stack([fusion(x, present) for fusion in self.fusions], 1)
        return (on_maps(self.shares(x, present)).to(each.dtype) * each).sum(1)
