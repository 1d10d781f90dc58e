"""Training steps along gradients that a method has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.method import Batch, Method


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
    with optim_wrapper.optim_context(method):
        losses = method._run_forward(method.data_preprocessor(data, True), mode='loss')
    sum_of_all, logged = method.parse_losses(losses)
    parameters = [p for p in method.parameters() if p.requires_grad]
    scale = sum_of_all.new_ones(()).detach()
    if hasattr(optim_wrapper, 'loss_scaler'):
        # Small gradients would underflow in half precision.
        scale = optim_wrapper.loss_scaler.scale(scale)
    terms = {name: x for name, x in losses.items() if 'loss' in name}
    if together:
        terms = {'loss': sum_of_all}
    gradients, last = {}, [*terms][-1]
    for name, term in terms.items():
        found = torch.autograd.grad(
            scale * term, parameters, retain_graph=name != last, materialize_grads=True
        )
        gradients[name] = [g / scale for g in found]
    changed = change(gradients, parameters)
    # A linear function of the parameters has exactly these gradients. Given as a loss, it leaves
    # scaling, accumulation, clipping and the step to mmengine's wrapper.
    linear = [(p * g).sum() for p, g in zip(parameters, changed, strict=True)]
    optim_wrapper.update_params(torch.stack(linear).sum())
    return logged
