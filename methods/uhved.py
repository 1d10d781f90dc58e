"""U-HVED: a variational encoder-decoder whose posterior is a product of the modalities' experts."""

import contextlib
import itertools

import torch
from torch import nn

from benchmark.method import IGNORE, Method
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import Encoders, decoder, fused_channels, masked
from methods.common.reconstruction import ImageDecoder, VectorDecoder
from methods.common.sequences import real_elements

CLIP = 50
"""Bound of an expert's log-variance, as in the released code."""


def experts(maps, mask):
    """Returns each modality's Gaussian as (precision, precision * mean), zero where absent.

    Args:
        maps: Means and log-variances (B, 2 C, H, W) of the M modalities, finite where absent.
        mask: (B, M) bool.
    """
    found = []
    for m, x in enumerate(maps):
        mean, log_variance = x.float().chunk(2, 1)
        precision = (-log_variance.clamp(-CLIP, CLIP)).exp()
        precision = precision.where(mask[:, m, None, None, None], 0.0)
        found.append((precision, precision * mean))
    return found


def product(gaussians):
    """Returns mean and log-variance of the product of `experts` and the prior expert N(0, I).

    T = 1 + sum_i T_i, mu = sum_i T_i mu_i / T, variance 1 / T.
    """
    precision = 1 + sum(t for t, _ in gaussians)
    return sum(weighted for _, weighted in gaussians) / precision, -precision.log()


def divergence(p, q):
    """Returns KL(p || q) of diagonal Gaussians (mean, log-variance), (B,), averaged over elements.

    Args:
        p: Pair of (B, C, H, W).
        q: Likewise, or None for N(0, I).
    """
    mean, log_variance = p
    other_mean, other = (torch.zeros_like(mean),) * 2 if q is None else q
    error = log_variance.exp() + (mean - other_mean).square()
    return 0.5 * (other - log_variance - 1 + error * (-other).exp()).mean((1, 2, 3))


def subset_divergence(maps, mask, available):
    """Returns how far the posterior is from those of all subsets, and they from the prior.

        1 / (S - 1) sum_s KL(q_K || q_s) + 1 / S sum_s KL(q_s || N(0, I))

    over the S subsets of a sample's modalities, averaged over samples; one of the first sum's terms
    is zero, that of K itself.

    Args:
        maps: Means and log-variances (B, 2 C, H, W) of the M modalities, finite where absent.
        mask: K, (B, M) bool.
        available: What exists in the data, (B, M) bool.
    """
    whole = product(experts(maps, mask))
    gaussians = experts(maps, available)
    between = prior = counts = 0
    for subset in itertools.product((False, True), repeat=len(maps)):
        chosen = list(itertools.compress(range(len(maps)), subset))
        if chosen:
            counted = torch.stack([available[:, m] for m in chosen]).all(0).float()
            q = product([gaussians[m] for m in chosen])
            between = between + counted * divergence(whole, q)
            prior = prior + counted * divergence(q, None)
            counts = counts + counted
    return (between / (counts - 1).clamp(min=1) + prior / counts.clamp(min=1)).mean()


def dice_loss(logits, target):
    """Returns 1 - Dice with squared probabilities, averaged over classes and samples.

    As in NiftyNet, which the released code uses: a class that a sample lacks scores zero.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE do not count.
    """
    p = logits.float().softmax(1) * (target != IGNORE)[:, None]
    classes = torch.arange(p.shape[1], device=p.device)
    label = (target[:, None] == classes[:, None, None]).float()
    size = (p.square() + label).sum((2, 3))
    return 1 - (2 * (p * label).sum((2, 3)) / (size + 1e-5)).mean()


