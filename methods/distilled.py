"""Modality dropout with one distillation loss: the losses that MMANet's MAD is compared with."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, SubsetScore, Task, late_term
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import Distribution, LogUniform
from methods.common.distillation import (
    attention_transfer,
    hint,
    logit_regression,
    pixels,
    pooled,
    probabilistic_transfer,
    similarity_preserving,
    soft_target,
)
from methods.common.losses import multi_scale, total
from methods.common.networks import ClassificationDecoder, Decoder, Maps
from methods.mmanet import MMANet

LOGIT_LOSSES = ('logits', 'soft_target')
MAP_LOSSES = {'fitnet': hint, 'at': attention_transfer}
SAMPLE_LOSSES = {'sp': similarity_preserving, 'pkt': probabilistic_transfer}

WEIGHTS = {
    'logits': 1.0,
    'soft_target': 9.0,
    'fitnet': 100.0,
    'at': 1000.0,
    'sp': 3000 / 64,
    'pkt': 30000 / 64,
    'mad': 30.0,
}
"""Loss -> its usual weight beside a task loss of weight 1; `Distilled` names the sources."""


def weight(loss: str, alpha: float | str, dataset: str) -> float:
    """Returns the weight of a distillation loss.

    Args:
        loss: The distillation loss, a key of `WEIGHTS`.
        alpha: The weight, or 'auto' for the usual one.
        dataset: Name of the data set; MMANet has a weight of MAD for some of them.

    Raises:
        UserError: alpha is neither 'auto' nor a number.
    """
    if alpha == 'auto':
        usual = MMANet.settings.get(dataset, {}) if loss == 'mad' else {}
        return usual.get('alpha', WEIGHTS[loss])
    try:
        return float(alpha)
    except ValueError:
        raise UserError(f"distilled:alpha: expected a number or 'auto', found {alpha!r}") from None


@METHODS.register_module('distilled')
class Distilled(MMANet):
    """Modality dropout with one distillation loss from a complete teacher: MMANet's ablation.

    Student, teacher and schedule are those of MMANet (Wei, Luo & Luo, CVPR 2023). Only the
    distillation loss differs, so that a table of `distilled:loss=...` rows isolates its effect.

        L = L_task + alpha L_distill,  with mar=True also + beta L_MAR

    The losses (formulas in `methods.common.distillation`) compare:

    - 'logits' (Ba & Caruana, NeurIPS 2014), 'soft_target' (Hinton et al., 2015): the logits, in
      segmentation those of every pixel.
    - 'fitnet' (Romero et al., ICLR 2015): the last feature map. 'at' (Zagoruyko & Komodakis, ICLR
      2017): the maps of the last two stages, whose losses are summed, as in MMANet's code. In
      segmentation both compare the three deepest fused maps, whose losses are summed.
    - 'sp' (Tung & Mori, ICCV 2019), 'pkt' (Passalis & Tefas, ECCV 2018), 'mad' (MMANet): how the
      samples of the batch relate in that map; in segmentation how the pixels of the batch relate,
      in the three maps, pooled as for MAD. 'mad' equals `mmanet:beta=0`.

    alpha='auto' is the usual weight: fitnet 100, at 1000, and sp 3000 and pkt 30000 divided by 64,
    which turns means over all pairs of a batch of 64 into means over samples; soft_target 0.9
    beside a task loss of 0.1 (Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR
    2020, code). The temperature is 2, as in MMANet's configuration. MAD has MMANet's weight for the
    data set. No weight beside labels is published for logits, which have 1.

    All losses are tested against figures of released code, value and gradient: logits, soft_target,
    fitnet and at against MMANet's, sp and pkt against those of CRD and of PKT's authors, which are
    N times smaller. Departures from MMANet's code: its function for 'at' has the weight 1; on
    CREMA-D and Kinetics-Sounds all terms start after `begin_epoch`, where MMANet distils from the
    beginning, and mar=True mines one weak combination, where MMANet there takes all single
    modalities; 'pkt' is the divergence of its authors, where MMANet's code has another one. Which
    layers the paper's ablation used is unknown.

    Args:
        task: What the data set requires.
        loss: The distillation loss, as above.
        alpha: Weight of the loss, or 'auto'.
        temperature: Temperature T of soft_target.
        begin_epoch: Distillation starts after this epoch, as in MMANet; -1 starts it at once. A
            training that ends before starts it earlier.
        mar: Whether MMANet's second decoder for weak combinations is trained, too.
        beta: Weight of L_MAR.
        mining_start: First epoch, from 0, whose validation is mined for L_MAR.
        grid: In segmentation, the number of rows to which larger maps are pooled for sp, pkt, mad.

    Raises:
        UserError: The loss is unknown, alpha is not a number, or with mar=True no epoch lies
            between `mining_start` and `begin_epoch`.
    """

    version = 3
    mines = {'mar': True}
    only_with = {
        'temperature': ('loss', ('soft_target',)),
        'beta': ('mar', (True,)),
        'mining_start': ('mar', (True,)),
    }
    shares_convolution = True
    ranges = {
        'temperature': Range(0, above=True),
        'begin_epoch': Range(-1),
        'grid': Range(1),
    }
    supported_networks = MMANet.supported_networks
    # MMANet's alpha belongs to MAD; `weight` passes it on to loss=mad.
    settings = {
        name: {k: v for k, v in found.items() if k in ('beta', 'mining_start', 'begin_epoch')}
        for name, found in MMANet.settings.items()
    }

    @classmethod
    def search_space(cls, options: dict[str, Any]) -> dict[str, Distribution]:
        """Returns the distributions of those options that have an effect under the others.

        Args:
            options: The value of every option.
        """
        loss = options['loss']
        space: dict[str, Distribution] = {}
        if loss == 'mad':
            space['alpha'] = MMANet.search['alpha']
        elif loss in WEIGHTS:
            space['alpha'] = LogUniform(WEIGHTS[loss] / 10, WEIGHTS[loss] * 10)
        if loss == 'soft_target':
            space['temperature'] = LogUniform(1, 20)
        if options['mar']:
            space['beta'] = MMANet.search['beta']
        return space

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Tells where a training is too short for `begin_epoch`."""
        return late_term('distillation', options['begin_epoch'] + 1, epochs)

    def __init__(
        self,
        task: Task,
        *,
        loss: Literal['logits', 'soft_target', 'fitnet', 'at', 'sp', 'pkt', 'mad'] = 'soft_target',
        alpha: float | Literal['auto'] = 'auto',
        temperature: float = 2.0,
        begin_epoch: int = 5,
        mar: bool = False,
        beta: float = 0.5,
        mining_start: int = 2,
        grid: int = 30,
    ) -> None:
        if loss not in WEIGHTS:
            raise unknown('loss of distilled', loss, WEIGHTS)
        # Without L_MAR nothing is mined, and begin_epoch may be any number, -1 too, which MMANet's
        # constructor refuses.
        mining: dict[str, Any] = (
            {'mining_start': mining_start, 'begin_epoch': begin_epoch} if mar else {}
        )
        chosen = weight(loss, alpha, task.dataset)
        super().__init__(task, alpha=chosen, beta=beta, grid=grid, **mining)
        self.term, self.temperature = loss, temperature
        self.given_begin_epoch, self.mar = begin_epoch, mar
        if not mar:
            del self.regularizer

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and, after `begin_epoch`, weighted loss_distill and loss_mar.

        Raises:
            UserError: loss=at meets maps of one pixel, or L_MAR is due and no epoch was mined.
        """
        fused = self.fusion(self.encode(batch.inputs), batch.mask)
        maps = self.compared(self.decoder, fused)
        self._require_pixels(maps)
        outputs = self.decoder.outputs(maps)
        losses = {'loss_task': multi_scale(self.task_loss, outputs, batch.target)}
        if self.epoch > self.begin_epoch:
            losses['loss_distill'] = self.alpha * self.imitation(maps, outputs[0], batch)
            if self.mar:
                self._require_mined()
                losses['loss_mar'] = self.beta * self.regularization(fused, batch)
        return losses

    def compared(self, network: Decoder, fused: Maps) -> Maps:
        """Returns the maps of a decoder; loss=at needs one more in classification."""
        if self.term == 'at' and isinstance(network, ClassificationDecoder):
            return network.stages(fused)
        return network.maps(fused)

    def imitation(self, maps: Maps, logits: Tensor, batch: Batch) -> Tensor:
        """Returns L_distill, unweighted.

        Args:
            maps: The student's decoder maps.
            logits: The student's logits, (B, K) or (B, K, H, W).
            batch: The batch; the teacher sees all that is available, whatever the mask.
        """
        if self.term == 'mad':
            return self.distillation(maps, batch)
        teacher_decoder, known = self.teacher_maps(batch)
        with torch.no_grad():
            # Losses on maps need no logits of the teacher, whose head costs time in segmentation.
            target = teacher_decoder.logits(known) if self.term in LOGIT_LOSSES else None
        if target is None:
            return total(self.map_loss(s, t) for s, t in zip(maps[-3:], known[-3:], strict=True))
        if self.term == 'soft_target':
            return soft_target(logits, target, self.temperature)
        return logit_regression(logits, target)

    def map_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss between two maps (B, C, H, W): of their values, or of their samples."""
        if self.term in MAP_LOSSES:
            return MAP_LOSSES[self.term](student, teacher)
        return SAMPLE_LOSSES[self.term](self.samples(student), self.samples(teacher))

    def samples(self, maps: Tensor) -> Tensor:
        """Reshapes maps (B, C, H, W) to one row per sample, in segmentation per pooled pixel."""
        if not self.dense:
            return maps.flatten(1)
        return pixels(pooled(maps, self.grid))

    def on_validation(self, scores: dict[str, SubsetScore]) -> None:
        """Mines for L_MAR; does nothing without it."""
        if self.mar:
            super().on_validation(scores)

    def _require_pixels(self, maps: Maps) -> None:
        # The normalised attention of one pixel is always 1: the loss would be 0 without a word.
        if self.term == 'at' and any(x[0, 0].numel() == 1 for x in maps[-3:]):
            raise UserError('distilled:loss=at: expected maps of several pixels, found 1x1')
