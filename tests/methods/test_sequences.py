"""The shared encoder of sequences: what padding, absence and order do to it."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tasks import TASKS, batch_of
from torch.utils.flop_counter import FlopCounterMode

from benchmark.method import Modality
from methods.common.networks import Encoders, fusion_grid
from methods.common.sequences import SequenceEncoder, positions
from methods.uhved import UHVED

LENGTHS = (7, 1, 4)
D = 5


def encoder(padded=True, width=8):
    torch.manual_seed(0)
    return SequenceEncoder(Modality('words', (7, D + padded), padded), width).eval()


def frames(seed=0):
    return torch.randn(len(LENGTHS), max(LENGTHS), D, generator=torch.manual_seed(seed))


def with_marks(x, filling=0.0):
    """Frames beyond a sample's length become padding that holds `filling`."""
    real = torch.arange(x.shape[1]) < torch.tensor(LENGTHS)[:, None]
    x = torch.where(real[..., None], x, torch.tensor(filling))
    return torch.cat([x, real[..., None].float()], -1)


def padding(count, filling):
    filled = torch.full((len(LENGTHS), count, D + 1), filling)
    filled[..., -1] = 0
    return filled


@pytest.mark.parametrize('filling', [0.0, 1e3, float('nan')])
def test_padding_changes_nothing_wherever_it_stands(filling):
    net, x = encoder(), with_marks(frames())
    (expected,) = net(x)
    assert expected.shape == (len(LENGTHS), 16, 1, 1)
    more = padding(3, filling)
    for padded in (
        with_marks(frames(), filling),
        torch.cat([x, more], 1),
        torch.cat([more, x], 1),
        torch.cat([x[:, :1], more, x[:, 1:]], 1),
    ):
        torch.testing.assert_close(net(padded)[0], expected, atol=1e-6, rtol=0)


def test_a_padded_sequence_is_encoded_as_its_real_frames_alone():
    marked, plain = encoder(), encoder(padded=False)
    plain.load_state_dict(marked.state_dict())
    (together,) = marked(with_marks(frames()))
    for i, length in enumerate(LENGTHS):
        (alone,) = plain(frames()[i : i + 1, :length])
        torch.testing.assert_close(together[i], alone[0], atol=1e-6, rtol=0)


def reference(net, x):
    """The encoder of a sequence (T, D) without padding, in numpy, head by head."""
    w = {k: v.numpy() for k, v in net.state_dict().items()}

    def norm(y, key):
        centred = y - y.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * w[f'{key}.weight'] + w[f'{key}.bias']

    def linear(y, key):
        return y @ w[f'{key}.weight'].T + w[f'{key}.bias']

    y = linear(x, 'project')
    c = y.shape[1]
    for t in range(len(y)):
        for i in range(c // 2):
            angle = t / 10000 ** (2 * i / c)
            y[t, i] += np.sin(angle)
            y[t, c // 2 + i] += np.cos(angle)
    for k in range(3):
        a = norm(y, f'blocks.{k}.norm1')
        key = f'blocks.{k}.self_attn'
        q, k_, v = np.split(a @ w[f'{key}.in_proj_weight'].T + w[f'{key}.in_proj_bias'], 3, 1)
        size = c // 8
        heads = [slice(h * size, (h + 1) * size) for h in range(8)]
        mixed = [softmax(q[:, h] @ k_[:, h].T / np.sqrt(size), axis=1) @ v[:, h] for h in heads]
        y = y + linear(np.concatenate(mixed, 1), f'{key}.out_proj')
        hidden = np.maximum(linear(norm(y, f'blocks.{k}.norm2'), f'blocks.{k}.linear1'), 0)
        y = y + linear(hidden, f'blocks.{k}.linear2')
    return norm(y, 'norm').mean(0)


def test_the_encoder_is_the_transformer_of_its_docstring():
    net = encoder(padded=False)
    with torch.no_grad():
        (found,) = net(frames())
    for x, y in zip(frames(), found.flatten(1), strict=True):
        np.testing.assert_allclose(y.numpy(), reference(net, x.numpy()), atol=1e-5)


def test_the_order_of_frames_matters():
    net = encoder(padded=False)
    assert not torch.allclose(net(frames())[0], net(frames().flip(1))[0], atol=1e-3)


def test_positions_count_real_frames():
    real = torch.tensor([[False, True, False, True]])
    found = positions(real, 4)[0]
    assert found[1].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found[3], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)], 1e-6)


@pytest.mark.parametrize('filling', [0.0, float('nan')])
def test_a_sample_without_frames_neither_breaks_nor_touches_the_others(filling):
    net, x = encoder(), with_marks(frames())
    (before,) = net(x)
    x[1] = filling
    (after,) = net(x)
    assert after.isfinite().all()
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], atol=1e-6, rtol=0)
    after[[0, 2]].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_all_flops_are_counted_in_testing():
    net, x = encoder(), with_marks(frames())
    found = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            net(x)
        found.append(counter.get_total_flops())
    assert found[0] == found[1]
    tokens, c = x.shape[0] * x.shape[1], 16
    assert found[0] >= 2 * tokens * c * (D + 3 * 12 * c)


def test_heads_divide_every_width():
    for width in (1, 3, 4, 12):
        (y,) = encoder(width=width)(with_marks(frames()))
        assert y.shape[1] == 2 * width


def test_sequences_and_images_are_fused_at_one_position():
    shapes = {'face': (1, 32, 32), 'words': (40, 40)}
    modalities = tuple(Modality(name, shape) for name, shape in shapes.items())
    task = dataclasses.replace(TASKS['sequences'], modalities=modalities)
    assert fusion_grid(task) == 1
    maps = Encoders(task).eval()(batch_of(task).inputs)
    assert {m[0].shape for m in maps.values()} == {(6, 8, 1, 1)}


def test_reconstruction_does_not_count_padding():
    task = TASKS['sequences']
    torch.manual_seed(0)
    method, batch = UHVED(task).eval(), batch_of(task)
    words = batch.inputs['words']
    words[..., -1] = (torch.arange(5) < torch.tensor([5, 4, 3, 2, 1, 5])[:, None]).float()
    latents = (torch.randn(6, 8, 1, 1),)
    before = method.reconstruction_error(latents, batch)
    drawn = {m.name: method.reconstruct[m.name](latents).detach() for m in task.modalities}
    expected = [
        np.mean([((drawn['words'][i, :n] - words[i, :n]) ** 2).mean() for i, n in
                 enumerate([5, 4, 3, 2, 1, 5])]),
        ((drawn['gait'] - batch.inputs['gait']) ** 2).mean(),
    ]  # fmt: skip
    assert before.item() == pytest.approx(np.mean(expected), rel=1e-5)
    words[words[..., -1] == 0] = torch.tensor([9.0, 9, 9, 0])
    assert method.reconstruction_error(latents, batch) == before
