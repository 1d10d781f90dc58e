"""Batch normalisation of a batch whose rows are shared by several processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from benchmark.engine.parallel import processes

Moments = tuple[Tensor, Tensor]
"""Mean and variance (C,) over rows and positions, in float32."""


def precise(x: Tensor) -> Tensor:
    """Returns x in float32, or in float64 if it has that already."""
    return x if x.dtype == torch.float64 else x.float()


def moments(x: Tensor) -> Moments:
    """Returns the mean and the population variance (C,) of x (N, C, ..)."""
    variance, mean = torch.var_mean(precise(x), [0, *range(2, x.ndim)], correction=0)
    return mean, variance


def common(x: Tensor) -> tuple[Moments, int]:
    """Returns the moments of the rows of all processes, and how many numbers a channel has.

    The moments of the parts are combined by the formula of Chan, Golub and LeVeque (1979), which
    keeps the digits that a sum of squares would lose.

    Args:
        x: The own rows, (N, C, ..).
    """
    mean, variance = moments(x)
    count = x.numel() // x.shape[1]
    one = torch.stack([mean, variance, torch.full_like(mean, count)])
    every = processes.gather(one[None], processes.world())
    means, variances, counts = every.unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    apart = variances + (means - mean).square()
    # Each process computes the number of all from the same integers.
    return (mean, (counts * apart).sum(0) / total), int(total[0])


class _Normalise(Function):
    """Normalises the own rows by the moments of all rows; so does its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, found: Any
    ) -> Tensor:
        (mean, variance), ctx.count = found
        ctx.has = weight is not None, bias is not None
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        shape = [1, -1, *[1] * (x.ndim - 2)]
        axes = [0, *range(2, x.ndim)]
        gradient = precise(gradients[0])
        normal = (precise(x) - mean.view(shape)) * scale.view(shape)
        shift, slope = gradient.sum(axes), (gradient * normal).sum(axes)
        all_shift, all_slope = processes.add(shift, slope)
        factor = scale if weight is None else scale * weight
        inner = (all_shift.view(shape) + normal * all_slope.view(shape)) / ctx.count
        moved = (factor.view(shape) * (gradient - inner)).to(x.dtype)
        own_slope = slope.to(weight.dtype) if ctx.has[0] else None
        return moved, own_slope, shift if ctx.has[1] else None, None, None


class Norms(TorchFunctionMode):
    """Takes the place of `torch.nn.functional.batch_norm` while the mode is on.

    Layers of PyTorch and of the libraries, and code that calls the function, are all reached so,
    and no module is replaced.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls a function of PyTorch, or what stands for it."""
        call = self.norm if func is F.batch_norm else func
        return call(*args, **(kwargs or {}))

    def norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalises x; the arguments are those of `torch.nn.functional.batch_norm`."""
        if not training:
            return F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps)
        return self.trained(x, mean, variance, weight, bias, momentum, eps)

    def trained(self, x: Tensor, mean: Any, variance: Any, *others: Any) -> Tensor:
        """Normalises x by the moments of the batch."""
        raise NotImplementedError


class Synchronised(Norms):
    """Normalises by the moments of the rows of all processes."""

    def trained(self, x: Tensor, mean: Any, variance: Any, *others: Any) -> Tensor:
        """Normalises the own rows, and updates running moments by those of all rows."""
        weight, bias, momentum, eps = others
        with torch.no_grad():
            found = (now, spread), count = common(x.detach())
            if mean is not None:
                mean.lerp_(now.to(mean.dtype), momentum)
                # As in PyTorch, the running variance is the unbiased one.
                variance.lerp_((spread * (count / (count - 1))).to(variance.dtype), momentum)
        return _Normalise.apply(x, weight, bias, eps, found)


class Recording(Norms):
    """Normalises as usual, and keeps the moments of every batch.

    Attributes:
        kept: The moments, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Moments] = []

    def trained(self, x: Tensor, mean: Any, variance: Any, *others: Any) -> Tensor:
        """Normalises x by its own moments."""
        weight, bias, momentum, eps = others
        self.kept.append(moments(x))
        return F.batch_norm(x, mean, variance, weight, bias, True, momentum, eps)


class Replaying(Norms):
    """Normalises by moments that were kept, in the order of the calls.

    Args:
        kept: The moments.
    """

    def __init__(self, kept: list[Moments]) -> None:
        super().__init__()
        self._kept = iter(kept)

    def trained(self, x: Tensor, mean: Any, variance: Any, *others: Any) -> Tensor:
        """Normalises x by the next moments."""
        weight, bias, _, eps = others
        now, spread = next(self._kept)
        return F.batch_norm(x, now, spread, weight, bias, False, 0.0, eps)
