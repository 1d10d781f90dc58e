"""One encoder for modalities of like kind and size: what is shared, its gradient, and the field."""

import copy
from dataclasses import replace

import pytest
import torch
from tasks import ESANET, TASKS, Toy, batch_of, images
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from benchmark.engine import deployed, execution, plan
from benchmark.engine.building import Machine
from benchmark.errors import UserError
from benchmark.method import Modality
from benchmark.registry import discover
from methods.common.networks import Encoders

discover()
FRAMES = (Modality('a', (5, 4), padded=True), Modality('b', (7, 3)), Modality('c', (2, 2)))
KINDS = {
    'faces': TASKS['faces'],
    'rooms': replace(TASKS['rooms'], modalities=images(32, 3, 1, 1, 3)),
    'bottlenecks': replace(TASKS['faces'], depth=50),
    'vectors': TASKS['vectors'],
    'sequences': replace(TASKS['sequences'], modalities=FRAMES),
}


def made(kind, shared=True):
    torch.manual_seed(0)
    return Encoders(replace(KINDS[kind], share_encoders=shared))


def norms(module):
    return [m for m in module.modules() if isinstance(m, _NormBase | nn.LayerNorm)]


def count(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize('kind', KINDS)
def test_all_is_shared_but_norms_and_the_stems_of_other_channels(kind):
    shared, apart = made(kind), made(kind, shared=False)
    bodies, stems, own = [], {}, 0
    for m in KINDS[kind].modalities:
        encoder = apart[m.name]
        scales = count(p for norm in norms(encoder) for p in norm.parameters())
        stem = next(x for x in encoder.modules() if isinstance(x, nn.Conv2d | nn.Linear))
        own += scales
        stems[stem.weight.shape[1]] = count(stem.parameters())
        bodies.append(count(encoder.parameters()) - scales - count(stem.parameters()))
    assert len(set(bodies)) == 1
    assert count(shared.parameters()) == own + sum(stems.values()) + bodies[0]
    found = [id(norm) for m in KINDS[kind].modalities for norm in norms(shared[m.name])]
    assert len(set(found)) == len(found) == sum(len(norms(e)) for e in apart.values())
    assert shared.state_dict().keys() == apart.state_dict().keys()


@pytest.mark.parametrize('kind', KINDS)
def test_outputs_are_those_of_separate_encoders_and_gradients_their_sum(kind):
    shared, apart = made(kind).double(), made(kind, shared=False).double()
    apart.load_state_dict(shared.state_dict())
    inputs = {k: x.double() for k, x in batch_of(KINDS[kind], 5).inputs.items()}
    for encoders in (shared, apart):
        for module in encoders.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0
        torch.manual_seed(1)
        sum((x**2).mean() for maps in encoders(inputs).values() for x in maps).backward()
    totals = {}
    own = dict(apart.named_parameters())
    for name, p in shared.named_parameters(remove_duplicate=False):
        totals.setdefault(p, []).append(own[name].grad)
    assert max(map(len, totals.values())) == len(KINDS[kind].modalities)
    for p, parts in totals.items():
        torch.testing.assert_close(p.grad, torch.stack(parts).sum(0))
    # Statistics are those of each modality alone, too.
    for name, x in shared.state_dict().items():
        torch.testing.assert_close(x, apart.state_dict()[name])


def test_modalities_of_other_kinds_and_sizes_keep_their_encoders():
    task = replace(TASKS['mixed'], modalities=(*TASKS['mixed'].modalities, *images(20, 1)))
    apart = Encoders(task)
    assert count(Encoders(replace(task, share_encoders=True)).parameters()) == count(
        apart.parameters()
    )


def test_without_the_field_weights_are_drawn_as_ever():
    task = TASKS['faces']
    torch.manual_seed(0)
    expected = {m.name: Encoders._encoder(m, task) for m in task.modalities}
    found = made('faces', shared=False)
    for name, encoder in expected.items():
        pairs = zip(encoder.parameters(), found[name].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_copy_still_shares():
    encoders = copy.deepcopy(made('faces'))
    assert count(encoders.parameters()) == count(made('faces').parameters())
    assert encoders['depth'].excite is encoders['rgb'].excite


def experiment(kind, results, method='modality_dropout', **fields):
    given = {'epochs': '1', 'share_encoders': 'true', **fields}
    data = Toy({**TASKS, 'esanet': ESANET}[kind], (16, 8, 8))
    (e,) = plan.experiments(plan.Request([method], (0,), given, results, 'cpu'), [data])
    return e


def test_records_hold_the_field_and_fewer_parameters_and_networks_can_be_used(tmp_path):
    machine = Machine('cpu')
    records = []
    for shared in ('false', 'true'):
        e = experiment('vectors', tmp_path, share_encoders=shared, pretrain='contrastive')
        records.append(execution.run(e, machine, lambda *_: None))
    plain, shared = records
    assert 'share_encoders' not in plain['protocol']
    assert shared['protocol']['share_encoders'] is True
    assert plain['identity'] != shared['identity']
    for key in ('parameters', 'deployed_parameters'):
        assert shared['cost'][key] < plain['cost'][key]
    assert shared['cost']['flops'] == plain['cost']['flops']
    (network,) = deployed.load(e.folder).networks.values()
    assert network.encoders['a'].layers[4] is network.encoders['b'].layers[4]
    drawn = torch.load(e.pretraining.folder / 'checkpoint.pth', weights_only=True)
    assert torch.equal(drawn['encoders.a.layers.4.weight'], drawn['encoders.b.layers.4.weight'])


@pytest.mark.parametrize(
    ('kind', 'method', 'told'),
    [
        ('mixed', 'hemis', 'hemis on toy: share_encoders: expected encoders of two modalities'),
        ('faces', 'early_fusion', 'early_fusion on toy: share_encoders: expected encoders of two'),
        ('esanet', 'complete', 'complete on toy: share_encoders: expected encoders of two'),
        ('faces', 'ogm_ge', 'share_encoders on toy: ogm_ge changes the gradients of each'),
        ('faces', 'mmpareto', 'share_encoders on toy: mmpareto changes the gradients of each'),
    ],
)
def test_where_nothing_can_be_shared_the_field_is_refused_in_one_line(kind, method, told, tmp_path):
    with pytest.raises(UserError, match=told) as error:
        experiment(kind, tmp_path, method)
    assert '\n' not in str(error.value)
    assert experiment(kind, tmp_path, method, share_encoders='false')
    assert experiment('vectors', tmp_path, 'majority')
