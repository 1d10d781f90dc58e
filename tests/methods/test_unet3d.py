"""The network of volumes, and what methods compute of maps with three axes."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, Toy, batch_of

from benchmark.engine import building
from benchmark.engine.cost import flops
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import IGNORE, Modality, Task, dice_loss
from benchmark.missing import subset_masks
from benchmark.options import Spec
from benchmark.registry import METHODS, discover
from methods.common.losses import segmentation_loss, sigmoid_dice, squared_dice
from methods.common.networks import Encoders, decoder, masked
from methods.common.regions import RegionFusion, region_average
from methods.common.resize import _trilinear, bilinear
from methods.common.unet3d import VolumeDecoder

discover()
SIDES = (16, 16, 24)
MODALITIES = tuple(Modality(name, (1, *SIDES)) for name in ('flair', 't1', 't2'))
REGIONS = (('whole', (1, 2)), ('core', (2,)))
VOLUMES = Task(
    'toy', 'segmentation', MODALITIES, ('no', 'rim', 'core'), 'Dice', 4, regions=REGIONS,
    network='unet3d',
)  # fmt: skip
NAMES = [n for n, c in sorted(METHODS.module_dict.items()) if 'unet3d' in c.supported_networks]


def built(name, task=VOLUMES, **options):
    torch.manual_seed(0)
    method = METHODS.module_dict[name](task, **options)
    method.epochs, method.epoch = 10, 9
    return method


def test_the_methods_of_volumes():
    assert set(NAMES) >= {'modality_dropout', 'complete', 'customized', 'rfnet'}


def test_maps_halve_from_the_full_resolution_on():
    maps = Encoders(VOLUMES)({'t1': torch.randn(2, 1, *SIDES)})['t1']
    shapes = [(2, 4 * 2**s, *(side // 2**s for side in SIDES)) for s in range(4)]
    assert [tuple(x.shape) for x in maps] == shapes
    net = decoder(VOLUMES)
    assert isinstance(net, VolumeDecoder)
    assert [tuple(x.shape) for x in net.levels(maps)] == shapes
    assert torch.equal(net(maps), net.head(net.levels(maps)))


def test_a_stage_is_that_of_the_formula():
    encoder = Encoders(VOLUMES)['t1'].double()
    x = torch.randn(2, 1, *SIDES, dtype=torch.float64)

    def conv(x, weight, stride=1):
        y = F.conv3d(x, weight, stride=stride, padding=1)
        axes = (2, 3, 4)
        y = (y - y.mean(axes, keepdim=True)) / (
            y.var(axes, keepdim=True, correction=0) + 1e-5
        ).sqrt()
        return torch.where(y < 0, 0.2 * y, y)

    weights = dict(encoder.named_parameters())
    expected = x
    for s, found in enumerate(encoder(x)):
        entered = conv(expected, weights[f'enter.{s}.0.weight'], 1 if s == 0 else 2)
        first = conv(entered, weights[f'refine.{s}.0.0.weight'])
        expected = entered + conv(first, weights[f'refine.{s}.1.0.weight'])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_learns_and_no_missing_value_matters(name):
    method = built(name).train()
    batch = batch_of(VOLUMES, 3)
    total, _ = method.parse_losses(method.loss(batch))
    total.backward()
    exempt = 'gradient' in METHODS.module_dict[name].contract_exceptions
    assert exempt or all(p.grad is not None for p in method.parameters())
    method.eval()
    spoilt = {
        m: torch.where(batch.mask[:, k].view(-1, 1, 1, 1, 1), x, torch.nan)
        for k, (m, x) in enumerate(batch.inputs.items())
    }
    with torch.no_grad():
        found = method.predict(spoilt, batch.mask)
        assert found.shape == (3, 3, *SIDES)
        torch.testing.assert_close(found, method.predict(batch.inputs, batch.mask))


@pytest.mark.parametrize('name', NAMES)
def test_flops_are_those_of_a_patch_and_grow_with_the_subset(name):
    counted = flops(built(name), ['t1', 'flair+t1+t2'])
    assert 0 < counted['t1'] <= counted['flair+t1+t2']


@pytest.mark.parametrize('align', [False, True])
def test_volumes_are_resized_as_pytorch_does_on_every_device(align):
    x = torch.randn(2, 3, 4, 5, 6)
    size = (8, 10, 7)
    expected = F.interpolate(x, size, mode='trilinear', align_corners=align)
    torch.testing.assert_close(bilinear(x, size, align), expected)
    torch.testing.assert_close(_trilinear(x, size, align, products=True), expected)


def test_upsampling_with_aligned_corners_is_that_of_scipy():
    x = torch.randn(1, 1, 4, 3, 5, dtype=torch.float32)
    expected = scipy.ndimage.zoom(x[0, 0].numpy(), (7 / 4, 5 / 3, 9 / 5), order=1)
    np.testing.assert_allclose(bilinear(x, (7, 5, 9), True)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize('loss', [dice_loss, segmentation_loss, squared_dice, sigmoid_dice])
def test_losses_of_a_volume_are_those_of_its_slices_in_one_image(loss):
    """No loss knows neighbours: the voxels may stand in one plane."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((2, 3, 4, 5, 6)))
    target = torch.from_numpy(rng.integers(3, size=(2, 4, 5, 6)))
    target[0, 1, 2] = IGNORE
    plane = loss(logits.flatten(2, 3), target.flatten(1, 2))
    torch.testing.assert_close(loss(logits, target), plane)


