"""Modality dropout with a teacher: the distillation losses that MMANet's MAD is compared with."""

import logging

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.logging import print_log

from benchmark.errors import UserError, unknown
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.distillation import (
    attention_transfer,
    hint,
    logit_regression,
    pixels,
    probabilistic_transfer,
    similarity_preserving,
    soft_target,
)
from methods.common.losses import multi_scale
from methods.mmanet import MMANet

LOGIT_LOSSES = {'logits': logit_regression, 'soft_target': soft_target}
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
"""Loss -> its usual weight beside a task loss of weight 1; see `Distilled`."""


def weight(loss, alpha, dataset):
    """Returns the weight of a loss of `WEIGHTS` on a dataset: alpha, or the usual for 'auto'.

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
    """Modality dropout that a complete teacher guides by one loss: MMANet's ablation.

    The student, the teacher and the schedule are MMANet's (Wei, Luo & Luo, CVPR 2023); only what
    is distilled differs, so that a table of `distilled:loss=...` rows isolates it. 'mad' is
    MMANet's own, `mmanet:beta=0`. L = L_task + alpha L_distill, and with `mar` + beta L_MAR.

    What the losses compare (formulas in `methods.common.distillation`):

    - 'logits' (Ba & Caruana 2014), 'soft_target' (Hinton et al. 2015): the logits, of every pixel
      in segmentation.
    - 'fitnet' (Romero et al. 2015), 'at' (Zagoruyko & Komodakis 2017): the last feature map; in
      segmentation the sum over the three deepest fused maps.
    - 'sp' (Tung & Mori 2019), 'pkt' (Passalis & Tefas 2018), 'mad': how the samples of the batch
      relate in that map; in segmentation how its pixels do, three maps pooled as for MAD.

    Which layers MMANet gave these losses is not known: here they get MAD's. Its code does PKT by
    another divergence; here it is that of PKT's authors. Usual weights (alpha='auto') are those of
    Tian, Krishnan & Isola's comparison (Contrastive Representation Distillation, ICLR 2020, code):
    fitnet 100, at 1000, sp 3000 and pkt 30000 as means over all pairs of a batch of 64, here as
    means over samples, soft_target 0.9 beside a task loss of 0.1, at temperature 4. MAD has the
    dataset's weight in MMANet; logits, of which no weight beside labels is published, has 1.

    Args:
        task: What the dataset asks.
        loss: One of `WEIGHTS`.
        alpha: Weight of the loss, or 'auto'.
        temperature: T of soft_target.
        begin_epoch: The teacher is heard after this epoch, as in MMANet; -1 for from the start.
        mar: Whether MMANet's second head for weak combinations acts too.
        beta: Weight of MAR.
        mining_start: First epoch that MAR mines.
        grid: Rows of the grid to which larger maps are pooled for sp, pkt, mad in segmentation.

    Raises:
        UserError: An unknown loss, or an alpha that is no number.
    """

    supported_networks = MMANet.supported_networks
    settings = {
        name: {key: value for key, value in found.items() if key != 'alpha'}
        for name, found in MMANet.settings.items()
    }

    @classmethod
    def search_space(cls, options):
        """Returns ranges around the loss's usual weight, and of what the options make act."""
        loss, space = options['loss'], {}
        if loss == 'mad':
            space['alpha'] = MMANet.search['alpha']
        elif loss in WEIGHTS:
            space['alpha'] = LogUniform(WEIGHTS[loss] / 10, WEIGHTS[loss] * 10)
        if loss == 'soft_target':
            space['temperature'] = LogUniform(1, 20)
        if options['mar']:
            space['beta'] = MMANet.search['beta']
        return space

    def __init__(
        self,
        task,
        *,
        loss='soft_target',
        alpha='auto',
        temperature=4.0,
        begin_epoch=5,
        mar=False,
        beta=0.5,
        mining_start=2,
        grid=30,
    ):
        if loss not in WEIGHTS:
            raise unknown('loss of distilled', loss, WEIGHTS)
        mining = {'mining_start': mining_start, 'begin_epoch': begin_epoch} if mar else {}
        alpha = weight(loss, alpha, task.dataset)
        super().__init__(task, alpha=alpha, beta=beta, grid=grid, **mining)
        self.term, self.temperature = loss, temperature
        self.begin_epoch, self.mar = begin_epoch, mar
        if not mar:
            del self.regularizer

    def loss(self, batch):
        """Returns the task's loss and, after `begin_epoch`, weighted distillation and MAR."""
        fused = self.fusion(self.encode(batch.inputs), batch.mask)
        maps = self.decoder.maps(fused)
        self._require_pixels(maps)
        outputs = self.decoder.outputs(maps)
        losses = {'loss_task': multi_scale(self.task_loss, outputs, batch.target)}
        if self.epoch > self.begin_epoch:
            losses['loss_distill'] = self.alpha * self.imitation(maps, outputs[0], batch)
            if self.mar:
                self._require_mined()
                losses['loss_mar'] = self.beta * self.regularization(fused, batch)
        return losses

    def imitation(self, maps, logits, batch):
        """Returns the loss between the student's maps and logits and the teacher's, unweighted."""
        if self.term == 'mad':
            return self.distillation(maps, batch)
        teacher = self.teacher_network
        with torch.no_grad():
            known = teacher.decoder.maps(
                teacher.fusion(teacher.encode(batch.inputs), batch.available)
            )
            target = teacher.decoder.logits(known) if self.term in LOGIT_LOSSES else None
        if target is not None:
            options = {'temperature': self.temperature} if self.term == 'soft_target' else {}
            return LOGIT_LOSSES[self.term](logits, target, **options)
        return sum(self.map_loss(s, t) for s, t in zip(maps[-3:], known[-3:], strict=True))

    def map_loss(self, student, teacher):
        """Returns the loss between two maps (B, C, H, W): as they are, or their samples'."""
        if self.term in MAP_LOSSES:
            return MAP_LOSSES[self.term](student, teacher)
        return SAMPLE_LOSSES[self.term](self.samples(student), self.samples(teacher))

    def samples(self, maps):
        """Returns one row per sample of (B, C, H, W); in segmentation one per pooled pixel."""
        if not self.dense:
            return maps.flatten(1)
        window = -(-maps.shape[2] // self.grid)
        return pixels(F.avg_pool2d(maps, window, ceil_mode=True))

    def on_validation(self, scores):
        """Mines for MAR; without it tells of a training too short for any distillation."""
        if self.mar:
            super().on_validation(scores)
        elif self.epoch == self.epochs - 1 <= self.begin_epoch:
            text = f'{self.epochs} epochs end before the teacher is heard, after {self.begin_epoch}'
            print_log(f'distilled: {text}', 'current', logging.WARNING)

    def _require_pixels(self, maps):
        if self.term == 'at' and maps[-3:][0][0, 0].numel() == 1:
            raise UserError('distilled:loss=at: expected maps of several pixels, found 1x1')
