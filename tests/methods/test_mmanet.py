"""MMANet: its losses against their formulas, its mining against known answers."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812

from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Modality, SubsetScore, Task
from methods.common.distillation import pooled, row_products
from methods.common.mining import movement
from methods.complete import Complete
from methods.hemis import HeMIS
from methods.mmanet import MMANet, margin_aware_distillation

NAMES = ('rgb', 'depth', 'ir', 'thermal')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def task(kind='classification', count=3, classes=3, width=4, side=16):
    modalities = tuple(Modality(name, (1, side, side)) for name in NAMES[:count])
    return Task('any', kind, modalities, tuple('abcdefgh'[:classes]), 'accuracy', width)


def subsets(count):
    rows = [row for row in itertools.product((True, False), repeat=count) if any(row)]
    return torch.tensor(rows)


def mmanet(kind='classification', count=3, strong=None, epoch=6, **options):
    """A network after mining, with an independent teacher; `strong` is the mined modality."""
    what = task(kind, count, side=32 if kind == 'segmentation' else 16)
    method, teacher = MMANet(what, **options), Complete(what)
    method.set_teacher(teacher)
    method.epoch = epoch
    if strong is not None:
        method.strong[strong] = True
    return method


def draw_batch(what, mask):
    n = len(mask)
    inputs = {m.name: torch.randn(n, *m.shape) for m in what.modalities}
    shape = (n, *what.modalities[0].shape[1:]) if what.kind == 'segmentation' else (n,)
    target = torch.randint(len(what.classes), shape)
    return Batch(inputs, torch.ones_like(mask), mask, target, torch.arange(n))


def score(predicted=(), **metrics):
    return SubsetScore(metrics, predicted, 100)


def naive_mad(student, teacher, weights, halves=1):
    """The definition by loops, in float64."""
    s, t = (np.asarray(x.detach(), dtype=np.float64) for x in (student, teacher))
    n, total = len(s), 0.0
    for i in range(n):
        gs = np.array([s[i] @ s[j] for j in range(n)])
        gt = np.array([t[i] @ t[j] for j in range(n)])
        # The first half of an odd number of columns is the shorter one.
        cut = [n // 2] if halves == 2 else []
        for a, b in zip(np.split(gs, cut), np.split(gt, cut), strict=True):
            total += weights[i] * ((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum()
    return total


def entropy_shares(logits):
    z = np.asarray(logits.detach(), dtype=np.float64)
    entropy = scipy.stats.entropy(scipy.special.softmax(z, 1), axis=1)
    return entropy / entropy.sum()


# MAD


@pytest.mark.parametrize(('n', 'ds', 'dt'), [(6, 40, 30), (40, 5, 7), (12, 3, 50)])
def test_mad_is_its_definition_for_few_and_for_many_samples(n, ds, dt):
    student, teacher, logits = torch.randn(n, ds), torch.randn(n, dt), 3 * torch.randn(n, 4)
    expected = naive_mad(student, teacher, entropy_shares(logits))
    assert margin_aware_distillation(student, teacher, logits).item() == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize(('n', 'c', 'd'), [(50, 50, 3), (50, 25, 4), (5, 5, 60)])
def test_gram_free_products_equal_those_of_the_gram_matrices(n, c, d):
    x, y = torch.randn(n, d, dtype=torch.float64), torch.randn(n, d + 1, dtype=torch.float64)
    expected = np.einsum('ij,ij->i', *(np.einsum('id,jd->ij', z, z[:c]) for z in (x, y)))
    np.testing.assert_allclose(row_products(x, y, x[:c], y[:c]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(('n', 'ds', 'dt'), [(7, 40, 30), (41, 5, 7)])
def test_halves_of_an_odd_number_of_samples_are_split_after_the_shorter_one(n, ds, dt):
    student, teacher, logits = torch.randn(n, ds), torch.randn(n, dt), torch.randn(n, 4)
    expected = naive_mad(student, teacher, entropy_shares(logits), halves=2)
    found = margin_aware_distillation(student, teacher, logits, parts=2).item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(('n', 'd'), [(8, 40), (60, 4)])
def test_gradient_of_mad_is_that_of_the_definition(n, d):
    student, teacher, logits = torch.randn(n, d), torch.randn(n, d), torch.randn(n, 3)
    ours = student.clone().requires_grad_()
    margin_aware_distillation(ours, teacher, logits).backward()
    exact = student.double().requires_grad_()
    gram_s, gram_t = (
        (g / torch.linalg.vector_norm(g, dim=1, keepdim=True))
        for g in (exact @ exact.T, (teacher @ teacher.T).double())
    )
    weights = torch.from_numpy(entropy_shares(logits))
    (weights[:, None] * (gram_s - gram_t) ** 2).sum().backward()
    torch.testing.assert_close(ours.grad, exact.grad.float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('n', [8, 60])
def test_mad_does_not_depend_on_scale_rotation_or_order(n):
    student, teacher, logits = torch.randn(n, 12), torch.randn(n, 12), torch.randn(n, 3)
    rotation = torch.linalg.qr(torch.randn(12, 12)).Q
    for same in (student, -1e4 * student, 1e-4 * student, student @ rotation):
        assert margin_aware_distillation(same, student, logits).item() == pytest.approx(0, abs=1e-5)
    order = torch.randperm(n)
    before = margin_aware_distillation(student, teacher, logits)
    after = margin_aware_distillation(student[order], teacher[order], logits[order])
    assert before > 0.01
    torch.testing.assert_close(after, before, rtol=1e-5, atol=0)


def test_mad_with_equal_uncertainty_is_batch_times_similarity_preserving_loss():
    student, teacher = torch.randn(10, 30), torch.randn(10, 30)
    logits = torch.stack([torch.randperm(3).float() for _ in range(10)])
    grams = [F.normalize(x @ x.T, dim=1) for x in (student, teacher)]
    expected = 10 * F.mse_loss(*grams)
    torch.testing.assert_close(margin_aware_distillation(student, teacher, logits), expected)


def test_a_sample_without_entropy_has_weight_zero_and_batches_without_entropy_equal_weights():
    student, teacher, logits = torch.randn(6, 20), torch.randn(6, 20), torch.randn(6, 3)
    logits[2] = torch.tensor([0.0, -1e4, 1e4])
    weights = entropy_shares(logits)
    assert weights[2] == 0
    value = margin_aware_distillation(student, teacher, logits).item()
    assert value == pytest.approx(naive_mad(student, teacher, weights), rel=1e-4)
    certain = 1e4 * F.one_hot(torch.arange(6) % 3, 3)
    value = margin_aware_distillation(student, teacher, certain).item()
    assert value == pytest.approx(naive_mad(student, teacher, np.full(6, 1 / 6)), rel=1e-4)


@pytest.mark.parametrize('n', [6, 60])
def test_features_that_are_all_zero_leave_the_gradient_finite(n):
    student = torch.randn(n, 12)
    student[1] = 0
    teacher, logits = torch.randn(n, 12), torch.randn(n, 3)
    teacher[2] = 0
    for features in (student, torch.zeros(n, 12)):
        leaf = features.clone().requires_grad_()
        value = margin_aware_distillation(leaf, teacher, logits)
        value.backward()
        assert value.isfinite()
        assert leaf.grad.abs().max() < 10


def test_mad_stays_in_float32_under_autocast():
    student, teacher, logits = torch.randn(30, 5), torch.randn(30, 5), torch.randn(30, 3)
    expected = margin_aware_distillation(student, teacher, logits)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(margin_aware_distillation(student, teacher, logits), expected)


def teacher_view(method, batch):
    """The teacher's fused maps and logits in eval mode, by way of its public parts."""
    teacher = method.teacher_network
    with torch.no_grad():
        fused = teacher.fusion(teacher.encode(batch.inputs), torch.ones_like(batch.mask))
        return fused, teacher.predict(batch.inputs, torch.ones_like(batch.mask))


