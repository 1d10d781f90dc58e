"""ActionMAE, PASSION, SMIL and missing-aware prompts against their released code.

The released code computed the losses, outputs and gradients in released_newest.json on the weights
and data of `figures.fill` and `figures.drawn`, as tests/helpers/figures.py describes, and here all
is computed in double precision, too.

The step of 4ae5a81 of sangminwoo/ActionMAE began at the features of three modalities, which its
temporal encoders normalise last. Tokens had 32 channels and two heads; the fusion was that by
concatenation, and the label smoothing of its cross-entropy was off. The two memory tokens were a
tenth of those of `fill`.

fd308b5 of Jun-Jie-Shi/PASSION ran two steps and the end of an epoch from the outputs of RFNet's
decoders on, given as slices of 6 x 5 pixels; maps of all scales had that size.

The step of 0d0e827 of mengmenm/SMIL began at the features of images and sounds, both of 8 channels,
with five prototypes and a perceptron with 12 hidden units. Dropout was off.

The step of 9aa5381 of YiLunLee/missing_aware_prompts began at the tokens of words and images, zero
where one is missing, and had three blocks of 24 channels, two of them with four prompts.
"""

import itertools

import pytest
import torch
from figures import differences, drawn, fill
from released import Given, agree, leaf, read, task_of
from torch import nn

from benchmark.method import Batch, Modality, Task
from methods.actionmae import ActionMAE
from methods.common.losses import segmentation_loss
from methods.common.sequences import split_padding
from methods.missing_prompts import MissingPrompts
from methods.passion import Passion
from methods.smil import SMIL

RELEASED = read('released_newest.json')


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    """Losses are computed in single precision otherwise, whatever the network's."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)


def filled(parameters):
    fill(parameters)
    return parameters


class Linear(nn.Linear):
    """A decoder of maps of one pixel."""

    def forward(self, maps):
        return super().forward(maps[0].flatten(1))


def blocks(transformer):
    """The parameters of ActionMAE's blocks in the order of the released ones."""
    for b in transformer.blocks:
        attention = b.self_attn
        yield from b.norm1.parameters()
        yield from (attention.in_proj_weight, attention.in_proj_bias)
        for part in (attention.out_proj, b.norm2, b.linear1, b.linear2):
            yield from part.parameters()
    yield from transformer.norm.parameters()


def actionmae():
    names = ('r', 'd', 'i')
    method = ActionMAE(task_of(names, 4, (5,), 16), memory=2, variant='official')
    method.decoder = Linear(3 * 32, 4)
    features = {n: leaf(500 + k, 6, 32) for k, n in enumerate(names)}
    method.double().encoders = Given(features)
    tokens = method.autoencoder
    parameters = filled([
        *method.norms.parameters(), tokens.memory, tokens.mask, *blocks(tokens.encoder),
        *blocks(tokens.decoder), *tokens.predict.parameters(), *method.decoder.parameters(),
    ])  # fmt: skip
    tokens.memory.data.mul_(0.1)
    return method, [*parameters, *features.values()]


@pytest.mark.parametrize(('kept', 'case'), [(1, 'actionmae_one'), (2, 'actionmae_two')])
def test_actionmae_from_tokens_to_the_gradient_of_every_weight(kept, case):
    method, leaves = actionmae()
    method.train()
    # The released code keeps the modalities of the smallest random numbers of each sample.
    mask = drawn(600, 6, 3).argsort(1).argsort(1) < kept
    batch = Batch({}, torch.ones_like(mask), mask, torch.arange(6) % 4, torch.arange(6))
    losses = method.loss(batch)
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    agree(RELEASED[case], {n.removeprefix('loss_'): x for n, x in losses.items()}, gradients)


@torch.no_grad()
def test_actionmae_s_answer_at_test_for_every_subset():
    method, _ = actionmae()
    method.eval()
    features = method.encode({})
    for size in (1, 2, 3):
        for there in itertools.combinations('rdi', size):
            mask = torch.tensor([[n in there for n in 'rdi']]).expand(6, -1)
            logits = method.decode(features, mask)
            expected = RELEASED['actionmae_test'][''.join(there)]
            assert differences([logits], expected) < 1e-6, there


