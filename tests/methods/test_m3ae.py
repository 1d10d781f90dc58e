"""M3AE: what is shown and what stands in for the rest, its terms against loops, its two stages."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS as PLAIN
from tasks import batch_of, images

from benchmark.errors import UserError
from benchmark.method import IGNORE
from benchmark.missing import subset_masks
from methods.common.early_fusion import StackedEncoder
from methods.common.losses import sigmoid_loss
from methods.common.reconstruction import draw_shown
from methods.common.substitutes import ELEMENTS, PACE
from methods.m3ae import M3AE

TASKS = {kind: dataclasses.replace(task, loss='ce') for kind, task in PLAIN.items()}
KIND_OF = {task.modalities: kind for kind, task in TASKS.items()}
KINDS = ['faces', 'rooms', 'mixed', 'vectors', 'sequences']


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def m3ae(kind='faces', epoch=9, **options):
    method = M3AE(TASKS[kind], **options)
    method.epoch, method.epochs = epoch, 9
    return method


def batch(kind='faces', **fields):
    masks = torch.from_numpy(subset_masks(len(TASKS[kind].names)))
    return batch_of(TASKS[kind], len(masks))._replace(**{'mask': masks, **fields})


def watch(module):
    """Records a module's results."""
    calls = []
    module.register_forward_hook(lambda _, args, result: calls.append((args, result)))
    return calls


def array(x):
    return x.detach().numpy().astype(float)


# What is shown


def test_an_eighth_of_all_patches_is_shown_however_many_modalities_are_there():
    mask = torch.from_numpy(subset_masks(4))
    shown = draw_shown([512] * 4, mask, 0.875)
    assert [s.shape for s in shown] == [(15, 512)] * 4
    assert torch.cat(shown, 1).sum(1).tolist() == [256] * 15
    for m, tokens in enumerate(shown):
        assert torch.equal(tokens.any(1), mask[:, m])


def test_what_is_there_is_shown_evenly():
    mask = torch.tensor([[True, False, True]]).expand(3000, -1)
    first, hidden, last = draw_shown([6, 5, 2], mask, 0.7)
    assert not hidden.any()
    counts = torch.cat([first, last], 1).sum(0)
    assert counts.sum() == 3000 * 3
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert len({tuple(row) for row in first.tolist()}) > 20  # of every sample its own


def test_a_sample_of_few_patches_shows_all_and_of_none_at_least_one():
    mask = torch.tensor([[True, False]])
    assert draw_shown([3, 97], mask, 0.5)[0].tolist() == [[True] * 3]
    assert sum(s.sum() for s in draw_shown([3, 4], ~mask, 0.875)) == 1