def test_classification_distils_the_last_maps_and_official_weighs_columns():
    values = {}
    for variant in ('paper', 'official'):
        torch.manual_seed(1)
        method = mmanet(strong=0, variant=variant, alpha=7.0)
        # A teacher that is certain of some samples and not of others.
        method.teacher_network.decoder.head.weight.mul_(300)
        batch = draw_batch(method.task, subsets(3))
        fused, logits = teacher_view(method, batch)
        values[variant] = method.loss(batch)['loss_mad'].item()
    known = method.teacher_network.decoder.trunk(fused[0]).flatten(1).double()
    ours = method.decoder.trunk(method.fusion(method.encode(batch.inputs), batch.mask)[0])
    grams = [x @ x.T for x in (ours.flatten(1).detach().double(), known)]
    errors = torch.sub(*(g / g.norm(dim=1, keepdim=True) for g in grams)) ** 2
    shares = entropy_shares(logits)
    assert values['paper'] == pytest.approx(7 * float(shares @ errors.sum(1).numpy()), rel=1e-3)
    assert values['official'] == pytest.approx(7 * float(shares @ errors.sum(0).numpy()), rel=1e-3)
    assert values['official'] != pytest.approx(values['paper'], rel=0.02)


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_segmentation_distils_pixels_of_the_three_deepest_scales(variant):
    method = mmanet('segmentation', 2, strong=0, variant=variant, alpha=1.0, grid=4).eval()
    # A teacher that is certain of some pixels and not of others.
    method.teacher_network.decoder.pyramid.requires_grad_(False).apply(
        lambda m: m.weight.mul_(0.3) if isinstance(m, torch.nn.Conv2d) else None
    )
    batch = draw_batch(method.task, subsets(2))
    known, logits = teacher_view(method, batch)
    ours = method.fusion(method.encode(batch.inputs), batch.mask)
    uncertain = logits
    if variant == 'official':
        uncertain = method.teacher_network.decoder.pyramid(known)[2].detach()

    def rows(x, cells):
        return F.adaptive_avg_pool2d(x.detach(), cells).permute(0, 2, 3, 1).flatten(0, 2)

    expected = 0
    halves = 2 if variant == 'official' else 1
    # Only the first of the three maps, which has 8 x 8 pixels, is larger than the grid.
    for scale, cells in ((1, (4, 5)), (2, (4, 4)), (3, (2, 2))):
        weights = entropy_shares(rows(uncertain, cells))
        expected += naive_mad(rows(ours[scale], cells), rows(known[scale], cells), weights, halves)
    assert method.loss(batch)['loss_mad'].item() == pytest.approx(expected, rel=1e-3)


