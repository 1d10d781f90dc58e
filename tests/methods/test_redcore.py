"""RedCore: its terms against loops and closed forms, its outer problem against a simulation."""

import copy
import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as D  # noqa: N812
import torch.nn.functional as F  # noqa: N812
from mmengine.optim import OptimWrapper
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.missing import subset_masks
from methods.common.networks import masked
from methods.common.reconstruction import CascadeAutoencoder, layers
from methods.redcore import (
    RedCore,
    divergence,
    draw,
    relative_advantage,
    supervise,
)

KINDS = ('faces', 'rooms')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def redcore(kind='faces', **options):
    return RedCore(dataclasses.replace(TASKS[kind], loss='ce'), **options)


def batch(kind='faces', count=7, **fields):
    """Samples with every subset in turn."""
    masks = torch.from_numpy(subset_masks(len(TASKS[kind].names)))
    mask = masks.repeat(count, 1)[:count]
    return batch_of(TASKS[kind], count)._replace(**{'mask': mask, **fields})


def watch(method, *names):
    """Records arguments and results of the method's own functions of these names."""
    calls = {}

    def spied(name):
        original = getattr(method, name)

        def spy(*args):
            calls.setdefault(name, []).append((args, original(*args)))
            return calls[name][-1][1]

        return spy

    for name in names:
        setattr(method, name, spied(name))
    return calls


def array(x):
    return x.detach().numpy().astype(float)


def double(features):
    return {name: array(x) for name, x in features.items()}


def codes_of(method, data, mask):
    return method.codes(masked(method.encode(data.inputs), mask, method.task.names)[-1])


# Codes and imagination


