"""MMIN: its cascade against numpy, its terms against loops over samples, its start and its path."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from learning import lowers
from mmengine.optim import OptimWrapper
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.missing import subset_masks
from methods.common.reconstruction import CascadeAutoencoder
from methods.complete import Complete
from methods.mmin import MMIN, distance

KINDS = ['faces', 'rooms', 'mixed', 'vectors', 'sequences']


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mmin(kind='faces', **options):
    method = MMIN(TASKS[kind], **options)
    method.set_teacher(Complete(TASKS[kind]))
    return method


def batch(kind='faces'):
    """Every subset once, the complete one too."""
    masks = torch.from_numpy(subset_masks(len(TASKS[kind].names)))
    return batch_of(TASKS[kind], len(masks))._replace(mask=masks)


def array(x):
    return x.detach().numpy().astype(float)


def chain(modules, v, slope):
    """A perceptron of the layers' weights: a slope below 0 after all layers but the last."""
    linear = [m for m in modules if hasattr(m, 'weight')]
    for i, m in enumerate(linear):
        v = array(m.weight)[:, :, 0, 0] @ v + array(m.bias)
        if i < len(linear) - 1:
            v = np.where(v > 0, v, slope * v)
    return v


def cascaded(net, v):
    """The output and the codes of one vector, block by block."""
    codes = []
    for encode, decode in zip(net.encoders, net.decoders, strict=True):
        codes.append(chain(encode, v, 0.01))
        v = v + chain(decode, codes[-1], 0)
    return chain(net.transition, v, 0), np.concatenate(codes)


def test_a_cascade_adds_what_every_block_makes_of_the_sum_before_it():
    net = CascadeAutoencoder(6, 4, 3).double()
    for p in net.parameters():
        p.data.normal_(0, 0.5)
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    output, codes = net(x)
    assert codes.shape == (2, 3 * 2, 2, 3)
    for b, i, j in np.ndindex(2, 2, 3):
        expected = cascaded(net, x[b, :, i, j].numpy())
        np.testing.assert_allclose(array(output[b, :, i, j]), expected[0], rtol=1e-9)
        np.testing.assert_allclose(array(codes[b, :, i, j]), expected[1], rtol=1e-9)


def test_a_cascade_may_have_outputs_of_another_size():
    net = CascadeAutoencoder(6, 4, outputs=3)
    for p in net.parameters():
        p.data.normal_(0, 0.5)
    x = torch.randn(1, 6, 1, 1)
    expected, _ = cascaded(net, x[0, :, 0, 0].numpy().astype(float))
    assert len(net.encoders) == 5
    np.testing.assert_allclose(array(net(x)[0]).ravel(), expected, rtol=1e-4)


def test_cascades_begin_with_kaiming_weights_and_without_biases():
    method = MMIN(dataclasses.replace(TASKS['faces'], width=32))
    count = 0
    for module in (*method.imagine.modules(), *method.recall.modules()):
        if isinstance(module, torch.nn.Conv2d):
            count += 1
            expected = (2 / module.in_channels) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert not module.bias.any()
    assert count == 2 * (5 * 6 + 2)


@pytest.mark.parametrize('kind', KINDS)
def test_hidden_channels_of_the_classifier_are_dropped_in_training_alone(kind):
    method, data = mmin(kind).train(), batch(kind)
    drawn = []
    for module in method.decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda m, args, out: drawn.append((args[0], out)))
    method.loss(data)
    assert len(drawn) == (1 if kind == 'rooms' else 2)
    for x, out in drawn:
        assert 0 < (out != 0).sum() < (x != 0).sum()
        torch.testing.assert_close(out[out != 0], 2 * x[out != 0])
    drawn.clear()
    method.eval().loss(data)
    assert all(out is x or torch.equal(out, x) for x, out in drawn)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_the_gradient_of_every_network_is_clipped_by_itself(kind):
    method, data = mmin(kind, dropout=0.0), batch(kind)
    data = data._replace(inputs={n: 5 * x for n, x in data.inputs.items()})
    networks = {n: [method.encoders[n]] for n in data.inputs}
    networks |= {'imagine': [method.imagine], 'recall': [method.recall]}
    networks['classifier'] = [method.reduce, method.decoder]
    held = {k: [p for m in modules for p in m.parameters()] for k, modules in networks.items()}
    assert {id(p) for ps in held.values() for p in ps} == {id(p) for p in method.parameters()}
    method.parse_losses(method.loss(data))[0].backward()
    gradients = {id(p): p.grad.clone() for p in method.parameters()}
    norms = {
        k: torch.stack([gradients[id(p)].norm() for p in ps]).norm().item()
        for k, ps in held.items()
    }
    assert max(norms.values()) > 1
    before = {id(p): p.detach().clone() for p in method.parameters()}
    method.zero_grad()
    rate = 1e-3
    method.train_step(data, OptimWrapper(torch.optim.SGD(method.parameters(), rate)))
    for name, parameters in held.items():
        moved = torch.stack([(before[id(p)] - p).norm() for p in parameters]).norm().item() / rate
        assert moved == pytest.approx(min(1, norms[name]), rel=0.05), name


