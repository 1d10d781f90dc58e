"""One encoder for modalities of like kind and size, with normalisation layers for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from benchmark.method import Modality

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers that every modality has of its own: their moments and scales are those of a sensor."""


def alike(modality: Modality) -> tuple[object, ...]:
    """Returns what modalities have in common that share an encoder.

    Images and volumes must have one size. Vectors and sequences may have any length, because no
    layer behind the first one depends on it.
    """
    any_length = modality.kind in ('vector', 'sequence')
    return modality.kind, () if any_length else modality.shape[1:]


def share(encoders: Mapping[str, nn.Module], modalities: Sequence[Modality]) -> None:
    """Makes encoders of like modalities share all layers but those of normalisation, in place.

    Layers of different shapes cannot be shared: a modality with another number of channels keeps
    its stem, the first layer, unless an earlier one has as many.

    Args:
        encoders: Modality name -> encoder; those of like modalities are built alike.
        modalities: The modalities.
    """
    earlier: dict[tuple[object, ...], list[nn.Module]] = {}
    for modality in modalities:
        own, others = encoders[modality.name], earlier.setdefault(alike(modality), [])
        for other in others:
            _tie(own, other)
        others.append(own)


def _tie(own: nn.Module, other: nn.Module) -> None:
    """Replaces layers and free parameters of an encoder by those of another, where they fit."""
    for name, child in list(own.named_children()):
        if isinstance(child, NORMS):
            continue
        twin = other.get_submodule(name)
        if _shapes(child) == _shapes(twin) and not _has_norm(child):
            setattr(own, name, twin)
        elif list(child.children()):
            _tie(child, twin)
    for name, parameter in list(own.named_parameters(recurse=False)):
        if parameter.shape == other.get_parameter(name).shape:
            setattr(own, name, other.get_parameter(name))


def _has_norm(module: nn.Module) -> bool:
    return any(isinstance(part, NORMS) for part in module.modules())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in module.state_dict().items()}