@pytest.mark.parametrize('kind', KINDS)
def test_patches_tile_images_and_others_have_frames_or_entries(kind):
    task, mask = TASKS[kind], torch.from_numpy(subset_masks(len(TASKS[kind].names)))
    shown = m3ae(kind, patches=4, mask_ratio=0.6).shown_patches(mask)
    total = sum(16 if m.kind == 'image' else m.shape[0] for m in task.modalities)
    tokens = torch.zeros(len(mask))
    for column, m in enumerate(task.modalities):
        found = shown[m.name]
        if m.kind == 'sequence':
            assert found.shape == (len(mask), m.shape[0], 1)
        if m.kind == 'image':
            _, h, w = m.shape
            patches = found.reshape(len(mask), 4, h // 4, 4, w // 4)
            assert torch.equal(patches.amin((2, 4)), patches.amax((2, 4)))
            found = patches[:, :, 0, :, 0]
        found = found.flatten(1)
        assert not found[~mask[:, column]].any()
        tokens += found.sum(1)
    assert tokens[-1] == int(0.4 * total)
    assert tokens.max() == tokens[-1]


# The substitutes


def replaced(method, inputs, shown):
    """The inputs, substitutes written in sample by sample."""
    seen = {name: x.clone() for name, x in inputs.items()}
    for name, x in seen.items():
        s = method.learned[name].detach() * PACE
        if name == 'words':
            s[:, -1] = 1
        for b in range(len(x)):
            there = shown[name][b].expand(x[b].shape)
            x[b][~there] = s[~there]
    return seen


def fused(method, seen):
    """The maps of all modalities together: of one encoder where images can be stacked."""
    if KIND_OF[method.task.modalities] in ('faces', 'rooms'):
        return method.encode_all.encoder(torch.cat(list(seen.values()), 1))
    everything = torch.ones(len(next(iter(seen.values()))), len(seen), dtype=torch.bool)
    return method.encode_all.fusion(method.encode_all.encoders(seen), everything)


def test_images_of_one_size_are_stacked_and_others_are_not():
    for kind, task in TASKS.items():
        method = m3ae(kind)
        assert isinstance(method.encode_all, StackedEncoder) == (kind in ('faces', 'rooms'))
        if kind in ('faces', 'rooms'):
            stem = method.encode_all.encoder.stages.conv1.weight
            assert stem.shape[1] == sum(m.shape[0] for m in task.modalities)


@pytest.mark.parametrize('kind', KINDS)
def test_testing_is_the_plain_network_on_substituted_inputs(kind):
    method, data = m3ae(kind).train(), batch(kind)
    method.loss(data)  # moves running statistics
    method.eval()
    shown = {
        m.name: data.mask[:, i].view(-1, *[1] * len(m.shape))
        for i, m in enumerate(TASKS[kind].modalities)
    }
    seen = replaced(method, data.inputs, shown)
    expected = method.decoder(fused(method, seen))
    found = method.predict(data.inputs, data.mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for p in method.learned.values():
        p.data.add_(1)
    moved = (method.predict(data.inputs, data.mask) - found).abs().flatten(1).amax(1)
    assert torch.equal(moved > 1e-7, ~data.mask.all(1))


def test_substitutes_start_as_unit_noise_of_their_inputs_shapes():
    method = m3ae('mixed')
    for m in TASKS['mixed'].modalities:
        assert method.substitutes()[m.name].shape == m.shape
    values = method.substitutes()['image'].detach().flatten().numpy()
    assert scipy.stats.kstest(values, 'norm').pvalue > 1e-3


def test_adam_moves_substitutes_by_their_own_rate_and_only_in_pretraining():
    method, data = m3ae(epoch=0).train(), batch()
    optimizer = torch.optim.AdamW(method.parameters(), 3e-4, weight_decay=0)
    encoder = method.encode_all.encoder.stages.conv1.weight
    for epoch, moves in ((0, True), (3, False)):
        method.epoch = epoch
        before = {name: s.detach().clone() for name, s in method.substitutes().items()}
        weight = encoder.detach().clone()
        optimizer.zero_grad()
        method.parse_losses(method.loss(data))[0].backward()
        optimizer.step()
        for name, s in method.substitutes().items():
            step = (s - before[name]).abs()
            assert step.max().item() == pytest.approx(5e-3 if moves else 0, rel=1e-2)
        assert (encoder - weight).abs().max().item() > 1e-4


def test_all_frames_of_a_substitute_are_real():
    substitutes = m3ae('sequences').substitutes()
    assert (substitutes['words'][:, -1] == 1).all()
    assert not (substitutes['gait'][:, -1] == 1).any()


def test_departure_is_the_norm_of_what_no_channel_mean_explains():
    for kind, names in (('mixed', ('image', 'sound')), ('faces', ('rgb', 'depth', 'ir'))):
        method, total = m3ae(kind), 0.0
        for name in names:
            method.learned[name].data[0] += 1  # channels differ in their means
            for channel in array(method.learned[name]) * PACE:
                total += channel.var() * channel.size
        elements = sum(s.numel() for s in method.learned.values())
        expected = (total * ELEMENTS / elements) ** 0.5
        assert method.departure(method.substitutes()).item() == pytest.approx(expected, rel=1e-5)
    flat = {name: torch.ones_like(s) for name, s in method.substitutes().items()}
    assert method.departure(flat) == 0
    steps = {'words': torch.eye(5)[:, :4], 'gait': torch.zeros(3, 2)}
    # Four channels of one 1 among four zeros each.
    found = m3ae('sequences').departure(steps).item()
    expected = (4 * (0.8**2 + 4 * 0.2**2) * ELEMENTS / 26) ** 0.5
    assert found == pytest.approx(expected, rel=1e-5)


def test_departure_does_not_grow_with_the_size_of_the_inputs():
    assert ELEMENTS == 4 * 155 * 240 * 240
    for side in (16, 48):
        method = M3AE(dataclasses.replace(TASKS['faces'], modalities=images(side, 3, 1, 1)))
        # Unit noise has the norm that it has in the released code, the root of the elements.
        found = method.departure(method.substitutes()).item()
        assert found == pytest.approx(ELEMENTS**0.5, rel=0.1)


# Pretraining


@pytest.mark.parametrize('kind', KINDS)
def test_pretraining_reconstructs_all_there_is_from_what_is_shown(kind):
    available = batch(kind).mask.flip(0) | batch(kind).mask
    assert not available.all()
    method, data = m3ae(kind, epoch=0).eval(), batch(kind, available=available)
    seen, drawn = watch(method.encode_all), watch(method.reconstruction)
    shown = {}
    original = method.shown_patches
    method.shown_patches = lambda mask: shown.update(original(mask)) or shown
    losses = method.loss(data)
    (((inputs,), _),) = seen
    expected = replaced(method, data.inputs, shown)
    assert all(torch.equal(inputs[name], x) for name, x in expected.items())
    ((_, images),) = drawn
    errors = []
    for column, (name, x) in enumerate(data.inputs.items()):
        assert images[name].shape == x.shape
        for b in np.flatnonzero(available[:, column]):
            frames = x[b, :, -1] > 0.5 if name == 'words' else slice(None)
            gap = array(images[name][b][frames]) - array(x[b][frames])
            errors.append((gap**2).mean() if gap.size else 0.0)
    assert losses['loss_reconstruction'].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_smoothness_is_weighed_as_published():
    method = m3ae(epoch=0)
    losses = method.loss(batch())
    torch.testing.assert_close(
        losses['loss_smoothness'], 0.005 * method.departure(method.substitutes())
    )
    assert set(losses) == {'loss_reconstruction', 'loss_smoothness'}


def test_modalities_that_the_data_lack_are_not_reconstructed_even_if_nan():
    data = batch(available=batch().mask)
    method = m3ae(epoch=0).eval()
    for column, x in enumerate(data.inputs.values()):
        x[~data.available[:, column]] = float('nan')
    losses = method.loss(data)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_a_classifier_reconstructs_from_its_last_map():
    method, data = m3ae('faces', epoch=0).eval(), batch()
    seen = watch(method.reconstruction)
    trunk = watch(method.decoder.trunk)
    method.loss(data)
    (((maps,), _),) = seen
    assert torch.equal(maps[-1], trunk[0][1])


def test_segmentation_pretrains_all_but_the_last_layer():
    method = m3ae('rooms', epoch=0)
    sum(method.loss(batch('rooms')).values()).backward()
    idle = [n for n, p in method.named_parameters() if p.grad is None]
    assert {n.removesuffix('.weight').removesuffix('.bias') for n in idle} == {
        'decoder.head.conv_seg',
        'sides.0',
        'sides.1',
    }
    new = {id(p) for p in method.reconstruction.parameters()} - {
        id(p) for p in method.decoder.parameters()
    }
    assert len(new) == 2


@pytest.mark.parametrize('kind', KINDS)
def test_each_stage_reaches_all_of_its_parameters(kind):
    data = batch(kind)
    new = 'reconstruction.'
    for epoch in (0, 9):
        method = m3ae(kind, epoch=epoch).train()
        method.parse_losses(method.loss(data))[0].backward()
        idle = {n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()}
        if epoch:
            expected = {n for n, _ in method.named_parameters() if n.startswith((new, 'learned.'))}
        elif kind == 'rooms':
            last = ('decoder.head.conv_seg', 'sides.0', 'sides.1')
            expected = {f'{layer}.{n}' for layer in last for n in ('weight', 'bias')}
        else:
            expected = {f'decoder.head.{n}' for n in ('weight', 'bias')}
        assert idle == expected


@pytest.mark.parametrize('kind', ['faces', 'vectors'])
def test_pretraining_learns_to_reconstruct(kind):
    method, data = m3ae(kind, epoch=0, mask_ratio=0.3).train(), batch(kind)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    history = []
    for _ in range(25):
        losses = method.loss(data)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses['loss_reconstruction'].item())
    assert min(history[-3:]) < 0.8 * history[0]


# Fine-tuning


@pytest.mark.parametrize('kind', KINDS)
def test_fine_tuning_uses_every_sample_with_two_masks(kind):
    method, data = m3ae(kind, consistency=3.0).eval(), batch(kind)
    second = torch.cat([data.mask[-1:], data.mask[:-1]])
    coarse, losses, entropy = [], method.loss(data), 0.0
    for mask in (data.mask, second):
        shown = {
            m.name: mask[:, i].view(-1, *[1] * len(m.shape))
            for i, m in enumerate(TASKS[kind].modalities)
        }
        maps = fused(method, replaced(method, data.inputs, shown))
        logits = [method.decoder(maps)]
        if kind == 'rooms':
            levels = method.decoder.pyramid(maps)
            for side, level in zip(method.sides, (2, 1), strict=True):
                z = F.interpolate(
                    side(levels[level]), (32, 32), mode='bilinear', align_corners=True
                )
                logits.insert(-1, z)
        coarse.append(array(logits[0]))
        entropy += sum(F.cross_entropy(z, data.target).item() for z in logits) / 2
    assert losses['loss_consistency'].item() == pytest.approx(
        3 * ((coarse[0] - coarse[1]) ** 2).mean(), rel=1e-4
    )
    assert losses['loss_task'].item() == pytest.approx(entropy, rel=1e-4)
    assert m3ae().consistency == 0.1


def test_the_released_code_s_loss_is_seven_parts_dice_and_three_parts_entropy():
    logits, target = torch.randn(3, 4, 5, 6), torch.randint(3, (3, 5, 6))
    target[:, 1] = IGNORE
    p = 1 / (1 + np.exp(-array(logits)))
    known, found = target.numpy() != IGNORE, []
    for k in range(4):
        q, y = p[:, k][known], (target.numpy() == k)[known]
        dice = 1 - (2 * q[y].sum() + 1) / ((q**2).sum() + y.sum() + 1)
        found.append(0.7 * dice - 0.3 * np.log(np.where(y, q, 1 - q)).mean())
    assert sigmoid_loss(logits, target).item() == pytest.approx(np.mean(found), rel=1e-5)
    task = dataclasses.replace(TASKS['rooms'], loss='own')
    own = M3AE(task).task_loss(logits[:, :3], target)
    assert torch.equal(own, sigmoid_loss(logits[:, :3], target))


def test_the_consistency_has_gradients_for_both_views():
    method = m3ae().eval()
    shapes = []
    original = F.mse_loss

    def spy(a, b):
        shapes.append((a.requires_grad, b.requires_grad))
        return original(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, 'mse_loss', spy)
        method.loss(batch())
    assert shapes == [(True, True)]


def test_the_second_mask_is_drawn_from_the_table_s_and_leaves_something():
    method = m3ae()
    data = batch()
    assert sorted(method.second_view(data).tolist()) == sorted(data.mask.tolist())
    mask = torch.tensor([[True, True, False], [False, False, True], [True, False, False]])
    available = torch.tensor([[True, True, True], [False, False, True], [True, True, False]])
    data = batch_of(TASKS['faces'], 3)._replace(mask=mask, available=available)
    assert method.second_view(data).tolist() == [
        [True, False, False],
        [False, False, True],  # of the first sample's mask it has nothing
        [True, False, False],  # nor this of the second's
    ]


def test_stages_share_the_epochs():
    assert M3AE(TASKS['faces']).pretraining == 1 / 3
    for epochs, share, count in ((9, 1 / 3, 3), (10, 1 / 3, 3), (2, 1 / 3, 1), (9, 2 / 3, 6)):
        method = M3AE(TASKS['vectors'], pretraining=share)
        method.epochs = epochs
        stages = []
        for method.epoch in range(epochs):
            stages.append('loss_task' in method.loss(batch('vectors')))
        assert stages == [False] * count + [True] * (epochs - count)


def test_a_checkpoint_keeps_the_substitutes():
    method, resumed = m3ae('rooms'), m3ae('rooms')
    resumed.load_state_dict(method.state_dict())
    data = batch('rooms')
    assert torch.equal(
        resumed.eval().predict(data.inputs, data.mask), method.eval().predict(*data[:1], data.mask)
    )


@pytest.mark.parametrize('epoch', [0, 9])
def test_losses_keep_to_float32_under_autocast(epoch):
    method, data = m3ae(epoch=epoch).eval(), batch()
    torch.manual_seed(1)
    expected = method.loss(data)
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16):
        found = method.loss(data)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0.05, atol=1e-3)


def test_wrong_options_and_tasks_raise_errors_that_name_them():
    for option, value in (('pretraining', 1.0), ('mask_ratio', -0.1), ('patches', 0)):
        with pytest.raises(UserError, match=f'm3ae:{option}: expected .*, found {value}'):
            M3AE(TASKS['faces'], **{option: value})


def test_images_of_any_size_are_reconstructed():
    wide = dataclasses.replace(TASKS['mixed'], modalities=TASKS['mixed'].modalities[:2])
    data = batch_of(wide, 4)
    method = M3AE(wide)
    method.epochs = 9
    drawn = watch(method.reconstruction)
    method.loss(data)
    assert {n: x.shape for n, x in drawn[0][1].items()} == {
        n: x.shape for n, x in data.inputs.items()
    }
