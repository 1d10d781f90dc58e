"""RedCore: predicts the variational codes of missing modalities, weighted by relative advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.losses import total
from methods.common.networks import ConcatFusion, Encoders, Maps, decoder, fused_channels, masked
from methods.common.reconstruction import Imagination

FLOOR = 0.1
"""Least supervision weight before normalisation."""

Scales = Sequence[Tensor]
"""Maps (B, C, H, W) of one modality, one per scale."""
Codes = dict[str, list[tuple[Tensor, Tensor]]]
"""Modality name -> mean and log-variance (B, C, H, W) of its code, per scale."""


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns 2 KL(N(mean, exp(log_variance)) || N(0, 1)) of every element, in the same shape."""
    return mean.square() + log_variance.exp() - 1 - log_variance


def totals(elements: Mapping[str, Scales], present: Tensor) -> Tensor:
    """Sums a quantity over channels, scales and present samples, averaged over positions.

    Args:
        elements: Modality name -> its maps, one per scale.
        present: (B, M) bool, the samples that count for each modality.

    Returns:
        (M,), 0 for a modality that no sample has.
    """
    samples = [total(x.sum(1).mean((1, 2)) for x in scales) for scales in elements.values()]
    return torch.where(present, torch.stack(samples, 1), 0.0).sum(0)


def draw(codes: Codes) -> dict[str, list[Tensor]]:
    """Returns a sample of the codes: modality name -> maps, one per scale."""
    return {
        name: [mean + torch.randn_like(mean) * (0.5 * log_v).exp() for mean, log_v in scales]
        for name, scales in codes.items()
    }


def relative_advantage(errors: Tensor) -> Tensor:
    """Returns how far each error lies below the mean error, as a share of it.

    Args:
        errors: (M,), not negative.

    Returns:
        (M,), summing to 0.
    """
    mean = errors.mean()
    # Before the first error the mean is 0; the clamp turns 0 / 0 into 0.
    return (mean - errors) / mean.clamp_min(torch.finfo(errors.dtype).tiny)


def supervise(weights: Tensor, advantage: Tensor, rate: float | Tensor) -> Tensor:
    """Returns the supervision weights (M,), of norm 1, after a step against the advantage (M,)."""
    return F.normalize((weights - rate * advantage).clamp_min(FLOOR), dim=0)


