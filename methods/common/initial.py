"""Initial weights as released code draws them, where they are not those of the suite's networks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from mmseg.models.backbones import ResNet
from torch import nn

from benchmark.method import Method
from methods.common.backbones import Backbone
from methods.common.networks import ClassificationDecoder

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def layers(method: Method, skip: Collection[nn.Module] = ()) -> Iterator[Convolution | nn.Linear]:
    """Yields the layers that are convolutions in released code.

    These are all convolutions and the last layers of classifiers, without what was pretrained.

    Args:
        method: Any method.
        skip: Further modules whose layers are left out.
    """
    kept = {part for module in (*_pretrained(method), *skip) for part in module.modules()}
    for module in method.modules():
        if isinstance(module, Convolution) and module not in kept:
            yield module
        elif isinstance(module, ClassificationDecoder):
            yield module.head


def _pretrained(method: Method) -> Iterator[nn.Module]:
    """Yields the networks whose weights were read from a file."""
    if method.task.pretrained:
        for module in method.modules():
            if isinstance(module, ResNet):
                yield module
            elif isinstance(module, Backbone):
                yield module.model


def draw_by_inputs(method: Method) -> None:
    """Draws the weights of `layers` from N(0, 2 / fan_in), gates and heads included.

    Their biases keep what PyTorch draws. The suite's networks count outputs instead of inputs, and
    leave gates and heads as PyTorch draws them, which is uniform with the variance 1 / (3 fan_in).
    """
    for layer in layers(method):
        inputs = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            # It has the stride of its kernel: an output reads one position.
            inputs = layer.in_channels
        nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))


def draw_small(layer: Convolution | nn.Linear) -> None:
    """Draws weights from N(0, 0.01^2), cut off at 0.02, and biases with the variance 1 / outputs.

    The biases are uniform: TensorFlow's default where no other is named.
    """
    nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
    if layer.bias is not None:
        limit = math.sqrt(3 / len(layer.bias))
        nn.init.uniform_(layer.bias, -limit, limit)


def draw_dense(layer: nn.Linear) -> None:
    """Draws the weights of a layer with the variance 2 / fan_in, normal up to two deviations.

    The bias becomes 0. This is TensorFlow's `variance_scaling_initializer`, which widens the normal
    by sqrt(1.3) to make up for what is cut off.
    """
    deviation = math.sqrt(1.3 * 2 / layer.in_features)
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)
