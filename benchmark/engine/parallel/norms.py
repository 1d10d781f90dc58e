"""Batch normalisation of a batch whose rows are shared by several processes."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from benchmark.engine.parallel import exchange, processes
from benchmark.engine.parallel.exchange import Rows

Moments = tuple[Tensor, Tensor]
"""Mean and variance (C,) over rows and positions, in float32."""


def precise(x: Tensor) -> Tensor:
    """Returns x in float32, or in float64 if it has that already."""
    return x if x.dtype == torch.float64 else x.float()


def moments(x: Tensor) -> Moments:
    """Returns the mean and the population variance (C,) of x (N, C, ..)."""
    if x.device.type == 'cpu':  # there this function takes a twentieth of the time of the other one
        mean, variance = torch.batch_norm_update_stats(precise(x), None, None, 0.0)
        return mean, variance
    variance, mean = torch.var_mean(precise(x), [0, *range(2, x.ndim)], correction=0)
    return mean, variance


def common(x: Tensor, rows: Rows) -> tuple[Moments, int]:
    """Returns the moments of the rows of all processes, and how many numbers a channel has.

    The moments of the parts are combined by the formula of Chan, Golub and LeVeque (1979), which
    keeps the digits that a sum of squares would lose.

    Args:
        x: What the module has made of the own rows, (N, C, ..); every row counts alike.
        rows: The own rows of the module's input.
    """
    each = range(processes.world())
    sizes = [r.end - r.begin for r in (exchange.own(rows.total, p) for p in each)]
    parts = exchange.gather(torch.stack(moments(x))[None], processes.world())
    shares = [(size / rows.total, *part) for size, part in zip(sizes, parts, strict=True)]
    mean = functools.reduce(operator.add, (w * m for w, m, _ in shares))
    variance = functools.reduce(operator.add, (w * (v + (m - mean).square()) for w, m, v in shares))
    # Known without a wait for the device, which would have to send it.
    count = x.numel() // x.shape[1] * rows.total // (rows.end - rows.begin)
    return (mean, variance), count


class _Normalise(Function):
    """Normalises the own rows by the moments of all rows; so does its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, found: Any
    ) -> Tensor:
        (mean, variance), ctx.count = found
        ctx.has, ctx.eps = (weight is not None, bias is not None), eps
        weight = torch.ones_like(mean) if weight is None else weight
        ctx.save_for_backward(x, weight, mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        # The gradients that there were if the moments were constants. From those of weight and
        # bias, summed over all rows, follows what the moments add.
        fixed, slope, shift = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True] * 3
        )
        all_slope, all_shift = exchange.add(precise(slope), precise(shift))
        scale = (variance + ctx.eps).rsqrt()
        tilt = weight * scale.square() * all_slope / ctx.count
        level = weight * scale * all_shift / ctx.count - tilt * mean
        shape = [1, -1, *[1] * (x.ndim - 2)]
        moved = torch.addcmul(fixed - level.view(shape), x, tilt.view(shape), value=-1)
        own = slope if ctx.has[0] else None, shift if ctx.has[1] else None
        return moved.to(x.dtype), *own, None, None


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
    """Normalises by the moments of the rows of all processes.

    Args:
        rows: The own rows of the module's input.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    def trained(self, x: Tensor, mean: Any, variance: Any, *others: Any) -> Tensor:
        """Normalises the own rows, and updates running moments by those of all rows."""
        weight, bias, momentum, eps = others
        with torch.no_grad():
            found = (now, spread), count = common(x.detach(), self._rows)
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
