"""MMANet: distillation from a complete teacher, and a second head for weak combinations."""

import functools
import logging

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.logging import print_log

from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.distillation import (
    column_weighted_distillation,
    margin_aware_distillation,
    pixels,
)
from methods.common.losses import multi_scale
from methods.common.networks import decoder
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('mmanet')
class MMANet(ModalityDropout):
    """Modality dropout with a teacher (MAD) and a second head for weak combinations (MAR).

    Wei, Luo & Luo, MMANet: Margin-aware Distillation and Modality-aware Regularization for
    Incomplete Multimodal Learning, CVPR 2023 (arXiv 2304.08028). A frozen teacher sees all
    modalities; a second decoder, in training only, decodes the weak combinations: those without
    the strong modality, which is the one whose absence moves the validation predictions most in
    the first epochs. L = L_task + alpha L_MAD + beta L_MAR; the network tested is the plain one.

    In segmentation each pixel of the batch is a sample of MAD, at the three deepest scales, and
    mining compares mIoU instead of predicted classes, as the released code does. On ESANet, the
    paper's network there, these are the maps of its context module and of its two deepest skips,
    and L_MAR sums over the second decoder's side outputs.

    variant='official' does as the released code where that changes numbers. Classification: the
    mask of L_MAR is broadcast, which leaves the mean error of all samples times the number of weak
    ones; MAD weighs columns; mining takes the softmax of class shares. Segmentation: each half of
    a Gram row is normalised apart; uncertainty is the entropy over the channels of a feature map
    of the teacher's decoder (the pyramid's second deepest, or what the first module of ESANet's
    decoder puts out); one combination is weak. Not
    reproduced: the segmentation teacher's BatchNorm in training mode (it would not be frozen), NaN
    for certain teachers, the weak set that is forgotten on resuming or fixed to depth alone, and
    mining on test data.

    Args:
        task: What the dataset asks.
        alpha: Weight of MAD.
        beta: Weight of MAR.
        mining_start: First epoch, from 0, whose validation is mined.
        begin_epoch: Mining ends before this epoch, and MAD and MAR act after it.
        grid: Rows of the grid to which larger maps are pooled for MAD in segmentation.
        variant: 'paper' or 'official'.

    Raises:
        UserError: An unknown variant or an empty mining window.
    """

    supported_networks = ModalityDropout.supported_networks
    teacher = 'complete'
    needs_complete = True
    settings = {
        'casia_surf': {'alpha': 30.0, 'beta': 0.5},
        'cefa': {'alpha': 30.0, 'beta': 0.5},
        'nyuv2': {'alpha': 4.0, 'beta': 0.2, 'mining_start': 6, 'begin_epoch': 10},
        'cityscapes': {'alpha': 10.0, 'beta': 0.1, 'mining_start': 6, 'begin_epoch': 10},
        'synth_faces': {'alpha': 30.0, 'beta': 0.5, 'mining_start': 1, 'begin_epoch': 3},
        'synth_rooms': {'alpha': 4.0, 'beta': 0.2, 'mining_start': 1, 'begin_epoch': 3},
    }
    search = {'alpha': LogUniform(0.4, 300), 'beta': LogUniform(0.01, 5)}

    def __init__(
        self, task, *, alpha=30.0, beta=0.5, mining_start=2, begin_epoch=5, grid=30, variant='paper'
    ):
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of mmanet', variant, ('paper', 'official'))
        if not 0 <= mining_start < begin_epoch:
            expected = f'0 to {begin_epoch - 1}, before begin_epoch'
            raise UserError(f'mmanet:mining_start: expected {expected}, found {mining_start}')
        self.alpha, self.beta = alpha, beta
        self.mining_start, self.begin_epoch = mining_start, begin_epoch
        self.grid = grid
        self.official = variant == 'official'
        self.dense = task.kind == 'segmentation'
        self.regularizer = decoder(task)
        # Buffers, so that a resumed run knows what was mined.
        self.register_buffer('departure', torch.zeros(len(task.names)))
        self.register_buffer('strong', torch.zeros(len(task.names), dtype=torch.bool))
        self._checked = len(task.names) == 1

    def loss(self, batch):
        """Returns the task's loss and, after `begin_epoch`, weighted MAD and MAR."""
        fused = self.fusion(self.encode(batch.inputs), batch.mask)
        maps = self.decoder.maps(fused)
        outputs = self.decoder.outputs(maps)
        losses = {'loss_task': multi_scale(self.task_loss, outputs, batch.target)}
        if self.epoch > self.begin_epoch:
            self._require_mined()
            losses['loss_mad'] = self.alpha * self.distillation(maps, batch)
            losses['loss_mar'] = self.beta * self.regularization(fused, batch)
        return losses

    def distillation(self, maps, batch):
        """Returns MAD between the maps and the teacher's, which sees all that is available."""
        teacher = self.teacher_network
        with torch.no_grad():
            fused = teacher.fusion(teacher.encode(batch.inputs), batch.available)
            known = teacher.decoder.maps(fused)
            if self.dense and self.official:
                logits = teacher.decoder.feature(known)
            else:
                logits = teacher.decoder.logits(known)
        if self.dense:
            pairs = zip(maps[-3:], known[-3:], strict=True)
            return sum(self.pixel_distillation(s, t, logits) for s, t in pairs)
        mad = column_weighted_distillation if self.official else margin_aware_distillation
        return mad(maps[-1].flatten(1), known[-1].flatten(1), logits)

    def pixel_distillation(self, student, teacher, logits):
        """Returns MAD over the pixels of two maps (B, C, H, W); logits (B, K, H', W')."""
        # Whole windows: the backward of adaptive pooling is not deterministic on CUDA.
        window = -(-student.shape[2] // self.grid)
        student, teacher = (F.avg_pool2d(x, window, ceil_mode=True) for x in (student, teacher))
        logits = F.adaptive_avg_pool2d(logits.float(), student.shape[2:])
        parts = 2 if self.official else 1
        return margin_aware_distillation(*map(pixels, (student, teacher, logits)), parts)

    def regularization(self, fused, batch):
        """Returns MAR: the second decoder's loss on the samples with a weak mask."""
        criterion = functools.partial(self.weak_loss, self.weak(batch.mask))
        outputs = self.regularizer.outputs(self.regularizer.maps(fused))
        return multi_scale(criterion, outputs, batch.target)

    def weak_loss(self, weak, logits, target):
        """Returns the cross-entropy of the weak samples (B,) bool.

        Summed over them and divided by B; in segmentation the mean over their pixels.
        """
        errors = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction='none')
        if self.dense:
            counted = weak[:, None, None] & (target != IGNORE)
            return torch.where(counted, errors, 0.0).sum() / counted.sum().clamp_min(1)
        if self.official:
            return errors.mean() * weak.sum()
        return torch.where(weak, errors, 0.0).sum() / len(weak)

    def weak(self, mask):
        """Returns which masks (B, M) are weak, (B,) bool; none before a modality is mined."""
        if self.dense and self.official:
            weak = (mask != self.strong).all(1)
        else:
            weak = mask.any(1) & ~(mask & self.strong).any(1)
        return weak & self.strong.any()

    def on_validation(self, scores):
        """Mines the strong modality from the full and the leave-one-out sets.

        Raises:
            UserError: The validation split lacks one of these sets.
        """
        if self.epoch == self.epochs - 1 <= self.begin_epoch:
            text = f'mmanet: {self.epochs} epochs end before MAD and MAR, after {self.begin_epoch}'
            print_log(text, 'current', logging.WARNING)
        names = self.task.names
        if len(names) == 1 or not self.mining_start <= self.epoch < self.begin_epoch:
            return
        full = '+'.join(names)
        reduced = ['+'.join(n for n in names if n != absent) for absent in names]
        for key in (full, *reduced):
            if key not in scores:
                raise unknown('subset in the validation that mmanet mines: subset', key, scores)
        moved = [self.movement(scores[key], scores[full]) for key in reduced]
        self.departure += self.departure.new_tensor(moved)
        chosen = self.departure.argmax()
        self.strong.zero_()[chosen] = True
        print_log(f'mmanet: strong modality {names[chosen]!r} after epoch {self.epoch}', 'current')

    def movement(self, score, full):
        """Returns how far a set's predictions are from the full set's.

        The squared difference of mIoU in segmentation, else KL(set || full) of the class shares
        (the paper's Eq. 10-13).
        """
        if self.dense:
            return (score.metrics['mIoU'] - full.metrics['mIoU']) ** 2
        shares = torch.tensor([score.predicted, full.predicted], dtype=torch.float64)
        # Classes that nothing was given keep a small share, or the divergence would be infinite.
        log_q = (shares if self.official else (shares + 1e-6).log()).log_softmax(1)
        return float(F.kl_div(log_q[1], log_q[0], reduction='sum', log_target=True))

    def _require_mined(self):
        # Reading a buffer makes the host wait, so this is asked once.
        if not self._checked and not self.strong.any():
            raise UserError(
                f'mmanet: no validation in epochs {self.mining_start} to {self.begin_epoch - 1}, '
                'which are mined; lower val_interval or move mining_start and begin_epoch'
            )
        self._checked = True
