"""DMRNet: its losses against their formulas, its mining against known answers."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.distributions as D  # noqa: N812
import torch.nn.functional as F  # noqa: N812
from mmengine.optim import OptimWrapper
from torch import nn

from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Modality, Task
from methods.dmrnet import DMRNet, divergence
from methods.modality_dropout import ModalityDropout

NAMES = ('rgb', 'depth', 'ir', 'thermal')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def task(kind='classification', count=3, names=NAMES):
    side = 32 if kind == 'segmentation' else 16
    modalities = tuple(Modality(name, (1, side, side)) for name in names[:count])
    # Without a Dice term, so that the losses of samples add up to the loss of all.
    return Task('any', kind, modalities, ('a', 'b', 'c'), 'accuracy', 4, loss='ce')


ROOMS = ('segmentation', 2)


def subsets(count):
    rows = [row for row in itertools.product((True, False), repeat=count) if any(row)]
    return torch.tensor(rows)


def draw_batch(what, mask):
    n = len(mask)
    inputs = {m.name: torch.randn(n, *m.shape) for m in what.modalities}
    shape = (n, *what.modalities[0].shape[1:]) if what.kind == 'segmentation' else (n,)
    target = torch.randint(len(what.classes), shape)
    if what.kind == 'segmentation':
        target[:, :5] = IGNORE
    return Batch(inputs, torch.ones_like(mask), mask, target, torch.arange(n))


def mined(method, averages):
    """Puts known average variances {set: V} of one sample each into the statistics."""
    names = method.task.names
    for row, there in enumerate(method.sets.tolist()):
        key = '+'.join(itertools.compress(names, there))
        if key in averages:
            method.variance[row], method.samples[row] = averages[key], 1
    return method


def watch(method, batch):
    """The loss's terms with the mean, log-variance, sample and logits they were made from."""
    seen = {}
    logits = method.decoder.logits

    def spy(maps):
        seen['sample'] = maps[-1]
        seen['logits'] = logits(maps)
        return seen['logits']

    handle = method.gaussian.register_forward_hook(
        lambda _, __, out: seen.update(mean=out[0], log_variance=out[1])
    )
    method.decoder.logits = spy
    terms = method.loss(batch)
    handle.remove()
    del method.decoder.logits
    return terms, seen


# Decoupling


def test_mean_and_variance_have_equal_heads_of_their_own():
    gaussian = DMRNet(task()).gaussian
    mean, log_variance = (
        {n: tuple(p.shape) for n, p in head.named_parameters()}
        for head in (gaussian.mean, gaussian.log_variance)
    )
    assert mean == log_variance
    assert mean['conv.weight'] == (32, 32, 1, 1)
    assert not {id(p) for p in gaussian.mean.parameters()} & {
        id(p) for p in gaussian.log_variance.parameters()
    }


@pytest.mark.parametrize('kind', [('classification', 3), ROOMS])
def test_the_deployed_network_decodes_the_mean_and_never_draws(kind):
    method = DMRNet(task(*kind)).eval()
    batch = draw_batch(method.task, subsets(kind[1]))
    state = torch.get_rng_state()
    logits = method.predict(batch.inputs, batch.mask)
    assert torch.equal(torch.get_rng_state(), state)
    _, seen = watch(method, batch)
    maps = method.decoder.maps(method.fusion(method.encode(batch.inputs), batch.mask))
    expected = method.decoder.logits((*maps[:-1], seen['mean']))
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(seen['logits'], expected, atol=1e-2)


