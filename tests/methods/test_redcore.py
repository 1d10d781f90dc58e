"""RedCore: its terms against loops and closed forms, its outer problem against a simulation."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as D  # noqa: N812
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.missing import subset_masks
from methods.common.reconstruction import layers
from methods.redcore import (
    Imagination,
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
    return RedCore(TASKS[kind], **options)


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
    return {name: [array(x) for x in scales] for name, scales in features.items()}


# Codes and imagination


def test_imagination_is_a_cascade_of_residual_autoencoders():
    net = Imagination(6, 4).double()
    assert [m.out_channels for m in net.blocks[0] if hasattr(m, 'out_channels')] == [8, 4, 2] + [
        4,
        8,
        6,
    ]
    for p in net.parameters():
        p.data.normal_(0, 0.5)
    x = torch.randn(5, 6, 1, 1, dtype=torch.float64)

    def chain(modules, v, slopes):
        linear = [m for m in modules if hasattr(m, 'weight')]
        for m, slope in zip(linear, slopes, strict=True):
            v = array(m.weight)[:, :, 0, 0] @ v + array(m.bias)
            v = np.where(v > 0, v, slope * v)
        return v

    for sample in x[:, :, 0, 0].numpy():
        total = sample.copy()
        for block in net.blocks:
            total = total + chain(block, total, [0.01, 0.01, 0.01, 0, 0, 1])
        expected = chain(net.last, total, [0, 1])
        found = net(torch.from_numpy(sample)[None, :, None, None])
        np.testing.assert_allclose(array(found).ravel(), expected, rtol=1e-9)
    assert len(net.blocks) == 5


def test_every_position_is_imagined_independently():
    net, x = Imagination(6, 4), torch.randn(2, 6, 3, 3)
    alone = torch.stack([net(x[:, :, i, j][:, :, None, None]) for i in range(3) for j in range(3)])
    torch.testing.assert_close(net(x), alone[..., 0, 0].permute(1, 2, 0).unflatten(2, (3, 3)))


def test_chains_begin_without_biases():
    assert not any(m.bias.any() for m in layers((4, 8, 2), torch.nn.ReLU) if hasattr(m, 'bias'))


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_missing_has_the_code_of_zeros(kind):
    method, data = redcore(kind).eval(), batch(kind)
    codes = method.codes(method.encode(data.inputs), data.mask)
    for column, name in enumerate(data.inputs):
        for (mean, log_variance), head in zip(codes[name], method.heads[name], strict=True):
            found = torch.cat([mean, log_variance], 1)[~data.mask[:, column]]
            constant = head(torch.zeros(1, head.in_channels, *mean.shape[2:]))
            torch.testing.assert_close(found, constant.expand_as(found))


@pytest.mark.parametrize('kind', KINDS)
def test_a_code_is_imagined_from_the_others_alone(kind):
    method, data = redcore(kind), batch(kind)
    codes = method.codes(method.encode(data.inputs), data.mask)
    z = {name: [mean.detach() for mean, _ in scales] for name, scales in codes.items()}
    before = method.imagined(z)
    for changed in z:
        moved = {n: [x + 1 if n == changed else x for x in maps] for n, maps in z.items()}
        after = method.imagined(moved)
        for name in z:
            pairs = zip(before[name], after[name], strict=True)
            assert [torch.equal(*pair) for pair in pairs] == [name == changed] * len(z[name])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_codes_are_completed_by_imagination_only_where_they_are_missing(kind, variant):
    method, data = redcore(kind, variant=variant), batch(kind)
    calls = watch(method, 'imagined', 'complete', 'fuse', 'reconstruction')
    method.loss(data)
    ((z,), imagined) = calls['imagined'][0]
    ((h, _), _) = calls['fuse'][0]
    for column, name in enumerate(data.inputs):
        for i, there in enumerate(data.mask[:, column].tolist()):
            for scale, maps in enumerate(h[name]):
                source = z if there else imagined
                assert torch.equal(maps[i], source[name][scale][i])
    # What is deployed and seen is also what is to be imagined.
    ((_, targets, _), _) = calls['reconstruction'][0]
    for column, name in enumerate(data.inputs):
        seen = data.mask[:, column]
        assert torch.equal(targets[name][0][seen], z[name][0][seen])


def test_codes_are_samples_of_their_gaussians():
    mean, log_variance = torch.randn(2, 20, 30, 5, 5)
    both = [draw({'a': [(mean, log_variance)]})['a'][0] for _ in range(2)]
    one, other = ((array(z - mean) / np.exp(array(log_variance) / 2)).ravel() for z in both)
    assert scipy.stats.kstest(one, 'norm').pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


def test_a_training_step_uses_drawn_codes():
    method, data = redcore('vectors').eval(), batch('vectors')
    calls = watch(method, 'codes', 'imagined')
    for _ in range(2):
        method.loss(data)
    mean, _ = calls['codes'][0][1]['a'][0]
    first, second = (args[0]['a'][0] for args, _ in calls['imagined'])
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
        for i, scale in itertools.product(rows, range(len(targets[name]))):
            mean, log_variance = (array(x[i]) for x in codes[name][scale])
            pixels = mean[0].size
            kl += (mean**2 + np.exp(log_variance) - 1 - log_variance).sum() / pixels
            gap = imagined[name][scale][i] - targets[name][scale][i]
            squared += (gap**2).sum() / pixels
        assert errors[column].item() == pytest.approx(squared / len(rows), rel=1e-4)
    assert terms['loss_kl'].item() == pytest.approx(0.3 * kl / len(data.mask), rel=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_labels_supervise_the_fusion_and_every_modality_of_every_sample(kind):
    method, data = redcore(kind), batch(kind)
    calls = watch(method, 'fuse')
    terms = method.loss(data)
    ((h, _), logits) = calls['fuse'][0]
    torch.testing.assert_close(terms['loss_task'], F.cross_entropy(logits, data.target))
    alone = [F.cross_entropy(method.unimodal[n](maps), data.target) for n, maps in h.items()]
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
        {n: [torch.randn(4, 8, 1, 1, requires_grad=True)] for n in ('a', 'b')} for _ in range(2)
    )
    method.reconstruction(imagined, targets, torch.ones(4, 2, dtype=torch.bool)).sum().backward()
    assert all(x.grad.any() for (x,) in imagined.values())
    assert all((x.grad is not None) == two_sided for (x,) in targets.values())


def test_weights_multiply_the_imagination_alone():
    found = {}
    for weights in ((1.0, 1.0, 1.0), (0.2, 0.5, 3.0)):
        torch.manual_seed(5)
        method, data = redcore(imagination=0.4), batch()
        method.weights.copy_(torch.tensor(weights))
        calls = watch(method, 'reconstruction')
        found[weights] = method.loss(data)
        expected = 0.4 * (np.array(weights) * array(calls['reconstruction'][0][1])).sum()
        assert found[weights]['loss_imagination'].item() == pytest.approx(expected, rel=1e-5)
    one, other = found.values()
    for name in ('loss_task', 'loss_unimodal', 'loss_kl'):
        assert torch.equal(one[name], other[name])
    assert not any(one[f'weight_{n}'].requires_grad for n in TASKS['faces'].names)


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
    codes = method.codes(method.encode(data.inputs), data.mask)
    # Noise of no variance leaves the mean.
    certain = {n: [(m, torch.full_like(m, -300)) for m, _ in c] for n, c in codes.items()}
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
    assert calls['codes'][0][1]['rgb'][0][0].dtype == torch.float32
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