def test_three_modalities_of_128_channels_have_the_published_widths():
    net = CascadeAutoencoder(384, 128, 5)
    for encode, decode in zip(net.encoders, net.decoders, strict=True):
        assert [m.out_channels for m in encode if hasattr(m, 'weight')] == [256, 128, 64]
        assert [m.out_channels for m in decode if hasattr(m, 'weight')] == [128, 256, 384]
    assert net(torch.randn(1, 384, 1, 1))[1].shape[1] == 5 * 64


def test_distance_is_a_mean_over_elements_samples_that_count_and_scales():
    counted = torch.tensor([True, False, True])
    shapes = [(3, 4, 5, 2), (3, 7, 2, 1)]
    found, target = ([torch.randn(s) for s in shapes] for _ in range(2))
    rows = [0, 2]
    expected = np.mean(
        [((array(a) - array(b))[rows] ** 2).mean() for a, b in zip(found, target, strict=True)]
    )
    assert distance(found, target, counted).item() == pytest.approx(expected, rel=1e-5)
    assert distance(found, target, torch.zeros(3, dtype=torch.bool)) == 0


@pytest.mark.parametrize('kind', KINDS)
def test_the_imagination_loss_compares_with_the_teacher_s_features_of_the_complement(kind):
    method, data = mmin(kind, imagination=3.0).eval(), batch(kind)
    teacher, names = method.teacher_network, TASKS[kind].names
    for p in teacher.parameters():
        p.data.add_(0.1 * torch.randn_like(p))  # or the student would encode as the teacher does
    known, own = teacher.encode(data.inputs), method.encode(data.inputs)
    total, samples = 0.0, 0
    for b, mask in enumerate(data.mask.tolist()):
        if all(mask):
            continue
        samples += 1
        for scale, net in enumerate(method.imagine):
            seen, hidden = (
                torch.cat(
                    [
                        (maps[n][scale][b : b + 1] if there == shown else 0 * maps[n][scale][:1])
                        for n, there in zip(names, mask, strict=True)
                    ],
                    1,
                )
                for maps, shown in ((own, True), (known, False))
            )
            total += F.mse_loss(net(seen)[0], hidden).item() / len(method.imagine)
    assert samples == len(data.mask) - 1
    found = method.loss(data)['loss_imagination'].item()
    assert found == pytest.approx(3 * total / samples, rel=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_the_cycle_loss_compares_the_second_cascade_of_imagined_features_with_present_ones(kind):
    method, data = mmin(kind, cycle=3.0).eval(), batch(kind)
    joint = method.joint(method.encode(data.inputs), data.mask)
    incomplete = ~data.mask.all(1)
    errors = [
        F.mse_loss(there(go(h[incomplete])[0])[0], h[incomplete]).item()
        for go, there, h in zip(method.imagine, method.recall, joint, strict=True)
    ]
    found = method.loss(data)['loss_cycle'].item()
    assert found == pytest.approx(3 * np.mean(errors), rel=1e-4)


def test_weights_are_those_of_the_released_script():
    torch.manual_seed(1)
    found = mmin().eval().loss(batch())
    torch.manual_seed(1)
    plain = mmin(imagination=1.0, cycle=1.0).eval().loss(batch())
    for name, weight in (('loss_task', 1), ('loss_imagination', 4), ('loss_cycle', 2)):
        torch.testing.assert_close(found[name], weight * plain[name])


class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x).detach(), None