@pytest.mark.parametrize('kind', [('classification', 3), ROOMS])
def test_losses_are_computed_from_samples_of_the_predicted_gaussian(kind):
    method = DMRNet(task(*kind)).eval()
    batch = draw_batch(method.task, subsets(kind[1]))
    standard = []
    with torch.no_grad():
        for _ in range(20):
            terms, seen = watch(method, batch)
            sigma = np.sqrt(np.exp(seen['log_variance'].numpy().astype(float)))
            standard.append((seen['sample'].numpy() - seen['mean'].numpy()) / sigma)
            expected = F.cross_entropy(seen['logits'], batch.target, ignore_index=IGNORE)
            torch.testing.assert_close(terms['loss_task'], expected)
    assert scipy.stats.kstest(np.concatenate(standard).ravel(), 'norm').pvalue > 1e-3
    assert abs(np.corrcoef(standard[0].ravel(), standard[1].ravel())[0, 1]) < 0.2


def test_the_task_loss_reaches_mean_and_variance_by_reparameterisation():
    method = DMRNet(task())
    terms, seen = watch(method, draw_batch(method.task, subsets(3)))
    wanted = [seen[k] for k in ('sample', 'mean', 'log_variance')]
    sample, mean, log_variance = torch.autograd.grad(terms['loss_task'], wanted)
    assert sample.any()
    torch.testing.assert_close(mean, sample)
    # s = mu + eps exp(l / 2), so ds/dl = (s - mu) / 2.
    deviation = (seen['sample'] - seen['mean']).detach()
    torch.testing.assert_close(log_variance, sample * deviation / 2)


def test_without_variance_and_projection_it_is_modality_dropout():
    class Never(nn.Module):
        def forward(self, x):
            return torch.full_like(x, -300.0)

    method = DMRNet(task(), alpha=0, beta=0)
    method.gaussian.mean, method.gaussian.log_variance = nn.Identity(), Never()
    plain = ModalityDropout(method.task)
    plain.load_state_dict(method.state_dict(), strict=False)
    batch = draw_batch(method.task, subsets(3))
    for epoch in (0, 99):
        method.epoch = epoch
        total, _ = method.parse_losses(method.loss(batch))
        assert torch.equal(total, plain.loss(batch)['loss_task'])
    method.eval()
    plain.eval()
    logits = plain.predict(batch.inputs, batch.mask)
    assert torch.equal(method.predict(batch.inputs, batch.mask), logits)


def test_the_gaussian_stays_in_float32_under_autocast():
    method = DMRNet(task())
    batch = draw_batch(method.task, subsets(3))
    with torch.autocast('cpu', torch.bfloat16):
        terms, seen = watch(method, batch)
    assert seen['logits'].dtype == torch.bfloat16
    assert {seen[k].dtype for k in ('mean', 'log_variance', 'sample')} == {torch.float32}
    assert all(term.dtype == torch.float32 for term in terms.values())


# KL


def test_divergence_is_that_of_two_gaussians():
    mean, log_variance = torch.randn(50), torch.randn(50)
    p, q = D.Normal(mean, log_variance.exp().sqrt()), D.Normal(torch.zeros(50), torch.ones(50))
    torch.testing.assert_close(divergence(mean, log_variance), D.kl_divergence(p, q))
    assert not divergence(torch.zeros(3), torch.zeros(3)).any()


def test_kl_is_summed_over_elements_or_averaged_over_pixels():
    ones, zeros = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    assert DMRNet(task()).compression(ones, zeros) == 12 / 2
    assert DMRNet(task(*ROOMS)).compression(ones, zeros) == 3 / 2


@pytest.mark.parametrize('kind', [('classification', 3), ROOMS])
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_kl_has_a_gradient_except_in_the_released_segmentation(kind, variant):
    method = DMRNet(task(*kind), alpha=0.25, variant=variant)
    terms, seen = watch(method, draw_batch(method.task, subsets(kind[1])))
    mean, log_variance = (seen[k].detach().numpy().astype(float) for k in ('mean', 'log_variance'))
    elements = (np.exp(log_variance) + mean**2 - 1 - log_variance) / 2
    samples = len(mean) if kind[0] == 'classification' else mean.size / mean.shape[1]
    assert terms['loss_kl'].item() == pytest.approx(0.25 * elements.sum() / samples, rel=1e-4)
    detached = (*kind, variant) == (*ROOMS, 'official')
    assert terms['loss_kl'].requires_grad != detached


