"""Encoders that are trained first: who starts from them, who shares them, and what records say."""

import numpy as np
import pytest
import torch
from tasks import ESANET, TASKS, Toy

from benchmark.engine import (
    deployed,
    execution,
    forecast,
    loading,
    picking,
    plan,
    pretraining,
    slurm,
)
from benchmark.engine.building import Machine, build
from benchmark.engine.pace import Pace
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.records import store
from benchmark.registry import discover

discover()
MACHINE = Machine('cpu')
SIZES = (16, 8, 8)


def grid_of(data, results, *methods, tune=None, seeds=(0,), **fields):
    given = {'epochs': '1', **{k: str(v) for k, v in fields.items()}}
    return plan.experiments(plan.Request(methods, seeds, given, results, 'cpu', tune), [data])


def one(data, results, method='modality_dropout', **fields):
    (e,) = grid_of(data, results, method, **fields)
    return e


def quiet(*_):
    pass


@pytest.fixture
def begun(monkeypatch):
    """The state of every network when its training begins, by the folder of the network."""
    states, real = {}, execution.training.train

    def watched(method, loaders, protocol, job, progress):
        copied = {k: x.clone() for k, x in method.state_dict().items()}
        assert states.setdefault(job.folder, copied) is copied, f'{job.folder}: trained twice'
        return real(method, loaders, protocol, job, progress)

    monkeypatch.setattr(execution.training, 'train', watched)
    return states


@pytest.mark.parametrize('pretrain', ['masked', 'contrastive'])
def test_all_networks_of_a_table_start_from_encoders_that_are_trained_once(
    pretrain, tmp_path, begun
):
    data = Toy(TASKS['vectors'], SIZES)
    names = ('mmanet', 'customized', 'simmlm')
    grid = grid_of(data, tmp_path, *names, pretrain=pretrain, pretrain_epochs=2)
    for e in grid:
        execution.train(e, MACHINE, quiet)
    first = grid[0].pretraining
    assert {e.pretraining.folder for e in (*grid, grid[0].teacher)} == {first.folder}
    assert 'test' not in data.opened
    trained = torch.load(first.folder / 'checkpoint.pth', weights_only=True)
    encoders = {k: x for k, x in trained.items() if k.startswith('encoders.')}
    networks = {p.folder: e for e in (*grid, grid[0].teacher) for p in e.parts}
    assert len(networks) == 1 + 1 + 3 + 1
    assert begun.keys() == {first.folder, *networks}
    for folder, e in networks.items():
        drawn = build(e, 'cpu').state_dict()
        for key, x in begun[folder].items():
            assert torch.equal(x, encoders.get(key, drawn[key])), (folder, key)
        assert any(not torch.equal(drawn[k], x) for k, x in encoders.items())
    drawn = build(first, 'cpu').state_dict()
    assert all(torch.equal(x, drawn[k]) for k, x in begun[first.folder].items())


def test_records_hold_the_pre_training_and_its_cost(tmp_path):
    data = Toy(TASKS['vectors'], SIZES)
    e = one(data, tmp_path, epochs=1, pretrain='masked', pretrain_epochs=3)
    stages = []
    record = execution.run(e, MACHINE, lambda *words: stages.append(words[:3]))
    assert ('pre-training masked', 3, 3) in stages
    assert ('training', 1, 1) in stages
    assert store.read(e.folder / store.RECORD)['identity'] == e.identity
    assert (record['protocol']['pretrain'], record['protocol']['pretrain_epochs']) == ('masked', 3)
    assert record['cost']['pretrain_seconds'] > 0
    assert record['cost']['teacher_seconds'] == 0
    assert deployed.load(e.folder).notes == []


