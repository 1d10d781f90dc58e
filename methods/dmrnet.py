"""DMRNet: trains on samples of embeddings, predicts with means, adds a loss for hard subsets."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

import torch
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, SubsetScore, Task, late_start, late_term
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.clipping import clip_networks
from methods.common.losses import multi_scale, weighted_errors
from methods.common.networks import Maps, decoder
from methods.modality_dropout import ModalityDropout

CLIP = 20.0
"""Largest norm of the gradient in the released segmentation code."""
WITHOUT_DEPTH = ({'rgb'}, {'ir'}, {'rgb', 'ir'})
"""The hard combinations that the released face anti-spoofing code fixes instead of mining them."""


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns KL(N(mean, exp(log_variance)) || N(0, 1)) of every element, in the same shape."""
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance)


class Gaussian(nn.Module):
    """Mean and log-variance of an embedding, each by a 1x1 convolution and BatchNorm.

    Args:
        channels: Number of channels C of the embedding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean, self.log_variance = (
            ConvModule(channels, channels, 1, norm_cfg={'type': 'BN'}, act_cfg=None)
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of (B, C, H, W), each of that shape, in float32."""
        return self.mean(x).float(), self.log_variance(x).float()


@METHODS.register_module('dmrnet')
class DMRNet(ModalityDropout):
    """Modality dropout with decoupled representations and a hard combination regulariser.

    Wei, Luo, Wang & Luo, Robust Multimodal Learning via Representation Decoupling, ECCV 2024
    (arXiv 2407.04458). The fused embedding z becomes a Gaussian N(mu, sigma^2). The network trains
    on a sample s = mu + eps sigma and predicts with mu, so that the classifier constrains the
    direction of the samples only.

        L = L_task + alpha KL(N(mu, sigma^2) || N(0, 1)) + beta 1/B sum_{i hard} CE(g(s_i), y_i)

    During the first `warmup` epochs the predicted variance of each combination of modalities is
    averaged over its samples and over all elements. The V combinations with the highest variance
    are hard from then on (Eq. 10-12), and their samples count once more through the predictor g.

    In classification z is the last map before pooling, as in the authors' face code, and KL is
    summed over channels and positions. In segmentation z is the deepest fused map, each of its
    pixels is a sample of KL, and the mean of CE is taken over labelled pixels. Where V is not known
    it is half of all combinations, which for three modalities is as many as the released code
    fixes. The third term has the class weights of the task's loss, if there are any. The paper's
    text was not available: the formulas are those of the released code and of an independent
    implementation that names the paper's equations.

    variant='official' follows the released code where that changes numbers. In classification that
    code multiplies the CE of the B samples, a vector, by a mask of shape (B, 1, 1, 1). The product
    holds every pair of a sample's mask and a sample's CE, so that the third term is

        beta n_hard 1/B sum_i CE(g(s_i), y_i)

    with n_hard the number of hard samples of the batch: all samples count, not the hard ones, and
    about B times as much. The released values of beta belong to this sum. For rgb, depth and ir
    the hard combinations are those without depth; for other modalities it is the single modality
    of the highest variance. In segmentation all incomplete combinations are hard, a second decoder
    is trained for them, their loss is the mean over their own pixels, KL is detached, so that it
    has no gradient, and the gradient of all parameters is clipped to the norm 20, as on NYUv2. A
    step on features of faces and one of ESANet from its images are tested against figures of the
    released code, every term and the gradient of every weight. That code trains with cross-entropy
    alone (`loss=ce`), the default of the protocol adds Dice.

    Departures from the released code in both variants: the average of the variance is the exact one
    over all samples, where that code averages means of batches; a batch without hard samples has no
    third term in segmentation, where that code takes a constant of 1e-16; the second decoder has
    the third term of every batch, where that code gives it to the main one if no sample has depth
    alone; steps are not skipped when the loss is NaN. In the audio-visual code z is the vector of
    1,024 numbers that joins both modalities' pooled maps, linear layers with BatchNorm make the
    Gaussian, one linear layer classifies, and the last, smaller batch of an epoch is kept.

    Cityscapes has no settings of its own: the authors released no result of DMRNet and no command
    to train it there. Their script that resumes a checkpoint of that data
    (train_missing_dul_auxi_amp.py) has depth alone as hard, no clipping, and the third term from
    epoch 10 on.

    Args:
        task: What the data set requires.
        alpha: Weight of KL.
        beta: Weight of the hard combination regulariser.
        warmup: Number of epochs that are mined; the regulariser starts after them. A shorter
            training mines fewer (`late_start`).
        hard: Number V of hard combinations; 0 takes half of all combinations, rounded down.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown, there are fewer than `hard` combinations, or `warmup` is
            below 1.
    """

    version = 2
    official_loss = 'ce'
    shares_convolution = True
    supported_networks = ('pyramid', 'esanet')
    settings = {
        # The code tried 0.3, 0.5 and 0.7; the row quoted for the paper is a logged run with 0.7.
        # The released run learns nothing in epochs 0 and 1; its 6 epochs are these 4.
        'casia_surf': {'beta': 0.7, 'warmup': 4},
        'crema_d': {'beta': 0.2},
        'kinetics_sounds': {'beta': 0.3},
        'nyuv2': {'warmup': 11, 'hard': 2},
    }
    search = {'alpha': LogUniform(1e-4, 1e-2), 'beta': LogUniform(0.02, 7)}
    sets: Tensor
    candidates: Tensor
    variance: Tensor
    samples: Tensor

    def __init__(
        self,
        task: Task,
        *,
        alpha: float = 1e-3,
        beta: float = 0.5,
        warmup: int = 6,
        hard: int = 0,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of dmrnet', variant, ('paper', 'official'))
        sets = [s for s in itertools.product((False, True), repeat=len(task.names)) if any(s)]
        if not 0 <= hard <= len(sets):
            raise UserError(f'dmrnet:hard: expected 0 to {len(sets)} combinations, found {hard}')
        if warmup < 1:
            raise UserError(f'dmrnet:warmup: expected at least 1 epoch, found {warmup}')
        self.alpha, self.beta, self.given_warmup = alpha, beta, warmup
        self.official = variant == 'official'
        self.dense = task.kind == 'segmentation'
        self.gaussian = Gaussian(self.decoder.channels)
        if self.dense and self.official:
            self.auxiliary = decoder(task)
        self.register_buffer('sets', torch.tensor(sets), persistent=False)
        candidates, self.count = self._candidates(hard)
        self.register_buffer('candidates', candidates, persistent=False)
        # Persistent buffers are part of a checkpoint: a resumed run keeps what was mined. float64,
        # because float32 would round small additions to a sum over many samples away.
        self.register_buffer('variance', torch.zeros(len(sets), dtype=torch.float64))
        self.register_buffer('samples', torch.zeros(len(sets), dtype=torch.float64))

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Tells where a training is too short for `warmup`."""
        return late_term('the hard combination regulariser', options['warmup'], epochs)

    @property
    def warmup(self) -> int:
        """The option, or fewer epochs where the training is not longer."""
        return late_start(self.given_warmup, self.epochs)

    def _candidates(self, hard: int) -> tuple[Tensor, int | None]:
        """Returns which sets may be hard, (S,) bool, and how many are mined; None takes all."""
        names = self.task.names
        members = [{n for n, there in zip(names, s, strict=True) if there} for s in self.sets]
        if not self.official:
            return torch.ones(len(members), dtype=torch.bool), hard or len(members) // 2
        if self.dense:
            return torch.tensor([len(s) < len(names) for s in members]), None
        if {*names} == {'rgb', 'depth', 'ir'}:
            return torch.tensor([s in WITHOUT_DEPTH for s in members]), None
        return torch.tensor([len(s) == 1 < len(names) for s in members]), 1

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Decodes the mean of the embedding; mask (B, M) bool."""
        *shallow, z = self.decoder.maps(self.fusion(features, mask))
        return self.decoder.logits((*shallow, self.gaussian.mean(z)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task, weighted loss_kl and, after the warm-up, weighted loss_hard."""
        *shallow, z = self.decoder.maps(self.fusion(self.encode(batch.inputs), batch.mask))
        mean, log_variance = self.gaussian(z)
        sample = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        maps = (*shallow, sample)
        outputs = self.decoder.outputs(maps)
        losses = {
            'loss_task': multi_scale(self.task_loss, outputs, batch.target),
            'loss_kl': self.alpha * self.compression(mean, log_variance),
        }
        if self.epoch < self.warmup:
            # Mining only observes the variance: it must not become a training signal.
            self.mine(log_variance.detach(), batch.mask)
        else:
            if self.dense and self.official:
                outputs = self.auxiliary.outputs(self.auxiliary.maps(maps))
            losses['loss_hard'] = self.beta * self.regularization(outputs, batch)
        return losses

    def compression(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Returns KL, summed over the elements of a sample and averaged over samples.

        Args:
            mean: (B, C, H, W).
            log_variance: (B, C, H, W).
        """
        elements = divergence(mean, log_variance)
        if not self.dense:
            return elements.flatten(1).sum(1).mean()
        kl = elements.sum(1).mean()
        # The released segmentation code copies KL into a new tensor and so loses its gradient.
        return kl.detach() if self.official else kl

    def regularization(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Returns the loss of the hard samples, summed over the decoder's outputs, unweighted."""
        criterion = functools.partial(self.hard_loss, self.hard(batch.mask))
        return multi_scale(criterion, outputs, batch.target)

    def hard_loss(self, hard: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the cross-entropy, summed over hard samples and divided by the number of all.

        In segmentation samples are labelled pixels; the official variant divides by the number of
        the hard ones. In classification the official variant returns the number of hard samples
        times the mean cross-entropy of all samples. Everything is counted by class weight.

        Args:
            hard: (B,) bool.
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W).
        """
        errors, weights = weighted_errors(logits, target, self.class_weights)
        hard = hard.view(-1, *[1] * (errors.ndim - 1))
        if self.official and self.dense:
            weights = torch.where(hard, weights, 0.0)
        # Where nothing counts, errors are 0 as well; the bound turns 0 / 0 into 0.
        share = errors / weights.sum().clamp_min(1e-6)
        if self.official and not self.dense:
            return hard.sum() * share.sum()
        return torch.where(hard, share, 0.0).sum()

    def members(self, mask: Tensor) -> Tensor:
        """Returns which of the S sets each mask (B, M) is, (B, S) bool, one per row."""
        return (mask[:, None] == self.sets).all(2)

    def mine(self, log_variance: Tensor, mask: Tensor) -> None:
        """Adds each sample's mean variance to the statistics of its set (Eq. 10).

        Args:
            log_variance: (B, C, H, W).
            mask: (B, M) bool.
        """
        variance = log_variance.exp().flatten(1).mean(1).double()
        members = self.members(mask)
        self.variance += torch.where(members, variance[:, None], 0.0).sum(0)
        self.samples += members.sum(0)

    def hard_sets(self) -> Tensor:
        """Returns which sets are hard, (S,) bool; a set that was never drawn is not hard."""
        if self.count is None:
            return self.candidates
        known = self.candidates & (self.samples > 0)
        average = self.variance / self.samples.clamp_min(1)
        top = average.masked_fill(~known, -torch.inf).topk(self.count).indices
        # With fewer known sets than V, topk also returns sets that were filled with -inf.
        return torch.zeros_like(known).index_fill(0, top, True) & known

    def hard(self, mask: Tensor) -> Tensor:
        """Returns which masks (B, M) are hard, (B,) bool."""
        return (self.members(mask) & self.hard_sets()).any(1)

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Does mmengine's training step, with clipped gradients where the released code clips."""
        if not (self.dense and self.official):
            return super().train_step(data, optim_wrapper)
        with clip_networks(optim_wrapper.optimizer, [[self]], CLIP):
            return super().train_step(data, optim_wrapper)

    def on_validation(self, scores: dict[str, SubsetScore]) -> None:
        """Logs the hard combinations after the warm-up; the scores are not used."""
        if self.epoch == self.warmup - 1:
            rows = self.sets[self.hard_sets()].tolist()
            found = ['+'.join(itertools.compress(self.task.names, row)) for row in rows]
            print_log(f'dmrnet: hard combinations {", ".join(found)}', 'current')
