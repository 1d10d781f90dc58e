"""U-HVED: a variational encoder-decoder whose posterior is a product of Gaussian experts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.losses import squared_dice, total
from methods.common.networks import Encoders, Maps, decoder, fused_channels, masked
from methods.common.reconstruction import ImageDecoder, VectorDecoder
from methods.common.sequences import real_elements

CLIP = 50
"""Bound of the absolute log-variance of an expert, as in the released code."""
GUARD = 1e-7
"""Added to a variance before it is inverted or its logarithm is taken, as in the released code."""

Moments = tuple[Tensor, Tensor]
"""Mean and log-variance of a diagonal Gaussian, each (B, C, H, W)."""


def experts(maps: Sequence[Tensor], mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Returns each modality's Gaussian as the pair (precision, precision * mean).

    Args:
        maps: Means and log-variances (B, 2 C, H, W) of the M modalities, finite where absent.
        mask: (B, M) bool.

    Returns:
        M pairs of (B, C, H, W) in float32, zero where absent: a precision of zero leaves an expert
        out of a product.
    """
    found = []
    for m, x in enumerate(maps):
        mean, log_variance = x.float().chunk(2, 1)
        precision = 1 / (log_variance.clamp(-CLIP, CLIP).exp() + GUARD)
        precision = precision.where(mask[:, m].view(-1, *[1] * (x.ndim - 1)), 0.0)
        found.append((precision, precision * mean))
    return found


def product(gaussians: Sequence[tuple[Tensor, Tensor]]) -> Moments:
    """Returns mean and log-variance of the product of `experts` and the prior expert N(0, I).

        T = 1 + sum_i T_i,  mu = sum_i T_i mu_i / T,  sigma^2 = 1 / T + 1e-7

    where T_i = 1 / (sigma_i^2 + 1e-7) is the precision of expert i.
    """
    precision = 1 + total(t for t, _ in gaussians)
    return total(weighted for _, weighted in gaussians) / precision, (1 / precision + GUARD).log()


def divergence(p: Moments, q: Moments | None) -> Tensor:
    """Returns KL(p || q) of two diagonal Gaussians, averaged over elements.

    The variance of q that divides is enlarged by 1e-7.

    Args:
        p: Mean and log-variance, (B, C, H, W) each.
        q: Likewise, or None for N(0, I).

    Returns:
        (B,).
    """
    mean, log_variance = p
    other_mean, other = (torch.zeros_like(mean),) * 2 if q is None else q
    error = log_variance.exp() + (mean - other_mean).square()
    each = other - log_variance - 1 + error / (other.exp() + GUARD)
    return 0.5 * each.mean([*range(1, mean.ndim)])


def subset_divergence(maps: Sequence[Tensor], mask: Tensor, available: Tensor) -> Tensor:
    """Returns how far the posterior is from those of all subsets, and they are from the prior.

        1 / (S - 1) sum_s KL(q_K || q_s) + 1 / S sum_s KL(q_s || N(0, I))

    where s runs over the S subsets of the modalities that a sample has, averaged over samples. In
    the first sum the term of K itself is zero, hence S - 1.

    Args:
        maps: Means and log-variances (B, 2 C, H, W) of the M modalities, finite where absent.
        mask: K, (B, M) bool.
        available: The modalities that exist in the data, (B, M) bool.

    Returns:
        A scalar in float32.
    """
    whole = product(experts(maps, mask))
    gaussians = experts(maps, available)
    between, prior, counts = (whole[0].new_zeros(len(mask)) for _ in range(3))
    for subset in itertools.product((False, True), repeat=len(maps)):
        chosen = list(itertools.compress(range(len(maps)), subset))
        if chosen:
            counted = torch.stack([available[:, m] for m in chosen]).all(0).float()
            q = product([gaussians[m] for m in chosen])
            between = between + counted * divergence(whole, q)
            prior = prior + counted * divergence(q, None)
            counts = counts + counted
    return (between / (counts - 1).clamp(min=1) + prior / counts.clamp(min=1)).mean()