def test_a_pre_training_is_part_of_the_identity_and_its_absence_is_not(tmp_path):
    data = Toy(TASKS['vectors'], SIZES)
    settings = [
        {},
        {'pretrain': 'masked'},
        {'pretrain': 'contrastive'},
        {'pretrain': 'masked', 'pretrain_epochs': 7},
    ]
    plain, *others = [one(data, tmp_path, **fields) for fields in settings]
    assert len({e.identity for e in (plain, *others)}) == len({e.folder for e in others}) + 1 == 4
    assert not {k for k in plain.protocol.recorded() if 'pretrain' in k}
    assert [e.protocol.pretrain_epochs for e in others] == [1, 1, 7]
    # The code of the pre-training counts; what the method is fitted by has no encoders.
    assert plain.code != others[0].code != others[1].code
    assert one(data, tmp_path, 'majority', pretrain='masked').earlier == {}
    # As many epochs as by default are the same pre-training, and the same folder.
    again = one(data, tmp_path, pretrain='masked', pretrain_epochs=1)
    assert again.folder == others[0].folder
    assert again.pretraining.folder == one(data, tmp_path, 'masked').folder


def test_no_label_chooses_the_samples_of_a_pre_training(tmp_path, monkeypatch):
    drawn, real = [], loading.balancing
    monkeypatch.setattr(loading, 'balancing', lambda x: drawn.append(len(x)) or real(x))
    data = Toy(TASKS['vectors'], SIZES)
    e = one(data, tmp_path, pretrain='masked', sampling='balanced')
    execution.train(e.pretraining, MACHINE, quiet)
    assert not drawn
    execution.train(e, MACHINE, quiet)
    assert len(drawn) == 1
    # It is the pre-training of the same table without balanced draws.
    assert e.pretraining.folder == one(data, tmp_path, pretrain='masked').pretraining.folder


class Hidden(Toy):
    """A toy data set that holds NaN wherever training gaps are, and in the whole test split."""

    kept = None

    def split(self, name):
        split = super().split(name)
        if self.kept is not None:
            whole = np.full((len(split.ids), 2), name == 'test')
            hidden = ~self.kept if name == 'train' else whole
            for column, x in enumerate(split.inputs.values()):
                x[hidden[:, column]] = np.nan
        return split


@pytest.mark.parametrize('pretrain', ['masked', 'contrastive'])
def test_nothing_that_training_gaps_hide_reaches_the_encoders(pretrain, tmp_path):
    fields = {'pretrain': pretrain, 'rates': 'a=0.25,b=0.5'}
    weights = []
    for place in ('clean', 'poisoned'):
        data = Hidden(TASKS['vectors'], SIZES)
        e = one(data, tmp_path / place, **fields)
        kept = e.readable
        assert not kept.all()
        assert np.array_equal(kept, e.pretraining.readable)
        data = Hidden(TASKS['vectors'], SIZES)
        data.kept = kept if place == 'poisoned' else None
        e = one(data, tmp_path / place, **fields)
        execution.train(e, MACHINE, quiet)
        assert 'test' not in data.opened
        weights.append(torch.load(e.pretraining.folder / 'checkpoint.pth', weights_only=True))
    for key, x in weights[0].items():
        assert x.isfinite().all()
        assert torch.equal(x, weights[1][key])


@pytest.mark.parametrize(
    ('kind', 'method', 'fields', 'told'),
    [
        ('rooms', 'm3ae', {'pretrain': 'masked'}, 'm3ae on toy: expected the encoders that all'),
        ('faces', 'gmd', {'pretrain': 'masked'}, 'pretrain=masked trains, found others'),
        ('faces', 'early_fusion', {'pretrain': 'contrastive'}, 'which pretrain=contrastive trains'),
        ('faces', 'masked', {'pretrain': 'masked'}, 'since it is a pre-training itself'),
        ('faces', 'hemis', {'pretrain': 'maskd'}, "unknown pretrain 'maskd'.*masked"),
        ('faces', 'hemis', {'pretrain': 'mmanet'}, "unknown pretrain 'mmanet'"),
        ('faces', 'hemis', {'pretrain_epochs': 3}, 'pretrain_epochs: expected pretrain beside it'),
        ('faces', 'hemis', {'pretrain': 'masked', 'pretrain_epochs': -1}, 'found -1'),
        (
            'faces',
            'hemis',
            {'pretrain': 'masked', 'pretrain_epochs': 0},
            'found 0',
        ),
        ('esanet', 'complete', {'pretrain': 'masked'}, 'needs encoders that keep the modalities'),
    ],
)
def test_what_cannot_start_from_the_encoders_is_refused_in_one_line(
    kind, method, fields, told, tmp_path
):
    data = Toy({**TASKS, 'esanet': ESANET}[kind], SIZES)
    with pytest.raises(UserError, match=told) as error:
        one(data, tmp_path, method, **fields)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('method', 'places'), [('mmformer', 1), ('shaspec', 2)])
