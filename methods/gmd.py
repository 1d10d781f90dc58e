"""GMD: removes from each subset's gradient what conflicts with the gradients of other subsets."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.method import IGNORE, Batch, Method, Task
from benchmark.registry import METHODS
from methods.common.losses import labels_of, sigmoid_dice, total
from methods.common.networks import decoder, fused_channels
from methods.shaspec import SharedEncoder


class DynamicSharing(SharedEncoder):
    """One network from input to logits for all modalities, with norms of each modality's own.

    The adapters that precede the shared encoder belong to one modality each, too. The parts of a
    modality are used only for the samples of that modality.

    Args:
        task: Gives modalities, kind, width and classes.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        network = nn.Sequential(self.encoder, decoder(task, channels=fused_channels(task)[-1]))
        del self.encoder
        common = {
            id(p): p
            for module in network.modules()
            if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
            for p in module.parameters(recurse=False)
        }
        # deepcopy does not copy what its memo holds: all copies share the parameters in `common`
        # and differ in their norms alone. Each copy needs a memo of its own, hence dict().
        self.networks = nn.ModuleDict(
            {name: copy.deepcopy(network, dict(common)) for name in task.names}
        )

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the logits of each modality.

        Args:
            inputs: Modality name -> (B, *shape).

        Returns:
            Modality name -> (B, K) or (B, K, H, W).
        """
        return {name: self.networks[name](self.adapt(name, x)) for name, x in inputs.items()}


def spread(flags: Tensor, like: Tensor) -> Tensor:
    """Returns flags (B,) with as many trailing dimensions of 1 as `like` (B, ..) needs."""
    return flags.view(-1, *[1] * (like.dim() - 1))


def decoupling_weights(products: Tensor, order: Tensor) -> Tensor:
    """Returns the weights with which n gradients sum to their projections.

    Each gradient g_i is compared with the others, one by one. If it conflicts with g_j, its
    component along g_j is removed:

        g_i <- g_i - <g_i, g_j> / ||g_j||^2 g_j    if <g_i, g_j> < 0

    where g_j has its initial value. Every g_i remains a linear combination of the initial
    gradients, so that their inner products suffice: sum_i g_i = sum_k w_k g_k. The weights w do not
    change if all gradients are multiplied by one factor, and their cost does not depend on the
    number of parameters.

    Args:
        products: <g_i, g_j>, (n, n).
        order: (n, n); row i is a permutation, the order in which g_i is compared with the others.

    Returns:
        w, (n,).
    """
    rows = torch.arange(len(products), device=products.device)
    # Row i holds the coefficients of the present g_i.
    mixture = torch.eye(len(products), dtype=products.dtype, device=products.device)
    for met in order.T:
        product = (mixture * products[met]).sum(1)
        conflict = (product < 0) & (met != rows)
        part = torch.where(conflict, product / products.diagonal()[met], 0)
        mixture[rows, met] -= part
    return mixture.sum(0)


def decoupled_gradients(
    losses: Sequence[Tensor], parameters: Sequence[nn.Parameter], scale: Tensor
) -> list[Tensor]:
    """Returns the sum of the losses' projected gradients.

    Args:
        losses: n scalar tensors with a graph.
        parameters: Leaves of the graph; a loss need not depend on all of them.
        scale: Scalar tensor. Losses are multiplied by it before the backward pass and gradients
            divided by it afterwards, so that small gradients do not underflow in half precision.

    Returns:
        One tensor per parameter, of its shape.
    """
    single = [
        torch.autograd.grad(scale * x, parameters, retain_graph=True, materialize_grads=True)
        for x in losses
    ]
    stacks = [torch.stack(g).flatten(1) / scale for g in zip(*single, strict=True)]
    products = total(g @ g.T for g in stacks)
    # Sorting random numbers draws a permutation per row without waiting for the device.
    order = torch.rand_like(products).argsort(1)
    weights = decoupling_weights(products, order)
    return [(weights @ g).view_as(p) for g, p in zip(stacks, parameters, strict=True)]


@METHODS.register_module('gmd')
class GMD(Method):
    """Gradient-guided modality decoupling.

    Wang, Luo, Hu & Zhang, Gradient-Guided Modality Decoupling for Missing-Modality Robustness, AAAI
    2024 (arXiv 2402.16318). One network with separate norms for each modality (`DynamicSharing`)
    turns every modality alone into logits z_i. A prediction is the mean of the logits of the
    present modalities. Each step computes the gradients g_K of the losses of all non-empty subsets
    K,

        L_K = task loss of mean_{i in K} z_i

    removes from each gradient what conflicts with another one, in random order
    (`decoupling_weights`), and descends along their mean. In this way a dominant modality cannot
    undo what the others have learned. With decouple=False the plain mean of the g_K is used.

    The subsets are the training masks: the protocol's sampler has no effect, and all subsets count
    equally, as with the sampler 'uniform'. If the data have gaps, L_K covers the samples that have
    all modalities of K; without gaps this is the paper's loss. A subset K that no sample of a batch
    has gives no gradient.

    Only excerpts of the paper were available. The formulas are those of the released code with its
    setting of all subsets; another of its scripts uses subsets of two modalities only.

    Adaptations of this project: the suite's encoders and decoders, hence batch normalisation
    instead of group normalisation; the adapters of ShaSpec in front of the shared network; and the
    protocol's task loss for L_K; with loss=own it is `sigmoid_dice`, the Dice loss of the released
    code. The terms L_K therefore have other values than there, although their formula is the same:
    the released networks are U-Nets for volumes. What follows them, the projection, gives equal
    gradients for equal losses and an equal order. Departures from that code: it sums, instead of
    averaging, the gradients of parameters that not every subset reaches, such as norms, a factor
    that its Adam optimiser cancels and plain gradient descent does not; and it also compares a
    gradient with itself.

    Args:
        task: What the data set requires.
        decouple: Whether conflicts are removed; otherwise only dynamic sharing remains.
    """

    version = 2
    # Masks hold all that a sample has: the loss forms the subsets itself.
    sampler = 'complete'

    def __init__(self, task: Task, *, decouple: bool = True) -> None:
        super().__init__(task)
        self.decouple = decouple
        self.networks = DynamicSharing(task)
        count = len(task.names)
        sizes = range(1, count + 1)
        self.subsets = [k for size in sizes for k in itertools.combinations(range(count), size)]

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the logits (B, K) or (B, K, H, W) of each modality."""
        return self.networks(inputs)

    def decode(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the mean of the present modalities' logits, in float32.

        Args:
            features: Modality name -> logits.
            mask: (B, M) bool.
        """
        terms, counts = [], []
        for column, name in enumerate(self.task.names):
            if name in features:
                there = spread(mask[:, column], features[name])
                terms.append(torch.where(there, features[name].float(), 0))
                counts.append(there.int())
        return total(terms) / total(counts).clamp_min(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss of every subset, each divided by the number of subsets."""
        features, losses = self.encode(batch.inputs), {}
        for members in self.subsets:
            counted = torch.stack([batch.mask[:, m] for m in members]).all(0)
            # With only these logits, the backward pass of L_K skips the other modalities' networks.
            given = {self.task.names[m]: features[self.task.names[m]] for m in members}
            term = self.criterion(self.decode(given, batch.mask), batch.target, counted)
            losses[f'loss_{"+".join(given)}'] = term / len(self.subsets)
        return losses

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `sigmoid_dice`; arguments as in `task_loss`."""
        return sigmoid_dice(logits, target)

    def criterion(self, logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """Returns the task loss over the samples that count, or 0 if none does.

        Args:
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W).
            counted: (B,) bool.
        """
        labels = labels_of(target, counted)
        loss = self.task_loss(logits, labels)
        # The mean over no sample is NaN. Selecting on the device avoids waiting for `counted`.
        return torch.where((labels != IGNORE).any(), loss, 0.0)

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Updates the parameters along the decoupled gradients.

        Args:
            data: The batch.
            optim_wrapper: mmengine's optimiser.

        Returns:
            The terms of the loss, before decoupling, for the log.
        """
        if not self.decouple:
            return super().train_step(data, optim_wrapper)
        with optim_wrapper.optim_context(self):
            losses = self._run_forward(self.data_preprocessor(data, True), mode='loss')
        _, logged = self.parse_losses(losses)
        parameters = [p for p in self.parameters() if p.requires_grad]
        scale = next(iter(logged.values())).new_ones(())
        if hasattr(optim_wrapper, 'loss_scaler'):
            scale = optim_wrapper.loss_scaler.scale(scale)
        terms = [x for name, x in losses.items() if 'loss' in name]
        gradients = decoupled_gradients(terms, parameters, scale)
        # A linear function of the parameters has exactly these gradients. Given as a loss, it
        # leaves scaling, accumulation, clipping and the step to mmengine's wrapper.
        linear = [(p * g).sum() for p, g in zip(parameters, gradients, strict=True)]
        optim_wrapper.update_params(torch.stack(linear).sum())
        return logged
