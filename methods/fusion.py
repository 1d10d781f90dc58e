"""Fusion operators of the survey literature, each in the same network and training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from benchmark.errors import unknown
from benchmark.method import KINDS, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from methods.common.encoders import Maps, fused_channels
from methods.common.fusion import (
    Bilinear,
    Concat,
    LowRank,
    Mean,
    Multiplicative,
    Operator,
    Product,
    Sum,
    TensorFusion,
)
from methods.common.gates import Attention, Gated, Mixture, Shifting
from methods.common.networks import decoder, masked
from methods.modality_dropout import ModalityDropout

OPERATORS: dict[str, Callable[..., Operator]] = {
    'concat': Concat,
    'sum': Sum,
    'mean': Mean,
    'product': Product,
    'multiplicative': Multiplicative,
    'bilinear': Bilinear,
    'tensor': TensorFusion,
    'low_rank': LowRank,
    'gated': Gated,
    'shifting': Shifting,
    'attention': Attention,
    'mixture': Mixture,
}
"""The operators by the value of the option `fusion`."""


class OperatorFusion(nn.Module):
    """An operator at every scale, then batch normalisation and ReLU.

    Args:
        task: Gives modalities and channels.
        build: Makes the operator of one scale from M and the number of channels.
        zeros: Whether absent modalities are passed to the operator as present maps of zeros.
    """

    def __init__(self, task: Task, build: Callable[[int, int], Operator], zeros: bool) -> None:
        super().__init__()
        self.names, self.zeros = task.names, zeros
        self.operators = nn.ModuleList(build(len(task.names), c) for c in fused_channels(task))
        self.norms = nn.ModuleList(
            build_norm_layer({'type': 'BN'}, c)[1] for c in fused_channels(task)
        )

    def forward(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Fuses the maps of the modalities that a mask allows.

        Args:
            features: Modality name -> maps.
            mask: (B, M) bool.

        Returns:
            One map per scale, with the channels of one modality.
        """
        present = torch.ones_like(mask) if self.zeros else mask
        scales = [torch.stack(maps, 1) for maps in masked(features, mask, self.names)]
        parts = zip(self.operators, self.norms, scales, strict=True)
        return tuple(norm(fuse(x, present)).relu() for fuse, norm, x in parts)


@METHODS.register_module('fusion')
class Fusion(ModalityDropout):
    """One fusion operator in the network and training of modality dropout. L = L_task.

    The taxonomy of operators is that of Liang, Zadeh & Morency, Foundations and Trends in
    Multimodal Machine Learning (2022, arXiv 2209.03430); `methods.common.fusion` and
    `methods.common.gates` give each one's formula, its source and what becomes of an absent
    modality. All return the channels of one modality, so that encoders and decoder are the same
    for all of them; only the operator's own layers differ.

    absent='mask' leaves an absent modality out as the operator defines it: the neutral element of
    its sum, mean, product or softmax. absent='zero' is what code for complete data does: the
    operator sees maps of zeros and takes them for measurements.

    What could not be verified: none of the operators' papers trains with missing modalities, so
    that the treatment of absent ones is this project's. The papers fuse vectors; here each pixel
    of a map is one.

    Args:
        task: What the data set requires.
        fusion: The operator.
        absent: 'mask' or 'zero'.
        anchor: The modality that 'shifting' shifts; the first one if empty.
        gate: The gate of 'mixture': 'soft', or 'hard', which chooses one fusion.
        rank: Number of factors of 'low_rank'.

    Raises:
        UserError: An option has an unknown value, or the operator cannot take as many modalities.
    """

    task_kinds = KINDS
    ranges = {'rank': Range(1)}
    only_with = {
        'anchor': ('fusion', ('shifting',)),
        'gate': ('fusion', ('mixture',)),
        'rank': ('fusion', ('low_rank',)),
    }

    def __init__(
        self,
        task: Task,
        *,
        fusion: Literal[
            'concat', 'sum', 'mean', 'product', 'multiplicative', 'bilinear', 'tensor', 'low_rank',
            'gated', 'shifting', 'attention', 'mixture',
        ] = 'gated',
        absent: Literal['mask', 'zero'] = 'mask',
        anchor: str = '',
        gate: Literal['soft', 'hard'] = 'soft',
        rank: int = 4,
    ) -> None:  # fmt: skip
        super().__init__(task)
        if fusion not in OPERATORS:
            raise unknown('fusion of fusion', fusion, OPERATORS)
        if absent not in ('mask', 'zero'):
            raise unknown('absent of fusion', absent, ('mask', 'zero'))
        if gate not in ('soft', 'hard'):
            raise unknown('gate of fusion', gate, ('soft', 'hard'))
        if anchor and anchor not in task.names:
            raise unknown(f'anchor of fusion on {task.dataset}: modality', anchor, task.names)
        own: dict[str, dict[str, int | bool]] = {
            'shifting': {'anchor': task.names.index(anchor) if anchor else 0},
            'mixture': {'hard': gate == 'hard'},
            'low_rank': {'rank': rank},
        }

        def build(count: int, channels: int) -> Operator:
            return OPERATORS[fusion](count, channels, **own.get(fusion, {}))

        # They replace the parts of modality dropout, which fuses by plain concatenation.
        self.fusion = OperatorFusion(task, build, absent == 'zero')
        self.decoder = decoder(task, channels=fused_channels(task)[0])
