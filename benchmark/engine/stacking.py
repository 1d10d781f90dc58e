"""Decodes several subsets of the modalities in one call, as if each were a batch of its own.

The networks of this field treat each sample alone in eval mode, so that the features of a batch can
be repeated once for each subset and decoded together under all masks. Whether a method's `decode`
allows that is found out, not asked: see `_stackable`. A convolution with which a network begins is
computed once for all subsets (`first_layers`) where the method says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from benchmark.engine.first_layers import Products, Repeated
from benchmark.method import Method
from benchmark.missing import derive

LIMIT = {'cpu': 2**23, 'cuda': 2**29}
"""Bytes of repeated features that one call decodes at most, unless one subset has more already.

On a CPU what leaves the caches costs more than the calls that it saves. With twice as much,
attention over images gets slower."""

TOLERANCE = 1e-3
"""Largest difference between stacked and separate logits, relative to the largest logit."""

ROWS = 4
"""Number of samples on which a network is tried, under every subset."""

_STACKABLE: WeakKeyDictionary[Method, bool] = WeakKeyDictionary()
"""Networks that were tried -> whether they decode several subsets in one call."""


@contextlib.contextmanager
def repeatable(device: torch.device, number: int, *mask: bool) -> Iterator[None]:
    """Lets what a network draws in the block depend on the given values alone.

    Some networks draw random numbers at test, too. Every pass over a split then has to draw the
    same, or else the scores of one do not follow from the outcomes of another. Draws outside of the
    block are those that they would be without it.

    Args:
        device: The network's device.
        number: Which batch of the split this is.
        mask: The subset that is decoded; none while all modalities are encoded.
    """
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        torch.manual_seed(derive(number, 'test', *map(int, mask)))
        yield


def decoded(
    method: Method,
    features: dict[str, Any],
    available: Tensor,
    masks: Sequence[np.ndarray],
    number: int = 0,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields (mask, logits) for each subset.

    Args:
        method: The method, in eval mode.
        features: What its `encode` gave for a batch.
        available: (B, M) bool, on the method's device; intersected with each mask.
        masks: The subsets, (M,) bool each.
        number: As in `repeatable`.
    """
    if len(masks) == 0:
        return
    stacked = torch.from_numpy(np.stack(masks)).to(available.device, non_blocking=True)
    allowed = available & stacked[:, None]
    size = _chunk(features, len(available), available.device.type)
    if min(size, len(masks)) > 1 and method not in _STACKABLE:
        few = tree_map_only(Tensor, lambda x: x[:ROWS], features)
        _STACKABLE[method] = _stackable(method, few, allowed[:, :ROWS], size)
    size = size if _STACKABLE.get(method) else 1
    products = Products() if len(masks) > 1 and _shares(method) else None
    for start in range(0, len(masks), size):
        some = masks[start : start + size]
        # Networks that draw decode one subset at a time.
        with repeatable(available.device, number, *some[0]):
            logits = _together(method, features, allowed[start : start + size], products)
        yield from zip(some, logits, strict=True)


def _chunk(features: Any, count: int, device: str) -> int:
    """Returns how many subsets are decoded in one call: 1 if the features cannot be repeated."""
    leaves = tree_flatten(features)[0]
    if not all(isinstance(x, Tensor) and x.ndim and len(x) == count for x in leaves):
        return 1
    return max(1, LIMIT[device] // max(1, sum(x.nbytes for x in leaves)))


def _together(
    method: Method, features: Any, allowed: Tensor, products: Products | None = None
) -> Sequence[Any]:
    """Returns the logits (B, ...) under each of S masks (S, B, M), decoded in one call.

    Args:
        method: The method.
        features: Features of B samples.
        allowed: The masks.
        products: What calls with the same features have computed; None if they share nothing.
    """
    count = len(allowed)
    repeated = features
    if products is not None:
        repeated = tree_map_only(Tensor, lambda x: Repeated([(x, None)], count, products), features)
    elif count > 1:
        # Concatenated, because `Tensor.repeat` would lose the layout channels_last.
        repeated = tree_map_only(Tensor, lambda x: torch.cat([x] * count), features)
    if count == 1:
        return [method.decode(repeated, allowed[0])]
    return method.decode(repeated, allowed.flatten(0, 1)).unflatten(0, (count, -1))


def _shares(method: Method) -> bool:
    """Returns whether a network's first convolution is computed once for all subsets.

    A compiled part would be compiled again for tensors of another class, and products have no
    gradients.
    """
    if not method.shares_convolution or torch.is_grad_enabled():
        return False
    return not any(module._compiled_call_impl for module in method.modules())


def _stackable(method: Method, features: Any, allowed: Tensor, size: int) -> bool:
    """Returns whether subsets that are decoded in one call get the logits of separate calls.

    They do not where `decode` compares samples, takes the first sample's mask for all of them, or
    draws random numbers, of which a seed gives others in another order.

    Args:
        method: The method.
        features: Features of some samples.
        allowed: (S, B, M) bool, all S masks for each of them.
        size: How many subsets are decoded in one call.
    """
    device = allowed.device
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        before = _drawn(device)
        apart = [method.decode(features, mask) for mask in allowed]
        if not all(isinstance(x, Tensor) for x in apart) or not before.equal(_drawn(device)):
            return False
        expected = torch.stack(apart)
        try:
            parts = (_together(method, features, part) for part in allowed.split(size))
            found = torch.stack([logits for part in parts for logits in part])
        except Exception:  # the call with one subset works, and nothing else is asked of a method
            return False
    if found.shape != expected.shape:
        return False
    # Of logits that are not finite the comparison is false.
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _drawn(device: torch.device) -> Tensor:
    """Returns the states of the generators of random numbers."""
    states = [torch.get_rng_state()]
    if device.type == 'cuda':
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
