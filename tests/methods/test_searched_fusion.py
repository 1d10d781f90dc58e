"""Searched fusion: the formula of a step, which features meet, and the search that chooses them."""

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy, batch_of

from benchmark.engine import execution, plan, trials
from benchmark.engine.building import Machine
from benchmark.errors import UserError
from benchmark.registry import discover
from benchmark.search import draw
from methods.common.cells import OPERATORS, Gene, Step
from methods.searched_fusion import SearchedFusion

discover()
CELL = {
    **{'levels_1': '132', 'operator_1': 'mean', 'activation_1': 'sigmoid'},
    **{'levels_2': '211', 'operator_2': 'gated', 'activation_2': 'leaky_relu'},
    **{'levels_3': '321', 'operator_3': 'product', 'activation_3': 'relu'},
}


def made(kind, **options):
    torch.manual_seed(0)
    return SearchedFusion(TASKS[kind], **options)


@torch.no_grad()
@pytest.mark.parametrize('before', [None, 3])
def test_a_step_is_the_paper_s_with_projections(before):
    torch.manual_seed(0)
    step = Step(Gene('1', 'concat', 'sigmoid'), (2, 4), 5, before).eval()
    step.norm.running_mean.uniform_()
    step.norm.running_var.uniform_(0.5, 2)
    x = [torch.randn(3, c, 2, 2) for c in (2, 4)]
    mask = torch.tensor([[True, True], [False, True], [True, False]])
    earlier = torch.randn(3, before, 2, 2) if before else None
    found = step(x, mask, (2, 2), earlier)
    inputs = [one.numpy() * on[:, None, None, None] for one, on in zip(x, mask.T.numpy())]  # noqa: B905
    inputs += [earlier.numpy()] if before else []
    given = [
        np.einsum('oc,bchw->bohw', layer.weight[:, :, 0, 0].numpy(), one)
        for layer, one in zip(step.project, inputs, strict=True)
    ]
    linear = step.operator.linear
    z = np.einsum('oc,bchw->bohw', linear.weight[:, :, 0, 0].numpy(), np.concatenate(given, 1))
    z += linear.bias.numpy()[:, None, None]
    mean, var = (v.numpy()[:, None, None] for v in (step.norm.running_mean, step.norm.running_var))
    z = (z - mean) / np.sqrt(var + step.norm.eps)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-z)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kind', ['faces', 'rooms', 'mixed', 'vectors'])
def test_a_step_sees_the_levels_that_its_digits_name_and_the_step_before(kind):
    method, task = made(kind, **CELL).eval(), TASKS[kind]
    batch = batch_of(task, 2)
    features = {
        name: tuple(x.detach().requires_grad_() for x in maps)
        for name, maps in method.encode(batch.inputs).items()
    }
    first = 0 if kind == 'rooms' else 1
    seen = set()
    for number, h in enumerate(method.fused(features, torch.ones_like(batch.mask))):
        levels = CELL[f'levels_{number + 1}']
        seen |= {(name, int(levels[m])) for m, name in enumerate(task.names)}
        given = [
            (name, i + first, x) for name, maps in features.items() for i, x in enumerate(maps)
        ]
        grads = torch.autograd.grad(
            h.square().sum(), [x for *_, x in given], allow_unused=True, retain_graph=True
        )
        used = {(name, level) for (name, level, _), g in zip(given, grads, strict=True)
                if g is not None and g.any()}  # fmt: skip
        assert used == seen, number
    deepest = {name: max(level for n, level in seen if n == name) for name in task.names}
    if kind != 'rooms':
        assert {name: len(maps) for name, maps in features.items()} == deepest


def test_stages_that_a_cell_does_not_use_are_not_there():
    sizes = [
        sum(p.numel() for p in made('faces', levels_2=two, levels_3=three).trunks.parameters())
        for two, three in (('111', '111'), ('222', '222'), ('222', '333'))
    ]
    assert sizes[0] == 0 < sizes[1] < sizes[2]


@torch.no_grad()
@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_absent_modalities_have_no_effect_in_any_operator(kind, operator):
    options = {f'operator_{k}': operator for k in (1, 2, 3)}
    method, task = made(kind, **{**CELL, **options}).eval(), TASKS[kind]
    batch, found = batch_of(task, 4), []
    for value in (float('nan'), 1e3):
        inputs = {
            name: x.where(on[:, None, None, None], value)
            for (name, x), on in zip(batch.inputs.items(), batch.mask.T, strict=True)
        }
        found.append(method.predict(inputs, batch.mask))
    assert found[0].isfinite().all()
    assert torch.equal(*found)


def test_the_search_draws_every_level_operator_and_nonlinearity_and_each_cell_can_be_built():
    space, seen = SearchedFusion.search, {}
    assert len(space) == 9
    for trial in range(400):
        for key, distribution in space.items():
            seen.setdefault(key, set()).add(draw('searched_fusion', key, trial, distribution))
    for key, values in seen.items():
        assert len(values) == {'levels': 27, 'operator': 10, 'activation': 3}[key[:-2]], key
    for trial in range(1, 6):
        made('vectors', **{k: draw('searched_fusion', k, trial, d) for k, d in space.items()})


def test_the_found_cell_is_in_the_record_within_the_trials_of_any_method(tmp_path):
    data = Toy(TASKS['vectors'], (16, 8, 8))
    request = plan.Request(['searched_fusion', 'hemis'], (0,), {'epochs': '1'}, tmp_path, 'cpu', 3)
    search, other = plan.experiments(request, [data])
    assert len(search.experiments) == search.trials == 3
    assert getattr(other, 'trials', 3) == 3
    machine = Machine('cpu')
    for trial in search.experiments:
        trials.attempt(trial, machine, lambda *_: None)
    assert 'test' not in data.opened
    (e,) = search.tuned(search.read())
    record = execution.run(e, machine, lambda *_: None)
    chosen = record['tuning']['tried'][record['tuning']['chosen']]['options']
    assert chosen == {key: record['method']['options'][key] for key in SearchedFusion.search}
    assert len({str(tried['options']) for tried in record['tuning']['tried']}) == 3


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'levels_2': '104'}, "levels_2: expected digits from 1 to 3, .* found '104'"),
        ({'levels_3': ''}, "levels_3: expected digits from 1 to 3, .* found ''"),
        ({'operator_1': 'tensor'}, "unknown operator_1 of searched_fusion 'tensor'"),
        ({'activation_3': 'gelu'}, "unknown activation_3 of searched_fusion 'gelu'"),
    ],
)
def test_unknown_genes_are_refused_in_one_line(options, told):
    with pytest.raises(UserError, match=told) as error:
        made('vectors', **options)
    assert '\n' not in str(error.value)