class First(nn.Module):
    """A decoder whose answer is its finest input."""

    def forward(self, maps):
        return maps[0]


def test_passion_from_decoders_to_the_gradients_and_the_weights_of_the_next_epoch():
    names = ('flair', 't1ce', 't1', 't2')
    modalities = tuple(Modality(n, (1, 6, 5)) for n in names)
    task = Task('any', 'segmentation', modalities, tuple('0123'), 'Dice', 4)
    method = Passion(task, variant='official').double()
    method.separate, method.task_loss = First(), segmentation_loss
    method.weights.copy_(torch.tensor([0.7, 1.2, 0.9, 1.1]))
    method._opened = method.epoch
    masks = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1]]).bool()
    for step, seed in enumerate((600, 500)):
        # Certain enough for probabilities at the bound of the divergence.
        logits, *sides = (leaf(seed + k, 5, 4, 6, 5, scale=8) for k in (0, 2, 3, 4, 5))
        maps, alone = leaf(seed + 1, 5, 8, 6, 5), leaf(seed + 6, 4, 4, 6, 5)
        method.encode = lambda _, x=alone: {n: (x[k : k + 1],) for k, n in enumerate(names)}
        method.views = lambda *_: None
        method.decoded = lambda _, found=(logits, maps, sides): found
        mask, before = masks[step : step + 1], method.distances.clone()
        target = (torch.arange(30).view(1, 6, 5) * 7 // 3 + 1 - step) % 3
        losses = method.loss(Batch({}, torch.ones_like(mask), mask, target, torch.arange(1)))
    expected = RELEASED['passion']
    terms = {n.removeprefix('loss_'): x for n, x in losses.items() if 'loss' in n}
    assert terms.keys() == expected.keys() - {'distances', 'weights', 'gradients'}
    leaves = [logits, maps, *sides, alone]
    agree(expected, terms, torch.autograd.grad(sum(terms.values()), leaves))
    assert (method.distances - before).tolist() == pytest.approx(expected['distances'], rel=1e-6)
    method.epoch = 1
    method.open_epoch()
    assert method.weights.tolist() == pytest.approx(expected['weights'], rel=1e-6)


class Hidden(nn.Module):
    """The decoder of SMIL's released code: a perceptron, whose hidden layer is its deepest map."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(16, 12), nn.Linear(12, 4)

    def maps(self, fused):
        self.below = fused[0]
        return (self.hidden(self.below.flatten(1)).relu()[:, :, None, None],)

    def logits(self, maps):
        return self.out(maps[0].flatten(1))


class Above(nn.Module):
    """SMIL's regulariser of hidden units as released: it reads the features below them."""

    def __init__(self, decoder):
        super().__init__()
        self.mean, self.seen = nn.Linear(16, 12), lambda: decoder.below.flatten(1)

    def forward(self, h, noisy):
        r = self.mean(self.seen())
        noise = torch.randn_like(r) if noisy else 0
        return h + nn.functional.softplus(r + noise)[:, :, None, None]


def test_smil_from_features_to_the_gradients_through_the_inner_step(monkeypatch):
    # The two modalities have as many channels; the released change of features reads the first.
    method = SMIL(task_of(('image', 'sound'), 4, (5,), 4), prototypes=5, inner=2.0).train()
    decoder = method.behind.decoder = Hidden()
    method.behind.regularise[1] = Above(decoder)
    method.epoch, method.epochs = 3, 16  # eta is 0.2
    images, both, sounds = (leaf(500 + k, 6, 8) for k in range(3))
    first = torch.stack([images, both], 1).flatten(0, 1)
    second = torch.stack([torch.full_like(sounds, torch.nan), sounds], 1).flatten(0, 1)
    method.double().encoders = Given({'image': first, 'sound': second})
    kept = method.replace['sound 0']
    kept.prototypes.sums.copy_(drawn(503, 5, 8))
    kept.prototypes.counts.fill_(1)
    method.learn_prototypes = lambda *_: None
    change = method.behind.regularise[0].mean
    own = [*decoder.parameters(), *kept.predict.parameters()]
    reads = nn.Parameter(change.weight[:, :8, 0, 0].detach().clone())
    above = method.behind.regularise[1].mean
    fill([*own, reads, change.bias, *above.parameters()])
    change.weight.data.zero_()[:, :8, 0, 0] = reads.data
    calls = itertools.count(600)

    def noise(x):
        # As released: for the half of the batch with the inner loss.
        found = torch.zeros_like(x)
        found[::2] = drawn(next(calls), 6, *x.shape[1:]).double()
        return found

    monkeypatch.setattr(torch, 'randn_like', noise)
    there = torch.tensor([[True, False], [True, True]]).repeat(6, 1)
    mask = torch.tensor([[True, False]]).repeat(12, 1)
    label = torch.arange(12) // 2
    target = torch.where(there[:, 1], label + 1, label) % 4
    losses = method.loss(Batch({}, there, mask, target, torch.arange(12)))
    leaves = [*own, change.weight, change.bias, *above.parameters(), images, both, sounds]
    found = list(torch.autograd.grad(sum(losses.values()), leaves))
    found[6] = found[6][:, :8, 0, 0]
    agree(RELEASED['smil'], {n.removeprefix('loss_'): x for n, x in losses.items()}, found)
    assert next(calls) == 602  # two changes of features, in the pass of the inner loss alone


class AsTokens(nn.Module):
    """Stands for what makes inputs tokens: inputs are tokens, whose last column may mark them."""

    def __init__(self, padded):
        super().__init__()
        self.padded = padded

    def forward(self, x):
        return split_padding(x, self.padded)


def prompted(prompts, **options):
    modalities = Modality('text', (4, 25), padded=True), Modality('image', (5, 24))
    task = Task('any', 'classification', modalities, tuple('012'), 'accuracy', 3)
    return MissingPrompts(task, prompts=prompts, heads=12, variant='official', **options)


@pytest.mark.parametrize('prompts', ['input', 'attention'])
def test_missing_prompts_from_tokens_to_the_gradients_of_what_is_trained(prompts):
    method = prompted(prompts, length=4, prompted=2, depth=3, dropout=0.0).double()
    method.embed = nn.ModuleDict({'text': AsTokens(True), 'image': AsTokens(False)})
    table, types = method.transformer.prompts.table, nn.Parameter(torch.zeros(2, 24).double())
    rows = [nn.Parameter(torch.zeros(2, 4, 24).double()) for _ in range(3)]
    trained = [*method.pooler.parameters(), *method.head.parameters()]
    order = (
        part
        for b in method.transformer.blocks
        for part in (b.norm1, b.attn.qkv, b.attn.proj, b.norm2, b.mlp)
    )
    frozen = [p for part in (*order, method.transformer.norm) for p in part.parameters()]
    fill([*rows, *trained, *frozen, types])
    table.data[[0, 2, 1]] = torch.stack(rows).data  # complete, without words, without the image
    # The first token is the first word there, which all samples have.
    method.start.data[0, 0] = drawn(502, 24).double() + types[0].data
    method.kinds['text'].data, method.kinds['image'].data = types.data
    mask = torch.tensor([[True, True], [False, True], [True, False]]).repeat(2, 1)
    real = torch.ones(6, 4, 1).double()
    real[::2, 2:] = 0
    inputs = {
        'text': torch.cat([drawn(500, 6, 4, 24).double(), real], 2),
        'image': drawn(501, 6, 5, 24).double(),
    }
    batch = Batch(inputs, torch.ones_like(mask), mask, torch.arange(6) * 2 % 3, torch.arange(6))
    loss = method.loss(batch)['loss_task']
    first, *found = torch.autograd.grad(loss, [table, *trained])
    expected = RELEASED[f'missing_prompts_{prompts}']
    agree(expected, {'task': loss}, [*first[[0, 2, 1]], *found])
    ones = [(row == 1).all(2).all(0).nonzero()[:, 0].tolist() for row in
            prompted(prompts, length=16).transformer.prompts.table[[0, 2, 1]]]  # fmt: skip
    assert ones == expected['ones']