def test_every_part_with_these_encoders_starts_from_them(method, places, tmp_path):
    e = one(Toy(TASKS['mixed'], SIZES), tmp_path, method, pretrain='masked')
    trained, network = build(e.pretraining, 'cpu'), build(e, 'cpu')
    with torch.no_grad():
        for x in trained.encoders.state_dict().values():
            x.fill_(3)
    pretraining.start(network, trained)
    found = pretraining.places(network, trained.encoders)
    assert len(found) == places
    filled = {k for part in found for k, x in part.state_dict().items() if (x == 3).all()}
    assert filled == trained.encoders.state_dict().keys()


def test_trials_share_one_pre_training_and_so_does_their_teacher(tmp_path):
    data = Toy(TASKS['vectors'], SIZES)
    (search,) = grid_of(data, tmp_path, 'mmanet', tune=2, pretrain='masked')
    trials = search.experiments
    first = trials[0].pretraining
    assert first.folder.parts[-4:] == ('toy', 'masked', trials[0].protocol_id, 'pretraining')
    assert first.seed == trials[0].seed
    assert all(t.pretraining == first and t.teacher.pretraining == first for t in trials)
    assert search.tuned(search.read())[0].pretraining.folder != first.folder


def test_tasks_of_a_scheduler_train_encoders_then_teachers_then_students(tmp_path):
    data = Toy(TASKS['vectors'], SIZES)
    grid = grid_of(data, tmp_path, 'mmanet', 'hemis', 'majority', pretrain='masked')
    units = picking.units(grid, lambda _: True)
    waves = [[unit.text for unit in wave] for wave in slurm._waves(units)]
    assert waves == [
        ['toy  pre-training masked  seed 0', 'toy  majority  seed 0'],
        ['toy  teacher complete  seed 0', 'toy  hemis  seed 0'],
        ['toy  mmanet  seed 0'],
    ]
    only = [str(units[0].folder.relative_to(tmp_path))]
    items, alone = picking.picked(grid, only, tmp_path)
    assert (items, [e.label for e in alone]) == ([], ['masked'])
    assert picking.teach(alone, MACHINE, None)
    left = slurm._waves(picking.units(grid, lambda _: True))
    assert [len(wave) for wave in left] == [3, 1, 0]


def test_a_forecast_counts_the_pre_training_once(tmp_path, monkeypatch):
    def measure(loader, work, device):
        work(next(iter(loader)))
        return Pace(1.0, 1.0)

    monkeypatch.setattr(forecast, 'measure', measure)
    monkeypatch.setattr(forecast, 'now', lambda _: 0.0)
    data = Toy(TASKS['vectors'], SIZES)
    first, second = grid_of(
        data, tmp_path, 'hemis', 'modality_dropout', pretrain='masked', pretrain_epochs=1000
    )
    told = forecast.Forecast(MACHINE)
    # Two steps in each epoch, and a validation of one batch.
    assert told.expected(first, tests=False).seconds == 1000 * 2 + 1 + 2 + 1
    assert told.expected(second, tests=False).seconds == 2 + 1
    assert first.pretraining.folder in told.trained


def test_the_rules_of_the_pre_training_are_those_of_the_table_but_for_its_epochs():
    protocol = Protocol.build(
        {'epochs': 9, 'lr': 0.5}, {'pretrain': 'masked', 'selection': 'worst', 'ema': '0.5'}, 'cpu'
    )
    assert protocol.pretrain_epochs == 9
    changed = {'epochs': 9, 'lr': 0.5, 'ema': 0.5, 'selection': 'last', 'precision': 'float32'}
    assert protocol.first == Protocol(**changed)