# Mining


def after_dropping(strong, count, classes=3):
    """Class shares where dropping one modality moves the predictions most."""
    full = np.full(classes, 1 / classes)
    scores = {'+'.join(NAMES[:count]): score(tuple(full))}
    for absent in range(count):
        shift = np.linspace(-1, 1, classes) * (0.2 if absent == strong else 0.02 + absent / 100)
        key = '+'.join(n for i, n in enumerate(NAMES[:count]) if i != absent)
        scores[key] = score(tuple(full + shift))
    return scores


@pytest.mark.parametrize(('count', 'strong'), [(c, s) for c in (2, 3, 4) for s in range(c)])
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_mining_finds_the_modality_whose_loss_moves_predictions_most(count, strong, variant):
    method = MMANet(task(count=count), variant=variant)
    method.epoch = 2
    method.on_validation(after_dropping(strong, count))
    masks = subsets(count)
    weak = method.weak(masks)
    assert weak.sum() == 2 ** (count - 1) - 1
    assert torch.equal(weak, ~masks[:, strong])


def test_mining_sums_epochs_between_start_and_begin_alone():
    method = MMANet(task(), mining_start=2, begin_epoch=5)
    assert not method.weak(subsets(3)).any()
    known = []
    for epoch, strong in enumerate([2, 2, 0, 1, 1, 2, 2]):
        method.epoch = epoch
        method.on_validation(after_dropping(strong, 3))
        known.append(method.departure.tolist())
    assert known[0] == known[1] == [0, 0, 0]
    assert known[1] < known[2] < known[3] < known[4]
    assert known[4] == known[5] == known[6]
    assert torch.equal(method.weak(subsets(3)), ~subsets(3)[:, 1])


