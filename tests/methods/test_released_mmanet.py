"""One step of MMANet and DMRNet in segmentation, and of HeMIS, against their authors' code.

The released code computed the losses and gradients in released_mmanet.json on the weights and data
of tests/helpers/figures.py, in double precision and with its usual numbers of channels. The commits
are c330689 of shicaiwei123/MMANet-CVPR2023 (its class ESANet_KD_Auxi and its MAD for MMANet, its
class SURF_MV for HeMIS, whose variant 'official' follows it) and 8472850 of
shicaiwei123/ECCV2024-DMRNet (its class ESANet_DUL_Auxi). ESANet had two ResNet-18, the context
module of NYUv2 and learned upsampling. Masks and noise were the ones given here. The loss was the
code's cross-entropy with class weights at four scales, restricted to weak or hard samples and
weighted as in its training scripts. The teacher's BatchNorm was in evaluation mode, a departure of
this suite. Biases before a BatchNorm, which takes the mean away, have the gradient 0, and 0 stands
in the figures for what rounding made of it. The settings are compared with the authors' scripts.
"""

import numpy as np
import pytest
import torch
from figures import differences, drawn, figures, fill
from released import double_precision, read
from torch import nn

from benchmark.method import IGNORE, Batch, Modality, SubsetScore, Task
from methods.complete import Complete
from methods.dmrnet import DMRNet
from methods.hemis import HeMIS
from methods.mmanet import MMANet

RELEASED = read('released_mmanet.json')
PERIOD = 4099
"""After so many numbers weights and directions repeat: a network has 40 million."""
SIDE = 96
MASK = torch.tensor([[1, 0], [0, 1], [1, 1]]).bool()


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    # No time for first weights, which `fill` replaces.
    for name in ('normal_', 'uniform_'):
        monkeypatch.setattr(torch.Tensor, name, lambda x, *_, **__: x)
    with double_precision():
        yield


