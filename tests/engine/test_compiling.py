"""Compiled networks: which parts, the same numbers, the same checkpoint."""

import pytest
import torch
from tasks import TASKS, batch_of

from benchmark.engine.compiling import compiled
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
    torch.manual_seed(0)
    method, batch = METHODS.module_dict[name](TASKS[kind]).train(), batch_of(TASKS[kind])
    before, names = {k: v.clone() for k, v in method.state_dict().items()}, []
    torch.manual_seed(1)
    expected = method.loss(batch)['loss_task']
    method.load_state_dict(before)
    state = torch.get_rng_state()
    assert compiled(method, lambda graph, _: names.append(graph) or graph.forward) == parts
    assert torch.equal(torch.get_rng_state(), state)
    assert method.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    torch.manual_seed(1)
    assert torch.equal(method.loss(batch)['loss_task'], expected)
    assert len(names) >= len(parts)
