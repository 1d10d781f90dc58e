"""ShaSpec against its equations, sample by sample and modality by modality."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import torch
from tasks import TASKS, batch_of, images

from benchmark.errors import UserError
from benchmark.method import Modality
from benchmark.missing import subset_masks
from methods.common.networks import fusion_grid
from methods.shaspec import SharedEncoder, ShaSpec

ROOMS = dataclasses.replace(TASKS['rooms'], modalities=images(32, 3, 1, 1))
VARIANTS = ['paper', 'official']
KINDS = ['faces', 'rooms', 'mixed', 'vectors']


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def task_of(kind):
    return {**TASKS, 'rooms': ROOMS}[kind]


def every_subset(task):
    masks = torch.from_numpy(subset_masks(len(task.names)))
    return batch_of(task, len(masks))._replace(mask=masks)


def present(task, mask):
    return [name for name, there in zip(task.names, mask, strict=True) if there]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('variant', VARIANTS)
def test_present_modalities_are_residuals_and_missing_ones_are_replaced(kind, variant):
    task = task_of(kind)
    method, batch = ShaSpec(task, variant=variant).eval(), every_subset(task)
    shared, specific = method.shared(batch.inputs), method.specific(batch.inputs)
    fused = method.fuse(method.encode(batch.inputs), batch.mask)
    scales = len(shared[task.names[0]])
    assert scales == (4 if kind == 'rooms' else 1)
    for b, mask in enumerate(batch.mask.tolist()):
        there = present(task, mask)
        for name, scale in ((n, s) for n in task.names for s in range(scales)):
            r = shared[name][scale][b]
            if name not in there:
                others = [shared[n][scale][b] for n in there]
                expected = others[0] if variant == 'official' else sum(others) / len(others)
            elif scale == scales - 1:
                pair = torch.cat([r, specific[name][-1][b]])
                expected = r + method.project(pair[None])[0]
            else:
                expected = r
            torch.testing.assert_close(fused[name][scale][b], expected, rtol=1e-4, atol=1e-5)


def test_the_paper_s_projection_is_linear_at_every_pixel_without_a_neighbour():
    method = ShaSpec(ROOMS)
    pair = torch.randn(2, 64, 3, 3)
    weight = method.project.weight[:, :, 0, 0]
    expected = torch.einsum('oc,bchw->bohw', weight, pair)
    torch.testing.assert_close(method.project(pair), expected, rtol=1e-4, atol=1e-5)


def test_the_code_s_projection_sees_the_eight_neighbours_of_a_pixel():
    method = ShaSpec(ROOMS, variant='official')
    pair = torch.randn(2, 64, 5, 4)
    padded = np.pad(pair, ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight = method.project.weight.detach().numpy()
    assert weight.shape[2:] == (3, 3)
    # The kernel of each output channel is standardised.
    centred = weight - weight.mean((1, 2, 3), keepdims=True)
    kernel = centred / weight.std((1, 2, 3), ddof=1, keepdims=True)
    expected = sum(
        np.einsum('oc,bchw->bohw', kernel[:, :, i, j], padded[:, :, i : i + 5, j : j + 4])
        for i in range(3)
        for j in range(3)
    )
    found = method.project(pair).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_logits_decode_the_concatenation_of_all_fused_features(kind):
    task = task_of(kind)
    method, batch = ShaSpec(task).eval(), every_subset(task)
    fused = method.fuse(method.encode(batch.inputs), batch.mask)
    joined = [torch.cat(maps, 1) for maps in zip(*fused.values(), strict=True)]
    if kind == 'rooms':
        joined = [reduce(x) for reduce, x in zip(method.fusion.reduce, joined, strict=True)]
    expected = method.decoder(tuple(joined))
    torch.testing.assert_close(method.predict(batch.inputs, batch.mask), expected)


@pytest.mark.parametrize('variant', VARIANTS)
def test_alignment_sums_the_l1_distances_of_present_pairs(variant):
    task = TASKS['faces']
    method, mask = ShaSpec(task, variant=variant), torch.from_numpy(subset_masks(3))
    shared = [torch.randn(len(mask), 8, 3, 3) for _ in range(3)]
    total = 0.0
    for b, there in enumerate(mask.tolist()):
        for i, j in ((0, 1), (1, 2), (2, 0)):  # of three modalities the ring holds all pairs
            if there[i] and there[j]:
                total += np.abs(shared[i][b].numpy() - shared[j][b].numpy()).mean()
    assert method.alignment(shared, mask).item() == pytest.approx(total / len(mask), rel=1e-5)


def test_of_four_modalities_the_paper_aligns_six_pairs_and_the_code_a_ring_of_four():
    task = dataclasses.replace(TASKS['faces'], modalities=images(16, 3, 1, 1, 1))
    # Distances between powers of ten tell which pairs were counted.
    shared = [torch.full((2, 8, 2, 2), float(10**i)) for i in range(4)]
    mask = torch.ones(2, 4, dtype=torch.bool)
    ring = 9 + 90 + 900 + 999
    assert ShaSpec(task).alignment(shared, mask).item() == ring + 99 + 990
    assert ShaSpec(task, variant='official').alignment(shared, mask).item() == ring


def test_alignment_is_zero_only_where_shared_features_agree():
    method, mask = ShaSpec(TASKS['faces']), torch.ones(4, 3, dtype=torch.bool)
    same = torch.randn(4, 8, 3, 3)
    assert method.alignment([same] * 3, mask) == 0
    assert method.alignment([same, same, same + 0.1], mask) > 0
    mask[:, 2] = False
    assert method.alignment([same, same, same + 0.1], mask) == 0


def test_classification_averages_over_the_present_modalities():
    method, mask = ShaSpec(TASKS['faces']), torch.from_numpy(subset_masks(3))
    specific = [torch.randn(len(mask), 8, 3, 3) for _ in range(3)]
    weight, bias = (p.detach().double().numpy() for p in method.classifier.parameters())
    errors = []
    for b, m in mask.nonzero().tolist():
        pooled = specific[m][b].double().numpy().mean((1, 2))
        errors.append(-scipy.special.log_softmax(weight @ pooled + bias)[m])
    assert len(errors) == 12
    found = method.classification(specific, mask).item()
    assert found == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_the_objectives_act_on_the_deepest_maps_with_their_weights(kind):
    task = task_of(kind)
    method, batch = ShaSpec(task, alpha=2.0, beta=3.0).eval(), every_subset(task)
    shared = [maps[-1] for maps in method.shared(batch.inputs).values()]
    specific = [maps[-1] for maps in method.specific(batch.inputs).values()]
    losses = method.loss(batch)
    task_loss = method.task_loss(method.predict(batch.inputs, batch.mask), batch.target)
    torch.testing.assert_close(losses['loss_task'], task_loss)
    torch.testing.assert_close(losses['loss_dao'], 2 * method.alignment(shared, batch.mask))
    torch.testing.assert_close(losses['loss_dco'], 3 * method.classification(specific, batch.mask))


def test_in_training_the_code_takes_a_random_present_modality_for_a_missing_one():
    """Per sample, the same one at all scales; each present modality about equally often."""
    method, batch = ShaSpec(ROOMS, variant='official').train(), batch_of(ROOMS, 2)
    shared = {
        name: tuple(torch.full((90, *x.shape[1:]), float(i)) for x in maps)
        for i, (name, maps) in enumerate(method.encode(batch.inputs).items(), 1)
    }
    mask = torch.tensor([[False, True, True]]).expand(90, -1)
    missing = method.fuse(shared, mask)['rgb']
    chosen = missing[0][:, 0, 0, 0]
    assert {*chosen.tolist()} == {2.0, 3.0}
    assert 25 < (chosen == 2).sum() < 65
    for maps in missing:
        assert torch.equal(maps, chosen.view(-1, 1, 1, 1).expand_as(maps))
    alone = method.fuse(shared, torch.tensor([[True, False, False]]).expand(90, -1))
    assert (alone['ir'][0] == 1).all()
    method.eval()
    assert (method.fuse(shared, mask)['rgb'][0] == 2).all()


@pytest.mark.parametrize('kind', KINDS)
def test_the_code_s_objectives_cover_zero_inputs_of_missing_modalities(kind):
    task = task_of(kind)
    method = ShaSpec(task, alpha=2.0, beta=3.0, variant='official').eval()
    method.epoch, method.epochs = 8, 9
    batch = every_subset(task)
    inputs = {
        name: x * batch.mask[:, m].view(-1, *[1] * (x.ndim - 1))
        for m, (name, x) in enumerate(batch.inputs.items())
    }
    shared = [maps[-1].detach().numpy() for maps in method.shared(inputs).values()]
    ring = [np.abs(r - q).mean() for r, q in zip(shared, shared[1:] + shared[:1], strict=True)]
    weight, bias = (p.detach().double().numpy() for p in method.classifier.parameters())
    errors = []
    for m, maps in enumerate(method.specific(inputs).values()):
        pooled = maps[-1].detach().double().numpy().mean((2, 3))
        errors += list(-scipy.special.log_softmax(pooled @ weight.T + bias, 1)[:, m])
    losses = method.loss(batch)
    assert losses['loss_dao'].item() == pytest.approx(2 * sum(ring), rel=1e-5)
    assert losses['loss_dco'].item() == pytest.approx(3 * np.mean(errors), rel=1e-5)


@pytest.mark.parametrize(('epochs', 'start'), [(1, 0), (9, 4), (18, 8)])
def test_the_code_drops_modalities_after_four_ninths_of_the_training(epochs, start):
    task = TASKS['faces']
    method, batch = ShaSpec(task, variant='official').eval(), every_subset(task)
    complete = batch._replace(mask=batch.available)
    method.epochs = epochs
    for method.epoch in range(epochs):
        found, full = (method.loss(b)['loss_task'] for b in (batch, complete))
        assert torch.equal(found, full) == (method.epoch < start)


@pytest.mark.parametrize('kind', KINDS)
def test_each_objective_trains_its_own_encoders_alone(kind):
    task = task_of(kind)
    for loss, trained, idle in (
        ('loss_dao', 'shared', 'specific'),
        ('loss_dco', 'specific', 'shared'),
    ):
        method = ShaSpec(task)
        method.loss(every_subset(task))[loss].backward()
        gradients = {n: p.grad for n, p in method.named_parameters() if p.dim() > 1}
        assert all(g.any() for n, g in gradients.items() if n.startswith(trained))
        assert not any(g is not None for n, g in gradients.items() if n.startswith(idle))


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_modalities_share_all_but_an_adapter(kind):
    method = ShaSpec(task_of(kind))
    adapters = sum(p.numel() for p in method.shared.adapters.parameters())
    channels = [m.shape[0] for m in method.task.modalities]
    assert adapters == sum(c * 3 + 3 for c in channels)
    encoder = method.shared.eval()
    x = torch.randn(2, *method.task.modalities[1].shape)
    encoder.adapters['ir'].load_state_dict(encoder.adapters['depth'].state_dict())
    maps = encoder({'depth': x, 'ir': x})
    for depth, ir in zip(maps['depth'], maps['ir'], strict=True):
        torch.testing.assert_close(depth, ir)


def test_images_are_averaged_down_to_the_smallest_size():
    modalities = (Modality('big', (3, 40, 24)), Modality('wide', (1, 20, 48)))
    task = dataclasses.replace(TASKS['faces'], modalities=modalities)
    encoder = SharedEncoder(task).eval()
    inputs = {m.name: torch.randn(2, *m.shape) for m in modalities}
    halved = inputs['big'].reshape(2, 3, 20, 2, 24).mean(3)
    expected = encoder.adapters['big'](halved)
    torch.testing.assert_close(encoder.adapt('big', inputs['big']), expected)
    grid = fusion_grid(task)
    assert [m[0].shape for m in encoder(inputs).values()] == [(2, 8, grid, grid)] * 2
    ShaSpec(task).loss(batch_of(task))['loss_task'].backward()


@pytest.mark.parametrize('kind', KINDS)
def test_encoding_modalities_together_or_apart_is_the_same_in_testing(kind):
    task = task_of(kind)
    method, batch = ShaSpec(task).eval(), batch_of(task)
    together = method.encode(batch.inputs)
    for name, x in batch.inputs.items():
        for a, b in zip(method.encode({name: x})[name], together[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_in_training_the_shared_statistics_are_those_of_the_mixture():
    encoder = SharedEncoder(TASKS['vectors'])
    seen = []
    encoder.encoder.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = batch_of(TASKS['vectors'], 10).inputs
    encoder(inputs)
    (mixture,) = seen
    assert len(mixture) == 20
    running = encoder.encoder.layers[1].running_mean
    torch.testing.assert_close(running, 0.1 * mixture.mean(0))


@pytest.mark.parametrize('variant', VARIANTS)
def test_missing_values_may_be_nan_in_the_losses_too(variant):
    method, batch = ShaSpec(TASKS['faces'], variant=variant).eval(), every_subset(TASKS['faces'])
    clean = method.loss(batch)
    for column, x in enumerate(batch.inputs.values()):
        x[~batch.mask[:, column]] = float('nan')
    spoilt = method.loss(batch)
    assert all(torch.equal(spoilt[k], clean[k]) for k in clean)


def test_the_alignment_of_a_single_modality_is_zero():
    task = dataclasses.replace(TASKS['faces'], modalities=images(16, 3))
    for variant in VARIANTS:
        losses = ShaSpec(task, variant=variant).loss(batch_of(task))
        assert losses['loss_dao'] == losses['loss_dco'] == 0
        losses['loss_task'].backward()


@pytest.mark.parametrize('kind', KINDS)
def test_half_precision_changes_the_losses_by_rounding_alone(kind):
    method, batch = ShaSpec(task_of(kind)).eval(), every_subset(task_of(kind))
    expected = method.loss(batch)
    with torch.autocast('cpu', torch.bfloat16):
        found = method.loss(batch)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0.05, atol=1e-4)


def test_an_unknown_variant_raises_an_error_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'official'"):
        ShaSpec(TASKS['faces'], variant='oficial')
