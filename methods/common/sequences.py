"""The shared encoder of sequences, whatever they are features of: sound, faces, words."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmark.method import Modality

LAYERS, HEADS, DROPOUT = 3, 8, 0.1

# Evaluation would take another arithmetic than training, whose FLOPs nobody counts.
torch.backends.mha.set_fastpath_enabled(False)


def split_padding(x: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    """Separates frames from what says whether they are real.

    Args:
        x: (B, T, D); of padded frames and of absent samples any values, NaN among them.
        padded: The last feature is 1 for real frames and 0 for padding (`Modality.padded`).

    Returns:
        Frames (B, T, D or D - 1), zero where padded, and which are real, (B, T) bool.
    """
    if not padded:
        return x, torch.ones_like(x[..., 0], dtype=torch.bool)
    real = x[..., -1] > 0.5
    return torch.where(real[..., None], x[..., :-1], x.new_zeros(())), real


def real_elements(modality: Modality, x: Tensor) -> Tensor:
    """Returns which elements of a modality's inputs (B, *shape) are no padding, as bool."""
    real = x[..., -1:] > 0.5 if modality.padded else torch.ones_like(x, dtype=torch.bool)
    return real.expand_as(x)


def positions(real: Tensor, width: int) -> Tensor:
    """Returns the sinusoidal encoding (B, T, width) of each frame's place among the real ones.

    Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.5; sines first, then cosines.
    Counted over real frames alone, so that padding may stand anywhere.

    Args:
        real: (B, T) bool.
        width: Even number of channels.
    """
    place = real.cumsum(1) - 1
    exponents = torch.arange(0, width, 2, device=real.device) / width
    angles = place[..., None] * (-math.log(10000) * exponents).exp()
    return torch.cat([angles.sin(), angles.cos()], -1)


class SequenceEncoder(nn.Module):
    """Encoder of a sequence: (B, T, D) -> one 1x1 map of 2 `width` channels.

    A transformer over frames whose outputs are averaged, as RedCore (Sun et al., AAAI 2024) encodes
    sound, faces and words alike: a linear projection and three blocks of 8 heads and perceptrons
    four times as wide; `width` = 64 is its size. It adds positions, without which the order of the
    frames would not matter, and leaves padded frames out of attention and average, where the
    released code attends to them. Its blocks are torch's, normalised before each part.

    Args:
        modality: Gives D, and whether its last feature marks padding.
        width: Half of the channels.
    """

    def __init__(self, modality: Modality, width: int) -> None:
        super().__init__()
        channels = 2 * width
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
        """Encodes (B, T, D)."""
        frames, real = split_padding(x, self.padded)
        # A softmax over nothing is NaN: a sample without frames, such as an absent one, gets one.
        real = torch.cat([real[:, :1] | ~real.any(1, keepdim=True), real[:, 1:]], 1)
        y = self.project(frames)
        y = y + positions(real, y.shape[-1]).to(y.dtype)
        for block in self.blocks:
            y = block(y, src_key_padding_mask=~real)
        total = torch.where(real[..., None], self.norm(y), 0.0).sum(1)
        return ((total / real.sum(1, keepdim=True))[:, :, None, None],)
