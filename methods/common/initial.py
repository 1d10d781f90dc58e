"""Initial weights as released code draws them, where they are not those of the suite's networks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from benchmark.method import Method

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def convolutions(method: Method) -> Iterator[Convolution]:
    """Yields all convolutions of a method, without those of pretrained encoders.

    Args:
        method: A method with the attribute `encoders`.
    """
    kept = {*method.get_submodule('encoders').modules()} if method.task.pretrained else set()
    for module in method.modules():
        if isinstance(module, Convolution) and module not in kept:
            yield module


def draw_by_inputs(method: Method) -> None:
    """Draws the kernels of all convolutions from N(0, 2 / fan_in), gates and heads included.

    Their biases keep what PyTorch draws. The suite's networks count outputs instead of inputs, and
    leave gates and heads as PyTorch draws them, which is uniform with the variance 1 / (3 fan_in).
    """
    for convolution in convolutions(method):
        weight = convolution.weight
        # A transposed convolution has the stride of its kernel: an output reads one position.
        inputs = convolution.in_channels if convolution.transposed else weight[0].numel()
        nn.init.normal_(weight, std=math.sqrt(2 / inputs))


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
