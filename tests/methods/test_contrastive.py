"""Contrastive pre-training: InfoNCE over the samples that have both modalities, and its pairs."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from methods.contrastive import Contrastive, info_nce

NAN = float('nan')


def reference(a, b, temperature):
    """InfoNCE of the rows that are left, in NumPy and double precision."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    similar = a @ b.T / temperature
    return -np.mean([np.diag(log_softmax(x, axis=1)) for x in (similar, similar.T)])


@pytest.mark.parametrize('count', [1, 2, 5, 9])
def test_infonce_is_that_of_the_samples_with_both_modalities_alone(count):
    rng = np.random.default_rng(count)
    a, b = rng.standard_normal((2, 9, 4))
    both = np.zeros(9, bool)
    both[rng.permutation(9)[:count]] = True
    given = [torch.from_numpy(x.astype(np.float32)).requires_grad_() for x in (a, b)]
    found = info_nce(*given, torch.from_numpy(both), 0.2)
    np.testing.assert_allclose(found.item(), reference(a[both], b[both], 0.2), atol=2e-6)
    found.backward()
    for x in given:
        assert x.grad.isfinite().all()
        assert not x.grad[~both].any()
        assert x.grad[both].any() or count == 1


def test_what_an_absent_modality_holds_has_no_effect():
    a, b = torch.randn(2, 6, 3)
    both = torch.tensor([True, True, False, True, False, True])
    expected = info_nce(a, b, both, 0.1)
    a[2], b[4], b[2] = NAN, NAN, 1e30
    given = [x.requires_grad_() for x in (a, b)]
    found = info_nce(*given, both, 0.1)
    assert torch.equal(found, expected)
    found.backward()
    assert all(x.grad.isfinite().all() for x in given)
    assert info_nce(a, b, torch.zeros(6, dtype=torch.bool), 0.1) == 0


@pytest.mark.parametrize('kind', ['faces', 'rooms', 'mixed'])
def test_the_loss_is_the_mean_over_pairs_of_what_samples_have(kind):
    torch.manual_seed(0)
    task = TASKS[kind]
    method, batch = Contrastive(task, temperature=0.3, dimensions=5).eval(), batch_of(task, 8)
    there = torch.rand(8, len(task.names)) < 0.6
    inputs = {
        name: x.where(on.view(-1, *[1] * (x.ndim - 1)), NAN)
        for (name, x), on in zip(batch.inputs.items(), there.T, strict=True)
    }
    losses = method.loss(batch._replace(inputs=inputs, available=there, mask=batch.mask & there))
    with torch.no_grad():
        maps = method.encode(batch.inputs)
        z = {n: method.project[n](maps[n][-1].flatten(2).mean(2)).double() for n in task.names}
    terms = []
    for m, n in itertools.combinations(range(len(task.names)), 2):
        both = (there[:, m] & there[:, n]).numpy()
        rows = [z[task.names[i]].numpy()[both] for i in (m, n)]
        terms.append(reference(*rows, 0.3) if both.any() else 0.0)
    assert np.mean(terms) > 0
    np.testing.assert_allclose(losses['loss_contrast'].item(), np.mean(terms), rtol=1e-4)
    assert losses['loss_probe'].isfinite()


def test_labels_train_the_probe_alone():
    method, batch = Contrastive(TASKS['faces']), batch_of(TASKS['faces'])
    losses = method.loss(batch)
    encoders, probe = [*method.encoders.parameters()], [*method.probe.parameters()]
    found = torch.autograd.grad(
        losses['loss_probe'], encoders + probe, retain_graph=True, allow_unused=True
    )
    assert [x is not None for x in found] == [False] * len(encoders) + [True] * len(probe)
    found = torch.autograd.grad(losses['loss_contrast'], encoders + probe, allow_unused=True)
    assert [x is not None for x in found] == [True] * len(encoders) + [False] * len(probe)


def test_the_probe_is_linear_in_the_averages_of_what_the_mask_allows():
    method, batch = Contrastive(TASKS['faces']).eval(), batch_of(TASKS['faces'])
    with torch.no_grad():
        maps = method.encode(batch.inputs)
        (layer,) = method.probe.layers
        means = [maps[n][0].mean((2, 3)) * on[:, None] for n, on in zip(maps, batch.mask.T)]  # noqa: B905
        expected = torch.cat(means, 1) @ layer.weight[:, :, 0, 0].T + layer.bias
        torch.testing.assert_close(method.decode(maps, batch.mask), expected)


def test_one_modality_and_a_temperature_of_zero_are_refused():
    task = TASKS['faces']
    with pytest.raises(UserError, match='contrastive on toy: expected two modalities or more'):
        Contrastive(dataclasses.replace(task, modalities=task.modalities[:1]))
    with pytest.raises(UserError, match='temperature: expected more than 0, found 0'):
        Contrastive(task, temperature=0)