def test_mining_uses_only_the_full_and_leave_one_out_subsets():
    method = MMANet(task())
    method.epoch = 2
    scores = after_dropping(1, 3)
    scores.update({name: score((1.0, 0.0, 0.0)) for name in NAMES[:3]})
    method.on_validation(scores)
    assert method.strong.tolist() == [False, True, False]


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_classification_mines_the_divergence_of_class_shares(variant):
    official = variant == 'official'
    q, full = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.25, 0.15, 0.3, 0.3])
    if official:
        expected = scipy.stats.entropy(scipy.special.softmax(q), scipy.special.softmax(full))
    else:
        expected = scipy.stats.entropy(q, full)
    found = movement(score(tuple(q)), score(tuple(full)), False, official)
    assert found == pytest.approx(expected, rel=1e-4)
    empty = movement(score((0.5, 0.5, 0.0, 0.0)), score((0.0, 0.0, 0.0, 1.0)), False, official)
    assert np.isfinite(empty)
    assert empty > found


def test_segmentation_mines_the_squared_difference_of_miou():
    method = MMANet(task('segmentation', 3), mining_start=0, begin_epoch=2)
    for epoch in (0, 1):
        method.epoch = epoch
        method.on_validation(
            {
                'rgb+depth+ir': score(mIoU=0.5),
                'depth+ir': score(mIoU=0.4),
                'rgb+ir': score(mIoU=0.75),
                'rgb+depth': score(mIoU=0.45),
            }
        )
    np.testing.assert_allclose(method.departure, [2 * 0.01, 2 * 0.0625, 2 * 0.0025], rtol=1e-5)
    assert method.strong.tolist() == [False, True, False]


def test_released_segmentation_has_a_single_weak_set():
    masks = subsets(3)
    for variant, count in (('paper', 3), ('official', 1)):
        method = mmanet('segmentation', 3, strong=1, variant=variant)
        assert method.weak(masks).sum() == count
        assert method.weak(torch.tensor([[True, False, True]])).all()


def test_a_checkpoint_keeps_the_weak_combinations():
    method = MMANet(task())
    method.epoch = 2
    method.on_validation(after_dropping(2, 3))
    resumed = MMANet(task())
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.weak(subsets(3)), method.weak(subsets(3)))
    resumed.epoch = 3
    resumed.on_validation(after_dropping(0, 3))
    method.epoch = 3
    method.on_validation(after_dropping(0, 3))
    assert torch.equal(resumed.departure, method.departure)


def test_a_mining_window_without_validation_raises_an_error():
    method = MMANet(task())
    method.epoch = 2
    scores = after_dropping(1, 3)
    del scores['rgb+ir']
    with pytest.raises(UserError, match=r"'rgb\+ir'"):
        method.on_validation(scores)
    unmined = mmanet()
    with pytest.raises(UserError, match='2 to 4'):
        unmined.loss(draw_batch(unmined.task, subsets(3)))
    with pytest.raises(UserError, match='mining_start'):
        MMANet(task(), mining_start=5, begin_epoch=5)
    with pytest.raises(UserError, match="did you mean 'official'"):
        MMANet(task(), variant='oficial')


@pytest.mark.parametrize('size', [(64, 128), (31, 40), (45, 33), (60, 80)])
def test_larger_maps_are_pooled_as_by_adaptive_pooling_to_30_by_40(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64).float().requires_grad_()
    expected = F.adaptive_avg_pool2d(x, (30, min(size[1], 40)))
    weights = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), x)
    found = pooled(x, 30)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*torch.autograd.grad((weights * found).sum(), x), wanted)


def test_maps_within_the_grid_stay_as_they_are():
    x = torch.randn(2, 3, 30, 55)
    assert pooled(x, 30) is x


# MAR


def regularizer_errors(method, batch):
    """Cross-entropy of the second decoder per target, float64, from its logits."""
    fused = method.fusion(method.encode(batch.inputs), batch.mask)
    logits = np.asarray(method.regularizer(fused).detach(), dtype=np.float64)
    log_p = scipy.special.log_softmax(logits, 1)
    target = np.where(batch.target == IGNORE, 0, batch.target)
    return -np.take_along_axis(log_p, target[:, None], 1)[:, 0]


