"""Compiled networks: which parts, the same numbers, and what records tell."""

import shutil
import types

import pytest
import torch
from tasks import TASKS, Toy, batch_of

from benchmark import run
from benchmark.engine import arguments, compiling, execution, stacking
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.missing import subset_masks
from benchmark.options import Spec
from benchmark.registry import METHODS, discover

discover()


@pytest.mark.parametrize(
    ('name', 'kind', 'parts'),
    [
        ('modality_dropout', 'faces', ['encoders', 'decoder.trunk', 'decoder.head']),
        ('hemis', 'rooms', ['encoders', 'fusion', 'decoder.pyramid', 'decoder.head']),
    ],
)
def test_the_largest_parts_that_a_loss_calls_are_compiled(name, kind, parts):
    method = METHODS.module_dict[name](TASKS[kind])
    before, state = {k: v.clone() for k, v in method.state_dict().items()}, torch.get_rng_state()
    assert compiling.called(method) == parts
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_compiled_parts_keep_names_weights_and_losses():
    torch.manual_seed(0)
    method, batch = (
        METHODS.module_dict['modality_dropout'](TASKS['vectors']),
        batch_of(TASKS['vectors']),
    )
    before, graphs = {k: v.clone() for k, v in method.state_dict().items()}, []
    torch.manual_seed(1)
    expected = method.loss(batch)['loss_task']
    method.load_state_dict(before)
    names = compiling.compiled(method, lambda graph, _: graphs.append(graph) or graph.forward)
    torch.manual_seed(1)
    assert torch.equal(method.loss(batch)['loss_task'], expected)
    assert len(graphs) >= len(names) > 1
    assert method.state_dict().keys() == before.keys()


def test_parts_that_a_loss_calls_later_are_compiled_then(monkeypatch):
    torch.manual_seed(0)
    method = METHODS.module_dict['mmanet'](TASKS['vectors'])
    teacher = METHODS.module_dict['complete'](TASKS['vectors'])
    method.set_teacher(teacher)
    method.epochs, method._checked, calls = 10, True, []

    def backend(graph, _):
        # Parts of one form may share a graph, so that its calls are counted.
        return lambda *given: calls.append(graph) or graph.forward(*given)

    hook = compiling.Compiling(backend)
    runner = types.SimpleNamespace(model=method)
    for method.epoch in range(3):
        hook.before_train_epoch(runner)
    early = list(hook.names)
    assert len(early) == len(set(early)) > 1
    assert not any(name.startswith('regularizer') for name in early)
    state = {k: v.clone() for k, v in method.state_dict().items()}
    method.epoch = 9
    hook.before_train_epoch(runner)
    late = [name for name in hook.names if name not in early]
    assert late
    assert all(name.startswith('regularizer') for name in late)
    assert not compiling.lacking(method, hook.names)
    monkeypatch.setattr(compiling, 'called', None)  # nobody looks for more once all is compiled
    hook.before_train_epoch(runner)
    assert calls == []  # looking for them calls nothing that is compiled
    assert all(torch.equal(v, state[k]) for k, v in method.state_dict().items())
    method.loss(batch_of(TASKS['vectors']))
    assert len(calls) >= len(hook.names)


@pytest.mark.parametrize(
    ('machine', 'told'),
    [
        (Machine('cpu'), {}),
        (
            Machine('cpu', compiled=True, deterministic=False),
            {'compiled': 'yes', 'deterministic': 'no'},
        ),
    ],
)
def test_records_tell_what_was_exchanged_for_speed(machine, told, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(compiling, 'compiled', lambda *given: asked.append(given) or [])
    data = Toy(TASKS['vectors'], (8, 4, 4))
    protocol = Protocol.build(data.recipe, {'epochs': '1'}, 'cpu')
    e = experiment_of(Spec('modality_dropout', ()), data, protocol, 0, tmp_path)
    try:
        found = execution.run(e, machine, lambda *_: None)['environment']
        assert torch.are_deterministic_algorithms_enabled() == machine.deterministic
        assert torch.backends.cudnn.benchmark != machine.deterministic
    finally:
        execution.deterministic(Machine('cpu'))
    assert {k: v for k, v in found.items() if k in ('compiled', 'deterministic')} == told
    assert len(asked) == machine.compiled


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    args = run.parser().parse_args(['--methods', 'rfnet', '--compile'])
    arguments.check(args)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(UserError, match='--compile: expected a C[+][+] compiler, found no g[+][+]'):
        arguments.check(args)


@torch.no_grad()
def test_all_subsets_of_compiled_parts_have_the_logits_of_separate_calls():
    torch.manual_seed(0)
    method = METHODS.module_dict['modality_dropout'](TASKS['vectors']).eval()
    batch = batch_of(TASKS['vectors'])
    masks = list(subset_masks(2))
    features = method.encode(batch.inputs)
    plain = [method.decode(features, batch.available & torch.from_numpy(m)) for m in masks]
    compiling.compiled(method, backend='eager')
    found = [logits for _, logits in stacking.decoded(method, features, batch.available, masks)]
    torch.testing.assert_close(torch.stack(found), torch.stack(plain), rtol=0, atol=1e-5)
    assert not stacking._shares(method)
