"""Comparison of losses and gradients with the figures of released code, in double precision."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from figures import differences, drawn
from torch import nn

from benchmark.method import Modality, Task

METHODS = Path(__file__).parents[1] / 'methods'


def read(name):
    """Returns the figures of a file in tests/methods."""
    return json.loads((METHODS / name).read_text())


@contextlib.contextmanager
def double_precision():
    """Computes in double precision, also where methods ask for single precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, 'float', torch.Tensor.double)
            yield
    finally:
        torch.set_default_dtype(before)


def task_of(names, classes, shape, width, **options):
    """Returns a classification of modalities of one shape."""
    modalities = tuple(Modality(name, shape) for name in names)
    labels = tuple(map(str, range(classes)))
    return Task('any', 'classification', modalities, labels, 'accuracy', width, **options)


def leaf(seed, *shape, scale=1):
    """Returns an input in double precision that also receives a gradient."""
    return (scale * drawn(seed, *shape).double()).requires_grad_()


class Given(nn.Module):
    """Stands for encoders: returns features that are given, as maps of one pixel."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, _):
        return {name: (x[:, :, None, None],) for name, x in self.features.items()}


def agree(expected, terms, gradients):
    """Compares terms, and gradients or outputs, with the released code's figures."""
    for term, value in terms.items():
        assert value.item() == pytest.approx(expected[term], rel=1e-6), term
    apart = differences(gradients, expected['gradients'])
    assert apart.max() < 1e-6, apart
