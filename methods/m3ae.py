"""M3AE: masked pretraining, learned substitutes for missing inputs, and self-distillation."""

import dataclasses
import logging

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.logging import print_log
from torch import nn

from benchmark.errors import UserError
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import decoder
from methods.common.reconstruction import ImageDecoder, VectorDecoder
from methods.common.sequences import real_elements
from methods.modality_dropout import ModalityDropout

PACE = 5e-3 / 3e-4
"""Learning rate of the substitutes as a multiple of the network's, as published."""


def draw_shown(tokens, mask, ratio):
    """Draws the tokens that masked pretraining shows.

    Args:
        tokens: Number of tokens of each modality.
        mask: (B, M) bool; of other modalities nothing is shown.
        ratio: Share of all tokens, of missing modalities too, that is masked.

    Returns:
        For each modality (B, tokens) bool. As many are shown in every sample, at least one, or
        all that its modalities have.
    """
    columns = [there[:, None].expand(-1, n) for there, n in zip(mask.T, tokens, strict=True)]
    allowed = torch.cat(columns, 1)
    lots = torch.rand(allowed.shape, device=mask.device).masked_fill(~allowed, -1.0)
    rank = lots.argsort(1, descending=True).argsort(1)
    count = max(1, int((1 - ratio) * sum(tokens)))
    return (allowed & (rank < count)).split(tokens, 1)


class TrunkReconstruction(nn.Module):
    """Reconstructs every modality from the last map of the classification trunk.

    Args:
        task: Gives the modalities.
        channels: Channels of the map.
    """

    def __init__(self, task, channels):
        super().__init__()
        self.decoders = nn.ModuleDict(
            {
                m.name: (ImageDecoder if m.kind == 'image' else VectorDecoder)((channels,), m.shape)
                for m in task.modalities
            }
        )

    def forward(self, maps):
        """Returns {modality: (B, *shape)} from the decoder's maps."""
        return {name: decode(maps) for name, decode in self.decoders.items()}


class PyramidReconstruction(nn.Module):
    """Reconstructs every modality through the segmentation decoder; only its last layer is new.

    Args:
        task: Gives the modalities.
        deployed: The segmentation decoder whose layers are pretrained.
    """

    def __init__(self, task, deployed):
        super().__init__()
        self.channels = {m.name: m.shape[0] for m in task.modalities}
        outputs = tuple(str(i) for i in range(sum(self.channels.values())))
        self.decoder = decoder(dataclasses.replace(task, classes=outputs))
        self.decoder.pyramid = deployed.pyramid
        self.decoder.head.scale_heads = deployed.head.scale_heads

    def forward(self, maps):
        """Returns {modality: (B, C, H, W)} from the fused maps."""
        parts = self.decoder.logits(maps).split(list(self.channels.values()), 1)
        return dict(zip(self.channels, parts, strict=True))