def test_every_position_is_imagined_independently():
    net, x = CascadeAutoencoder(6, 4, outputs=4), torch.randn(2, 6, 3, 3)
    alone = torch.stack(
        [net(x[:, :, i, j][:, :, None, None])[0] for i in range(3) for j in range(3)]
    )
    expected = alone[..., 0, 0].permute(1, 2, 0).unflatten(2, (3, 3))
    torch.testing.assert_close(net(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_codes_are_linear_in_the_sigmoid_of_features_which_sequences_have_one_of():
    method, data = redcore('sequences').eval(), batch('sequences')
    features = method.encode(data.inputs)
    codes = codes_of(method, data, torch.ones_like(data.mask))
    for name, (mean, log_variance) in codes.items():
        weight, bias = (array(p) for p in method.heads[name].parameters())
        pooled = array(features[name][-1])[:, :, 0, 0]
        expected = 1 / (1 + np.exp(-pooled)) @ weight[:, :, 0, 0].T + bias
        found = np.concatenate([array(mean), array(log_variance)], 1)[:, :, 0, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_of_codes_and_imagination_begin_with_kaiming_weights():
    torch.manual_seed(0)
    method = RedCore(dataclasses.replace(TASKS['faces'], width=32))
    for module in (*method.imagine.modules(), *method.heads.modules()):
        if isinstance(module, torch.nn.Conv2d):
            expected = (2 / module.in_channels) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert not module.bias.any()


def test_chains_begin_without_biases():
    assert not any(m.bias.any() for m in layers((4, 8, 2), torch.nn.ReLU) if hasattr(m, 'bias'))


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_missing_has_the_code_of_zeros(kind):
    method, data = redcore(kind).eval(), batch(kind)
    codes = codes_of(method, data, data.mask)
    for column, (name, (mean, log_variance)) in enumerate(codes.items()):
        head = method.heads[name]
        found = torch.cat([mean, log_variance], 1)[~data.mask[:, column]]
        constant = head(torch.full((1, head.in_channels, *mean.shape[2:]), 0.5))
        torch.testing.assert_close(found, constant.expand_as(found))


@pytest.mark.parametrize('kind', KINDS)
def test_a_code_is_imagined_from_the_others_alone(kind):
    method, data = redcore(kind), batch(kind)
    codes = codes_of(method, data, data.mask)
    z = {name: mean.detach() for name, (mean, _) in codes.items()}
    before = method.imagined(z)
    for changed in z:
        after = method.imagined({n: x + 1 if n == changed else x for n, x in z.items()})
        assert [torch.equal(before[n], after[n]) for n in z] == [n == changed for n in z]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_codes_are_completed_by_imagination_only_where_they_are_missing(kind, variant):
    method, data = redcore(kind, variant=variant), batch(kind)
    calls = watch(method, 'imagined', 'complete', 'fuse', 'reconstruction')
    method.loss(data)
    ((z,), imagined) = calls['imagined'][0]
    ((maps, _), _) = calls['fuse'][0]
    for column, name in enumerate(data.inputs):
        for i, there in enumerate(data.mask[:, column].tolist()):
            source = z if there else imagined
            assert torch.equal(maps[name][-1][i], source[name][i])
            # Finer maps have no code: they are zero, as in modality dropout.
            assert all(x[i].any() == there for x in maps[name][:-1])
    assert len(maps[name]) == (4 if kind == 'rooms' else 1)
    # What is deployed and seen is also what is to be imagined.
    ((_, targets, _), _) = calls['reconstruction'][0]
    for column, name in enumerate(data.inputs):
        seen = data.mask[:, column]
        assert torch.equal(targets[name][seen], z[name][seen])


def test_codes_are_samples_of_their_gaussians():
    mean, log_variance = torch.randn(2, 20, 30, 5, 5)
    both = [draw({'a': (mean, log_variance)})['a'] for _ in range(2)]
    one, other = ((array(z - mean) / np.exp(array(log_variance) / 2)).ravel() for z in both)
    assert scipy.stats.kstest(one, 'norm').pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


def test_a_training_step_uses_drawn_codes():
    method, data = redcore('vectors').eval(), batch('vectors')
    calls = watch(method, 'codes', 'imagined')
    for _ in range(2):
        method.loss(data)
    mean, _ = calls['codes'][0][1]['a']
    first, second = (args[0]['a'] for args, _ in calls['imagined'])
    assert (first != second).all()
    assert (first != mean).all()


# Terms


def test_divergence_is_twice_that_of_two_gaussians():
    mean, log_variance = torch.randn(50), torch.randn(50)
    p, q = D.Normal(mean, log_variance.exp().sqrt()), D.Normal(torch.zeros(50), torch.ones(50))
    torch.testing.assert_close(divergence(mean, log_variance), 2 * D.kl_divergence(p, q))
    assert not divergence(torch.zeros(3), torch.zeros(3)).any()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_data_terms_count_what_is_there(kind, variant):
    """The divergence and R by loops, over what data have or what the step's mask shows."""
    available = batch(kind).mask.flip(0) | batch(kind).mask
    method, data = redcore(kind, variant=variant, kl=0.3), batch(kind, available=available)
    calls = watch(method, 'imagined', 'codes', 'reconstruction')
    terms = method.loss(data)
    present = data.available if variant == 'paper' else data.mask
    assert not available.all()
    assert not torch.equal(data.available, data.mask)
    codes = calls['codes'][-1][1]
    ((imagined, targets, _), errors) = calls['reconstruction'][0]
    imagined, targets = double(imagined), double(targets)
    kl = 0.0
    for column, name in enumerate(data.inputs):
        rows = np.flatnonzero(present[:, column].numpy())
        squared = 0.0
        for i in rows:
            mean, log_variance = (array(x[i]) for x in codes[name])
            kl += 128 * (mean**2 + np.exp(log_variance) - 1 - log_variance).mean()
            squared += 128 * ((imagined[name][i] - targets[name][i]) ** 2).mean()
        assert errors[column].item() == pytest.approx(squared / len(rows), rel=1e-4)
    assert terms['loss_kl'].item() == pytest.approx(0.3 * kl / len(data.mask), rel=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_labels_supervise_the_fusion_and_every_modality_of_every_sample(kind):
    method, data = redcore(kind), batch(kind)
    calls = watch(method, 'fuse')
    terms = method.loss(data)
    ((maps, _), logits) = calls['fuse'][0]
    torch.testing.assert_close(terms['loss_task'], F.cross_entropy(logits, data.target))
    alone = [F.cross_entropy(method.unimodal[n](x), data.target) for n, x in maps.items()]
    torch.testing.assert_close(terms['loss_unimodal'], torch.stack(alone).sum())
    assert len(alone) == len(data.inputs)


@pytest.mark.parametrize('kind', KINDS)
def test_labels_train_the_imagination_of_a_modality_that_is_always_missing(kind):
    method = redcore(kind)
    absent = method.task.names[0]
    there = torch.ones_like(batch(kind).mask)
    there[:, 0] = False
    data = batch(kind, mask=there, available=there)
    data.inputs[absent].requires_grad_()
    terms = method.loss(data)
    (terms['loss_task'] + terms['loss_unimodal']).backward()
    for module in (method.imagine[absent], method.unimodal[absent]):
        assert all(p.grad is not None for p in module.parameters())
        assert any(p.grad.any() for p in module.parameters())
    assert data.inputs[absent].grad is None or not data.inputs[absent].grad.any()


@pytest.mark.parametrize('kind', KINDS)
def test_a_modality_that_the_batch_lacks_leaves_all_finite_and_no_reconstruction(kind):
    method = redcore(kind)
    there = torch.ones_like(batch(kind).mask)
    there[:, 1] = False
    data = batch(kind, mask=there, available=there)
    calls = watch(method, 'reconstruction')
    total, terms = method.parse_losses(method.loss(data))
    total.backward()
    assert calls['reconstruction'][0][1][1] == 0
    assert calls['reconstruction'][0][1][0] > 0
    assert all(v.isfinite() for v in terms.values())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert method.weights.isfinite().all()


@pytest.mark.parametrize('kind', KINDS)
def test_losses_do_not_depend_on_values_in_training_gaps(kind):
    data = batch(kind)
    data = data._replace(available=data.mask)
    noisy = {
        name: torch.where(
            data.available[:, m].view(-1, *[1] * (x.ndim - 1)), x, 1e3 * torch.randn_like(x)
        )
        for m, (name, x) in enumerate(data.inputs.items())
    }
    found = []
    for inputs in (data.inputs, noisy):
        torch.manual_seed(3)
        # The norms' running statistics, as the encoders see all rows.
        method = redcore(kind).eval()
        found.append(method.loss(data._replace(inputs=inputs)))
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('variant', 'two_sided'), [('paper', False), ('official', True)])
def test_only_the_released_code_moves_the_targets(variant, two_sided):
    method = redcore('vectors', variant=variant)
    imagined, targets = (
        {n: torch.randn(4, 8, 1, 1, requires_grad=True) for n in ('a', 'b')} for _ in range(2)
    )
    method.reconstruction(imagined, targets, torch.ones(4, 2, dtype=torch.bool)).sum().backward()
    assert all(x.grad.any() for x in imagined.values())
    assert all((x.grad is not None) == two_sided for x in targets.values())


@pytest.mark.parametrize('interval', [1, 3])
def test_updated_weights_multiply_the_imagination_alone(interval):
    """The weights are those after the update of the very step, as in the released code."""
    found = {}
    for weights in ((1.0, 1.0, 1.0), (0.2, 0.5, 3.0)):
        torch.manual_seed(5)
        method, data = redcore(imagination=0.4, interval=interval), batch()
        method.weights.copy_(torch.tensor(weights))
        method.steps.fill_(7)
        calls = watch(method, 'reconstruction')
        found[weights] = method.loss(data)
        errors = array(calls['reconstruction'][0][1])
        b = np.array(weights)
        if interval == 1:
            mean = 0.7 * errors
            b = np.maximum(b - 0.1 * (mean.mean() - mean) / mean.mean(), 0.1)
            b /= np.sqrt((b**2).sum())
        expected = 0.4 * (b * errors).sum()
        assert found[weights]['loss_imagination'].item() == pytest.approx(expected, rel=1e-5)
        logged = [found[weights][f'weight_{n}'].item() for n in data.inputs]
        np.testing.assert_allclose(logged, b, rtol=1e-5)
    one, other = found.values()
    for name in ('loss_task', 'loss_unimodal', 'loss_kl'):
        assert torch.equal(one[name], other[name])
    assert not any(one[f'weight_{n}'].requires_grad for n in TASKS['faces'].names)


@pytest.mark.parametrize('kind', KINDS)
def test_the_gradient_of_every_network_is_clipped_by_itself(kind):
    method, data = redcore(kind), batch(kind)
    data = data._replace(inputs={n: 5 * x for n, x in data.inputs.items()})
    names, rate = method.task.names, 1e-4
    networks = {n: [method.encoders[n], method.heads[n]] for n in names}
    networks |= {f'imagine {n}': [method.imagine[n]] for n in names}
    networks |= {f'unimodal {n}': [method.unimodal[n]] for n in names}
    networks['fused'] = [method.fusion, method.decoder]
    held = {k: [p for m in modules for p in m.parameters()] for k, modules in networks.items()}
    assert {id(p) for ps in held.values() for p in ps} == {id(p) for p in method.parameters()}
    torch.manual_seed(1)
    before = copy.deepcopy(method)
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), rate))
    torch.manual_seed(2)
    method.train_step(data, wrapper)
    torch.manual_seed(2)
    before.parse_losses(before.loss(data))[0].backward()
    matching = dict(zip(map(id, method.parameters()), before.parameters(), strict=True))
    clipped = 0
    for parameters in held.values():
        was = [matching[id(p)] for p in parameters]
        norm = torch.stack([p.grad.norm() for p in was if p.grad is not None]).norm().item()
        clipped += norm > 1
        for p, old in zip(parameters, was, strict=True):
            if old.grad is not None:
                moved = (old - p).detach() / rate
                expected = old.grad / max(1, norm + 1e-6)
                torch.testing.assert_close(moved, expected, rtol=0.05, atol=2e-3)
    assert clipped
    assert not wrapper.optimizer._optimizer_step_pre_hooks


