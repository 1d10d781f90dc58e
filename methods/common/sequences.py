"""The shared encoder of sequences of features, e.g. of sound, faces or words."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmark.method import Modality

LAYERS, HEADS, DROPOUT = 3, 8, 0.1

# torch's fast path would compute evaluation by a fused kernel that differs from training in its
# rounding and whose operations the FLOP counter does not see.
torch.backends.mha.set_fastpath_enabled(False)


def split_padding(x: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    """Separates the frames of sequences from the feature that marks padding.

    Args:
        x: (B, T, D); padded frames and absent samples may hold any value, NaN among them.
        padded: Whether the last feature is 1 for real frames and 0 for padding
            (`Modality.padded`).

    Returns:
        The frames (B, T, D or D - 1), zero where padded, and whether each one is real, (B, T)
        bool.
    """
    if not padded:
        return x, torch.ones_like(x[..., 0], dtype=torch.bool)
    # A comparison with NaN is false, so that the frames of an absent sample count as padding.
    real = x[..., -1] > 0.5
    return torch.where(real[..., None], x[..., :-1], x.new_zeros(())), real


def real_elements(modality: Modality, x: Tensor) -> Tensor:
    """Returns which elements of a modality's inputs (B, *shape) are not padding, as bool."""
    real = x[..., -1:] > 0.5 if modality.padded else torch.ones_like(x, dtype=torch.bool)
    return real.expand_as(x)


def positions(real: Tensor, width: int) -> Tensor:
    """Returns sinusoidal encodings of the frames' positions.

    Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.5; all sines come first, then
    all cosines. Only real frames are counted, so that padding may stand anywhere.

    Args:
        real: Whether each frame is real, (B, T) bool.
        width: Number of channels, even.

    Returns:
        (B, T, width) in float32.
    """
    place = real.cumsum(1) - 1
    exponents = torch.arange(0, width, 2, device=real.device) / width
    angles = place[..., None] * (-math.log(10000) * exponents).exp()
    return torch.cat([angles.sin(), angles.cos()], -1)


class SequenceEncoder(nn.Module):
    """Encoder of a sequence: (B, T, D) -> one 1x1 map of 2 `width` channels.

    A transformer over the frames, whose outputs are averaged, as RedCore (Sun et al., AAAI 2024)
    encodes sound, faces and words: a linear projection and three blocks with 8 heads and
    perceptrons four times as wide as a token. `width` = 64 gives RedCore's size.

    Departures from RedCore's released code: positions are added, without which the order of the
    frames has no effect, and padded frames are left out of attention and average. The blocks are
    torch's, with layer normalisation before each part.

    Args:
        modality: Gives D and whether the last feature marks padding.
        width: Half of the number of output channels.
    """

    def __init__(self, modality: Modality, width: int) -> None:
        super().__init__()
        channels = 2 * width
        # The number of heads must divide the channels, also in small test networks.
        heads = math.gcd(HEADS, channels)
        self.padded = modality.padded
        self.project = nn.Linear(modality.shape[1] - modality.padded, channels)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, heads, 4 * channels, DROPOUT, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Encodes (B, T, D) into one map (B, 2 width, 1, 1)."""
        frames, real = split_padding(x, self.padded)
        # A softmax over no frame is NaN: in a sample without frames the first one counts as real.
        real = torch.cat([real[:, :1] | ~real.any(1, keepdim=True), real[:, 1:]], 1)
        y = self.project(frames)
        y = y + positions(real, y.shape[-1]).to(y.dtype)
        for block in self.blocks:
            y = block(y, src_key_padding_mask=~real)
        total = torch.where(real[..., None], self.norm(y), 0.0).sum(1)
        return ((total / real.sum(1, keepdim=True))[:, :, None, None],)
