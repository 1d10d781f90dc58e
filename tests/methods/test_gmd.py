"""GMD: its surgery against loops over vectors, its step through mmengine's own wrappers."""

import contextlib
import dataclasses
import itertools
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from tasks import TASKS as PLAIN
from tasks import Toy, batch_of

from benchmark.engine import execution
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment
from benchmark.engine.hooks import LossWatch, TrainingDiverged
from benchmark.engine.protocol import Protocol
from benchmark.method import IGNORE
from benchmark.missing import subset_ids
from benchmark.options import Spec
from methods import gmd
from methods.gmd import GMD, decoupled_gradients, decoupling_weights

TASKS = {kind: dataclasses.replace(task, loss='ce') for kind, task in PLAIN.items()}
KINDS = ['faces', 'mixed', 'vectors', 'rooms']
LR = 0.1


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def complete(kind, count=6):
    """A batch in which every sample has all modalities."""
    batch = batch_of(TASKS[kind], count)
    return batch._replace(mask=batch.available)


def conflicting(n=5, length=7):
    """Gradients of which many pairs conflict, and an order of their meetings."""
    gradients = torch.randn(n, length, dtype=torch.float64)
    gradients -= 0.8 * gradients.mean(0)
    order = torch.rand(n, n).argsort(1)
    assert ((gradients @ gradients.T) < 0).sum() >= n
    return gradients, order


def projections(gradients, order):
    """Each gradient after it met the others in its order, vector by vector."""
    first = np.asarray(gradients)
    found = []
    for i, g in enumerate(first.copy()):
        for j in np.asarray(order)[i]:
            if j != i and np.dot(g, first[j]) < 0:
                unit = first[j] / np.linalg.norm(first[j])
                g = g - np.dot(g, unit) * unit
        found.append(g)
    return np.stack(found)


def merged(gradients, order):
    return decoupling_weights(gradients @ gradients.T, order) @ gradients


# Surgery


@pytest.mark.parametrize('n', [3, 7, 15])
def test_weights_sum_to_the_projections(n):
    gradients, order = conflicting(n, 9)
    expected = projections(gradients, order).sum(0)
    np.testing.assert_allclose(merged(gradients, order), expected, rtol=1e-6, atol=1e-9)
    assert not np.allclose(expected, gradients.sum(0), rtol=0.05)


def test_without_conflict_nothing_changes():
    gradients = torch.rand(6, 9)
    _, order = conflicting(6)
    assert torch.equal(decoupling_weights(gradients @ gradients.T, order), torch.ones(6))


def test_two_projected_gradients_do_not_conflict_and_keep_their_common_part():
    a, b = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([-1.0, 1.0, 3.0])
    order = torch.tensor([[0, 1], [1, 0]])
    total = merged(torch.stack([a, b]), order)
    # The sum of each one's part that is perpendicular to the other.
    expected = a + b + (1 / 11) * b + (1 / 5) * a
    torch.testing.assert_close(total, expected)
    assert total @ a > 0
    assert total @ b > 0


def test_opposite_gradients_cancel():
    g = torch.tensor([[3.0, -1.0], [-3.0, 1.0]])
    torch.testing.assert_close(merged(g, torch.tensor([[1, 0], [0, 1]])), torch.zeros(2))


def test_a_gradient_is_not_compared_with_itself():
    # Turned twice, the first one ends up against what it was.
    angles = torch.deg2rad(torch.tensor([0.0, 170.0, 190.0], dtype=torch.float64))
    gradients = torch.stack([angles.cos(), angles.sin()], 1)
    order = torch.tensor([[1, 2, 0], [0, 1, 2], [0, 1, 2]])
    found = projections(gradients, order)
    assert found[0] @ gradients[0].numpy() < 0
    np.testing.assert_allclose(merged(gradients, order), found.sum(0), rtol=1e-9)


def test_a_gradient_of_zeros_is_left_alone_and_leaves_the_others():
    gradients, order = conflicting()
    gradients[2] = 0
    rest = [0, 1, 3, 4]
    shorter = torch.stack([row[row != 2] for row in order])[rest]
    shorter = torch.tensor([0, 1, -1, 2, 3])[shorter]
    torch.testing.assert_close(merged(gradients, order), merged(gradients[rest], shorter))


def test_the_order_of_projections_matters():
    gradients, order = conflicting()
    assert not torch.allclose(merged(gradients, order), merged(gradients, order.flip(1)))


def losses_of(gradients, parameters):
    """Linear losses that have these gradients (n, P) with regard to the parameters."""
    flat = torch.cat([p.flatten() for p in parameters])
    return [(flat * g).sum() for g in gradients]