def test_mar_sums_weak_samples_over_the_batch_and_official_mixes_all():
    mask = subsets(3).repeat(9, 1)[:60]
    values = {}
    for variant in ('paper', 'official'):
        torch.manual_seed(1)
        method = mmanet(strong=1, variant=variant, beta=0.5)
        batch = draw_batch(method.task, mask)
        values[variant] = method.loss(batch)['loss_mar'].item()
    errors, weak = regularizer_errors(method, batch), ~np.asarray(mask[:, 1])
    assert values['paper'] == pytest.approx(0.5 * errors[weak].sum() / 60, rel=1e-4)
    assert values['official'] == pytest.approx(0.5 * errors.mean() * weak.sum(), rel=1e-4)


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_mar_of_classes_counts_by_class_weight(variant):
    method = MMANet(dataclasses.replace(task(), class_weights=(0.5, 2.0)), variant=variant)
    logits, target = torch.randn(12, 2), torch.arange(12) % 2
    weak = torch.arange(12) % 3 == 0
    p = scipy.special.log_softmax(logits.numpy().astype(float), 1)
    each = np.array((0.5, 2.0))[target] * -p[range(12), target]
    summed = each[weak].sum() if variant == 'paper' else each.sum() * weak.sum().item()
    found = method.weak_loss(weak, logits, target).item()
    assert found == pytest.approx(summed / (6 * 0.5 + 6 * 2.0), rel=1e-5)


@pytest.mark.parametrize('weights', [(), (0.1, 1.0, 3.0)])
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_segmentation_mar_is_the_weighted_mean_over_labelled_pixels_of_weak_samples(
    variant, weights
):
    what = dataclasses.replace(task('segmentation', 2, side=32), class_weights=weights)
    method = MMANet(what, variant=variant, beta=1.0)
    method.set_teacher(Complete(what))
    method.epoch, method.epochs = 6, 100
    method.strong[0] = True
    batch = draw_batch(what, subsets(2).repeat(2, 1))
    batch.target[:, :5] = IGNORE
    weak = ~np.asarray(batch.mask[:, 0])
    errors, labels = regularizer_errors(method, batch)[weak, 5:], batch.target[weak, 5:].numpy()
    each = np.array(weights or (1, 1, 1))[labels]
    expected = (each * errors).sum() / each.sum()
    assert method.loss(batch)['loss_mar'].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('name', ['casia_surf', 'cefa'])
def test_on_faces_terms_start_after_as_many_learning_epochs_as_released(name):
    method = MMANet(task(), **MMANet.settings[name])
    method.set_teacher(Complete(method.task))
    method.epochs = 100
    batch, mined, distilled = draw_batch(method.task, subsets(3)), [], []
    # The released run mines its epochs 2, 3 and 4 and distils from epoch 6 on, but does nothing in
    # epoch 0 and has the learning rate 0 in epoch 1.
    for epoch in range(8):
        method.epoch = epoch
        if 'loss_mad' in method.loss(batch):
            distilled.append(epoch + 2)
        before = method.departure.clone()
        method.on_validation(after_dropping(0, 3))
        if not torch.equal(before, method.departure):
            mined.append(epoch + 2)
    assert mined == [2, 3, 4]
    assert distilled == [6, 7, 8, 9]


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_mar_depends_on_the_labels_of_weak_samples_alone(kind):
    method = mmanet(kind, 3, strong=2)
    batch = draw_batch(method.task, subsets(3))
    weak = ~batch.mask[:, 2]
    before = method.loss(batch)
    for chosen, same in ((~weak, True), (weak, False)):
        target = batch.target.clone()
        target[chosen] = (target[chosen] + 1) % 3
        after = method.loss(batch._replace(target=target))
        assert torch.equal(after['loss_mar'], before['loss_mar']) is same
        assert not torch.equal(after['loss_task'], before['loss_task'])


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
@pytest.mark.parametrize('count', [1, 3])
def test_mar_is_zero_without_weak_samples(kind, count):
    method = mmanet(kind, count, strong=None if count == 1 else 0)
    mask = subsets(count).repeat(2, 1)
    losses = method.loss(draw_batch(method.task, mask[mask[:, 0]]))
    assert losses['loss_mar'] == 0
    method.parse_losses(losses)[0].backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


