"""ESANet against its five fusions written out, its sizes, and the methods that run on it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import ESANET, Toy, batch_of, images

from benchmark.engine.cost import deployed_parameters, flops
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import IGNORE, Method, Modality, Task
from benchmark.missing import subset_masks
from benchmark.options import Spec
from benchmark.registry import METHODS, discover
from methods.common.esanet import ESANetEncoder, Upsample
from methods.common.losses import multi_scale
from methods.complete import Complete
from methods.dmrnet import DMRNet
from methods.mmanet import MMANet
from methods.modality_dropout import ModalityDropout

discover()
NAMES = sorted(METHODS.module_dict)
ACCEPTED = ['complete', 'customized', 'distilled', 'dmrnet', 'mmanet', 'modality_dropout']
PAPER = Task(
    'nyuv2',
    'segmentation',
    (Modality('rgb', (3, 480, 640)), Modality('depth', (1, 480, 640))),
    tuple(f'class {k}' for k in range(40)),
    'mIoU',
    network='esanet',
    depth=50,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def three(**changes):
    return dataclasses.replace(ESANET, modalities=images(32, 3, 1, 2), **changes)


def lively(module):
    """BatchNorm that does something in evaluation, where its statistics start at 0 and 1."""
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for x in (m.weight, m.bias, m.running_mean, m.running_var):
                torch.nn.init.uniform_(x, 0.2, 1.5)
    return module.eval()


def excited(layer, x):
    """Squeeze-and-excitation by its definition."""
    first, second = (c for c in layer if isinstance(c, torch.nn.Conv2d))
    hidden = F.relu(x.mean((2, 3)) @ first.weight.flatten(1).T + first.bias)
    gate = torch.sigmoid(hidden @ second.weight.flatten(1).T + second.bias)
    return x * gate[:, :, None, None]


def written_out(net, rgb, depth):
    """The five sums of two streams, one after the other; None is a modality that is not there."""
    found = []
    first, second = net.streams['rgb'], net.streams['depth']
    for k in range(5):
        if k == 0:
            step = [lambda x, s=s: F.relu(s.bn1(s.conv1(x))) for s in (first, second)]
        elif k == 1:
            step = [lambda x, s=s: s.layer1(s.maxpool(x)) for s in (first, second)]
        else:
            step = [getattr(s, f'layer{k}') for s in (first, second)]
        rgb = None if rgb is None else step[0](rgb)
        depth = None if depth is None else step[1](depth)
        gates = net.excitations[k]
        parts = [(gates['rgb'], rgb), (gates['depth'], depth)]
        total = sum(excited(gate, x) for gate, x in parts if x is not None)
        rgb = None if rgb is None else total
        found.append(total)
    return found


def test_excitations_have_the_hidden_channels_of_the_official_network():
    with torch.device('meta'):
        net = ESANetEncoder(PAPER)
    hidden = [layers['rgb'][1].out_channels for layers in net.excitations]
    assert hidden == [4, 16, 32, 64, 128]


@pytest.mark.parametrize('side', [32, 96])
@pytest.mark.parametrize('depth', [18, 50])
def test_streams_are_fused_at_five_points_and_the_sum_replaces_the_first(side, depth):
    task = dataclasses.replace(ESANET, modalities=images(side, 3, 1), depth=depth)
    net = lively(ESANetEncoder(task)).double()
    inputs = {name: x.double() for name, x in batch_of(task, 3).inputs.items()}
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    found = net.fused(inputs, mask)
    for row, (there, other) in enumerate(mask.tolist()):
        alone = {n: x[row : row + 1] for n, x in inputs.items()}
        expected = written_out(
            net, alone['rgb'] if there else None, alone['depth'] if other else None
        )
        assert len(found) == len(expected) == 5
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs)


def test_with_three_modalities_the_first_stream_carries_the_sum():
    net, inputs = lively(ESANetEncoder(three())), batch_of(three(), 2).inputs
    found = net.fused(inputs, torch.ones(2, 3, dtype=torch.bool))
    streams = {}
    for name in ('depth', 'ir'):
        s = net.streams[name]
        x = F.relu(s.bn1(s.conv1(inputs[name])))
        streams[name] = [x] + [x := getattr(s, f'layer{k}')(x) for k in (1, 2, 3, 4)]
    s = net.streams['rgb']
    x = F.relu(s.bn1(s.conv1(inputs['rgb'])))
    for k in range(5):
        x = x if k == 0 else getattr(s, f'layer{k}')(x)
        x = excited(net.excitations[k]['rgb'], x)
        x = x + sum(excited(net.excitations[k][n], y[k]) for n, y in streams.items())
        torch.testing.assert_close(found[k], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('mask', list(subset_masks(3)), ids=str)
def test_a_masked_modality_has_no_influence(mask):
    task = three()
    method, batch = lively(ModalityDropout(task)), batch_of(task, 3)
    allowed = torch.from_numpy(mask).expand(3, -1)
    clean = method.predict(batch.inputs, allowed)
    for column, name in enumerate(task.names):
        for poison in (float('nan'), -1e3):
            spoilt = {**batch.inputs, name: torch.full_like(batch.inputs[name], poison)}
            same = torch.equal(method.predict(spoilt, allowed), clean)
            assert same == (not mask[column])
    given = {n: batch.inputs[n] for n, on in zip(task.names, mask, strict=True) if on}
    torch.testing.assert_close(method.predict(given, allowed), clean, rtol=1e-5, atol=1e-6)


def test_masks_apply_to_each_sample_separately():
    task = three()
    method, batch = lively(ModalityDropout(task)), batch_of(task, 7)
    masks = torch.from_numpy(subset_masks(3))
    together = method.predict(batch.inputs, masks)
    for row in range(7):
        alone = {n: x[row : row + 1] for n, x in batch.inputs.items()}
        one = method.predict(alone, masks[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], one, rtol=1e-4, atol=1e-4)


def test_no_gradient_comes_back_through_a_mask():
    task = three()
    method, batch = lively(ModalityDropout(task)), batch_of(task, 2)
    for mask in subset_masks(3):
        method.zero_grad()
        method.predict(batch.inputs, torch.from_numpy(mask).expand(2, -1)).sum().backward()
        for name, there in zip(task.names, mask, strict=True):
            stream = method.fusion.streams[name].parameters()
            assert any(p.grad is not None and p.grad.any() for p in stream) == there


@pytest.mark.parametrize(
    ('shape', 'steps'),
    [((32, 32), 1), ((33, 47), 1), ((96, 128), 2), ((97, 81), 2), ((81, 200), 2)],
)
def test_maps_halve_and_logits_have_the_image_s_size(shape, steps):
    modalities = (Modality('rgb', (3, *shape)), Modality('depth', (1, *shape)))
    task = dataclasses.replace(ESANET, modalities=modalities)
    method, batch = ModalityDropout(task).eval(), batch_of(task, 2)
    maps = method.fusion(method.encode(batch.inputs), batch.mask)
    w = task.width
    assert [x.shape[1] for x in maps] == [2 * w, 4 * w, 8 * w, 8 * w]
    assert method.decoder.channels == maps[-1].shape[1]
    for k, x in enumerate(maps):
        side = [-(-s // 2 ** (steps + k)) for s in shape]
        assert list(x.shape[2:]) == side
    assert method.decoder(maps).shape == (2, 3, *shape)
    doubling = [tuple(-(-s // 2**k) for s in shape) for k in reversed(range(steps))]
    assert method.decoder.sizes == doubling
    assert len(method.decoder.grow) == steps
    assert method.decoder.feature(maps).shape == maps[2].shape
    sides = [x.shape for x in method.train().decoder.outputs(maps)]
    assert sides == [(2, 3, *shape), *((2, 3, *x.shape[2:]) for x in maps[:0:-1])]


def test_the_context_module_pools_to_one_and_to_five_cells_a_side():
    net = lively(ESANetEncoder(dataclasses.replace(ESANET, modalities=images(320, 3, 1)))).context
    x = torch.randn(2, 32, 10, 10)
    blocks = x.unflatten(3, (5, 2)).unflatten(2, (5, 2)).mean((3, 5))
    parts = [x]
    for pooled, branch in zip((x.mean((2, 3), keepdim=True), blocks), net.pools, strict=True):
        y = branch[1](pooled)
        parts.append(
            y.repeat_interleave(10 // y.shape[2], 2).repeat_interleave(10 // y.shape[3], 3)
        )
    assert [p.shape[1] for p in parts] == [32, 16, 16]
    torch.testing.assert_close(net(x), net.join(torch.cat(parts, 1)))


def test_upsampling_starts_bilinear():
    x = torch.randn(2, 5, 6, 7)
    expected = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
    found = Upsample(5)(x, (12, 14))
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])


def naive_loss(logits, target, weights):
    """Weighted cross-entropy of labelled pixels, in float64."""
    size = logits.shape[2:]
    rows, columns = (np.arange(n) * s // n for n, s in zip(size, target.shape[1:], strict=True))
    labels = np.asarray(target)[:, rows][:, :, columns].ravel()
    z = np.moveaxis(np.asarray(logits.detach(), dtype=np.float64), 1, -1).reshape(len(labels), -1)
    known = labels != IGNORE
    errors = -scipy.special.log_softmax(z, 1)[known, labels[known]]
    return np.average(errors, weights=weights[labels[known]])


@pytest.mark.parametrize('weights', [(), (0.5, 1.0, 3.0)])
def test_training_supervises_four_scales_with_equal_weight(weights):
    task = dataclasses.replace(ESANET, class_weights=weights, loss='ce')
    method, batch = ModalityDropout(task), batch_of(task, 4)
    target = batch.target.clone()
    target[:, 3:9, ::5] = IGNORE
    batch = batch._replace(target=target)
    factors = np.array(weights or (1.0, 1.0, 1.0))
    lively(method)
    maps = method.fusion(method.encode(batch.inputs), batch.mask)
    assert len(method.decoder.outputs(maps)) == 1
    plain = naive_loss(method.decoder.logits(maps), target, factors)
    assert method.loss(batch)['loss_task'].item() == pytest.approx(plain, rel=1e-5)
    # Side outputs in training mode, with BatchNorm held still so that both passes see the same.
    method.decoder.training = True
    outputs = method.decoder.outputs(maps)
    assert len(outputs) == 4
    four = sum(naive_loss(x, target, factors) for x in outputs)
    assert method.loss(batch)['loss_task'].item() == pytest.approx(four, rel=1e-5)
    assert four > 1.5 * plain


def test_multi_scale_of_a_single_output_is_the_criterion():
    logits, target = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(
        multi_scale(F.cross_entropy, (logits,), target), F.cross_entropy(logits, target)
    )


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_equal_those_of_the_papers_code():
    # Measured on the released code: ResNet-50, 40 classes, in millions.
    with torch.device('meta'):
        plain, mmanet = ModalityDropout(PAPER), MMANet(PAPER)
    assert count(plain) / 1e6 == pytest.approx(71.7, abs=0.05)
    assert count(mmanet) / 1e6 == pytest.approx(88.1, abs=0.05)
    assert count(plain.decoder) / 1e6 == pytest.approx(16.3, abs=0.05)


def test_side_outputs_are_not_deployed_and_absent_sensors_cost_nothing():
    method = ModalityDropout(ESANET)
    sides = sum(p.numel() for n, p in method.named_parameters() if '.side.' in n)
    assert sides == 3 * (32 + 1) + 3 * (16 + 1) + 3 * (8 + 1)
    assert deployed_parameters(method) == count(method) - sides
    work = flops(method)
    assert work['rgb'] < work['rgb+depth']
    assert work['depth'] < work['rgb+depth']


def built(name, task=ESANET, **options):
    method = METHODS.module_dict[name](task, **options)
    if method.teacher:
        method.set_teacher(METHODS.module_dict[method.teacher](task))
    method.epoch, method.epochs = 50, 100
    return method


def step(method, batch):
    optimizer = torch.optim.SGD(method.parameters(), 1e-3)
    total, terms = method.parse_losses(method.train().loss(batch))
    total.backward()
    optimizer.step()
    return terms


OPTIONS = [
    ('modality_dropout', {}),
    ('complete', {}),
    ('customized', {}),
    ('mmanet', {'variant': 'paper'}),
    ('mmanet', {'variant': 'official'}),
    ('dmrnet', {'variant': 'paper', 'hard': 2}),
    ('dmrnet', {'variant': 'official'}),
    *(('distilled', {'loss': x}) for x in ('soft_target', 'fitnet', 'at', 'sp', 'pkt', 'mad')),
    ('distilled', {'loss': 'logits', 'mar': True}),
]


@pytest.mark.parametrize(('name', 'options'), OPTIONS, ids=str)
def test_methods_learn_on_it_and_every_parameter_gets_a_gradient(name, options):
    method = built(name, **options)
    batch = batch_of(ESANET, 6)._replace(mask=torch.from_numpy(subset_masks(2)).repeat(2, 1))
    if hasattr(method, 'strong'):
        method.strong[0] = True
    if name == 'dmrnet':
        method.samples += 1
    before = {n: p.clone() for n, p in method.named_parameters()}
    terms = step(method, batch)
    assert all(torch.isfinite(v) for v in terms.values())
    assert not [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert any(not torch.equal(p, before[n]) for n, p in method.named_parameters())


def test_a_teacher_s_maps_are_distilled_from_context_and_two_deepest_skips():
    method, batch = built('mmanet', alpha=1.0), batch_of(ESANET, 4)
    method.strong[0] = True
    seen = []
    method.pixel_distillation = lambda s, t, z: seen.append((s, t, z)) or torch.zeros(())
    method.train().loss(batch)
    teacher = method.teacher_network
    known = teacher.fusion(batch.inputs, torch.ones_like(batch.mask))
    assert [s.shape[1] for s, _, _ in seen] == [16, 32, 32]
    assert all(torch.equal(t, x) for (_, t, _), x in zip(seen, known[1:], strict=True))
    assert all(torch.equal(z, teacher.decoder(known)) for _, _, z in seen)
    method.official = True
    method.distillation(known, batch)
    module = teacher.decoder.modules_by_scale[0]
    raised = module.upsample(module.refine(known[3]), known[2].shape[2:]) + known[2]
    assert torch.equal(seen[-1][2], raised)


def test_mar_sums_the_second_decoder_s_four_scales_over_weak_pixels_alone():
    method, batch = built('mmanet'), batch_of(ESANET, 6)
    batch = batch._replace(mask=torch.from_numpy(subset_masks(2)).repeat(2, 1))
    method.strong[0] = True
    lively(method).regularizer.training = True
    fused = method.fusion(batch.inputs, batch.mask)
    weak = np.asarray(~batch.mask[:, 0])
    assert weak.sum() == 2
    outputs = method.regularizer.outputs(fused)
    expected = sum(naive_loss(x[weak], batch.target[weak], np.ones(3)) for x in outputs)
    assert method.regularization(fused, batch).item() == pytest.approx(expected, rel=1e-5)


def test_dmrnet_samples_the_context_alone():
    method, batch = built('dmrnet').eval(), batch_of(ESANET, 3)
    maps = method.fusion(batch.inputs, batch.mask)
    replaced = (*maps[:3], method.gaussian.mean(maps[3]))
    assert torch.equal(method.predict(batch.inputs, batch.mask), method.decoder.logits(replaced))


@pytest.mark.parametrize('name', NAMES)
def test_methods_that_cannot_use_esanet_refuse_it_in_one_line_before_training(name):
    cls, data = METHODS.module_dict[name], Toy(ESANET)
    protocol = Protocol.build(data.recipe, {}, 'cpu')
    experiment = experiment_of(Spec(name), data, protocol, 0, Path())
    if name in ACCEPTED:
        experiment.check()
        assert isinstance(cls(ESANET), Method)
        return
    if ESANET.kind not in cls.task_kinds:
        pytest.skip('refuses label maps altogether')
    for attempt in (experiment.check, lambda: cls(ESANET)):
        with pytest.raises(UserError) as raised:
            attempt()
        line = str(raised.value)
        assert '\n' not in line
        assert line.startswith(f'{name} on toy: ')
        assert 'network=esanet' in line
        assert 'network=pyramid' in line


def test_supported_networks_are_not_inherited():
    class Other(Complete):
        pass

    with pytest.raises(UserError, match='Other on toy'):
        Other(ESANET)
    assert Other(dataclasses.replace(ESANET, network='pyramid'))


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'network': 'esanett'}, "unknown network on toy: 'esanett'; did you mean 'esanet'"),
        ({'kind': 'classification'}, 'network=esanet on toy: expected a segmentation task'),
        ({'depth': 51}, 'depth on toy: expected 18, 34 or 50, found 51'),
    ],
)
def test_impossible_tasks_raise_errors_that_name_the_field(changes, expected):
    with pytest.raises(UserError) as raised:
        ModalityDropout(dataclasses.replace(ESANET, **changes))
    assert str(raised.value).startswith(expected)


def test_official_second_decoder_of_dmrnet_learns_from_hard_samples_at_four_scales():
    method = DMRNet(ESANET, variant='official')
    batch = batch_of(ESANET, 6)._replace(mask=torch.from_numpy(subset_masks(2)).repeat(2, 1))
    lively(method).auxiliary.training = True
    hard = np.asarray(~batch.mask.all(1))
    maps = method.fusion(batch.inputs, batch.mask)
    outputs = method.auxiliary.outputs(maps)
    expected = sum(naive_loss(x[hard], batch.target[hard], np.ones(3)) for x in outputs)
    assert len(outputs) == 4
    assert method.regularization(outputs, batch).item() == pytest.approx(expected, rel=1e-5)
