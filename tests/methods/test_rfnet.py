"""RFNet against its equations, written as loops over samples, regions and modalities."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from learning import lowers
from tasks import batch_of as random_batch
from tasks import images

from benchmark.method import IGNORE, Batch, Modality, Task
from benchmark.missing import subset_masks
from methods.common.losses import segmentation_loss
from methods.common.regions import (
    HIDDEN,
    TOGETHER,
    RegionFusion,
    region_average,
    split_regions,
    upsample,
)
from methods.rfnet import RFNet

FACES = Task(
    dataset='faces',
    kind='classification',
    modalities=(
        Modality('rgb', (3, 24, 24)),
        Modality('depth', (1, 24, 24)),
        Modality('ir', (1, 24, 24)),
    ),
    classes=('attack', 'live'),
    metric='ACER',
    width=4,
)
ROOMS = Task(
    dataset='rooms',
    kind='segmentation',
    modalities=(Modality('rgb', (3, 32, 32)), Modality('depth', (1, 32, 32))),
    classes=('wall', 'floor', 'box', 'poster'),
    metric='mIoU',
    width=4,
    loss='own',
)
TASKS = [FACES, ROOMS]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch_of(task, size=6, mask=None, available=None):
    inputs = {m.name: torch.randn(size, *m.shape) for m in task.modalities}
    everything = torch.ones(size, len(task.modalities), dtype=torch.bool)
    available = everything if available is None else available
    mask = available if mask is None else mask
    target = torch.randint(0, len(task.classes), (size,))
    if task.kind == 'segmentation':  # a picture of large squares
        squares = torch.randint(0, len(task.classes), (size, 4, 4))
        target = squares.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(inputs, available, mask, target, torch.arange(size))


def naive_weights(module, maps, p):
    """w[b][r]: the perceptron of region r on normalised averages, one sample at a time."""
    count, channels, regions = maps.shape[1], maps.shape[2], p.shape[1]
    first, _, second = module.weigh
    w1 = first.weight.view(regions, HIDDEN, count * channels + 1)
    w2 = second.weight.view(regions, count, HIDDEN)
    weights = torch.empty(len(maps), regions, count)
    for b in range(len(maps)):
        for r in range(regions):
            size = p[b, r].mean() + 1e-7
            pooled = [(maps[b, i] * p[b, r]).mean((1, 2)) / size for i in range(count)]
            x = torch.cat([*pooled, size[None]])
            x = F.leaky_relu(w1[r] @ x + first.bias.view(regions, HIDDEN)[r], 0.2)
            weights[b, r] = torch.sigmoid(w2[r] @ x + second.bias.view(regions, count)[r])
    return weights


def naive_fusion(module, maps, p):
    """The fused map with every modality's part of every region held at once."""
    parts = maps[:, :, None] * p[:, None, :, None]  # (B, M, R, C, H, W)
    weights = naive_weights(module, maps, p)
    split = torch.einsum('brm,bmrchw->brchw', weights, parts).flatten(1, 2)
    return torch.cat([module.phi(split), module.psi(maps.flatten(1, 2))], 1)


@pytest.mark.parametrize('regions', [1, 3, TOGETHER + 3])
def test_region_fusion_equals_the_naive_form_that_builds_every_part(regions):
    module = RegionFusion(3, 6, regions, torch.nn.InstanceNorm2d)
    maps = torch.randn(2, 3, 6, 5, 4)
    p = torch.randn(2, regions, 5, 4).softmax(1)
    expected = naive_fusion(module, maps, p)
    torch.testing.assert_close(module(maps, p), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        module.weights(maps.flatten(1, 2), p), naive_weights(module, maps, p)
    )


def test_a_region_of_probability_one_leaves_the_other_regions_empty():
    maps, weights = torch.randn(2, 3, 6, 4, 4), torch.rand(2, 5, 3)
    p = torch.zeros(2, 5, 4, 4)
    p[:, 2] = 1
    regions = split_regions(maps, weights, p).view(2, 5, 6, 4, 4)
    torch.testing.assert_close(regions[:, 2], (weights[:, 2, :, None, None, None] * maps).sum(1))
    assert not regions[:, [0, 1, 3, 4]].any()