# Other combinations, starts and fusions


@pytest.mark.parametrize('variant', ['paper', 'official'])
@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_mar_takes_single_modalities_or_all_combinations_without_mining(kind, variant):
    sizes = subsets(3).sum(1)
    for weak, expected in (('single', sizes == 1), ('all', sizes > 0)):
        method = mmanet(kind, 3, weak=weak, variant=variant)
        assert torch.equal(method.weak(subsets(3)), expected)
        before, method.epoch = method.departure.clone(), 3
        method.on_validation({})
        assert torch.equal(method.departure, before)
        method.epoch = 6
        batch = draw_batch(method.task, subsets(3))
        errors = regularizer_errors(method, batch)
        found = method.loss(batch)['loss_mar'].item() / method.beta
        if kind == 'segmentation':
            wanted = errors[expected.numpy()].mean()
        elif variant == 'paper':
            wanted = errors[expected.numpy()].sum() / 7
        else:
            wanted = errors.mean() * int(expected.sum())
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize('name', ['crema_d', 'kinetics_sounds'])
def test_on_sound_and_picture_mad_starts_at_once_and_mar_after_epoch_5(name):
    method = mmanet(count=2, **MMANet.settings[name])
    method.epochs, batch = 100, draw_batch(task(count=2), subsets(2))
    seen = []
    for epoch in range(8):
        method.epoch = epoch
        seen.append({'loss_mad', 'loss_mar'} & set(method.loss(batch)))
    assert seen == [{'loss_mad'}] * 6 + [{'loss_mad', 'loss_mar'}] * 2
    assert method.weak(subsets(2)).tolist() == [False, True, True]
    assert (method.alpha, method.beta) == (0.5, 0.01)


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_with_moments_the_network_is_hemis_and_every_parameter_is_trained(kind, variant):
    method = mmanet(kind, 3, strong=0, fusion='moments', variant=variant)
    batch = draw_batch(method.task, subsets(3))
    losses = method.loss(batch)
    method.parse_losses(losses)[0].backward()
    assert set(losses) == {'loss_task', 'loss_mad', 'loss_mar'}
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.parameters())
    plain, own = HeMIS(method.task, variant=variant), method.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    expected = plain.eval().predict(batch.inputs, batch.mask)
    assert torch.equal(method.eval().predict(batch.inputs, batch.mask), expected)


@pytest.mark.parametrize('option', [{'weak': 'singel'}, {'fusion': 'moment'}])
def test_misspelt_choices_are_told_with_the_nearest_one(option):
    with pytest.raises(UserError, match="of mmanet.*did you mean '(single|moments)'"):
        MMANet(task(), **option)


def test_esanet_which_fuses_by_itself_refuses_moments():
    what = dataclasses.replace(task('segmentation', 2, side=32), network='esanet')
    with pytest.raises(UserError, match='expected network=pyramid'):
        MMANet(what, fusion='moments')


def test_a_short_training_tells_which_of_its_terms_comes_early():
    notes = MMANet.schedule_notes({'begin_epoch': 5, 'mad_after': -1}, 4)
    assert len(notes) == 1
    assert notes[0].startswith('L_MAR starts after 2 of 4 epochs')


