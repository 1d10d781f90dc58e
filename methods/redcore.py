"""RedCore: predicts the variational codes of missing modalities, weighted by relative advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.clipping import clip_networks
from methods.common.losses import total
from methods.common.networks import ConcatFusion, Encoders, Maps, decoder, fused_channels, masked
from methods.common.reconstruction import CascadeAutoencoder, kaiming_fan_in

FLOOR = 0.1
"""Least supervision weight before normalisation."""
SIZE = 128
"""Channels of the paper's codes; a sum over channels is counted as this number times their mean."""

Vectors = Mapping[str, Tensor]
"""Modality name -> vectors (B, C, H, W), one for each position."""
Codes = dict[str, tuple[Tensor, Tensor]]
"""Modality name -> mean and log-variance (B, C, H, W) of its code."""


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns 2 KL(N(mean, exp(log_variance)) || N(0, 1)) of every element, in the same shape."""
    return mean.square() + log_variance.exp() - 1 - log_variance


def totals(elements: Vectors, present: Tensor) -> Tensor:
    """Sums a quantity over channels and present samples, averaged over positions.

    The sum over channels is `SIZE` times their mean, so that it does not grow with the width.

    Args:
        elements: The quantity of every element.
        present: (B, M) bool, the samples that count for each modality.

    Returns:
        (M,), 0 for a modality that no sample has.
    """
    samples = SIZE * torch.stack([x.mean((1, 2, 3)) for x in elements.values()], 1)
    return torch.where(present, samples, 0.0).sum(0)


def draw(codes: Codes) -> dict[str, Tensor]:
    """Returns a sample of the codes: modality name -> (B, C, H, W)."""
    return {
        name: mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        for name, (mean, log_variance) in codes.items()
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

    The mean and the logarithm of the variance of a code are linear functions of the sigmoid of the
    encoder's features. As in the released code, b is updated before a step uses it, the layers of
    the auto-encoders and of the codes start from Kaiming-normal weights, and the gradient of each
    network (each modality's encoder with its code, each auto-encoder, each classifier) is clipped
    to the norm 1.

    Adaptations of this project: the suite's encoders and decoders replace small perceptrons.
    Vectors and sequences have one feature vector, as in the paper; of images, each position of the
    map has a code and is predicted by itself, and positions are averaged. In segmentation the
    deepest maps alone have codes; finer maps are zero where a modality is missing, as in modality
    dropout. Sums over the d = 128 channels of the paper's codes are 128 times the mean over
    channels, so that w and lambda keep their meaning at every width. R_m and the divergence cover
    what the data have, even where the training sampler masks it; with the sampler 'complete' and
    training gaps the two are the same. The paper's text was not available: the formulas are those
    of the released code.

    variant='official' follows that code in these points: codes are also drawn at test; targets z_m
    receive a gradient; only modalities that the mask shows are targets; and eta grows 1.5-fold at
    step 0 and every 500 steps (here at most 1e6-fold, to prevent overflow).

    Departures from that code in both variants: a missing modality has the code of zero features,
    where that code encodes a zero input; and the classifiers have no dropout, where its script sets
    0.5 for all four. Not reproduced are networks without a loss, NaN for a
    modality that a batch lacks, and samples without modalities.

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

    task_kinds = KINDS
    version = 2
    ranges = {'memory': Range(0, 1)}
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
        deepest = channels[-1]
        others = len(names) - 1
        if not others:
            raise UserError(f'redcore: expected at least 2 modalities, found {names[0]!r} alone')
        self.imagination, self.kl = imagination, kl
        self.memory, self.rate, self.interval = memory, rate, interval
        self.official = variant == 'official'
        self.encoders = Encoders(task)
        self.heads = nn.ModuleDict(
            {n: kaiming_fan_in(nn.Conv2d(deepest, 2 * deepest, 1)) for n in names}
        )
        self.imagine = nn.ModuleDict(
            {n: CascadeAutoencoder(others * deepest, deepest, outputs=deepest) for n in names}
        )
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

    def codes(self, maps: Sequence[Tensor]) -> Codes:
        """Returns the codes of all modalities, in float32; a missing one has the code of zeros.

        Args:
            maps: The deepest maps (B, C, H, W) of the M modalities, zero where missing.
        """
        pairs = zip(self.heads.items(), maps, strict=True)
        # float32: the exponential of a log-variance easily overflows half precision.
        return {name: head(x.sigmoid()).float().chunk(2, 1) for (name, head), x in pairs}

    def imagined(self, z: Vectors) -> dict[str, Tensor]:
        """Returns zhat from z."""
        return {
            name: imagine(torch.cat([x for n, x in z.items() if n != name], 1))[0].float()
            for name, imagine in self.imagine.items()
        }

    def complete(self, z: Vectors, instead: Vectors, mask: Tensor) -> dict[str, Tensor]:
        """Returns z where the mask (B, M) allows, else `instead`."""
        return {
            name: torch.where(mask[:, m, None, None, None], z[name], instead[name])
            for m, name in enumerate(self.task.names)
        }

    def joined(self, finer: Sequence[Sequence[Tensor]], h: Vectors) -> dict[str, Maps]:
        """Returns all maps of each modality: those of finer scales, then the completed codes h."""
        maps = zip(*finer, h.values(), strict=True)
        return dict(zip(self.task.names, maps, strict=True))

    def fuse(self, maps: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of completed maps, none of which is missing any more."""
        return self.decoder(self.fusion(maps, torch.ones_like(mask)))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Decodes the completed means, or samples in the official variant; mask (B, M) bool."""
        *finer, deepest = masked(features, mask, self.task.names)
        codes = self.codes(deepest)
        z = draw(codes) if self.official else {name: mean for name, (mean, _) in codes.items()}
        h = self.complete(z, self.imagined(z), mask)
        return self.fuse(self.joined(finer, h), mask)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the four losses and, for the log, the supervision weights b."""
        names, features = self.task.names, self.encode(batch.inputs)
        *finer, deepest = masked(features, batch.mask, names)
        z = draw(self.codes(deepest))
        imagined = self.imagined(z)
        maps = self.joined(finer, self.complete(z, imagined, batch.mask))
        present = batch.mask if self.official else batch.available
        codes = self.codes(masked(features, present, names)[-1])
        targets = self.complete(z, draw(codes), batch.mask)
        divergences = {n: divergence(*code) for n, code in codes.items()}
        errors = self.reconstruction(imagined, targets, present)
        self.step(errors.detach())
        # A copy, because the buffer changes in the next step.
        weights = self.weights.clone()
        alone = [self.task_loss(self.unimodal[n](x), batch.target) for n, x in maps.items()]
        return {
            'loss_task': self.task_loss(self.fuse(maps, batch.mask), batch.target),
            'loss_unimodal': total(alone),
            'loss_imagination': self.imagination * (weights * errors).sum(),
            'loss_kl': self.kl * totals(divergences, present).sum() / len(present),
            **{f'weight_{n}': b for n, b in zip(names, weights, strict=True)},
        }

    def reconstruction(self, imagined: Vectors, targets: Vectors, present: Tensor) -> Tensor:
        """Returns the errors R (M,), 0 for a modality that no sample has.

        Args:
            imagined: zhat.
            targets: z.
            present: (B, M) bool, the samples that have each modality.
        """
        # Without detach, the codes could be made easy to predict instead of informative.
        aims = {n: z if self.official else z.detach() for n, z in targets.items()}
        squares = {n: (imagined[n] - z).square() for n, z in aims.items()}
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

    def networks(self) -> list[list[nn.Module]]:
        """Returns the modules of each network whose gradient is clipped by itself."""
        coders = [[self.encoders[n], self.heads[n]] for n in self.task.names]
        single = [[x] for x in (*self.imagine.values(), *self.unimodal.values())]
        return [*coders, *single, [self.fusion, self.decoder]]

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Does mmengine's training step with the gradient of each network clipped to the norm 1."""
        with clip_networks(optim_wrapper.optimizer, self.networks(), 1.0):
            return super().train_step(data, optim_wrapper)
