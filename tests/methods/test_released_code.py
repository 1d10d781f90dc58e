"""One step of MMANet, DMRNet, RedCore, ShaSpec, LCR and MMIN against their released code.

Of mmFormer and GMD, whose networks are others, and of RFNet's 2-D form, the parts that are equal. A
whole step of RFNet on volumes is in test_released_volumes.py.

The released code computed the losses and gradients in released_code.json on the weights and data
of `figures.fill` and `figures.drawn`, as tests/helpers/figures.py describes. Encoders were left
out, but for MMANet: a step begins at the features of the modalities. Classifiers of RedCore and
MMIN are those of the released code, perceptrons with two hidden layers, and dropout was off. The
commits are c330689 of shicaiwei123/MMANet-CVPR2023 and 8472850 of shicaiwei123/ECCV2024-DMRNet (the
face anti-spoofing code of both, LCR among the latter), b2c6a2d of sunjunaimer/RedCore, 081fe7a of
billhhh/ShaSpec, the branch master of AIM3-RUC/MMIN, 1e475fa of dyh127/RFNet, b18663a of
YaoZhang93/mmFormer and 90e482f of HaoWang420/Gradient-guided-Modality-Decoupling. Volumes had one
slice, and of 3-D kernels the middle slice is compared; the projection of ShaSpec, whose kernel is
standardised as in its script, was given a kernel of one slice. RFNet's convolutions padded with
zeros, as in the torch of their time. The figures are stored with nine digits.
"""

import itertools

import pytest
import torch
from figures import differences, drawn, fill
from released import double_precision, read, task_of
from torch import nn

from benchmark.method import Batch
from methods.common.losses import log_odds, segmentation_loss
from methods.common.regions import ProbabilityMaps, RegionFusion
from methods.complete import Complete
from methods.dmrnet import DMRNet
from methods.gmd import decoupled_gradients
from methods.lcr import LCR
from methods.mmanet import MMANet
from methods.mmformer import Transformer
from methods.mmin import MMIN
from methods.redcore import RedCore
from methods.shaspec import ShaSpec

RELEASED = read('released_code.json')
SUBSETS = torch.tensor(list(itertools.product((False, True), repeat=3))[1:])


@pytest.fixture(autouse=True)
def _double():
    with double_precision():
        yield


def batch_of(names, mask, classes):
    n = len(mask)
    return Batch({}, torch.ones_like(mask), mask, torch.arange(n) % classes, torch.arange(n))


def leaves(names, seed, *shape):
    """Features of each modality, which also receive a gradient."""
    return {n: drawn(seed + i, *shape).requires_grad_() for i, n in enumerate(names)}


class Given(nn.Module):
    """Stands for encoders: returns features that are given."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, _):
        return {name: (x,) for name, x in self.features.items()}


class Perceptron(nn.Sequential):
    """The released classifier of RedCore and MMIN, on vectors of one position."""

    def __init__(self, inputs, hidden, classes):
        super().__init__(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, maps):
        return super().forward(maps[0].flatten(1))


def noise(monkeypatch, period, *shape):
    """Replaces random noise by fixed one, a new one for each of `period` calls."""
    calls = itertools.count()
    monkeypatch.setattr(
        torch, 'randn_like', lambda x: drawn(600 + next(calls) % period, *shape).view(x.shape)
    )


def check(name, method, batch, parameters, features=()):
    """Compares the terms of a loss and the gradients with the released code's figures."""
    expected = dict(RELEASED[name])
    gradients = expected.pop('gradients')
    losses = method.loss(batch)
    for term, value in expected.items():
        if f'loss_{term}' in losses:
            assert losses[f'loss_{term}'].item() == pytest.approx(value, rel=1e-7), term
    assert {f'loss_{t}' for t in expected if t != 'weights'} == {n for n in losses if 'loss' in n}
    method.parse_losses(losses)[0].backward()
    apart = differences([p.grad for p in (*parameters, *features)], gradients)
    assert apart.max() < 1e-6, apart
    return losses


def parts_in_order(method):
    """A face network's parameters in the order of the released one."""
    heads = [method.regularizer] if hasattr(method, 'regularizer') else []
    return [
        p for part in (*method.encoders.values(), method.decoder, *heads) for p in part.parameters()
    ]


