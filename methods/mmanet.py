"""MMANet: distillation from a complete teacher, and a second decoder for weak combinations."""

from __future__ import annotations

import functools
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.logging import print_log
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Batch, SubsetScore, Task, late_start, late_term
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.distillation import (
    column_weighted_distillation,
    margin_aware_distillation,
    pixels,
)
from methods.common.losses import cross_entropy_sums, multi_scale, total
from methods.common.networks import ClassificationDecoder, Decoder, Maps, decoder
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('mmanet')
class MMANet(ModalityDropout):
    """Modality dropout, margin-aware distillation (MAD), modality-aware regularisation (MAR).

    Wei, Luo & Luo, MMANet: Margin-aware Distillation and Modality-aware Regularization for
    Incomplete Multimodal Learning, CVPR 2023 (arXiv 2304.08028).

        L = L_task + alpha L_MAD + beta L_MAR

    L_MAD distils a frozen teacher that sees all modalities (`margin_aware_distillation`). L_MAR is
    the loss of a second decoder, used in training only, on the samples whose mask is a weak
    combination, one without the strong modality. The strong modality is mined in the first epochs:
    it is the one whose absence changes the predictions on the validation split most. The deployed
    network is the plain one.

    In segmentation every pixel of the batch is a sample of L_MAD, at the three deepest scales, and
    mining compares mIoU instead of predicted classes, as in the released code. With ESANet, the
    paper's network there, the three scales are the output of the context module and the two deepest
    skip maps, and L_MAR is summed over the second decoder's side outputs.

    variant='official' follows the released code where that changes numbers. In classification the
    mask of L_MAR is broadcast, so that L_MAR becomes the mean error of all samples times the number
    of weak ones; MAD weights columns; mining takes the softmax of the class shares. In segmentation
    each half of a Gram row is normalised separately; the entropy is that of a softmax over the
    channels of a feature map in the teacher's decoder (the pyramid's second deepest map, or the
    output of the first module of ESANet's decoder); and a single combination is weak.

    Departures from the released code in both variants: in segmentation, maps are pooled by whole
    windows instead of adaptively to 30 x 40; the first half of an odd number of columns has one
    more instead of one less; the teacher's BatchNorm stays in evaluation mode; a certain teacher
    gives no NaN; a resumed run keeps its weak combinations; nothing is mined on test data. The
    paper's text was not available beyond its first pages: formulas are those of the code and of its
    comments, which name the equations.

    Args:
        task: What the data set requires.
        alpha: Weight of L_MAD.
        beta: Weight of L_MAR.
        mining_start: First epoch, from 0, whose validation is mined.
        begin_epoch: Mining ends before this epoch; L_MAD and L_MAR start after it. A training that
            ends before starts them earlier (`late_start`).
        grid: In segmentation, the number of rows to which larger maps are pooled for L_MAD.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown, or no epoch lies between `mining_start` and
            `begin_epoch`.
    """

    version = 2
    supported_networks = ModalityDropout.supported_networks
    teacher = 'complete'
    needs_complete = True
    settings = {
        # The released run learns nothing in its epochs 0 and 1: its epochs 2 and 5 are these.
        'casia_surf': {'alpha': 30.0, 'beta': 0.5, 'mining_start': 0, 'begin_epoch': 3},
        'cefa': {'alpha': 30.0, 'beta': 0.5, 'mining_start': 0, 'begin_epoch': 3},
        'nyuv2': {'alpha': 4.0, 'beta': 0.2, 'mining_start': 6, 'begin_epoch': 10},
        'cityscapes': {'alpha': 10.0, 'beta': 0.1, 'mining_start': 6, 'begin_epoch': 10},
        'synth_faces': {'alpha': 30.0, 'beta': 0.5, 'mining_start': 1, 'begin_epoch': 3},
        'synth_rooms': {'alpha': 4.0, 'beta': 0.2, 'mining_start': 1, 'begin_epoch': 3},
    }
    search = {'alpha': LogUniform(0.4, 300), 'beta': LogUniform(0.01, 5)}
    departure: Tensor
    strong: Tensor

    def __init__(
        self,
        task: Task,
        *,
        alpha: float = 30.0,
        beta: float = 0.5,
        mining_start: int = 2,
        begin_epoch: int = 5,
        grid: int = 30,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of mmanet', variant, ('paper', 'official'))
        if not 0 <= mining_start < begin_epoch:
            expected = f'0 to {begin_epoch - 1}, before begin_epoch'
            raise UserError(f'mmanet:mining_start: expected {expected}, found {mining_start}')
        self.alpha, self.beta = alpha, beta
        self.given_mining_start, self.given_begin_epoch = mining_start, begin_epoch
        self.grid = grid
        self.official = variant == 'official'
        self.dense = task.kind == 'segmentation'
        self.regularizer = decoder(task)
        # Buffers are part of a checkpoint: a resumed run keeps what was mined.
        self.register_buffer('departure', torch.zeros(len(task.names)))
        self.register_buffer('strong', torch.zeros(len(task.names), dtype=torch.bool))
        # A single modality has no combination without it, so that nothing need be mined.
        self._checked = len(task.names) == 1

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Tells where a training is too short for `begin_epoch`."""
        return late_term('the distillation with MAR', options['begin_epoch'] + 1, epochs)

    @property
    def begin_epoch(self) -> int:
        """The option, or an earlier epoch where the training ends before it."""
        return late_start(self.given_begin_epoch + 1, self.epochs) - 1

    @property
    def mining_start(self) -> int:
        """The option, or 0 where mining would start after it has to end."""
        return self.given_mining_start if self.given_mining_start < self.begin_epoch else 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and, after `begin_epoch`, the weighted loss_mad and loss_mar.

        Raises:
            UserError: No epoch was mined.
        """
        fused = self.fusion(self.encode(batch.inputs), batch.mask)
        maps = self.decoder.maps(fused)
        outputs = self.decoder.outputs(maps)
        losses = {'loss_task': multi_scale(self.task_loss, outputs, batch.target)}
        if self.epoch > self.begin_epoch:
            self._require_mined()
            losses['loss_mad'] = self.alpha * self.distillation(maps, batch)
            losses['loss_mar'] = self.beta * self.regularization(fused, batch)
        return losses

    def distillation(self, maps: Maps, batch: Batch) -> Tensor:
        """Returns L_MAD, unweighted.

        Args:
            maps: The student's decoder maps.
            batch: The batch; the teacher sees all that is available, whatever the mask.
        """
        teacher_decoder, known = self.teacher_maps(batch)
        with torch.no_grad():
            # The released segmentation code passes a feature map where logits are meant.
            if self.official and not isinstance(teacher_decoder, ClassificationDecoder):
                logits = teacher_decoder.feature(known)
            else:
                logits = teacher_decoder.logits(known)
        if self.dense:
            pairs = zip(maps[-3:], known[-3:], strict=True)
            return total(self.pixel_distillation(s, t, logits) for s, t in pairs)
        mad = column_weighted_distillation if self.official else margin_aware_distillation
        return mad(maps[-1].flatten(1), known[-1].flatten(1), logits)

    def teacher_maps(self, batch: Batch) -> tuple[Decoder, Maps]:
        """Returns the teacher's decoder and the decoder's maps of all that is available."""
        teacher_network = cast(ModalityDropout, self.teacher_network)
        with torch.no_grad():
            features = teacher_network.encode(batch.inputs)
            fused = teacher_network.fusion(features, batch.available)
            return teacher_network.decoder, teacher_network.decoder.maps(fused)

    def pixel_distillation(self, student: Tensor, teacher: Tensor, logits: Tensor) -> Tensor:
        """Returns L_MAD with the pixels of the batch as samples, at one scale.

        Args:
            student: Map (B, C, H, W).
            teacher: Map (B, C', H, W).
            logits: The teacher's logits (B, K, H', W') at any resolution.
        """
        # Whole windows, because the backward pass of adaptive pooling is not deterministic on CUDA.
        window = -(-student.shape[2] // self.grid)
        student, teacher = (F.avg_pool2d(x, window, ceil_mode=True) for x in (student, teacher))
        # The teacher has no gradient, so that adaptive pooling is harmless here.
        height, width = student.shape[2:]
        logits = F.adaptive_avg_pool2d(logits.float(), (height, width))
        parts = 2 if self.official else 1
        return margin_aware_distillation(pixels(student), pixels(teacher), pixels(logits), parts)

    def regularization(self, fused: Maps, batch: Batch) -> Tensor:
        """Returns L_MAR, unweighted: the second decoder's loss on samples with a weak mask."""
        criterion = functools.partial(self.weak_loss, self.weak(batch.mask))
        outputs = self.regularizer.outputs(self.regularizer.maps(fused))
        return multi_scale(criterion, outputs, batch.target)

    def weak_loss(self, weak: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the cross-entropy of the weak samples.

        In classification their errors are summed and divided by B (Eq. 14); in segmentation the
        mean over their labelled pixels is taken, by class weight as in the task's cross-entropy.

        Args:
            weak: (B,) bool.
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W).
        """
        if self.dense:
            errors, weights = cross_entropy_sums(logits, target, weak, self.class_weights)
            # Without weak pixels both sums are 0; the bound turns 0 / 0 into 0.
            return errors / weights.clamp_min(1e-6)
        errors = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction='none')
        if self.official:
            # What a (B, 1, 1, 1) mask times (B,) errors, summed and divided by B, comes to.
            return errors.mean() * weak.sum()
        return torch.where(weak, errors, 0.0).sum() / len(weak)

    def weak(self, mask: Tensor) -> Tensor:
        """Returns which masks (B, M) are weak, (B,) bool; none is before a modality was mined."""
        if self.dense and self.official:
            # Only the complement of the strong modality, not the smaller subsets of it.
            weak = (mask != self.strong).all(1)
        else:
            weak = mask.any(1) & ~(mask & self.strong).any(1)
        return weak & self.strong.any()

    def on_validation(self, scores: dict[str, SubsetScore]) -> None:
        """Mines the strong modality: compares each leave-one-out subset with the full set.

        Raises:
            UserError: The validation lacks one of these subsets.
        """
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
        chosen = int(self.departure.argmax())
        self.strong.zero_()[chosen] = True
        print_log(f'mmanet: strong modality {names[chosen]!r} after epoch {self.epoch}', 'current')

    def movement(self, score: SubsetScore, full: SubsetScore) -> float:
        """Returns how far a subset's predictions are from those of the full set.

        In segmentation it is the squared difference of mIoU, in classification the divergence
        KL(subset || full) of the shares of predicted classes (the paper's Eq. 10-13).

        Args:
            score: Score of the subset.
            full: Score of the full set.
        """
        if self.dense:
            return (score.metrics['mIoU'] - full.metrics['mIoU']) ** 2
        shares = torch.tensor([score.predicted, full.predicted], dtype=torch.float64)
        # 1e-6: the divergence would be infinite for a class that is never predicted.
        log_q = (shares if self.official else (shares + 1e-6).log()).log_softmax(1)
        return float(F.kl_div(log_q[1], log_q[0], reduction='sum', log_target=True))

    def _require_mined(self) -> None:
        # Reading a buffer makes the host wait for the device, so it is read once, not every step.
        if not self._checked and not self.strong.any():
            raise UserError(
                f'mmanet: no validation in epochs {self.mining_start} to {self.begin_epoch - 1}, '
                'which are mined; lower val_interval or move mining_start and begin_epoch'
            )
        self._checked = True