def surgery(gradients, scale=1.0):
    parameters = [torch.randn(2, 2, requires_grad=True), torch.randn(3, requires_grad=True)]
    torch.manual_seed(7)
    found = decoupled_gradients(
        losses_of(gradients, parameters), parameters, torch.tensor(scale, dtype=torch.float64)
    )
    assert [g.shape for g in found] == [p.shape for p in parameters]
    return torch.cat([g.flatten() for g in found]).double()


def test_conflicts_are_judged_over_all_parameters_together():
    gradients, _ = conflicting()
    found = surgery(gradients)
    torch.manual_seed(7)
    order = torch.rand(5, 5).argsort(1)
    np.testing.assert_allclose(found, projections(gradients, order).sum(0), rtol=1e-5, atol=1e-6)


def test_the_order_comes_from_torch_s_generator():
    orders, real = [], gmd.decoupling_weights

    def spy(products, order):
        orders.append(order)
        return real(products, order)

    gradients, _ = conflicting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gmd, 'decoupling_weights', spy)
        for _ in range(2):
            surgery(gradients)
        decoupled_gradients(*with_parameters(gradients))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])
    assert all(torch.equal(o.sort(1).values, torch.arange(5).expand(5, 5)) for o in orders)
    assert len({tuple(row.tolist()) for row in orders[0]}) > 1


def with_parameters(gradients):
    parameters = [torch.randn(7, requires_grad=True)]
    return losses_of(gradients, parameters), parameters, torch.ones(())


@pytest.mark.parametrize('scale', [2.0**-10, 2.0**16])
def test_scaled_losses_have_the_same_projections(scale):
    gradients, _ = conflicting()
    torch.testing.assert_close(surgery(gradients, scale), surgery(gradients), rtol=1e-6, atol=0)


class ThroughHalf(torch.autograd.Function):
    """Lets gradients pass in half precision, as activations do under autocast."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().float()


@pytest.mark.parametrize('scale', [1.0, 2.0**20])
def test_a_scale_saves_gradients_that_half_precision_loses(scale):
    x = torch.ones(3, requires_grad=True)
    gradients = torch.tensor([[2.0, 1.0, 0.0], [-1.0, 1.0, 3.0]])
    losses = [(ThroughHalf.apply(x) * g * 1e-9).sum() for g in gradients]
    (found,) = decoupled_gradients(losses, [x], torch.tensor(scale))
    expected = projections(gradients, [[1, 0], [0, 1]]).sum(0) if scale > 1 else np.zeros(3)
    np.testing.assert_allclose(found * 1e9, expected, rtol=1e-2, atol=1e-6)


# Steps


def stepped(method, batch, seed=1, steps=1, **options):
    """Takes steps of plain descent and returns each parameter's change and the last log."""
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), lr=LR), **options)
    before = [p.detach().clone() for p in method.parameters()]
    torch.manual_seed(seed)
    for _ in range(steps):
        logged = method.train().train_step(batch, wrapper)
    return [p.detach() - b for p, b in zip(method.parameters(), before, strict=True)], logged


def method_of(kind='faces', **options):
    torch.manual_seed(3)
    method = GMD(TASKS[kind], **options)
    for dropout in filter(lambda m: isinstance(m, torch.nn.Dropout), method.modules()):
        dropout.p = 0.0  # drops other units in each pass
    return method


def flat(tensors):
    return torch.cat([x.flatten() for x in tensors])


def gradient_of(method, term):
    method.zero_grad()
    term.backward(retain_graph=True)
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in method.parameters()])


@pytest.fixture
def fixed_order(monkeypatch):
    """Lets the gradients meet in the subsets' order."""
    real = gmd.decoupling_weights
    monkeypatch.setattr(
        gmd,
        'decoupling_weights',
        lambda products, order: real(products, order.sort(1).values),
    )


@pytest.mark.parametrize('kind', KINDS)
def test_a_step_descends_along_the_mean_of_the_projections(kind, fixed_order):
    batch, reference = complete(kind), method_of(kind).train()
    features = reference.encode(batch.inputs)
    singles = []
    for members in subsets(kind):
        logits = torch.stack([features[name] for name in members]).mean(0)
        singles.append(gradient_of(reference, F.cross_entropy(logits, batch.target)))
    n = len(singles)
    singles = torch.stack(singles)
    expected = projections(singles.double(), [range(n)] * n).mean(0)
    found, _ = stepped(method_of(kind), batch)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(flat(found) / -LR / scale, expected / scale, rtol=1e-3, atol=1e-5)
    if kind == 'faces':  # there were conflicts
        assert np.abs(expected - singles.mean(0).double().numpy()).max() > 0.01 * scale


