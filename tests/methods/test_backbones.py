"""Encoders of timm in the place of the ResNet: maps, weights, and what a run keeps of them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tasks import TASKS, batch_of
from toy_runs import arrays, trained
from with_timm import get_ready

from benchmark import deploy, run
from benchmark.engine import backbones as known
from benchmark.errors import UserError
from benchmark.method import Modality
from benchmark.registry import METHODS, discover, lookup
from methods.common import backbones
from methods.common.encoders import stages

discover()
timm = get_ready()
SIDE = 32
IMAGE = Modality('rgb', (2, SIDE, SIDE))


def task(kind='faces', **changes):
    """A task of images of 32 x 32 pixels."""
    found = TASKS[kind]
    larger = tuple(
        dataclasses.replace(m, shape=(m.shape[0], SIDE, SIDE)) if m.kind == 'image' else m
        for m in found.modalities
    )
    return dataclasses.replace(found, modalities=larger, **changes)


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_vit', 'test_mambaout'])
@pytest.mark.parametrize(('kind', 'count'), [('faces', 2), ('rooms', 4)])
def test_maps_are_like_those_of_the_resnet(name, kind, count):
    plain, other = task(kind), task(kind, backbone=name)
    x = torch.randn(2, *IMAGE.shape)
    ours = [y.shape for y in stages(IMAGE, plain, count)(x)]
    theirs = [y.shape for y in stages(IMAGE, other, count)(x)]
    assert theirs == ours[-len(theirs) :]
    assert len(theirs) == (1 if count == 2 else 4)


def test_a_map_is_the_model_s_deepest_one_projected_and_resized():
    encoder = stages(IMAGE, task(backbone='test_convnext'), 2).eval()
    with torch.no_grad():
        for part in encoder.projections.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.uniform_(-1, 1)
                part.running_var.uniform_(0.5, 2)
    x = torch.randn(3, *IMAGE.shape)
    model = timm.create_model('test_convnext', features_only=True, in_chans=2).eval()
    model.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        (found,), deepest = encoder(x), model(x)[-1].numpy()
    conv, norm, _ = encoder.projections[0]
    y = np.einsum('bchw,kc->bkhw', deepest, conv.weight[:, :, 0, 0].detach().numpy())
    mean, std = norm.running_mean.numpy(), np.sqrt(norm.running_var.numpy() + norm.eps)
    y = np.maximum((y - mean[:, None, None]) / std[:, None, None], 0)
    # The deepest map has one pixel here, whatever it is resized to.
    expected = np.broadcast_to(y, found.shape)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_four_deepest_maps_serve_label_maps_and_a_transformer_s_last_one_all_scales():
    assert stages(IMAGE, task('rooms', backbone='test_resnet'), 4).served == [1, 2, 3, 4]
    assert stages(IMAGE, task('rooms', backbone='test_convnext'), 4).served == [0, 1, 2, 3]
    assert stages(IMAGE, task('rooms', backbone='test_vit'), 4).served == [2, 2, 2, 2]
    assert stages(IMAGE, task(backbone='test_resnet'), 2).served == [4]


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """A file with weights of an encoder of three channels."""
    torch.manual_seed(3)
    found = tmp_path_factory.mktemp('weights') / 'net.pth'
    torch.save(timm.create_model('test_resnet').state_dict(), found)
    return found


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_weights_come_from_the_file(file, suffix, tmp_path):
    state = torch.load(file, weights_only=True)
    if suffix == 'safetensors':
        from safetensors.torch import save_file

        file = tmp_path / 'net.safetensors'
        save_file(state, file)
    depth = Modality('depth', (1, SIDE, SIDE))
    found = stages(depth, task(backbone='test_resnet', pretrained=str(file)), 2).model.state_dict()
    stems = [n for n, x in state.items() if x.ndim == 4 and x.shape[1] == 3]
    assert len(stems) == 1
    for name, x in found.items():
        wanted = state[name].sum(1, keepdim=True) if name in stems else state[name]
        assert torch.equal(x, wanted), name


def test_a_frozen_encoder_stays_as_it_is_and_what_follows_trains(file):
    chosen = task(backbone='test_resnet', pretrained=str(file), frozen=True)
    method = lookup(METHODS, 'modality_dropout')(chosen).train()
    before = {k: x.clone() for k, x in method.encoders.state_dict().items() if '.model.' in k}
    assert before
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), 0.1)
    sum(x for k, x in method.loss(batch_of(chosen, 4)).items() if 'loss' in k).backward()
    optimizer.step()
    after = method.encoders.state_dict()
    assert all(torch.equal(x, after[k]) for k, x in before.items())
    for name, p in method.named_parameters():
        assert p.requires_grad == ('.model.' not in name)
        assert (p.grad is not None) == p.requires_grad, name
    free = lookup(METHODS, 'modality_dropout')(dataclasses.replace(chosen, frozen=False)).train()
    sum(x for k, x in free.loss(batch_of(chosen, 4)).items() if 'loss' in k).backward()
    assert any(p.grad.abs().sum() > 0 for n, p in free.named_parameters() if '.model.' in n)


@pytest.mark.parametrize('name', ['mmanet', 'rfnet', 'early_fusion', 'shaspec', 'mmformer'])
def test_other_methods_take_it_as_they_are(name):
    chosen = task('rooms', backbone='test_convnext')
    method = lookup(METHODS, name)(chosen)
    teacher = method.teacher
    if teacher:
        method.set_teacher(lookup(METHODS, teacher)(chosen))
    losses = method.train().loss(batch_of(chosen, 2))
    assert all(torch.isfinite(x).all() for x in losses.values())


def test_images_are_whole_patches():
    odd = Modality('rgb', (3, 24, 40))
    with pytest.raises(UserError, match='whole patches of 16 x 16 pixels, found rgb of 24 x 40'):
        backbones.probe('test_vit', odd)


def test_where_timm_cannot_be_imported_one_line_says_so(monkeypatch):
    def refuse(name):
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(backbones.importlib, 'import_module', refuse)
    with pytest.raises(UserError, match=r'expected the package timm .*nms does not exist$'):
        backbones.timm()


@pytest.fixture(scope='module')
def made(tmp_path_factory, file):
    """A folder with data and a run whose frozen encoder has weights from a file."""
    folder = tmp_path_factory.mktemp('runs')
    data = arrays()
    np.savez(folder / 'pets.npz', **{k: x for k, x in data.items() if k != 'inputs/scan'})
    own = folder / 'own.pth'
    own.write_bytes(file.read_bytes())
    options = ('encoder=test_resnet', f'encoder_weights={own}', 'encoder_frozen=true')
    runs = trained(folder, 'pets.npz', 'arrays', 'modality_dropout', 'logistic', options=options)
    return folder, own, runs


def test_a_record_names_the_encoder_and_the_content_of_its_weights(made):
    folder, own, runs = made
    record = json.loads((runs['modality_dropout'] / 'record.json').read_text())
    protocol = record['protocol']
    assert (protocol['encoder'], protocol['encoder_frozen']) == ('test_resnet', True)
    assert len(protocol['encoder_weights']) == 16
    assert record['dataset']['encoder'] == 'test_resnet, width 4, pretrained, frozen'
    assert str(folder) not in json.dumps(record)


def test_the_same_content_elsewhere_is_the_same_run_and_other_content_another(made):
    folder, own, runs = made
    moved = folder / 'moved.pth'
    moved.write_bytes(own.read_bytes())
    words = ['encoder=test_resnet', 'encoder_frozen=true']
    before = (runs['modality_dropout'] / 'record.json').stat().st_mtime_ns
    trained(folder, 'pets.npz', 'arrays', 'modality_dropout',
            options=(*words, f'encoder_weights={moved}'))  # fmt: skip
    assert (runs['modality_dropout'] / 'record.json').stat().st_mtime_ns == before
    torch.manual_seed(4)
    torch.save(timm.create_model('test_resnet').state_dict(), moved)
    trained(folder, 'pets.npz', 'arrays', 'modality_dropout',
            options=(*words, f'encoder_weights={moved}'))  # fmt: skip
    records = [*folder.glob('results/runs/pets/modality_dropout/*/*/record.json')]
    assert len(records) == 2


@pytest.mark.parametrize(
    ('error', 'told'),
    [
        (RuntimeError('operator torchvision::nms does not exist'), 'RuntimeError: operator torchv'),
        (ModuleNotFoundError("No module named 'torchvision'", name='torchvision'), 'torchvision'),
    ],
)
def test_a_timm_that_cannot_be_imported_is_not_said_to_lack(error, told, monkeypatch):
    def imported(name):
        raise error

    monkeypatch.setattr(known.importlib, 'import_module', imported)
    with pytest.raises(UserError, match=f'installed, but cannot be imported: .*{told}'):
        known._check_known('resnet18')
    error.name = 'timm'
    if isinstance(error, ModuleNotFoundError):
        known._check_known('resnet18')  # whoever builds the model says how to install it


def test_a_trained_network_needs_the_file_no_more(made):
    folder, own, runs = made
    kept = own.read_bytes()
    own.unlink()
    try:
        model = deploy.load(runs['modality_dropout'])
    finally:
        own.write_bytes(kept)
    assert model.networks[''].task.backbone == 'test_resnet'


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (['encoder=resnet18x'], "unknown encoder 'resnet18x'; did you mean 'resnet18'?"),
        (['encoder=nosuch'], "unknown encoder 'nosuch' (all: timm.list_models())"),
        (['encoder_frozen=true'], 'encoder_frozen: expected encoder=NAME'),
        (['encoder=test_resnet', 'encoder_frozen=true'], 'encoder_weights=FILE beside it'),
        (['encoder=test_resnet', 'encoder_weights=none.pth'], 'No such file'),
        (['encoder=test_resnet', 'encoder_weights=.'], 'expected a file, found a folder'),
        (['encoder=test_vit', 'encoder_weights={file}'], 'expected the weights of test_vit'),
        (['encoder=test_resnet', 'encoder_weights={text}'], 'expected a state dict of test_resnet'),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options, told, file, tmp_path, capsys):
    text = tmp_path / 'notes.pth'
    text.write_text('no weights')
    options = [word.format(file=file, text=text) for word in options]
    data = 'synth_faces:train=8,val=4,test=4,size=32,width=4'
    words = ['--methods', 'modality_dropout', '--datasets', data, '--device', 'cpu']
    words += ['--results', str(tmp_path / 'results'), '--cfg-options', 'epochs=1', *options]
    assert run.main(words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.startswith('error: ')
    assert err.count('\n') == 1


def test_data_without_images_have_no_such_encoder(tmp_path, capsys):
    data = arrays()
    np.savez(tmp_path / 'v.npz', **{k: x for k, x in data.items() if 'rgb' not in k})
    words = ['--methods', 'modality_dropout', '--datasets', 'arrays', '--device', 'cpu']
    words += ['--data-root', str(tmp_path / 'v.npz'), '--results', str(tmp_path / 'results')]
    assert run.main([*words, '--cfg-options', 'epochs=1', 'encoder=test_resnet']) == 2
    assert 'has no images' in capsys.readouterr().err