def scenes():
    """Three scenes of five classes with unlabelled pixels, and their task."""
    modalities = Modality('rgb', (3, SIDE, SIDE)), Modality('depth', (1, SIDE, SIDE))
    weights = (0.3, 1.0, 2.0, 0.7, 1.5)
    task = Task(
        'any', 'segmentation', modalities, tuple('abcde'), 'mIoU', 64,
        network='esanet', loss='ce', class_weights=weights,
    )  # fmt: skip
    inputs = {m.name: drawn(500 + k, 3, *m.shape) for k, m in enumerate(modalities)}
    target = (torch.arange(3 * SIDE * SIDE).view(3, SIDE, SIDE) * 7 // 300) % 6
    target = torch.where(target == 5, IGNORE, target)
    return task, Batch(inputs, torch.ones_like(MASK), MASK, target, torch.arange(3))


def check(name, method, batch):
    """Compares the terms of a loss and the gradients with the released code's figures."""
    expected = dict(RELEASED[name])
    gradients = np.array(expected.pop('gradients'))
    there = gradients[::2] > 0
    losses = {n: x for n, x in method.loss(batch).items() if n.startswith('loss')}
    assert {n: x.item() for n, x in losses.items()} == pytest.approx(
        {f'loss_{n}': value for n, value in expected.items()}, rel=1e-9
    )
    sum(losses.values()).backward()
    found = [p.grad for p in method.parameters()]
    apart = differences(found, gradients, PERIOD)
    assert apart[there].max() < 1e-8, apart
    zeros = [g.norm().item() for g, known in zip(found, there, strict=True) if not known]
    assert max(zeros, default=0) < 1e-10


def teacher_of(task):
    """A teacher whose BatchNorm has statistics other than 0 and 1."""
    teacher = Complete(task)
    fill(teacher.parameters(), 2000, PERIOD)
    for k, norm in enumerate(m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.copy_(0.1 * drawn(3000 + k, norm.num_features))
        norm.running_var.copy_(0.5 + drawn(3500 + k, norm.num_features).square())
    return teacher


def test_mmanet_on_scenes_from_images_to_the_gradient_of_every_weight():
    task, batch = scenes()
    method = MMANet(task, alpha=4.0, beta=0.2, variant='official').train()
    fill(method.parameters(), period=PERIOD)
    method.set_teacher(teacher_of(task))
    method.epoch, method.epochs, method.strong[0] = 6, 300, True
    check('mmanet', method, batch)


def test_dmrnet_on_scenes_from_images_to_the_gradient_of_every_weight(monkeypatch):
    task, batch = scenes()
    method = DMRNet(task, beta=0.5, variant='official').train()
    fill(method.parameters(), period=PERIOD)
    monkeypatch.setattr(torch, 'randn_like', lambda x: drawn(600, *x.shape))
    method.epoch, method.epochs = 11, 300
    check('dmrnet', method, batch)


def test_hemis_on_faces_from_images_to_the_gradient_of_every_weight():
    names = ('rgb', 'ir', 'depth')
    faces = tuple(Modality(name, (3, 80, 80)) for name in names)
    task = Task('any', 'classification', faces, ('live', 'attack'), 'accuracy', 64)
    mask = torch.tensor([[m >> k & 1 for k in range(3)] for m in range(1, 8)]).bool()
    method = HeMIS(task, variant='official').train()
    fill(method.parameters(), period=PERIOD)
    inputs = {name: drawn(500 + k, 7, 3, 80, 80) for k, name in enumerate(names)}
    labels = torch.arange(7) % 2
    check('hemis', method, Batch(inputs, torch.ones_like(mask), mask, labels, torch.arange(7)))


PUBLISHED = {
    # train_nyuv2_mmanet.sh: --kd_scale 4.0 --auxi_scale 0.2
    'nyuv2': (4.0, 0.2),
    # train_cityscape_mmant.sh: --kd_scale 10.0 --auxi_scale 0.1
    'cityscapes': (10.0, 0.1),
}
"""Data set -> weights of MAD and MAR in the commands of MMANet's authors."""


@pytest.mark.parametrize('name', PUBLISHED)
def test_on_scenes_mmanet_has_the_weights_and_the_epochs_of_the_released_scripts(name):
    modalities = Modality('rgb', (3, 32, 32)), Modality('depth', (1, 32, 32))
    task = Task('any', 'segmentation', modalities, tuple('abc'), 'mIoU', 4)
    method = MMANet(task, **MMANet.settings[name])
    method.epochs = 300
    scores = {
        n: SubsetScore({'mIoU': x}, (), 1)
        for n, x in {'rgb': 0.3, 'depth': 0.1, 'rgb+depth': 0.5}.items()
    }
    mined, begun = [], []
    for epoch in range(14):
        method.epoch, before = epoch, method.departure.clone()
        method.on_validation(scores)
        mined += [epoch] * (not torch.equal(before, method.departure))
        begun += [epoch] * (epoch > method.mad_after and epoch > method.begin_epoch)
    # train_missing_mmanet.py: `begin_epoch` is 10, and epochs above 5 and below it are mined.
    assert mined == [6, 7, 8, 9]
    assert begun == [11, 12, 13]
    assert (method.alpha, method.beta) == PUBLISHED[name]


@pytest.mark.parametrize(
    ('name', 'alpha', 'beta', 'first'),
    [
        # main.py of the audio-visual code: --alpha 1e-3 --beta 0.2, and 0.3 on the other one.
        ('crema_d', 1e-3, 0.2, 6),
        ('kinetics_sounds', 1e-3, 0.3, 6),
        # train_missing_dul_auxi.py: both terms after epoch 10.
        ('nyuv2', 1e-3, 0.5, 11),
    ],
)
def test_dmrnet_has_the_weights_and_the_first_epoch_of_the_released_scripts(
    name, alpha, beta, first
):
    modalities = Modality('a', (3, 32, 32)), Modality('b', (1, 32, 32))
    task = Task('any', 'classification', modalities, tuple('abc'), 'accuracy', 4)
    method = DMRNet(task, **DMRNet.settings[name])
    method.epochs = 300
    assert (method.alpha, method.beta, method.warmup) == (alpha, beta, first)


def test_dmrnet_has_settings_where_its_authors_released_some():
    assert DMRNet.settings['nyuv2'] == {'warmup': 11, 'hard': 2}
    assert 'cityscapes' not in DMRNet.settings


def test_an_error_across_the_direction_is_seen_in_its_size():
    gradients = [drawn(k, 20_000) for k in range(20)]
    expected = figures(gradients)
    errors = [drawn(50 + k, 20_000) for k in range(20)]
    # Errors of a thousandth that leave every norm as it is, up to a millionth.
    errors = [e - (e @ g) / (g @ g) * g for e, g in zip(errors, gradients, strict=True)]
    wrong = [g + 1e-3 * g.norm() / e.norm() * e for e, g in zip(errors, gradients, strict=True)]
    apart = differences(wrong, expected)
    assert 0.4e-3 < np.median(apart) < 1.5e-3
    assert (apart > 1e-4).mean() > 0.8
    assert differences(gradients, expected).max() == 0
