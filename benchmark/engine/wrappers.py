"""mmengine's optimiser wrappers, which clip gradients without a wait for the device.

mmengine's own read the norm of the gradients after each step, for a log that nothing here shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.optim import AmpOptimWrapper, OptimWrapper


class _Clipping:
    """Mixed into mmengine's wrappers in place of their methods.

    Attributes:
        watch: Called with the wrapper before each step, when all gradients are there.
    """

    watch: Callable[[Any], None] | None = None
    optimizer: Any
    clip_func: Any
    clip_grad_kwargs: dict[str, Any]

    def step(self, **kwargs: Any) -> None:
        """Steps, after whoever watches has seen the gradients."""
        if self.watch is not None:
            self.watch(self)
        self._unscale()
        super().step(**kwargs)  # type: ignore[misc]

    def _unscale(self) -> None:
        """Divides the gradients by the factor of mixed precision, if there is one."""

    def _clip_grad(self) -> None:
        """Clips the gradients of all parameters together; the norm stays on the device."""
        groups = self.optimizer.param_groups
        self.clip_func([p for group in groups for p in group['params']], **self.clip_grad_kwargs)


class PlainWrapper(_Clipping, OptimWrapper):
    """mmengine's wrapper for training in float32."""


class MixedWrapper(_Clipping, AmpOptimWrapper):
    """mmengine's wrapper for training in mixed precision.

    Hooks of the optimiser, such as those of methods that clip each network by itself, see gradients
    without the factor. A fused optimiser would divide them only while it steps.
    """

    loss_scaler: Any

    def _unscale(self) -> None:
        if not self.clip_grad_kwargs:  # else mmengine does it, which is allowed once
            self.loss_scaler.unscale_(self.optimizer)
