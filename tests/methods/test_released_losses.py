"""The losses of `distilled`, and those of U-HVED, against released code.

The code computed the losses and gradients in released_losses.json on numbers of `figures.drawn`;
tests/helpers/figures.py describes the figures of a gradient.

- Regression of logits, soft targets, hints and attention transfer: c330689 of
  shicaiwei123/MMANet-CVPR2023, in double precision.
- Similarity-preserving distillation: b84f547 of HobbitLong/RepDistiller, in double precision. The
  function of MMANet's code has the same mean.
- Probabilistic transfer: a58fd1b of passalis/probabilistic_kt, in double precision.
- U-HVED: the sums of divergences of 1d293a8 of ReubenDo/U-HVED, for two and for all of four
  modalities, and its task loss, which is that of NifTK/NiftyNet (935bf433), with a class that does
  not occur. Both in TensorFlow and in single precision.

The code on similarities and probabilities averages over all pairs of N samples. The losses here are
N times as large, so that their weight does not depend on N.
"""

import pytest
import torch
from figures import differences, drawn
from released import double_precision, read

from benchmark.method import Modality, Task
from methods.common.distillation import (
    attention_transfer,
    hint,
    logit_regression,
    probabilistic_transfer,
    similarity_preserving,
    soft_target,
)
from methods.uhved import UHVED, subset_divergence

RELEASED = read('released_losses.json')
SAMPLES = 6
LOGITS = (SAMPLES, 4)
MAPS = (SAMPLES, 5, 3, 4)
DISTILLED = {
    'logits': (logit_regression, LOGITS, 1),
    'soft_target': (lambda s, t: soft_target(s, t, 2.0), LOGITS, 1),
    'fitnet': (hint, MAPS, 1),
    'at': (attention_transfer, MAPS, 1),
    'sp': (lambda s, t: similarity_preserving(s.flatten(1), t.flatten(1)), MAPS, SAMPLES),
    'pkt': (lambda s, t: probabilistic_transfer(s.flatten(1), t.flatten(1)), MAPS, SAMPLES),
}


@pytest.fixture(autouse=True)
def _double():
    with double_precision():
        yield


@pytest.mark.parametrize('name', DISTILLED)
def test_a_loss_of_distillation_is_that_of_released_code(name):
    function, shape, times = DISTILLED[name]
    first, scale = (700, 3) if shape == LOGITS else (702, 1)
    student = (scale * drawn(first, *shape)).requires_grad_()
    loss = function(student, scale * drawn(first + 1, *shape)) / times
    expected = RELEASED[f'distilled_{name}']
    assert loss.item() == pytest.approx(expected['loss'], rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, student)
    assert differences([gradient], expected['gradient']) < 1e-5


def test_the_own_loss_of_uhved_is_that_of_niftynet():
    task = Task(
        'any', 'segmentation', (Modality('t1', (1, 32, 32)), Modality('t2', (1, 32, 32))),
        tuple('abcd'), 'mIoU', 4, loss='own',
    )  # fmt: skip
    target = (torch.arange(3 * 6 * 5).view(3, 6, 5) * 7 // 11) % 3
    logits = drawn(710, 3, 4, 6, 5).requires_grad_()
    loss = UHVED(task).task_loss(logits, target)
    expected = RELEASED['uhved_task']
    assert loss.item() == pytest.approx(expected['cross_entropy'] + expected['dice'], rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert differences([gradient], expected['gradient']) < 1e-5


@pytest.mark.parametrize(
    ('given', 'shown'),
    [('two', [True, False, False, True]), ('all', [True] * 4)],
)
def test_the_divergences_of_uhved_are_those_of_its_code(given, shown):
    maps = [drawn(720 + k, 2, 6, 3, 4).requires_grad_() for k in range(4)]
    every = torch.ones(2, 4, dtype=torch.bool)
    loss = subset_divergence(maps, torch.tensor([shown, shown]), every)
    expected = RELEASED[f'uhved_divergence_{given}']
    assert loss.item() == pytest.approx(expected['between'] + expected['prior'], rel=1e-5)
    gradients = torch.autograd.grad(loss, maps)
    assert differences(gradients, expected['gradients']).max() < 1e-5
