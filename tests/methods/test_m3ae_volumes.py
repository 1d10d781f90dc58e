"""M3AE on volumes: substitutes of the size of a volume, of which a patch sees its own part."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import batch_of

from benchmark.engine.evaluation import subset_logits
from benchmark.engine.windows import starts
from benchmark.method import Modality, Task
from benchmark.missing import subset_masks
from methods.common.early_fusion import StackedEncoder
from methods.common.substitutes import ELEMENTS, PACE, part_of
from methods.m3ae import M3AE

SIDES, EXTENTS = (16, 16, 16), (18, 16, 27)
NAMES = ('flair', 't1', 't2')
TASK = Task(
    'toy', 'segmentation', tuple(Modality(name, (1, *SIDES)) for name in NAMES),
    ('no', 'rim', 'core'), 'Dice', 4, regions=(('whole', (1, 2)), ('core', (2,))),
    network='unet3d', loss='ce', extents=EXTENTS,
)  # fmt: skip
PLACES = torch.tensor(
    [
        [[2, 1], [0, 1], [11, 1]],
        [[17, -1], [0, 1], [3, 1]],
        [[0, 1], [15, -1], [26, -1]],
    ]
)
"""Three patches: as it was cut, mirrored along the slices, mirrored in rows and columns."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def m3ae(epoch=9, task=TASK, **options):
    method = M3AE(task, **options)
    method.epoch, method.epochs = epoch, 9
    return method


def batch(**fields):
    masks = torch.tensor([[True, False, True], [False, True, False], [True, True, False]])
    return batch_of(TASK, 3)._replace(mask=masks, places=PLACES, **fields)


def cut(whole, place, sides=SIDES):
    """The part of an array (.., D, H, W), cut by slices out of it and its repeated border."""
    margin = 30
    found = np.pad(whole, [(0, 0)] * (whole.ndim - 3) + [(margin, margin)] * 3, mode='edge')
    for axis, ((begin, step), side) in enumerate(zip(place, sides, strict=True)):
        first = begin if step == 1 else begin - side + 1
        inside = np.take(found, range(margin + first, margin + first + side), whole.ndim - 3 + axis)
        found = inside if step == 1 else np.flip(inside, whole.ndim - 3 + axis)
    return found


def array(x):
    return x.detach().numpy().astype(float)


def parts(method, name, places):
    """What stands in for a modality of each sample, (B, 1, D, H, W)."""
    whole = array(method.learned[name]) * PACE
    return np.stack([cut(whole, place) for place in places.tolist()])


def replaced(method, data, mask, places):
    """The inputs, all that the mask leaves out replaced by the part of s at the sample's place."""
    found = {}
    for k, (name, x) in enumerate(data.inputs.items()):
        there = mask[:, k].numpy()[:, None, None, None, None]
        seen = np.where(there, x.numpy(), parts(method, name, places))
        found[name] = torch.from_numpy(seen.astype(np.float32))
    return found


def fused(method, seen):
    return method.encode_all.encoder(torch.cat([seen[name] for name in NAMES], 1))


# The part of a volume


@pytest.mark.parametrize('sides', [(3, 4, 5), (7, 1, 12)])
def test_a_part_is_what_slices_cut_out_and_beyond_the_end_the_nearest_voxel(sides):
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((2, 5, 6, 9))
    step = rng.choice([-1, 1], (40, 3))
    begin = rng.integers(-4, 9, (40, 3)) + np.where(step < 0, np.array(sides) - 1, 0)
    places = np.stack([begin, step], -1)
    found = part_of(torch.from_numpy(whole), torch.from_numpy(places), sides)
    assert found.shape == (40, 2, *sides)
    for one, place in zip(found, places.tolist(), strict=True):
        np.testing.assert_array_equal(one, cut(whole, place, sides))


def test_the_gradient_of_a_part_reaches_each_voxel_as_often_as_it_is_seen():
    whole = torch.zeros(1, *EXTENTS, requires_grad=True)
    weights = torch.randn(3, 1, *SIDES)
    (part_of(whole, PLACES, SIDES) * weights).sum().backward()
    expected = np.zeros((1, *EXTENTS))
    for place, w in zip(PLACES.tolist(), weights.numpy(), strict=True):
        for at in np.ndindex(*SIDES):
            voxel = tuple(begin + step * k for (begin, step), k in zip(place, at, strict=True))
            expected[(0, *voxel)] += w[(0, *at)]
    np.testing.assert_allclose(whole.grad, expected, atol=1e-6)


