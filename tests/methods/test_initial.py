"""Initial weights of the official variants, by the statistics of what a built network holds."""

import dataclasses
import math

import numpy as np
import pytest
from mmseg.models.necks import FPN
from tasks import TASKS, VOLUMES, Toy
from torch import nn

from benchmark.engine.building import build
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.registry import discover
from methods.common.initial import Convolution
from methods.common.networks import ClassificationDecoder
from methods.common.styles import Redrawing, StyleEncoder

discover()
KINDS = {**TASKS, 'volumes': VOLUMES}


def network(name, kind, folder, **options):
    """The network as a training begins with it, of width 8."""
    task = dataclasses.replace(KINDS[kind], width=8)
    protocol = Protocol(precision='float32')
    return build(
        experiment(Spec(name, tuple(options.items())), Toy(task), protocol, 0, folder), 'cpu'
    )


def surprises(pairs):
    """How far the deviation of each weight is from the expected one, in standard errors."""
    found = [(w.detach().numpy().ravel(), deviation) for w, deviation in pairs]
    # The deviation of n normal numbers is off by about 1 / sqrt(2 n).
    return np.array([math.sqrt(2 * len(w)) * (w.std() / d - 1) for w, d in found if len(w) > 20])


@pytest.mark.parametrize('kind', ['faces', 'mixed', 'rooms', 'volumes'])
@pytest.mark.parametrize('name', ['rfnet', 'mmformer', 'passion'])
def test_all_convolutions_count_their_inputs_gates_and_heads_included(name, kind, tmp_path):
    """With numpy's count: an output of a convolution is a sum over kernel and input channels."""
    method = network(name, kind, tmp_path, variant='official')
    pairs = []
    for module in method.modules():
        if not isinstance(module, Convolution):
            continue
        kernel = 1 if module.transposed else np.prod(module.kernel_size)
        pairs.append((module.weight, math.sqrt(2 / (kernel * module.in_channels / module.groups))))
    heads = [m.head for m in method.modules() if isinstance(m, ClassificationDecoder)]
    assert len(heads) == (2 if kind in ('faces', 'mixed') else 0)
    pairs += [(head.weight, math.sqrt(2 / head.in_features)) for head in heads]
    found = surprises(pairs)
    assert len(found) > 12
    assert np.abs(found).max() < 4.5
    assert np.sqrt(np.mean(found**2)) == pytest.approx(1, rel=0.4)
    # The paper variant does not follow this rule: the test would see it.
    plain = network(name, 'faces' if kind == 'mixed' else kind, tmp_path)
    weights = [m.weight for m in plain.modules() if isinstance(m, Convolution)]
    others = surprises((w, math.sqrt(2 / w[0].numel())) for w in weights)
    assert np.abs(others).max() > 10


@pytest.mark.parametrize('kind', ['faces', 'mixed', 'rooms'])
def test_robustseg_s_convolutions_are_small_and_its_perceptrons_are_not(kind, tmp_path):
    method = network('robustseg', kind, tmp_path, variant='official')
    small = [m for m in method.modules() if isinstance(m, Convolution)]
    styles = [m for m in method.modules() if isinstance(m, StyleEncoder)]
    small += [style[-1] for style in styles]
    # A normal number that is cut off at two deviations has 0.8796 of the deviation.
    cut = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
    assert cut == pytest.approx(0.8796, abs=1e-4)
    small += [m.head for m in method.modules() if isinstance(m, ClassificationDecoder)]
    # The feature pyramid has no normalisation that would make up for small weights.
    plain = {m for net in method.modules() if isinstance(net, FPN) for m in net.modules()}
    assert bool(plain) == (kind == 'rooms')
    assert all(m.weight.std() > 0.05 for m in plain if isinstance(m, Convolution))
    small = [m for m in small if m not in plain]
    found = surprises((m.weight, 0.01 * cut) for m in small)
    assert np.abs(found).max() < 4.5
    assert all(m.weight.abs().max() <= 0.02 for m in small)
    for bias in (m.bias for m in small if m.bias is not None):
        limit = math.sqrt(3 / len(bias))
        assert bias.abs().max() <= limit
        if len(bias) > 30:
            assert bias.abs().max() > 0.7 * limit
    drawings = [m for m in method.modules() if isinstance(m, Redrawing)]
    layers = [m for d in drawings for m in d.modules() if isinstance(m, nn.Linear)]
    layers += [m for style in styles for m in [*style][:-1] if isinstance(m, nn.Linear)]
    assert len(layers) >= 3 * len(drawings)
    found = surprises((m.weight, math.sqrt(2 * 1.3 * cut**2 / m.in_features)) for m in layers)
    assert np.abs(found).max() < 4.5
    assert all((m.bias == 0).all() for m in layers)
    assert cut**2 * 1.3 == pytest.approx(1, abs=0.01)
