"""LCR: every modality is represented by a linear map of the others."""

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.registry import METHODS
from methods.common.networks import fused_channels, masked
from methods.modality_dropout import ModalityDropout


class Correlation(nn.Module):
    """The correlation model at one scale.

        (a_i, delta_i) = MPE_i(average of f_i),  F_i = sum_{j != i} a_{i,j} f_j + delta_i

    MPE_i, the parameter estimator of modality i, is a perceptron of one hidden layer; its M outputs
    are scalars of each sample: M - 1 weights, in the order of the other modalities, and the offset.

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map.
    """

    def __init__(self, count, channels):
        super().__init__()
        hidden = channels // 2
        self.estimators = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, hidden), nn.LeakyReLU(), nn.Linear(hidden, count))
            for _ in range(count)
        )

    def forward(self, maps):
        """Returns F (B, C, H, W) of each modality from the list of f, zero where absent."""
        represented = []
        for i, estimate in enumerate(self.estimators):
            others = maps[:i] + maps[i + 1 :]
            parameters = estimate(maps[i].mean((2, 3)))[:, :, None, None, None]
            *weights, offset = parameters.unbind(1)
            represented.append(sum(w * f for w, f in zip(weights, others, strict=True)) + offset)
        return represented


@METHODS.register_module('lcr')
class LCR(ModalityDropout):
    """Latent correlation representation (Zhou, Canu, Vera and Ruan, LCR, IEEE TIP 2021).

    arXiv 2104.06231. Modalities of one scene are assumed to depend linearly on each other in a
    latent space: each encoder's features give the parameters by which the other modalities'
    features are combined into a stand-in for its own (`Correlation`). All representations are
    replaced, of present modalities too; they are concatenated and decoded, and the task loss alone
    trains the network. An absent modality counts as zero: the others do not see it, its own
    parameters are learned constants, and what represents it comes from the modalities present.

    This is the form that the authors of MMANet (CVPR 2023) and DMRNet (ECCV 2024) released for
    face anti-spoofing. Differences to that code: modalities are dropped after their encoder
    instead of as images, where a zero image still left an answer of the encoder, replaced by zeros
    only if the whole batch lacked the modality; so here samples do not depend on each other.
    In segmentation, which that code lacks, every scale has a correlation model of its own.

    Not reproduced, since neither the paper's text nor code of its authors was available to check
    against: fusion by attention, a divergence that draws F_i to f_i, decoders that reconstruct
    the images, and their weights.

    Args:
        task: What the dataset asks.

    Raises:
        UserError: The task has a single modality, which has no others to be correlated with.
    """

    def __init__(self, task):
        super().__init__(task)
        count = len(task.names)
        if count < 2:
            raise UserError(f'lcr on {task.dataset}: expected 2 modalities or more, found {count}')
        self.correlations = nn.ModuleList(Correlation(count, c) for c in fused_channels(task))

    def represent(self, features, mask):
        """Returns {modality: correlation representations, one per scale} under a mask (B, M)."""
        scales = masked(features, mask, self.task.names)
        represented = [
            correlate(maps) for correlate, maps in zip(self.correlations, scales, strict=True)
        ]
        return dict(zip(self.task.names, zip(*represented, strict=True), strict=True))

    def decode(self, features, mask):
        """Decodes the concatenated representations; mask (B, M) bool."""
        represented = self.represent(features, mask)
        # Absence is dealt with: the stand-in of an absent modality counts like any other.
        return self.decoder(self.fusion(represented, torch.ones_like(mask)))

    def loss(self, batch):
        """Returns the task's cross-entropy on the samples' masks."""
        return {'loss_task': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}
