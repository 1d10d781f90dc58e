"""RobustSeg: gates, restyling and terms of the loss against numpy, sample by sample."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.special
import torch
import torch.distributions as D  # noqa: N812
from figures import differences, drawn
from learning import lowers
from tasks import TASKS, batch_of

from benchmark.engine.building import quiet
from benchmark.missing import subset_masks
from methods.common.styles import restyle, style_divergence
from methods.robustseg import GatedFusion, RobustSeg

KINDS = list(TASKS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def every_subset(kind):
    masks = torch.from_numpy(subset_masks(len(TASKS[kind].names)))
    return batch_of(TASKS[kind], len(masks))._replace(mask=masks)


def array(x):
    return x.detach().numpy().astype(float)


def test_every_position_of_every_modality_has_a_gate_of_its_own():
    fusion, maps = GatedFusion(3, 4).eval(), list(torch.randn(3, 2, 4, 5, 6))
    weight, bias = (array(p) for p in fusion.gates.parameters())
    padded = np.pad(array(torch.cat(maps, 1)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    gates = bias[:, None, None] + sum(
        np.einsum('mc,bchw->bmhw', weight[:, :, i, j], padded[:, :, i : i + 5, j : j + 6])
        for i in range(3)
        for j in range(3)
    )
    gated = [scipy.special.expit(gates[:, m : m + 1]) * array(x) for m, x in enumerate(maps)]
    expected = fusion.reduce(torch.from_numpy(np.concatenate(gated, 1)).float())
    torch.testing.assert_close(fusion(maps), expected, rtol=1e-4, atol=1e-5)


def test_official_gates_and_fused_contents_are_normalised_over_the_positions_of_a_sample():
    fusion, maps = GatedFusion(3, 4, official=True).eval(), list(torch.randn(3, 2, 4, 5, 6))
    for norm in (fusion.gates[1], fusion.reduce[1]):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)

    def normalised(x, norm):
        gaps = x - x.mean((2, 3), keepdims=True)
        x = gaps / np.sqrt(x.var((2, 3), keepdims=True) + 1e-6)
        weight, bias = array(norm.weight), array(norm.bias)
        return weight[:, None, None] * x + bias[:, None, None]

    raw = array(fusion.gates[0](torch.cat(maps, 1)))
    gates = scipy.special.expit(normalised(raw, fusion.gates[1]))
    joined = np.concatenate([gates[:, m : m + 1] * array(x) for m, x in enumerate(maps)], 1)
    mixed = array(fusion.reduce[0](torch.from_numpy(joined).float()))
    expected = normalised(mixed, fusion.reduce[1])
    expected = np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(array(fusion(maps)), expected, rtol=1e-3, atol=1e-4)


def test_official_image_decoders_share_the_last_convolution_of_as_many_channels():
    plain, official = (RobustSeg(TASKS['faces'], variant=v) for v in ('paper', 'official'))
    shapes = {m.name: m.shape[0] for m in TASKS['faces'].modalities}
    assert sorted(shapes.values()) == [1, 1, 3]
    for method in (plain, official):
        for a, b in itertools.combinations(shapes, 2):
            shared = method is official and shapes[a] == shapes[b]
            assert (method.redraw[a].last is method.redraw[b].last) is shared


@pytest.mark.parametrize('kind', [kind for kind in KINDS if TASKS[kind].kind == 'classification'])
def test_the_official_variant_learns_the_task_on_every_kind_of_input(kind):
    method, data = RobustSeg(TASKS[kind], variant='official').train(), batch_of(TASKS[kind], 8)
    with quiet():
        method.init_weights()
    assert lowers(method, data, 1e-2, 25, ['loss_task'])


def test_restyling_gives_every_channel_the_scale_and_the_shift():
    content, scale, shift = torch.randn(3, 4, 9, 8), torch.rand(3, 4) + 0.5, torch.randn(3, 4)
    found = restyle(content, scale, shift)
    torch.testing.assert_close(found.mean((2, 3)), shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.std((2, 3), correction=0), scale, rtol=1e-3, atol=1e-4)
    # One position has no statistics of its own: those of its channels are taken.
    alone, one = content[:, :, :1, :1], torch.ones(3, 4)
    found = restyle(alone, one, 0 * one)[:, :, 0, 0]
    z = array(alone)[:, :, 0, 0]
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    np.testing.assert_allclose(array(found), z, rtol=1e-3, atol=1e-4)


def test_the_divergence_is_that_of_a_gaussian_of_the_parameters():
    scale, shift = torch.randn(5, 6), 0.5 + torch.rand(5, 6)
    kl = D.kl_divergence(D.Normal(scale, shift), D.Normal(0.0, 1.0))
    expected = 128 * kl.mean(1)
    torch.testing.assert_close(style_divergence(scale, shift), expected, rtol=1e-3, atol=1e-3)
    assert style_divergence(torch.zeros(1, 3), torch.zeros(1, 3)).isfinite()


@pytest.mark.parametrize('kind', KINDS)
def test_the_terms_cover_what_the_data_have_and_the_mask_hides(kind):
    """Redrawn inputs are compared element by element; samples without a modality do not count."""
    method, data = (
        RobustSeg(TASKS[kind], reconstruction=2.0, divergence=3.0).eval(),
        batch_of(TASKS[kind]),
    )
    data.available[0] = data.mask[0]
    data.available[1] = data.mask[1]
    losses = method.loss(data)
    content = method.content(method.encode(data.inputs), data.mask)
    errors = divergences = 0.0
    for m, modality in enumerate(TASKS[kind].modalities):
        x = data.inputs[modality.name]
        single, counted = [], []
        for b in np.flatnonzero(data.available[:, m]):
            frames = array(x[b])
            real = np.ones(frames.shape, bool)
            if modality.padded:
                real[frames[:, -1] <= 0.5] = False
            shown = torch.from_numpy(np.where(real, frames, 0)).float()[None]
            style = method.styles[modality.name](shown)
            again, scale, shift = method.redraw[modality.name](content[-1][b : b + 1], style)
            single.append(np.abs(array(again[0]) - frames)[real].mean() if real.any() else 0.0)
            counted.append(style_divergence(scale, shift).item())
        errors += np.mean(single)
        divergences += np.mean(counted)
    assert losses['loss_reconstruction'].item() == pytest.approx(2 * errors, rel=1e-4)
    assert losses['loss_divergence'].item() == pytest.approx(3 * divergences, rel=1e-4)
    expected = method.task_loss(method.predict(data.inputs, data.mask), data.target)
    torch.testing.assert_close(losses['loss_task'], expected)


@pytest.mark.parametrize('kind', KINDS)
def test_values_in_gaps_do_not_move_the_losses(kind):
    method, data = RobustSeg(TASKS[kind]).eval(), every_subset(kind)
    data = data._replace(available=data.mask)
    clean = method.loss(data)
    for column, x in enumerate(data.inputs.values()):
        x[~data.mask[:, column]] = float('nan')
    spoilt = method.loss(data)
    assert all(torch.equal(spoilt[k], clean[k]) for k in clean)


@pytest.mark.parametrize('kind', ['faces', 'rooms', 'vectors'])
def test_predictions_need_no_style_and_the_task_does_not_train_it(kind):
    method, data = RobustSeg(TASKS[kind]), every_subset(kind)
    method.loss(data)['loss_task'].backward()
    for part in (method.styles, method.redraw):
        assert all(p.grad is None for p in part.parameters())
    method.eval()
    before = method.predict(data.inputs, data.mask)
    for p in (*method.styles.parameters(), *method.redraw.parameters()):
        p.data.zero_()
    assert torch.equal(method.predict(data.inputs, data.mask), before)


def test_a_missing_content_adds_nothing_whatever_its_gate():
    method, data = RobustSeg(TASKS['rooms']).eval(), every_subset('rooms')
    features = method.encode(data.inputs)
    mask = torch.tensor([[True, False]]).expand(len(data.mask), -1)
    before = method.content(features, mask)
    for fusion in method.fusion:
        fusion.gates.bias.data[1] += 5
    assert all(
        torch.equal(a, b) for a, b in zip(before, method.content(features, mask), strict=True)
    )


@pytest.mark.parametrize('kind', ['faces', 'rooms', 'mixed'])
def test_redrawn_images_have_the_size_of_the_input(kind):
    method, data = RobustSeg(TASKS[kind]), every_subset(kind)
    content = method.content(method.encode(data.inputs), data.mask)
    for modality in TASKS[kind].modalities:
        style = method.styles[modality.name](data.inputs[modality.name])
        again, _, _ = method.redraw[modality.name](content[-1], style)
        assert again.shape == data.inputs[modality.name].shape


def test_kl_does_not_depend_on_the_width():
    found = []
    for width in (8, 64):
        scale, shift = torch.full((2, width), 0.5), torch.full((2, width), 2.0)
        found.append(style_divergence(scale, shift))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_training_learns_to_segment_and_to_redraw(variant):
    """Small initial weights do not hide the inputs where no normalisation follows."""
    task = dataclasses.replace(TASKS['rooms'], width=8)
    method, data = RobustSeg(task, variant=variant), batch_of(task, 6)
    with quiet():
        method.init_weights()
    squares = torch.randint(3, (6, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    data = data._replace(target=squares)
    for name, x in data.inputs.items():
        data.inputs[name] = 0.1 * x + squares[:, None]
    assert lowers(method, data, 3e-3, 20)


def test_restyling_errors_and_divergence_are_those_of_the_released_code():
    """The figures were made by calling the functions of commit fa35dda, in float64.

    They are those of `adaptive_instance_norm` and `kl_loss` of cchen-cc/Robust-Mseg, with the
    errors and weights of its main program, on volumes of one slice.
    """
    content, scale, shift = drawn(0, 2, 128, 4, 4), drawn(1, 2, 128), drawn(2, 2, 128).abs() + 0.5
    given = [x.requires_grad_() for x in (content, scale, shift)]
    error = (drawn(3, 2, 128, 4, 4) - restyle(*given)).abs().mean()
    divergence = style_divergence(scale, shift).mean()
    assert error.item() == pytest.approx(1.6593128814286517, rel=1e-5)
    assert divergence.item() == pytest.approx(114.91543468392312, rel=1e-5)
    gradients = torch.autograd.grad(0.1 * error + 0.1 * divergence, given)
    expected = [
        0.00106829352, -1.6109968e-05, 0.778145783, -0.0176050582, 0.892722847, -0.146088092
    ]  # fmt: skip
    assert differences(gradients, expected).max() < 1e-5
