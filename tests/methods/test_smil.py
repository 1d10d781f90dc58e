"""SMIL: prototypes, replaced and regularised features, and the step within a step."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from tasks import TASKS, Toy, batch_of, images
from torch import nn

from benchmark.engine import notes
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import Task
from benchmark.options import Spec
from benchmark.registry import discover
from methods.common.prototypes import Prototypes, Replacement
from methods.smil import SMIL, Regulariser, distance, plain

discover()
BOTH = pytest.mark.parametrize('official', [True, False])


def made(kind='vectors', seed=0, **options):
    torch.manual_seed(seed)
    method = SMIL(TASKS[kind], **options).train()
    method.epochs = 16
    return method


def mixed(kind='vectors', count=12):
    """A batch of complete samples, of which a third each misses the first, the second, nothing."""
    batch = batch_of(TASKS[kind], count)
    mask = torch.ones_like(batch.mask)
    mask[::3, 0] = mask[1::3, 1] = False
    return batch._replace(mask=mask)


def blobs(count, rng):
    """Features around three distant centres, as maps (count, 2, 4, 1), and their rows."""
    rows = (
        rng.normal(size=(count * 4, 2)) * 0.3
        + np.array([[0, 0], [9, 0], [0, 9]])[rng.integers(3, size=count * 4)]
    )
    maps = torch.from_numpy(rows.reshape(count, 4, 2).transpose(0, 2, 1)[..., None].copy())
    return maps.float(), rows


def ordered(centres):
    return np.array(sorted(np.asarray(centres).tolist()))


def test_prototypes_are_those_of_k_means_over_complete_samples():
    """SM2, against scikit-learn; the others hold NaN."""
    x, rows = blobs(30, np.random.default_rng(0))
    complete = torch.arange(30) % 3 != 0
    spoilt = torch.where(complete[:, None, None, None], x, math.nan)
    torch.manual_seed(0)
    kept = Prototypes(3, 2, memory=0.0)
    for _ in range(20):
        kept.update(spoilt, complete)
    own = rows.reshape(30, 4, 2)[complete.numpy()].reshape(-1, 2)
    expected = KMeans(3, n_init=10, random_state=0).fit(own).cluster_centers_
    np.testing.assert_allclose(ordered(kept.means), ordered(expected), atol=1e-4)
    assert kept.counts.sum() == len(own)


def test_prototypes_follow_their_features_and_keep_still_without_samples():
    kept = Prototypes(1, 2, memory=0.9)
    torch.manual_seed(0)
    batches = [torch.randn(5, 2, 3, 1) for _ in range(4)]
    everyone = torch.ones(5, dtype=torch.bool)
    kept.update(torch.full((5, 2, 3, 1), math.nan), ~everyone)
    assert not kept.means.any()  # without a complete sample there is nothing yet
    kept.counts.fill_(1e-30)  # so that the first batch draws no feature
    sums = np.zeros(2)
    counts = 0.0
    kept._revive = lambda *_: None
    for x in batches:
        kept.update(x, everyone)
        sums = 0.9 * sums + x.numpy().sum((0, 2, 3))
        counts = 0.9 * counts + 15
        kept.update(torch.full_like(x, math.nan), ~everyone)
    np.testing.assert_allclose(kept.means[0], sums / counts, rtol=1e-5)


@torch.no_grad()
def test_a_replacement_is_the_normalised_mean_of_the_prototypes():
    """SM1 and SM4."""
    torch.manual_seed(0)
    part, x = Replacement(4, 3, 5, 0.9, official=True), torch.randn(6, 4, 2, 2)
    part.prototypes.sums.copy_(torch.randn(5, 3))
    part.prototypes.counts.fill_(1)
    a, b = part.predict.weight[:, :, 0, 0].double().numpy(), part.predict.bias.double().numpy()
    logits = np.einsum('kc,bchw->bkhw', a, x.numpy()) + b[:, None, None]
    w = np.logaddexp(0, logits)
    m = part.prototypes.means.numpy()
    expected = np.einsum('bkhw,kc->bchw', w, m) / w.sum(1)[:, None]
    np.testing.assert_allclose(part(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(part(x), part.eval()(x))
    inside = part(x).amax((0, 2, 3)), part(x).amin((0, 2, 3))
    assert (inside[0] <= part.prototypes.means.amax(0)).all()
    assert (inside[1] >= part.prototypes.means.amin(0)).all()


@torch.no_grad()
def test_weights_of_the_paper_are_normal_around_one():
    torch.manual_seed(0)
    part = Replacement(2, 1, 2, 0.9, official=False)
    part.prototypes.sums.copy_(torch.tensor([[1.0], [3.0]]))
    part.prototypes.counts.fill_(1)
    x = torch.tensor([0.3, -0.8]).view(1, 2, 1, 1).expand(40_000, 2, 1, 1)
    found = part(x).flatten().double()
    logits = part.predict(x[:1]).flatten().double().numpy()
    deviation = np.log1p(np.exp(logits))
    expected = math.sqrt((deviation[0] * 1) ** 2 + (deviation[1] * 3) ** 2) / 2
    assert found.mean() == pytest.approx(2, abs=4 * expected / 200)
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert part.eval()(x[:3]).flatten().tolist() == pytest.approx([2, 2, 2])


@BOTH
@torch.no_grad()
def test_features_are_regularised_by_the_softplus_of_a_normal_variable(official):
    torch.manual_seed(0)
    part = Regulariser(2, official).eval()
    h = torch.randn(1, 2, 1, 1).expand(40_000, 2, 1, 1)
    mean = part.mean(h[:1]).flatten().double().numpy()
    own = h[0].flatten().numpy()
    change = np.log1p(np.exp(mean))
    expected = own + change if official else own * change
    np.testing.assert_allclose(part(h)[0].flatten(), expected, rtol=1e-5)
    found = part.train()(h)[:, :, 0, 0].double().numpy()
    softplus = found - own if official else found / own
    r = np.log(np.expm1(softplus))  # the inverse of softplus
    deviation = np.ones(2)
    if not official:
        deviation = np.minimum(np.exp(part.deviation(h[:1]).flatten().double().numpy() / 2), 1)
    np.testing.assert_allclose(r.mean(0), mean, atol=4 / 200)
    np.testing.assert_allclose(r.std(0), deviation, rtol=0.02)


@pytest.mark.parametrize('kind', ['vectors', 'rooms'])
def test_the_inner_step_is_one_of_plain_descent_behind_the_encoders(kind):
    """SM3: it leaves encoders, replacements and regularisation as they are."""
    method, batch = made(kind, inner=0.5), mixed(kind)
    seen, real = {}, method.adapted

    def adapted(loss):
        seen.update(real(loss))
        method.zero_grad()
        loss.backward(retain_graph=True)
        return seen

    method.adapted = adapted
    for epoch, eta in ((0, 0.5), (1, 0.5), (2, 0.05), (15, 0.5e-7)):
        method.epoch = epoch
        method.loss(batch)
        assert {n.partition('.')[0] for n in seen} == {'fusion', 'decoder'} - (
            {'fusion'} if kind == 'vectors' else set()  # which joins maps without weights there
        )
        for name, p in method.behind.named_parameters():
            if name in seen:
                torch.testing.assert_close(seen[name], p - eta * p.grad, rtol=1e-4, atol=1e-6)
            else:
                assert name.startswith('regularise.')


def value(method, state, batch):
    """The sum of the terms, with equal noise, from equal prototypes."""
    method.load_state_dict(state, strict=False)
    torch.manual_seed(5)
    return method.parse_losses(method.loss(batch))[0]


@BOTH
def test_gradients_go_through_the_inner_step(official, monkeypatch):
    """SM5: second derivatives, against differences of the loss in double precision."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
    method = made(inner=2.0, alpha=1.0, variant='official' if official else 'paper').double()
    batch = mixed()
    batch = batch._replace(inputs={k: x.double() for k, x in batch.inputs.items()})
    method.loss(batch)  # the prototypes move from zero
    state = {k: v.clone() for k, v in method.named_buffers()}
    value(method, state, batch).backward()
    names = [
        'behind.decoder.head.weight',
        'replace.a 0.predict.weight',
        'behind.regularise.0.mean.bias',
    ]
    own = dict(method.named_parameters())
    exact = {name: own[name].grad.clone() for name in names}
    for name in names:
        p, place = own[name].data.view(-1), int(exact[name].abs().argmax())
        step, both = 1e-5, []
        for sign in (1, -1):
            p[place] += sign * step
            both.append(value(method, state, batch).item())
            p[place] -= sign * step
        found = (both[0] - both[1]) / (2 * step)
        assert exact[name].view(-1)[place].item() == pytest.approx(found, rel=1e-3)
    real = torch.autograd.grad

    def first_order(*given, create_graph=False, **more):
        return real(*given, retain_graph=True, **more)

    monkeypatch.setattr(torch.autograd, 'grad', first_order)
    method.zero_grad()
    value(method, state, batch).backward()
    assert all(not torch.allclose(own[name].grad, exact[name], rtol=1e-2) for name in names)


