"""Contrastive pre-training: modalities of one sample get similar features, without a teacher."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import KINDS, Batch, Task
from benchmark.registry import METHODS
from methods.common.encoders import fused_channels
from methods.common.pretraining import Pretraining


def info_nce(a: Tensor, b: Tensor, both: Tensor, temperature: float) -> Tensor:
    """Returns the symmetric InfoNCE loss of two modalities, over the samples that have both.

    With S the samples that have both modalities and unit vectors a, b:

        l(a, b) = - 1/|S| sum_{i in S} log( exp(a_i . b_i / t) / sum_{j in S} exp(a_i . b_j / t) )

    and the loss is (l(a, b) + l(b, a)) / 2. A sample that lacks one of the two is in neither sum;
    its vectors may hold any value. The loss is 0 if no sample has both.

    Args:
        a: (B, D), the vectors of one modality; they need not have unit length.
        b: (B, D), those of the other.
        both: (B,) bool, S.
        temperature: t.
    """
    # In float32: half precision moves similarities by a percent, which t makes larger. Absent rows
    # are selected away before they are divided by their length.
    unit = [F.normalize(x.float().where(both[:, None], 1.0), dim=1) for x in (a, b)]
    similar = unit[0] @ unit[1].T / temperature
    # A number far below all similarities instead of -inf, whose gradient is NaN in absent rows.
    similar = similar.masked_fill(~(both[:, None] & both), torch.finfo(similar.dtype).min)
    terms = [(x.logsumexp(1) - x.diagonal()).where(both, 0.0).sum() for x in (similar, similar.T)]
    return (terms[0] + terms[1]) / (2 * both.sum().clamp_min(1))


@METHODS.register_module('contrastive')
class Contrastive(Pretraining):
    """A coordinated representation of the modalities, learnt by contrast and read by a probe.

    Tian, Krishnan & Isola, Contrastive Multiview Coding, ECCV 2020 (arXiv 1906.05849), in the form
    of its full graph: for each pair of modalities, the two views of one sample are to be closer to
    each other than to views of other samples. z_m is a linear map of the encoder's deepest map,
    averaged over its positions:

        L = mean_{m < n} InfoNCE(z_m, z_n) + L_probe

    `info_nce` gives the formula. A pair counts for the samples that have both modalities, in the
    numerator and in the denominator; a pair that no sample of a batch has is 0. Labels train the
    probe alone (`methods.common.pretraining`). With `pretrain=contrastive` every method starts from
    these encoders: transfer between modalities that needs no teacher, and samples with training
    gaps take part with what they have.

    Adaptations of this project: the suite's encoders; the negatives are the other samples of the
    batch, where the paper takes them from a memory of earlier features and estimates the
    denominator (NCE); in segmentation the contrast is one of whole images, as in the paper.

    What could not be verified: the paper has no missing modalities; leaving such pairs out is this
    project's.

    Args:
        task: What the data set requires.
        temperature: t; 0.07 in the paper.
        dimensions: Length of z; 128 in the paper.

    Raises:
        UserError: There is one modality only, or the temperature is not positive.
    """

    task_kinds = KINDS

    def __init__(self, task: Task, *, temperature: float = 0.07, dimensions: int = 128) -> None:
        super().__init__(task)
        if len(task.names) < 2:
            raise UserError(
                f'contrastive on {task.dataset}: expected two modalities or more, found one'
            )
        if not temperature > 0:
            raise UserError(f'contrastive:temperature: expected more than 0, found {temperature}')
        if dimensions < 1:
            raise UserError(f'contrastive:dimensions: expected 1 or more, found {dimensions}')
        self.temperature = temperature
        channels = fused_channels(task)[-1]
        self.project = nn.ModuleDict({name: nn.Linear(channels, dimensions) for name in task.names})

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the contrast, averaged over pairs of modalities, and the loss of the probe."""
        features = self.encode(batch.inputs)
        z = [self.project[name](features[name][-1].mean((2, 3))) for name in self.task.names]
        there = batch.available.unbind(1)
        pairs = [
            info_nce(z[m], z[n], there[m] & there[n], self.temperature)
            for m, n in itertools.combinations(range(len(z)), 2)
        ]
        contrast = torch.stack(pairs).mean()
        return {'loss_contrast': contrast, 'loss_probe': self.probe_loss(features, batch)}