# The substitutes


def test_substitutes_have_the_size_of_the_largest_training_volume():
    method = m3ae()
    assert isinstance(method.encode_all, StackedEncoder)
    assert {n: tuple(s.shape) for n, s in method.learned.items()} == {
        n: (1, *EXTENTS) for n in NAMES
    }
    values = torch.cat([s.detach().flatten() for s in method.substitutes().values()])
    assert values.std().item() == pytest.approx(1, abs=0.03)  # of 23000 voxels
    patches = m3ae(task=dataclasses.replace(TASK, extents=()))
    assert {tuple(s.shape) for s in patches.learned.values()} == {(1, *SIDES)}


def test_smoothness_is_that_of_whole_volumes():
    method, total = m3ae(), 0.0
    for k, name in enumerate(NAMES):
        method.learned[name].data += k  # a channel's mean is its own
        whole = array(method.learned[name]) * PACE
        total += whole.var() * whole.size
    expected = np.sqrt(total * ELEMENTS / (3 * np.prod(EXTENTS)))
    method.epoch = 0
    loss = method.loss(batch())['loss_smoothness'].item()
    assert loss == pytest.approx(0.005 * expected, rel=1e-4)


def test_a_prediction_is_that_of_the_network_on_substituted_patches():
    method, data = m3ae().eval(), batch()
    found = method.predict_at(data.inputs, data.mask, PLACES)
    seen = replaced(method, data, data.mask, PLACES)
    torch.testing.assert_close(found, method.decoder(fused(method, seen)), rtol=1e-4, atol=1e-5)
    beginning = torch.tensor([[0, 1]] * 3).expand(3, -1, -1)
    first = replaced(method, data, data.mask, beginning)
    expected = method.decoder(fused(method, first))
    for logits in (method.predict(data.inputs, data.mask), method(*data._replace(places=None))):
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert (found - expected).abs().max() > 1e-3


@torch.no_grad()
def test_the_windows_of_a_volume_see_their_own_parts():
    """One more row and three more columns than s has: they repeat its border."""
    method, extents = m3ae().eval(), (18, 17, 30)
    whole = {name: torch.randn(1, 1, *extents) for name in NAMES}
    there = torch.ones(1, 3, dtype=torch.bool)
    data = batch_of(TASK, 1)._replace(inputs=whole, available=there, mask=there)
    row = np.array([True, False, False])
    ((_, found),) = subset_logits(method, data, [row])
    total, count = np.zeros((3, *extents)), np.zeros(extents)
    for begin in np.stack(np.meshgrid(*map(starts, extents, SIDES)), -1).reshape(-1, 3).tolist():
        inside = tuple(slice(b, b + side) for b, side in zip(begin, SIDES, strict=True))
        window = data._replace(inputs={n: x[(..., *inside)] for n, x in whole.items()})
        place = torch.tensor([[[b, 1] for b in begin]])
        seen = replaced(method, window, torch.from_numpy(row)[None], place)
        total[(slice(None), *inside)] += array(method.decoder(fused(method, seen))[0])
        count[inside] += 1
    assert count.max() > 1
    np.testing.assert_allclose(found[0], total / count, rtol=1e-3, atol=1e-4)


# The two stages


