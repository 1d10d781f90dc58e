"""RFNet: region-aware fusion, with a decoder shared by the modalities as its regulariser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.errors import unknown
from benchmark.method import Batch, Method, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.initial import draw_by_inputs
from methods.common.losses import labels_of, log_odds, segmentation_loss, total
from methods.common.networks import Decoder, Encoders, Maps, decoder, fused_channels, masked
from methods.common.regions import ProbabilityMaps, RegionDecoder, RegionFusion, upsample
from methods.common.resnet import map_sizes


@METHODS.register_module('rfnet')
class RFNet(Method):
    """Region-aware fusion network.

    Ding, Yu & Yang, RFNet: Region-Aware Fusion Network for Incomplete Multi-Modal Brain Tumor
    Segmentation, ICCV 2021. At every scale, coarsest first, probability maps of the classes are
    learned from the masked features and all that is decoded so far (`ProbabilityMaps`). They split
    the image into soft regions, and in each region the modalities have weights of their own
    (`RegionFusion`). No gradient flows from the fusion into the probability maps. In training a
    decoder shared by the modalities also segments from each of them alone, whatever the mask: the
    segmentation-based regulariser. All terms have weight 1, each is the protocol's task loss; with
    loss=own it is the `segmentation_loss` of the released code:

        L = [epoch >= start] L_fuse + sum_i L_sep,i + sum_scales L_prm

    L_prm supervises the probability maps at the resolution of the images. If the data have gaps,
    L_sep,i covers the samples that have modality i; without gaps it is the paper's.

    With network=unet3d volumes are trained as in the paper, by patches, with encoders and a decoder
    of its form (`methods.common.unet3d`).

    Adaptations of this project: no code of a 2-D or a
    classification form has been published. Both forms here use the suite's encoders; in
    segmentation the decoder is RFNet's (`RegionDecoder`), whose finest scale is that of the
    encoders, so that its logits are upsampled. Classification uses the suite's decoder. It has a
    single region of probability 1 and no probability maps: gated modalities beside the shortcut,
    cross-entropy as the loss, and batch normalisation, since instance normalisation is undefined
    for maps of one pixel, at which vectors are fused; scales of one pixel have batch normalisation
    in segmentation, too.

    The weighted sum of the fusion is that of the released code, whose authors call it a
    simplification; the paper's more complex fusion was not available. Convolutions pad with zeros:
    the released code asks for reflection, which the torch of its time ignored.

    Agreement with the released code: with network=unet3d, loss=own and equal weights a whole step
    is equal, every term and the gradient of every weight; the decoder of single modalities there
    joins its two inputs in the other order, which is the same function. In the 2-D form the
    probability maps, the region fusion and the loss of a scale are equal, and so are their
    gradients. The rest differs: there encoders have three 3-D convolutions per scale from full
    resolution on, and trilinear upsampling joins the scales; here the encoders are the suite's
    residual ones, and bilinear upsampling joins the scales.

    The variants differ in the initial weights, which the paper's code alone gives.
    variant='official' follows it: all convolutions, gates and heads included, and the last layer of
    a classifier, which stands for one, begin with N(0, 2 / fan_in); what was pretrained and the
    linear layers of encoders of vectors keep theirs. variant='paper' has the initial weights of the
    other methods (`kaiming` in `methods.common.resnet`; in gates, heads and RFNet's own 2-D parts
    PyTorch's default).

    Args:
        task: What the data set requires.
        fuse_start: Share of the epochs before L_fuse starts; the paper's is 20 of 300.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown.
    """

    version = 2
    official_loss = 'own'
    later = {'variant': 'paper'}
    supported_networks = ('pyramid', 'unet3d')
    ranges = {'fuse_start': Range(0, 1)}
    search = {'fuse_start': Uniform(0, 0.5)}

    def __init__(
        self,
        task: Task,
        *,
        fuse_start: float = 20 / 300,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of rfnet', variant, ('paper', 'official'))
        self.fuse_start, self.variant = fuse_start, variant
        self.encoders = Encoders(task)
        count, channels = len(task.modalities), fused_channels(task)
        norms: list[type[nn.Module]] = [nn.BatchNorm2d]
        regions, maps = 1, []
        if task.kind == 'segmentation':
            norms = self._norms(task, len(channels))
            regions, last = len(task.classes), len(channels) - 1
            maps = [
                ProbabilityMaps(count, c, regions, norm, s < last)
                for s, (c, norm) in enumerate(zip(channels, norms, strict=True))
            ]
        self.maps = nn.ModuleList(maps)
        self.fusions = nn.ModuleList(
            RegionFusion(count, c, regions, norm) for c, norm in zip(channels, norms, strict=True)
        )
        self.decoder, self.separate = (self._decoder(task, channels, norms) for _ in range(2))

    def init_weights(self) -> None:
        """Draws the initial weights of the official variant."""
        super().init_weights()
        if self.variant == 'official':
            draw_by_inputs(self)

    @staticmethod
    def _norms(task: Task, scales: int) -> list[type[nn.Module]]:
        """Returns the class of the normalisation at each scale, finest first."""
        if task.volumes:
            return [nn.InstanceNorm3d] * scales
        pixels = [math.prod(size) for size in map_sizes(task.modalities[0], scales)]
        return [nn.InstanceNorm2d if p > 1 else nn.BatchNorm2d for p in pixels]

    @staticmethod
    def _decoder(
        task: Task, channels: Sequence[int], norms: Sequence[type[nn.Module]]
    ) -> RegionDecoder | Decoder:
        if task.kind == 'classification':
            return decoder(task, channels[0])
        return RegionDecoder(channels, norms, len(task.classes), task.modalities[0].shape[1:])

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def fuse(self, features: dict[str, Maps], mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Fuses and decodes the maps of the modalities that a mask allows.

        Args:
            features: Modality name -> maps.
            mask: (B, M) bool.

        Returns:
            The decoded map (B, C, H, W) of the finest scale and the probability maps (B, R, H, W),
            finest scale first; in classification the fused map and no probability maps.
        """
        probabilities: list[Tensor] = []
        scales = [torch.stack(maps, 1) for maps in masked(features, mask, self.task.names)]
        if not isinstance(self.decoder, RegionDecoder):
            one = torch.ones_like(scales[0][:, 0, :1], dtype=torch.float32)
            return self.fusions[0](scales[0], one), []
        above: Tensor | None = None
        for s in reversed(range(len(scales))):
            maps = scales[s]
            p = self.maps[s](maps.flatten(1, 2), above)
            probabilities.insert(0, p)
            # Detached: L_fuse must not move the regions, which L_prm alone supervises.
            x = self.fusions[s](maps, p.detach())
            if above is not None:
                x = self.decoder.merge(s, x, above)
            if s:
                above = self.decoder.ascend(s - 1, x, scales[s - 1].shape[3:])
        return x, probabilities

    def logits(self, x: Tensor) -> Tensor:
        """Returns the logits of the map that `fuse` returns."""
        if isinstance(self.decoder, RegionDecoder):
            return self.decoder.logits(x)
        return self.decoder((x,))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of the fused maps; mask (B, M) bool."""
        return self.logits(self.fuse(features, mask)[0])

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `segmentation_loss`; arguments as in `task_loss`."""
        return segmentation_loss(logits, target)

    def criterion(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """Returns the task loss over some of the samples, a scalar; 0 if there are none.

        Args:
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W).
            counted: (B,) bool, the samples that the loss covers.
        """
        return self.task_loss(logits, labels_of(target, counted))

    def separate_losses(self, features: dict[str, Maps], batch: Batch) -> Tensor:
        """Returns the shared decoder's loss on each modality alone, (M,), whatever the mask.

        All modalities are decoded in one pass, stacked along the batch. Each loss covers the
        samples that have the modality.
        """
        maps = zip(*(features[name] for name in self.task.names), strict=True)
        logits = self.separate(tuple(torch.cat(scale) for scale in maps))
        pairs = zip(logits.chunk(len(self.task.names)), batch.available.T, strict=True)
        return torch.stack([self.criterion(z, batch.target, there) for z, there in pairs])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_fuse, loss_sep and, in segmentation, loss_prm."""
        features = self.encode(batch.inputs)
        fused, probabilities = self.fuse(features, batch.mask)
        # A factor of 0 keeps the term in the log and its parameters in the graph.
        started = float(self.epoch >= round(self.fuse_start * self.epochs))
        seen = batch.mask.any(1)
        losses = {
            'loss_fuse': started * self.criterion(self.logits(fused), batch.target, seen),
            'loss_sep': self.separate_losses(features, batch).sum(),
        }
        if probabilities:
            full = (log_odds(upsample(p, batch.target.shape[1:])) for p in probabilities)
            losses['loss_prm'] = total(self.criterion(z, batch.target, seen) for z in full)
        return losses
