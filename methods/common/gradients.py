"""Training steps along gradients that a method has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.method import Batch, Method


class Losses(NamedTuple):
    """The losses of a batch.

    Attributes:
        terms: Name -> each term that is minimised.
        total: The sum of the terms.
        parameters: What is trained.
        scale: Scalar tensor by which a loss is multiplied before its backward pass, and gradients
            are divided afterwards: small ones would underflow in half precision.
        logged: The terms for the log.
    """

    terms: dict[str, Tensor]
    total: Tensor
    parameters: list[nn.Parameter]
    scale: Tensor
    logged: dict[str, Tensor]


def step(
    method: Method,
    data: Batch,
    optim_wrapper: OptimWrapper,
    change: Callable[[dict[str, list[Tensor]], list[nn.Parameter]], Sequence[Tensor]],
    together: bool = False,
) -> dict[str, Tensor]:
    """Updates the parameters along changed gradients; for a method's `train_step`.

    Args:
        method: The method.
        data: The batch, as the loader made it.
        optim_wrapper: mmengine's optimiser.
        change: Receives the name of each term of the loss -> its gradients, one for each parameter
            and zero where the term does not depend on it, and the parameters; returns the gradient
            of each parameter.
        together: Whether `change` receives the gradients of the sum of all terms instead, under the
            name 'loss'; one backward pass suffices.

    Returns:
        The terms of the loss for the log.
    """
    found = losses_of(method, data, optim_wrapper)
    terms = {'loss': found.total} if together else found.terms
    parameters, scale = found.parameters, found.scale
    gradients, last = {}, [*terms][-1]
    for name, term in terms.items():
        scaled = torch.autograd.grad(
            scale * term, parameters, retain_graph=name != last, materialize_grads=True
        )
        gradients[name] = [g / scale for g in scaled]
    descend(optim_wrapper, parameters, change(gradients, parameters))
    return found.logged


def losses_of(method: Method, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
    """Computes the losses of a batch, made by the loader, for a method's `train_step`."""
    with optim_wrapper.optim_context(method):
        losses = method._run_forward(method.data_preprocessor(data, True), mode='loss')
    total, logged = method.parse_losses(losses)
    scale = total.new_ones(()).detach()
    if hasattr(optim_wrapper, 'loss_scaler'):
        scale = optim_wrapper.loss_scaler.scale(scale)
    terms = {name: x for name, x in losses.items() if 'loss' in name}
    parameters = [p for p in method.parameters() if p.requires_grad]
    return Losses(terms, total, parameters, scale, logged)


def descend(
    optim_wrapper: OptimWrapper, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]
) -> None:
    """Updates parameters along gradients, one for each.

    A linear function of the parameters has exactly these gradients. Given as a loss, it leaves
    scaling, accumulation, clipping and the step to mmengine's wrapper.
    """
    linear = [(p * g).sum() for p, g in zip(parameters, gradients, strict=True)]
    optim_wrapper.update_params(torch.stack(linear).sum())
