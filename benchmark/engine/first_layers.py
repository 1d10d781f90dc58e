"""Computes the convolution behind the masks once for all subsets, where a network has one.

Many networks set the maps of absent modalities to zero, concatenate the maps of all modalities, and
convolve the result. A convolution is linear: it is the sum of one convolution for each modality,
and these do not depend on the subset. Only the choice of those that are added does.

A network whose method declares `shares_convolution` gets tensors of the class `Repeated`, which
stand for the features of a batch and remember that they are masked or concatenated. A convolution
of such a tensor is computed as above. Every other operation gets the tensor that they stand for.
One that would change it in place is an error, because nothing would see the change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

OPS: Any = torch.ops.aten


class Products:
    """What has been computed of one batch, for all of its subsets.

    Attributes:
        count: Number of the convolutions of single modalities that were computed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._known: dict[tuple[Any, ...], Any] = {}
        self._zeros: dict[int, Tensor] = {}

    def convolved(self, x: Tensor, weight: Tensor, start: int, rest: Sequence[Any]) -> Tensor:
        """Returns the convolution of one modality's maps with its part of the weight.

        Args:
            x: (B, C, ...), the maps.
            weight: (K, all channels, ...).
            start: The first of the C channels of the weight that belong to the maps.
            rest: What the operation takes after the bias: stride, padding and so on.
        """
        key = id(x), id(weight), start, str(rest)
        if key not in self._known:
            self.count += 1
            part = weight[:, start : start + x.shape[1]]
            # Both are kept, too, because the identity of a tensor that is freed may come again.
            self._known[key] = OPS.convolution.default(x, part, None, *rest), x, weight
        return self._known[key][0]

    def zero(self, like: Tensor) -> Tensor:
        """Returns a zero, (), which `known_zero` recognises without reading its value."""
        zero = like.new_zeros(())
        self._zeros[id(zero)] = zero
        return zero

    def known_zero(self, x: Any) -> bool:
        """Whether this is a zero that `zero` made."""
        return id(x) in self._zeros


Part = tuple[Tensor, Tensor | None]
"""One modality's maps (B, C, ...) and where they are kept, (S * B, 1, ...); None for everywhere."""


class Repeated(Tensor):
    """Maps of a batch, repeated once for each of S subsets, masked and concatenated, (S * B, ...).

    Attributes:
        parts: What is concatenated along axis 1.
        subsets: S.
        products: What has been computed of the batch.
    """

    parts: list[Part]
    subsets: int
    products: Products

    # Without this, PyTorch would turn the results of all operations into this class.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, parts: list[Part], subsets: int, products: Products) -> Repeated:
        """Makes a tensor without memory of its own."""
        x = parts[0][0]
        shape = list(x.shape)
        if shape:
            shape[0] *= subsets
        if len(parts) > 1:
            shape[1] = sum(part.shape[1] for part, _ in parts)
        self = Tensor._make_wrapper_subclass(cls, shape, dtype=x.dtype, device=x.device)
        self.parts, self.subsets, self.products = parts, subsets, products
        return self

    def whole(self) -> Tensor:
        """Returns the tensor that this one stands for."""
        maps = []
        for x, keep in self.parts:
            # Concatenated, because `Tensor.repeat` would lose the layout channels_last.
            y = torch.cat([x] * self.subsets) if self.subsets > 1 else x
            maps.append(y if keep is None else torch.where(keep, y, y.new_zeros(())))
        return maps[0] if len(maps) == 1 else torch.cat(maps, 1)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Computes an operation."""
        if func in KNOWN:
            found = KNOWN[func](*args, **(kwargs or {}))
            if found is not None:
                return found
        if func._schema.is_mutable:
            raise TypeError(f'{func} would change what all subsets share')
        args, kwargs = tree_map_only(cls, cls.whole, (args, kwargs or {}))
        return func(*args, **kwargs)


def _zero(x: Repeated, size: Sequence[int], **other: Any) -> Tensor | None:
    """new_zeros: of a single number of the same type, with which `_where` masks."""
    plain = not size and not any(other.values())  # no dtype, device or pinned memory is named
    return x.products.zero(x.parts[0][0]) if plain else None


def _where(keep: Tensor, x: Any, other: Any) -> Repeated | None:
    """where: masked maps, if the samples are kept or set to zero as a whole."""
    if not isinstance(x, Repeated) or not x.products.known_zero(other):
        return None
    if len(x.parts) > 1 or x.parts[0][1] is not None or keep.ndim != x.ndim:
        return None
    if keep.numel() != len(x) or len(keep) != len(x):
        return None
    return Repeated([(x.parts[0][0], keep)], x.subsets, x.products)


def _cat(tensors: Sequence[Any], dim: int = 0) -> Repeated | None:
    """cat: maps of several modalities along their channels."""
    if dim != 1 or not all(isinstance(x, Repeated) for x in tensors):
        return None
    first = tensors[0]
    if any(x.dtype != first.dtype for x in tensors):
        return None
    return Repeated([part for x in tensors for part in x.parts], first.subsets, first.products)


def _convolution(x: Any, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor | None:
    """convolution: the sum of the convolutions of the modalities that each sample keeps.

    A convolution of single pixels with stride 1 stays as it is, because adding maps takes as long.
    The bias is not part of what is computed for each modality.
    """
    stride, transposed, groups = rest[0], rest[3], rest[5]
    if not isinstance(x, Repeated) or transposed or groups != 1:
        return None
    if weight[0, 0].numel() == 1 and all(step == 1 for step in stride):
        return None
    parts = [(part, keep) for part, keep in x.parts if keep is not None]
    if len(parts) < len(x.parts):
        return None

    def chosen() -> Iterator[Tensor]:
        start = 0
        for part, keep in parts:
            y = x.products.convolved(part, weight, start, rest)
            start += part.shape[1]
            # A selection, because what is absent may be NaN.
            yield torch.where(keep.unflatten(0, (x.subsets, -1)), y, y.new_zeros(()))

    maps = chosen()
    total = next(maps)
    for y in maps:
        total += y
    if bias is not None:
        total += bias.view(-1, *[1] * (total.ndim - 3))
    return total.flatten(0, 1)


KNOWN: dict[Any, Callable[..., Any]] = {
    OPS.new_zeros.default: _zero,
    OPS.where.self: _where,
    OPS.cat.default: _cat,
    OPS.convolution.default: _convolution,
}
"""Operation -> what computes it; None from there means that it is none of those which are meant."""
