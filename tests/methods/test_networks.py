"""The shared encoders: their depth, and the weights they may start from."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from mmengine.model import ModuleList
from mmseg.models.backbones import ResNet
from mmseg.models.backbones.erfnet import NonBottleneck1d
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck
from tasks import TASKS, batch_of, images

from benchmark.engine.building import quiet
from benchmark.errors import UserError
from benchmark.method import Modality, Task
from benchmark.registry import METHODS, discover
from methods.common.fitted import Fitted
from methods.common.networks import Encoders, fused_channels
from methods.common.resnet import resnet
from methods.modality_dropout import ModalityDropout

discover()
NAMES = sorted(METHODS.module_dict)
ROOMS, FACES = TASKS['rooms'], TASKS['faces']
RGB = Modality('rgb', (3, 32, 32))
STOCK = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032}
"""Parameters of torchvision's networks, less their classifiers."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def like_torchvision(depth=18, width=4, channels=3):
    """A state dict as torchvision names it: four stages, no adapters, a classifier."""
    task = dataclasses.replace(ROOMS, depth=depth, width=width)
    state = resnet(Modality('rgb', (channels, 32, 32)), task, 4).state_dict()
    state = {k: torch.rand(v.shape) + 0.5 for k, v in state.items() if v.is_floating_point()}
    features = state['layer4.1.bn1.weight'].shape[0]
    return {**state, 'fc.weight': torch.rand(9, features), 'fc.bias': torch.rand(9)}


@pytest.fixture
def weights(tmp_path):
    """Saves a state dict, changed as asked, and returns its name and what is in it."""

    def save(state=None, **options):
        state = like_torchvision(**options) if state is None else state
        torch.save(state, tmp_path / 'weights.pth')
        return str(tmp_path / 'weights.pth'), state

    return save


@pytest.mark.parametrize('depth', STOCK)
def test_encoders_are_the_stock_resnets(depth):
    task = Task('any', 'segmentation', (RGB,), ('a', 'b'), 'mIoU', depth=depth)
    with torch.device('meta'):
        net = resnet(RGB, task, 4)
    assert sum(p.numel() for p in net.parameters()) == STOCK[depth]


@pytest.mark.parametrize('depth', [18, 34, 50])
@pytest.mark.parametrize('kind', ['faces', 'mixed', 'vectors', 'sequences', 'rooms'])
def test_maps_have_the_channels_that_methods_expect(kind, depth):
    task = dataclasses.replace(TASKS[kind], depth=depth)
    found = Encoders(task)(batch_of(task, 3).inputs)
    for maps in found.values():
        assert tuple(x.shape[1] for x in maps) == fused_channels(task)
    shallow = fused_channels(TASKS[kind])
    assert fused_channels(task) == tuple(c * (4 if depth == 50 else 1) for c in shallow)


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        (kind, name)
        for kind in ('mixed', 'rooms')
        for name in NAMES
        if kind not in METHODS.module_dict[name].contract_exceptions
    ],
)
def test_every_method_takes_bottlenecks(name, kind):
    cls = METHODS.module_dict[name]
    task = dataclasses.replace(TASKS[kind], depth=50, width=2)
    method = cls(task, heads=4) if name == 'mmformer' else cls(task)
    if cls.teacher:
        method.set_teacher(METHODS.module_dict[cls.teacher](task))
    batch = batch_of(task, 4)
    if hasattr(method, 'strong'):
        method.strong[0] = True
    method.epoch, method.epochs = 50, 100
    total, _ = method.train().parse_losses(method.loss(batch))
    assert torch.isfinite(total)
    assert method.eval().predict(batch.inputs, batch.mask).shape[1] == len(task.classes)


def streams(method):
    """The residual networks of a method's modalities, however it arranges them."""
    if method.task.network == 'esanet':
        return dict(method.fusion.streams)
    return {name: encoder.stages for name, encoder in method.encoders.items()}


def residual_parts(method):
    """The convolutions and norms of all residual networks and blocks, each one once."""
    kinds = (ResNet, BasicBlock, Bottleneck, NonBottleneck1d)
    found = [m for net in method.modules() if isinstance(net, kinds) for m in net.modules()]
    return list(dict.fromkeys(found))


