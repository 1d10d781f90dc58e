"""Rows of a batch that several processes share, and the tensors that they exchange."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from benchmark.engine.parallel import processes

# Newer versions of PyTorch have given the function another name.
_all_gather = getattr(dist, 'all_gather_single', None) or dist.all_gather_into_tensor


class Rows(NamedTuple):
    """The rows of a batch that belong to one process: from `begin` to before `end` of `total`."""

    begin: int
    end: int
    total: int


def own(total: int, process: int | None = None) -> Rows:
    """Returns the rows of a batch of `total` that are a process's, this one's by default."""
    at, shares = processes.rank() if process is None else process, processes.world()
    return Rows(at * total // shares, (at + 1) * total // shares, total)


def gather(x: Tensor, total: int) -> Tensor:
    """Returns the rows of all processes.

    Args:
        x: The own rows, as `own` deals them out.
        total: Number of rows of all processes.

    Returns:
        (total, ..) in the layout in memory that `x` has.
    """
    order = by_stride(x)
    # A batch in the order of its samples is gathered as it lies, any other one in two moves.
    straight = order[0] == 0
    x = (x.permute(order) if straight else x).contiguous()
    sizes = [r.end - r.begin for r in (own(total, p) for p in range(processes.world()))]
    most = max(sizes)
    if len(x) < most:  # collective operations want shares of one size
        x = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
    found = x.new_empty(most * processes.world(), *x.shape[1:])
    flags = x.dtype == torch.bool
    pair = (found.view(torch.uint8), x.view(torch.uint8)) if flags else (found, x)
    _all_gather(*pair)
    if most * processes.world() != total:
        shares = found.split(most)
        found = torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])
    if not straight:
        found = found.permute(order).contiguous()
    return found.permute([order.index(axis) for axis in range(x.ndim)])


def by_stride(x: Tensor) -> list[int]:
    """Returns the axes of a tensor as they follow each other in memory, the outermost first."""
    strides = x.stride()
    return sorted(range(x.ndim), key=lambda axis: -strides[axis])


def add(*tensors: Tensor) -> list[Tensor]:
    """Returns the sums of tensors over all processes, by one exchange for each type."""
    found = list(tensors)
    for kind in dict.fromkeys(x.dtype for x in tensors):
        places = [k for k, x in enumerate(tensors) if x.dtype == kind]
        flat = torch.cat([tensors[k].reshape(-1) for k in places])
        dist.all_reduce(flat)
        parts = flat.split([tensors[k].numel() for k in places])
        for k, part in zip(places, parts, strict=True):
            found[k] = part.view(tensors[k].shape)
    return found


def take_over(tensors: Iterable[Tensor]) -> None:
    """Gives tensors the values that they have in the leading process."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors:
        kinds.setdefault(x.dtype, []).append(x)
    for same in kinds.values():
        flat = torch.cat([x.reshape(-1) for x in same])
        dist.broadcast(flat, 0)
        for x, values in zip(same, flat.split([x.numel() for x in same]), strict=True):
            x.copy_(values.view(x.shape))
