"""LCR: every modality is represented by a linear combination of the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import KINDS, Batch, Task
from benchmark.registry import METHODS
from methods.common.losses import total
from methods.common.networks import Maps, fused_channels, masked
from methods.modality_dropout import ModalityDropout


class Correlation(nn.Module):
    """The correlation model at one scale.

        (a_i, delta_i) = MPE_i(average of f_i),  F_i = sum_{j != i} a_{i,j} f_j + delta_i

    MPE_i, the parameter estimator of modality i, is a perceptron with one hidden layer. Its M
    outputs are scalars of each sample: M - 1 weights, in the order of the other modalities, and an
    offset. Before training the biases of these outputs are 1 / (M - 1) and 0.

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.estimators = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, hidden), nn.LeakyReLU(), nn.Linear(hidden, count))
            for _ in range(count)
        )
        with torch.no_grad():
            for estimate in self.estimators:
                # The average of the others, and no offset. A random start may give a weight near 0,
                # by which a modality that is alone would hardly be seen.
                bias = estimate.get_parameter('2.bias')
                bias.fill_(1 / max(count - 1, 1))
                bias[-1] = 0

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Returns the representations F of the M modalities.

        Args:
            maps: The M maps f (B, C, H, W), zero where absent.

        Returns:
            M maps (B, C, H, W).
        """
        represented = []
        for i, estimate in enumerate(self.estimators):
            others = maps[:i] + maps[i + 1 :]
            parameters = estimate(maps[i].mean((2, 3)))[:, :, None, None, None]
            *weights, offset = parameters.unbind(1)
            represented.append(total(w * f for w, f in zip(weights, others, strict=True)) + offset)
        return represented


@METHODS.register_module('lcr')
class LCR(ModalityDropout):
    """Latent correlation representation.

    Zhou, Canu, Vera & Ruan, Latent Correlation Representation Learning for Brain Tumor Segmentation
    with Missing MRI Modalities, IEEE TIP 2021 (arXiv 2104.06231). Modalities of one scene are
    assumed to depend linearly on each other in a latent space: from the features of each modality
    the parameters are estimated by which the other modalities' features are combined into a
    representation of it (`Correlation`). All features are replaced by these representations, those
    of present modalities, too; they are concatenated and decoded. L = L_task.

    An absent modality counts as zero. It adds nothing to the representations of the others, its own
    parameters are learned constants, and its representation is computed from the present ones.

    This is the form that the authors of MMANet (CVPR 2023) and DMRNet (ECCV 2024) released for face
    anti-spoofing. Departures from that code: modalities are dropped after their encoders instead of
    as images; there an encoder still responds to a zero image, and the response is set to zero only
    if the whole batch lacks the modality, whereas here samples do not depend on each other. In
    segmentation, which that code lacks, every scale has a correlation model. The biases from which
    the last layer of MPE starts are this project's: that code starts from random ones, and a
    modality that is alone is seen through these constants only.

    Not reproduced, since neither the paper's text nor its authors' code was available: fusion by
    attention, a divergence between F_i and f_i, decoders that reconstruct the images, and their
    weights.

    Args:
        task: What the data set requires.

    Raises:
        UserError: The task has a single modality, which has no others to be correlated with.
    """

    task_kinds = KINDS
    version = 2

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        count = len(task.names)
        if count < 2:
            raise UserError(f'lcr on {task.dataset}: expected 2 modalities or more, found {count}')
        self.correlations = nn.ModuleList(Correlation(count, c) for c in fused_channels(task))

    def represent(self, features: dict[str, Maps], mask: Tensor) -> dict[str, Maps]:
        """Returns the representations of all modalities, present or not.

        Args:
            features: Modality name -> maps.
            mask: (B, M) bool.

        Returns:
            Modality name -> representations, one per scale.
        """
        scales = masked(features, mask, self.task.names)
        represented = [
            correlate(maps) for correlate, maps in zip(self.correlations, scales, strict=True)
        ]
        return dict(zip(self.task.names, zip(*represented, strict=True), strict=True))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Decodes the concatenated representations; mask (B, M) bool."""
        represented = self.represent(features, mask)
        # A full mask: the representation of an absent modality is fused like any other.
        return self.decoder(self.fusion(represented, torch.ones_like(mask)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task under the samples' masks."""
        return {'loss_task': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}
