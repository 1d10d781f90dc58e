"""Missing-aware prompts: where they enter, which a sample gets, and transformers of timm."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from tasks import TASKS, batch_of, images
from torch import nn
from with_timm import get_ready

from benchmark.engine import backbones
from benchmark.errors import UserError
from benchmark.method import Modality
from benchmark.registry import discover
from methods.common.tokens import Block, attend, transformed
from methods.missing_prompts import MissingPrompts, Prompts

discover()
timm = get_ready()
SMALL = {'length': 4, 'prompted': 2, 'depth': 3, 'heads': 4, 'patches': 3, 'dropout': 0.0}
D = 32


def made(task='faces', **options):
    torch.manual_seed(0)
    task = TASKS[task] if isinstance(task, str) else task
    return MissingPrompts(task, **{**SMALL, **options})


def larger(**changes):
    """A task of images of 32 x 32 pixels, with three and with one channel, for models of timm."""
    return dataclasses.replace(TASKS['faces'], modalities=images(32, 3, 1), **changes)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def layer_of(block):
    """The same block as a layer of torch."""
    layer = nn.TransformerEncoderLayer(
        D, block.attn.num_heads, 4 * D, 0.0, 'gelu', 1e-6, batch_first=True, norm_first=True
    )
    pairs = {
        'self_attn.in_proj_': block.attn.qkv,
        'self_attn.out_proj.': block.attn.proj,
        'linear1.': block.mlp[0],
        'linear2.': block.mlp[3],
        'norm1.': block.norm1,
        'norm2.': block.norm2,
    }
    layer.load_state_dict(
        {f'{n}{k}': x for n, part in pairs.items() for k, x in part.state_dict().items()}
    )
    return layer.eval()


@torch.no_grad()
def test_prompts_in_the_input_are_tokens_that_later_blocks_keep():
    transformer = made().eval().transformer
    x, keep = torch.randn(5, 6, D), torch.rand(5, 6) < 0.7
    keep[:, 0] = True
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.bool)
    found = transformer(x, keep, mask)
    for row in range(len(x)):
        # Only the tokens that are kept: nothing else can tell what a mask of keys leaves out.
        y = x[row, keep[row]]
        for k, block in enumerate(transformer.blocks):
            if k < 2:
                y = torch.cat([transformer.prompts(mask[row : row + 1])[0, k], y])
            y = layer_of(block)(y[None])[0]
        close(found[row], transformer.norm(y)[2 * 4])


@torch.no_grad()
def test_prompts_in_the_attention_are_keys_and_values():
    block = Block(D, 4, 0.0)
    x = torch.randn(2, 5, D)
    keys, values = torch.randn(2, 3, D), torch.randn(2, 3, D)
    keep = torch.ones(2, 8, dtype=torch.bool)
    keep[1, 4] = False
    found = attend(block.attn, x, keep, keys, values).numpy()
    weight, bias = (p.numpy().astype(float) for p in block.attn.qkv.parameters())
    out, shift = (p.numpy().astype(float) for p in block.attn.proj.parameters())
    for b in range(2):
        q, k, v = (
            x[b].numpy() @ weight[i * D : (i + 1) * D].T + bias[i * D : (i + 1) * D]
            for i in range(3)
        )
        k, v = np.concatenate([keys[b], k]), np.concatenate([values[b], v])
        y = []
        for h in range(4):
            part = slice(h * D // 4, (h + 1) * D // 4)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(D // 4)) * keep[b].numpy()
            y.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        np.testing.assert_allclose(
            found[b], np.concatenate(y, 1) @ out.T + shift, rtol=1e-3, atol=1e-5
        )


@torch.no_grad()
def test_in_the_attention_the_first_half_is_keys_of_the_first_blocks():
    transformer = made(prompts='attention').eval().transformer
    x, mask = torch.randn(2, 6, D), torch.tensor([[True, False, True], [False, True, True]])
    keep = torch.ones(2, 6, dtype=torch.bool)
    prompts = torch.stack([transformer.prompts(row[None])[0] for row in mask])
    y, wide = x, torch.ones(2, 8, dtype=torch.bool)
    for k, block in enumerate(transformer.blocks[:2]):
        y = transformed(block, y, wide, prompts[:, k, :2], prompts[:, k, 2:])
    y = layer_of(transformer.blocks[2])(y)
    close(transformer(x, keep, mask), transformer.norm(y)[:, 0])


def test_every_pattern_has_prompts_of_its_own_and_the_code_s_start_tells_them_apart():
    prompts = Prompts(3, (2, 4, D), 'pattern', None)
    masks = torch.tensor(list(itertools.product((True, False), repeat=3))[:-1])
    found = prompts(masks)
    assert found.shape == (7, 2, 4, D)
    assert len({tuple(x.flatten().tolist()) for x in found}) == 7
    assert torch.equal(found[0], prompts.table[0])
    both, no_image, no_text = torch.tensor([[True, True], [True, False], [False, True]])
    for lengths in ((16,), (8, 8)):  # as in the code, of which text is the first modality
        start = Prompts(2, (6, 16, D), 'pattern', lengths)
        for mask, place in ((both, 0), (no_image, 1), (no_text, 2)):
            expected = torch.zeros(6, 16, D)
            expected[:, place :: lengths[0]] = 0
            for begin in range(0, 16, lengths[0]):
                expected[:, begin + place] = 1
            assert torch.equal(start(mask[None])[0], expected)


def test_prompts_of_modalities_add_up():
    prompts = Prompts(10, (1, 2, D), 'modality', None)
    assert len(prompts.table) == 11
    mask = torch.rand(6, 10) < 0.5
    for row, found in zip(mask, prompts(mask), strict=True):
        missing = [prompts.table[1 + m] for m in range(10) if not row[m]]
        close(found, sum(missing, prompts.table[0]))


def test_in_the_input_the_code_s_prompts_of_a_block_are_one():
    batch = batch_of(TASKS['faces'])

    def spread(**options):
        method = made(**options)
        sum(method.loss(batch).values()).backward()
        gradient = method.transformer.prompts.table.grad[0]  # of complete data
        assert gradient.any()
        return ((gradient - gradient[:, :1]).abs().max() / gradient.abs().max()).item()

    assert spread(variant='official') < 1e-3
    assert spread(variant='paper') > 0.1
    assert spread(variant='official', prompts='attention') > 0.1


@torch.no_grad()
@pytest.mark.parametrize('kind', ['faces', 'mixed', 'sequences'])
def test_a_missing_modality_has_the_tokens_of_a_blank_input(kind):
    method, batch = made(kind).eval(), batch_of(TASKS[kind])
    blank = {n: x.clone() for n, x in batch.inputs.items()}
    for column, x in enumerate(blank.values()):
        x[~batch.mask[:, column]] = 0
    whole = torch.ones_like(batch.mask)
    for found, expected in zip(
        method.joined(method.encode(batch.inputs), batch.mask),
        method.joined(method.encode(blank), whole),
        strict=True,
    ):
        close(found, expected)


@torch.no_grad()
def test_appended_frames_are_no_tokens():
    method, batch = made('sequences').eval(), batch_of(TASKS['sequences'])
    words = batch.inputs['words']
    words[..., -1], words[:, 3:, -1] = 1, 0
    other = {**batch.inputs, 'words': words.clone()}
    other['words'][:, 3:, :-1] = float('nan')
    mask = torch.ones_like(batch.mask)
    close(method.predict(other, mask), method.predict(batch.inputs, mask))
    assert method.encode(other)['words'][1].sum(1).tolist() == [3] * len(words)


@torch.no_grad()
def test_patches_cover_images_of_any_shape():
    task = dataclasses.replace(TASKS['faces'], modalities=(Modality('rgb', (2, 10, 17)),))
    method = made(task, patches=3)
    tokens, real = method.encode({'rgb': torch.randn(2, 2, 10, 17)})['rgb']
    assert tokens.shape == (2, 3 * 5, D)
    assert real.all()


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """A file with the weights of a vision transformer with three channels."""
    torch.manual_seed(3)
    found = tmp_path_factory.mktemp('weights') / 'vit.pth'
    torch.save(timm.create_model('test_vit', img_size=32).state_dict(), found)
    return found


@torch.no_grad()
@pytest.mark.parametrize('name', ['test_vit', 'test_vit2', 'test_vit3'])
def test_without_prompts_it_is_timm_s_transformer(name, tmp_path):
    torch.manual_seed(1)
    model = timm.create_model(name, img_size=32).eval()
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    task = larger(backbone=name, pretrained=str(tmp_path / 'vit.pth'))
    method = made(dataclasses.replace(task, modalities=task.modalities[:1]), prompted=1).eval()
    method.kinds['rgb'].zero_()
    x = torch.randn(2, 3, 32, 32)
    y, keep = method.joined(method.encode({'rgb': x}), torch.ones(2, 1, dtype=torch.bool))
    if not model.num_prefix_tokens:
        y, keep = y[:, 1:], keep[:, 1:]  # the first token is drawn where the model has none
    for block in method.transformer.blocks:
        y = transformed(block, y, keep, y[:, :0], y[:, :0])
    expected = model.fc_norm(model.forward_features(x))
    close(method.transformer.norm(y), expected)


def test_a_frozen_transformer_keeps_its_weights_and_prompts_learn(file):
    task = larger(backbone='test_vit', pretrained=str(file), frozen=True)
    method = made(task, dropout=0.1).train()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    trained = {n.partition('.')[0] for n, p in method.named_parameters() if p.requires_grad}
    assert trained == {'kinds', 'transformer', 'pooler', 'head'}
    sum(method.loss(batch_of(task)).values()).backward()
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), 0.1)
    optimizer.step()
    same = {n for n, p in method.named_parameters() if torch.equal(p, before[n])}
    assert same == {n for n, p in method.named_parameters() if not p.requires_grad}
    assert 'transformer.prompts.table' not in same
    assert any(n.startswith('transformer.blocks') for n in same)
    state = torch.load(file, weights_only=True)
    patches = method.embed['depth'].patches.proj.weight
    close(patches, state['patch_embed.proj.weight'].sum(1, keepdim=True))


def test_without_a_frozen_one_the_transformer_is_trained(file):
    task = larger(backbone='test_vit', pretrained=str(file))
    method = made(task).train()
    sum(method.loss(batch_of(task)).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in method.transformer.parameters())


def test_the_field_encoder_is_for_images(file):
    backbones.check('missing_prompts', 'missing_prompts', SMALL, larger(backbone='test_vit'))
    vectors = dataclasses.replace(TASKS['vectors'], backbone='test_vit')
    with pytest.raises(UserError, match='has no images'):
        backbones.check('missing_prompts', 'missing_prompts', SMALL, vectors)


@pytest.mark.parametrize(
    ('task', 'options', 'told'),
    [
        ('rooms', {}, 'expected a task of classification or .* found segmentation'),
        ('faces', {'prompts': 'inpt'}, "unknown prompts of missing_prompts 'inpt'"),
        ('faces', {'prompts': 'attention', 'length': 5}, 'expected an even number'),
        ('faces', {'length': 0}, 'length: expected 1 or more, found 0'),
        ('faces', {'prompted': 4}, 'prompted: expected 1 to 3, the number of blocks, found 4'),
        ('faces', {'heads': 5}, 'heads: expected a divisor of 32, found 5'),
        (larger(backbone='test_resnet'), {}, 'expected a vision transformer with plain blocks'),
    ],
)
def test_what_cannot_be_is_told(task, options, told):
    with pytest.raises(UserError, match=told):
        made(task, **options)


@pytest.mark.parametrize('kind', ['multilabel', 'regression'])
def test_columns_of_targets_are_learned_as_well(kind):
    metric = {'multilabel': 'F1 micro', 'regression': 'MAE'}[kind]
    task = dataclasses.replace(TASKS['vectors'], kind=kind, metric=metric)
    batch = batch_of(TASKS['vectors'])
    batch = batch._replace(target=torch.rand(6, 2).round())
    loss = made(task).loss(batch)['loss_task']
    loss.backward()
    assert torch.isfinite(loss)


def test_many_modalities_have_prompts_by_modality():
    nine = tuple(Modality(f'm{k}', (2,)) for k in range(9))
    task = dataclasses.replace(TASKS['vectors'], modalities=nine)
    with pytest.raises(UserError, match='at most 8 modalities.* use per=modality'):
        made(task)
    batch = batch_of(task)
    assert made(task, per='modality').predict(batch.inputs, batch.mask).shape == (6, 2)
