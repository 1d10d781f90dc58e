"""mmFormer: its transformers token by token, its fusion pixel by pixel, its losses by loops."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, batch_of, images

from benchmark.errors import UserError
from benchmark.method import IGNORE, Modality
from benchmark.missing import subset_masks
from methods.common.losses import segmentation_loss
from methods.mmformer import Block, MMFormer, Transformer, coarsest

FACES = dataclasses.replace(TASKS['faces'], modalities=images(24, 3, 1, 1))
ROOMS = dataclasses.replace(
    TASKS['rooms'],
    modalities=(Modality('rgb', (3, 32, 48)), Modality('depth', (1, 32, 48))),
    loss='own',
)
ODD = dataclasses.replace(FACES, modalities=images(20, 3, 1, 1))
OURS = [FACES, ROOMS]
VARIANTS = ['paper', 'masked', 'official']


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mmformer(task, **options):
    """A network in eval mode whose positions are not all zero."""
    method = MMFormer(task, **options).eval()
    for positions in method.positions.values():
        torch.nn.init.normal_(positions)
    return method


def every_subset(task):
    masks = torch.from_numpy(subset_masks(len(task.names)))
    batch = batch_of(task, len(masks))._replace(mask=masks)
    if task.kind == 'segmentation':
        batch.target[:, :3] = IGNORE
    return batch


# Transformers


def naive_block(block, x, allowed):
    """One sample's tokens (N, D), head by head and token by token; attends to `allowed`."""
    n, d = x.shape
    y = F.layer_norm(x, (d,), block.norms[0].weight, block.norms[0].bias)
    q, k, v = block.queries_keys_values.weight.view(3, block.heads, d // block.heads, d)
    mixed = torch.zeros(n, d)
    for h in range(block.heads):
        for i in range(n):
            scores = torch.stack([(q[h] @ y[i]) @ (k[h] @ y[j]) for j in allowed])
            shares = torch.exp(scores / (d // block.heads) ** 0.5)
            shares = shares / shares.sum()
            part = sum(a * (v[h] @ y[j]) for a, j in zip(shares, allowed, strict=True))
            mixed[i, h * len(part) : (h + 1) * len(part)] = part
    x = x + F.linear(mixed, block.project[0].weight, block.project[0].bias)
    first, _, _, second, _ = block.perceptron
    y = F.layer_norm(x, (d,), block.norms[1].weight, block.norms[1].bias)
    hidden = F.linear(y, first.weight, first.bias)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + F.linear(hidden, second.weight, second.bias)


def test_a_block_is_attention_and_perceptron_by_loops():
    block = Block(12, heads=3, ratio=2, dropout=0.1).eval()
    x, keep = torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool)
    keep[1, 1:3] = False
    for b, allowed in ((0, range(5)), (1, [0, 3, 4])):
        expected = naive_block(block, x[b], list(allowed))
        torch.testing.assert_close(block(x, keep)[b], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x, None)[0], block(x, keep)[0])


def test_positions_are_added_before_every_block():
    net = Transformer(2, 8, 2, 2, 0.1).eval()
    x, positions = torch.randn(2, 5, 8), torch.randn(5, 8)
    expected = net[1](net[0](x + positions, None) + positions, None)
    torch.testing.assert_close(net(x, positions), expected)


def test_dropout_acts_in_training_alone():
    net, x = Transformer(1, 8, 2, 2, 0.5), torch.randn(2, 5, 8)
    assert not torch.equal(net(x, x[0]), net(x, x[0]))
    net.eval()
    assert torch.equal(net(x, x[0]), net(x, x[0]))


def test_attention_is_dropped_twice_and_the_perceptron_once():
    """The released code drops out the projection of attention, and then the whole branch again."""
    block, x = Block(16, heads=4, ratio=2, dropout=0.5), torch.randn(4, 64, 16)
    for last in (block.project[0], block.perceptron[3]):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.ones_(last.bias)
    for found, kept in ((block.attend(x, None), 0.25), (block.perceptron(x), 0.5)):
        # What is kept is enlarged by the inverse of its share.
        assert found.unique().tolist() == [0, 1 / kept]
        assert (found > 0).double().mean().item() == pytest.approx(kept, abs=0.03)


@pytest.mark.parametrize('task', [*OURS, TASKS['mixed'], TASKS['vectors']])
def test_a_token_is_a_pixel_of_the_coarsest_map_and_a_patch_of_four_for_images_to_classify(task):
    method, batch = mmformer(task), batch_of(task)
    height, width = coarsest(task)
    patch = 2 if task.kind == 'classification' and height > 1 else 1
    rows, columns = -(-height // patch), -(-width // patch)
    for name, maps in method.encode(batch.inputs).items():
        *_, conv, tokens = maps
        assert conv.shape[2:] == (height, width)
        assert tokens.shape[1:] == (8 * task.width, rows, columns)
        assert method.positions[name].shape == (rows * columns, 8 * task.width)


def test_patches_at_the_border_of_an_odd_map_are_filled_with_zeros():
    method = mmformer(ODD)
    method.intra['rgb'] = Transformer(0)
    x = torch.randn(2, 8, 5, 5)
    assert method.map == (5, 5)
    embed, found = method.embed['rgb'], method.within('rgb', x)
    for row, column in ((0, 1), (1, 2), (2, 2)):
        patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        weight = embed.weight[..., : patch.shape[2], : patch.shape[3]]
        expected = torch.einsum('bchw,dchw->bd', patch, weight) + embed.bias
        torch.testing.assert_close(found[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


def test_intra_tokens_keep_their_places_on_the_map():
    method = mmformer(ROOMS)
    method.intra['rgb'] = Transformer(0)
    x = torch.randn(2, 32, 2, 3)
    torch.testing.assert_close(method.within('rgb', x), method.embed['rgb'](x))


@pytest.mark.parametrize('task', OURS)
def test_with_a_key_mask_present_tokens_are_related_as_if_the_missing_did_not_exist(task):
    method, masks = mmformer(task, depth=2, variant='masked'), every_subset(task).mask
    names, (rows, columns), width = task.names, method.grid, 8 * task.width
    maps = [torch.randn(len(masks), width, rows, columns) for _ in names]
    maps = [x * masks[:, m, None, None, None] for m, x in enumerate(maps)]
    joined = method.between(maps, masks)
    for b, mask in enumerate(masks.tolist()):
        there = [m for m, on in enumerate(mask) if on]
        tokens = torch.cat([maps[m][b].flatten(1).T for m in there])
        positions = torch.cat([method.positions[names[m]] for m in there])
        alone = method.inter(tokens[None], positions)[0].view(len(there), rows, columns, width)
        for m, expected in zip(there, alone, strict=True):
            found = joined[b, m * width : (m + 1) * width].permute(1, 2, 0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def naive_between(method, maps, b):
    """The inter transformer on all tokens of one sample, token by token, missing ones as zeros."""
    tokens = torch.cat([x[b].flatten(1).T for x in maps])
    positions = torch.cat([method.positions[name] for name in method.task.names])
    everything = range(len(tokens))
    for block in method.inter:
        tokens = naive_block(block, tokens + positions, everything)
    return tokens


@pytest.mark.parametrize('variant', ['paper', 'official'])
def test_missing_tokens_are_zeros_that_others_attend_to(variant):
    method, masks = mmformer(ROOMS, variant=variant), every_subset(ROOMS).mask
    maps = [torch.randn(len(masks), 32, *method.grid) for _ in ROOMS.names]
    maps = [x * masks[:, m, None, None, None] for m, x in enumerate(maps)]
    joined = method.between(maps, masks)
    for b in range(len(masks)):
        tokens = naive_between(method, maps, b)
        if variant == 'paper':  # (M, N, D) -> (M D, N)
            expected = tokens.view(2, -1, 32).transpose(1, 2).flatten(0, 1)
        else:
            expected = tokens.reshape(-1, 64).T
        torch.testing.assert_close(joined[b].flatten(1), expected, rtol=1e-4, atol=1e-4)
    other = mmformer(ROOMS, variant='masked')
    other.load_state_dict(method.state_dict(), strict=False)  # the official one has fewer sides
    gap = (other.between(maps, masks) - joined).abs().amax((1, 2, 3))
    incomplete = ~masks.all(1)
    assert (gap[incomplete] > 0.01).all()
    if variant == 'paper':
        assert (gap[~incomplete] < 1e-4).all()


def test_released_fusion_joins_consecutive_tokens_and_ours_the_modalities_at_a_pixel():
    tokens = torch.arange(2 * 6 * 32.0).view(2, 6, 32)  # (M, N, D)
    maps = [x.T.reshape(1, 32, 2, 3) for x in tokens]
    mask = torch.ones(1, 2, dtype=torch.bool)
    for variant in VARIANTS:
        method = mmformer(ROOMS, variant=variant)
        method.inter = Transformer(0)
        found = method.between(maps, mask)[0]
        for pixel in range(6):
            if variant != 'official':
                expected = torch.cat([tokens[0, pixel], tokens[1, pixel]])
            else:
                expected = tokens.flatten(0, 1)[2 * pixel : 2 * pixel + 2].flatten()
            assert torch.equal(found[:, pixel // 3, pixel % 3], expected)


@pytest.mark.parametrize('task', [*OURS, ODD])
def test_skips_are_fused_convolutional_maps_and_the_coarsest_the_transformer_s(task):
    method, batch = mmformer(task), every_subset(task)
    features = method.encode(batch.inputs)
    fused = method.fuse(features, batch.mask)
    keep = [batch.mask[:, m, None, None, None] for m in range(len(task.names))]
    for scale, found in enumerate(fused):
        if scale == len(fused) - 1:
            tokens = [features[n][-1] * k for n, k in zip(task.names, keep, strict=True)]
            joined = method.spread(method.between(tokens, batch.mask))
            height, width = features[task.names[0]][-2].shape[2:]
            joined = joined[:, :, :height, :width]
        else:
            maps = [features[n][scale] * k for n, k in zip(task.names, keep, strict=True)]
            joined = torch.cat(maps, 1)
        torch.testing.assert_close(found, method.fusions[scale](joined))


# Losses


def naive_loss(probability, target):
    """Weighted cross-entropy plus Dice by loops over samples and classes, in float64."""
    p, target = np.asarray(probability, dtype=np.float64), np.asarray(target)
    entropy, counted, dice = 0.0, 0, []
    for q, label in zip(p, target, strict=True):
        known = (label != IGNORE).sum()
        counted += known
        for k in range(p.shape[1]):
            inside = label == k
            share = inside.sum() / max(known, 1)
            entropy -= (1 - share) * np.log(np.clip(q[k][inside], 0.005, 1)).sum()
    for k in range(p.shape[1]):
        overlap = p[:, k][target == k].sum()
        dice.append(2 * overlap / (p[:, k][target != IGNORE].sum() + (target == k).sum() + 1e-7))
    return entropy / counted + 1 - np.mean(dice)


def test_segmentation_loss_is_weighted_entropy_and_dice_by_loops():
    logits = 4 * torch.randn(3, 4, 6, 5)
    p = logits.softmax(1)
    assert (p < 0.005).any()
    target = torch.randint(0, 3, (3, 6, 5))  # the last class is absent
    target[0, :2] = IGNORE
    found = segmentation_loss(logits, target).item()
    assert found == pytest.approx(naive_loss(p, target), rel=1e-5)


@pytest.mark.parametrize('loss', ['ce', 'ce_dice'])
def test_every_term_is_the_task_loss_that_the_protocol_chooses(loss):
    task = dataclasses.replace(ROOMS, loss=loss, class_weights=(1.0, 2.0, 0.5))
    method, batch = mmformer(task), every_subset(ROOMS)
    losses, features = method.loss(batch), method.encode(batch.inputs)
    alone = sum(
        method.task_loss(method.separate(features[n][:-1]), batch.target) for n in task.names
    )
    levels, deep = method.decoder.pyramid(method.fuse(features, batch.mask)), 0.0
    for side, x in zip(method.sides, levels, strict=True):
        p = F.interpolate(side(x).softmax(1), (32, 48), mode='bilinear')
        deep += method.task_loss(p.clamp_min(1e-7).log(), batch.target)
    fused = method.task_loss(method.decode(features, batch.mask), batch.target)
    torch.testing.assert_close(losses['loss_fuse'], fused)
    torch.testing.assert_close(losses['loss_sep'], alone)
    torch.testing.assert_close(losses['loss_deep'], deep)


def test_targets_that_are_ignored_altogether_leave_no_gradient_and_no_nan():
    for task in OURS:
        method = mmformer(task)
        shape = (2, len(task.classes), *((4, 4) if method.dense else ()))
        logits = torch.randn(shape, requires_grad=True)
        target = torch.full((2, *shape[2:]), IGNORE)
        loss = method.task_loss(logits, target)
        loss.backward()
        assert loss.isfinite()
        assert not logits.grad.any()


def expected_loss(logits, target):
    if logits.dim() == 4:
        return naive_loss(logits.detach().softmax(1), target)
    log_p = scipy.special.log_softmax(logits.detach().double().numpy(), 1)
    return -log_p[np.arange(len(target)), target].mean()


@pytest.mark.parametrize('task', OURS)
def test_one_decoder_must_serve_each_modality_alone_whatever_the_mask(task):
    method, batch = mmformer(task), every_subset(task)
    total = 0.0
    for name in task.names:
        maps = method.encoders({name: batch.inputs[name]})[name]
        total += expected_loss(method.separate(maps), batch.target)
    single = batch._replace(mask=batch.mask[:1].expand(len(batch.ids), -1))
    for same in (batch, single):
        assert method.loss(same)['loss_sep'].item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize('task', OURS)
def test_real_gaps_leave_the_separate_loss_to_the_samples_that_have_the_modality(task):
    method, batch = mmformer(task), batch_of(task, 5)
    available = torch.ones(5, len(task.names), dtype=torch.bool)
    available[:2, 0] = False
    found = method.separate_loss(method.encode(batch.inputs), batch._replace(available=available))
    total = 0.0
    for m, name in enumerate(task.names):
        rows = available[:, m]
        maps = method.encoders({name: batch.inputs[name][rows]})[name]
        if method.dense:  # Dice pools the batch, the mean of the entropies that of the samples
            total += naive_loss(method.separate(maps).detach().softmax(1), batch.target[rows])
        else:
            total += expected_loss(method.separate(maps), batch.target[rows])
    assert found.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize('task', OURS)
def test_the_fused_loss_is_that_of_the_deployed_network(task):
    method, batch = mmformer(task), every_subset(task)
    expected = expected_loss(method.predict(batch.inputs, batch.mask), batch.target)
    losses = method.loss(batch)
    assert losses['loss_fuse'].item() == pytest.approx(expected, rel=1e-4)
    assert ('loss_deep' in losses) is method.dense


def test_every_level_of_the_pyramid_is_supervised_at_full_resolution():
    method, batch = mmformer(ROOMS), every_subset(ROOMS)
    fused = method.fuse(method.encode(batch.inputs), batch.mask)
    levels, total = method.decoder.pyramid(fused), 0.0
    assert len(levels) == 4
    for side, x in zip(method.sides, levels, strict=True):
        p = side(x).detach().softmax(1)
        p = F.interpolate(p, (32, 48), mode='bilinear')
        total += naive_loss(p, batch.target)
    assert method.loss(batch)['loss_deep'].item() == pytest.approx(total, rel=1e-4)


def test_the_official_variant_supervises_all_levels_but_the_finest_with_aligned_corners():
    method, batch = mmformer(ROOMS, variant='official'), every_subset(ROOMS)
    fused = method.fuse(method.encode(batch.inputs), batch.mask)
    levels, total = method.decoder.pyramid(fused)[1:], 0.0
    assert len(method.sides) == 3
    for side, x in zip(method.sides, levels, strict=True):
        p = side(x).detach().softmax(1)
        p = F.interpolate(p, (32, 48), mode='bilinear', align_corners=True)
        total += naive_loss(p, batch.target)
    assert method.loss(batch)['loss_deep'].item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize('task', OURS)
def test_what_serves_training_alone_is_not_deployed(task):
    method, batch = mmformer(task), every_subset(task)
    expected = method.predict(batch.inputs, batch.mask)
    del method.separate, method.sides
    assert torch.equal(method.predict(batch.inputs, batch.mask), expected)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('task', OURS)
def test_a_step_trains_every_parameter(task, variant):
    method, batch = MMFormer(task, variant=variant, depth=2), every_subset(task)
    method.parse_losses(method.loss(batch))[0].backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.parameters())


@pytest.mark.parametrize('task', OURS)
def test_half_precision_changes_the_losses_by_rounding_alone(task):
    method, batch = mmformer(task), every_subset(task)
    expected = method.loss(batch)
    with torch.autocast('cpu', torch.bfloat16):
        found = method.loss(batch)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0.05, atol=0.0)


def test_the_transformers_have_the_size_of_the_released_code_s():
    modalities = images(32, 1, 1, 1, 1)
    task = dataclasses.replace(TASKS['rooms'], modalities=modalities, width=64)
    with torch.device('meta'):
        method = MMFormer(task)
    found = sum(p.numel() for m in (method.intra, method.inter) for p in m.parameters())
    # Five of them: attention 4 D^2, perceptron 2 D 4096, biases and two normalisations.
    assert found == 5 * (4 * 512**2 + 2 * 512 * 4096 + 512 + 4096 + 512 + 4 * 512)


def test_wrong_options_and_tasks_raise_errors_that_name_them():
    with pytest.raises(UserError, match="did you mean 'official'"):
        MMFormer(FACES, variant='oficial')
    with pytest.raises(UserError, match='expected a divisor of 32, found 5'):
        MMFormer(FACES, heads=5)
