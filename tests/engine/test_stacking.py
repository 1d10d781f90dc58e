"""Subsets that are decoded in one call: the logits of separate calls, or separate calls."""

import numpy as np
import pytest
import torch
from tasks import TASKS, batch_of

from benchmark.engine import stacking
from benchmark.engine.evaluation import subset_logits
from benchmark.engine.robustness import CLEAN, predictions
from benchmark.method import Method, Modality, Task
from benchmark.missing import subset_masks
from benchmark.registry import METHODS, discover
from methods.modality_dropout import ModalityDropout

discover()


class Counted(ModalityDropout):
    """Counts the calls of `decode` and the rows of each."""

    def decode(self, features, mask):
        """Decodes as modality dropout does."""
        vars(self).setdefault('rows', []).append(len(mask))
        return super().decode(features, mask)


class FirstMask(Counted):
    """Takes the first sample's mask for the whole batch, as much released code does."""

    def decode(self, features, mask):
        """Decodes under one mask."""
        return super().decode(features, mask[:1].expand_as(mask))


class Compares(Counted):
    """Subtracts the mean of the batch."""

    def decode(self, features, mask):
        """Decodes and centres."""
        logits = super().decode(features, mask)
        return logits - logits.mean(0)


class Draws(Counted):
    """Adds so little noise that no comparison of logits notices it."""

    def decode(self, features, mask):
        """Decodes and draws."""
        logits = super().decode(features, mask)
        return logits + 1e-9 * torch.rand_like(logits)


class Adds(Counted):
    """Hands a tensor from `encode` to `decode` that has no row for each sample."""

    def encode(self, inputs):
        """Encodes, and adds a constant."""
        return {**super().encode(inputs), 'constant': torch.ones(1)}

    def decode(self, features, mask):
        """Decodes without the constant."""
        return super().decode({k: v for k, v in features.items() if k != 'constant'}, mask)


def network(cls, kind='faces'):
    torch.manual_seed(0)
    return cls(TASKS[kind]).eval()


def apart(method, batch):
    """The logits of each subset from a call of its own."""
    features = method.encode(batch.inputs)
    for mask in subset_masks(len(method.task.names)):
        yield method.decode(features, batch.available & torch.from_numpy(mask))


@torch.no_grad()
def logits_of(method, batch, limit, monkeypatch):
    monkeypatch.setitem(stacking.LIMIT, 'cpu', limit)
    masks = subset_masks(len(method.task.names))
    found = list(subset_logits(method, batch, masks))
    assert np.array_equal([mask for mask, _ in found], masks)
    return [logits for _, logits in found]


@pytest.mark.parametrize('name', sorted(METHODS.module_dict))
def test_every_method_gives_the_logits_of_separate_calls(name, monkeypatch):
    kind = {'rfnet': 'rooms', 'knn_imputation': 'vectors'}.get(name, 'faces')
    method, batch = network(METHODS.module_dict[name], kind), batch_of(TASKS[kind], 3)
    calls, real = [], method.decode
    method.decode = lambda features, mask: calls.append(len(mask)) or real(features, mask)
    found = logits_of(method, batch, 2**30, monkeypatch)
    if type(method).predict is not Method.predict:
        assert not calls
        return
    count = len(found)
    assert calls == [3] * count + 2 * [3 * count]
    with torch.no_grad():
        for logits, expected in zip(found, apart(method, batch), strict=True):
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('cls', [FirstMask, Compares, Draws, Adds])
def test_a_decoder_that_is_not_for_each_sample_alone_is_called_for_each_subset(cls, monkeypatch):
    method, batch = network(cls), batch_of(TASKS['faces'], 4)
    batch = batch._replace(available=batch.mask)
    torch.manual_seed(1)
    found = logits_of(method, batch, 2**30, monkeypatch)
    assert method.rows[-len(found) :] == [4] * len(found)
    torch.manual_seed(1)
    with torch.no_grad():
        for logits, expected in zip(found, apart(method, batch), strict=True):
            assert torch.equal(logits, expected)


class Triples(ModalityDropout):
    """Takes the size of the first sample's subset for all, which only large subsets show."""

    def decode(self, features, mask):
        """Adds a constant under three modalities."""
        return super().decode(features, mask) + 3 * float(mask[0].sum() == 3)


def test_a_network_is_tried_under_every_subset(monkeypatch):
    four = tuple(Modality(name, (5,)) for name in 'abcd')
    task = Task('toy', 'classification', four, ('x', 'y'), 'accuracy', 4)
    torch.manual_seed(0)
    method, batch = Triples(task).eval(), batch_of(task, 6)
    found = logits_of(method, batch, 2**30, monkeypatch)
    with torch.no_grad():
        for logits, expected in zip(found, apart(method, batch), strict=True):
            assert torch.equal(logits, expected)


def test_memory_bounds_how_many_subsets_are_decoded_at_a_time(monkeypatch):
    method, batch = network(Counted), batch_of(TASKS['faces'], 4)
    with torch.no_grad():
        each = sum(x.nbytes for maps in method.encode(batch.inputs).values() for x in maps)
    logits_of(method, batch, each * 3 + 1, monkeypatch)
    # Seven to compare with, the same together, and those that count.
    assert method.rows == [4] * 7 + [12, 12, 4] + [12, 12, 4]
    method.rows.clear()
    logits_of(method, batch, each * 3 + 1, monkeypatch)
    assert method.rows == [12, 12, 4]  # a network is tried once
    method.rows.clear()
    logits_of(method, batch, 1, monkeypatch)
    assert method.rows == [4] * 7


def test_what_a_network_draws_depends_on_batch_and_subset_alone():
    redcore = METHODS.module_dict['redcore']
    torch.manual_seed(0)
    method, batch = redcore(TASKS['faces'], variant='official').eval(), batch_of(TASKS['faces'], 4)
    masks = list(subset_masks(3))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, later, other, few = (
            [logits for _, logits in subset_logits(method, batch, *args)]
            for args in ((masks, 3), (masks, 3), (masks, 4), (masks[::3], 3))
        )
        grades = {CLEAN: None, ('noise', 1): lambda: batch.inputs['rgb']}
        corrupted = list(predictions(method, batch, 'rgb', grades, masks, 3))
    assert torch.get_rng_state().equal(before)
    assert all(map(torch.equal, first, later))
    # A corruption that changes nothing changes no prediction either.
    assert all(map(torch.equal, first * 2, [logits for *_, logits in corrupted]))
    assert not any(map(torch.equal, first, other))
    assert all(map(torch.equal, first[::3], few))
    with torch.no_grad():  # and it does draw
        assert not method.predict(batch.inputs, batch.mask).equal(
            method.predict(batch.inputs, batch.mask)
        )
