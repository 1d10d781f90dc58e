"""`sampling=balanced` draws training samples so that all classes are equally likely."""

import dataclasses

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy

from benchmark.dataset import Split
from benchmark.engine.experiment import experiment
from benchmark.engine.loading import Samples, balancing, train_loader
from benchmark.engine.parallel import batches, processes
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.missing import Sampler
from benchmark.options import Spec
from benchmark.registry import discover

discover()
TASK = TASKS['vectors']
SIZES = (270, 30)


def uneven():
    """A split whose second class has a tenth of the samples, one of them without any modality."""
    target = np.repeat([0, 1], SIZES)
    n = len(target)
    inputs = {m.name: np.zeros((n, *m.shape), np.float32) for m in TASK.modalities}
    available = np.ones((n, 2), bool)
    available[0] = False
    return Split(inputs, target, available, np.arange(n).astype(str))


def drawn(epoch=0, seed=0, size=50, sampling='balanced'):
    split = uneven()
    samples = Samples(split, TASK, split.available, Sampler('uniform', TASK.names), seed)
    loader = train_loader(samples, size, 0, False, sampling)
    samples.set_epoch(epoch)
    loader.sampler.set_epoch(epoch)
    return torch.cat([batch.ids for batch in loader]).numpy()


def test_classes_are_drawn_equally_often():
    ids = np.concatenate([drawn(epoch) for epoch in range(8)])
    share = (ids >= SIZES[0]).mean()
    # The share of the second class is a mean of 2000 draws: five standard deviations.
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / len(ids))
    counts = np.bincount(ids, minlength=300)
    assert counts[0] == 0
    expected = np.r_[0, np.full(269, 0.5 / 269), np.full(30, 0.5 / 30)] * len(ids)
    # Within a class all samples are equally likely: Pearson's statistic has 298 degrees of freedom.
    statistic = ((counts - expected)[1:] ** 2 / expected[1:]).sum()
    assert abs(statistic - 298) < 5 * np.sqrt(2 * 298)


def test_draws_depend_on_seed_and_epoch_alone():
    assert drawn(1).tolist() == drawn(1).tolist()
    assert drawn(1).tolist() != drawn(2).tolist()
    assert drawn(1).tolist() != drawn(1, seed=1).tolist()
    # An epoch is as long as one in which each sample is drawn once.
    assert len(drawn()) == len(drawn(sampling='shuffled')) == 250


def test_weights_are_those_of_the_classes():
    split = uneven()
    samples = Samples(split, TASK, split.available, Sampler('uniform', TASK.names), 0)
    weights = balancing(samples)
    assert len(weights) == len(samples) == 299
    assert weights[:269].sum() == pytest.approx(weights[269:].sum())


def test_two_processes_share_the_batches_of_one(monkeypatch):
    weights, samples = np.r_[np.ones(6), np.full(2, 3.0)], list(range(8))
    plan = batches.training(samples, 4, 0, 'x', weights)
    whole = list(plan['sampler'])
    parts = []
    for rank in range(2):
        monkeypatch.setattr(processes, 'world', lambda: 2)
        monkeypatch.setattr(processes, 'rank', lambda rank=rank: rank)
        parts.append(list(batches.training(samples, 4, 0, 'x', weights)['batch_sampler']))
    both = [[*first, *second] for first, second in zip(*parts, strict=True)]
    assert both == [whole[:4], whole[4:]]


def test_other_tasks_are_refused_in_one_line(tmp_path):
    protocol = dataclasses.replace(Protocol(), sampling='balanced')
    e = experiment(Spec('modality_dropout'), Toy(TASKS['rooms']), protocol, 0, tmp_path)
    with pytest.raises(UserError, match=r'expected a classification task.*found segmentation'):
        e.check()
    with pytest.raises(UserError, match=r"'balance'; did you mean 'balanced'"):
        Protocol.build({}, {'sampling': 'balance'}, 'cpu')


def test_the_default_is_in_no_protocol_id():
    assert 'sampling' not in Protocol().recorded()
    assert dataclasses.replace(Protocol(), sampling='balanced').recorded()['sampling'] == 'balanced'