def test_masked_maps_of_volumes_hold_zeros_where_absent():
    mask = torch.from_numpy(subset_masks(3))
    maps = {m.name: (torch.randn(len(mask), 2, 2, 3, 4),) for m in MODALITIES}
    (found,) = masked(maps, mask, VOLUMES.names)
    for k, (name, (x,)) in enumerate(maps.items()):
        expected = np.where(mask[:, k, None, None, None, None], x, 0)
        np.testing.assert_array_equal(found[k], expected, err_msg=name)


def test_region_fusion_of_a_volume_weighs_each_region():
    """H_r in full, as a sum over regions and modalities, then Phi's first convolution."""
    torch.manual_seed(0)
    fusion = RegionFusion(3, 4, 2, torch.nn.InstanceNorm3d)
    maps, p = torch.randn(2, 3, 4, 4, 4, 4), torch.rand(2, 2, 4, 4, 4).softmax(1)
    average, size = region_average(maps.flatten(1, 2), p)
    numbers = maps.numpy(), p.numpy()
    mean = np.einsum('brxyz,bmcxyz->brmc', numbers[1], numbers[0])
    mean /= numbers[1].sum((2, 3, 4))[..., None, None]
    np.testing.assert_allclose(average, mean.reshape(2, 2, -1), rtol=1e-5)
    np.testing.assert_allclose(size[..., 0], numbers[1].mean((2, 3, 4)), rtol=1e-5)
    weights = fusion.weights(maps.flatten(1, 2), p).detach().numpy()
    regions = np.einsum('brxyz,brm,bmcxyz->brcxyz', numbers[1], weights, numbers[0])
    first, *refine = fusion.phi
    y = first[1:](F.conv3d(torch.from_numpy(regions).flatten(1, 2), first[0].weight))
    for layer in refine:
        y = layer(y)
    torch.testing.assert_close(fusion(maps, p)[:, :2], y, rtol=1e-5, atol=1e-5)


def test_volumes_and_their_network_belong_together():
    slices = dataclasses.replace(TASKS['rooms'], network='unet3d')
    for task, told in (
        (slices, 'network=unet3d on toy: expected volumes, found no volumes'),
        (
            dataclasses.replace(VOLUMES, network='pyramid'),
            'network=pyramid on toy: expected no vol',
        ),
    ):
        with pytest.raises(UserError, match=told):
            METHODS.module_dict['modality_dropout'](task)
    for name in sorted(set(METHODS.module_dict) - set(NAMES)):
        if 'segmentation' not in METHODS.module_dict[name].task_kinds:
            continue  # which is told first
        with pytest.raises(UserError, match=r'has no form for volumes \(network=unet3d\)'):
            METHODS.module_dict[name].check_network(VOLUMES)


@pytest.mark.parametrize('name', NAMES)
def test_convolutions_before_a_norm_begin_with_kaiming_weights_of_the_fan_out(name):
    """The suite's rule for every method; official variants may differ (test_initial)."""
    method = built(name, dataclasses.replace(VOLUMES, width=8))
    building.draw_volumes(method)
    found = []
    for part in method.modules():
        children = list(part.children())
        for conv, norm in itertools.pairwise(children):
            if isinstance(conv, torch.nn.Conv3d) and isinstance(norm, torch.nn.InstanceNorm3d):
                assert norm.weight is None  # it has no weights that could begin otherwise
                deviation = (2 / (conv.out_channels * np.prod(conv.kernel_size))) ** 0.5
                found.append(
                    conv.weight.numel() ** 0.5 * (conv.weight.std().item() / deviation - 1)
                )
    plain = [m for m in method.modules() if isinstance(m, torch.nn.Conv3d) and m.bias is None]
    assert len(found) == len(plain)
    # The deviation of n normal numbers is off by about 1 / sqrt(2 n).
    assert len(found) >= 20
    assert np.abs(found).max() < 4
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.5**0.5, rel=0.4)


def test_a_network_of_volumes_is_built_with_these_weights(tmp_path):
    protocol = Protocol(precision='float32')
    e = experiment(Spec('modality_dropout'), Toy(VOLUMES), protocol, 0, tmp_path)
    weight = building.build(e, 'cpu').encoders['t1'].refine[3][0][0].weight
    assert weight.shape == (32, 32, 3, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.02)