# The outer problem


def test_relative_advantage_sums_to_zero_and_does_not_depend_on_scale():
    errors = torch.rand(5) + 0.1
    advantage = relative_advantage(errors)
    assert advantage.sum().item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(relative_advantage(1e4 * errors), advantage)
    assert not relative_advantage(torch.full((3,), 2.0)).any()
    assert not relative_advantage(torch.zeros(3)).any()
    assert relative_advantage(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0.5, 0, -0.5]


def test_an_outer_step_moves_against_the_advantage_to_the_sphere():
    found = supervise(torch.ones(3), torch.tensor([0.5, 0.0, -0.5]), 0.15)
    expected = np.array([0.925, 1, 1.075])
    np.testing.assert_allclose(found, expected / np.sqrt((expected**2).sum()), rtol=1e-6)
    floored = supervise(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([1.0, 0.0, -1.0]), 5.0)
    expected = np.array([0.1, 0.9, 5.9])
    np.testing.assert_allclose(floored, expected / np.sqrt((expected**2).sum()), rtol=1e-6)


def simulated(sequence, rate, interval, memory, growth):
    """The outer problem as a plain loop in float64; yields means and weights after each step."""
    mean, b = np.zeros(sequence.shape[1]), np.ones(sequence.shape[1])
    for t, errors in enumerate(sequence):
        for m, error in enumerate(errors):
            if error:
                mean[m] = (1 - memory) * mean[m] + memory * error
        if growth and t % 500 == 0:
            rate *= 1.5
        if t % interval == 0:
            advantage = (mean.mean() - mean) / mean.mean()
            b = np.array([max(0.1, x) for x in b - rate * advantage])
            b /= np.sqrt(sum(b * b))
        yield mean.copy(), b.copy()