def test_the_target_of_the_cycle_loss_is_detached():
    method = mmin()
    method.recall = torch.nn.ModuleList([Constant()])
    losses = method.loss(batch())
    assert losses['loss_cycle'] > 0
    assert not losses['loss_cycle'].requires_grad
    method = mmin()
    method.loss(batch())['loss_cycle'].backward()  # but imagination serves the recall
    assert all(p.grad.any() for p in method.imagine[0].transition.parameters())


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_complete_samples_have_no_imagination_loss_and_the_same_classification(kind):
    method, data = mmin(kind), batch(kind)
    complete = data._replace(mask=torch.ones_like(data.mask))
    losses = method.loss(complete)
    assert losses['loss_imagination'] == losses['loss_cycle'] == 0
    sum(losses.values()).backward()
    assert all(p.grad.any() for net in method.imagine for p in net.encoders.parameters())
    assert not any(p.grad.any() for p in method.recall.parameters())
    with torch.no_grad():
        method.eval()
        before = method.predict(data.inputs, complete.mask)
        method.imagine[-1].encoders[-1][-1].bias += 1
        assert not torch.equal(method.predict(data.inputs, complete.mask), before)


@pytest.mark.parametrize('kind', KINDS)
def test_the_decoder_receives_only_codes(kind):
    method, data = mmin(kind).eval(), batch(kind)
    features = method.encode(data.inputs)
    codes = []
    for scale, net in enumerate(method.imagine):
        maps = [
            features[n][scale] * data.mask[:, m, None, None, None]
            for m, n in enumerate(TASKS[kind].names)
        ]
        codes.append(net(torch.cat(maps, 1))[1])
    assert len(codes) == (4 if kind == 'rooms' else 1)
    if kind == 'rooms':
        codes = [reduce(z) for reduce, z in zip(method.reduce, codes, strict=True)]
    expected = method.decoder(tuple(codes))
    torch.testing.assert_close(method.decode(features, data.mask), expected)
    with torch.no_grad():  # of the cascades' outputs nothing is deployed
        for net in [*method.imagine, *method.recall]:
            net.transition[-1].bias += 1
        torch.testing.assert_close(method.decode(features, data.mask), expected)


def test_encoders_start_from_the_teacher_s_weights_and_are_trained():
    torch.manual_seed(2)
    teacher = Complete(TASKS['faces'])
    teacher.loss(batch())  # moves running statistics
    method = MMIN(TASKS['faces'])
    method.set_teacher(teacher)
    before = {k: v.clone() for k, v in teacher.encoders.state_dict().items()}
    own = method.encoders.state_dict()
    assert all(torch.equal(own[k], v) for k, v in before.items())
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    method.train().parse_losses(method.loss(batch()))[0].backward()
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in teacher.encoders.state_dict().items())
    moved = dict(method.encoders.named_parameters())
    assert all(not torch.equal(p, before[k]) for k, p in moved.items() if p.dim() > 1)


def test_every_term_trains_its_part():
    parts = {
        'loss_task': ('encoders', 'imagine', 'decoder'),
        'loss_imagination': ('encoders', 'imagine'),
        'loss_cycle': ('encoders', 'imagine', 'recall'),
    }
    for loss, trained in parts.items():
        method = mmin()
        method.loss(batch())[loss].backward()
        reached = {n.split('.')[0] for n, p in method.named_parameters() if p.grad is not None}
        assert reached == set(trained), loss


def test_half_precision_changes_the_losses_by_rounding_alone():
    method, data = mmin().eval(), batch()
    expected = method.loss(data)
    with torch.autocast('cpu', torch.bfloat16):
        found = method.loss(data)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0.05, atol=1e-3)


def test_wrong_options_and_tasks_raise_errors_that_name_them():
    alone = dataclasses.replace(TASKS['faces'], modalities=TASKS['faces'].modalities[:1])
    with pytest.raises(UserError, match="at least 2 modalities, found 'rgb' alone"):
        MMIN(alone)
    with pytest.raises(UserError, match='mmin:blocks: expected at least 1, found 0'):
        MMIN(TASKS['faces'], blocks=0)
    with pytest.raises(UserError, match='mmin:dropout: expected 0 to below 1, found 1'):
        MMIN(TASKS['faces'], dropout=1.0)


@pytest.mark.parametrize('kind', ['faces', 'vectors'])
def test_training_learns_to_imagine_and_to_classify(kind):
    method, data = mmin(kind, dropout=0.0).train(), batch_of(TASKS[kind], 14)
    masks = torch.from_numpy(subset_masks(len(TASKS[kind].names)))
    data = data._replace(mask=masks[torch.arange(14) % len(masks)])
    for name, x in data.inputs.items():
        data.inputs[name] = 0.1 * x + data.target.view(-1, *[1] * (x.ndim - 1))
    assert lowers(method, data, 3e-3, 25, ('loss_task', 'loss_imagination'))
