"""Small tasks of every kind, batches for them, and a data set in memory over them."""

import dataclasses

import numpy as np
import torch

from benchmark.dataset import Dataset, Split
from benchmark.method import Batch, Modality, Task


def images(side, *channels):
    """Returns square image modalities with the given numbers of channels."""
    names = ('rgb', 'depth', 'ir', 'flow')
    return tuple(Modality(n, (c, side, side)) for n, c in zip(names, channels, strict=False))


TASKS = {
    'faces': Task('toy', 'classification', images(16, 3, 1, 1), ('attack', 'live'), 'ACER', 4),
    'mixed': Task(
        'toy',
        'classification',
        (Modality('image', (1, 16, 16)), Modality('sound', (1, 20, 12)), Modality('text', (5,))),
        ('a', 'b', 'c', 'd'),
        'accuracy',
        4,
    ),
    'vectors': Task(
        'toy',
        'classification',
        (Modality('a', (6,)), Modality('b', (3,))),
        ('x', 'y'),
        'accuracy',
        4,
    ),
    'sequences': Task(
        'toy',
        'classification',
        (Modality('words', (5, 4), padded=True), Modality('gait', (3, 2))),
        ('x', 'y', 'z'),
        'accuracy',
        4,
    ),
    'rooms': Task('toy', 'segmentation', images(32, 3, 1), ('wall', 'floor', 'box'), 'mIoU', 4),
}
"""One task of each kind of input and target: images; images of different sizes with a vector;
vectors; sequences, one of them padded; label maps."""

ESANET = dataclasses.replace(TASKS['rooms'], network='esanet')
"""The task with label maps on ESANet, which not every method can use."""

VOLUMES = Task(
    'toy',
    'segmentation',
    (Modality('t1', (1, 8, 8, 16)), Modality('t2', (2, 8, 8, 16))),
    ('none', 'rim', 'core'),
    'Dice',
    4,
    network='unet3d',
)
"""A task with label maps of volumes, which not every method can use."""


def target_of(task, count, rng):
    """Returns random targets, (count,) or (count, H, W)."""
    shape = (count,)
    if task.kind == 'segmentation':
        shape = (count, *task.modalities[0].shape[1:])
    return rng.integers(len(task.classes), size=shape)


def batch_of(task, count=6, seed=0):
    """Returns a batch of random inputs in which masks differ between samples."""
    rng = np.random.default_rng(seed)
    mask = rng.random((count, len(task.names))) < 0.6
    mask[np.arange(count), rng.integers(len(task.names), size=count)] = True
    inputs = {m.name: rng.standard_normal((count, *m.shape)) for m in task.modalities}
    return Batch(
        inputs={k: torch.from_numpy(v.astype(np.float32)) for k, v in inputs.items()},
        available=torch.ones(mask.shape, dtype=torch.bool),
        mask=torch.from_numpy(mask),
        target=torch.from_numpy(target_of(task, count, rng)),
        ids=torch.arange(count),
    )


class Toy(Dataset):
    """A data set in memory over one of the tasks; the mean of an input depends on its class."""

    recipe = {'epochs': 4, 'batch_size': 8, 'lr': 1e-2}
    fingerprint = 'toy'
    embedded = True

    def __init__(self, task, sizes=(40, 16, 24)):
        self.task, self.name, self.options = task, task.dataset, {}
        self.sizes = dict(zip(('train', 'val', 'test'), sizes, strict=True))
        self.opened = []

    def split(self, name):
        self.opened.append(name)
        rng = np.random.default_rng(list(self.sizes).index(name))
        n = self.sizes[name]
        target = target_of(self.task, n, rng)
        inputs = {}
        for m in self.task.modalities:
            shift = target.reshape(n, -1)[:, :1].reshape(n, *[1] * len(m.shape))
            inputs[m.name] = (rng.standard_normal((n, *m.shape)) + shift).astype(np.float32)
        available = np.ones((n, len(self.task.names)), bool)
        return Split(inputs, target, available, np.array([f'{name}-{i}' for i in range(n)]))
