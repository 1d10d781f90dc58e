"""ActionMAE: its tokens, its autoencoder, what is fused, and its loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, VOLUMES, batch_of

from benchmark.errors import UserError
from methods.actionmae import ActionMAE, TokenAutoencoder, normalised

TASKS = {**TASKS, 'volumes': VOLUMES}


def made(kind='faces', **options):
    torch.manual_seed(0)
    return ActionMAE(TASKS[kind], **options).eval()


def close(found, expected, rtol=1e-4):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-5)


def autoencoder(count=3, channels=8, memory=2, official=False):
    torch.manual_seed(0)
    return TokenAutoencoder(count, channels, memory, 2, official).eval()


def sinusoid(place, channels):
    """The position of a token, number by number."""
    half = channels // 2
    angles = [place / 10000 ** (i / half) for i in range(half)]
    return torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)]), dtype=torch.float32)


def attended(x, layer):
    """Multi-head attention of the tokens (L, D) of one sample, head by head."""
    attention = layer.self_attn
    parts = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, 1)
    heads = []
    for q, k, v in zip(*(p.chunk(attention.num_heads, 1) for p in parts), strict=True):
        heads.append((q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v)
    return attention.out_proj(torch.cat(heads, 1))


def transformed(x, transformer, places):
    """Pre-norm blocks on the tokens (L, D) of one sample."""
    for layer in transformer.blocks:
        x = x + places
        x = x + attended(layer.norm1(x), layer)
        x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
    return transformer.norm(x)


def completed(module, tokens, mask):
    """One sample's tokens (M, D), those of the autoencoder and the encoder's outputs.

    Missing tokens are left out of the sequence, as in the released code, not masked.
    """
    memory, width = module.memory, tokens.shape[1]
    place = [torch.zeros(width)] * len(memory)
    each = [torch.zeros(width) if module.official else sinusoid(m + 1, width)
            for m in range(len(tokens))]  # fmt: skip
    there = mask.nonzero()[:, 0].tolist()
    places = torch.stack(place + [each[m] for m in there])
    seen = transformed(torch.cat([memory, tokens[there]]), module.encoder, places)
    full = [module.mask] * len(tokens)
    for k, m in enumerate(there):
        full[m] = seen[len(memory) + k]
    y = torch.cat([seen[: len(memory)], torch.stack(full)])
    y = transformed(y, module.decoder, torch.stack(place + each))
    return module.predict(y[len(memory) :]), seen


@torch.no_grad()
@pytest.mark.parametrize('official', [False, True])
def test_missing_tokens_are_rebuilt_from_a_sequence_without_them(official):
    module = autoencoder(official=official, channels=32).train()
    assert module.encoder.blocks[0].self_attn.num_heads == 2  # of 16 channels
    tokens, mask = torch.randn(6, 3, 32), batch_of(TASKS['faces']).mask
    mask[0] = True
    found, rebuilt = module(tokens, mask)
    for row in range(6):
        expected, seen = completed(module, tokens[row], mask[row])
        close(rebuilt[row], expected)
        if not official:
            close(found[row], torch.where(mask[row][:, None], tokens[row], expected))
        elif mask[row].all():
            close(found[row], seen[:3])  # two memory tokens and the first modality
        else:
            close(found[row], expected)


@torch.no_grad()
def test_at_test_the_released_code_fuses_present_tokens_first():
    module = autoencoder(official=True)
    tokens, mask = torch.randn(1, 3, 8), torch.tensor([[False, True, False]])
    missing, present, _ = module.train()(tokens, mask)[0][0]
    assert not torch.allclose(missing, present, atol=1e-3)
    close(module.eval()(tokens, mask)[0][0], torch.stack([present, missing, missing]))


@torch.no_grad()
def test_only_positions_tell_two_missing_modalities_apart():
    tokens, mask = torch.randn(2, 3, 8), torch.tensor([[True, False, False]] * 2)
    for official in (False, True):
        found, _ = autoencoder(official=official)(tokens, mask)
        assert torch.allclose(found[:, 1], found[:, 2], atol=1e-6) == official


@torch.no_grad()
def test_memory_tokens_take_part():
    module = autoencoder()
    tokens, mask = torch.randn(1, 3, 8), torch.tensor([[True, False, True]])
    before, _ = module(tokens, mask)
    module.memory.add_(1 + torch.arange(8.0))
    after, _ = module(tokens, mask)
    assert not torch.allclose(before[:, 1], after[:, 1])
    assert torch.equal(before[:, ::2], after[:, ::2])  # original tokens are fused


def test_targets_have_mean_zero_and_variance_one():
    x = torch.randn(4, 8) * 3 + 2
    expected = (x.numpy() - x.numpy().mean(1, keepdims=True)) / x.numpy().std(
        1, ddof=1, keepdims=True
    )
    close(normalised(x), torch.from_numpy(expected))
    assert not normalised(torch.ones(1, 8)).any()


@torch.no_grad()
@pytest.mark.parametrize('kind', ['faces', 'mixed', 'rooms', 'volumes'])
def test_every_position_is_completed_by_itself_and_dropped_tokens_alone_are_counted(kind):
    method, batch = made(kind, reconstruction=0.3), batch_of(TASKS[kind], 4)
    for k in range(len(TASKS[kind].names)):
        batch.available[k, k] = batch.mask[k, k] = False
    batch.mask[:, 0] |= ~batch.mask.any(1)
    batch.available.logical_or_(batch.mask)
    names = TASKS[kind].names
    features = method.encode(batch.inputs)
    errors, maps = [], {n: [x.clone() for x in features[n]] for n in names}
    for row in range(4):
        for place in np.ndindex(features[names[0]][-1].shape[2:]):
            here = (slice(None), *place)
            tokens = torch.stack([
                F.layer_norm(features[n][-1][row][here], (features[n][-1].shape[1],))
                for n in names
            ])  # fmt: skip
            rebuilt, _ = completed(method.autoencoder, tokens, batch.mask[row])
            target = (tokens - tokens.mean(1, keepdim=True)) / tokens.std(1, keepdim=True)
            for m, n in enumerate(names):
                there = batch.mask[row, m]
                maps[n][-1][row][here] = tokens[m] if there else rebuilt[m]
                if batch.available[row, m] and not there:
                    errors.append((rebuilt[m] - target[m]).square().mean())
    for m, n in enumerate(names):
        for x in maps[n][:-1]:  # finer scales of missing modalities are zero
            x[~batch.mask[:, m]] = 0
    assert errors
    logits = method.decoder(method.fusion(maps, torch.ones_like(batch.mask)))
    losses = method.loss(batch)
    close(method.predict(batch.inputs, batch.mask), logits, 1e-3)
    close(losses['loss_task'], method.task_loss(logits, batch.target), 1e-3)
    close(losses['loss_reconstruction'], 0.3 * torch.stack(errors).mean(), 1e-3)


@torch.no_grad()
def test_without_dropped_modalities_nothing_is_reconstructed():
    method, batch = made(), batch_of(TASKS['faces'])
    for mask in (torch.ones_like(batch.mask), batch.mask):
        losses = method.loss(batch._replace(available=mask, mask=mask))
        assert losses['loss_reconstruction'] == 0
        assert losses['loss_task'].isfinite()


def test_bad_options_are_named_in_one_line():
    for options, said in (
        ({'memory': 0}, 'actionmae:memory: expected at least 1, found 0'),
        ({'depth': 0}, 'actionmae:depth: expected at least 1, found 0'),
        ({'variant': 'offical'}, 'official'),
    ):
        with pytest.raises(UserError, match=said):
            made(**options)
