"""Fusion operators: their formulas, and what becomes of absent modalities."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, batch_of
from torch import nn

from benchmark.engine import grids
from benchmark.errors import UserError
from benchmark.method import Modality, Task
from methods.common.fusion import Multiplicative, TensorFusion, outer_width
from methods.common.gates import Mixture
from methods.early_fusion import EarlyFusion
from methods.fusion import OPERATORS, Fusion
from methods.late_fusion import LateFusion

COUNT, CHANNELS = 3, 8
PRESENT = torch.tensor(
    list(itertools.product((False, True), repeat=COUNT))[1:], dtype=torch.bool
)  # every subset


def operator(name, count=COUNT, seed=0, **options):
    """An operator in evaluation mode with random biases, which start at zero in some layers."""
    torch.manual_seed(seed)
    made = OPERATORS[name](count, CHANNELS, **options).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def maps(present=PRESENT, seed=1):
    """Maps of every subset, zero where absent."""
    torch.manual_seed(seed)
    x = torch.randn(len(present), present.shape[1], CHANNELS, 2, 3)
    return x * present[:, :, None, None, None]


def pixel(x):
    """(B, M, C, H, W) -> (pixels, M, C)."""
    return x.permute(0, 3, 4, 1, 2).flatten(0, 2)


def layer(each, i):
    """The weight (D, C) of modality i in a grouped convolution."""
    return each.weight.unflatten(0, (COUNT, -1))[i, :, :, 0, 0]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


FULL = torch.ones(4, COUNT, dtype=torch.bool)


@torch.no_grad()
def test_multiplicative_interactions_hold_the_additive_and_the_bilinear_form():
    """F1: W = 0 is additive; U = V = b = 0 is a product of linear maps."""
    x, y, m = maps(FULL), maps(FULL, seed=5), operator('multiplicative')
    m.scale.weight.zero_()

    def with_other(*chosen):
        mixed = x.clone()
        mixed[:, chosen] = y[:, chosen]
        return m(mixed, FULL)

    for i, j in itertools.combinations(range(COUNT), 2):
        # Mixed second differences of an additive function vanish.
        close(with_other(i, j) - with_other(i), with_other(j) - with_other())
    m = operator('multiplicative')
    for parameter in (m.shift.weight, m.shift.bias, m.scale.bias):
        parameter.zero_()
    expected = m.start * torch.stack(
        [torch.einsum('dc,bchw->bdhw', layer(m.scale, i), x[:, i]) for i in range(COUNT)]
    ).prod(0)
    close(m(x, FULL), expected)


@torch.no_grad()
def test_the_outer_product_holds_every_order_of_interaction():
    """F2: the width is prod (d + 1), with the blocks [x_1], [x_2] and x_1 x_2^T."""
    h = torch.randn(5, 2, 3, 1, 1)
    outer = TensorFusion.outer(h)[:, :, 0, 0].unflatten(1, (4, 4))
    first, second = h[:, 0, :, 0, 0], h[:, 1, :, 0, 0]
    close(outer[:, 0, 0], torch.ones(5))
    close(outer[:, 1:, 0], first)
    close(outer[:, 0, 1:], second)
    close(outer[:, 1:, 1:], first[:, :, None] * second[:, None])
    m = operator('tensor')
    assert m.out.in_channels == (m.width + 1) ** COUNT
    assert [outer_width(n, 64) for n in (2, 3, 4, 8)] == [15, 5, 3, 1]
    assert outer_width(2, 4) == 4
    with pytest.raises(UserError, match='tensor fusion: expected at most 8 modalities, found 9'):
        operator('tensor', 9)


@torch.no_grad()
def test_low_rank_fusion_is_tensor_fusion_with_factorised_weights():
    """F3: the same as the contraction of the whole outer product with sum_r w_r prod_i W_i^r."""
    x, m = maps(), operator('low_rank', rank=2)
    factors = [  # (rank, C out, 1 + C in), the first column being the weight of the one
        torch.cat([m.ones[i, :, :, None], layer(m.each, i).unflatten(0, (2, CHANNELS))], 2)
        for i in range(COUNT)
    ]
    weight = torch.einsum('r,roi,roj,rok->oijk', m.weights.flatten(), *factors)
    one, two, three = F.pad(pixel(x), (1, 0), value=1.0).unbind(1)
    expected = torch.einsum('oijk,pi,pj,pk->po', weight, one, two, three) + m.bias.flatten()
    close(m(x, PRESENT).permute(0, 2, 3, 1).flatten(0, 2), expected)


@torch.no_grad()
def test_gates_are_shares_of_what_is_present():
    """F4: gates lie in (0, 1) and the result between the smallest and the largest value."""
    x, m = maps(), operator('gated')
    gates, values = m.gates(x, PRESENT), m.value(x).tanh()
    there = PRESENT[:, :, None, None, None].expand_as(gates)
    assert ((gates > 0) & (gates <= 1))[there].all()
    assert not gates[~there].any()
    close(gates.sum(1), torch.ones_like(gates[:, 0]))
    low = values.where(there, torch.inf).amin(1)
    high = values.where(there, -torch.inf).amax(1)
    z = m(x, PRESENT)
    assert ((z >= low - 1e-6) & (z <= high + 1e-6)).all()
    two = operator('gated', 2)
    pair = torch.ones(4, 2, dtype=torch.bool)
    x = maps(pair)
    logits = two.gate(x.flatten(1, 2)).unflatten(1, (2, CHANNELS))
    close(two.gates(x, pair)[:, 0], (logits[:, 0] - logits[:, 1]).sigmoid())


@torch.no_grad()
@pytest.mark.parametrize('anchor', range(COUNT))
def test_the_shift_is_bounded_by_the_anchor(anchor):
    """F5: |a H| <= beta |e|; the anchor's place is taken by the first present modality."""
    x, m = maps(), operator('shifting', anchor=anchor)
    e, moved = m.shift(x, PRESENT)
    assert (moved.norm(dim=1) <= m.beta * e.norm(dim=1) * (1 + 1e-5)).all()
    for row, present in enumerate(PRESENT):
        order = [anchor, *(i for i in range(COUNT) if i != anchor)]
        first = next(i for i in order if present[i])
        assert torch.equal(e[row], x[row, first])
        others = [i for i in range(COUNT) if present[i] and i != first]
        gates = m.gate(torch.cat([x, e[:, None].expand_as(x)], 2)).relu()
        shift = sum((gates * m.value(x))[row, i] for i in others) + torch.zeros_like(e[row])
        size = shift.norm(dim=0)
        close(moved[row], shift * (e[row].norm(dim=0) / (size + 1e-6)).clamp(max=1))
    z = m(x, PRESENT)
    close(
        z, F.layer_norm((e + moved).movedim(1, -1), [CHANNELS], *m.norm.parameters()).movedim(-1, 1)
    )


