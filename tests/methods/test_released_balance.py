"""SimMLM, MMPareto, OGM-GE and M3AE against their released code.

The released code computed the losses, outputs and gradients in released_newest.json on the weights
and data of `figures.fill` and `figures.drawn`, as tests/helpers/figures.py describes, and here all
is computed in double precision, too. Each kind of network was small and the same on both sides.

Of SimMLM the commit 3b7e77a of Tony-Khor/simmlm, a public copy, was run from the logits of three
experts and of the gate on; its loss had no Dice term, and its one region was one label here.

The step of a339db3 of GeWu-Lab/MMPareto_ICML2024 had two perceptrons as encoders and linear heads.
The weights of the head of sounds alone were those of the joint one with the opposite sign, so that
the gradients of that encoder conflict; those of the other encoder do not.

The step of 343dc1d of GeWu-Lab/OGM-GE_CVPR2022 had one convolution for each encoder, concatenation
and a linear layer without bias, alpha 0.5, and the normal numbers of `drawn` as noise.

Of fdb2800 of ccarliu/m3ae the losses of both stages were computed from the outputs of its network
on, slices of 6 x 5 pixels, in the branch that its script selects. Regions did not overlap.
"""

import itertools

import pytest
import torch
from figures import differences, drawn, fill
from mmengine.optim import OptimWrapper
from released import agree, leaf, read, task_of
from torch import nn

from benchmark.method import Batch, Modality, Task
from methods.common.substitutes import ELEMENTS, PACE
from methods.m3ae import M3AE
from methods.mmpareto import MMPareto
from methods.ogm_ge import OGMGE
from methods.simmlm import Expert, SimMLM