# Hard combinations: the regulariser


@pytest.mark.parametrize('epoch', range(5))
def test_the_regulariser_acts_after_the_warm_up(epoch):
    method = DMRNet(task(), warmup=3)
    method.epoch = epoch
    terms = method.loss(draw_batch(method.task, subsets(3)))
    assert ('loss_hard' in terms) == (epoch >= 3)


@pytest.mark.parametrize('kind', [('classification', 3), ROOMS])
def test_hard_samples_count_one_plus_beta_times(kind):
    method = DMRNet(task(*kind), alpha=0, beta=0.7, hard=1)
    mined(method, {'rgb': 3.0, 'depth': 2.0})
    method.epoch = 50
    batch = draw_batch(method.task, subsets(kind[1]).repeat(2, 1))
    terms, seen = watch(method, batch)
    total, _ = method.parse_losses(terms)
    log_p = np.log(scipy.special.softmax(seen['logits'].detach().numpy().astype(float), 1))
    summed = count = 0.0
    for i, mask in enumerate(batch.mask.tolist()):
        weight = 1.7 if mask[0] and sum(mask) == 1 else 1.0
        for position in np.ndindex(log_p.shape[2:]):
            label = int(batch.target[i][position])
            if label != IGNORE:
                summed -= weight * log_p[(i, label, *position)]
                count += 1
    assert total.item() == pytest.approx(summed / count, rel=1e-5)
    assert terms['loss_hard'] > 0


def test_the_hard_loss_is_zero_without_hard_samples_or_labels():
    method = mined(DMRNet(task(*ROOMS), hard=1), {'rgb': 1.0})
    method.epoch = 50
    batch = draw_batch(method.task, torch.ones(3, 2, dtype=torch.bool))
    assert method.loss(batch)['loss_hard'] == 0
    blank = batch._replace(target=torch.full_like(batch.target, IGNORE), mask=subsets(2))
    assert method.loss(blank)['loss_hard'] == 0


@pytest.mark.parametrize('names', [NAMES, ('sound', 'image')])
def test_the_released_classification_multiplies_the_mean_of_all_by_the_number_of_hard(names):
    """As that code computes it: a vector of errors times masks with three trailing dimensions."""
    count = min(3, len(names))
    method = DMRNet(task(count=count, names=names), alpha=0, beta=0.7, variant='official')
    mined(method, {'sound': 2.0, 'image': 1.0})
    method.epoch = 50
    masks = subsets(count)
    batch = draw_batch(method.task, torch.cat([masks, masks[[0, 0]]]))
    terms, seen = watch(method, batch)
    log_p = scipy.special.log_softmax(seen['logits'].detach().numpy().astype(float), 1)
    errors = -log_p[np.arange(len(log_p)), batch.target]
    p = batch.mask.numpy().astype(float)[:, :, None, None, None]
    hard = (1 - p[:, 1]) * ((p[:, 0] + p[:, 2]) > 0 if count == 3 else p[:, 0])
    expected = 0.7 * np.sum(errors * hard) / len(p)
    assert terms['loss_hard'].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_in_segmentation_the_hard_loss_counts_by_class_weight(variant):
    what = dataclasses.replace(task(*ROOMS), class_weights=(0.2, 1.0, 3.0))
    method = DMRNet(what, hard=1, variant=variant)
    hard = torch.tensor([True, False, True])
    logits, target = torch.randn(3, 3, 4, 5), torch.randint(3, (3, 4, 5))
    target[:, 0] = IGNORE
    log_p = scipy.special.log_softmax(logits.numpy().astype(float), 1)
    summed = weight = 0.0
    for b, i, j in np.ndindex(3, 4, 5):
        label = int(target[b, i, j])
        if label != IGNORE:
            summed -= hard[b].item() * what.class_weights[label] * log_p[b, label, i, j]
            weight += what.class_weights[label] * (hard[b].item() or variant == 'paper')
    found = method.hard_loss(hard, logits, target).item()
    assert found == pytest.approx(summed / weight, rel=1e-5)


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_only_the_released_segmentation_clips_the_gradient_of_all_parameters(variant):
    method = DMRNet(task(*ROOMS), variant=variant)
    batch = draw_batch(method.task, subsets(2))
    batch = batch._replace(inputs={n: 100 * x for n, x in batch.inputs.items()})
    for p in method.decoder.head.parameters():
        p.data *= 100
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), 1e-3))
    torch.manual_seed(1)
    method.train_step(batch, wrapper)
    moved = [(before[n] - p.detach()).square().sum() for n, p in method.named_parameters()]
    norm = torch.stack(moved).sum().sqrt().item() / 1e-3
    if variant == 'official':
        assert norm == pytest.approx(20, rel=1e-2)
    else:
        assert norm > 25


