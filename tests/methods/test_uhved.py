"""U-HVED against densities on a grid, torch.distributions and loops over subsets."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from learning import lowers
from tasks import TASKS, batch_of
from torch.distributions import Normal, kl_divergence

from benchmark.method import IGNORE, Batch
from benchmark.missing import subset_masks
from methods.common.losses import squared_dice
from methods.common.reconstruction import ImageDecoder
from methods.uhved import (
    UHVED,
    divergence,
    experts,
    product,
    subset_divergence,
)

KINDS = ['faces', 'mixed', 'vectors', 'rooms']
MASKS = torch.from_numpy(subset_masks(3))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def maps_of(count=3, samples=7):
    """Means and log-variances of `count` modalities, two latent channels on a 2 x 3 map."""
    return list(torch.randn(count, samples, 4, 2, 3))


def normal(gaussian):
    mean, log_variance = gaussian
    return Normal(mean.double(), (log_variance.double() / 2).exp())


def test_the_posterior_is_the_normalised_product_of_densities_and_the_prior_s():
    maps = maps_of()
    mean, log_variance = product(experts(maps, MASKS))
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for b, c in itertools.product(range(len(MASKS)), range(2)):
        log_density = Normal(0, 1).log_prob(z)
        for m in MASKS[b].nonzero()[:, 0]:
            mu, lv = (maps[m][b, k, 1, 2].double() for k in (c, 2 + c))
            log_density = log_density + Normal(mu, (lv / 2).exp()).log_prob(z)
        weight = log_density.softmax(0)
        expected = (weight * z).sum()
        variance = (weight * (z - expected) ** 2).sum()
        assert mean[b, c, 1, 2].item() == pytest.approx(expected.item(), abs=1e-4)
        assert log_variance[b, c, 1, 2].exp().item() == pytest.approx(variance.item(), rel=1e-3)


def test_without_experts_the_posterior_is_the_prior():
    mean, log_variance = product(experts(maps_of(), torch.zeros_like(MASKS)))
    assert not mean.any()
    assert log_variance.abs().max() < 2e-7


def test_no_modality_more_makes_the_posterior_less_certain():
    maps = maps_of(samples=1)
    found = {tuple(mask.tolist()): product(experts(maps, mask[None]))[1] for mask in MASKS}
    for a, b in itertools.product(found, repeat=2):
        if a != b and all(x <= y for x, y in zip(a, b, strict=True)):
            assert (found[b] < found[a]).all()


def test_the_order_of_the_experts_does_not_matter():
    maps, order = maps_of(), [2, 0, 1]
    found = product(experts([maps[m] for m in order], MASKS[:, order]))
    for a, b in zip(found, product(experts(maps, MASKS)), strict=True):
        torch.testing.assert_close(a, b)


def test_an_absent_expert_is_excluded_whatever_its_values():
    maps = maps_of()
    expected = product(experts(maps, MASKS))
    sure = [torch.where(MASKS[:, m, None, None, None], x, -40.0) for m, x in enumerate(maps)]
    for a, b in zip(product(experts(sure, MASKS)), expected, strict=True):
        assert torch.equal(a, b)


def test_experts_of_half_precision_maps_are_in_single_precision():
    maps = [x.bfloat16() for x in maps_of()]
    found, expected = (experts(each, MASKS) for each in (maps, [x.float() for x in maps]))
    for a, b in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_extreme_log_variances_stay_finite_with_their_gradients():
    maps = [x.requires_grad_() for x in (300 * torch.randn(3, len(MASKS), 4, 2, 3)).unbind()]
    value = subset_divergence(maps, MASKS, torch.ones_like(MASKS))
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, maps))


def guarded(means, log_variances):
    """Product of experts and prior with the guards of 1e-7, in float64."""
    precisions = [1 / (np.exp(lv) + 1e-7) for lv in log_variances]
    total = 1 + sum(precisions)
    mean = sum(t * mu for t, mu in zip(precisions, means, strict=True)) / total
    return mean, np.log(1 / total + 1e-7)


def test_variances_have_the_guards_of_the_released_code():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((2, 6))
    log_variances = np.array([[-50, -30, -18, -12, 0, 30], [-40, 10, -16, 50, -14, 1]], float)
    maps = torch.from_numpy(np.concatenate([means, log_variances], 1)).float()[
        :, None, :, None, None
    ]
    everyone = torch.ones(1, 2, dtype=torch.bool)
    mean, log_variance = guarded(means, log_variances)
    found = product(experts(list(maps), everyone))
    for a, b in zip(found, (mean, log_variance), strict=True):
        np.testing.assert_allclose(a.flatten(), b, rtol=1e-5, atol=1e-6)
    other_mean, other = guarded(means[:1], log_variances[:1])
    error = np.exp(log_variance) + (mean - other_mean) ** 2
    kl = 0.5 * (other - log_variance - 1 + error / (np.exp(other) + 1e-7)).mean()
    q = product(experts(list(maps[:1]), everyone[:, :1]))
    assert divergence(found, q).item() == pytest.approx(kl, rel=1e-4)


def test_a_class_that_is_absent_and_predicted_absent_has_the_best_dice():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.tensor([50.0, 0.0, -50.0])[None, :, None, None].expand(1, 3, 4, 4)
    assert squared_dice(logits, target).item() == pytest.approx(0, abs=1e-5)


def test_the_divergence_is_that_of_torch_distributions():
    p, q = (tuple(torch.randn(2, 5, 3, 4, 2)) for _ in range(2))
    expected = kl_divergence(normal(p), normal(q)).mean((1, 2, 3)).float()
    torch.testing.assert_close(divergence(p, q), expected)
    prior = kl_divergence(normal(p), Normal(0.0, 1.0)).mean((1, 2, 3)).float()
    torch.testing.assert_close(divergence(p, None), prior)
    torch.testing.assert_close(divergence(p, p), torch.zeros(5), rtol=0, atol=1e-6)


def naive_subset_divergence(maps, mask, available):
    """One sample at a time: two means over the subsets of what the sample has."""
    values = []
    for b in range(len(mask)):
        halves = [x[b].double().chunk(2) for x in maps]

        def posterior(chosen, halves=halves):
            there = list(itertools.compress(halves, chosen))
            precision = 1 + sum((-lv).exp() for _, lv in there)
            return Normal(sum(mu / lv.exp() for mu, lv in there) / precision, precision.rsqrt())

        own = [s for s in MASKS.tolist() if not any(np.greater(s, available[b].tolist()))]
        others = [posterior(s) for s in own if s != mask[b].tolist()]
        between = [kl_divergence(posterior(mask[b].tolist()), q).mean().item() for q in others]
        prior = [kl_divergence(posterior(s), Normal(0.0, 1.0)).mean().item() for s in own]
        values.append(np.mean(prior) + (np.mean(between) if between else 0))
    return np.mean(values)


@pytest.mark.parametrize('gaps', [False, True])
def test_the_divergence_covers_the_subsets_of_what_a_sample_has(gaps):
    maps = maps_of()
    available = MASKS.flip(0) | MASKS if gaps else torch.ones_like(MASKS)
    if gaps:
        available[0] = MASKS[0]  # a single modality: no other subset, the prior alone
        maps = [x.where(available[:, m, None, None, None], 0.0) for m, x in enumerate(maps)]
    assert gaps != available.all()
    expected = naive_subset_divergence(maps, MASKS, available)
    found = subset_divergence(maps, MASKS, available)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_dice_is_numpy_s_without_the_ignored_pixels():
    logits = 3 * torch.randn(4, 3, 6, 5)
    target = torch.randint(2, (4, 6, 5))  # nothing of the last class
    target[:, 2:4] = IGNORE
    p = logits.double().softmax(1).numpy()
    scores = []
    for b, k in itertools.product(range(4), range(3)):
        counted = target[b].numpy() != IGNORE
        inside, own = p[b, k][counted], (target[b].numpy() == k)[counted]
        size = (inside**2).sum() + own.sum()
        scores.append((2 * inside[own].sum() + 1e-5) / (size + 1e-5))
    assert squared_dice(logits, target).item() == pytest.approx(1 - np.mean(scores), rel=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_predictions_decode_the_mean_without_drawing(kind):
    task, net = TASKS[kind], UHVED(TASKS[kind])
    batch = batch_of(task)
    features = net.encode(batch.inputs)
    means = tuple(mean for mean, _ in net.posteriors(features, batch.mask))
    for mode in (True, False):
        net.train(mode)
        before = torch.get_rng_state()
        found = net.decode(features, batch.mask)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(found, net.decoder(means))


def test_training_decodes_samples_of_the_posterior():
    task = TASKS['faces']
    net, batch = UHVED(task).eval(), batch_of(task)
    decoded = []
    net.decoder.register_forward_pre_hook(lambda _, latents: decoded.append(latents[0][0]))
    net.loss(batch)
    mean, log_variance = net.posteriors(net.encode(batch.inputs), batch.mask)[0]
    noise = (decoded[0] - mean) / (log_variance / 2).exp()
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert noise.mean().item() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize('kind', ['faces', 'vectors', 'rooms'])
def test_running_statistics_are_those_of_the_decoded_means(kind):
    method, batch = UHVED(TASKS[kind]).train(), batch_of(TASKS[kind])
    for dropout in filter(lambda m: isinstance(m, torch.nn.Dropout), method.modules()):
        dropout.p = 0.0  # drops other units in each pass
    twin, sampling = copy.deepcopy(method), copy.deepcopy(method)
    method.loss(batch)
    twin.decode(twin.encode(batch.inputs), batch.mask)
    posteriors = sampling.posteriors(sampling.encode(batch.inputs), batch.mask)
    sampling.decoder(tuple(Normal(m, (v / 2).exp()).sample() for m, v in posteriors))
    found, expected, other = (dict(m.decoder.named_buffers()) for m in (method, twin, sampling))
    assert found
    assert all(torch.equal(found[k], expected[k]) for k in found)
    assert not all(torch.allclose(found[k], other[k], rtol=1e-2) for k in found)
    method.decode(method.encode(batch.inputs), batch.mask)  # still learning
    assert not all(torch.equal(x, expected[k]) for k, x in method.decoder.named_buffers())


@pytest.mark.parametrize('kind', KINDS)
def test_every_input_is_decoded_at_its_own_size(kind):
    task, net = TASKS[kind], UHVED(TASKS[kind])
    batch = batch_of(task)
    latents = [m for m, _ in net.posteriors(net.encode(batch.inputs), batch.mask)]
    for name, x in batch.inputs.items():
        assert net.reconstruct[name](latents).shape == x.shape


@pytest.mark.parametrize('side', [(15, 22), (64, 48)])
@pytest.mark.parametrize('scales', [1, 4])
def test_images_of_any_size_are_decoded_from_every_scale(side, scales):
    channels = (8, 16, 32, 64)[:scales]
    net = ImageDecoder(channels, (3, *side)).eval()
    latents = [
        torch.randn(2, c, -(-side[0] // 2**k), -(-side[1] // 2**k), requires_grad=True)
        for k, c in enumerate(channels, 2)
    ]
    image = net(latents)
    assert image.shape == (2, 3, *side)
    assert all(g.any() for g in torch.autograd.grad(image.square().sum(), latents))


@pytest.mark.parametrize('kind', KINDS)
def test_all_inputs_are_reconstructed_whatever_the_mask(kind):
    task, net = TASKS[kind], UHVED(TASKS[kind]).eval()
    batch = batch_of(task)
    latents = [m for m, _ in net.posteriors(net.encode(batch.inputs), batch.mask)]
    errors = {
        name: ((net.reconstruct[name](latents) - x) ** 2).flatten(1).mean(1)
        for name, x in batch.inputs.items()
    }
    expected = torch.stack([e.mean() for e in errors.values()]).mean()
    torch.testing.assert_close(net.reconstruction_error(latents, batch), expected)
    # With gaps, what does not exist is nothing to reconstruct.
    last = task.names[-1]
    available = batch.available.clone()
    available[:4, -1] = False
    kept = torch.cat([e[4:] if name == last else e for name, e in errors.items()])
    found = net.reconstruction_error(latents, batch._replace(available=available))
    torch.testing.assert_close(found, kept.mean())


@pytest.mark.parametrize('kind', KINDS)
def test_the_loss_is_the_sum_of_its_weighted_terms(kind):
    task, batch = TASKS[kind], batch_of(TASKS[kind])
    net, plain = UHVED(task).eval(), UHVED(task, divergence=1.0, reconstruction=1.0).eval()
    plain.load_state_dict(net.state_dict())
    losses = []
    for each in (net, plain):
        torch.manual_seed(5)
        losses.append(each.loss(batch))
    weighted, terms = losses
    for name, term in terms.items():
        weight = 0.1 if name in ('loss_divergence', 'loss_reconstruction') else 1.0
        torch.testing.assert_close(weighted[name], weight * term)
    features = net.encode(batch.inputs)
    scales = zip(*(features[name] for name in task.names), strict=True)
    divergences = [subset_divergence(list(m), batch.mask, batch.available) for m in scales]
    torch.testing.assert_close(terms['loss_divergence'], torch.stack(divergences).mean())


def test_dice_is_counted_once():
    target = torch.randint(3, (2, 32, 32))
    logits = torch.randn(2, 3, 32, 32)
    entropy = torch.nn.functional.cross_entropy(logits, target)
    for metric in ('mIoU', 'Dice'):
        task = dataclasses.replace(TASKS['rooms'], metric=metric, loss='own')
        found = UHVED(task).task_loss(logits, target) - entropy
        torch.testing.assert_close(found, squared_dice(logits, target))
    losses = UHVED(TASKS['rooms']).loss(batch_of(TASKS['rooms']))
    assert set(losses) == {'loss_task', 'loss_divergence', 'loss_reconstruction'}


def test_losses_do_not_depend_on_values_that_training_gaps_hide():
    task = TASKS['rooms']
    net, batch = UHVED(task).eval(), batch_of(task)
    available = batch.available.clone()
    available[:3, 1] = False
    mask = torch.where(available[:, 1:], batch.mask, torch.tensor([True, False]))
    losses = []
    for fill in (0.0, 7.0):
        inputs = {name: x.clone() for name, x in batch.inputs.items()}
        inputs['depth'][:3] = fill
        torch.manual_seed(2)
        losses.append(net.loss(Batch(inputs, available, mask, batch.target, batch.ids)))
    for name, value in losses[0].items():
        assert value.isfinite()
        assert torch.equal(value, losses[1][name])


@pytest.mark.parametrize('kind', KINDS)
def test_the_decoders_of_inputs_serve_training_alone(kind):
    task, net = TASKS[kind], UHVED(TASKS[kind]).eval()
    batch = batch_of(task)
    expected = net.predict(batch.inputs, batch.mask)
    del net.reconstruct
    assert torch.equal(net.predict(batch.inputs, batch.mask), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_half_precision_changes_the_losses_by_rounding_alone(kind):
    task, net = TASKS[kind], UHVED(TASKS[kind]).eval()
    batch = batch_of(task)
    losses = []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            losses.append(net.loss(batch))
    for name, value in losses[0].items():
        assert losses[1][name].dtype == torch.float32
        torch.testing.assert_close(losses[1][name], value, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_training_lowers_the_loss_and_the_reconstruction_error(kind):
    task, net = TASKS[kind], UHVED(TASKS[kind])
    masks = torch.from_numpy(subset_masks(len(task.names)))
    batch = batch_of(task, 8)._replace(mask=masks[torch.arange(8) % len(masks)])
    if task.kind == 'segmentation':  # large squares instead of noise
        squares = torch.randint(len(task.classes), (8, 4, 4))
        batch = batch._replace(target=squares.repeat_interleave(8, 1).repeat_interleave(8, 2))
    for name, x in batch.inputs.items():
        shown = batch.target.view(8, *[1] * (x.ndim - batch.target.ndim), *batch.target.shape[1:])
        batch.inputs[name] = 0.1 * x + shown
    assert lowers(net, batch, 5e-3, 20, ('loss_task', 'loss_reconstruction', 'loss'))