@torch.no_grad()
def test_a_mixture_with_one_share_is_that_fusion():
    """F6, and in training a hard gate chooses one fusion for each sample."""
    x, m = maps(), operator('mixture')
    m.gate.weight.zero_()
    for k, fusion in enumerate(m.fusions):
        m.gate.bias.copy_(torch.where(torch.arange(len(m.fusions)) == k, 50.0, -50.0))
        close(m(x, PRESENT), fusion(x, PRESENT))
    hard = operator('mixture', hard=True)
    assert set(hard.shares(x, PRESENT).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.train().shares(x, PRESENT).sum(1), torch.ones(len(x)))
    assert isinstance(hard, Mixture)


ADDITIVE = {'concat', 'sum', 'mean'}


@torch.no_grad()
@pytest.mark.parametrize('name', OPERATORS)
def test_additive_operators_are_their_own_additive_projection(name):
    """F7: f - EMAP(f) is zero for additive operators alone (Hessel & Lee, EMNLP 2020)."""
    m = operator(name)
    x = maps(FULL)
    grid = torch.cartesian_prod(*[torch.arange(4)] * COUNT)
    mixed = torch.stack([x[grid[:, i], i] for i in range(COUNT)], 1)
    f = m(mixed, torch.ones(len(mixed), COUNT, dtype=torch.bool)).unflatten(0, [4] * COUNT)
    mean = f.mean((0, 1, 2))
    parts = [f.mean([j for j in range(COUNT) if j != i]) for i in range(COUNT)]
    emap = (
        sum(
            part.reshape(*[4 if j == i else 1 for j in range(COUNT)], *part.shape[1:])
            for i, part in enumerate(parts)
        )
        - (COUNT - 1) * mean
    )
    residual = (f - emap).abs().max()
    assert (residual < 1e-4) == (name in ADDITIVE)


UNTOUCHED = {'concat', 'sum', 'tensor', 'low_rank'}
"""Operators for which plain zeros are what the mask leaves."""


