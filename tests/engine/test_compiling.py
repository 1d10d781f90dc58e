"""Compiled networks: which parts, the same numbers, and what records tell."""

import re
import shutil
import types

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from tasks import TASKS, Toy, batch_of

from benchmark import run
from benchmark.engine import arguments, compiling, execution, stacking
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.missing import subset_masks
from benchmark.options import Spec
from benchmark.records import store
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


def test_parts_of_one_class_have_graphs_of_their_own(caplog):
    method = METHODS.module_dict['modality_dropout'](TASKS['faces'])
    with torch._dynamo.config.patch(cache_size_limit=8):
        assert compiling.compiled(method, backend='eager')
        with caplog.at_level('WARNING', 'torch._dynamo'):
            for size in (2, 3, 4):
                batch = batch_of(TASKS['faces'], size)
                method.train().loss(batch)['loss_task'].backward()
                with torch.no_grad():
                    method.eval().predict(batch.inputs, batch.available)
    assert 'recompile_limit' not in caplog.text
    assert 'cache_size_limit' not in caplog.text


@pytest.mark.skipif(not shutil.which('g++'), reason='needs a C++ compiler')
def test_a_compiled_training_has_the_losses_of_another(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    rng = np.random.default_rng(0)
    inputs = {f'inputs/{name}': rng.normal(size=(48, 3)) for name in 'ab'}
    np.savez(tmp_path / 'two.npz', target=np.arange(48) % 2, split=np.arange(48) // 16, **inputs)
    words = ['--methods', 'modality_dropout', '--datasets', 'arrays', '--data-root']
    words += [str(tmp_path / 'two.npz'), '--device', 'cpu', '--jobs', '1', '--cfg-options']
    words += ['epochs=2', 'width=4', '--results']
    losses, environments = [], []
    for more in ([], ['--compile']):
        results = tmp_path / f'r{len(losses)}'
        # Compiled dropout draws numbers of its own unless it is told not to.
        with inductor.patch(fallback_random=True):
            assert run.main([*words, str(results), *more]) == 0
        (path,) = results.rglob(store.RECORD)
        environments.append(store.read(path)['environment'])
        log = path.with_name('train.log').read_text()
        losses.append([float(value) for value in re.findall(r'loss_task ([0-9.]+)', log)])
    assert [e.get('compiled') for e in environments] == [None, 'yes']
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)


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
