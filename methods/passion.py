"""PASSION: the fused prediction teaches every modality; weak modalities are supervised more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, Task, one_hot
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.encoders import fused_channels
from methods.common.initial import draw_by_inputs
from methods.common.losses import labels_of, log_odds, segmentation_loss, total
from methods.common.networks import ClassificationDecoder, Maps, SegmentationDecoder, decoder
from methods.common.resize import bilinear
from methods.common.self_distillation import (
    clamped_divergence,
    divergence,
    pairs,
    prototype_gaps,
    rebalanced,
    weak,
)
from methods.common.unet3d import VolumeDecoder
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('passion')
class Passion(ModalityDropout):
    """Preference-aware self-distillation.

    Shi, Shang, Sun, Yu, Yang & Yan, PASSION: Towards Effective Incomplete Multi-Modal Medical Image
    Segmentation with Imbalanced Missing Rates, ACM MM 2024 (arXiv 2407.14796). It is made for
    training gaps that are more frequent in one modality than in another. The network predicts from
    all modalities of a sample's mask (the teacher, without gradient) and from each of them alone
    (the students), so that modalities that are seen rarely learn from the others:

        L = L_task + separate sum_m s_m b_m L_m + distillation sum_m b_m KL_m
            + prototypes sum_m s_m P_m

    KL_m is the `divergence` of student m from the teacher. P_m compares, for each class, the
    cosines of the features with the class's prototype, their mean over the class, in the student
    and in the teacher; D_m is the mean absolute difference of these cosines (`prototype_gaps`).
    L_m is the task loss of a second decoder, which all modalities share, on modality m alone.
    s_m is 1 where the batch prefers other modalities, that is where D_m is larger than the mean
    (`weak`), else 0. After each epoch the weights b, which start at one, move towards modalities
    that are far from the teacher (`rebalanced`). The terms of a modality are averages over the
    samples whose mask holds it, estimated as a batch's sum divided by the share of samples that
    have shown it so far.

    Adaptations of this project. The released code is a plug-in for networks that segment volumes;
    here it is one for the plain network (`modality_dropout`), of images or, with network=unet3d, of
    volumes. Prototypes are those of each sample on the finest decoded map, in two
    dimensions that of the feature pyramid, on which a label counts by the share of its pixels. In
    classification the samples of the batch take the place of pixels, and the pooled features of the
    last stage that of the map. The sampler draws masks, where that code has what a sample lacks for
    the whole training (its mode `idt`), as sampler=complete with gaps does here; its factor (all
    samples) / (samples with m) counts the data's gaps, here the masks. A sample without m takes
    part in the student's pass with all that its mask holds, and in no term.

    The paper's text was not available: the formulas and weights are those of the released code, and
    KL is taken in its usual sense. variant='official' follows that code in these points: KL is
    averaged over classes, and probabilities are at least 0.005 in it; in segmentation each map of
    the pyramid (of volumes, each coarser one) predicts, too, with the weights 1/2, 1/4 and so on
    from the finest to the coarsest, is supervised (in place of the deep supervision of that code's
    networks) and teaches, resized with aligned corners; the rate grows 1.5-fold before the first
    update of b and after every 100 epochs; initial weights as in `rfnet:variant=official`.
    Departures in both variants: losses are averages, not sums, over a batch; a class counts if the
    sample has it, there if all samples of the batch do (whose size is 1); one of mmFormer's four
    students gets another modality's map by a slip. From the decoders' outputs on, with RFNet's
    loss (loss=own) and maps of one size, official losses, gradients, D and the next b are that
    code's (tests/methods/test_released_newest.py). No whole step is compared, since its networks
    (RFNet, mmFormer, M2FTrans) are not the plain one.

    Args:
        task: What the data set requires.
        separate: Weight of the second decoder's losses.
        distillation: Weight of KL.
        prototypes: Weight of the comparison of prototypes.
        temperature: T, the temperature of KL.
        rate: Step size of b.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown, or the temperature is not positive.
    """

    version = 1
    official_loss = 'own'
    shares_convolution = True
    supported_networks = ('pyramid', 'unet3d')  # one less
    search = {
        'distillation': LogUniform(0.05, 5),
        'prototypes': LogUniform(0.01, 1),
        'rate': LogUniform(1e-3, 0.1),
    }
    weights: Tensor
    shown: Tensor
    distances: Tensor

    def __init__(
        self,
        task: Task,
        *,
        separate: float = 1.0,
        distillation: float = 0.5,
        prototypes: float = 0.1,
        temperature: float = 4.0,
        rate: float = 0.01,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of passion', variant, ('paper', 'official'))
        if temperature <= 0:
            raise UserError(f'passion:temperature: expected more than 0, found {temperature}')
        self.factors = separate, distillation, prototypes
        self.temperature, self.rate = temperature, rate
        self.official = variant == 'official'
        count, channels = len(task.names), fused_channels(task)
        self.separate = decoder(task, channels[0])
        self.sides = nn.ModuleList()
        if self.official and task.kind == 'segmentation':
            conv = nn.Conv3d if task.volumes else nn.Conv2d
            sides = channels[1:] if task.volumes else [2 * task.width] * len(channels)
            self.sides.extend(conv(c, len(task.classes), 1) for c in sides)
        # Buffers are part of a checkpoint: a resumed run goes on with these weights and counts.
        self.register_buffer('weights', torch.ones(count))
        # Samples whose mask held each modality, and all samples: of the training, of the epoch.
        self.register_buffer('shown', torch.zeros(2, 1 + count, dtype=torch.int64))
        self.register_buffer('distances', torch.zeros(count))
        self._opened = -1  # the epoch whose distances are being added up, in this process

    def init_weights(self) -> None:
        """Draws the initial weights of the official variant."""
        super().init_weights()
        if self.official:
            draw_by_inputs(self)

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `segmentation_loss`; arguments as in `task_loss`."""
        return segmentation_loss(logits, target)

    def open_epoch(self) -> None:
        """Moves the weights by the distances of the epoch that has ended, and starts new sums."""
        growth = 1.5 ** (1 + (self.epoch - 1) // 100) if self.official else 1.0
        counts = self.shown[1, 1:]
        means = self.distances / counts.clamp_min(1)
        # A modality that no sample has shown keeps its weight, but for the norm.
        known = counts > 0
        mean = torch.where(known, means, 0.0).sum() / known.sum().clamp_min(1)
        means = torch.where(known, means, mean)
        self.weights.copy_(rebalanced(self.weights, means, self.rate * growth))
        self.distances.zero_()
        self.shown[1].zero_()
        self._opened = self.epoch

    def views(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Returns fused maps of (M + 1) B rows: under the mask (B, M), then of each modality alone.

        All are fused and decoded together, so that batch normalisation has one kind of statistics.
        """
        count = mask.shape[1]
        alone = torch.eye(count, dtype=torch.bool, device=mask.device)
        # Without this modality the sample is seen as in the teacher's pass: an empty mask is none.
        masks = [mask, *(torch.where(mask[:, m : m + 1], alone[m], mask) for m in range(count))]
        repeated = {
            name: tuple(x.repeat(count + 1, *[1] * (x.ndim - 1)) for x in maps)
            for name, maps in features.items()
        }
        return self.fusion(repeated, torch.cat(masks))

    def decoded(self, fused: Maps) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Decodes fused maps of R rows.

        Returns:
            Logits; features (R, C, H, W) for prototypes; the logits of other maps.
        """
        if isinstance(self.decoder, ClassificationDecoder):
            maps = self.decoder.maps(fused)
            return self.decoder.logits(maps), maps[-1].mean((2, 3), keepdim=True), []
        # What the decoder's forward does, in two steps, because its maps are needed twice.
        dense = cast('SegmentationDecoder | VolumeDecoder', self.decoder)
        if isinstance(dense, VolumeDecoder):
            # The finest of these maps is the one that predicts.
            levels = dense.levels(fused)
            others = levels[1:]
        else:
            levels = others = dense.pyramid(fused)
        # Without sides, zip ends at once.
        sides = [side(x) for side, x in zip(self.sides, others, strict=False)]
        return self.upsample(dense.head(levels)), levels[0], sides

    def upsample(self, x: Tensor, corners: bool = False) -> Tensor:
        """Resizes (B, K, H, W) to the resolution of the labels; `corners` aligns them."""
        return bilinear(x, self.task.modalities[0].shape[1:], corners)

    def divergences(self, logits: Tensor, sides: Sequence[Tensor], count: int) -> Tensor:
        """Returns KL of each modality's student from the teacher, (M, B).

        Args:
            logits: (R, K) or (R, K, H, W); the first of M + 1 parts is the teacher's.
            sides: Logits of the pyramid's maps, (R, K, H', W').
            count: M.
        """
        if not self.official:
            return divergence(*pairs(logits, count), self.temperature).unflatten(0, (count, -1))
        p = [(x.float() / self.temperature).softmax(1) for x in (logits, *sides)]
        scales = (p[0], *(self.upsample(x, corners=True) for x in p[1:]))
        found = total(
            0.5**k * clamped_divergence(*pairs(x, count), self.temperature)
            for k, x in enumerate(scales)
        )
        return found.unflatten(0, (count, -1))

    def gaps(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns P and D of every modality and sample, (M, B); 0 where the mask lacks it.

        Args:
            features: (R, C, H, W); the first of M + 1 parts is the teacher's.
            batch: Gives labels and masks.
        """
        present, classes = batch.mask.T, len(self.task.classes)
        dense = self.task.kind == 'segmentation'
        label = one_hot(batch.target if dense else batch.target[:, None, None], classes)
        label = F.interpolate(label, list(features.shape[2:]), mode='area').flatten(2)
        members = torch.where(present[:, :, None, None], label, 0.0)

        def grouped(x: Tensor) -> Tensor:
            # In segmentation each sample is a group of pixels, else the batch one of samples.
            return x.flatten(0, 1) if dense else x.flatten(2).transpose(1, 2)

        student, teacher = (
            grouped(x.flatten(2).unflatten(0, present.shape)) for x in pairs(features, len(present))
        )
        found = prototype_gaps(student, teacher, grouped(members))
        squares, distances = (x.reshape(*present.shape, -1).mean(2) for x in found)
        return torch.where(present, squares, 0.0), torch.where(present, distances, 0.0)

    def separate_losses(self, features: dict[str, Maps], batch: Batch) -> Tensor:
        """Returns the second decoder's task loss on each modality alone, (M,)."""
        maps = zip(*(features[name] for name in self.task.names), strict=True)
        logits = self.separate(tuple(torch.cat(scale) for scale in maps))
        rows = zip(logits.chunk(len(self.task.names)), batch.mask.T, strict=True)
        return torch.stack([self.task_loss(z, labels_of(batch.target, there)) for z, there in rows])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses; the weights b are logged.

        Weights are named by number: a term whose name holds 'loss', as a modality's may, would be
        minimised.
        """
        if self._opened != self.epoch:
            self.open_epoch()
        present, rows = batch.mask.T, len(batch.mask)
        features = self.encode(batch.inputs)
        logits, maps, sides = self.decoded(self.views(features, batch.mask))
        kl = self.divergences(logits, sides, len(present))
        squares, distances = self.gaps(maps, batch)
        here = present.sum(1)
        self.shown[:, 0] += rows
        self.shown[:, 1:] += here
        self.distances += distances.detach().sum(1)
        share = self.shown[0, 1:].clamp_min(1) / self.shown[0, 0]
        b, more = self.weights / share, weak(distances.detach(), present)
        own = self.separate_losses(features, batch) * here / rows
        by_modality = (
            torch.where(more, b * own, 0.0),
            b * torch.where(present, kl, 0.0).sum(1) / rows,
            torch.where(more, squares.sum(1) / share, 0.0) / rows,
        )
        names = ('loss_separate', 'loss_distillation', 'loss_prototypes')
        losses = {n: f * x.sum() for n, f, x in zip(names, self.factors, by_modality, strict=True)}
        losses['loss_task'] = self.task_loss(logits[:rows], batch.target)
        if self.sides:
            p = (self.upsample(x[:rows].float().softmax(1), corners=True) for x in sides)
            deep = [self.task_loss(log_odds(x), batch.target) for x in p]
            losses['loss_deep'] = total(0.5 ** (k + 1) * x for k, x in enumerate(deep))
        return {**losses, **{f'weight {m}': w for m, w in enumerate(self.weights.clone())}}