@contextlib.contextmanager
def untracked(network: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of a network's batch normalisation unchanged."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@METHODS.register_module('uhved')
class UHVED(Method):
    """Hetero-modal variational encoder-decoder.

    Dorent, Joutard, Modat, Ourselin & Vercauteren, Hetero-Modal Variational Encoder-Decoder for
    Joint Modality Completion and Segmentation, MICCAI 2019 (arXiv 1907.11150). At every scale the
    encoder of a modality gives a Gaussian over a latent map. The posterior is the product of the
    Gaussians of the present modalities and of the prior N(0, I) (`product`), so that an absent
    modality is an expert that is left out. In training a sample of the posterior is decoded into
    the prediction and into the inputs of all modalities, including masked ones. Predictions use the
    posterior's mean and draw nothing.

        L = L_task + divergence D + reconstruction L_reconstruction

    where D is the mean of `subset_divergence` over scales and L_reconstruction the mean squared
    error, averaged over modalities, without padded frames of sequences. L_task is the protocol's
    task loss; with loss=own it is cross-entropy plus `squared_dice`, as in the released code. If
    the data have gaps, both extra terms cover what each sample has; without gaps they are the
    paper's.

    Adaptations of this project: the paper is about 3-D MRI, which network=unet3d trains; the 2-D
    form and the form for classification, in which the one fused map is the latent map, are this
    project's. All use the
    suite's encoders, from which a 1x1 convolution per modality and scale gives mean and
    log-variance, and its decoder. The image decoders have one convolution with batch normalisation
    per scale, after upsampling to the nearest pixel.

    Formulas and weights are those of the released code. Its network, a TensorFlow program for
    volumes, is another one: its encoders, its image decoders and its instance normalisation change
    the value of every term, so that single formulas, not a step, agree with it: D and the task
    loss of loss=own are tested against figures of that code. Departures from it: it draws samples
    at test, too; it adds an L2 term of all weights (1e-5) to the loss, where the protocol's
    optimiser decays weights; it reduces its learning rate every ten steps; and its sampler is
    'by_size', here the protocol's is used. Its normalisation treats each sample by itself. Here
    batch normalisation takes the statistics for predictions from the posteriors' means, because
    predictions decode means: samples vary more, the more so the fewer modalities are present.

    Args:
        task: What the data set requires.
        divergence: Weight of D.
        reconstruction: Weight of L_reconstruction.
    """

    task_kinds = KINDS
    version = 3
    supported_networks = ('pyramid', 'unet3d')
    search = {'divergence': LogUniform(0.01, 1), 'reconstruction': LogUniform(0.01, 1)}

    def __init__(self, task: Task, *, divergence: float = 0.1, reconstruction: float = 0.1) -> None:
        super().__init__(task)
        self.weights = {'divergence': divergence, 'reconstruction': reconstruction}
        channels = fused_channels(task)
        self.encoders = Encoders(task)
        conv = nn.Conv3d if task.volumes else nn.Conv2d
        self.heads = nn.ModuleDict(
            {name: nn.ModuleList(conv(c, 2 * c, 1) for c in channels) for name in task.names}
        )
        self.decoder = decoder(task, channels=channels[0])
        kinds: dict[str, type[ImageDecoder | VectorDecoder]] = {
            'image': ImageDecoder,
            'volume': ImageDecoder,
            'vector': VectorDecoder,
            'sequence': VectorDecoder,
        }
        self.reconstruct = nn.ModuleDict(
            {m.name: kinds[m.kind](channels, m.shape) for m in task.modalities}
        )

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns for each modality the means and log-variances (B, 2 C, H, W) per scale."""
        return {
            name: tuple(head(x) for head, x in zip(self.heads_of(name), maps, strict=True))
            for name, maps in self.encoders(inputs).items()
        }

    def heads_of(self, name: str) -> nn.ModuleList:
        """Returns the layers that turn a modality's maps into Gaussians, one per scale."""
        return cast(nn.ModuleList, self.heads[name])

    def posteriors(self, features: dict[str, Maps], mask: Tensor) -> list[Moments]:
        """Returns mean and log-variance of the posterior per scale; mask (B, M) bool."""
        return [product(experts(maps, mask)) for maps in masked(features, mask, self.task.names)]

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Decodes the posterior's mean; mask (B, M) bool."""
        return self.decoder(tuple(mean for mean, _ in self.posteriors(features, mask)))

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns cross-entropy plus `squared_dice`; arguments as in `task_loss`."""
        return self.cross_entropy(logits, target) + squared_dice(logits, target)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and the weighted further terms."""
        features = self.encode(batch.inputs)
        latents = tuple(
            mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            for mean, log_variance in self.posteriors(features, batch.mask)
        )
        with untracked(self.decoder):
            logits = self.decoder(latents)
        # Decodes the means only to update the running statistics of batch normalisation.
        with torch.no_grad():
            self.decode(features, batch.mask)
        losses = {'loss_task': self.task_loss(logits, batch.target)}
        scales = masked(features, batch.available, self.task.names)
        terms = [subset_divergence(maps, batch.mask, batch.available) for maps in scales]
        losses['loss_divergence'] = self.weights['divergence'] * total(terms) / len(terms)
        error = self.reconstruction_error(latents, batch)
        losses['loss_reconstruction'] = self.weights['reconstruction'] * error
        return losses

    def reconstruction_error(self, latents: Maps, batch: Batch) -> Tensor:
        """Returns the mean squared error of all available inputs, decoded from the latent maps."""
        errors = []
        for m in self.task.modalities:
            x = batch.inputs[m.name]
            real = real_elements(m, x).flatten(1)
            error = (self.reconstruct[m.name](latents) - x.float()).square().flatten(1)
            errors.append(error.where(real, 0.0).sum(1) / real.sum(1).clamp(min=1))
        each = torch.stack(errors, 1)
        return each.where(batch.available, 0.0).sum() / batch.available.sum().clamp(min=1)