@pytest.mark.parametrize('variant', ['paper', 'official'])
@pytest.mark.parametrize('interval', [1, 3])
def test_the_outer_problem_follows_its_simulation(variant, interval):
    method = redcore(variant=variant, interval=interval, rate=0.02, memory=0.6)
    rng = np.random.default_rng(0)
    sequence = rng.random((510, 3)) * [1, 1.05, 1.1] + 0.5
    sequence[rng.random((510, 3)) < 0.1] = 0
    loop = simulated(sequence, 0.02, interval, 0.6, variant == 'official')
    for errors, (mean, weights) in zip(sequence, loop, strict=True):
        method.step(torch.tensor(errors, dtype=torch.float32))
        np.testing.assert_allclose(method.errors, mean, rtol=1e-4)
        np.testing.assert_allclose(method.weights, weights, rtol=2e-3, atol=2e-3)
    assert not np.allclose(weights, weights[0], atol=0.02)


@pytest.mark.parametrize('t', [1, 2, 5])
def test_the_mean_of_a_constant_error_has_its_closed_form(t):
    method = redcore(memory=0.7)
    for _ in range(t):
        method.step(torch.full((3,), 4.0))
    np.testing.assert_allclose(method.errors, 4 * (1 - 0.3**t), rtol=1e-5)