@torch.no_grad()
@pytest.mark.parametrize('name', OPERATORS)
def test_plain_zeros_are_told_from_absent_modalities(name):
    """F8: for most operators a map of zeros that counts as present changes the result."""
    x, m = maps(), operator(name)
    everything = torch.ones_like(PRESENT)
    masked, zeros = m(x, PRESENT), m(x, everything)
    close(masked[-1], zeros[-1])  # nothing is absent
    same = torch.allclose(masked[:-1], zeros[:-1], atol=1e-5)
    assert same == (name in UNTOUCHED)


def test_the_grid_runs_every_operator_and_those_that_zeros_change_twice():
    methods = grids.GRIDS['fusion'].methods
    assert set(grids.OPERATORS) == set(OPERATORS)
    assert set(grids.SAME) == UNTOUCHED
    assert sum(m.startswith('fusion:') for m in methods) == 2 * len(OPERATORS) - len(UNTOUCHED)


@torch.no_grad()
def test_what_plain_zeros_leave_of_a_single_modality():
    x, present = maps()[:1], torch.ones(1, COUNT, dtype=torch.bool)
    assert PRESENT[0].tolist() == [False, False, True]
    assert not operator('product')(x, present).any()
    bilinear = operator('bilinear')
    close(bilinear(x, present), bilinear.out.bias[:, None, None].expand(1, -1, 2, 3))
    # The anchor, modality 0, is a zero: it is not shifted at all.
    e, moved = operator('shifting').shift(x, present)
    assert not e.any()
    assert not moved.any()


@torch.no_grad()
@pytest.mark.parametrize('name', sorted(set(OPERATORS) - {'mixture'}))
def test_a_single_modality_passes_the_mask(name):
    """No subset leaves a constant: the result depends on the one modality that is there."""
    m = operator(name)
    for i in range(COUNT):
        one = torch.zeros(1, COUNT, dtype=torch.bool)
        one[:, i] = True
        assert not torch.allclose(m(maps(one), one), m(maps(one, seed=2), one), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize('name', OPERATORS)
def test_one_modality_alone_can_be_fused(name):
    one = torch.ones(2, 1, dtype=torch.bool)
    assert operator(name, 1)(maps(one), one).shape == (2, CHANNELS, 2, 3)


@torch.no_grad()
def test_folding_passes_over_absent_modalities():
    m = operator('multiplicative')
    assert isinstance(m, Multiplicative)
    x = maps()
    scale, shift = m.scale(x), m.shift(x)
    for row, present in enumerate(PRESENT):
        z = m.start
        for i in range(COUNT):
            z = scale[row, i] * z + shift[row, i] if present[i] else z
        close(m(x, PRESENT)[row], z.expand(-1, 2, 3))


@torch.no_grad()
@pytest.mark.parametrize('name', OPERATORS)
def test_samples_in_another_order_give_results_in_that_order(name):
    """F9."""
    x, m, order = maps(), operator(name), torch.randperm(len(PRESENT))
    close(m(x[order], PRESENT[order]), m(x, PRESENT)[order])


@pytest.mark.parametrize('fusion', OPERATORS)
@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_every_operator_trains_every_parameter(fusion, kind):
    torch.manual_seed(0)
    method, batch = Fusion(TASKS[kind], fusion=fusion), batch_of(TASKS[kind])
    method.parse_losses(method.loss(batch))[0].backward()
    silent = [n for n, p in method.named_parameters() if n.startswith('fusion') and p.grad is None]
    assert not silent
    poisoned = {
        name: torch.where(there.view(-1, 1, 1, 1), x, torch.nan)
        for (name, x), there in zip(batch.inputs.items(), batch.mask.T, strict=True)
    }
    method.eval()
    with torch.no_grad():
        found = method.predict(poisoned, batch.mask)
        assert torch.equal(found, method.predict(batch.inputs, batch.mask))


@torch.no_grad()
def test_zeros_are_passed_as_present_where_the_option_says_so():
    batch = batch_of(TASKS['vectors'])
    torch.manual_seed(0)
    masked = Fusion(TASKS['vectors'], fusion='mean').eval()
    torch.manual_seed(0)
    zeros = Fusion(TASKS['vectors'], fusion='mean', absent='zero').eval()
    (x,) = zip(*masked.encode(batch.inputs).values(), strict=True)
    x = torch.stack(x, 1) * batch.mask[:, :, None, None, None]
    features = masked.encode(batch.inputs)
    scale = (1 + 1e-5) ** -0.5  # BatchNorm with its initial statistics
    for method, count in ((masked, batch.mask.sum(1)), (zeros, torch.full((6,), 2))):
        expected = (scale * x.sum(1) / count[:, None, None, None]).relu()
        close(method.fusion(features, batch.mask)[0], expected)


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'fusion': 'gatd'}, "unknown fusion of fusion 'gatd'; did you mean 'gated'"),
        ({'absent': 'none'}, 'absent of fusion'),
        ({'gate': 'sharp'}, 'gate of fusion'),
        ({'anchor': 'deptt'}, "did you mean 'depth'"),
        ({'fusion': 'low_rank', 'rank': 0}, 'expected 1 or more, found 0'),
    ],
)
def test_wrong_options_are_named(options, told):
    with pytest.raises(UserError) as error:
        Fusion(TASKS['faces'], **options)
    assert told in str(error.value)


