"""PASSION: its distillation, its prototypes, its weights and a whole step."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity
from tasks import TASKS, VOLUMES, batch_of

from benchmark.errors import UserError
from benchmark.method import IGNORE
from methods.common.self_distillation import (
    clamped_divergence,
    divergence,
    prototype_gaps,
    rebalanced,
    weak,
)
from methods.passion import Passion

T = 4.0
TASKS = {**TASKS, 'volumes': VOLUMES}


def made(kind='faces', **options):
    torch.manual_seed(0)
    return Passion(TASKS[kind], **options).eval()


def close(found, expected, rtol=1e-4):
    expected = torch.as_tensor(np.asarray(expected)).to(found.dtype)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-6)


def softened(logits):
    """Softmax at the temperature, classes last: one distribution for each row."""
    z = logits.numpy().astype(np.float64) / T
    z = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1])
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def kl_of(student, teacher):
    """T^2 KL of each sample, averaged over its pixels, by scipy."""
    each = T**2 * entropy(softened(teacher), softened(student), axis=1)
    return each.reshape(len(student), -1).mean(1)


@pytest.mark.parametrize('place', [(), (5, 6)])
def test_the_divergence_is_that_of_scipy_and_zero_for_equal_logits(place):
    torch.manual_seed(1)
    student, teacher = 5 * torch.randn(2, 3, 4, *place)
    close(divergence(student, teacher, T), kl_of(student, teacher))
    assert not divergence(teacher, teacher, T).any()


def test_the_released_divergence_is_averaged_over_classes_and_bounds_probabilities():
    q = torch.tensor([[0.999, 0.001], [0.5, 0.5]])
    p = torch.tensor([[0.4, 0.6], [1.0, 0.0]])
    expected = [
        16 * (0.4 * np.log(0.4 / 0.999) + 0.6 * np.log(0.6 / 0.005)) / 2,
        16 * (1.0 * np.log(1.0 / 0.5) + 0.005 * np.log(0.005 / 0.5)) / 2,
    ]
    close(clamped_divergence(q, p, T), expected)


def gaps_of(student, teacher, label, classes):
    """For one group, (P, C) each and labels (P,): squared and absolute gaps of each feature."""
    maps = []
    for x in (student, teacher):
        prototypes = [x[label == k].mean(0) for k in classes if (label == k).any()]
        maps.append(cosine_similarity(x, np.stack(prototypes)))
    gap = maps[0] - maps[1]
    return (gap**2).mean(1), np.abs(gap).mean(1)


def test_cosines_with_the_prototypes_of_the_classes_that_are_there_are_compared():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 2, 5, 30))
    label = np.stack([rng.integers(4, size=30), rng.integers(2, size=30)])  # two classes, in one
    members = torch.from_numpy(np.eye(4)[label].transpose(0, 2, 1)).float()
    found = prototype_gaps(*(torch.from_numpy(x).float() for x in (student, teacher)), members)
    for group in range(2):
        expected = gaps_of(student[group].T, teacher[group].T, label[group], range(4))
        close(found[0][group], expected[0], 1e-3)
        close(found[1][group], expected[1], 1e-3)
    none = prototype_gaps(torch.ones(1, 5, 3), torch.ones(1, 5, 3), torch.zeros(1, 4, 3))
    assert not none[0].any()
    assert not none[1].any()


def test_a_label_counts_on_the_map_by_the_share_of_its_pixels():
    # Prototypes over pixels of an enlarged map are those over its cells with shares of labels.
    rng = np.random.default_rng(1)
    method, batch = made('rooms'), batch_of(TASKS['rooms'], 2)
    maps = torch.from_numpy(rng.standard_normal((6, 8, 16, 16))).float()  # half of 32 x 32
    batch.target[0, :4] = IGNORE
    mask = torch.ones(2, 2, dtype=torch.bool)
    mask[1, 0] = False
    squares, distances = method.gaps(maps, batch._replace(mask=mask))
    large = np.kron(maps.numpy(), np.ones((2, 2))).reshape(3, 2, 8, -1).transpose(0, 1, 3, 2)
    for m in range(2):
        for row in range(2):
            label = batch.target[row].numpy().ravel()
            expected = gaps_of(large[m + 1, row], large[0, row], label, range(3))
            there = float(mask[row, m])
            close(squares[m, row], there * expected[0].mean(), 1e-3)
            close(distances[m, row], there * expected[1].mean(), 1e-3)


def test_in_classification_the_samples_that_have_a_modality_are_the_pixels():
    rng = np.random.default_rng(2)
    method, batch = made(), batch_of(TASKS['faces'], 12)
    features = rng.standard_normal((4, 12, 8)).astype(np.float32)
    found = method.gaps(torch.from_numpy(features).view(48, 8, 1, 1), batch)
    for m in range(3):
        rows = batch.mask[:, m].numpy()
        label = batch.target.numpy()[rows]
        assert set(label) == {0, 1}
        expected = gaps_of(features[m + 1][rows], features[0][rows], label, range(2))
        for one, values in zip(found, expected, strict=True):
            close(one[m][batch.mask[:, m]], values, 1e-3)
            assert not one[m][~batch.mask[:, m]].any()


def test_a_modality_is_weak_if_the_sum_of_preferences_is_negative():
    rng = np.random.default_rng(3)
    for _ in range(20):
        present = rng.random((5, 4)) < 0.6  # samples, modalities
        distances = np.where(present, rng.random((5, 4)), 0)
        distances[present.sum(1) == 1] = 0  # a single modality is its own teacher
        preference = np.zeros(4)
        for d, there in zip(distances, present, strict=True):
            if there.sum() > 1:
                preference += there * (1 - d / (d.sum() / there.sum()))
        found = weak(torch.from_numpy(distances.T), torch.from_numpy(present.T))
        np.testing.assert_array_equal(found, preference < -1e-12)


def test_weights_move_towards_the_modalities_that_are_far_from_the_teacher():
    weights, distances = np.array([1.2, 0.9, 1.1, 0.8]), np.array([0.1, 0.4, 0.2, 0.3])
    preference = (distances.mean() - distances) / distances.mean()
    moved = weights - 0.3 * preference
    expected = 2 * moved / np.sqrt((moved**2).sum())  # of four modalities
    found = rebalanced(torch.tensor(weights), torch.tensor(distances), 0.3)
    close(found, expected)
    assert found[1] / found[0] > weights[1] / weights[0]
    bounded = rebalanced(torch.tensor([0.1, 5.0]), torch.tensor([0.0, 2.0]), 1.0)
    close(bounded[1] / bounded[0], 40.0)  # 0.1 - 1 -> 0.1 and 5 + 1 -> 4
    close(
        rebalanced(torch.tensor([0.6, 0.8]), torch.zeros(2), 1.0), np.sqrt(2) * np.array([0.6, 0.8])
    )


def parts_of(method, batch):
    """What a step computes, by separate passes: D (M, B), KL (M, B), P (M, B), task losses (M,)."""
    names = method.task.names
    features = method.encode(batch.inputs)
    teacher, own, students = method.predict(batch.inputs, batch.mask), [], []
    for m, there in enumerate(batch.mask.T):
        alone = torch.zeros_like(batch.mask)
        alone[:, m] = True
        students.append(method.predict(batch.inputs, alone)[there])
        logits = method.separate(features[names[m]])[there]
        own.append(method.task_loss(logits, batch.target[there]))
    return teacher, students, own


@torch.no_grad()
@pytest.mark.parametrize('kind', ['faces', 'rooms', 'volumes'])
def test_a_step_is_the_sum_of_its_terms(kind):
    method = made(kind, separate=0.7, distillation=0.3, prototypes=2.0)
    count, seen, shown = len(TASKS[kind].names), 0, 0
    method.weights.copy_(torch.linspace(0.5, 1.5, count))
    method._opened = method.epoch
    for seed in range(2):
        batch = batch_of(TASKS[kind], 7, seed)
        losses = method.loss(batch)
        teacher, students, own = parts_of(method, batch)
        kl = [
            kl_of(z, teacher[there]).sum() for z, there in zip(students, batch.mask.T, strict=True)
        ]
        seen, shown = seen + 7, shown + batch.mask.sum(0).numpy()
        factor = seen / shown / 7  # all samples / samples with m, averaged over the batch
        w, here = method.weights.numpy(), batch.mask.sum(0).numpy()
        _, maps, _ = method.decoded(method.views(method.encode(batch.inputs), batch.mask))
        squares, distances = method.gaps(maps, batch)
        more = weak(distances, batch.mask.T).numpy()
        assert 0 < more.sum() < count
        close(losses['loss_distillation'], 0.3 * (w * factor * kl).sum(), 1e-3)
        close(losses['loss_separate'], 0.7 * (more * w * factor * here * own).sum(), 1e-3)
        close(losses['loss_prototypes'], 2 * (more * factor * squares.sum(1).numpy()).sum(), 1e-3)
        close(losses['loss_task'], method.task_loss(teacher, batch.target))
        assert losses.keys() >= {f'weight {m}' for m in range(count)}


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_students_learn_from_the_teacher_and_not_the_other_way_round(variant):
    method, batch = made(variant=variant), batch_of(TASKS['faces'])
    logits = torch.randn(24, 2, requires_grad=True)
    features = torch.randn(24, 8, 1, 1, requires_grad=True)
    method.divergences(logits, [], 3).sum().backward()
    method.gaps(features, batch)[0].sum().backward()
    for x in (logits, features):
        assert not x.grad[:6].any()
        assert x.grad[6:].any()


@torch.no_grad()
@pytest.mark.parametrize(('variant', 'rate'), [('paper', 0.2), ('official', 0.2 * 1.5**2)])
def test_weights_follow_the_distances_of_an_epoch_also_in_a_resumed_run(variant, rate):
    method = made(rate=0.2, variant=variant)
    method.epoch, sums, counts = 150, np.zeros(3), np.zeros(3)
    for seed in range(2):
        batch = batch_of(TASKS['faces'], 8, seed)
        method.loss(batch)
        _, maps, _ = method.decoded(method.views(method.encode(batch.inputs), batch.mask))
        sums += method.gaps(maps, batch)[1].sum(1).numpy()
        counts += batch.mask.sum(0).numpy()
    close(method.weights, np.ones(3))
    resumed = made(rate=0.2, variant=variant)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    means = sums / counts
    moved = np.clip(1 - rate * (1 - means / means.mean()), 0.1, 4)
    for network in (method, resumed):
        network.epoch = 151
        network.loss(batch_of(TASKS['faces'], 8, 2))
        close(network.weights, np.sqrt(3) * moved / np.linalg.norm(moved))
    assert torch.equal(method.shown, resumed.shown)
    assert method.shown[:, 0].tolist() == [24, 8]


@torch.no_grad()
def test_a_modality_that_nobody_has_keeps_its_weight():
    method, batch = made(), batch_of(TASKS['faces'])
    mask = torch.tensor([True, True, False]).expand(6, -1)
    losses = method.loss(batch._replace(available=mask, mask=mask))
    assert all(value.isfinite() for value in losses.values())
    method.epoch = 1
    method.loss(batch)
    # Its preference is 0, and those of the two others add up to 0.
    close((method.weights[0] + method.weights[1]) / method.weights[2], 2.0, 1e-6)
    assert method.weights[0] != method.weights[1]


@torch.no_grad()
def test_the_official_variant_supervises_and_distils_every_map_of_the_pyramid():
    method, batch = made('rooms', variant='official'), batch_of(TASKS['rooms'], 3)
    losses = method.loss(batch)
    logits, _, sides = method.decoded(method.views(method.encode(batch.inputs), batch.mask))
    assert len(sides) == 4
    deep, kl = 0.0, 0.0
    for k, z in enumerate([logits, *sides]):
        maps = ((z / t).softmax(1) for t in (1.0, T))
        resized = (F.interpolate(x, (32, 32), mode='bilinear', align_corners=True) for x in maps)
        p, soft = (x.clamp(1e-7) for x in resized)
        if k:
            deep += 0.5**k * method.task_loss(p[:3].log(), batch.target).item()
        teacher, *students = soft.clamp(0.005).split(3)
        for m, q in enumerate(students):
            each = 16 * (teacher * (teacher / q).log()).mean((1, 2, 3))
            there = batch.mask[:, m]
            kl += 0.5**k * each[there].sum().item() / there.sum().item()
    close(losses['loss_deep'], deep)
    close(losses['loss_distillation'], 0.5 * kl)


def test_bad_options_are_named_in_one_line():
    with pytest.raises(UserError, match='temperature: expected more than 0, found 0'):
        made(temperature=0.0)
    with pytest.raises(UserError, match='official'):
        made(variant='offical')