def test_weights_move_only_when_due_and_never_leave_the_sphere():
    method, before = redcore(interval=3), torch.ones(3)
    for t in range(10):
        method.step(torch.rand(3) * torch.tensor([1.0, 2.0, 3.0]))
        assert torch.equal(method.weights, before) == (t % 3 != 0)
        assert method.weights.norm().item() == pytest.approx(1)
        before = method.weights.clone()


def test_what_is_imagined_worse_is_supervised_more():
    method = redcore()
    for _ in range(4):
        method.step(torch.tensor([1.0, 3.0, 2.0]))
    assert method.weights.argsort().tolist() == [0, 2, 1]
    assert method.weights[1] > 3**-0.5


def test_a_loss_takes_the_outer_step_and_keeps_no_graph():
    method = redcore()
    for t in range(1, 5):
        terms = method.loss(batch())
        method.parse_losses(terms)[0].backward()
        assert method.steps == t
        assert (method.errors > 0).all()
        assert not method.errors.requires_grad
        assert not method.weights.requires_grad


def test_without_a_rate_all_modalities_stay_equal():
    method = redcore(rate=0.0)
    for _ in range(4):
        method.step(torch.tensor([1.0, 3.0, 2.0]))
    np.testing.assert_allclose(method.weights, 3**-0.5, rtol=1e-6)


def test_a_long_run_of_the_released_schedule_stays_finite():
    method = redcore(variant='official')
    method.steps.fill_(500 * 10_000)
    for _ in range(6):
        method.step(torch.tensor([1.0, 1.1, 1.2]))
    assert method.weights.norm().item() == pytest.approx(1)


def test_a_checkpoint_keeps_the_supervision_weights():
    method, resumed = redcore(), redcore()
    for _ in range(4):
        method.step(torch.tensor([1.0, 3.0, 2.0]))
    resumed.load_state_dict(method.state_dict())
    for network in (method, resumed):
        network.step(torch.tensor([2.0, 1.0, 1.0]))
    for name in ('errors', 'weights', 'steps'):
        assert torch.equal(getattr(resumed, name), getattr(method, name))


# Deployment


@pytest.mark.parametrize('kind', KINDS)
def test_the_deployed_network_completes_means_and_never_draws(kind):
    method, data = redcore(kind).eval(), batch(kind)
    state = torch.get_rng_state()
    logits = method.predict(data.inputs, data.mask)
    assert torch.equal(torch.get_rng_state(), state)
    codes = codes_of(method, data, data.mask)
    # Noise of no variance leaves the mean.
    certain = {n: (mean, torch.full_like(mean, -300)) for n, (mean, _) in codes.items()}
    method.codes, method.official = lambda *_: certain, True
    torch.testing.assert_close(method.predict(data.inputs, data.mask), logits)


def test_the_released_code_draws_in_testing():
    method, data = redcore(variant='official').eval(), batch()
    first, second = (method.predict(data.inputs, data.mask) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-4)


def test_complete_samples_use_no_imagination():
    method, data = redcore().eval(), batch()
    everything = torch.ones_like(data.mask)
    before = method.predict(data.inputs, everything)
    for p in method.imagine.parameters():
        p.data.normal_()
    assert torch.equal(method.predict(data.inputs, everything), before)
    assert not torch.equal(method.predict(data.inputs, data.mask), before)


def test_codes_and_errors_stay_in_float32_under_autocast():
    method, data = redcore(), batch()
    calls = watch(method, 'codes', 'reconstruction', 'fuse')
    with torch.autocast('cpu', torch.bfloat16):
        terms = method.loss(data)
    assert calls['codes'][0][1]['rgb'][0].dtype == torch.float32
    assert calls['reconstruction'][0][1].dtype == torch.float32
    assert calls['fuse'][0][1].dtype == torch.bfloat16
    assert all(v.isfinite() for v in terms.values())


@pytest.mark.parametrize('options', [{'variant': 'papers'}, {'interval': 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        redcore(**options)


def test_a_single_modality_is_refused():
    faces = TASKS['faces']
    alone = type(faces)('toy', faces.kind, faces.modalities[:1], faces.classes, 'ACER', 4)
    with pytest.raises(UserError, match='rgb'):
        RedCore(alone)
