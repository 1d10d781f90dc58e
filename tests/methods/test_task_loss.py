"""The loss that all methods share: its terms in NumPy, and that every method uses it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.method import IGNORE, LOSSES, Method, Modality, SubsetScore, Task
from benchmark.missing import subset_ids
from benchmark.registry import METHODS, discover
from methods.common.fitted import Fitted
from methods.common.losses import segmentation_loss, sigmoid_dice, sigmoid_loss
from methods.common.own_losses import sample_sigmoid_loss, squared_segmentation_loss

discover()
TRAINED = sorted(n for n, c in METHODS.module_dict.items() if not issubclass(c, Fitted))
SCORES = {s: SubsetScore({'mIoU': 0.5}, (0.3, 0.3, 0.4), 6) for s in ('rgb', 'depth', 'rgb+depth')}
IMAGE = (Modality('rgb', (3, 4, 4)),)


@pytest.mark.parametrize('weights', [(), (0.0, 2.0, 1.0)])
@pytest.mark.parametrize('metric', ['mIoU', 'Dice'])
def test_a_batch_without_labels_costs_nothing_and_moves_nothing(weights, metric):
    task = Task('toy', 'segmentation', IMAGE, ('a', 'b', 'c'), metric, class_weights=weights)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = Method(task).task_loss(logits, torch.full((2, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert not logits.grad.any()


@pytest.mark.parametrize('weights', [(), (0.0, 2.0, 1.0)])
def test_a_batch_with_some_labels_has_their_cross_entropy(weights):
    task = Task('toy', 'segmentation', IMAGE, ('a', 'b', 'c'), 'mIoU', class_weights=weights)
    task = dataclasses.replace(task, loss='ce')
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    target[0] = IGNORE
    weight = torch.tensor(weights) if weights else None
    expected = F.cross_entropy(logits[1:], target[1:], weight)
    assert Method(task).task_loss(logits, target).item() == pytest.approx(expected.item())


@pytest.mark.parametrize('metric', ['mIoU', 'Dice'])
def test_ce_dice_adds_the_dice_of_every_class_that_the_metric_counts(metric):
    rooms = dataclasses.replace(TASKS['rooms'], metric=metric, regions=(('all', (1, 2)),))
    target = batch_of(rooms).target.numpy().copy()
    target[:, :5] = IGNORE
    target[target == 2] = 0  # class 2 is nowhere
    logits = np.random.default_rng(0).standard_normal((len(target), 3, 32, 32))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = []
    for k in range(3) if metric == 'mIoU' else (1, 2):  # where Dice is measured, 0 is background
        p, t = share[:, k][target != IGNORE], (target == k)[target != IGNORE]
        each.append((2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    given = torch.from_numpy(logits), torch.from_numpy(target)
    plain = Method(dataclasses.replace(rooms, loss='ce')).task_loss(*given)
    for loss in ('', 'ce_dice'):
        found = Method(dataclasses.replace(rooms, loss=loss)).task_loss(*given) - plain
        assert found.item() == pytest.approx(1 - np.mean(each), rel=1e-5)


def test_a_task_refuses_a_loss_that_its_kind_lacks():
    with pytest.raises(UserError, match="unknown loss in classification 'own'"):
        dataclasses.replace(TASKS['faces'], loss='own')


@pytest.mark.parametrize('name', TRAINED)
def test_every_method_trains_with_the_loss_and_class_weights_of_the_protocol(name):
    cls, losses = METHODS.module_dict[name], []
    if reason := cls.contract_exceptions.get('rooms'):
        pytest.skip(reason)
    teacher = cls.teacher and METHODS.module_dict[cls.teacher](TASKS['rooms'])
    for loss in LOSSES['segmentation'][:2]:
        for weights in ((), (1.0, 4.0, 0.5)):
            task = dataclasses.replace(TASKS['rooms'], loss=loss, class_weights=weights)
            torch.manual_seed(0)
            method, batch = cls(task), batch_of(task)
            if teacher:
                method.set_teacher(teacher)
            method.epochs = 3
            for method.epoch in range(3):
                method.on_validation(SCORES)
            torch.manual_seed(1)
            terms = {k: v.item() for k, v in method.loss(batch).items() if 'loss' in k}
            losses.append(np.array([terms[key] for key in sorted(terms)]))
    assert all(abs(a - b).max() > 1e-4 for k, a in enumerate(losses) for b in losses[:k])


OTHERWISE = {'mmanet': ['loss_mar'], 'dmrnet': ['loss_hard'], 'simmlm': ['loss_ranking']}
"""Method -> the terms in which labels have another part than in the loss of the task."""


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
@pytest.mark.parametrize('name', TRAINED)
def test_labels_enter_a_method_through_the_loss_of_the_task_alone(name, kind):
    cls, task, found = METHODS.module_dict[name], TASKS[kind], []
    if reason := cls.contract_exceptions.get(kind):
        pytest.skip(reason)
    classes = len(task.classes)
    known = {
        s: SubsetScore({task.metric: 0.5}, (0.3, 0.4, 0.4)[:classes], 6)
        for s in subset_ids(task.names)
    }
    for shift in (0, 1):
        torch.manual_seed(0)
        method, batch = cls(task), batch_of(task)
        if cls.teacher:
            method.set_teacher(METHODS.module_dict[cls.teacher](task))
        method.epochs = 3
        for method.epoch in range(3):
            method.loss(batch)  # some methods collect what they mine
            method.on_validation(known)
        method.task_loss = lambda logits, target: (logits * 0).sum()
        torch.manual_seed(1)
        found.append(method.loss(batch._replace(target=(batch.target + shift) % classes)))
    changed = [term for term, x in found[0].items() if not torch.allclose(x, found[1][term], 1e-4)]
    assert changed == OTHERWISE.get(name, [])


RELEASED = (
    (segmentation_loss, 2.950781512756996, -0.14093573463483336, 0.10443002176843055),
    (sigmoid_loss, 0.7740889039808809, -0.01008343773553299, 0.01887601588054651),
    (sigmoid_dice, 0.6634985208511353, -0.004368806530727861, 0.009889547596019727),
    (squared_segmentation_loss, 2.8969476993994094, -0.15790683182821547, 0.11022481327758737),
    (sample_sigmoid_loss, 5.40485790938995, -0.08580433620666797, 0.166747691435801),
)
"""Loss -> its value, the inner product of its gradient with cosines, and the gradient's norm.

