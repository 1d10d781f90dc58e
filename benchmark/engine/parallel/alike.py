"""Tries out whether the rows that a module computes do not depend on each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from benchmark.engine.parallel import exchange, processes
from benchmark.engine.parallel.draws import Draws
from benchmark.engine.parallel.exchange import Rows
from benchmark.engine.parallel.norms import Recording, Replaying

PLAIN = (int, float, str, bool, type(None))
"""Types of what a module may return besides tensors."""

CLOSE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Type -> largest difference of two computations of a number, as a share of the largest number."""

LOOSE = 0.05
"""The same for a module that holds its own parameters in half precision."""

HALVES = (torch.bfloat16, torch.float16)


def rows_of(leaves: list[Any]) -> int:
    """Returns the number of rows of the first tensor among the arguments; 0 without any."""
    return next((len(x) for x in leaves if isinstance(x, Tensor) and x.ndim), 0)


def is_batch(x: Any, total: int) -> bool:
    """Returns whether an argument has a row for each sample."""
    own = isinstance(x, nn.Parameter)
    return isinstance(x, Tensor) and x.ndim > 0 and len(x) == total and not own


def is_whole(x: Any, total: int) -> bool:
    """Returns whether an argument is a tensor that all samples share."""
    return isinstance(x, Tensor) and not is_batch(x, total)


def form_of(x: Any) -> Any:
    """Returns the form of an argument: modules behave alike for arguments of one form."""
    return (x.shape, x.dtype) if isinstance(x, Tensor) else repr(x)


def rows_alone(
    module: nn.Module, plain: Any, leaves: list[Any], form: Any, total: int
) -> tuple[bool, bool]:
    """Computes a module on the whole batch and on the own rows, and compares the own rows.

    Batch normalisation has the moments of the whole batch in both cases. The processes agree on the
    result, which is the same in all. Everything is computed in float32, also where the training
    computes in half precision: rounding there is as large as what a mean over the batch adds to a
    row. A module whose own parameters are in half precision is tried out as it is called.

    Args:
        module: The module, which stays as it is.
        plain: Its `forward`.
        leaves: Its arguments, flat.
        form: Their form, as of `torch.utils._pytree`.
        total: Number of rows of the batch.

    Returns:
        Whether the own rows are equal up to rounding, and whether the module draws random numbers.
    """
    half = any(p.dtype in HALVES for p in module.parameters())
    leaves = [_tried(x, half) if isinstance(x, Tensor) else x for x in leaves]
    versions = [x._version for x in leaves if isinstance(x, Tensor)]
    rows = exchange.own(total)
    try:
        with torch.no_grad(), _exactly(leaves, half), _kept(module) as changed:
            before = generators(leaves)
            recording = Recording()
            with recording:
                whole = _call(plain, leaves, form)
            after = generators(leaves)
            clean = not changed()
            _restore(before)
            own = [x[rows.begin : rows.end] if is_batch(x, total) else x for x in leaves]
            with Replaying(recording.kept), Draws(rows):
                part = _call(plain, own, form)
            clean &= same(generators(leaves), after)
            clean &= versions == [x._version for x in leaves if isinstance(x, Tensor)]
            drew = not same(before, after)
            equal = clean and _equal(whole, part, rows, half)
            _restore(before)
    except Exception:  # what is wrong with it shows in the call that follows
        equal, drew = False, False
    return all(processes.everyone(equal)), drew


def _tried(x: Tensor, half: bool) -> Tensor:
    """Returns an argument for a trial: in float32 unless the module itself is in half precision."""
    x = x.detach()
    return x.float() if x.dtype in HALVES and not half else x


@contextlib.contextmanager
def _exactly(leaves: list[Any], half: bool) -> Iterator[None]:
    """Lets no operation round to fewer digits than its arguments have.

    Args:
        leaves: The arguments of the module.
        half: Whether the module is in half precision; it is then called as the training calls it.
    """
    device = next(x.device.type for x in leaves if isinstance(x, Tensor))
    usual, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    # Without a cache: the weights that it keeps here would lack gradients in the training.
    with torch.autocast(device, dtype, enabled=usual and half, cache_enabled=False):
        yield


def _call(plain: Any, leaves: list[Any], form: Any) -> Any:
    args, kwargs = pytree.tree_unflatten(leaves, form)
    return plain(*args, **kwargs)


def _equal(whole: Any, part: Any, rows: Rows, half: bool) -> bool:
    """Returns whether what a module gave for the own rows is that of the whole batch."""
    (every, form), (some, other) = pytree.tree_flatten(whole), pytree.tree_flatten(part)
    if str(form) != str(other):
        return False
    for x, y in zip(every, some, strict=True):
        if not isinstance(x, Tensor):
            if not isinstance(x, PLAIN) or x != y:
                return False
        elif not x.ndim or len(x) != rows.total or not _close(x[rows.begin : rows.end], y, half):
            return False
    return True


def _close(x: Tensor, y: Tensor, half: bool) -> bool:
    if x.shape != y.shape:
        return False
    if not x.is_floating_point():
        return torch.equal(x, y)
    share = LOOSE if half else CLOSE.get(x.dtype)
    if share is None:  # it rounds by itself, and too few digits are left to compare
        return False
    finite = x[x.isfinite()].abs()
    largest = finite.max().item() if len(finite) else 0.0
    return torch.allclose(x, y, rtol=share, atol=share * largest, equal_nan=True)


@contextlib.contextmanager
def _kept(module: nn.Module) -> Iterator[Any]:
    """Keeps the buffers of a module; yields a function that tells whether others have changed.

    Running moments of batch normalisation are not counted: they are kept in step.
    """
    held = [
        (m, x, x.clone()) for m in module.modules() for x in m._buffers.values() if x is not None
    ]

    def changed() -> bool:
        others = [(x, kept) for m, x, kept in held if not isinstance(m, _BatchNorm)]
        return not all(torch.equal(x, kept) for x, kept in others)

    try:
        yield changed
    finally:
        for _, x, kept in held:
            x.copy_(kept)


def generators(leaves: list[Any]) -> list[Tensor]:
    """Returns the states of the generators that a module could use."""
    on_gpu = any(isinstance(x, Tensor) and x.is_cuda for x in leaves)
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])]


def _restore(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Returns whether two lists of states are equal."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
