"""MMPareto: integrates the gradients of multimodal and unimodal losses in each encoder."""

from __future__ import annotations

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.method import KINDS, Batch, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.gradients import step
from methods.common.losses import total
from methods.common.unimodal import UnimodalHeads


def shares(joint: Tensor, own: Tensor) -> Tensor:
    """Returns the weights (a, b) of two gradients, (2,): equal, or Pareto where they conflict.

    Where the cosine is positive, a = b = 1/2. Otherwise a g + b h is the vector of the smallest
    norm on the line between g and h, a + b = 1; here a and b are at least 0.001.

    Args:
        joint: g, the gradient of the multimodal loss, flattened.
        own: h, that of the unimodal loss.
    """
    gg, gh, hh = joint @ joint, joint @ own, own @ own
    # Of conflicting gradients neither alone is the shortest, unless it is zero.
    a = ((hh - gh) / (gg + hh - 2 * gh)).nan_to_num(0.5).clamp(0.001, 0.999)
    a = torch.where(gh > 0, 0.5, a)
    return torch.stack([a, 1 - a])


def integrated(joint: list[Tensor], own: list[Tensor], gamma: float) -> list[Tensor]:
    """Returns the gradients of one encoder's parameters.

    With (a, b) of all parameters together, each parameter's gradient is 2 (a g + b h), enlarged to
    the norm of g + h where it is shorter, and multiplied by gamma.

    Args:
        joint: g for each parameter.
        own: h for each parameter.
        gamma: Factor on all gradients of the encoder.
    """
    a, b = shares(*(torch.cat([x.flatten() for x in grads]) for grads in (joint, own)))
    found = []
    for g, h in zip(joint, own, strict=True):
        new = 2 * (a * g + b * h)
        # 0 / 0 where a parameter has no gradient.
        enlarged = ((g + h).norm() / new.norm()).nan_to_num(1.0, 1.0).clamp(min=1)
        found.append(gamma * enlarged * new)
    return found


@METHODS.register_module('mmpareto')
class MMPareto(UnimodalHeads):
    """Multimodal and unimodal losses whose gradients meet in the encoders without conflict.

    Wei & Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024
    (arXiv 2405.17730). Each modality has a decoder of its own beside the joint one:

        L = L_task + sum_u L_u

    An encoder receives gradients of L_task and of its modality's L_u. `integrated` combines them:
    both count equally where they agree; where they conflict, the combination of the smallest norm
    is taken, which descends both losses; its norm is restored, and gamma, which enlarges the noise
    of stochastic gradients, multiplies it. Decoders and fusion follow the plain sum. With
    pareto=False everything does, which the paper calls the uniform baseline.

    Adaptations of this project: the suite's encoders, fusion and decoders, and masks: L_u covers
    the samples whose mask holds the modality. The paper trains on complete data (sampler=complete).

    Agreement with the released code: with equal encoders, a joint decoder and decoders of single
    modalities that are linear layers, and complete data, a whole step follows the same gradients,
    with a conflict in one encoder and none in the other (tests/methods/test_released_balance.py).
    One departure: there a and b are bounded by 0.001 only where a gradient is zero, here always,
    which may change the step if one conflicting gradient is more than 30 times as long as the
    other. There the norm is restored for each parameter by itself; whether the paper means all
    together could not be verified, since only its code and abstract were available.

    Args:
        task: What the data set requires.
        gamma: Factor on the encoders' gradients; 1.5 in the released code.
        pareto: Whether gradients are integrated.
    """

    task_kinds = KINDS
    separate_encoders = True
    shares_convolution = True
    ranges = {'gamma': Range(0, above=True)}
    only_with = {'gamma': ('pareto', (True,))}
    search = {'gamma': Uniform(1, 3)}

    def __init__(self, task: Task, *, gamma: float = 1.5, pareto: bool = True) -> None:
        super().__init__(task)
        self.gamma, self.pareto = gamma, pareto

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and the loss of each modality."""
        features = self.encode(batch.inputs)
        each = self.unimodal_losses(features, batch)
        joint = self.task_loss(self.decode(features, batch.mask), batch.target)
        return {'loss_task': joint, **{f'loss of {name}': x for name, x in each.items()}}

    def integrate(
        self, gradients: dict[str, list[Tensor]], parameters: list[nn.Parameter]
    ) -> list[Tensor]:
        """Returns the sum of all gradients, integrated where parameters are an encoder's."""
        found = [total(each) for each in zip(*gradients.values(), strict=True)]
        place = {id(p): i for i, p in enumerate(parameters)}
        for name in self.task.names:
            rows = [place[id(p)] for p in self.encoders[name].parameters() if id(p) in place]
            joint, own = (
                [gradients[term][i] for i in rows] for term in ('loss_task', f'loss of {name}')
            )
            for i, g in zip(rows, integrated(joint, own, self.gamma), strict=True):
                found[i] = g
        return found

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Updates the parameters along the integrated gradients; returns the terms for the log."""
        if not self.pareto:
            return super().train_step(data, optim_wrapper)
        return step(self, data, optim_wrapper, self.integrate)