@METHODS.register_module('m3ae')
class M3AE(ModalityDropout):
    """Multimodal masked auto-encoder with substitutes for missing inputs.

    Liu et al., M3AE: Multimodal Representation Learning for Brain Tumor Segmentation with Missing
    Modalities, AAAI 2023 (arXiv 2303.05302). Each modality has a learned input s of its full size,
    which takes the place of whatever the network may not see. Two stages share the epochs:

    - Pretraining. Missing modalities and random patches of the others are masked, and the network
      reconstructs all inputs x: L = MSE(x, xhat) + smoothness ||s - mean(s)||.
    - Fine-tuning with s frozen. Every sample is seen under two masks, with deep features f_1, f_2:
      L = (CE_1 + CE_2) / 2 + consistency MSE(f_1, f_2).

    As published: 1/8 of all patches is shown; s starts as noise and, with Adam, learns 50/3 times
    as fast as the network; its mean is per channel, and the norm that of all s together.

    Adaptations of this project. The original is one network on the stacked modalities; here it is
    the suite's encoders, which inputs of any shapes have, and its fusion. Substitution stays at the
    input; testing replaces whole modalities and picks the encoded s instead, with the same result
    (FLOPs count the encoding of s, which a deployed network would keep). In segmentation all of
    the network but its last layer is pretrained, as published; a classifier has no decoder of
    images and gets U-HVED's. Masks are the table's: the second view of a sample has the mask of its
    neighbour in the batch. Images have `patches` patches along a side, as published (there of 16
    voxels), sequences frames and vectors entries. Reconstruction counts what the data have, each
    modality alike. The original pretrains for 600 epochs and tunes for 300, each with a schedule
    of its own; under one schedule so late a fine-tuning would have little learning rate left,
    hence a third. The task's loss is the suite's.

    The paper's text was not available; the formulas are those of the released code. f is the last
    map of the classification trunk or the deepest fused one, the bottleneck of that code's branches
    with pixel weights and with three views. Not reproduced is the branch of its script, which
    compares a coarse output of the decoder, weighed by running Dice.

    Args:
        task: What the dataset asks.
        pretraining: Share of the epochs that pretrains.
        mask_ratio: Share of the patches that pretraining masks.
        patches: Patches along a side of an image.
        smoothness: Weight of the substitutes' departure from their mean.
        consistency: Weight of the two views' distance.

    Raises:
        UserError: A share outside 0 to below 1, or no patch.
    """

    search = {'smoothness': LogUniform(5e-4, 0.05), 'consistency': LogUniform(0.01, 10)}
    contract_exceptions = {
        'gradient': 'substitutes and the reconstruction learn in the first stage alone, by design; '
        'tests/test_m3ae.py checks the gradients of either stage'
    }

    def __init__(
        self,
        task,
        *,
        pretraining=1 / 3,
        mask_ratio=0.875,
        patches=8,
        smoothness=0.005,
        consistency=0.1,
    ):
        super().__init__(task)
        for name, share in (('pretraining', pretraining), ('mask_ratio', mask_ratio)):
            if not 0 <= share < 1:
                raise UserError(f'm3ae:{name}: expected 0 to below 1, found {share}')
        if patches < 1:
            raise UserError(f'm3ae:patches: expected at least 1, found {patches}')
        self.pretraining, self.mask_ratio, self.patches = pretraining, mask_ratio, patches
        self.smoothness, self.consistency = smoothness, consistency
        # Adam's steps are as long as the learning rate: kept small, the substitutes move faster.
        self.learned = nn.ParameterDict(
            {m.name: nn.Parameter(torch.randn(m.shape) / PACE) for m in task.modalities}
        )
        if task.kind == 'segmentation':
            self.reconstruction = PyramidReconstruction(task, self.decoder)
        else:
            self.reconstruction = TrunkReconstruction(task, self.decoder.channels)

    @property
    def pretraining_epochs(self):
        """Number of epochs that pretrain."""
        return round(self.pretraining * self.epochs)

    def substitutes(self):
        """Returns {modality: s (*shape)}; all frames of a sequence are real."""
        found = {}
        for m in self.task.modalities:
            s = PACE * self.learned[m.name]
            found[m.name] = F.pad(s[:, :-1], (0, 1), value=1.0) if m.padded else s
        return found

    def decode(self, features, mask):
        """Decodes the features, those of the substitutes where mask (B, M) is not set.

        For evaluation mode: a substitute is encoded alone.
        """
        encoded = self.encoders({name: s[None] for name, s in self.substitutes().items()})
        filled = {}
        for name, there in zip(self.task.names, mask.T, strict=True):
            maps = features.get(name, encoded[name])
            pairs = zip(maps, encoded[name], strict=True)
            filled[name] = tuple(torch.where(there[:, None, None, None], x, s) for x, s in pairs)
        return self.decoder(self.fusion(filled, torch.ones_like(mask)))

    def maps(self, inputs, shown, substitutes):
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

    def loss(self, batch):
        """Returns the terms of the running stage."""
        if self.epoch < self.pretraining_epochs:
            return self.pretrain(batch)
        return self.finetune(batch)

    def pretrain(self, batch):
        """Returns loss_reconstruction and the weighted loss_smoothness."""
        substitutes = self.substitutes()
        maps = self.maps(batch.inputs, self.shown_patches(batch.mask), substitutes)
        return {
            'loss_reconstruction': self.error(self.reconstruction(maps), batch),
            'loss_smoothness': self.smoothness * self.departure(substitutes),
        }

    def shown_patches(self, mask):
        """Draws what pretraining shows under mask (B, M), {modality: bool like its input}."""
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

    def error(self, drawn, batch):
        """Returns the mean squared error over elements, then over all modalities there are."""
        errors = []
        for m, there in zip(self.task.modalities, batch.available.T, strict=True):
            x = batch.inputs[m.name]
            real = real_elements(m, x).flatten(1)
            # Selected before it is squared, or NaN in what is no target would reach the gradient.
            gap = (drawn[m.name].float() - x).flatten(1).where(real & there[:, None], 0.0)
            errors.append(gap.square().sum(1) / real.sum(1).clamp_min(1))
        return torch.stack(errors).sum() / batch.available.sum()

    def departure(self, substitutes):
        """Returns the norm of what substitutes differ from their channels' means.

        The entry of a vector is a channel, and its own mean.
        """
        axes = {'image': (1, 2), 'sequence': (0,)}
        apart = [
            (s - s.mean(axes[m.kind], keepdim=True) if m.kind in axes else 0 * s).flatten()
            for m, s in ((m, substitutes[m.name]) for m in self.task.modalities)
        ]
        return torch.linalg.vector_norm(torch.cat(apart))

    def finetune(self, batch):
        """Returns loss_task of both views and the weighted loss_consistency between them."""
        mask = torch.cat([batch.mask, self.second_view(batch)])
        shown = {
            m.name: there.view(-1, *[1] * len(m.shape))
            for m, there in zip(self.task.modalities, mask.T, strict=True)
        }
        twice = {name: torch.cat([x, x]) for name, x in batch.inputs.items()}
        frozen = {name: s.detach() for name, s in self.substitutes().items()}
        maps = self.maps(twice, shown, frozen)
        target = torch.cat([batch.target, batch.target])
        views = maps[-1].float().chunk(2)
        return {
            'loss_task': self.task_loss(self.decoder.logits(maps), target),
            'loss_consistency': self.consistency * F.mse_loss(*views),
        }

    def second_view(self, batch):
        """Returns every sample's second mask (B, M): the previous sample's, as far as it can.

        Samples come in random order with masks drawn one by one, so this is another draw. A
        sample of which the other mask would leave nothing keeps its own.
        """
        other = batch.mask.roll(1, 0) & batch.available
        return torch.where(other.any(1, keepdim=True), other, batch.mask)

    def on_validation(self, scores):
        """Tells of a training too short for a pretraining."""
        if self.epoch == self.epochs - 1 and not self.pretraining_epochs:
            text = f'm3ae: {self.epochs} epochs leave none for pretraining; substitutes are noise'
            print_log(text, 'current', logging.WARNING)