def test_the_predictor_is_shared_except_in_the_released_segmentation():
    def parameters(kind, **options):
        return sum(p.numel() for p in DMRNet(task(*kind), **options).parameters())

    faces = ('classification', 3)
    assert parameters(faces, beta=0) == parameters(faces, beta=1)
    assert parameters(faces) == parameters(faces, variant='official')
    second = DMRNet(task(*ROOMS), variant='official').auxiliary
    extra = sum(p.numel() for p in second.parameters())
    assert parameters(ROOMS, variant='official') == parameters(ROOMS) + extra


def test_the_released_segmentation_trains_a_second_decoder_on_incomplete_samples():
    method = DMRNet(task(*ROOMS), variant='official', beta=0.5)
    method.epoch = 50
    batch = draw_batch(method.task, subsets(2))
    terms, seen = watch(method, batch)
    maps = method.fusion(method.encode(batch.inputs), batch.mask)
    logits = method.auxiliary((*maps[:-1], seen['sample']))
    incomplete = ~batch.mask.all(1)
    expected = F.cross_entropy(logits[incomplete], batch.target[incomplete], ignore_index=IGNORE)
    torch.testing.assert_close(terms['loss_hard'], 0.5 * expected)
    gradient = torch.autograd.grad(
        terms['loss_hard'], list(method.decoder.head.parameters()), allow_unused=True
    )
    assert all(g is None for g in gradient)
    method.eval()
    before = method.predict(batch.inputs, batch.mask)
    torch.nn.init.zeros_(method.auxiliary.head.conv_seg.weight)
    assert torch.equal(method.predict(batch.inputs, batch.mask), before)


# Hard combinations: the mining


def variances(method, inputs, mask):
    """Mean predicted variance of each sample, computed alone."""
    for i in range(len(mask)):
        one = {n: x[i : i + 1] for n, x in inputs.items()}
        z = method.decoder.maps(method.fusion(method.encode(one), mask[i : i + 1]))[-1]
        yield float(np.exp(method.gaussian.log_variance(z).detach().numpy()).mean())


@pytest.mark.parametrize('kind', [('classification', 3), ROOMS])
def test_mined_variance_is_the_mean_over_all_samples_of_a_set_whatever_the_batches(kind):
    what = task(*kind)
    masks = subsets(kind[1])
    mask = torch.cat([masks, masks[[0, 0, 1, 2, 2, 1, 1]]])
    batch = draw_batch(what, mask)
    method = DMRNet(what).eval()
    alone = list(variances(method, batch.inputs, mask))
    found = []
    for size in (3, 4, len(mask)):
        method.variance.zero_()
        method.samples.zero_()
        for first in range(0, len(mask), size):
            part = slice(first, first + size)
            inputs = {n: x[part] for n, x in batch.inputs.items()}
            method.loss(Batch(inputs, *(x[part] for x in batch[1:5])))
        found.append((method.variance / method.samples).tolist())
    for row, there in enumerate(method.sets.tolist()):
        of_set = [v for v, m in zip(alone, mask.tolist(), strict=True) if m == there]
        for averages in found:
            assert averages[row] == pytest.approx(np.mean(of_set), rel=1e-4)


