"""Random numbers of a batch whose rows are shared by several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.engine.parallel.exchange import Rows, by_stride

SIZED = ('rand', 'randn', 'randint')
"""Functions whose argument is a size; of `randint` it is the second or third one."""


class Draws(TorchDispatchMode):
    """Draws the numbers of the whole batch where a share of its rows asks for some.

    All processes draw the same numbers and take those of their own rows: dropout then drops what it
    drops in one process. A tensor belongs to a batch if it has as many rows as the share; what is
    drawn in another way stays as it is, which `sharing.Shares` notices and does not share.

    Args:
        rows: The rows of the share.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls an operation, in the size of the whole batch if it draws."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func._schema.name.partition('::')[2]
        first = args[0] if args else None
        if isinstance(first, Tensor) and self._shared(first.shape):
            return self._drawn(func, name, first, args[1:], kwargs)
        place = next((k for k, a in enumerate(args) if isinstance(a, list | tuple)), None)
        if name in SIZED and place is not None and self._shared(args[place]):
            size = [self.rows.total, *args[place][1:]]
            return self._own(func(*args[:place], size, *args[place + 1 :], **kwargs))
        return func(*args, **kwargs)

    def _shared(self, size: Any) -> bool:
        return len(size) > 0 and size[0] == self.rows.end - self.rows.begin

    def _own(self, x: Tensor) -> Tensor:
        return x[self.rows.begin : self.rows.end]

    def _drawn(self, func: Any, name: str, x: Tensor, args: Any, kwargs: Any) -> Any:
        """Draws for a tensor: in place, in its likeness, or to drop parts of it."""
        whole = self._like(x)
        if name.endswith('_'):
            func(whole, *args, **kwargs)
            return x.copy_(self._own(whole))
        if name.endswith('_like'):
            return self._own(func(whole, *args, **kwargs))
        if name == 'native_dropout':
            kept, mask = func(whole.fill_(1), *args, **kwargs)
            return x * self._own(kept), self._own(mask)
        return func(x, *args, **kwargs)

    def _like(self, x: Tensor) -> Tensor:
        """Returns an empty tensor of the whole batch, in the layout in memory that x has."""
        order = by_stride(x)
        size = [self.rows.total, *x.shape[1:]]
        whole = x.new_empty([size[axis] for axis in order])
        return whole.permute([order.index(axis) for axis in range(x.ndim)])
