"""RedCore: variational codes, imagined where they are missing, supervised by relative advantage."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmark.errors import UserError, unknown
from benchmark.method import Method
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import ConcatFusion, Encoders, decoder, fused_channels, masked
from methods.common.reconstruction import layers

BLOCKS = 5
FLOOR = 0.1
"""Least supervision weight before normalisation."""


class Imagination(nn.Module):
    """Five auto-encoders in a residual cascade: the other modalities' codes -> one's code.

    Each reads the sum of the input and all outputs before it, at every position alone, and is
    2C, C and C/2 wide for a code of C channels.
    """

    def __init__(self, inputs, channels):
        super().__init__()
        widths = (2 * channels, channels, channels // 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *layers((inputs, *widths), nn.LeakyReLU),
                nn.LeakyReLU(),
                *layers((*widths[::-1], inputs), nn.ReLU),
            )
            for _ in range(BLOCKS)
        )
        self.last = nn.Sequential(*layers((inputs, inputs, channels), nn.ReLU))

    def forward(self, x):
        """Maps (B, inputs, H, W) to (B, C, H, W)."""
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def divergence(mean, log_variance):
    """Returns twice KL(N(mean, exp(log_variance)) || N(0, 1)) of every element."""
    return mean.square() + log_variance.exp() - 1 - log_variance


def totals(elements, present):
    """Sums {modality: [(B, C, H, W) per scale]} to (M,), over present (B, M) and all but positions.

    Positions are averaged; a modality that no sample has gives 0.
    """
    samples = [sum(x.sum(1).mean((1, 2)) for x in scales) for scales in elements.values()]
    return torch.where(present, torch.stack(samples, 1), 0.0).sum(0)


def draw(codes):
    """Returns a sample of every code {modality: [(mean, log-variance) per scale]}."""
    return {
        name: [mean + torch.randn_like(mean) * (0.5 * log_v).exp() for mean, log_v in scales]
        for name, scales in codes.items()
    }


def relative_advantage(errors):
    """Returns how far each error (M,) lies below their mean, as a share of it; sums to 0."""
    mean = errors.mean()
    return (mean - errors) / mean.clamp_min(torch.finfo(errors.dtype).tiny)


def supervise(weights, advantage, rate):
    """Returns the supervision weights (M,) after one step against the advantage, of norm 1."""
    return F.normalize((weights - rate * advantage).clamp_min(FLOOR), dim=0)


@METHODS.register_module('redcore')
class RedCore(Method):
    """Relative advantage aware cross-modal representation learning.

    Sun, Zhang, Han, Ruan & Li, RedCore: Relative Advantage Aware Cross-modal Representation
    Learning for Missing Modalities with Imbalanced Missing Rates, AAAI 2024 (arXiv 2312.10386).
    Each modality has a Gaussian code z_m; an auto-encoder imagines it from the other codes, and
    zhat_m stands in where m is missing: h_m = d_m z_m + (1 - d_m) zhat_m. With n_m the samples
    of the batch that have m,

        L = CE(C(h), y) + sum_m CE(C_m(h_m), y) + w sum_m b_m R_m
            + lambda / B sum_{m,i} d_{m,i} sum (mu^2 + sigma^2 - 1 - log sigma^2)
        R_m = 1 / n_m sum_i d_{m,i} ||zhat_{m,i} - z_{m,i}||^2

    so that labels supervise the imagination of what data lack. The weights b are the outer
    problem: every `interval` steps, with A_m the running mean of R_m,

        b <- max(b - eta (mean A - A_m) / mean A, 0.1),  b <- b / ||b||

    and what is imagined worse is supervised more. Others are imagined from the code of zeros of
    what is missing. The deployed network uses the codes' means.

    The suite's encoders and decoders replace attention over words and small perceptrons; codes are
    1x1 convolutions of the encoders' maps, imagined position by position, positions averaged and
    the four scales of segmentation added: this project's adaptation. R_m and the divergence count
    what the data have, even where the training sampler hides it from the network; with the
    sampler 'complete' and real gaps the two are one. The paper's text was not available; the
    formulas are those of the released code.

    variant='official' does as that code where numbers change: codes are drawn in testing too,
    targets z_m receive a gradient, only what the step's mask shows is a target (the code ties
    gaps to places in the batch), and eta grows 1.5-fold at step 0 and every 500 steps (at most
    1e6-fold, short of overflow). Not reproduced: networks without a loss, NaN for a modality that
    a batch lacks, samples without modalities.

    Args:
        task: What the dataset asks.
        imagination: Weight w.
        kl: Weight lambda.
        memory: Share of the newest error in the running mean A.
        rate: Step size eta of the outer problem.
        interval: Training steps from one outer step to the next.
        variant: 'paper' or 'official'.

    Raises:
        UserError: An unknown variant, an interval below 1, or a single modality.
    """

    search = {
        'imagination': LogUniform(0.01, 3),
        'kl': LogUniform(8e-5, 8e-3),
        'rate': LogUniform(1e-4, 1),
    }

    def __init__(
        self, task, *, imagination=0.15, kl=8e-4, memory=0.7, rate=0.1, interval=3, variant='paper'
    ):
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of redcore', variant, ('paper', 'official'))
        if interval < 1:
            raise UserError(f'redcore:interval: expected at least 1 step, found {interval}')
        names, channels = task.names, fused_channels(task)
        others = len(names) - 1
        if not others:
            raise UserError(f'redcore: expected at least 2 modalities, found {names[0]!r} alone')
        self.imagination, self.kl = imagination, kl
        self.memory, self.rate, self.interval = memory, rate, interval
        self.official = variant == 'official'
        self.encoders = Encoders(task)
        heads, imagine = nn.ModuleDict(), nn.ModuleDict()
        for name in names:
            heads[name] = nn.ModuleList(nn.Conv2d(c, 2 * c, 1) for c in channels)
            imagine[name] = nn.ModuleList(Imagination(others * c, c) for c in channels)
        self.heads, self.imagine = heads, imagine
        self.fusion = ConcatFusion(task)
        self.decoder = decoder(task)
        self.unimodal = nn.ModuleDict({n: decoder(task, channels[0]) for n in names})
        # The outer problem, in the checkpoint.
        self.register_buffer('errors', torch.zeros(len(names)))
        self.register_buffer('weights', torch.ones(len(names)))
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return self.encoders(inputs)

    def codes(self, features, mask):
        """Returns {modality: [(mean, log-variance) per scale]}, each (B, C, H, W) in float32."""
        by_modality = zip(*masked(features, mask, self.task.names), strict=True)
        maps = dict(zip(self.task.names, by_modality, strict=True))
        return {
            name: [head(x).float().chunk(2, 1) for head, x in zip(heads, maps[name], strict=True)]
            for name, heads in self.heads.items()
        }

    def imagined(self, z):
        """Returns {modality: [zhat per scale]} from {modality: [z per scale]}."""

        def others(name, scale):
            return torch.cat([maps[scale] for n, maps in z.items() if n != name], 1)

        return {
            name: [net(others(name, s)).float() for s, net in enumerate(nets)]
            for name, nets in self.imagine.items()
        }

    def complete(self, z, instead, mask):
        """Returns {modality: [maps per scale]}: z where mask (B, M) allows, else `instead`."""
        return {
            name: [
                torch.where(mask[:, m, None, None, None], *pair)
                for pair in zip(z[name], instead[name], strict=True)
            ]
            for m, name in enumerate(self.task.names)
        }

    def fuse(self, h, mask):
        """Returns the logits of the completed codes, of which none is missing."""
        return self.decoder(self.fusion(h, torch.ones_like(mask)))

    def decode(self, features, mask):
        """Decodes the completed means (samples in the official variant); mask (B, M) bool."""
        codes = self.codes(features, mask)
        means = {name: [mean for mean, _ in scales] for name, scales in codes.items()}
        z = draw(codes) if self.official else means
        return self.fuse(self.complete(z, self.imagined(z), mask), mask)

    def loss(self, batch):
        """Returns the losses and, for the log, the weights of supervision."""
        features = self.encode(batch.inputs)
        z = draw(self.codes(features, batch.mask))
        imagined = self.imagined(z)
        h = self.complete(z, imagined, batch.mask)
        present = batch.mask if self.official else batch.available
        codes = self.codes(features, present)
        targets = self.complete(z, draw(codes), batch.mask)
        divergences = {n: [divergence(*code) for code in scales] for n, scales in codes.items()}
        errors = self.reconstruction(imagined, targets, present)
        # A copy: the outer step changes the buffer before the backward pass.
        weights = self.weights.clone()
        self.step(errors.detach())
        alone = [self.task_loss(self.unimodal[n](maps), batch.target) for n, maps in h.items()]
        return {
            'loss_task': self.task_loss(self.fuse(h, batch.mask), batch.target),
            'loss_unimodal': sum(alone),
            'loss_imagination': self.imagination * (weights * errors).sum(),
            'loss_kl': self.kl * totals(divergences, present).sum() / len(present),
            **{f'weight_{n}': b for n, b in zip(self.task.names, weights, strict=True)},
        }

    def reconstruction(self, imagined, targets, present):
        """Returns R (M,), 0 for a modality that no sample of present (B, M) has."""

        def square(a, b):
            return (a - (b if self.official else b.detach())).square()

        squares = {name: list(map(square, imagined[name], z)) for name, z in targets.items()}
        return totals(squares, present) / present.sum(0).clamp_min(1)

    @torch.no_grad()
    def step(self, errors):
        """Takes R (M,) into its running mean and moves the weights when that is due."""
        newer = torch.lerp(self.errors, errors, self.memory)
        # What no sample of the batch has keeps its mean.
        self.errors.copy_(torch.where(errors == 0, self.errors, newer))
        rate = self.rate
        if self.official:
            rate = rate * (1.5 ** (1 + self.steps // 500)).clamp(max=1e6)
        moved = supervise(self.weights, relative_advantage(self.errors), rate)
        self.weights.copy_(torch.where(self.steps % self.interval == 0, moved, self.weights))
        self.steps += 1