def subsets(kind):
    names = TASKS[kind].names
    sizes = range(1, len(names) + 1)
    return list(itertools.chain.from_iterable(itertools.combinations(names, k) for k in sizes))


@pytest.mark.parametrize('kind', ['faces', 'rooms'])  # in others norms cancel biases
def test_a_step_moves_every_parameter(kind):
    method = method_of(kind)
    moved, _ = stepped(method, complete(kind, 14))
    names = [n for n, _ in method.named_parameters()]
    assert not [n for n, x in zip(names, moved, strict=True) if not x.any()]


class Agreeing(GMD):
    """All terms have gradients of one direction."""

    def loss(self, batch):
        total = sum(super().loss(batch).values())
        return {'loss_a': 0.7 * total, 'loss_b': 0.2 * total, 'loss_c': 0.1 * total, 'seen': total}


@pytest.mark.parametrize('options', [{}, {'clip_grad': {'max_norm': 0.01}}])
def test_where_nothing_conflicts_the_step_is_the_plain_one(options):
    found = []
    for decouple in (True, False):
        torch.manual_seed(3)
        method = Agreeing(TASKS['faces'], decouple=decouple)
        found.append(stepped(method, complete('faces'), **{k: dict(v) for k, v in options.items()}))
    (decoupled, logged), (plain, logged_plain) = found
    torch.testing.assert_close(flat(decoupled), flat(plain), rtol=1e-3, atol=1e-6)
    assert flat(plain).abs().max() > 1e-4
    assert logged == logged_plain


def test_without_decoupling_the_step_is_the_plain_mean_s():
    batch, reference = complete('faces'), method_of().train()
    total, _ = reference.parse_losses(reference.loss(batch))
    expected = -LR * gradient_of(reference, total)
    plain, _ = stepped(method_of(decouple=False), batch)
    torch.testing.assert_close(flat(plain), expected, rtol=1e-4, atol=1e-7)
    decoupled, _ = stepped(method_of(), batch)
    assert (flat(decoupled) - flat(plain)).abs().max() > 0.01 * flat(plain).abs().max()