def test_halves_of_the_batch_have_the_inner_and_the_outer_loss():
    batch = mixed()
    other = batch._replace(target=batch.target.clone())
    other.target[::2] = 1 - other.target[::2]
    for inner, moves in ((0.0, False), (1.0, True)):
        terms = []
        for given in (batch, other):
            torch.manual_seed(1)
            terms.append(made(inner=inner).loss(given))
        assert not torch.equal(terms[0]['loss_inner'], terms[1]['loss_inner'])
        assert torch.equal(terms[0]['loss_task'], terms[1]['loss_task']) != moves


def test_distances_are_of_complete_samples_of_the_second_half():
    h, g = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    counted = torch.tensor([True, False, True, False])
    expected = ((h - g)[[0, 2]] ** 2).numpy().mean()
    assert distance(h, g, counted).item() == pytest.approx(expected, rel=1e-5)
    assert distance(h, g * math.nan, ~counted & counted) == 0
    batch = mixed()
    method = made(alpha=1.0, inner=0.0)
    assert method.loss(batch._replace(mask=batch.available))['loss_features'] == 0
    assert method.loss(batch)['loss_features'] > 0
    gaps = batch.available.clone()
    gaps[1::2, 0] = False
    lacking = batch._replace(available=gaps, mask=batch.mask & gaps)
    lacking = lacking._replace(mask=lacking.mask | (gaps & ~lacking.mask.any(1, keepdim=True)))
    assert method.loss(lacking)['loss_features'] == 0


