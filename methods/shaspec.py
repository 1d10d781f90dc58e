"""ShaSpec: features of an encoder that all modalities share replace missing ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import unknown
from benchmark.method import KINDS, Batch, Method, Modality, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.encoders import ImageEncoder, PyramidEncoder, VectorEncoder
from methods.common.losses import total
from methods.common.networks import ConcatFusion, Encoders, Maps, decoder, fused_channels, masked
from methods.common.own_losses import sample_sigmoid_loss

COMPLETE = 80 / 180
"""Share of the training on complete data before modalities are dropped, in the released script."""


class SharedEncoder(nn.Module):
    """One encoder for all modalities, preceded by an adapter for each modality.

    Images differ in size and number of channels. They are averaged down to the smallest height and
    width, and a 1x1 convolution brings them to the largest number of channels. If vectors or
    sequences are among the modalities, no layer can process all inputs: then each modality has an
    encoder of its own, and the perceptron that follows is shared.

    Args:
        task: Gives modalities, kind and width.
    """

    size: tuple[int, int] | None

    def __init__(self, task: Task) -> None:
        super().__init__()
        if any(m.kind != 'image' for m in task.modalities):
            self.size = None
            encoders, channels = Encoders(task), fused_channels(task)[0]
            self.adapters: nn.ModuleDict = encoders
            self.encoder: nn.Module = VectorEncoder(Modality('shared', (channels,)), channels // 2)
            return
        channels = max(m.shape[0] for m in task.modalities)
        height, width = (min(m.shape[axis] for m in task.modalities) for axis in (1, 2))
        self.size = (height, width)
        self.adapters = nn.ModuleDict(
            {m.name: nn.Conv2d(m.shape[0], channels, 1) for m in task.modalities}
        )
        common = Modality('shared', (channels, *self.size))
        if task.kind == 'segmentation':
            self.encoder = PyramidEncoder(common, task)
        else:
            self.encoder = ImageEncoder(common, task)

    def adapt(self, name: str, x: Tensor) -> Tensor:
        """Returns a modality's inputs (B, *shape) in the common shape."""
        if self.size is None:
            return self.adapters[name](x)[0].flatten(1)
        return self.adapters[name](F.adaptive_avg_pool2d(x, self.size))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Encodes all given modalities with the shared encoder.

        Args:
            inputs: Modality name -> (B, *shape).

        Returns:
            Modality name -> maps, one per scale.
        """
        # One pass over all modalities, stacked along the batch: BatchNorm learns the statistics of
        # their mixture, which are those that it applies to each of them at test.
        stacked = torch.cat([self.adapt(name, x) for name, x in inputs.items()])
        scales = [maps.chunk(len(inputs)) for maps in self.encoder(stacked)]
        return dict(zip(inputs, zip(*scales, strict=True), strict=True))


class StandardisedConv2d(nn.Conv2d):
    """A convolution without bias, whose kernel has mean 0 and variance 1 in each output channel.

    The released script trains with such kernels (`weight_std`), and with one in the projection.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maps (B, C, H, W) of maps x (B, D, H, W)."""
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        kernel = (self.weight - mean) / (var + 1e-12).sqrt()
        return F.conv2d(x, kernel, padding=self.padding)


@METHODS.register_module('shaspec')
class ShaSpec(Method):
    """Shared-specific feature modelling.

    Wang et al., Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling,
    CVPR 2023 (arXiv 2307.14126). The shared encoder gives each modality i features r_i, and an
    encoder of its own gives it features s_i. The features of a present modality are fused by a
    residual, f_i = proj([r_i; s_i]) + r_i, with one linear proj for all modalities; those of a
    missing one are the mean of the present r. The decoder receives all f. The distribution
    alignment objective (DAO) makes the present r similar; the domain classification objective (DCO)
    is to recognise the modality from s_i alone:

        L = L_task + alpha sum_{i<j} mean|r_i - r_j| + beta mean_i CE(classifier(s_i), i)

    Terms of modalities that the mask excludes are left out. The paper trains with Dice and binary
    cross-entropy of sigmoids, which is `loss=own` here (`sample_sigmoid_loss`).

    Adaptations of this project: the suite's encoders, fusion by concatenation and decoders, hence
    batch normalisation; adapters in front of the shared encoder (`SharedEncoder`). In segmentation
    f, DAO and DCO belong to the coarsest scale, and finer scales have shared features only, as in
    the released code, with the mean of the present modalities for missing ones. Classification has
    one scale. The paper draws the number of modalities first, which is the sampler 'by_size'; here
    the protocol's sampler is used.

    variant='official' follows the released code. A missing modality is replaced by the r of one
    present modality, a random one in training and the first one in evaluation. DAO compares
    neighbours in a ring, (1, 2), (2, 3), .., (M, 1). Both objectives cover all modalities, with the
    features of zero inputs for missing ones. proj is a 3x3 convolution with a standardised kernel
    (`StandardisedConv2d`). The first 80 of 180 parts of the training use all modalities that the
    data have. Departures from that code: finer scales of a missing modality also have the stand-in
    instead of features of a zero input; DCO reads the features s themselves, which that code
    averages one layer earlier; the schedule of the learning rate does not begin anew after the
    first stage; the kernels of the encoders and of the decoder are not standardised.

    Args:
        task: What the data set requires.
        alpha: Weight of DAO.
        beta: Weight of DCO.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown.
    """

    task_kinds = KINDS
    version = 2
    official_loss = 'own'
    search = {'alpha': LogUniform(0.01, 10), 'beta': LogUniform(0.002, 0.2)}

    def __init__(
        self,
        task: Task,
        *,
        alpha: float = 0.1,
        beta: float = 0.02,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of shaspec', variant, ('paper', 'official'))
        self.alpha, self.beta = alpha, beta
        self.official = variant == 'official'
        channels, kernel = fused_channels(task)[-1], 3 if self.official else 1
        self.shared = SharedEncoder(task)
        self.specific = Encoders(task)
        convolution = StandardisedConv2d if self.official else nn.Conv2d
        self.project = convolution(2 * channels, channels, kernel, padding=kernel // 2, bias=False)
        self.classifier = nn.Linear(channels, len(task.names))
        self.fusion = ConcatFusion(task)
        self.decoder = decoder(task)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns for each modality its shared maps, then the deepest of its specific maps."""
        shared, specific = self.shared(inputs), self.specific(inputs)
        return {name: (*shared[name], specific[name][-1]) for name in inputs}

    def stand_in_weights(self, mask: Tensor) -> Tensor:
        """Returns the weights (B, M) with which present modalities replace missing ones.

        They sum to 1 over the present modalities, which the mask (B, M) names.
        """
        if not self.official:
            return mask / mask.sum(1, keepdim=True).clamp_min(1)
        # One present modality: a random one in training, the first one in evaluation.
        order = torch.rand(mask.shape, device=mask.device) if self.training else mask.float()
        chosen = order.masked_fill(~mask, -1).argmax(1, keepdim=True)
        return torch.zeros_like(order).scatter(1, chosen, 1)

    def fuse(self, features: dict[str, Maps], mask: Tensor) -> dict[str, Maps]:
        """Returns the maps of all modalities, with replacements for the missing ones.

        Args:
            features: Modality name -> maps, as `encode` returns them.
            mask: (B, M) bool.
        """
        *shared, specific = masked(features, mask, self.task.names)
        weights = self.stand_in_weights(mask).T[:, :, None, None, None]
        scales = []
        for depth, maps in enumerate(shared, 1):
            # Missing maps are zero, and so is their weight.
            missing = total(w.to(r.dtype) * r for w, r in zip(weights, maps, strict=True))
            filled = []
            for r, s, there in zip(maps, specific, mask.T, strict=True):
                # Only the coarsest scale has specific features.
                fused = r + self.project(torch.cat([r, s], 1)) if depth == len(shared) else r
                filled.append(torch.where(there[:, None, None, None], fused, missing))
            scales.append(filled)
        return dict(zip(self.task.names, zip(*scales, strict=True), strict=True))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits; mask (B, M) bool."""
        # A full mask: the replacement of a missing modality is fused like any other map.
        return self.decoder(self.fusion(self.fuse(features, mask), torch.ones_like(mask)))

    def alignment(self, shared: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Returns DAO: the L1 distance of present shared maps, summed over pairs of modalities.

        It is averaged over elements and over the samples of the batch.

        Args:
            shared: The M deepest shared maps r (B, C, H, W).
            mask: (B, M) bool.
        """
        count = len(shared)
        pairs: Iterable[tuple[int, int]] = itertools.combinations(range(count), 2)
        if self.official:
            pairs = [(i, (i + 1) % count) for i in range(count)]
        # Starts at zero, since a single modality has no pair.
        distance = shared[0].new_zeros((), dtype=torch.float32)
        for i, j in pairs:
            apart = (shared[i].float() - shared[j].float()).abs().mean((1, 2, 3))
            distance = distance + torch.where(mask[:, i] & mask[:, j], apart, 0).mean()
        return distance

    def classification(self, specific: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Returns DCO: the cross-entropy of recognising each present modality, averaged over them.

        Args:
            specific: The M deepest specific maps s (B, C, H, W).
            mask: (B, M) bool.
        """
        pooled = torch.stack(list(specific), 1).mean((3, 4))
        log_p = self.classifier(pooled).float().log_softmax(2)
        # The right class of modality i is i: the diagonal holds its log-probability.
        own = torch.diagonal(log_p, dim1=1, dim2=2)
        return -torch.where(mask, own, 0).sum() / mask.sum().clamp_min(1)

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `sample_sigmoid_loss`; arguments as in `task_loss`."""
        return sample_sigmoid_loss(logits, target)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and the weighted loss_dao and loss_dco."""
        mask, covered, inputs = batch.mask, batch.mask, batch.inputs
        if self.official:
            if self.epoch < round(COMPLETE * self.epochs):
                mask = batch.available
            covered = torch.ones_like(mask)
            # A selection, because missing inputs may hold NaN, and 0 times NaN is NaN.
            inputs = {
                name: torch.where(there.view(-1, *[1] * (x.ndim - 1)), x, 0.0)
                for there, (name, x) in zip(mask.T, inputs.items(), strict=True)
            }
        features = self.encode(inputs)
        *_, shared, specific = masked(features, covered, self.task.names)
        return {
            'loss_task': self.task_loss(self.decode(features, mask), batch.target),
            'loss_dao': self.alpha * self.alignment(shared, covered),
            'loss_dco': self.beta * self.classification(specific, covered),
        }