def test_same_seed_same_step():
    a, b, c = (flat(stepped(method_of(), complete('faces'), seed)[0]) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(b, c)


def test_a_clipped_step_has_the_greatest_norm_allowed():
    free, _ = stepped(method_of(), complete('faces'))
    clipped, _ = stepped(method_of(), complete('faces'), clip_grad={'max_norm': 0.01})
    assert flat(free).norm() > 2 * LR * 0.01
    torch.testing.assert_close(flat(clipped).norm().item(), LR * 0.01, rtol=1e-3, atol=0)
    assert F.cosine_similarity(flat(clipped), flat(free), dim=0) > 0.9999


def test_gradients_accumulate_over_steps(fixed_order):
    once, _ = stepped(method_of(), complete('faces'))
    first, _ = stepped(method_of(), complete('faces'), accumulative_counts=2)
    both, _ = stepped(method_of(), complete('faces'), steps=2, accumulative_counts=2)
    assert not flat(first).any()
    torch.testing.assert_close(flat(both), flat(once), rtol=1e-4, atol=1e-7)


def scaled(method, monkeypatch, scale):
    """The wrapper of mixed precision with a loss scaler, on the CPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    return AmpOptimWrapper(
        optimizer=torch.optim.SGD(method.parameters(), lr=LR),
        dtype='bfloat16',
        loss_scale={'device': 'cpu', 'init_scale': scale},
    )


def test_the_loss_scale_does_not_change_the_step(monkeypatch):
    found, scales, real = [], [], gmd.decoupled_gradients

    def spy(losses, parameters, scale):
        scales.append(scale.item())
        return real(losses, parameters, scale)

    monkeypatch.setattr(gmd, 'decoupled_gradients', spy)
    for scale in (1.0, 1024.0):
        method = method_of()
        before = flat(method.parameters()).detach().clone()
        torch.manual_seed(1)
        wrapper = scaled(method, monkeypatch, scale)
        logged = method.train().train_step(complete('faces'), wrapper)
        found.append((flat(method.parameters()).detach() - before, logged['loss']))
    assert scales == [1.0, 1024.0]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-7)
    exact, _ = stepped(method_of(), complete('faces'))
    assert F.cosine_similarity(found[0][0], flat(exact), dim=0) > 0.5


def test_an_overflow_skips_the_step_and_lowers_the_scale(monkeypatch):
    method = method_of()
    before = flat(method.parameters()).detach().clone()
    wrapper = scaled(method, monkeypatch, 2.0**127)
    loss = method.task_loss
    monkeypatch.setattr(method, 'task_loss', lambda *given: 1e6 * loss(*given))
    method.train().train_step(complete('faces'), wrapper)
    assert torch.equal(flat(method.parameters()).detach(), before)
    assert wrapper.loss_scaler.get_scale() == 2.0**126


def test_a_diverging_loss_stops_the_training():
    batch = complete('faces')
    batch.inputs['ir'][0] = float('nan')
    watch = LossWatch()
    runner = types.SimpleNamespace(iter=1, epoch=0)
    watch.after_train_iter(runner, 0, outputs=stepped(method_of(), batch)[1])
    with pytest.raises(TrainingDiverged, match=r'loss_ir, loss_rgb\+ir') as error:
        watch.after_train_epoch(runner)
    assert 'loss_rgb,' not in str(error.value)


@pytest.mark.parametrize('kind', ['vectors', 'rooms'])
def test_a_training_step_never_waits_for_the_device(kind, monkeypatch):
    # The meta device holds no values: whoever asks for one raises. It has no autocast either.
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: contextlib.nullcontext())
    batch, method = complete(kind), method_of(kind).to(device='meta')
    inputs = {name: x.to('meta') for name, x in batch.inputs.items()}
    rest = [x.to('meta') for x in batch[1:5]]
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), lr=LR))
    logged = method.train().train_step(type(batch)(inputs, *rest), wrapper)
    with pytest.raises(RuntimeError, match='meta'):
        logged['loss'].item()


# Losses


@pytest.mark.parametrize('kind', KINDS)
def test_the_terms_are_the_subsets_and_sum_to_their_mean(kind):
    names, method, batch = TASKS[kind].names, method_of(kind).train(), complete(kind)
    total, terms = method.parse_losses(method.loss(batch))
    assert list(terms) == [f'loss_{s}' for s in subset_ids(names)] + ['loss']
    features = method.encode(batch.inputs)
    expected = []
    for members in subsets(kind):
        z = np.mean([features[m].detach().double().numpy() for m in members], 0)
        shift = z - z.max(1, keepdims=True)
        log_p = shift - np.log(np.exp(shift).sum(1, keepdims=True))
        own = np.take_along_axis(log_p, np.expand_dims(batch.target.numpy(), 1), 1)
        expected.append(-own.mean())
    np.testing.assert_allclose(total.item(), np.mean(expected), rtol=1e-5)
    found = [terms[f'loss_{s}'].item() for s in subset_ids(names)]
    np.testing.assert_allclose(np.array(found) * len(found), expected, rtol=1e-5)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_a_subset_s_loss_covers_the_samples_that_have_all_of_it(kind):
    task, method, batch = TASKS[kind], method_of(kind).eval(), batch_of(TASKS[kind], 9, seed=4)
    target = batch.target.clone()
    if kind == 'rooms':
        target[::2, 3:17] = IGNORE
    terms = method.loss(batch._replace(target=target))
    for members in subsets(kind):
        columns = [task.names.index(m) for m in members]
        rows = [b for b in range(9) if all(batch.mask[b, c] for c in columns)]
        mask = torch.zeros_like(batch.mask)
        mask[:, columns] = True
        logits = method.predict(batch.inputs, mask)[rows]
        expected = F.cross_entropy(logits, target[rows], ignore_index=IGNORE) if rows else 0.0
        found = terms[f'loss_{"+".join(members)}'] * len(terms)
        assert 0 < len(rows) < 9
        torch.testing.assert_close(found, expected)


def test_terms_weigh_the_classes_as_the_task_does():
    task = dataclasses.replace(TASKS['vectors'], class_weights=(1.0, 5.0))
    method, batch = GMD(task).eval(), complete('vectors')
    logits = method.predict(batch.inputs, batch.mask)
    errors = F.cross_entropy(logits, batch.target, reduction='none')
    weights = 1.0 + 4.0 * batch.target
    expected = (weights * errors).sum() / weights.sum()
    torch.testing.assert_close(method.loss(batch)['loss_a+b'] * 3, expected)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_a_subset_that_no_sample_has_moves_nothing(kind):
    method, batch = method_of(kind), complete(kind)
    last = TASKS[kind].names[-1]
    batch.mask[:, -1] = False
    batch.inputs[last].zero_()
    moved, logged = stepped(method, batch)
    assert all(torch.isfinite(x).all() for x in moved)
    names = [n for n, _ in method.named_parameters()]
    for name, x in zip(names, moved, strict=True):
        own = f'.{last}.' in name or name.endswith(last)
        assert bool(x.any()) != own, name
    assert [k for k, v in logged.items() if not v] == [
        f'loss_{s}' for s in subset_ids(TASKS[kind].names) if last in s.split('+')
    ]


def test_samples_without_a_labelled_pixel_count_for_nothing():
    method, batch = method_of('rooms').train(), complete('rooms')
    batch.mask[1:, 1] = False
    batch.target[0] = IGNORE
    total, terms = method.parse_losses(method.loss(batch))
    assert terms['loss_rgb'] > 0
    assert terms['loss_depth'] == terms['loss_rgb+depth'] == 0
    total.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert not any(g.any() for n, g in gradients.items() if '.depth.' in n)


@pytest.mark.parametrize('kind', KINDS)
def test_a_prediction_is_the_mean_of_the_present_logits(kind):
    task, method, batch = TASKS[kind], method_of(kind).eval(), batch_of(TASKS[kind], 9)
    features = method.encode(batch.inputs)
    found = method.decode(features, batch.mask)
    for b, mask in enumerate(batch.mask.tolist()):
        there = [
            features[n][b].detach().numpy() for n, on in zip(task.names, mask, strict=True) if on
        ]
        np.testing.assert_allclose(found[b].detach(), np.mean(there, 0), rtol=1e-4, atol=1e-6)


# The shared network


def norms_and_rest(network):
    """Splits the parameters of one modality's network by what they belong to."""
    norms, rest = [], []
    for module in network.modules():
        for p in module.parameters(recurse=False):
            (norms if 'BatchNorm' in type(module).__name__ else rest).append(p)
    return norms, rest


@pytest.mark.parametrize('kind', KINDS)
def test_modalities_share_all_but_their_norms(kind):
    first, *others = (norms_and_rest(net) for net in method_of(kind).networks.networks.values())
    assert first[0]
    assert first[1]
    for norms, rest in others:
        assert all(a is b for a, b in zip(rest, first[1], strict=True))
        assert not any(a is b for a, b in zip(norms, first[0], strict=True))
        assert len({id(p) for p in norms + first[0]}) == 2 * len(norms)


def test_statistics_are_learned_by_the_modality_that_is_given():
    method, batch = method_of().train(), complete('faces')
    nets = method.networks.networks
    before = {n: [b.clone() for b in net.buffers()] for n, net in nets.items()}
    method.encode({'depth': batch.inputs['depth']})
    for name, net in nets.items():
        same = [torch.equal(a, b) for a, b in zip(before[name], net.buffers(), strict=True)]
        assert (not any(same)) if name == 'depth' else all(same)


def test_a_network_that_is_loaded_shares_as_before():
    method, batch = method_of(), complete('faces')
    stepped(method, batch)
    torch.manual_seed(9)
    loaded = GMD(TASKS['faces'])
    loaded.load_state_dict(method.state_dict())
    assert torch.equal(
        loaded.eval().predict(batch.inputs, batch.mask),
        method.eval().predict(batch.inputs, batch.mask),
    )
    assert len(list(loaded.parameters())) == len(list(method.parameters()))


class Stop(Exception):
    """Ends a training early."""


def stop_after_two(stage, epoch, *_):
    if epoch == 2:
        raise Stop


def test_a_run_that_was_stopped_ends_where_a_whole_one_does(tmp_path):
    data, weights = Toy(TASKS['vectors']), []
    protocol = Protocol.build(data.recipe, {}, 'cpu')
    for name in ('whole', 'halves'):
        e = experiment(Spec('gmd'), data, protocol, 0, tmp_path / name)
        if name == 'halves':
            with pytest.raises(Stop):
                execution.run(e, Machine('cpu'), stop_after_two)
            assert (e.folder / 'resume.pth').is_file()
        execution.run(e, Machine('cpu'), lambda *_: None)
        weights.append(torch.load(e.folder / 'checkpoint.pth', weights_only=True))
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert 'epoch 2: loss_a' in (e.folder / 'train.log').read_text()


def test_its_own_loss_is_the_dice_of_sigmoids():
    method = GMD(dataclasses.replace(TASKS['rooms'], loss='own'))
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    target[:, 2] = IGNORE
    p, known, scores = 1 / (1 + np.exp(-logits.double().numpy())), target.numpy() != IGNORE, []
    for k in range(3):
        q, y = p[:, k][known], (target.numpy() == k)[known]
        scores.append((2 * q[y].sum() + 1) / (q.sum() + y.sum() + 1))
    found = method.task_loss(logits, target).item()
    assert found == pytest.approx(1 - np.mean(scores), rel=1e-5)