@contextlib.contextmanager
def untracked(network):
    """Lets the batch normalisation of a network leave its running statistics as they are."""
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
    """Hetero-modal variational encoder-decoder (Dorent et al., U-HVED, MICCAI 2019).

    arXiv 1907.11150. At every scale a modality's encoder gives a Gaussian over a latent map; the
    posterior is the product of the Gaussians that are present and of the prior N(0, I)
    (`product`), so an absent modality is an expert left out. Samples of the posterior are decoded
    into the prediction and, in training alone, into the inputs of all modalities, also those that
    are masked. Predictions use the posterior's mean and draw nothing.

        L = L_task + 0.1 mean over scales of `subset_divergence` + 0.1 L_reconstruction

    L_task is cross-entropy, plus `dice_loss` in segmentation; L_reconstruction the mean squared
    error, averaged over modalities; padded frames of sequences do not count. Where data have real
    gaps, both extra terms cover what each sample has; without gaps they are the paper's.

    The paper is about 3-D MRI; this 2-D form and, above all, the form for classification, in which
    the one fused map is the latent map, are this project's adaptations. They share this suite's
    encoders, from which a 1x1 convolution per modality and scale gives mean and log-variance,
    and its decoder; the image decoders have one convolution with batch normalisation per scale
    after upsampling to the nearest pixel. Weights and formulas are the released code's, which draws
    samples when it segments at test time and decays its learning rate every ten steps, neither of
    which is reproduced. Its training masks are the protocol's sampler `by_size`. It normalises each
    sample on its own; here batch normalisation takes the statistics that predictions apply from
    the posteriors' means, which predictions decode: samples vary more, the more the less is there.

    Args:
        task: What the dataset asks.
        divergence: Weight of the divergence.
        reconstruction: Weight of the reconstruction.
    """

    version = 2
    search = {'divergence': LogUniform(0.01, 1), 'reconstruction': LogUniform(0.01, 1)}

    def __init__(self, task, *, divergence=0.1, reconstruction=0.1):
        super().__init__(task)
        self.weights = {'divergence': divergence, 'reconstruction': reconstruction}
        channels = fused_channels(task)
        self.encoders = Encoders(task)
        self.heads = nn.ModuleDict(
            {name: nn.ModuleList(nn.Conv2d(c, 2 * c, 1) for c in channels) for name in task.names}
        )
        self.decoder = decoder(task, channels=channels[0])
        kinds = {'image': ImageDecoder, 'vector': VectorDecoder, 'sequence': VectorDecoder}
        self.reconstruct = nn.ModuleDict(
            {m.name: kinds[m.kind](channels, m.shape) for m in task.modalities}
        )

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: means and log-variances, per scale}."""
        return {
            name: tuple(head(x) for head, x in zip(self.heads[name], maps, strict=True))
            for name, maps in self.encoders(inputs).items()
        }

    def posteriors(self, features, mask):
        """Returns mean and log-variance per scale, given what mask (B, M) allows."""
        return [product(experts(maps, mask)) for maps in masked(features, mask, self.task.names)]

    def decode(self, features, mask):
        """Decodes the posterior's mean; mask (B, M) bool."""
        return self.decoder(tuple(mean for mean, _ in self.posteriors(features, mask)))

    def loss(self, batch):
        """Returns the task's loss and the weighted divergence and reconstruction."""
        features = self.encode(batch.inputs)
        latents = tuple(
            mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            for mean, log_variance in self.posteriors(features, batch.mask)
        )
        with untracked(self.decoder):
            logits = self.decoder(latents)
        with torch.no_grad():  # for the running statistics alone
            self.decode(features, batch.mask)
        losses = {'loss_task': self.task_loss(logits, batch.target)}
        if self.task.kind == 'segmentation':
            losses['loss_dice'] = dice_loss(logits, batch.target)
        scales = masked(features, batch.available, self.task.names)
        terms = [subset_divergence(maps, batch.mask, batch.available) for maps in scales]
        losses['loss_divergence'] = self.weights['divergence'] * sum(terms) / len(terms)
        error = self.reconstruction_error(latents, batch)
        losses['loss_reconstruction'] = self.weights['reconstruction'] * error
        return losses

    def reconstruction_error(self, latents, batch):
        """Returns the mean squared error of all inputs that are available, decoded from latents."""
        errors = []
        for m in self.task.modalities:
            x = batch.inputs[m.name]
            real = real_elements(m, x).flatten(1)
            error = (self.reconstruct[m.name](latents) - x.float()).square().flatten(1)
            errors.append(error.where(real, 0.0).sum(1) / real.sum(1).clamp(min=1))
        errors = torch.stack(errors, 1)
        return errors.where(batch.available, 0.0).sum() / batch.available.sum().clamp(min=1)