def decisions(combine, kind='faces'):
    torch.manual_seed(0)
    return LateFusion(TASKS[kind], combine=combine).eval()


@torch.no_grad()
@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_decisions_are_combined_by_the_rule(kind):
    batch = batch_of(TASKS[kind])
    for combine in ('mean', 'product', 'learned'):
        method = decisions(combine, kind)
        logits = method.encode(batch.inputs)
        each = torch.stack(list(logits.values()), 1).softmax(2)
        found = method.decode(logits, batch.mask).softmax(1)
        for row, mask in enumerate(batch.mask):
            p = each[row][mask]
            if combine == 'mean':
                expected = p.mean(0)
            else:  # weights are equal before training
                expected = p.prod(0) ** (1 / len(p))
                expected = expected / expected.sum(0)
            close(found[row], expected)


def test_weights_of_decisions_learn_alone_from_the_combined_loss():
    method, batch = decisions('learned').train(), batch_of(TASKS['faces'])
    losses = method.loss(batch)
    each = {f'loss of {name}' for name in ('rgb', 'depth', 'ir')}
    assert set(losses) == {*each, 'loss_fused'}
    losses['loss_fused'].backward()
    moved = {n for n, p in method.named_parameters() if p.grad is not None}
    assert moved == {'weights'}
    with pytest.raises(UserError, match='combine of late_fusion'):
        decisions('means')


def test_each_modality_learns_from_the_samples_that_have_it():
    method, batch = decisions('mean'), batch_of(TASKS['faces'])
    logits = method.encode(batch.inputs)
    for column, (name, x) in enumerate(logits.items()):
        there = batch.mask[:, column]
        expected = F.cross_entropy(x[there], batch.target[there])
        close(method.loss(batch)[f'loss of {name}'], expected)


@torch.no_grad()
@pytest.mark.parametrize('indicator', [False, True])
def test_inputs_are_stacked_with_zeros_for_what_is_missing(indicator):
    task = TASKS['faces']
    batch = batch_of(task)
    method = EarlyFusion(task, indicator=indicator).eval()
    spoilt = {
        name: torch.where(there.view(-1, 1, 1, 1), x, torch.nan)
        for (name, x), there in zip(batch.inputs.items(), batch.mask.T, strict=True)
    }
    stacked = method.stacked(spoilt, batch.mask)
    assert stacked.shape[1] == 5 + 3 * indicator
    parts = stacked.split([3, 1, 1, *[1] * (3 * indicator)], 1)
    for m, (name, x) in enumerate(batch.inputs.items()):
        there = batch.mask[:, m]
        assert torch.equal(parts[m][there], x[there]), name
        assert not parts[m][~there].any()
        if indicator:
            assert torch.equal(parts[3 + m][:, 0, 0, 0].bool(), there)
    found = method.loss(batch._replace(inputs=spoilt))['loss_task']
    close(found, method.loss(batch)['loss_task'])


def test_inputs_that_cannot_be_stacked_are_refused():
    with pytest.raises(UserError, match='expected images of one size or vectors'):
        EarlyFusion(TASKS['mixed'])
    two = Task('toy', 'classification', (Modality('a', (1, 8, 8)), Modality('b', (1, 9, 8))),
               ('x', 'y'), 'accuracy', 4)  # fmt: skip
    with pytest.raises(UserError, match=r'b \(1, 9, 8\)'):
        EarlyFusion(two)


@pytest.mark.parametrize('name', OPERATORS)
def test_every_operator_has_the_layout_in_which_networks_train(name):
    made = operator(name)
    kept = {k: x.clone() for k, x in made.state_dict().items()}
    made.to(memory_format=torch.channels_last)
    assert all(torch.equal(x, kept[k]) for k, x in made.state_dict().items())