def test_mmanet_on_faces_from_images_to_the_gradient_of_every_weight():
    names = ('rgb', 'depth', 'ir')
    task = task_of(names, 2, (3, 80, 80), 64)
    method = MMANet(task, alpha=30.0, beta=0.5, variant='official').train()
    teacher = Complete(task)
    for network, first in ((method, 0), (teacher, 2000)):
        fill(parts_in_order(network), first)
    # A teacher that is certain of some samples and not of others.
    teacher.decoder.head.weight.data.mul_(60)
    teacher.decoder.head.bias.data[1] -= 107
    # In single precision the greatest of nearly equal neighbours is another one now and then.
    method.double().set_teacher(teacher.double())
    method.epoch, method.epochs, method.strong[0] = 6, 100, True
    batch = batch_of(names, SUBSETS.repeat(2, 1), 2)
    inputs = {name: drawn(500 + k, 14, 3, 80, 80).double() for k, name in enumerate(names)}
    check('mmanet', method, batch._replace(inputs=inputs), parts_in_order(method))


def test_dmrnet_on_faces(monkeypatch):
    names = ('rgb', 'depth', 'ir')
    method = DMRNet(task_of(names, 2, (3, 16, 16), 64), beta=0.7, variant='official').train()
    features = leaves(names, 500, 12, 128, 6, 6)
    method.encoders = Given(features)
    parts = (method.decoder.trunk, method.gaussian, method.decoder.head)
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    noise(monkeypatch, 1, 12, 512, 2, 2)
    method.epoch, method.epochs = 9, 100
    batch = batch_of(names, SUBSETS.repeat(2, 1)[:12], 2)
    check('dmrnet', method, batch, parameters, features.values())


def test_lcr_on_faces():
    names = ('rgb', 'depth', 'ir')
    method = LCR(task_of(names, 2, (3, 16, 16), 64)).train()
    features = leaves(names, 500, 12, 128, 6, 6)
    method.encoders = Given(features)
    parts = (method.correlations, method.decoder.trunk, method.decoder.head)
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    batch = batch_of(names, SUBSETS.repeat(2, 1)[:12], 2)
    check('lcr', method, batch, parameters, features.values())


def test_mmin_on_vectors():
    names = ('a', 'l', 'v')
    method = MMIN(task_of(names, 4, (5,), 8), dropout=0.0)
    features = leaves(names, 500, 6, 16, 1, 1)
    method.encoders = Given(features)

    class Teacher:
        def encode(self, _):
            return {n: (drawn(520 + i, 6, 16, 1, 1),) for i, n in enumerate(names)}

    method._teacher = (Teacher(),)
    method.decoder = Perceptron(5 * 8, 16, 4)
    parts = (method.imagine, method.recall, method.decoder)
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    for p in parameters:
        p.data.mul_(0.5)
    check('mmin', method, batch_of(names, SUBSETS[:6], 4), parameters, features.values())


def test_redcore_on_vectors(monkeypatch):
    names = ('a', 'v', 'l')
    method = RedCore(task_of(names, 4, (5,), 64), variant='official')
    features = leaves(names, 500, 7, 128, 1, 1)
    method.encoders = Given(features)
    method.decoder = Perceptron(3 * 128, 16, 4)
    method.unimodal = nn.ModuleDict({n: Perceptron(128, 16, 4) for n in names})
    parts = (method.heads, method.imagine, method.decoder, method.unimodal)
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    for p in parameters:
        p.data.mul_(0.5)
    noise(monkeypatch, 3, 7, 128)
    losses = check('redcore', method, batch_of(names, SUBSETS, 4), parameters, features.values())
    found = [losses[f'weight_{n}'].item() for n in names]
    # The released code holds the weights in the order a, v, l.
    assert found == pytest.approx(RELEASED['redcore']['weights'], rel=1e-7)


class Pixelwise(nn.Module):
    """The encoder of a modality in the figures of ShaSpec: a 1x1 convolution."""

    def __init__(self, names, shared):
        super().__init__()
        self.names = names
        self.layers = nn.ModuleList(nn.Conv2d(1, 256, 1) for _ in (names[:1] if shared else names))

    def forward(self, inputs):
        layers = dict(zip(self.names, itertools.cycle(self.layers), strict=False))
        return {name: (layers[name](x),) for name, x in inputs.items()}


