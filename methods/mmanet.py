"""MMANet: distillation from a complete teacher, and a second decoder for weak combinations."""

from __future__ import annotations

import functools
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.logging import print_log
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, SubsetScore, Task, late_start, late_term
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.distillation import (
    column_weighted_distillation,
    margin_aware_distillation,
    pixels,
    pooled,
)
from methods.common.losses import cross_entropy_sums, multi_scale, total, weighted_errors
from methods.common.mining import departures
from methods.common.moments import MomentFusion
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
    combination, without the strong modality: that whose absence changes the predictions on the
    validation split most, as mined in the first epochs.

    In segmentation every pixel of the batch is a sample of L_MAD, at the three deepest scales, and
    mining compares mIoU instead of predicted classes, as in the released code. With ESANet, these
    scales are the output of the context module and the two deepest skip maps, and L_MAR is summed
    over the second decoder's side outputs.

    With fusion='moments' the network and its second decoder fuse as HeMIS does, as the released
    code can; the teacher concatenates. `weak` names the combinations of L_MAR: 'mined', or, as
    references, 'single' modalities or 'all'. `beta=0` leaves L_MAR out, `alpha=0` L_MAD.

    variant='official' follows the released code where that changes numbers. In classification the
    mask of L_MAR is broadcast, so that L_MAR becomes the mean error of all samples times the number
    of weak ones; MAD weights columns; mining takes the softmax of the class shares. In segmentation
    each half of a Gram row is normalised separately; the entropy is that of a softmax over the
    channels of a map in the teacher's decoder (the pyramid's second deepest, or the output of the
    first module of ESANet's); and a single combination is weak. A step on faces and one of ESANet
    are tested against figures of the released code: every term, the gradient of every weight. That
    code trains with cross-entropy alone (`loss=ce`).

    Departures in both variants: the teacher's BatchNorm stays in evaluation mode; a certain teacher
    gives no NaN; nothing is mined on test data; a map pooled to `grid` rows keeps its columns if
    they are fewer than the grid's (40 in that code); in segmentation the second decoder has L_MAR
    in every batch, where that code gives it to the main one if RGB alone is weak and no sample of
    the batch has depth alone. Only the paper's first pages were at hand.

    On CREMA-D and Kinetics-Sounds DMRNet's authors have L_MAD from the beginning, and L_MAR on both
    single modalities without mining. Not followed of their audio-visual code is: DMRNet's Gaussian
    in the student, with 0.001 KL after epoch 5, L_MAR of the deployed head, and L_MAD between the
    pooled vectors of both modalities, masked and joined.

    Args:
        task: What the data set requires.
        alpha: Weight of L_MAD.
        beta: Weight of L_MAR.
        mining_start: First epoch, from 0, whose validation is mined.
        begin_epoch: Mining ends before this epoch; L_MAR and, by default, L_MAD start after it. A
            training that ends before starts them earlier (`late_start`).
        mad_after: L_MAD starts after this epoch, -1 from the beginning; 'auto' for `begin_epoch`.
        grid: In segmentation, rows to which larger maps are pooled for L_MAD; 4/3 as many columns.
        weak: The combinations of L_MAR: 'mined', 'single' or 'all'.
        fusion: 'concat' or 'moments'.
        variant: 'paper' or 'official'.

    Raises:
        UserError: A choice is unknown, fusion=moments meets a network that fuses while it encodes,
            or no epoch lies between `mining_start` and `begin_epoch`.
    """

    version = 2
    official_loss = 'ce'
    mines = {'weak': 'mined'}
    only_with = {'mining_start': ('weak', ('mined',))}
    shares_convolution = True
    supported_networks = ('pyramid', 'esanet')
    teacher = 'complete'
    needs_complete = True
    settings = {
        # The released run learns nothing in epochs 0 and 1; its 2 and 5 are these.
        'casia_surf': {'alpha': 30.0, 'beta': 0.5, 'mining_start': 0, 'begin_epoch': 3},
        'cefa': {'alpha': 30.0, 'beta': 0.5, 'mining_start': 0, 'begin_epoch': 3},
        'nyuv2': {'alpha': 4.0, 'beta': 0.2, 'mining_start': 6, 'begin_epoch': 10},
        'cityscapes': {'alpha': 10.0, 'beta': 0.1, 'mining_start': 6, 'begin_epoch': 10},
        'crema_d': {'alpha': 0.5, 'beta': 0.01, 'mad_after': -1, 'weak': 'single'},
        'kinetics_sounds': {'alpha': 0.5, 'beta': 0.01, 'mad_after': -1, 'weak': 'single'},
    }
    search = {'alpha': LogUniform(0.05, 300), 'beta': LogUniform(0.001, 5)}
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
        mad_after: int | Literal['auto'] = 'auto',
        grid: int = 30,
        weak: Literal['mined', 'single', 'all'] = 'mined',
        fusion: Literal['concat', 'moments'] = 'concat',
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        _check(variant=(variant, 'paper', 'official'), weak=(weak, 'mined', 'single', 'all'))
        _check(fusion=(fusion, 'concat', 'moments'))
        if not 0 <= mining_start < begin_epoch:
            told = f'expected 0 to {begin_epoch - 1}, before begin_epoch, found {mining_start}'
            raise UserError(f'mmanet:mining_start: {told}')
        self.alpha, self.beta, self.grid = alpha, beta, grid
        self.given_mining_start, self.given_begin_epoch = mining_start, begin_epoch
        self.given_mad_after, self.combinations = mad_after, weak
        self.official, self.dense = variant == 'official', task.kind == 'segmentation'
        channels = MomentFusion.channels(task) if fusion == 'moments' else None
        if fusion == 'moments':
            self.fusion = MomentFusion(task, official=self.official)
            self.decoder = decoder(task, channels)
        self.regularizer = decoder(task, channels)
        # Buffers are part of a checkpoint: a resumed run keeps what was mined.
        self.register_buffer('departure', torch.zeros(len(task.names)))
        self.register_buffer('strong', torch.zeros(len(task.names), dtype=torch.bool))
        self._checked = weak != 'mined' or len(task.names) == 1

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Tells where a training is too short for `begin_epoch`."""
        begin, mad = options['begin_epoch'], options['mad_after']
        if mad == 'auto':
            return late_term('the distillation with MAR', begin + 1, epochs)
        return late_term('L_MAD', mad + 1, epochs) + late_term('L_MAR', begin + 1, epochs)

    @property
    def begin_epoch(self) -> int:
        """The option, or an earlier epoch where the training ends before it."""
        return late_start(self.given_begin_epoch + 1, self.epochs) - 1

    @property
    def mad_after(self) -> int:
        """The epoch after which L_MAD starts."""
        given = self.given_mad_after
        return self.begin_epoch if given == 'auto' else late_start(int(given) + 1, self.epochs) - 1

    @property
    def mining_start(self) -> int:
        """The option, or 0 where mining would start after it has to end."""
        return self.given_mining_start if self.given_mining_start < self.begin_epoch else 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and, after their starts, the weighted loss_mad and loss_mar.

        Raises:
            UserError: No epoch was mined.
        """
        fused = self.fusion(self.encode(batch.inputs), batch.mask)
        maps = self.decoder.maps(fused)
        outputs = self.decoder.outputs(maps)
        losses = {'loss_task': multi_scale(self.task_loss, outputs, batch.target)}
        if self.epoch > self.mad_after:
            losses['loss_mad'] = self.alpha * self.distillation(maps, batch)
        if self.epoch > self.begin_epoch:
            self._require_mined()
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
            return teacher_network.decoder, self.compared(teacher_network.decoder, fused)

    def compared(self, network: Decoder, fused: Maps) -> Maps:
        """Returns the maps of a decoder that the distillation compares."""
        return network.maps(fused)

    def pixel_distillation(self, student: Tensor, teacher: Tensor, logits: Tensor) -> Tensor:
        """Returns L_MAD with the pixels of the batch as samples, at one scale.

        Args:
            student: Map (B, C, H, W).
            teacher: Map (B, C', H, W).
            logits: The teacher's logits (B, K, H', W') at any resolution.
        """
        student, teacher = (pooled(x, self.grid) for x in (student, teacher))
        # The teacher has no gradient, so that adaptive pooling is harmless here.
        logits = F.adaptive_avg_pool2d(logits.float(), (student.shape[2], student.shape[3]))
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
        mean over their labelled pixels is taken. All are counted by class weight, as in the task's.

        Args:
            weak: (B,) bool.
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W).
        """
        if self.dense:
            errors, weights = cross_entropy_sums(logits, target, weak, self.class_weights)
            return errors / weights.clamp_min(1e-6)  # 0, not 0 / 0, without weak pixels
        errors, weights = weighted_errors(logits, target, self.class_weights.float())
        count = weights.sum() if self.task.class_weights else len(weak)
        if self.official:
            # What a (B, 1, 1, 1) mask times (B,) errors, summed and divided by B, comes to.
            return errors.sum() / count * weak.sum()
        return torch.where(weak, errors, 0.0).sum() / count

    def weak(self, mask: Tensor) -> Tensor:
        """Returns which masks (B, M) are weak, (B,) bool; none is before a modality was mined."""
        if self.combinations != 'mined':
            return mask.any(1) if self.combinations == 'all' else mask.sum(1) == 1
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
        mines = self.combinations == 'mined' and len(names) > 1
        if not (mines and self.mining_start <= self.epoch < self.begin_epoch):
            return
        moved = departures(names, scores, self.dense, self.official)
        self.departure += self.departure.new_tensor(moved)
        chosen = int(self.departure.argmax())
        self.strong.zero_()[chosen] = True
        print_log(f'mmanet: strong modality {names[chosen]!r} after epoch {self.epoch}', 'current')

    def _require_mined(self) -> None:
        # Reading a buffer makes the host wait for the device: not in every step.
        if not self._checked and not self.strong.any():
            raise UserError(
                f'mmanet: no validation in epochs {self.mining_start} to {self.begin_epoch - 1}, '
                'which are mined; lower val_interval or move mining_start and begin_epoch'
            )
        self._checked = True


def _check(**options: tuple[str, ...]) -> None:
    for option, (given, *choices) in options.items():
        if given not in choices:
            raise unknown(f'{option} of mmanet', given, choices)
