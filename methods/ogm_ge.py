"""OGM-GE: slows the encoder of the modality that answers best, and adds noise to gradients."""

from __future__ import annotations

from typing import Literal

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.errors import unknown
from benchmark.method import IGNORE, Batch, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.gradients import step
from methods.common.networks import Maps
from methods.modality_dropout import ModalityDropout


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """Returns the factor of each modality's gradients, Eq. 10 of the paper for M modalities.

        rho_u = s_u / mean_{v != u} s_v,  k_u = 1 - tanh(alpha rho_u) if rho_u > 1, otherwise 1

    For two modalities these are the paper's ratios. k jumps at rho = 1, from 1 to 1 - tanh(alpha).

    Args:
        scores: s, (M,), not negative. A modality that is not scored is NaN: its factor is 1, and
            it is left out of the mean.
        alpha: Strength.
    """
    known = ~scores.isnan()
    found = scores.nan_to_num()
    beside = known.sum() - known.int()
    ratio = found * beside / (found.sum() - found)
    # 0 / 0 is NaN, which no comparison holds for; the others may be exactly 0.
    slowed = (ratio > 1) & known & (beside > 0)
    return torch.where(slowed, 1 - (alpha * ratio).tanh(), 1.0)


@METHODS.register_module('ogm_ge')
class OGMGE(ModalityDropout):
    """On-the-fly gradient modulation with generalisation enhancement. L = L_task.

    Peng, Wei, Deng, Wang & Hu, Balanced Multimodal Learning via On-the-fly Gradient Modulation,
    CVPR 2022 (arXiv 2203.15332). In every step each modality is scored by the probability s_u that
    it alone gives to the right class. The gradients of the convolutions of a modality's encoder
    are multiplied by k_u (`coefficients`): the modality that answers better than the others learns
    more slowly. Then Gaussian noise with the standard deviation of each weight's own gradient is
    added (GE), also where k_u = 1, as the released code does.

    Adaptations of this project. In the paper the modalities meet in one linear layer, whose parts
    score them. Here they meet before further layers, so that the joint decoder answers with this
    modality alone, without gradient and with the running statistics of its norms. Scores are means
    over the samples whose mask holds the modality; in segmentation over labelled pixels. The
    paper trains on complete data: sampler=complete gives its rule, the protocol's sampler that of
    the rest of a table. Vectors and sequences are encoded by linear layers, whose matrices take
    the place of convolutions, those of attention among them. The paper names no rule for more than
    two modalities.

    Agreement with the released code: with one convolution for each of two modalities, one linear
    layer without bias behind them and equal noise, a whole step follows the same gradients, with
    and without noise (tests/methods/test_released_balance.py). There a modality is scored with half
    of that layer's bias, here with all of it; if both scores are equal, that code slows one, too.

    Args:
        task: What the data set requires.
        alpha: Strength; the released code recommends 0.1 for VGGSound and 0.8 for CREMA-D.
        modulation: 'ogm_ge', 'ogm' without noise, or 'none', which is modality dropout.
        start: Share of the epochs before modulation starts.
        end: Share of the epochs after which it ends; in the released code epoch 50 of 100 is the
            last one.

    Raises:
        UserError: `modulation` is unknown.
    """

    separate_encoders = True
    shares_convolution = True
    settings = {'crema_d': {'alpha': 0.8}}
    ranges = dict.fromkeys(('start', 'end'), Range(0, 1))
    only_with = dict.fromkeys(('alpha', 'start', 'end'), ('modulation', ('ogm_ge', 'ogm')))
    search = {'alpha': LogUniform(0.01, 8)}

    def __init__(
        self,
        task: Task,
        *,
        alpha: float = 0.1,
        modulation: Literal['ogm_ge', 'ogm', 'none'] = 'ogm_ge',
        start: float = 0.0,
        end: float = 0.5,
    ) -> None:
        super().__init__(task)
        if modulation not in ('ogm_ge', 'ogm', 'none'):
            raise unknown('modulation of ogm_ge', modulation, ('ogm_ge', 'ogm', 'none'))
        self.alpha, self.modulation, self.start, self.end = alpha, modulation, start, end
        self.factors: Tensor | None = None
        # Name of a parameter -> the column of its modality, for the weights that are modulated.
        self.modulated = {
            f'encoders.{name}.{part}': column
            for column, name in enumerate(task.names)
            for part, weight in self.encoders[name].named_parameters()
            if weight.ndim > 1
        }

    @torch.no_grad()
    def scores(self, features: dict[str, Maps], batch: Batch) -> Tensor:
        """Returns s, (M,): the mean probability of the right class from each modality alone.

        NaN for a modality that no labelled sample of the batch may use.
        """
        found = []
        self.fusion.eval()
        self.decoder.eval()
        for column in range(len(self.task.names)):
            alone = torch.zeros_like(batch.mask)
            alone[:, column] = True
            right = batch.target.where(batch.target != IGNORE, 0)[:, None]
            p = self.decode(features, alone).float().softmax(1).gather(1, right)[:, 0]
            there = batch.mask[:, column].view(-1, *[1] * (p.ndim - 1))
            counted = there & (batch.target != IGNORE)
            found.append(p.where(counted, 0.0).sum() / counted.sum())
        self.fusion.train(self.training)
        self.decoder.train(self.training)
        return torch.stack(found)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and, while gradients are modulated, the factor of each modality.

        Factors are logged by the modality's number, from 0.
        """
        features = self.encode(batch.inputs)
        logits = self.decoder.outputs(self.decoder.maps(self.fusion(features, batch.mask)))
        losses = {'loss_task': self.task_loss(logits[0], batch.target)}
        running = self.start * self.epochs <= self.epoch <= self.end * self.epochs
        self.factors = None
        if running and self.modulation != 'none':
            self.factors = coefficients(self.scores(features, batch), self.alpha)
            # By number: a term whose name holds 'loss', as a modality's may, would be minimised.
            losses |= {f'factor {m}': factor for m, factor in enumerate(self.factors)}
        return losses

    def modulate(
        self, gradients: dict[str, list[Tensor]], parameters: list[nn.Parameter]
    ) -> list[Tensor]:
        """Returns the gradients with factors and noise on the weights that are modulated."""
        (plain,) = gradients.values()
        if self.factors is None:
            return plain
        named = {id(p): self.modulated.get(name) for name, p in self.named_parameters()}
        changed = []
        for g, p in zip(plain, parameters, strict=True):
            column = named[id(p)]
            if column is not None:
                noise = torch.randn_like(g) * (g.std() + 1e-8)
                g = g * self.factors[column]
                if self.modulation == 'ogm_ge':
                    g = g + noise
            changed.append(g)
        return changed

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Updates the parameters along the modulated gradients; returns the terms for the log."""
        return step(self, data, optim_wrapper, self.modulate, together=True)