class PooledLinear(nn.Linear):
    def forward(self, maps):
        return super().forward(maps[0].mean((2, 3)))


def test_shaspec_on_volumes_of_one_slice(monkeypatch):
    names = ('flair', 't1', 't1ce', 't2')
    method = ShaSpec(task_of(names, 3, (1, 6, 6), 128), variant='official').train()
    method.shared, method.specific = Pixelwise(names, True), Pixelwise(names, False)
    method.decoder = PooledLinear(4 * 256, 3)
    parts = (method.shared, method.specific, method.project, method.classifier, method.decoder)
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    # The standardised kernel enlarges its maps, and a loss near zero would compare little.
    method.decoder.weight.data.div_(32)
    images = drawn(500, 5, 4, 6, 6)
    # Of the present modalities flair and t1ce the released code drew t1ce to replace the others.
    monkeypatch.setattr(torch, 'rand', lambda shape, **_: torch.arange(4.0).expand(shape))
    mask = torch.tensor([[True, False, True, False]]).expand(5, -1)
    method.epoch, method.epochs = 8, 9
    batch = batch_of(names, mask, 3)
    batch = batch._replace(inputs={n: images[:, i : i + 1] for i, n in enumerate(names)})
    check('shaspec', method, batch, parameters)


def agree(name, terms, gradients):
    """Compares terms and gradients with the released code's figures."""
    expected = RELEASED[name]
    for term, value in terms.items():
        assert value.item() == pytest.approx(expected[term], rel=1e-7), term
    apart = differences(gradients, expected['gradients'])
    assert apart.max() < 1e-6, apart


def test_rfnet_s_regions_and_their_fusion_at_one_scale():
    maps, fusion = ProbabilityMaps(4, 16, 4), RegionFusion(4, 16, 4, nn.InstanceNorm2d)
    parameters = [*maps.parameters(), *fusion.parameters()]
    fill(parameters)
    x, above = drawn(500, 3, 4, 16, 6, 5), drawn(501, 3, 16, 6, 5)
    leaves = [v.requires_grad_() for v in (x, above)]
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]]).bool()
    given = x.where(mask[:, :, None, None, None], 0.0)
    p = maps(given.flatten(1, 2), above)
    target = (torch.arange(90).view(3, 6, 5) * 7 // 3) % 4
    prm = segmentation_loss(log_odds(p), target)
    fused = (fusion(given, p.detach()) * drawn(502, 3, 16, 6, 5)).mean()
    gradients = torch.autograd.grad(prm + fused, [*parameters, *leaves])
    agree('rfnet', {'prm': prm, 'fused': fused}, gradients)


def test_mmformer_s_transformer_of_two_blocks():
    blocks = Transformer(2, 16, 4, 8, 0.0)
    parameters = list(blocks.parameters())
    fill(parameters)
    leaves = [drawn(500, 3, 12, 16).requires_grad_(), drawn(501, 12, 16).requires_grad_()]
    loss = (blocks(*leaves) * drawn(502, 3, 12, 16)).mean()
    agree('mmformer', {'tokens': loss}, torch.autograd.grad(loss, [*parameters, *leaves]))


def test_gmd_s_projection_of_conflicting_gradients(monkeypatch):
    shapes = ((4, 3), (5,))
    parameters = [drawn(510 + k, *s).double().requires_grad_() for k, s in enumerate(shapes)]
    losses = [
        sum((p * drawn(520 + 10 * i + k, *p.shape)).sum() for i, p in enumerate(parameters)).tanh()
        for k in range(5)
    ]
    # The released code shuffles its list of gradients anew before each gradient is projected.
    rows = [torch.tensor([2, 0, 4, 1, 3])]
    for _ in range(4):
        rows.append(rows[-1][rows[0]])
    monkeypatch.setattr(torch, 'rand_like', lambda x: torch.stack(rows).argsort(1).to(x))
    found = decoupled_gradients(losses, parameters, torch.ones(()).double())
    # The mean there, the sum here: `GMD.loss` divides each loss by the number of subsets.
    agree('gmd', {}, [g / 5 for g in found])