@torch.no_grad()
def test_what_is_there_stays_and_complete_samples_are_not_changed():
    method = made('faces').eval()
    batch = mixed('faces')
    method.learn_prototypes(method.encode(batch.inputs), batch.mask.any(1))
    features = method.encode(batch.inputs)
    found = method.completed(features, batch.mask)
    for m, name in enumerate(TASKS['faces'].names):
        there = batch.mask[:, m]
        for own, new in zip(features[name], found[name], strict=True):
            assert torch.equal(own[there], new[there])
            if not there.all():
                assert not torch.isclose(own[~there], new[~there]).all()
    fused = method.behind.fusion(features, batch.available)
    whole = method.behind.decoder(fused)
    assert torch.equal(method.decode(features, batch.available), whole)


def test_second_derivatives_need_the_own_code_of_modules():
    layer = nn.Sequential(nn.Linear(2, 2))

    def shared(_):
        raise AssertionError

    layer[0].forward = shared
    layer._compiled_call_impl = shared
    with plain(layer):
        assert layer(torch.ones(1, 2)).shape == (1, 2)
    assert layer[0].forward is shared
    assert layer._compiled_call_impl is shared
    with pytest.raises(AssertionError):
        layer(torch.ones(1, 2))


def test_a_loss_may_be_asked_for_without_gradients():
    method, batch = made(), mixed()
    with torch.no_grad():
        terms = copy.deepcopy(method).loss(batch)
    assert all(x.isfinite() for x in terms.values())


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'variant': 'oficial'}, 'variant of smil'),
        ({'prototypes': 0}, 'smil:prototypes: expected at least 1, found 0'),
        ({'memory': 1.0}, 'smil:memory: expected 0 to below 1, found 1.0'),
    ],
)
def test_wrong_options_are_told_in_one_line(options, told):
    with pytest.raises(UserError, match=told) as error:
        SMIL(TASKS['vectors'], **options)
    assert '\n' not in str(error.value)


def test_training_samples_of_which_none_is_complete_are_told(tmp_path):
    first = TASKS['vectors'].names[0]
    told = []
    for method, rates in (('smil', '0.4'), ('smil', f'{first}=1'), ('hemis', f'{first}=1')):
        protocol = Protocol.build({}, {'rates': rates}, 'cpu')
        e = experiment(Spec(method), Toy(TASKS['vectors']), protocol, 0, tmp_path)
        told.append([note for note in notes.of(e) if 'the prototypes that replace' in note])
    assert [len(found) for found in told] == [0, 1, 0]


def test_one_modality_cannot_be_replaced():
    task = Task('toy', 'classification', images(16, 3), ('a', 'b'), 'accuracy', 4)
    with pytest.raises(UserError, match='at least 2 modalities'):
        SMIL(task)
