"""The distillation losses against float64 references, and the ablation that they make up."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from sklearn.metrics.pairwise import cosine_similarity
from tasks import TASKS, batch_of, images

from benchmark.errors import UserError
from benchmark.missing import subset_masks
from methods.common.distillation import (
    attention_transfer,
    hint,
    logit_regression,
    margin_aware_distillation,
    probabilistic_transfer,
    similarity_preserving,
    soft_target,
)
from methods.complete import Complete
from methods.distilled import WEIGHTS, Distilled
from methods.mmanet import MMANet

FACES = dataclasses.replace(TASKS['faces'], modalities=images(48, 3, 1))
LARGE = {'faces': FACES, 'rooms': TASKS['rooms']}
KINDS = ['faces', 'rooms']
BETWEEN_MAPS = {
    'fitnet': hint,
    'at': attention_transfer,
    'sp': lambda s, t: similarity_preserving(s.flatten(1), t.flatten(1)),
    'pkt': lambda s, t: probabilistic_transfer(s.flatten(1), t.flatten(1)),
}
BETWEEN_LOGITS = {'logits': logit_regression, 'soft_target': lambda s, t: soft_target(s, t, 2.0)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def wide(x):
    return np.asarray(x.detach(), dtype=np.float64)


# The losses


@pytest.mark.parametrize('shape', [(5, 3), (2, 4, 3, 5)])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_soft_target_is_the_mean_relative_entropy_of_softened_classes(shape, temperature):
    student, teacher = 5 * torch.randn(shape), 5 * torch.randn(shape)
    p, q = (scipy.special.softmax(wide(z) / temperature, 1) for z in (teacher, student))
    expected = temperature**2 * scipy.stats.entropy(p, q, axis=1).mean()
    assert soft_target(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_soft_target_at_high_temperature_regresses_centred_logits():
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    s, t = (wide(z) - wide(z).mean(1, keepdims=True) for z in (student, teacher))
    found = soft_target(student.double(), teacher.double(), 100.0).item()
    assert found == pytest.approx(((s - t) ** 2).mean() / 2, rel=0.02)


@pytest.mark.parametrize('loss', [hint, logit_regression])
def test_regressions_are_the_mean_squared_difference(loss):
    student, teacher = torch.randn(4, 6, 3, 5), torch.randn(4, 6, 3, 5)
    expected = ((wide(student) - wide(teacher)) ** 2).mean()
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_attention_transfer_compares_unit_maps_of_squared_activations():
    student, teacher = torch.randn(4, 6, 3, 5), torch.randn(4, 8, 3, 5)
    total = 0.0
    for s, t in zip(wide(student), wide(teacher), strict=True):
        a, b = ((x**2).sum(0) for x in (s, t))
        total += ((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum()
    found = attention_transfer(student, teacher).item()
    assert found == pytest.approx(total / (4 * 3 * 5), rel=1e-5)


@pytest.mark.parametrize(('n', 'ds', 'dt'), [(6, 40, 30), (50, 4, 5)])
def test_similarity_preserving_is_n_times_the_mean_over_pairs(n, ds, dt):
    student, teacher = torch.randn(n, ds), torch.randn(n, dt)
    grams = [wide(x) @ wide(x).T for x in (student, teacher)]
    gs, gt = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in grams)
    expected = n * ((gs - gt) ** 2).mean()
    found = similarity_preserving(student, teacher).item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('n', [6, 50])
def test_similarity_preserving_is_mad_with_equal_uncertainty(n):
    student, teacher = torch.randn(n, 8), torch.randn(n, 8)
    mad = margin_aware_distillation(student, teacher, torch.zeros(n, 3))
    torch.testing.assert_close(similarity_preserving(student, teacher), mad)


def test_probabilistic_transfer_is_the_mean_relative_entropy_of_neighbours():
    student, teacher = torch.randn(9, 4), torch.randn(9, 7)
    p, q = ((cosine_similarity(wide(x)) + 1) / 2 for x in (teacher, student))
    expected = scipy.stats.entropy(p, q, axis=1).mean()
    found = probabilistic_transfer(student, teacher).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_opposite_samples_leave_probabilistic_transfer_finite():
    x = torch.randn(3, 5)
    student = torch.cat([x, -x]).requires_grad_()
    loss = probabilistic_transfer(student, torch.randn(6, 5))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize('name', [*BETWEEN_MAPS, *BETWEEN_LOGITS])
def test_the_loss_is_zero_for_equal_networks(name):
    loss = {**BETWEEN_MAPS, **BETWEEN_LOGITS}[name]
    known, other = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    assert loss(known.clone(), known).item() == pytest.approx(0, abs=1e-6)
    assert loss(other, known) > 1e-3


@pytest.mark.parametrize('name', ['at', 'sp', 'pkt'])
def test_losses_on_relations_do_not_depend_on_scale_or_order(name):
    loss = BETWEEN_MAPS[name]
    student, teacher = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    expected, order = loss(student, teacher), torch.randperm(6)
    for s, t in ((7 * student, teacher), (student, teacher / 9), (student[order], teacher[order])):
        torch.testing.assert_close(loss(s, t), expected, rtol=1e-4, atol=1e-7)
    channels = torch.randperm(4)
    torch.testing.assert_close(loss(student[:, channels], teacher), expected)


@pytest.mark.parametrize('name', ['sp', 'pkt'])
def test_losses_on_similarities_do_not_depend_on_rotation_of_the_features(name):
    student, teacher = torch.randn(6, 12), torch.randn(6, 12)
    rotation = torch.linalg.qr(torch.randn(12, 12)).Q
    loss = BETWEEN_MAPS[name]
    torch.testing.assert_close(
        loss(student @ rotation, teacher), loss(student, teacher), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize('name', [*BETWEEN_MAPS, *BETWEEN_LOGITS])
def test_losses_keep_to_float32_under_autocast(name):
    loss = {**BETWEEN_MAPS, **BETWEEN_LOGITS}[name]
    student, teacher = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    expected = loss(student, teacher)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(loss(student, teacher), expected)
        half = loss(student.bfloat16(), teacher.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize('name', BETWEEN_MAPS)
def test_dead_features_and_single_samples_stay_finite(name):
    teacher = torch.randn(5, 4, 3, 3)
    dead = torch.randn(5, 4, 3, 3)
    dead[1] = 0
    for student, known in ((dead, teacher), (0 * dead, teacher), (dead[:1], teacher[:1])):
        leaf = student.clone().requires_grad_()
        loss = BETWEEN_MAPS[name](leaf, known)
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad.isfinite().all()


# The method


def distilled(kind, epoch=6, seed=0, cls=Distilled, **options):
    torch.manual_seed(seed)
    method = cls(LARGE[kind], **options)
    method.set_teacher(Complete(LARGE[kind]))
    method.epoch, method.epochs = epoch, 100
    return method


def every_subset(kind, count=6):
    task = LARGE[kind]
    masks = torch.from_numpy(subset_masks(len(task.names)))
    return batch_of(task, count)._replace(mask=masks.repeat(count, 1)[:count])


def views(method, batch):
    """Maps and logits of student and teacher, by way of their public parts."""
    teacher = method.teacher_network
    student_maps = method.decoder.maps(method.fusion(method.encode(batch.inputs), batch.mask))
    teacher_maps = teacher.decoder.maps(
        teacher.fusion(teacher.encode(batch.inputs), torch.ones_like(batch.mask))
    )
    logits = method.predict(batch.inputs, batch.mask)
    return student_maps, teacher_maps, logits, teacher.predict(batch.inputs, batch.available)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', BETWEEN_LOGITS)
def test_logits_are_compared_with_the_teacher_s_on_all_modalities(kind, name):
    method, batch = distilled(kind, loss=name, alpha=3.0).eval(), every_subset(kind)
    *_, logits, target = views(method, batch)
    expected = 3 * BETWEEN_LOGITS[name](logits, target)
    torch.testing.assert_close(method.loss(batch)['loss_distill'], expected)


def test_attention_is_transferred_from_both_stages_of_a_classifier():
    method, batch = distilled('faces', loss='at', alpha=3.0).eval(), every_subset('faces')
    seen = {}

    def keep(name):
        return lambda _, __, output: seen.setdefault(name, []).append(output)

    for side, network in (('student', method), ('teacher', method.teacher_network)):
        for stage in network.decoder.trunk:
            stage.register_forward_hook(keep(side))
    found = method.loss(batch)['loss_distill']
    assert [len(maps) for maps in seen.values()] == [2, 2]
    pairs = zip(seen['student'], seen['teacher'], strict=True)
    torch.testing.assert_close(found, 3 * sum(BETWEEN_MAPS['at'](s, t) for s, t in pairs))


@pytest.mark.parametrize('name', sorted({*BETWEEN_MAPS} - {'at'}))
def test_classification_compares_the_last_map(name):
    method, batch = distilled('faces', loss=name, alpha=3.0).eval(), every_subset('faces')
    (student,), (teacher,), *_ = views(method, batch)
    expected = 3 * BETWEEN_MAPS[name](student, teacher)
    torch.testing.assert_close(method.loss(batch)['loss_distill'], expected)


@pytest.mark.parametrize('name', ['fitnet', 'at'])
def test_segmentation_sums_the_maps_of_the_three_deepest_scales(name):
    method, batch = distilled('rooms', loss=name, alpha=3.0).eval(), every_subset('rooms')
    student, teacher, *_ = views(method, batch)
    expected = 3 * sum(BETWEEN_MAPS[name](student[i], teacher[i]) for i in (1, 2, 3))
    torch.testing.assert_close(method.loss(batch)['loss_distill'], expected)


@pytest.mark.parametrize('name', ['sp', 'pkt'])
def test_segmentation_relates_the_pooled_pixels_of_the_batch(name):
    method, batch = distilled('rooms', loss=name, alpha=3.0, grid=4).eval(), every_subset('rooms')
    student, teacher, *_ = views(method, batch)

    def rows(x, cells):
        cells = torch.nn.functional.adaptive_avg_pool2d(x, cells)
        return torch.from_numpy(np.concatenate([b.reshape(len(b), -1).T for b in wide(cells)]))

    # Only the first of the three maps, which has 8 x 8 pixels, is larger than the grid.
    grids = ((1, (4, 5)), (2, (4, 4)), (3, (2, 2)))
    pairs = [(rows(student[i], cells), rows(teacher[i], cells)) for i, cells in grids]
    expected = 3 * sum(BETWEEN_MAPS[name](s, t) for s, t in pairs)
    torch.testing.assert_close(
        method.loss(batch)['loss_distill'], expected.float(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize('kind', KINDS)
def test_mad_equals_mmanet_with_beta_0(kind):
    ours = distilled(kind, loss='mad').train()
    reference = distilled(kind, cls=MMANet, beta=0.0).train()
    reference.strong[0] = True
    reference.teacher_network.load_state_dict(ours.teacher_network.state_dict())
    batch = every_subset(kind)
    for epoch in (0, 5, 6):
        totals = []
        for method in (ours, reference):
            method.zero_grad()
            method.epoch = epoch
            totals.append(method.parse_losses(method.loss(batch))[0])
            totals[-1].backward()
        assert torch.equal(*totals)
        gradients = dict(reference.named_parameters())
        for name, parameter in ours.named_parameters():
            assert torch.equal(parameter.grad, gradients[name].grad), name


def test_mad_has_the_weight_that_mmanet_has_on_the_dataset():
    for dataset, settings in MMANet.settings.items():
        task = dataclasses.replace(FACES, dataset=dataset)
        assert Distilled(task, loss='mad').alpha == settings['alpha']
        assert Distilled(task, loss='mad', alpha='2.5').alpha == 2.5
        assert Distilled(task, loss='sp').alpha == WEIGHTS['sp']
        elsewhere = {'alpha', 'mad_after', 'weak'}
        expected = {k: v for k, v in settings.items() if k not in elsewhere}
        assert Distilled.settings[dataset] == expected


def test_losses_have_the_weights_of_their_sources():
    # The factors 3,000 and 30,000 are those of means over pairs of MMANet's batches of 64.
    usual = {'logits': 1, 'soft_target': 0.9 / 0.1, 'fitnet': 100, 'at': 1000, 'mad': 30}
    usual |= {'sp': 3000 / 64, 'pkt': 30000 / 64}
    task = dataclasses.replace(FACES, dataset='toy')
    assert {loss: Distilled(task, loss=loss).alpha for loss in usual} == pytest.approx(usual)
    assert WEIGHTS.keys() == usual.keys()
    assert Distilled(task).temperature == 2


@pytest.mark.parametrize('kind', KINDS)
def test_mad_with_mar_equals_mmanet(kind):
    ours, reference = distilled(kind, loss='mad', mar=True), distilled(kind, cls=MMANet)
    for method in (ours, reference):
        method.strong[1] = True
    found, expected = ours.loss(every_subset(kind)), reference.loss(every_subset(kind))
    assert [found[k].item() for k in ('loss_task', 'loss_distill', 'loss_mar')] == [
        expected[k].item() for k in ('loss_task', 'loss_mad', 'loss_mar')
    ]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', WEIGHTS)
def test_gradients_reach_every_parameter_of_the_student_and_none_of_the_teacher(kind, name):
    method = distilled(kind, loss=name).train()
    teacher, batch = method.teacher_network, every_subset(kind)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    losses = method.loss(batch)
    assert set(losses) == {'loss_task', 'loss_distill'}
    losses['loss_distill'].backward(retain_graph=True)
    assert all(p.grad.any() for p in method.encoders.parameters() if p.dim() > 1)
    losses['loss_task'].backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_distillation_starts_after_begin_epoch():
    method, batch = distilled('faces', loss='sp', begin_epoch=3), every_subset('faces')
    for epoch, terms in ((0, 1), (3, 1), (4, 2)):
        method.epoch = epoch
        assert len(method.loss(batch)) == terms
    method = distilled('faces', loss='sp', begin_epoch=-1, epoch=0)
    assert len(method.loss(batch)) == 2


def test_without_mar_there_is_no_second_decoder_and_no_mining():
    plain = distilled('faces')
    assert not [name for name in plain.state_dict() if name.startswith('regularizer')]
    plain.on_validation({})  # nothing is mined
    assert not plain.strong.any()


def test_wrong_options_and_tasks_raise_errors_that_name_them():
    with pytest.raises(UserError, match="did you mean 'soft_target'"):
        Distilled(FACES, loss='softtarget')
    with pytest.raises(UserError, match="distilled:alpha: expected a number or 'auto'"):
        Distilled(FACES, alpha='much')
    with pytest.raises(UserError, match='mining_start'):
        Distilled(FACES, mar=True, mining_start=9)
    attention = Distilled(TASKS['vectors'], loss='at')
    with pytest.raises(UserError, match='1x1'):
        attention.loss(batch_of(TASKS['vectors']))
