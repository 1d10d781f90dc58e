"""M3AE: masked pretraining, learned substitutes for missing inputs, and self-distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import Batch, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import Maps, SegmentationDecoder
from methods.common.reconstruction import PyramidReconstruction, TrunkReconstruction
from methods.common.sequences import real_elements
from methods.modality_dropout import ModalityDropout

PACE = 5e-3 / 3e-4
"""Learning rate of the substitutes, divided by that of the network, as in the released code."""


def draw_shown(tokens: Sequence[int], mask: Tensor, ratio: float) -> tuple[Tensor, ...]:
    """Draws the tokens that masked pretraining shows.

    Every sample shows the same number of tokens, at least one. A sample whose modalities have fewer
    tokens shows all of them.

    Args:
        tokens: Number of tokens of each of the M modalities.
        mask: (B, M) bool; no token of an excluded modality is shown.
        ratio: Share of all tokens, those of excluded modalities included, that is masked.

    Returns:
        For each modality (B, tokens) bool.
    """
    columns = [there[:, None].expand(-1, n) for there, n in zip(mask.T, tokens, strict=True)]
    allowed = torch.cat(columns, 1)
    # Excluded tokens get a number below all random ones, hence the last ranks.
    lots = torch.rand(allowed.shape, device=mask.device).masked_fill(~allowed, -1.0)
    rank = lots.argsort(1, descending=True).argsort(1)
    count = max(1, int((1 - ratio) * sum(tokens)))
    return (allowed & (rank < count)).split(list(tokens), 1)


def pretraining_epochs(share: float, epochs: int) -> int:
    """Returns how many of the epochs pretrain: a share of them, but one where there are two."""
    return max(round(share * epochs), 1 if share and epochs > 1 else 0)


@METHODS.register_module('m3ae')
class M3AE(ModalityDropout):
    """Multimodal masked auto-encoder with learned substitutes for missing inputs.

    Liu et al., M3AE: Multimodal Representation Learning for Brain Tumor Segmentation with Missing
    Modalities, AAAI 2023 (arXiv 2303.05302). Each modality has a learned input s of its full size,
    which replaces everything that the network may not see. Training has two stages:

    - Pretraining. Missing modalities and random patches of the others are masked, and the network
      reconstructs all inputs x: L = MSE(x, xhat) + smoothness ||s - mean(s)||.
    - Fine-tuning with s frozen. Every sample is seen under two masks, with deep features f_1, f_2:
      L = (L_task,1 + L_task,2) / 2 + consistency MSE(f_1, f_2).

    As in the released code, 1/8 of all patches is shown; s starts as noise and, with Adam, learns
    50/3 times as fast as the network; its mean is taken per channel, and the norm over all s
    together.

    Adaptations of this project. The original is one network on the stacked modalities; here the
    suite's encoders, which inputs of any shapes have, and its fusion are used. Testing replaces
    whole modalities, and the encoded s can be selected instead of the input, with the same result
    (the FLOPs include the encoding of s, which a deployed network would store). In segmentation all
    layers but the last are pretrained, as in the original; a classifier has no decoder of images
    and uses U-HVED's. Masks come from the protocol's sampler; the second mask of a sample is that
    of its neighbour in the batch. An image has `patches` patches along a side (in the original, of
    16 voxels), the tokens of a sequence are its frames, those of a vector its elements. The
    reconstruction covers what the data have, with equal weight for all modalities. The original
    pretrains for 600 epochs and tunes for 300, each with its own schedule; under a common schedule
    so late a fine-tuning would have almost no learning rate left, hence a share of one third.

    The paper's text was not available: the formulas are those of the released code. Departures from
    it: f is the last map of the classification trunk or the deepest fused map, which is the
    bottleneck of its branches with pixel weights and with three views, whereas the branch that its
    script selects compares a coarse output of the decoder; and the norm in the smoothness is not
    rescaled, although it grows with the size of the inputs.

    Args:
        task: What the data set requires.
        pretraining: Share of the epochs that pretrains.
        mask_ratio: Share of the patches that pretraining masks.
        patches: Number of patches along a side of an image.
        smoothness: Weight of the substitutes' distance from their mean.
        consistency: Weight of the distance between the two views' features.

    Raises:
        UserError: A share is not from 0 to below 1, or `patches` is below 1.
    """

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
        # A step of Adam is about as long as the learning rate, whatever the gradient. Parameters
        # that are stored divided by PACE therefore move PACE times as fast.
        self.learned = nn.ParameterDict(
            {m.name: nn.Parameter(torch.randn(m.shape) / PACE) for m in task.modalities}
        )
        self.reconstruction: nn.Module
        if isinstance(self.decoder, SegmentationDecoder):
            self.reconstruction = PyramidReconstruction(task, self.decoder)
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
        """Returns modality name -> s (*shape)."""
        found = {}
        for m in self.task.modalities:
            s = PACE * self.learned[m.name]
            # The last feature of a padded sequence marks real frames: all frames of s are real.
            found[m.name] = F.pad(s[:, :-1], (0, 1), value=1.0) if m.padded else s
        return found

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Decodes the features, with those of the substitutes where the mask excludes a modality.

        For evaluation mode only: a substitute is encoded as a batch of one, from which batch
        normalisation could not compute statistics.

        Args:
            features: Modality name -> maps.
            mask: (B, M) bool.
        """
        encoded = self.encoders({name: s[None] for name, s in self.substitutes().items()})
        filled = {}
        for name, there in zip(self.task.names, mask.T, strict=True):
            maps = features.get(name, encoded[name])
            pairs = zip(maps, encoded[name], strict=True)
            filled[name] = tuple(torch.where(there[:, None, None, None], x, s) for x, s in pairs)
        return self.decoder(self.fusion(filled, torch.ones_like(mask)))

    def maps(
        self,
        inputs: Mapping[str, Tensor],
        shown: Mapping[str, Tensor],
        substitutes: Mapping[str, Tensor],
    ) -> Maps:
        """Returns the decoder's maps of inputs that are replaced where they are not shown.

        Args:
            inputs: Modality name -> (B, *shape).
            shown: Modality name -> bool, which broadcasts to (B, *shape).
            substitutes: Modality name -> (*shape).
        """
        seen = {n: torch.where(shown[n], x, substitutes[n]) for n, x in inputs.items()}
        some = next(iter(seen.values()))
        nothing_lacks = torch.ones(len(some), len(seen), dtype=torch.bool, device=some.device)
        return self.decoder.maps(self.fusion(self.encoders(seen), nothing_lacks))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms of the running stage."""
        if self.epoch < self.pretraining_epochs:
            return self.pretrain(batch)
        return self.finetune(batch)

    def pretrain(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_reconstruction and the weighted loss_smoothness."""
        substitutes = self.substitutes()
        maps = self.maps(batch.inputs, self.shown_patches(batch.mask), substitutes)
        return {
            'loss_reconstruction': self.error(self.reconstruction(maps), batch),
            'loss_smoothness': self.smoothness * self.departure(substitutes),
        }

    def shown_patches(self, mask: Tensor) -> dict[str, Tensor]:
        """Draws what pretraining shows.

        Args:
            mask: (B, M) bool.

        Returns:
            Modality name -> bool, which broadcasts to (B, *shape).
        """
        modalities = self.task.modalities
        tokens = [self.patches**2 if m.kind == 'image' else m.shape[0] for m in modalities]
        shown = {}
        drawn = draw_shown(tokens, mask, self.mask_ratio)
        for m, found in zip(modalities, drawn, strict=True):
            shown[m.name] = found[:, :, None] if m.kind == 'sequence' else found
            if m.kind == 'image':
                grid = found.unflatten(1, (1, self.patches, self.patches)).float()
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

    def departure(self, substitutes: Mapping[str, Tensor]) -> Tensor:
        """Returns the norm of the differences between the substitutes and their channels' means.

        Each element of a vector is a channel and equals its own mean.
        """
        axes = {'image': (1, 2), 'sequence': (0,)}
        apart = [
            (s - s.mean(axes[m.kind], keepdim=True) if m.kind in axes else 0 * s).flatten()
            for m, s in ((m, substitutes[m.name]) for m in self.task.modalities)
        ]
        return torch.linalg.vector_norm(torch.cat(apart))

    def finetune(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task of both views and the weighted loss_consistency between them."""
        mask = torch.cat([batch.mask, self.second_view(batch)])
        shown = {
            m.name: there.view(-1, *[1] * len(m.shape))
            for m, there in zip(self.task.modalities, mask.T, strict=True)
        }
        # Both views in one pass, so that batch normalisation sees them in one batch.
        twice = {name: torch.cat([x, x]) for name, x in batch.inputs.items()}
        frozen = {name: s.detach() for name, s in self.substitutes().items()}
        maps = self.maps(twice, shown, frozen)
        target = torch.cat([batch.target, batch.target])
        first, second = maps[-1].float().chunk(2)
        return {
            'loss_task': self.task_loss(self.decoder.logits(maps), target),
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