The figures were made in float64 by calling the loss functions of the released code of RFNet, M3AE,
GMD, RobustSeg and ShaSpec on the tensors of the test, with one-hot targets and four classes.
"""


@pytest.mark.parametrize(('loss', 'value', 'product', 'norm'), RELEASED)
def test_losses_and_gradients_are_those_of_the_released_code(loss, value, product, norm):
    steps = torch.arange(240, dtype=torch.float64)
    logits = (3 * (0.7 * steps).sin()).view(2, 4, 6, 5).requires_grad_()
    target = (torch.arange(60).view(2, 6, 5) * 7 // 3) % 4
    found = loss(logits, target)
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(value, rel=1e-5)
    cosines = steps.cos().view_as(gradient)
    assert (gradient * cosines).sum().item() == pytest.approx(product, rel=1e-5, abs=1e-7)
    assert gradient.norm().item() == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize('loss', [squared_segmentation_loss, sample_sigmoid_loss])
def test_pixels_without_a_label_are_left_out(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, 5), torch.randint(3, (2, 6, 5))
    few = loss(logits[:, :, 2:], target[:, 2:])
    target[:, :2] = IGNORE
    torch.testing.assert_close(loss(logits, target), few)


def test_the_methods_with_a_loss_of_their_own_are_those_that_the_documents_name():
    own = {n for n, c in METHODS.module_dict.items() if c.own_loss is not Method.own_loss}
    named = {
        'gmd', 'hemis', 'm3ae', 'mmformer', 'passion', 'rfnet', 'robustseg', 'shaspec', 'uhved',
    }  # fmt: skip
    assert own == named
    for page in ('options', 'protocol'):
        text = Path(__file__).parents[2].joinpath(f'docs/{page}.md').read_text()
        assert ', '.join(f'`{name}`' for name in sorted(named)) in text
    for name in own:
        task = dataclasses.replace(TASKS['rooms'], loss='own')
        logits, target = torch.randn(6, 3, 32, 32), batch_of(task).target
        method = METHODS.module_dict[name](task)
        assert method.task_loss(logits, target) != method.cross_entropy(logits, target)