# The method as a whole


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_loss_is_the_task_loss_until_begin_epoch_and_three_terms_after(kind):
    method = mmanet(kind, 2, strong=0, alpha=2.0, beta=3.0)
    batch = draw_batch(method.task, subsets(2))
    unweighted = mmanet(kind, 2, strong=0, alpha=1.0, beta=1.0)
    unweighted.load_state_dict(method.state_dict())
    unweighted.set_teacher(method.teacher_network)
    plain = method.task_loss(method.predict(batch.inputs, batch.mask), batch.target)
    teacher, method._teacher = method._teacher, ()
    for epoch in (0, method.begin_epoch):
        method.epoch = epoch
        assert list(method.loss(batch)) == ['loss_task']
        torch.testing.assert_close(method.loss(batch)['loss_task'], plain)
    method._teacher = teacher
    method.epoch += 1
    losses, terms = method.loss(batch), unweighted.loss(batch)
    torch.testing.assert_close(losses['loss_mad'], 2 * terms['loss_mad'])
    torch.testing.assert_close(losses['loss_mar'], 3 * terms['loss_mar'])
    total = plain + 2 * terms['loss_mad'] + 3 * terms['loss_mar']
    torch.testing.assert_close(method.parse_losses(losses)[0], total)


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_deployed_network_is_the_plain_one_bit_for_bit(kind):
    method = mmanet(kind, 3, strong=0).eval()
    plain = Complete(method.task).eval()
    deployed = {k: v for k, v in method.state_dict().items() if k in plain.state_dict()}
    plain.load_state_dict(deployed)
    left = {k.partition('.')[0] for k in method.state_dict()} - {'encoders', 'fusion', 'decoder'}
    assert left == {'regularizer', 'departure', 'strong'}
    mask = subsets(3)
    inputs = draw_batch(method.task, mask).inputs
    method.regularizer = None
    assert torch.equal(method.predict(inputs, mask), plain.predict(inputs, mask))


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_a_masked_modality_changes_nothing(kind):
    method = mmanet(kind, 3).eval()
    for mask in subsets(3):
        inputs = draw_batch(method.task, mask[None]).inputs
        before = method.predict(inputs, mask[None])
        for name, there in zip(NAMES, mask.tolist(), strict=False):
            noise = {**inputs, name: torch.randn_like(inputs[name])}
            assert torch.equal(method.predict(noise, mask[None]), before) is not there


def test_no_gradient_reaches_the_features_of_a_masked_modality():
    method = mmanet(strong=0)
    seen = {}
    for name in method.task.names:
        method.encoders[name].register_forward_hook(
            lambda _, __, maps, name=name: maps[0].retain_grad() or seen.update({name: maps[0]})
        )
    batch = draw_batch(method.task, subsets(3))
    method.parse_losses(method.loss(batch))[0].backward()
    for m, name in enumerate(method.task.names):
        reached = seen[name].grad.flatten(1).abs().amax(1) > 0
        assert torch.equal(reached, batch.mask[:, m])


@pytest.mark.parametrize('variant', ['paper', 'official'])
@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_a_step_trains_every_parameter_and_leaves_the_teacher_unchanged(kind, variant):
    method = mmanet(kind, 2, strong=1, variant=variant).train()
    teacher = method.teacher_network
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    own = {id(p) for p in method.parameters()}
    assert not own & {id(p) for p in teacher.parameters()}
    batch = draw_batch(method.task, subsets(2).repeat(2, 1))
    total = method.parse_losses(method.loss(batch))[0]
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize('variant', ['paper', 'official'])
@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_a_training_step_never_waits_for_the_device(kind, variant, monkeypatch):
    # Tensors without content cannot be waited for; autocast does not know their device.
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: contextlib.nullcontext())
    method = mmanet(kind, 2, strong=1, variant=variant)
    method._require_mined()
    teacher = method.teacher_network.to('meta')
    method.to('meta').set_teacher(teacher)
    batch = draw_batch(method.task, subsets(2))
    inputs = {name: x.to('meta') for name, x in batch.inputs.items()}
    batch = Batch(inputs, *(x.to('meta') for x in batch[1:5]))
    method.parse_losses(method.loss(batch))[0].backward()


def test_the_plain_network_has_the_size_of_the_papers():
    modalities = tuple(Modality(name, (3, 112, 112)) for name in NAMES[:3])
    what = Task('casia_surf', 'classification', modalities, ('spoof', 'live'), 'ACER', width=64)
    method = MMANet(what)
    deployed = sum(
        p.numel() for k, p in method.named_parameters() if not k.startswith('regularizer')
    )
    # The figure of the released network.
    assert round(deployed / 1e6, 3) == 13.183
    every = sum(p.numel() for p in method.parameters())
    assert every - deployed == pytest.approx((24.33 - 13.18) * 1e6, abs=0.02e6)