NETWORKS = {'faces': 'pyramid', 'rooms': 'pyramid', 'esanet': 'esanet'}
STARTS = [
    (name, kind, 18)
    for name, cls in sorted(METHODS.module_dict.items())
    for kind, network in NETWORKS.items()
    if network in cls.supported_networks and not issubclass(cls, Fitted)
    if name != 'missing_prompts'  # whose transformer has no residual network
]
# The depth is that of the encoders, which all methods share.
STARTS += [('modality_dropout', kind, 50) for kind in NETWORKS]


@pytest.mark.parametrize(('name', 'kind', 'depth'), STARTS)
def test_every_residual_network_starts_from_normal_weights_that_suit_relu(name, kind, depth):
    task = TASKS['rooms' if kind == 'esanet' else kind]
    task = dataclasses.replace(task, depth=depth, network=NETWORKS[kind])
    method = METHODS.module_dict[name](task)
    with quiet():
        method.init_weights()
    parts = residual_parts(method)
    weights = [m.weight.detach().numpy() for m in parts if isinstance(m, torch.nn.Conv2d)]
    units = [w.ravel() / np.sqrt(2 / (len(w) * w[0, 0].size)) for w in weights]
    for unit in units:
        assert unit.std() == pytest.approx(1, abs=4 / np.sqrt(2 * unit.size))
    # Several methods copy a network: equal weights are one draw.
    drawn = np.unique(np.concatenate(units))
    assert scipy.stats.kstest(drawn, 'norm').pvalue > 1e-4
    norms = [m for m in parts if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(weights) > 10
    assert len(norms) > 10
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


def test_the_gates_of_faces_keep_pytorch_s_weights():
    gates = [encoder.excite for encoder in Encoders(FACES).values()]
    for layer in (gate for pair in gates for gate in (pair.conv1, pair.conv2)):
        bound = layer.conv.in_channels**-0.5
        for x in (layer.conv.weight, layer.conv.bias):
            assert 0.5 * bound < x.abs().max() <= bound


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('kind', ['faces', 'rooms', 'esanet'])
def test_pretrained_weights_are_where_training_starts(weights, kind, depth):
    file, state = weights(depth=depth)
    task = ROOMS if kind == 'esanet' else TASKS[kind]
    network = 'esanet' if kind == 'esanet' else 'pyramid'
    task = dataclasses.replace(task, depth=depth, pretrained=file, network=network)
    method = ModalityDropout(task)
    with quiet():
        method.init_weights()
    for name, net in streams(method).items():
        found = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
        assert len(found) > 10
        for key, x in found.items():
            expected = state[key]
            if key == 'conv1.weight' and name != 'rgb':
                expected = expected[:, :1] + expected[:, 1:2] + expected[:, 2:]
            torch.testing.assert_close(x, expected)
    other = ModalityDropout(dataclasses.replace(task, pretrained=''))
    assert not torch.equal(
        streams(other)['rgb'].layer1[0].conv1.weight, state['layer1.0.conv1.weight']
    )


def test_a_grey_image_in_all_channels_excites_any_number_of_them_alike(weights):
    file, _ = weights()
    task = dataclasses.replace(ROOMS, modalities=images(32, 3, 1, 2, 5), pretrained=file)
    grey = torch.randn(2, 1, 32, 32)
    responses = [
        net.conv1(grey.expand(-1, net.conv1.in_channels, -1, -1))
        for net in streams(ModalityDropout(task)).values()
    ]
    assert len(responses) == 4
    for response in responses[1:]:
        torch.testing.assert_close(response, responses[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.'])
@pytest.mark.parametrize('nested', [False, True])
def test_checkpoints_of_training_frameworks_are_unwrapped(weights, prefix, nested):
    state = like_torchvision()
    renamed = {f'{prefix}{k}': v for k, v in state.items()}
    file, _ = weights({'state_dict': renamed, 'meta': {'epoch': 3}} if nested else renamed)
    net = resnet(RGB, dataclasses.replace(ROOMS, pretrained=file), 4)
    assert torch.equal(net.layer4[1].conv2.weight, state['layer4.1.conv2.weight'])


def test_initialisation_does_not_overwrite_pretrained_weights(weights):
    file, state = weights()
    for pretrained in ('', file):
        net = resnet(RGB, dataclasses.replace(ROOMS, pretrained=pretrained), 4)
        with quiet():
            ModuleList([net]).init_weights()
        kept = torch.equal(net.layer1[0].bn2.weight, state['layer1.0.bn2.weight'])
        assert kept == bool(pretrained)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_initial_weights_of_official_variants_leave_pretrained_networks_alone(weights, kind):
    file, _ = weights()
    for name in ('rfnet', 'mmformer', 'passion', 'robustseg'):
        task = dataclasses.replace(TASKS[kind], pretrained=file)
        method = METHODS.module_dict[name](task, variant='official')
        before = {k: x.clone() for k, x in method.state_dict().items()}
        with quiet():
            method.init_weights()
        moved = {k for k, x in method.state_dict().items() if not torch.equal(x, before[k])}
        read = [f'{k}.' for k, m in method.named_modules() if isinstance(m, ResNet)]
        assert len(read) == len(task.names)
        assert not [k for k in moved if k.startswith(tuple(read))]
        # What surrounds the pretrained networks is drawn.
        encoders = any(k.startswith('encoders.') for k in moved)
        assert encoders == (kind == 'faces')
        assert any(k.startswith('decoder.') for k in moved)


def test_what_is_not_pretrained_starts_as_it_would_without(weights):
    file, _ = weights()
    drawn = []
    for pretrained in ('', file):
        torch.manual_seed(3)
        method = ModalityDropout(dataclasses.replace(ROOMS, pretrained=pretrained))
        drawn.append(method.decoder.state_dict())
    assert all(torch.equal(x, drawn[1][k]) for k, x in drawn[0].items())


def without(state, *names):
    return {k: v for k, v in state.items() if not any(n in k for n in names)}


@pytest.mark.parametrize(
    ('spoil', 'expected'),
    [
        (lambda s: without(s, 'layer2.0.bn2.weight'), 'found no layer2.0.bn2.weight'),
        (lambda s: without(s, 'layer1.0'), 'layer1.0.bn1.weight, layer1.0.bn1.bias and'),
        (lambda s: without(s, 'running_var'), 'found no bn1.running_var, '),
        (lambda s: without(s, 'conv1'), 'found no conv1.weight, '),
        (lambda s: {**s, 'conv1.weight': torch.rand(4, 3, 3, 3)}, 'found (4, 3, 3, 3)'),
        (lambda s: {**s, 'bn1.weight': torch.rand(64)}, 'bn1.weight: expected (4,), found (64,)'),
        (lambda s: {**s, 'layer1.2.bn1.bias': torch.rand(4)}, 'besides layer1.2.bn1.bias'),
        (lambda s: [1, 2], 'expected a state dict, found a list'),
        (lambda s: {}, 'found no conv1.weight, bn1.weight, bn1.bias and'),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(weights, spoil, expected):
    file, _ = weights(spoil(like_torchvision()))
    with pytest.raises(UserError) as raised:
        ModalityDropout(dataclasses.replace(ROOMS, pretrained=file))
    line = str(raised.value)
    assert line.startswith(f'pretrained={file}: ')
    assert expected in line
    assert '\n' not in line


@pytest.mark.parametrize(('saved', 'built'), [(18, 34), (34, 18), (18, 50), (50, 18), (50, 34)])
def test_weights_of_another_depth_are_refused(weights, saved, built):
    file, _ = weights(depth=saved)
    with pytest.raises(UserError, match=f'expected the weights of a ResNet-{built}'):
        ModalityDropout(dataclasses.replace(ROOMS, depth=built, pretrained=file))


@pytest.mark.parametrize(
    ('content', 'expected'),
    [(None, 'no such file'), (b'', 'found EOFError'), (b'<html>', 'found UnpicklingError')],
)
def test_files_that_are_not_checkpoints_raise_errors(tmp_path, content, expected):
    file = tmp_path / 'weights.pth'
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        ModalityDropout(dataclasses.replace(FACES, pretrained=str(file)))
    assert str(raised.value).startswith(f'pretrained={file}: expected a checkpoint')
    assert expected in str(raised.value)
    assert '\n' not in str(raised.value)
