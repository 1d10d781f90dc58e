"""The loss that all methods share, where nothing or only a part of a batch is labelled."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from benchmark.method import IGNORE, Method, Modality, Task

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
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    target[0] = IGNORE
    weight = torch.tensor(weights) if weights else None
    expected = F.cross_entropy(logits[1:], target[1:], weight)
    assert Method(task).task_loss(logits, target).item() == pytest.approx(expected.item())