def test_pretraining_masks_boxes_and_rebuilds_all_volumes():
    available = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    method, data = m3ae(0, patches=4, mask_ratio=0.6).eval(), batch(available=available)
    calls, shown = [], {}
    method.encode_all.register_forward_hook(lambda _, args, __: calls.append(args[0]))
    method.reconstruction.register_forward_hook(lambda _, __, drawn: calls.append(drawn))
    original = method.shown_patches
    method.shown_patches = lambda mask: shown.update(original(mask)) or shown
    losses = method.loss(data)
    inputs, drawn = calls
    errors = []
    for k, (name, x) in enumerate(data.inputs.items()):
        boxes = shown[name].reshape(3, 4, 4, 4, 4, 4, 4)  # of each axis the box, then the voxel
        assert torch.equal(boxes.amin((2, 4, 6)), boxes.amax((2, 4, 6)))
        assert not boxes[~data.mask[:, k]].any()
        there = shown[name].numpy()
        expected = np.where(there, x, parts(method, name, PLACES))
        np.testing.assert_allclose(inputs[name].detach(), expected, rtol=1e-5)
        gaps = array(drawn[name]) - array(x)
        errors += [(gap**2).mean() for gap, has in zip(gaps, available[:, k], strict=True) if has]
    tokens = sum(shown[name][:, 0, ::4, ::4, ::4].flatten(1).sum(1) for name in NAMES)
    assert tokens.tolist() == [int(0.4 * 3 * 64), 64, int(0.4 * 3 * 64)]  # one has a modality alone
    assert losses['loss_reconstruction'].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_rebuilt_volume_comes_from_the_deployed_decoder_and_a_last_layer():
    method = m3ae(0)
    maps = method.encode_all({n: torch.randn(2, 1, *SIDES) for n in NAMES})
    finest = method.decoder.levels(maps)[0]
    last = method.reconstruction.last
    expected = torch.einsum('oc,bcxyz->boxyz', last.weight[:, :, 0, 0, 0], finest)
    expected = expected + last.bias[:, None, None, None]
    found = method.reconstruction(maps)
    torch.testing.assert_close(torch.cat([found[n] for n in NAMES], 1), expected)


def test_fine_tuning_uses_every_patch_with_two_masks_and_coarse_outputs():
    method, data = m3ae(consistency=3.0).eval(), batch()
    coarse, entropy, losses = [], 0.0, method.loss(data)
    for mask in (data.mask, torch.cat([data.mask[-1:], data.mask[:-1]])):
        maps = fused(method, replaced(method, data, mask, PLACES))
        levels = method.decoder.levels(maps)
        assert [level.shape[2] for level in levels] == [16, 8, 4, 2]
        for side, level in zip(method.sides, (levels[2], levels[1]), strict=True):
            z = F.interpolate(side(level), SIDES, mode='trilinear', align_corners=True)
            entropy += F.cross_entropy(z, data.target).item() / 2
            coarse += [array(z)] if level is levels[2] else []
        entropy += F.cross_entropy(method.decoder(maps), data.target).item() / 2
    assert losses['loss_task'].item() == pytest.approx(entropy, rel=1e-4)
    expected = 3 * ((coarse[0] - coarse[1]) ** 2).mean()
    assert losses['loss_consistency'].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('epoch', [0, 9])
def test_each_stage_reaches_its_parameters_and_the_voxels_that_patches_see(epoch):
    method = m3ae(epoch, smoothness=0.0).train()
    method.parse_losses(method.loss(batch()))[0].backward()
    idle = {n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()}
    layers = [f'{layer}.{n}' for layer in ('sides.0', 'sides.1') for n in ('weight', 'bias')]
    if epoch:
        ours = ('learned.', 'reconstruction.')
        assert idle == {n for n, _ in method.named_parameters() if n.startswith(ours)}
        return
    assert idle == {*layers, 'decoder.path.head.weight', 'decoder.path.head.bias'}
    inside = np.zeros(EXTENTS, bool)
    for place in PLACES.tolist():
        axes = [[b + step * k for k in range(n)] for (b, step), n in zip(place, SIDES, strict=True)]
        inside[np.ix_(*axes)] = True
    for s in method.learned.values():
        assert not s.grad[0][torch.from_numpy(~inside)].any()
        assert s.grad[0][torch.from_numpy(inside)].ne(0).float().mean() > 0.5


def test_a_step_never_waits_for_the_device(monkeypatch):
    # Tensors without content cannot be waited for; autocast does not know their device.
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: contextlib.nullcontext())
    method, data = m3ae(0).to('meta').train(), batch()
    data = data._replace(
        inputs={name: x.to('meta') for name, x in data.inputs.items()},
        **{name: getattr(data, name).to('meta') for name in data._fields[1:]},
    )
    method.parse_losses(method.loss(data))[0].backward()


def test_missing_patches_may_be_nan_in_both_stages():
    masks = torch.from_numpy(subset_masks(3))[:3]
    data = batch()._replace(mask=masks, available=masks)
    for k, x in enumerate(data.inputs.values()):
        x[~masks[:, k]] = torch.nan
    for epoch in (0, 9):
        method = m3ae(epoch)
        total, _ = method.parse_losses(method.loss(data))
        total.backward()
        assert total.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
