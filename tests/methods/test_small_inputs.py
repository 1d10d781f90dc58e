"""Images that are tiny, thin or of odd sides, and batches without labels, in every method."""

import functools

import pytest
import torch
from tasks import batch_of

from benchmark.method import IGNORE, Modality, Task
from benchmark.registry import METHODS, discover

discover()
NAMES = sorted(METHODS.module_dict)


def task(kind, *shapes):
    modalities = tuple(Modality(f'm{k}', shape) for k, shape in enumerate(shapes))
    metric = {'segmentation': 'mIoU', 'classification': 'accuracy'}[kind]
    return Task('toy', kind, modalities, ('a', 'b', 'c'), metric, 4)


SMALL = {
    f'{kind} {shapes}': task(kind, *shapes)
    for kind, shapes in (
        ('segmentation', ((1, 1, 1), (1, 1, 1))),
        ('segmentation', ((1, 7, 7), (3, 7, 7))),
        ('segmentation', ((1, 2, 128), (1, 2, 128))),
        ('segmentation', ((1, 17, 33), (1, 17, 33))),
        ('classification', ((1, 1, 1), (1, 1, 1))),
        ('classification', ((1, 4, 4), (1, 4, 4))),
        ('classification', ((1, 5, 300), (3, 17, 33))),
        ('classification', ((3, 8, 8), (3, 90, 41))),
    )
}


@functools.cache
def teacher_of(name, kind):
    """A teacher, which no training changes."""
    return METHODS.module_dict[name](kind)


def built(name, kind):
    """A method in its first epoch, or a skip where it refuses the task."""
    cls = METHODS.module_dict[name]
    if 'faces' in cls.contract_exceptions:
        pytest.skip(f'{name} takes no images')
    if kind.kind == 'segmentation' and 'rooms' in cls.contract_exceptions:
        pytest.skip(f'{name} takes no label maps')
    torch.manual_seed(0)
    method = cls(kind)
    if cls.teacher:
        method.set_teacher(teacher_of(cls.teacher, kind))
    method.epochs = 3
    return method.train()


def step(method, batch):
    """The gradients of a training step; none where nothing is learned from batches."""
    total, _ = method.parse_losses(method.loss(batch))
    assert torch.isfinite(total)
    if total.requires_grad:
        total.backward()
    return [p.grad for p in method.parameters() if p.grad is not None]


@pytest.mark.parametrize('name', NAMES)
def test_every_method_trains_and_predicts_whatever_the_size_of_the_images(name):
    refused = METHODS.module_dict[name].contract_exceptions
    for told, kind in SMALL.items():
        if kind.kind == 'segmentation' and 'rooms' in refused and 'faces' not in refused:
            continue  # a method that takes no label maps
        if 'mixed' in refused and len({m.shape[1:] for m in kind.modalities}) > 1:
            continue  # a method that takes no images of different sizes
        method, batch = built(name, kind), batch_of(kind, 8)
        assert all(torch.isfinite(x).all() for x in step(method, batch)), told
        with torch.no_grad():
            logits = method.eval().predict(batch.inputs, batch.mask)
        assert logits.shape == (8, 3, *batch.target.shape[1:]), told
        assert torch.isfinite(logits).all(), told


@pytest.mark.parametrize('name', NAMES)
def test_a_batch_without_labels_ends_no_training(name):
    kind = task('segmentation', (1, 16, 16), (1, 16, 16))
    batch = batch_of(kind, 4)
    batch = batch._replace(target=torch.full_like(batch.target, IGNORE))
    assert all(torch.isfinite(x).all() for x in step(built(name, kind), batch))
