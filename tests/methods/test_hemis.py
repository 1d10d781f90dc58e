"""HeMIS against NumPy's moments of the modalities that are there."""

import dataclasses

import numpy as np
import pytest
import torch
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.missing import subset_masks
from methods.common.moments import moments
from methods.common.networks import masked
from methods.hemis import HeMIS

MASKS = torch.from_numpy(subset_masks(3))
ESTIMATORS = {'population': 0, 'sample': 1}
KINDS = ['faces', 'mixed', 'vectors', 'rooms']


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def maps_of(count=3, dtype=torch.float32):
    """Maps of `count` modalities, zero where absent, one sample per subset."""
    maps = torch.randn(count, len(MASKS), 4, 5, 3).to(dtype)
    return [x * MASKS[:, m, None, None, None] for m, x in enumerate(maps)]


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_moments_are_numpy_s_over_the_present_modalities(estimator):
    maps = maps_of()
    mean, variance = moments(maps, MASKS, estimator)
    for b, mask in enumerate(MASKS.numpy()):
        there = np.stack([x[b].numpy() for x, on in zip(maps, mask, strict=True) if on])
        np.testing.assert_allclose(mean[b], there.mean(0), rtol=1e-5, atol=1e-6)
        ddof = ESTIMATORS[estimator] if mask.sum() > 1 else 0
        np.testing.assert_allclose(variance[b], there.var(0, ddof=ddof), rtol=1e-4, atol=1e-6)


def test_the_sample_variance_is_n_over_n_minus_1_of_the_population_s():
    maps, several = maps_of(), MASKS.sum(1) > 1
    population, sample = (moments(maps, MASKS, e)[1][several] for e in ESTIMATORS)
    n = MASKS.sum(1)[several].view(-1, 1, 1, 1)
    torch.testing.assert_close(sample, population * n / (n - 1))


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('official', [False, True])
def test_one_modality_has_no_variance_and_a_finite_gradient(estimator, official):
    maps = [x.requires_grad_() for x in maps_of()]
    mean, variance = moments(maps, MASKS, estimator, official)
    for b in range(3):  # the single modalities come first
        assert torch.equal(mean[b], maps[int(MASKS[b].int().argmax())][b])
        assert not variance[b].any()
    gradients = torch.autograd.grad(variance.sum(), maps)
    assert all(g.isfinite().all() and not g[:3].any() for g in gradients)
    assert all(g[-1].any() for g in gradients)


def test_modalities_that_agree_have_no_variance():
    shared = torch.randn(len(MASKS), 4, 5, 3)
    maps = [shared * MASKS[:, m, None, None, None] for m in range(3)]
    mean, variance = moments(maps, MASKS)
    torch.testing.assert_close(mean, shared)
    torch.testing.assert_close(variance, torch.zeros_like(shared), rtol=0, atol=1e-12)


@pytest.mark.parametrize('official', [False, True])
def test_moments_do_not_depend_on_the_order_of_modalities(official):
    maps, order = maps_of(), [2, 0, 1]
    expected = moments(maps, MASKS, official=official)
    found = moments([maps[m] for m in order], MASKS[:, order], official=official)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_official_variance_counts_absent_modalities_as_zeros():
    maps = maps_of()
    (mean, variance), (mean_, official) = (moments(maps, MASKS, official=o) for o in (False, True))
    assert torch.equal(mean, mean_)
    for b, mask in enumerate(MASKS):
        k = int(mask.sum())
        excess = (3 - k) * mean[b] ** 2 / k if k > 1 else torch.zeros_like(mean[b])
        torch.testing.assert_close(official[b] - variance[b], excess, rtol=1e-4, atol=1e-6)
    two = MASKS.sum(1) == 2
    assert (official[two] - variance[two]).abs().max() > 0.1


def test_half_precision_maps_get_moments_in_single_precision():
    maps = maps_of(dtype=torch.bfloat16)
    for found, expected in zip(
        moments(maps, MASKS), moments([x.float() for x in maps], MASKS), strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


@pytest.mark.parametrize('kind', KINDS)
def test_the_decoder_receives_both_moments_of_every_scale(kind):
    task, net = TASKS[kind], HeMIS(TASKS[kind]).eval()
    batch = batch_of(task)
    features = net.encode(batch.inputs)
    fused = net.fusion(features, batch.mask)
    for s, maps in enumerate(masked(features, batch.mask, task.names)):
        stacked = torch.stack(maps).double().detach().numpy()
        keep = np.broadcast_to(batch.mask.T.numpy()[:, :, None, None, None], stacked.shape)
        mean = stacked.mean(0, where=keep)
        joined = np.concatenate([mean, stacked.var(0, where=keep)], 1)
        expected = torch.from_numpy(joined).float()
        if task.kind == 'segmentation':
            expected = net.fusion.reduce[s](expected)
        torch.testing.assert_close(fused[s], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(net.decode(features, batch.mask), net.decoder(fused))


def test_the_network_has_the_decoder_s_size_whatever_the_number_of_modalities():
    task = TASKS['faces']
    fewer = dataclasses.replace(task, modalities=task.modalities[:2])
    sizes = [sum(p.numel() for p in HeMIS(t).decoder.parameters()) for t in (task, fewer)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize('kind', KINDS)
def test_the_variants_differ_only_where_several_but_not_all_are_present(kind):
    task, nets = TASKS[kind], []
    for variant in ('paper', 'official'):
        torch.manual_seed(3)
        nets.append(HeMIS(task, variant=variant).eval())
    masks = torch.from_numpy(subset_masks(len(task.names)))
    batch = batch_of(task, len(masks))
    features = nets[0].encode(batch.inputs)
    paper, official = (net.fusion(features, masks) for net in nets)
    sizes = masks.sum(1)
    partly = (sizes > 1) & (sizes < len(task.names))
    for p, o in zip(paper, official, strict=True):
        torch.testing.assert_close(p[~partly], o[~partly])
        moved = (p - o)[partly].abs().amax((1, 2, 3))
        assert (moved > 0.01 * p[partly].abs().amax((1, 2, 3))).all()


@pytest.mark.parametrize('options', [{'estimator': 'populatoin'}, {'variant': 'oficial'}])
def test_a_misspelt_option_is_named_with_the_nearest_one(options):
    with pytest.raises(UserError, match="of hemis.*did you mean '(population|official)'"):
        HeMIS(TASKS['faces'], **options)


def test_its_own_loss_is_cross_entropy_and_the_dice_of_squared_probabilities():
    task = dataclasses.replace(TASKS['rooms'], loss='own')
    net, logits = HeMIS(task), 2 * torch.randn(2, 3, 32, 32)
    target = torch.randint(2, (2, 32, 32))  # nothing of the last class
    p = logits.double().softmax(1).numpy()
    scores = []
    for b in range(2):
        for k in range(3):
            y = target[b].numpy() == k
            size = (p[b, k] ** 2).sum() + y.sum()
            scores.append((2 * p[b, k][y].sum() + 1e-5) / (size + 1e-5))
    entropy = -np.log(np.take_along_axis(p, target.numpy()[:, None], 1)).mean()
    expected = entropy + 1 - np.mean(scores)
    assert net.task_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)