def test_mining_stops_with_the_warm_up():
    method = DMRNet(task(), warmup=2)
    counts = []
    for epoch in range(4):
        method.epoch = epoch
        method.loss(draw_batch(method.task, subsets(3)))
        counts.append(method.samples.sum().item())
    assert counts == [7, 14, 14, 14]
    assert not method.variance.requires_grad


@pytest.mark.parametrize('count', [1, 2, 3])
def test_the_sets_of_greatest_variance_are_hard(count):
    method = mined(DMRNet(task(count=2), hard=count), {'rgb': 4.0, 'depth': 2.0, 'rgb+depth': 10.0})
    masks = torch.tensor([[True, False], [False, True], [True, True]])
    expected = {1: [0, 0, 1], 2: [1, 0, 1], 3: [1, 1, 1]}[count]
    assert method.hard(masks).tolist() == [bool(x) for x in expected]


@pytest.mark.parametrize(('modalities', 'expected'), [(1, 0), (2, 1), (3, 3), (4, 7)])
def test_half_of_the_sets_are_hard_by_default(modalities, expected):
    method = DMRNet(task(count=modalities))
    method.samples += 1
    method.variance += torch.rand_like(method.variance)
    assert method.hard(subsets(modalities)).sum() == expected


def test_a_combination_that_was_never_drawn_is_not_hard():
    method = DMRNet(task(), hard=3)
    assert not method.hard(subsets(3)).any()
    mined(method, {'ir': 1.0})
    assert torch.equal(method.hard(subsets(3)), (subsets(3) == torch.tensor([0, 0, 1])).all(1))
    assert not method.hard(torch.zeros(1, 3, dtype=torch.bool)).any()


def test_a_checkpoint_keeps_what_was_mined():
    method = mined(DMRNet(task()), {'ir': 3.0, 'rgb': 2.0, 'rgb+ir': 1.0, 'depth': 0.5})
    resumed = DMRNet(task())
    resumed.load_state_dict(method.state_dict())
    assert method.hard(subsets(3)).sum() == 3
    assert torch.equal(resumed.hard(subsets(3)), method.hard(subsets(3)))


def test_the_released_code_fixes_what_is_hard_or_mines_single_modalities():
    faces = DMRNet(task(), variant='official')
    masks = subsets(3)
    assert torch.equal(faces.hard(masks), ~masks[:, 1])
    swapped = DMRNet(task(names=('depth', 'ir', 'rgb')), variant='official')
    assert torch.equal(swapped.hard(masks), ~masks[:, 0])
    rooms = DMRNet(task(*ROOMS), variant='official')
    assert torch.equal(rooms.hard(subsets(2)), subsets(2).sum(1) == 1)
    speech = DMRNet(task(count=2, names=('sound', 'image')), variant='official')
    mined(speech, {'sound': 1.0, 'image': 2.0, 'sound+image': 3.0})
    assert torch.equal(speech.hard(subsets(2)), ~subsets(2)[:, 0])


def test_the_log_names_hard_combinations_once(monkeypatch):
    lines = []
    monkeypatch.setattr('methods.dmrnet.print_log', lambda text, _: lines.append(text))
    method = mined(DMRNet(task(), warmup=2, hard=2), {'ir': 3.0, 'rgb+ir': 2.0, 'rgb': 1.0})
    method.epochs = 9
    for method.epoch in range(9):
        method.on_validation({})
    (line,) = lines
    assert sorted(line.split('combinations ')[1].split(', ')) == ['ir', 'rgb+ir']


@pytest.mark.parametrize(
    'options', [{'variant': 'papers'}, {'hard': 8}, {'hard': -1}, {'warmup': 0}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        DMRNet(task(), **options)