@METHODS.register_module('redcore')
class RedCore(Method):
    """Relative advantage aware cross-modal representation learning.

    Sun, Zhang, Han, Ruan & Li, RedCore: Relative Advantage Aware Cross-modal Representation
    Learning for Missing Modalities with Imbalanced Missing Rates, AAAI 2024 (arXiv 2312.10386).
    Each modality m has a Gaussian code z_m. An auto-encoder predicts it from the codes of the other
    modalities, and the prediction zhat_m replaces it where m is missing: h_m = d_m z_m + (1 - d_m)
    zhat_m, with d_m = 1 where m is present. With n_m the number of samples of the batch that have
    m,

        L = CE(C(h), y) + sum_m CE(C_m(h_m), y) + w sum_m b_m R_m
            + lambda / B sum_{m,i} d_{m,i} sum (mu^2 + sigma^2 - 1 - log sigma^2)
        R_m = 1 / n_m sum_i d_{m,i} ||zhat_{m,i} - z_{m,i}||^2

    so that labels also supervise the predictions of codes that the data lack. The weights b solve
    an outer problem: every `interval` steps, with A_m the running mean of R_m,

        b <- max(b - eta (mean A - A_m) / mean A, 0.1),  b <- b / ||b||

    and modalities that are predicted worse are supervised more. The code of a missing modality,
    from which others are predicted, is the code of zeros. The deployed network uses the means of
    the codes.

    Adaptations of this project: the suite's encoders and decoders replace attention over words and
    small perceptrons. Codes are 1x1 convolutions of the encoders' maps and are predicted position
    by position; positions are averaged, and the four scales of segmentation are added. R_m and the
    divergence cover what the data have, even where the training sampler masks it; with the sampler
    'complete' and training gaps the two are the same. The paper's text was not available: the
    formulas are those of the released code.

    variant='official' follows that code in these points: codes are also drawn at test; targets z_m
    receive a gradient; only modalities that the mask shows are targets; and eta grows 1.5-fold at
    step 0 and every 500 steps (here at most 1e6-fold, to prevent overflow).

    Departures from that code in both variants: the latent code of an auto-encoder has an activation
    (there it is linear); a step uses the weights b from before its own update; codes are not
    bounded by a sigmoid of pooled features; layers start from torch's default weights instead of
    Kaiming-normal ones; gradients are not clipped per network. Also not reproduced are networks
    without a loss, NaN for a modality that a batch lacks, and samples without modalities.

    Args:
        task: What the data set requires.
        imagination: Weight w.
        kl: Weight lambda.
        memory: Share of the newest error in the running mean A.
        rate: Step size eta of the outer problem.
        interval: Number of training steps between two updates of b.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown, `interval` is below 1, or the task has a single modality.
    """

    search = {
        'imagination': LogUniform(0.01, 3),
        'kl': LogUniform(8e-5, 8e-3),
        'rate': LogUniform(1e-4, 1),
    }
    errors: Tensor
    weights: Tensor
    steps: Tensor

    def __init__(
        self,
        task: Task,
        *,
        imagination: float = 0.15,
        kl: float = 8e-4,
        memory: float = 0.7,
        rate: float = 0.1,
        interval: int = 3,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
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
        # Buffers are part of a checkpoint: a resumed run continues the outer problem.
        self.register_buffer('errors', torch.zeros(len(names)))
        self.register_buffer('weights', torch.ones(len(names)))
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def codes(self, features: dict[str, Maps], mask: Tensor) -> Codes:
        """Returns the codes of all modalities, in float32; a missing one has the code of zeros.

        Args:
            features: Modality name -> maps.
            mask: (B, M) bool.
        """
        by_modality = zip(*masked(features, mask, self.task.names), strict=True)
        maps = dict(zip(self.task.names, by_modality, strict=True))
        found: Codes = {}
        for name, heads in self.heads.items():
            pairs = zip(cast(nn.ModuleList, heads), maps[name], strict=True)
            # float32: the exponential of a log-variance easily overflows half precision.
            found[name] = [head(x).float().chunk(2, 1) for head, x in pairs]
        return found

    def imagined(self, z: Mapping[str, Scales]) -> dict[str, list[Tensor]]:
        """Returns zhat from z, both modality name -> maps, one per scale."""

        def others(name: str, scale: int) -> Tensor:
            return torch.cat([maps[scale] for n, maps in z.items() if n != name], 1)

        return {
            name: [net(others(name, s)).float() for s, net in enumerate(cast(nn.ModuleList, nets))]
            for name, nets in self.imagine.items()
        }

    def complete(
        self, z: Mapping[str, Scales], instead: Mapping[str, Scales], mask: Tensor
    ) -> dict[str, list[Tensor]]:
        """Returns z where the mask allows, else `instead`.

        Args:
            z: Modality name -> maps, one per scale.
            instead: Likewise.
            mask: (B, M) bool.
        """
        return {
            name: [
                torch.where(mask[:, m, None, None, None], own, other)
                for own, other in zip(z[name], instead[name], strict=True)
            ]
            for m, name in enumerate(self.task.names)
        }

    def fuse(self, h: Mapping[str, Scales], mask: Tensor) -> Tensor:
        """Returns the logits of completed codes, none of which is missing any more."""
        return self.decoder(self.fusion(h, torch.ones_like(mask)))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Decodes the completed means, or samples in the official variant; mask (B, M) bool."""
        codes = self.codes(features, mask)
        means = {name: [mean for mean, _ in scales] for name, scales in codes.items()}
        z = draw(codes) if self.official else means
        return self.fuse(self.complete(z, self.imagined(z), mask), mask)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the four losses and, for the log, the supervision weights b."""
        features = self.encode(batch.inputs)
        z = draw(self.codes(features, batch.mask))
        imagined = self.imagined(z)
        h = self.complete(z, imagined, batch.mask)
        present = batch.mask if self.official else batch.available
        codes = self.codes(features, present)
        targets = self.complete(z, draw(codes), batch.mask)
        divergences = {n: [divergence(*code) for code in scales] for n, scales in codes.items()}
        errors = self.reconstruction(imagined, targets, present)
        # A copy, because `step` changes the buffer before the backward pass reads it.
        weights = self.weights.clone()
        self.step(errors.detach())
        alone = [self.task_loss(self.unimodal[n](maps), batch.target) for n, maps in h.items()]
        return {
            'loss_task': self.task_loss(self.fuse(h, batch.mask), batch.target),
            'loss_unimodal': total(alone),
            'loss_imagination': self.imagination * (weights * errors).sum(),
            'loss_kl': self.kl * totals(divergences, present).sum() / len(present),
            **{f'weight_{n}': b for n, b in zip(self.task.names, weights, strict=True)},
        }

    def reconstruction(
        self, imagined: Mapping[str, Scales], targets: Mapping[str, Scales], present: Tensor
    ) -> Tensor:
        """Returns the errors R (M,), 0 for a modality that no sample has.

        Args:
            imagined: zhat, modality name -> maps, one per scale.
            targets: z, likewise.
            present: (B, M) bool, the samples that have each modality.
        """

        def square(a: Tensor, b: Tensor) -> Tensor:
            # Without detach, the codes could be made easy to predict instead of informative.
            return (a - (b if self.official else b.detach())).square()

        squares = {name: list(map(square, imagined[name], z)) for name, z in targets.items()}
        return totals(squares, present) / present.sum(0).clamp_min(1)

    @torch.no_grad()
    def step(self, errors: Tensor) -> None:
        """Updates the running mean A with R (M,) and, every `interval` steps, the weights b."""
        newer = torch.lerp(self.errors, errors, self.memory)
        # An error of exactly 0 means that no sample of the batch has the modality: keep its mean.
        self.errors.copy_(torch.where(errors == 0, self.errors, newer))
        rate: float | Tensor = self.rate
        if self.official:
            rate = rate * (1.5 ** (1 + self.steps // 500)).clamp(max=1e6)
        moved = supervise(self.weights, relative_advantage(self.errors), rate)
        # Both outcomes are computed, since an `if` on the device's counter would wait for it.
        self.weights.copy_(torch.where(self.steps % self.interval == 0, moved, self.weights))
        self.steps += 1
