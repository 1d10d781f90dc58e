"""M3AE: masked pretraining, learned substitutes for missing inputs, and self-distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.early_fusion import LateFusion, StackedEncoder, stackable
from methods.common.losses import sigmoid_loss, total
from methods.common.networks import Maps, SegmentationDecoder, decoder, fused_channels
from methods.common.reconstruction import (
    PyramidReconstruction,
    TrunkReconstruction,
    VolumeReconstruction,
    draw_shown,
)
from methods.common.resize import bilinear
from methods.common.sequences import real_elements
from methods.common.substitutes import at, departure, learned_inputs, substitutes
from methods.common.unet3d import VolumeDecoder

LEVELS = (2, 1)
"""Levels of the feature pyramid, 0 being the finest, that have a coarse output. In volumes they are
scales of the decoder with strides of 4 and 2, as in the released code."""
AXES = {'image': 2, 'volume': 3}
"""Kind of modality whose tokens are patches -> number of its axes."""


def pretraining_epochs(share: float, epochs: int) -> int:
    """Returns how many of the epochs pretrain: a share of them, but one where there are two."""
    return max(round(share * epochs), 1 if share and epochs > 1 else 0)


@METHODS.register_module('m3ae')
class M3AE(Method):
    """Multimodal masked auto-encoder with learned substitutes for missing inputs.

    Liu et al., M3AE: Multimodal Representation Learning for Brain Tumor Segmentation with Missing
    Modalities, AAAI 2023 (arXiv 2303.05302). Each modality has a learned input s of its full size,
    which replaces everything that the network may not see. Training has two stages:

    - Pretraining. Missing modalities and random patches of the others are masked, and the network
      reconstructs all inputs x: L = MSE(x, xhat) + smoothness ||s - mean(s)||.
    - Fine-tuning with s frozen. Every sample is seen under two masks, with coarse logits f_1, f_2:
      L = L_task + consistency MSE(f_1, f_2), with the task loss of both views as one batch. In
      segmentation L_task is the sum over two coarse outputs and the prediction, and f the coarsest
      of them; in classification f are the logits.

    As in the released code, 1/8 of all patches is shown; s starts as noise and, with Adam, learns
    50/3 times as fast as the network; its mean is taken per channel, and the norm over all s
    together, here of the size that it has for the original's 4 x 155 x 240 x 240 elements: the root
    mean square times the root of that number, since the norm itself grows with the inputs' size.
    Inputs of one size are stacked, and one encoder reads them (early fusion). Testing therefore
    takes one pass per subset.

    Adaptations of this project. Inputs that cannot be stacked have one encoder each and the suite's
    fusion; there a substitute is encoded without regard to the others. In segmentation all
    layers but the last are pretrained, as in the original; a classifier has no decoder of images
    and uses U-HVED's. Masks come from the protocol's sampler; the second mask of a sample is that
    of its neighbour in the batch. An image has `patches` patches along a side (in the original, of
    16 voxels), the tokens of a sequence are its frames, those of a vector its elements. The
    reconstruction covers what the data have, with equal weight for all modalities. The original
    pretrains for 600 epochs and tunes for 300, each with its own schedule; under a common schedule
    so late a fine-tuning would have almost no learning rate left, hence a share of one third.

    Volumes (network=unet3d) have an s of the sides of the largest training volume, as the released
    code has for BraTS. A patch or window sees the part of s at its own place, mirrored if it is;
    beyond its end s goes on with its nearest voxel. Coarse outputs have strides of 4 and 2, as
    there. Departures: in its test that code reads s at a window's place in the box about the brain,
    to which its training adds where the box begins; here both read it at the place in the volume.
    Its fine-tuning also changes the intensities of s with those of the inputs, which here come
    first. A patch of masked pretraining is a box, of 16 voxels a side there.

    From the network's outputs on, with loss=own, whose task loss is `sigmoid_loss`, losses and
    gradients of both stages are the released code's (tests/methods/test_released_balance.py), but
    for the norm's size. No whole step is compared: its 3-D U-Net, whose initial weights are
    PyTorch's, is neither of the networks here.
    The paper's text was not available: formulas are those of the branch that its script selects.

    Args:
        task: What the data set requires.
        pretraining: Share of the epochs that pretrains.
        mask_ratio: Share of the patches that pretraining masks.
        patches: Number of patches along a side of an image or volume.
        smoothness: Weight of the substitutes' distance from their mean.
        consistency: Weight of the distance between the two views' coarse logits.

    Raises:
        UserError: A share is not from 0 to below 1, or `patches` is below 1.
    """

    task_kinds = KINDS
    supported_networks = ('pyramid', 'unet3d')
    version = 2
    search = {'smoothness': LogUniform(5e-4, 0.05), 'consistency': LogUniform(0.01, 10)}
    contract_exceptions = {
        'gradient': 'substitutes and the reconstruction are trained in the first stage only; '
        'tests/methods/test_m3ae.py checks the gradients of both stages'
    }

    def __init__(
        self,
        task: Task,
        *,
        pretraining: float = 1 / 3,
        mask_ratio: float = 0.875,
        patches: int = 8,
        smoothness: float = 0.005,
        consistency: float = 0.1,
    ) -> None:
        super().__init__(task)
        for name, share in (('pretraining', pretraining), ('mask_ratio', mask_ratio)):
            if not 0 <= share < 1:
                raise UserError(f'm3ae:{name}: expected 0 to below 1, found {share}')
        if patches < 1:
            raise UserError(f'm3ae:patches: expected at least 1, found {patches}')
        self.pretraining, self.mask_ratio, self.patches = pretraining, mask_ratio, patches
        self.smoothness, self.consistency = smoothness, consistency
        early = stackable(task)
        self.encode_all = StackedEncoder(task) if early else LateFusion(task)
        self.decoder = decoder(task, channels=fused_channels(task)[0] if early else None)
        # Coarse outputs at two levels of the decoder, the coarser one first.
        self.sides = nn.ModuleList(
            nn.Conv3d(fused_channels(task)[k], len(task.classes), 1)
            if task.volumes
            else nn.Conv2d(2 * task.width, len(task.classes), 1)
            for k in LEVELS
            if task.kind == 'segmentation'
        )
        self.learned = learned_inputs(task)
        self.reconstruction: nn.Module
        if isinstance(self.decoder, SegmentationDecoder):
            self.reconstruction = PyramidReconstruction(task, self.decoder)
        elif isinstance(self.decoder, VolumeDecoder):
            self.reconstruction = VolumeReconstruction(task, self.decoder)
        else:
            self.reconstruction = TrunkReconstruction(task, self.decoder.channels)

    @property
    def pretraining_epochs(self) -> int:
        """Number of epochs that pretrain; one at least if there are two."""
        return pretraining_epochs(self.pretraining, self.epochs)

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Tells where a training is too short for any pretraining."""
        if options['pretraining'] == 0 or pretraining_epochs(options['pretraining'], epochs):
            return []
        return ['pretraining is left out, because the training has only one epoch']

    def substitutes(self) -> dict[str, Tensor]:
        """Returns modality name -> s (*shape), of volumes (C, *extents)."""
        return substitutes(self.learned, self.task)

    def predict(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the logits of inputs in which substitutes replace what the mask excludes.

        Args:
            inputs: Modality name -> (B, *shape); a modality that is left out is replaced.
            mask: (B, M) bool.
        """
        return self.predict_at(inputs, mask)

    def predict_at(
        self, inputs: dict[str, Tensor], mask: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Returns what `predict` does, for patches at known places in their volumes."""
        seen = at(self.substitutes(), self.task, places)
        given = {
            m.name: inputs.get(m.name, seen[m.name].expand(len(mask), *m.shape))
            for m in self.task.modalities
        }
        return self.decoder(self.maps(given, self.shown_modalities(mask), seen))

    def maps(
        self,
        inputs: Mapping[str, Tensor],
        shown: Mapping[str, Tensor],
        seen: Mapping[str, Tensor],
    ) -> Maps:
        """Returns the fused maps of inputs that are replaced where they are not shown.

        Args:
            inputs: Modality name -> (B, *shape).
            shown: Modality name -> bool, which broadcasts to (B, *shape).
            seen: What stands in for the rest, modality name -> (*shape) or (B, *shape).
        """
        return self.encode_all({n: torch.where(shown[n], x, seen[n]) for n, x in inputs.items()})

    def shown_modalities(self, mask: Tensor) -> dict[str, Tensor]:
        """Returns modality name -> column of mask (B, M), which broadcasts to (B, *shape)."""
        pairs = zip(self.task.modalities, mask.T, strict=True)
        return {m.name: there.view(-1, *[1] * len(m.shape)) for m, there in pairs}

    def outputs(self, maps: Maps) -> list[Tensor]:
        """Returns all logits that are supervised, the coarsest first and the prediction last."""
        if not isinstance(self.decoder, SegmentationDecoder | VolumeDecoder):
            return [self.decoder(maps)]
        whole, size = self.decoder, self.decoder.size
        levels = whole.levels(maps) if isinstance(whole, VolumeDecoder) else whole.pyramid(maps)
        coarse = (side(levels[k]) for side, k in zip(self.sides, LEVELS, strict=True))
        finest = bilinear(self.decoder.head(levels), size)
        return [*(bilinear(x, size, align_corners=True) for x in coarse), finest]

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `sigmoid_loss`; arguments as in `task_loss`."""
        return sigmoid_loss(logits, target)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms of the running stage."""
        if self.epoch < self.pretraining_epochs:
            return self.pretrain(batch)
        return self.finetune(batch)

    def pretrain(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_reconstruction and the weighted loss_smoothness."""
        whole = self.substitutes()
        seen = at(whole, self.task, batch.places)
        maps = self.maps(batch.inputs, self.shown_patches(batch.mask), seen)
        maps = self.decoder.maps(maps)
        return {
            'loss_reconstruction': self.error(self.reconstruction(maps), batch),
            'loss_smoothness': self.smoothness * self.departure(whole),
        }

    def shown_patches(self, mask: Tensor) -> dict[str, Tensor]:
        """Draws what pretraining shows.

        Args:
            mask: (B, M) bool.

        Returns:
            Modality name -> bool, which broadcasts to (B, *shape).
        """
        modalities = self.task.modalities
        tokens = [
            self.patches ** AXES[m.kind] if m.kind in AXES else m.shape[0] for m in modalities
        ]
        shown = {}
        drawn = draw_shown(tokens, mask, self.mask_ratio)
        for m, found in zip(modalities, drawn, strict=True):
            shown[m.name] = found[:, :, None] if m.kind == 'sequence' else found
            if m.kind in AXES:
                grid = found.unflatten(1, (1, *[self.patches] * AXES[m.kind])).float()
                shown[m.name] = F.interpolate(grid, m.shape[1:], mode='nearest').bool()
        return shown

    def error(self, drawn: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Returns the mean squared error over elements, then over all available modalities.

        Args:
            drawn: The reconstructions, modality name -> (B, *shape).
            batch: The batch.
        """
        errors = []
        for m, there in zip(self.task.modalities, batch.available.T, strict=True):
            x = batch.inputs[m.name]
            real = real_elements(m, x).flatten(1)
            # Selected before it is squared: a NaN in an element that does not count would reach the
            # gradient of the square, whatever is selected afterwards.
            gap = (drawn[m.name].float() - x).flatten(1).where(real & there[:, None], 0.0)
            errors.append(gap.square().sum(1) / real.sum(1).clamp_min(1))
        return torch.stack(errors).sum() / batch.available.sum()

    def departure(self, whole: Mapping[str, Tensor]) -> Tensor:
        """Returns how far the substitutes are from their channels' means, as a norm."""
        return departure(whole, self.task)

    def finetune(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task of both views and the weighted loss_consistency between them."""
        shown = self.shown_modalities(torch.cat([batch.mask, self.second_view(batch)]))
        # Both views in one pass, so that batch normalisation sees them in one batch.
        twice = {name: torch.cat([x, x]) for name, x in batch.inputs.items()}
        frozen = {name: s.detach() for name, s in self.substitutes().items()}
        places = None if batch.places is None else torch.cat([batch.places, batch.places])
        outputs = self.outputs(self.maps(twice, shown, at(frozen, self.task, places)))
        target = torch.cat([batch.target, batch.target])
        first, second = outputs[0].float().chunk(2)
        return {
            'loss_task': total(self.task_loss(logits, target) for logits in outputs),
            'loss_consistency': self.consistency * F.mse_loss(first, second),
        }

    def second_view(self, batch: Batch) -> Tensor:
        """Returns the second mask of every sample, (B, M) bool: that of the previous sample.

        Samples come in random order, and their masks are drawn independently, so that this is
        another draw. Modalities that the sample lacks are excluded; a sample for which nothing
        would remain keeps its own mask.
        """
        other = batch.mask.roll(1, 0) & batch.available
        return torch.where(other.any(1, keepdim=True), other, batch.mask)
