"""A whole step of RFNet on volumes against its released code.

Commit 1e475fa of dyh127/RFNet computed the figures in released_volumes.json, in double precision
and with PyTorch 2.13, as tests/helpers/figures.py describes: its network for four classes, on four
modalities of 16 x 16 x 8 voxels. Its convolutions padded with zeros, as in the torch of its time.
The weights are those of `figures.fill` in the order of the parameters here. The released network
holds some of them in another form: the joining convolutions of the decoder of single modalities
read the decoded map before that of the encoder, so that the two halves of their kernels changed
places; and each region has gates in layers of its own, which here are the groups of one
convolution. Its biases before a norm, which change nothing, were 0.
"""

import pytest
import torch
from figures import differences, drawn, fill
from released import read

from benchmark.method import Batch, Modality, Task
from methods.rfnet import RFNet

RELEASED = read('released_volumes.json')
NAMES = ('flair', 't1ce', 't1', 't2')


def rfnet():
    """The network with the weights of the figures, in double precision, and the batch."""
    modalities = tuple(Modality(name, (1, 16, 16, 8)) for name in NAMES)
    task = Task(
        'any', 'segmentation', modalities, tuple('abcd'), 'Dice', 16, network='unet3d', loss='own'
    )
    method = RFNet(task).double().train()
    fill(method.parameters())
    volumes = drawn(500, 2, 4, 16, 16, 8).double()
    inputs = {name: volumes[:, k : k + 1] for k, name in enumerate(NAMES)}
    mask = torch.tensor([[True, False, True, False], [False, True, True, True]])
    target = (drawn(501, 2, 16, 16, 8).abs() * 2).long().clamp(max=3)
    return method, Batch(inputs, torch.ones_like(mask), mask, target, torch.arange(2))


def test_rfnet_s_whole_step_on_volumes(monkeypatch):
    # Losses and probabilities are otherwise computed in single precision.
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
    method, batch = rfnet()
    method.epoch, method.epochs = 1, 1
    losses = method.loss(batch)
    assert {n: x.item() for n, x in losses.items()} == pytest.approx(RELEASED['rfnet'], rel=1e-12)
    method.parse_losses(losses)[0].backward()
    gradients = {n: p.grad for n, p in method.named_parameters()}
    assert list(gradients) == list(RELEASED['gradients'])
    apart = differences(gradients.values(), list(RELEASED['gradients'].values()))
    assert apart.max() < 1e-8, dict(zip(gradients, apart.tolist(), strict=True))