RELEASED = read('released_newest.json')
ROWS = torch.arange(6)
ALL = torch.ones(6, 2, dtype=torch.bool)


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    """Losses are computed in single precision otherwise, whatever the network's."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)


MORE = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]]).bool()
LESS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 1, 1]]).bool()


def simmlm(task, labels):
    """The method, with given logits of experts and of the gate under both masks."""
    method = SimMLM(task)
    experts = [leaf(500 + k, 6, labels) for k in range(3)]
    gate = leaf(510, 12, 3 * labels)
    calls = iter(gate.chunk(2))
    method.gate = nn.Module()
    method.gate.forward = lambda _: next(calls)
    pooled = torch.zeros(6, 1)
    method.encode = lambda _: {
        n: Expert(z, pooled) for n, z in zip(task.names, experts, strict=True)
    }
    return method, [*experts, gate]


def test_simmlm_s_fusion_weighs_the_experts_that_are_there_for_each_class():
    method, _ = simmlm(task_of('abc', 3, (5,), 4), 3)
    features = method.encode({})
    found = [method.decode(features, mask) for mask in (MORE, LESS)]
    assert differences(found, RELEASED['simmlm_fusion']['gradients']).max() < 1e-6


def test_simmlm_from_logits_to_their_gradients(monkeypatch):
    monkeypatch.setattr('methods.simmlm.fewer', lambda _: LESS)
    modalities = tuple(Modality(n, (5,)) for n in 'abc')
    method, leaves = simmlm(Task('any', 'multilabel', modalities, ('tumour',), 'mAP', 4), 1)
    target = (ROWS % 2)[:, None].double()
    losses = method.loss(Batch({}, torch.ones_like(MORE), MORE, target, ROWS))
    terms = {
        'segmentation': losses['loss_more'] + losses['loss_fewer'],
        'ranking': losses['loss_ranking'],
    }
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    agree(RELEASED['simmlm'], terms, gradients)


class Head(nn.Linear):
    """A decoder without hidden layers, of maps that are averaged over pixels."""

    def maps(self, fused):
        return fused

    def outputs(self, maps):
        return (self(maps),)

    def forward(self, maps):
        return super().forward(maps[0].mean((2, 3)))


class Encoder(nn.Sequential):
    """A network whose output is one map."""

    def forward(self, x):
        x = super().forward(x)
        return (x if x.ndim == 4 else x[:, :, None, None],)


def followed(method, inputs, parameters):
    """The gradients that a step of plain descent has followed."""
    before = [p.detach().clone() for p in parameters]
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), 1.0))
    method.train_step(Batch(inputs, ALL, ALL, ROWS % 4, ROWS), wrapper)
    return [b - p.detach() for b, p in zip(before, parameters, strict=True)]


def test_mmpareto_in_a_whole_step_with_a_conflict():
    names = ('audio', 'visual')
    method = MMPareto(task_of(names, 4, (5,), 4)).double().train()
    for n in names:
        method.encoders[n] = Encoder(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 8)).double()
        method.heads[n] = Head(8, 4).double()
    method.decoder = Head(16, 4).double()
    parts = (*method.encoders.values(), method.decoder, *method.heads.values())
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    method.heads['audio'].weight.data = -method.decoder.weight.data[:, :8]
    inputs = {n: drawn(500 + k, 6, 5).double() for k, n in enumerate(names)}
    agree(RELEASED['mmpareto'], {}, followed(method, inputs, parameters))


@pytest.mark.parametrize('modulation', ['ogm', 'ogm_ge'])
def test_ogm_ge_in_a_whole_step(modulation, monkeypatch):
    names = ('audio', 'visual')
    task = task_of(names, 4, (1, 16, 16), 4)
    method = OGMGE(task, alpha=0.5, modulation=modulation).double().train()
    for n in names:
        method.encoders[n] = Encoder(nn.Conv2d(1, 8, 3), nn.Tanh()).double()
    method.modulated = {f'encoders.{n}.0.weight': k for k, n in enumerate(names)}
    method.decoder = Head(16, 4).double()
    parts = (*method.encoders.values(), method.decoder)
    parameters = [p for part in parts for p in part.parameters()]
    fill(parameters)
    method.decoder.bias.data.zero_()
    calls = itertools.count(600)
    monkeypatch.setattr(torch, 'randn_like', lambda x: drawn(next(calls), *x.shape).double())
    method.epoch, method.epochs = 3, 100
    inputs = {n: drawn(500 + k, 6, 1, 4, 4).double() for k, n in enumerate(names)}
    agree(RELEASED[modulation], {}, followed(method, inputs, parameters))


def m3ae():
    modalities = tuple(Modality(n, (1, 6, 5)) for n in 'abcd')
    return M3AE(Task('any', 'segmentation', modalities, tuple('012'), 'Dice', 4, loss='own'))


def test_m3ae_s_losses_of_fine_tuning():
    method = m3ae()
    outputs = [leaf(500 + k, 2, 3, 6, 5, 1) for k in range(3)]
    method.maps, method.outputs = lambda *_: None, lambda _: [x[..., 0] for x in outputs]
    target = (torch.arange(30).view(1, 6, 5) * 7 // 3) % 3
    one = torch.ones(1, 4, dtype=torch.bool)
    losses = method.finetune(Batch({}, one, one, target, torch.arange(1)))
    gradients = torch.autograd.grad(sum(losses.values()), outputs)
    agree(RELEASED['m3ae'], {n.removeprefix('loss_'): x for n, x in losses.items()}, gradients)


def test_m3ae_s_losses_of_pretraining():
    method, whole = m3ae().double(), drawn(510, 4, 1, 6, 5).double()
    for s, parameter in zip(whole, method.learned.values(), strict=True):
        parameter.data.copy_(s / PACE)
    found = leaf(512, 2, 4, 1, 6, 5)
    method.maps = method.decoder.maps = lambda *_: None
    method.reconstruction = nn.Module()
    method.reconstruction.forward = lambda _: dict(zip('abcd', found.unbind(1), strict=True))
    inputs = dict(zip('abcd', drawn(511, 2, 4, 1, 6, 5).double().unbind(1), strict=True))
    all_there = torch.ones(2, 4, dtype=torch.bool)
    losses = method.pretrain(Batch(inputs, all_there, all_there, torch.zeros(2), torch.arange(2)))
    expected = dict(RELEASED['m3ae_pretraining'])
    # The norm that as many elements as those of the released substitutes would have.
    size = (ELEMENTS / whole.numel()) ** 0.5
    expected['smoothness'] *= size
    each = torch.autograd.grad(sum(losses.values()), [*method.learned.values(), found])
    gradients = [torch.stack(each[:4]) / PACE / size, each[4]]
    agree(expected, {n.removeprefix('loss_'): x for n, x in losses.items()}, gradients)