def test_pooling_is_the_mean_over_the_region_whatever_the_scale_of_its_probability():
    x, inside = torch.randn(2, 7, 6, 6), torch.zeros(2, 1, 6, 6)
    inside[:, :, 1:4, 2:5] = 1
    whole, _ = region_average(x, inside)
    faint, _ = region_average(x, inside * 0.125)
    torch.testing.assert_close(whole[:, 0], x[:, :, 1:4, 2:5].mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(faint, whole, rtol=1e-4, atol=1e-5)


def test_classification_gates_the_pooled_modalities_beside_a_shortcut():
    net = RFNet(FACES).eval()
    batch = batch_of(FACES, mask=torch.from_numpy(subset_masks(3))[:6])
    features = net.encode(batch.inputs)
    maps = torch.stack([features[name][0] for name in FACES.names], 1)
    maps = maps * batch.mask[:, :, None, None, None]
    (module,) = net.fusions
    pooled = torch.cat([maps.mean((3, 4)).flatten(1), torch.ones(6, 1)], 1)
    first, slope, second = module.weigh
    hidden = slope(F.linear(pooled, first.weight[..., 0], first.bias))
    gate = F.linear(hidden, second.weight[..., 0], second.bias).sigmoid()
    gated = (gate[:, :, None, None, None] * maps).sum(1)
    fused = torch.cat([module.phi(gated), module.psi(maps.flatten(1, 2))], 1)
    expected = net.decoder((fused,))
    torch.testing.assert_close(net.decode(features, batch.mask), expected, rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one_at_every_pixel_and_scale():
    net = RFNet(ROOMS)
    batch = batch_of(ROOMS)
    _, probabilities = net.fuse(net.encode(batch.inputs), batch.mask)
    assert [p.shape[1:] for p in probabilities] == [(4, s, s) for s in (16, 8, 4, 2)]
    for p in probabilities:
        torch.testing.assert_close(p.sum(1), torch.ones_like(p[:, 0]))


def naive_conv(layer, x, padding):
    """Zero-padded convolution, instance normalisation and leaky ReLU, by torch's functions."""
    x = F.conv2d(x, layer[0].weight, padding=padding)
    return F.leaky_relu(F.instance_norm(x), 0.2)


def naive_decode(net, maps):
    """The segmentation network of one batch, scale by scale from the coarsest."""
    x, probabilities = None, []
    for s in (3, 2, 1, 0):
        if x is not None:
            up = F.interpolate(x, maps[s].shape[3:], mode='bilinear', align_corners=True)
            above = naive_conv(net.decoder.rise[s], up, 1)
        joined = maps[s].flatten(1, 2)
        for layer, padding in zip(net.maps[s].embed, (0, 1, 0), strict=True):
            joined = naive_conv(layer, joined, padding)
        if x is not None:
            joined = torch.cat([above, joined], 1)
        hidden, last = net.maps[s].classify
        z = F.conv2d(naive_conv(hidden, joined, 0), last.weight, last.bias)
        probabilities.insert(0, z.softmax(1))
        fused = naive_fusion(net.fusions[s], maps[s], probabilities[0].detach())
        if x is not None:
            first, second = net.decoder.join[s]
            fused = naive_conv(first, torch.cat([fused, above], 1), 1)
            fused = naive_conv(second, fused, 0)
        x = fused
    z = F.conv2d(x, net.decoder.head.weight, net.decoder.head.bias)
    return F.interpolate(z, (32, 32), mode='bilinear', align_corners=True), probabilities


@pytest.fixture
def _float64(monkeypatch):
    """Computes in float64 what asks for float32, so that rounding does not cover a difference."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures('_float64')
def test_one_step_has_the_losses_and_gradients_of_the_naive_network():
    net, batch = RFNet(ROOMS).eval(), batch_of(ROOMS, 3)
    net.epoch, net.epochs = 1, 1
    batch = batch._replace(mask=torch.from_numpy(subset_masks(2)))
    losses = net.loss(batch)
    features = net.encode(batch.inputs)
    keep = batch.mask[:, :, None, None, None]
    maps = [torch.stack([features[n][s] for n in ROOMS.names], 1) * keep for s in range(4)]
    logits, probabilities = naive_decode(net, maps)
    full = [F.interpolate(p, (32, 32), mode='bilinear', align_corners=True) for p in probabilities]
    expected = {
        'loss_fuse': tensor_loss(logits.softmax(1), batch.target),
        'loss_sep': sum(
            tensor_loss(naive_separate(net, features[n]).softmax(1), batch.target)
            for n in ROOMS.names
        ),
        'loss_prm': sum(tensor_loss(p, batch.target) for p in full),
    }
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5)
    parameters = list(net.parameters())
    found, wanted = (
        torch.autograd.grad(sum(each.values()), parameters) for each in (losses, expected)
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def naive_separate(net, maps):
    """The decoder that the modalities share, without any probability maps."""
    x = maps[3]
    for s in (2, 1, 0):
        up = F.interpolate(x, maps[s].shape[2:], mode='bilinear', align_corners=True)
        above = naive_conv(net.separate.rise[s], up, 1)
        first, second = net.separate.join[s]
        x = naive_conv(second, naive_conv(first, torch.cat([maps[s], above], 1), 1), 0)
    z = F.conv2d(x, net.separate.head.weight, net.separate.head.bias)
    return F.interpolate(z, (32, 32), mode='bilinear', align_corners=True)


def tensor_loss(p, target):
    """Weighted cross-entropy and Dice with gradients, one class at a time."""
    entropy, dice = 0.0, 0.0
    for k in range(p.shape[1]):
        inside = (target == k).double()
        share = inside.mean((1, 2))[:, None, None]
        entropy = entropy - ((1 - share) * inside * p[:, k].clamp(0.005, 1).log()).mean()
        overlap = (p[:, k] * inside).sum()
        dice = dice + 2 * overlap / (p[:, k].sum() + inside.sum() + 1e-7)
    return entropy + 1 - dice / p.shape[1]


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_values_of_absent_modalities_have_no_effect(task):
    net = RFNet(task).eval()
    batch = batch_of(task, 2)
    for row in torch.from_numpy(subset_masks(len(task.names))):
        mask = row.expand(2, -1)
        present = {n: batch.inputs[n] for n, there in zip(task.names, row, strict=True) if there}
        broken = {n: present.get(n, torch.full_like(x, torch.nan)) for n, x in batch.inputs.items()}
        with torch.no_grad():
            expected = net.predict(batch.inputs, mask)
            assert expected.isfinite().all()
            assert torch.equal(net.predict(broken, mask), expected)
            assert torch.equal(net.predict(present, mask), expected)


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_a_sample_is_predicted_alone_as_in_a_batch_of_other_masks(task):
    net = RFNet(task).eval()
    masks = torch.from_numpy(subset_masks(len(task.names)))
    batch = batch_of(task, len(masks))
    with torch.no_grad():
        together = net.predict(batch.inputs, masks)
        for b in range(len(masks)):
            one = {name: x[b : b + 1] for name, x in batch.inputs.items()}
            alone = net.predict(one, masks[b : b + 1])
            torch.testing.assert_close(alone[0], together[b], rtol=1e-4, atol=1e-4)


def reached(loss, module):
    """Whether a gradient of the loss arrives at any parameter of a module."""
    grads = torch.autograd.grad(
        loss, list(module.parameters()), retain_graph=True, allow_unused=True
    )
    return any(g is not None and bool(g.abs().sum() > 0) for g in grads)


def test_each_loss_trains_its_own_part_of_the_network():
    net = RFNet(ROOMS)
    losses = net.loss(batch_of(ROOMS))
    fuse, sep, prm = losses['loss_fuse'], losses['loss_sep'], losses['loss_prm']
    assert all(reached(loss, net.encoders) for loss in (fuse, sep, prm))
    assert not reached(fuse, net.maps)
    assert not reached(fuse, net.separate)
    assert reached(fuse, net.decoder)
    assert all(reached(fuse, module) for module in net.fusions)
    assert all(reached(prm, module) for module in net.maps)
    assert [reached(prm, module) for module in net.fusions] == [False, True, True, True]
    # The maps of the three finer scales read the decoded path, which their loss thus supervises.
    assert [reached(prm, m) for m in net.decoder.join] == [False, True, True]
    assert all(reached(prm, m) for m in net.decoder.rise)
    assert not reached(prm, net.decoder.head)
    assert not reached(prm, net.separate)
    assert reached(sep, net.separate)
    assert not any(reached(sep, m) for m in (net.maps, net.fusions, net.decoder))


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_fusion_is_trained_only_after_the_start(task):
    net = RFNet(task)
    batch = batch_of(task)
    net.epochs, net.epoch = 300, 19
    before = net.loss(batch)
    net.epoch = 20
    after = net.loss(batch)
    assert before['loss_fuse'] == 0
    assert after['loss_fuse'] > 0
    total = net.parse_losses(before)[0]
    idle = net.decoder if task is FACES else net.decoder.head
    assert not reached(total, idle)
    assert not reached(total, net.fusions[0])
    assert all(reached(total, encoder) for encoder in net.encoders.values())
    assert reached(net.parse_losses(after)[0], idle)


def naive_loss(p, target):
    """The loss of one prediction, pixel by pixel, from probabilities (B, K, H, W)."""
    k = p.shape[1]
    entropy, pixels = 0.0, 0
    hit, predicted, true = np.zeros(k), np.zeros(k), np.zeros(k)
    for b, y in enumerate(target):
        labelled = [(i, j) for i, j in np.ndindex(y.shape) if y[i, j] != IGNORE]
        share = [sum(y[at] == c for at in labelled) / max(len(labelled), 1) for c in range(k)]
        for at in labelled:
            q, c = p[b, :, at[0], at[1]], y[at]
            entropy -= (1 - share[c]) * np.log(min(max(q[c], 0.005), 1))
            pixels += 1
            hit[c] += q[c]
            true[c] += 1
            predicted += q
    dice = np.mean(2 * hit / (predicted + true + 1e-7))
    return entropy / max(pixels, 1) + 1 - dice


def test_segmentation_loss_equals_the_loop_over_pixels():
    logits = 4 * torch.randn(2, 4, 5, 6)
    p = logits.softmax(1)
    assert (p < 0.005).any()
    target = torch.randint(0, 4, (2, 5, 6))
    target[0, :2] = IGNORE
    for unlabelled in (0, 1, 2):
        target[:unlabelled] = IGNORE
        loss = segmentation_loss(logits, target).item()
        assert loss == pytest.approx(naive_loss(p.numpy(), target.numpy()), rel=1e-5)


def test_an_absent_class_adds_to_the_loss_of_a_perfect_prediction():
    target = torch.tensor([[[0, 1], [2, 2]]])
    p = F.one_hot(target, 4).permute(0, 3, 1, 2)
    assert segmentation_loss(1e3 * p.float(), target).item() == pytest.approx(1 / 4)


def test_unlabelled_pixels_have_no_influence():
    logits = torch.randn(3, 4, 5, 5, requires_grad=True)
    target = torch.randint(0, 4, (3, 5, 5))
    target[:, 1:3] = IGNORE
    loss = segmentation_loss(logits, target)
    changed = logits.detach().clone()
    changed[..., 1:3, :] = 5 * torch.randn(3, 4, 2, 5)
    torch.testing.assert_close(segmentation_loss(changed, target), loss.detach())
    (grad,) = torch.autograd.grad(loss, logits)
    assert not grad[..., 1:3, :].any()
    assert grad[..., 0, :].any()


@pytest.mark.parametrize('loss', ['ce', 'ce_dice', 'own'])
def test_every_term_is_the_task_loss_that_the_protocol_chooses(loss):
    weights = (1.0, 2.0, 0.5, 1.5)
    net = RFNet(dataclasses.replace(ROOMS, loss=loss, class_weights=weights)).eval()
    net.epoch, net.epochs = 1, 1
    batch = batch_of(ROOMS)
    losses, features = net.loss(batch), net.encode(batch.inputs)
    fused, probabilities = net.fuse(features, batch.mask)
    alone = sum(net.task_loss(net.separate(features[n]), batch.target) for n in ROOMS.names)
    maps = sum(net.task_loss(upsample(p, (32, 32)).log(), batch.target) for p in probabilities)
    torch.testing.assert_close(losses['loss_fuse'], net.task_loss(net.logits(fused), batch.target))
    torch.testing.assert_close(losses['loss_sep'], alone)
    torch.testing.assert_close(losses['loss_prm'], maps)


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_every_modality_is_regularised_whatever_the_mask(task):
    net = RFNet(task).eval()
    single = torch.from_numpy(subset_masks(len(task.names)))[:1].expand(6, -1)
    batch = batch_of(task, mask=single)
    losses = net.separate_losses(net.encode(batch.inputs), batch)
    assert losses.shape == (len(task.names),)
    for m, name in enumerate(task.names):
        logits = net.separate(net.encode({name: batch.inputs[name]})[name]).detach()
        if task.kind == 'segmentation':
            expected = naive_loss(logits.softmax(1).numpy(), batch.target.numpy())
        else:
            chosen = logits.log_softmax(1)[torch.arange(6), batch.target]
            expected = -chosen.mean().item()
        assert losses[m].item() == pytest.approx(expected, rel=1e-4)
    assert net.loss(batch)['loss_sep'].item() == pytest.approx(losses.sum().item(), rel=1e-5)


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_real_gaps_leave_the_regulariser_to_the_samples_that_have_the_modality(task):
    net = RFNet(task).eval()
    available = torch.ones(6, len(task.names), dtype=torch.bool)
    available[:2, 0] = False
    available[:, -1] = False
    batch = batch_of(task, available=available)
    losses = net.separate_losses(net.encode(batch.inputs), batch)
    rest = Batch(
        {name: x[2:] for name, x in batch.inputs.items()}, *(part[2:] for part in batch[1:5])
    )
    without_gaps = net.separate_losses(net.encode(rest.inputs), rest)
    torch.testing.assert_close(losses[0], without_gaps[0], rtol=1e-4, atol=1e-5)
    # No sample has the last modality: nothing to learn, and no division by zero.
    assert not reached(losses[-1], net)
    assert losses.isfinite().all()


def test_the_separate_decoder_serves_training_alone():
    net = RFNet(ROOMS).eval()
    batch = batch_of(ROOMS, 2)
    with torch.no_grad():
        expected = net.predict(batch.inputs, batch.mask)
        del net.separate
        assert expected.shape == (2, 4, 32, 32)
        assert torch.equal(net.predict(batch.inputs, batch.mask), expected)


@pytest.mark.parametrize('size', [(5, 7), (10, 14), (13, 9)])
def test_upsampling_is_bilinear(size):
    x = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(x, size, mode='bilinear', align_corners=True)
    torch.testing.assert_close(upsample(x, size), expected)


def test_vectors_are_fused_with_images_at_one_pixel():
    modalities = (Modality('face', (3, 24, 24)), Modality('voice', (9,)))
    task = Task('talk', 'classification', modalities, ('a', 'b', 'c'), 'accuracy', width=4)
    net = RFNet(task)
    losses = net.loss(batch_of(task))
    assert all(loss.isfinite() for loss in losses.values())
    assert reached(losses['loss_fuse'], net.fusions)


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_half_precision_changes_the_losses_by_rounding_alone(task):
    net = RFNet(task).eval()
    batch = batch_of(task)
    expected = net.loss(batch)
    with torch.autocast('cpu', torch.bfloat16):
        found = net.loss(batch)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0.05, atol=0.0)


@pytest.mark.parametrize('task', TASKS, ids=lambda t: t.kind)
def test_training_lowers_every_loss(task):
    net = RFNet(task)
    masks = torch.from_numpy(subset_masks(len(task.names)))
    mask = masks[torch.arange(8) % len(masks)]
    batch = batch_of(task, 8, mask=mask)
    brightness = batch.target[:, None].float()
    for name, x in batch.inputs.items():  # every modality shows the target through noise
        batch.inputs[name] = 0.1 * x + brightness.view(8, 1, *brightness.shape[2:] or (1, 1))
    assert lowers(net, batch, 1e-2, 40)


@pytest.mark.parametrize('side', [1, 7])
def test_images_so_small_that_a_map_has_one_pixel_are_segmented(side):
    small = dataclasses.replace(ROOMS, modalities=images(side, 3, 1))
    torch.manual_seed(0)
    method = RFNet(small)
    losses = method.loss(random_batch(small, 4))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    batch = random_batch(small, 4)
    logits = method.eval().predict(batch.inputs, batch.mask)
    assert logits.shape == (4, len(ROOMS.classes), side, side)
    # The deepest map still depends on the input: instance normalisation would return zeros.
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in method.fusions[-1].modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in RFNet(ROOMS).fusions[-1].modules())
