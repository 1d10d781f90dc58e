"""Methods that balance how modalities are learned: OGM-GE, gradient blending, MMPareto."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.optim import OptimWrapper
from scipy.optimize import minimize_scalar
from tasks import TASKS, batch_of
from torch import nn

from benchmark.errors import UserError
from benchmark.method import IGNORE, Modality, Task
from methods.gradient_blending import FLOOR, GradientBlending, blend
from methods.late_fusion import LateFusion
from methods.mmpareto import MMPareto, integrated, shares
from methods.modality_dropout import ModalityDropout
from methods.ogm_ge import OGMGE, coefficients

LR = 0.1


def made(cls, kind='faces', seed=0, **options):
    torch.manual_seed(seed)
    method = cls(TASKS[kind], **options).train()
    method.epochs = 10
    return method


def complete(kind='faces', count=12):
    batch = batch_of(TASKS[kind], count)
    return batch._replace(mask=batch.available)


def stepped(method, batch, seed=1):
    """The gradients that a step of plain gradient descent has followed, by parameter."""
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), LR))
    torch.manual_seed(seed)
    method.train_step(batch, wrapper)
    return {n: (before[n] - p.detach()) / LR for n, p in method.named_parameters()}


def plain(method, batch, seed=1):
    """The gradients of the sum of the losses, by autograd."""
    torch.manual_seed(seed)
    method.parse_losses(method.loss(batch))[0].backward()
    return {n: p.grad for n, p in method.named_parameters()}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('alpha', [0.1, 0.8])
def test_the_modality_that_answers_better_is_slowed(alpha):
    """O3, and the jump at a ratio of one."""
    strong, weak = 0.6, 0.3
    k = coefficients(torch.tensor([strong, weak]), alpha)
    close(k, torch.tensor([1 - math.tanh(alpha * 2), 1.0]))
    close(coefficients(torch.tensor([weak, strong]), alpha), k.flip(0))
    close(coefficients(torch.tensor([0.5, 0.5]), alpha), torch.ones(2))
    three = coefficients(torch.tensor([0.9, 0.5, 0.4]), alpha)
    close(three, torch.tensor([1 - math.tanh(alpha * 2), 1.0, 1.0]))
    unknown = coefficients(torch.tensor([strong, math.nan, weak]), alpha)
    close(unknown, torch.tensor([1 - math.tanh(alpha * 2), 1.0, 1.0]))
    close(coefficients(torch.tensor([strong, math.nan]), alpha), torch.ones(2))
    close(coefficients(torch.tensor([strong, 0.0]), alpha), torch.tensor([0.0, 1.0]))
    close(coefficients(torch.zeros(2), alpha), torch.ones(2))


@pytest.mark.parametrize('options', [{'alpha': 0.0, 'modulation': 'ogm'}, {'modulation': 'none'}])
def test_without_strength_and_noise_it_is_plain_descent(options):
    """O4."""
    method, batch = made(OGMGE, **options), complete()
    expected = plain(made(ModalityDropout), batch)
    found = stepped(method, batch)
    assert found.keys() == expected.keys()
    for name, g in found.items():
        close(g, expected[name])


@pytest.mark.parametrize('kind', ['faces', 'vectors', 'sequences', 'rooms'])
def test_only_weights_of_encoders_are_modulated(kind):
    """O6, with the factors of the scores."""
    method, batch = made(OGMGE, kind, alpha=0.5, modulation='ogm'), complete(kind)
    expected = plain(method, batch)
    factors = method.factors
    assert (factors < 1).any()
    found = stepped(made(OGMGE, kind, alpha=0.5, modulation='ogm'), batch)
    for name, g in found.items():
        factor = torch.tensor(1.0)
        if name.startswith('encoders.') and expected[name].ndim > 1:
            factor = factors[TASKS[kind].names.index(name.split('.')[1])]
        close(g, factor * expected[name])


def test_the_noise_has_the_deviation_of_each_gradient():
    """O5, for all encoders, whatever their factor."""
    batch = complete()
    quiet = stepped(made(OGMGE, alpha=0.5, modulation='ogm'), batch)
    noisy = stepped(made(OGMGE, alpha=0.5), batch)
    expected = plain(made(OGMGE), batch)
    ratios = []
    for name in quiet:
        noise = noisy[name] - quiet[name]
        if name.startswith('encoders.') and expected[name].ndim > 1:
            if noise.numel() > 500:
                ratios.append(noise.std() / expected[name].std())
        else:
            close(noise, torch.zeros_like(noise))
    assert len(ratios) > 3
    assert all(0.9 < r < 1.1 for r in ratios)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_modulation_ends_and_scores_leave_the_network_alone(kind):
    method, batch = made(OGMGE, kind, end=0.5), complete(kind)
    state = copy.deepcopy(method.state_dict())
    method.scores({n: method.encoders[n](x) for n, x in batch.inputs.items()}, batch)
    changed = [k for k, v in method.state_dict().items() if not torch.equal(v, state[k])]
    assert all(name.startswith('encoders.') for name in changed)
    assert method.decoder.training
    for epoch, running in ((0, True), (5, True), (6, False)):
        method.epoch = epoch
        assert ('factor 0' in method.loss(batch)) == running
    with pytest.raises(UserError, match='modulation of ogm_ge'):
        made(OGMGE, modulation='ogm-ge')


@torch.no_grad()
def test_scores_are_the_probabilities_of_the_right_class_from_one_modality():
    for kind in ('faces', 'rooms'):
        method, batch = made(OGMGE, kind).eval(), batch_of(TASKS[kind], 8)
        if kind == 'rooms':
            batch.target[:, :5] = IGNORE
        for m, found in enumerate(method.scores(method.encode(batch.inputs), batch)):
            alone = torch.zeros_like(batch.mask)
            alone[:, m] = True
            there = batch.mask[:, m]
            p = method.predict(batch.inputs, alone)[there].softmax(1)
            p, target = p.movedim(1, -1).flatten(0, -2), batch.target[there].flatten()
            counted = target != IGNORE
            close(found, p[counted, target[counted]].mean())


def test_gradients_are_those_without_the_scale_of_half_precision():
    batch = complete()
    expected = stepped(made(MMPareto), batch)
    method = made(MMPareto)
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), LR))
    wrapper.loss_scaler = SimpleNamespace(scale=lambda x: 1024 * x)
    torch.manual_seed(1)
    method.train_step(batch, wrapper)
    for n, p in method.named_parameters():
        close((before[n] - p.detach()) / LR, expected[n])


def test_modalities_may_have_names_of_terms():
    names = [('fused', 'gloss'), ('task', 'loss')]
    for both in names:
        modalities = tuple(Modality(n, (4,)) for n in both)
        task = Task('toy', 'classification', modalities, ('x', 'y'), 'accuracy', 4)
        batch = batch_of(task)
        for method in (
            LateFusion(task, combine='learned'), GradientBlending(task), OGMGE(task), MMPareto(task)
        ):  # fmt: skip
            losses = method.loss(batch)
            total, _ = method.parse_losses(losses)
            minimised = [x for n, x in losses.items() if not n.startswith(('factor', 'weight'))]
            close(total, torch.stack(minimised).sum())
            assert len(minimised) == (1 if isinstance(method, OGMGE) else 3)


def test_agreeing_gradients_count_equally_and_conflicting_ones_by_the_least_norm():
    torch.manual_seed(0)
    for _ in range(20):
        g, h = torch.randn(2, 6, dtype=torch.float64)
        a, b = shares(g, h)
        close(a + b, torch.ones_like(a))
        if g @ h > 0:
            assert a == 0.5
            continue
        least = minimize_scalar(
            lambda c, g=g, h=h: float((c * g + (1 - c) * h).norm()), bounds=(0, 1), method='bounded'
        )
        assert abs(a - least.x) < 1e-3
        direction = a * g + b * h
        assert g @ direction > 0  # both losses fall
        assert h @ direction > 0


def test_the_norm_of_the_sum_is_restored_and_enlarged():
    g, h = torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 1.0])
    (found,) = integrated([g], [h], 1.5)
    a, b = shares(g, h)
    direction = a * g + b * h
    close(found / found.norm(), direction / direction.norm())
    assert 2 * direction.norm() < (g + h).norm()
    close(found.norm(), 1.5 * (g + h).norm())
    (agreeing,) = integrated([g], [torch.tensor([1.0, 1.0])], 1.5)
    close(agreeing, torch.tensor([6.0, 1.5]))
    (nothing,) = integrated([torch.zeros(2)], [torch.zeros(2)], 1.5)
    close(nothing, torch.zeros(2))


def test_encoders_follow_integrated_gradients_and_all_else_the_sum():
    batch = complete()
    method = made(MMPareto)
    losses = method.loss(batch)
    assert set(losses) == {'loss_task', *(f'loss of {n}' for n in ('rgb', 'depth', 'ir'))}
    named = dict(method.named_parameters())
    grads = {
        term: dict(
            zip(
                named,
                torch.autograd.grad(x, named.values(), retain_graph=True, materialize_grads=True),
                strict=True,
            )
        )
        for term, x in losses.items()
    }
    found = stepped(made(MMPareto), batch)
    for name in ('rgb', 'depth', 'ir'):
        own = [n for n in named if n.startswith(f'encoders.{name}.')]
        joint, alone = ([grads[t][n] for n in own] for t in ('loss_task', f'loss of {name}'))
        for n, expected in zip(own, integrated(joint, alone, 1.5), strict=True):
            close(found[n], expected)
    for n in named:
        if not n.startswith('encoders.'):
            close(found[n], sum(g[n] for g in grads.values()))
    uniform = stepped(made(MMPareto, pareto=False), batch)
    for n, g in uniform.items():
        close(g, sum(each[n] for each in grads.values()))


def test_overfitting_counts_against_a_head():
    """O1, with the figures of the sheet: G = (2, 1, 3), dO = (1, 0.5, 2)."""
    before = torch.tensor([[5.0, 5.0, 5.0], [6.0, 6.0, 6.0]])
    after = torch.tensor([[2.0, 3.5, 0.0], [4.0, 5.0, 3.0]])
    w = blend(before, after, torch.zeros(3))
    close(w, torch.tensor([2.0, 4.0, 0.75]) / 6.75)
    assert w[1] > w[0] > w[2]
    # O2: one head has all the weight.
    close(blend(before[:, :1], after[:, :1], torch.zeros(1)), torch.ones(1))
    worse = after.clone()
    worse[1, 0] = 7.0
    assert blend(before, worse, torch.zeros(3))[0] == 0
    fallback = torch.tensor([0.2, 0.3, 0.5])
    close(blend(before, before + 1, fallback), fallback)
    still = blend(before[:, :1], before[:, :1] - 1, torch.zeros(1))
    close(still, torch.ones(1))
    assert FLOOR > 0


def test_held_out_samples_enter_no_loss_and_are_a_fixed_share():
    """O7: they are training samples, chosen by position, whose labels are not learned from."""
    method = made(GradientBlending, held_out=0.3)
    everyone = torch.arange(10000)
    held = method.held(everyone)
    assert 0.28 < held.float().mean() < 0.32
    assert torch.equal(method.held(everyone[50:60]), held[50:60])
    batch = complete(count=40)
    inside = method.held(batch.ids)
    assert 0 < inside.sum() < 40
    flipped = batch._replace(target=torch.where(inside, 1 - batch.target, batch.target))
    one, other = (plain(made(GradientBlending, held_out=0.3), b) for b in (batch, flipped))
    assert all(torch.equal(g, other[n]) for n, g in one.items())
    learned = batch._replace(target=torch.where(inside, batch.target, 1 - batch.target))
    assert not torch.equal(one['heads.rgb.head.weight'], plain(
        made(GradientBlending, held_out=0.3), learned)['heads.rgb.head.weight'])  # fmt: skip
    with pytest.raises(UserError, match='held_out of gradient_blending: expected a share'):
        made(GradientBlending, held_out=1.0)


def test_weights_follow_the_losses_of_two_epochs():
    """The whole way from losses in steps to weights, against means by hand."""
    method = made(GradientBlending, held_out=0.3, period=0.2)
    seen = {}
    for epoch in range(5):
        method.epoch = epoch
        rows = []
        for seed in (epoch, epoch + 10):
            batch = batch_of(TASKS['faces'], 40, seed)
            method.eval()  # the same features for the figures by hand
            method.loss(batch)
            held = method.held(batch.ids)
            with torch.no_grad():
                features = method.encode(batch.inputs)
                logits = [method.decoder(method.fusion(features, batch.mask))]
                logits += [method.heads[n](features[n]) for n in TASKS['faces'].names]
            for kind in (~held, held):
                for h, x in enumerate(logits):
                    counted = kind & (batch.mask[:, h - 1] if h else batch.mask.any(1))
                    rows.append((F.cross_entropy(x[counted], batch.target[counted]), counted.sum()))
            with torch.no_grad():
                for p in method.parameters():
                    p.add_(0.05 * torch.randn_like(p))
        values, counts = (torch.stack([r[i] for r in rows]).view(2, 2, 4) for i in (0, 1))
        seen[epoch] = (values * counts).sum(0) / counts.sum(0)
        # A period has two epochs: the first estimate is taken when epoch 2 begins.
        expected = torch.full((4,), 0.25)
        if epoch >= 2:
            expected = (expected + blend(seen[0], seen[1], expected)) / 2
        if epoch >= 4:
            wrong = blend(seen[0], seen[3], expected)
            right = blend(seen[1], seen[3], expected)
            assert not torch.allclose(wrong, right, atol=1e-3)
            expected = (expected + right) / 2
        close(method.weights, expected)
    assert not torch.equal(method.weights, torch.full((4,), 0.25))
    assert {'before', 'running', 'weights'} <= method.state_dict().keys()


def test_a_training_too_short_for_an_estimate_says_so():
    options = {'period': 0.1, 'held_out': 0.1}
    assert not GradientBlending.schedule_notes(options, 30)
    assert not GradientBlending.schedule_notes({**options, 'period': 0.5}, 30)
    (note,) = GradientBlending.schedule_notes(options, 2)
    assert 'stay equal' in note
    assert isinstance(made(GradientBlending).heads, nn.ModuleDict)
