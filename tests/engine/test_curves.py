"""Curves of trainings: what is kept of each epoch, bound to the record, and who else is told."""

import json
import math
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend
from repetitions import scientific
from tasks import TASKS, Toy
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import run
from benchmark.engine import arguments, execution, hooks
from benchmark.engine import curves as showing
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.options import Spec
from benchmark.records import curves, store
from benchmark.registry import METHODS, discover, lookup

discover()
METHOD = 'distilled'
PLAIN, CURVES = Machine('cpu'), Machine('cpu', curves=True)


class Stopped(Exception):
    """Stands for the death of the process."""


def experiment(results, method=METHOD, **fields):
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': 3, 'batch_size': 8, **fields}, 'cpu')
    return experiment_of(Spec(method), data, protocol, 0, results)


def recorded(e, machine=CURVES):
    """Runs an experiment; returns its record and the curves of its networks."""
    execution.run(e, machine, lambda *_: None)
    record = store.read(e.folder / store.RECORD)
    return record, curves.read(e.folder / curves.CURVES, record)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An experiment that ran with --curves, its record, its curves, and its terms by epoch."""
    e, seen = experiment(tmp_path_factory.mktemp('whole')), defaultdict(list)
    cls = lookup(METHODS, METHOD)
    real = cls.loss

    def loss(self, batch):
        found = real(self, batch)
        seen[self.epoch].append({k: v.item() for k, v in found.items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, 'loss', loss)
        record, found = recorded(e)
    return e, record, found[''], seen


def test_losses_are_the_means_of_the_steps(whole):
    _, _, curve, seen = whole
    assert curve['epochs'] == [0, 1, 2]
    names = {name for steps in seen.values() for step in steps for name in step}
    assert set(curve['losses']) == names | {'loss'}
    assert {'loss_distill', 'loss_task'} <= names
    for name in names:
        each = [[step[name] for step in seen[epoch] if name in step] for epoch in range(3)]
        means = [np.mean(values) if values else math.nan for values in each]
        found = [math.nan if v is None else v for v in curve['losses'][name]]
        assert found == pytest.approx(means, rel=1e-4, nan_ok=True)
    assert curve['losses']['loss_distill'][0] is None  # the term begins in the last epoch
    sums = [np.mean([sum(step.values()) for step in seen[epoch]]) for epoch in range(3)]
    assert curve['losses']['loss'] == pytest.approx(sums, rel=1e-4)


def test_the_learning_rate_is_that_of_the_first_step(whole):
    # 5 steps an epoch: one epoch of warm-up from 1/6, then a cosine over 10 steps.
    rates = [1e-2 / 6, 1e-2, 1e-2 * (1 + math.cos(math.pi * 5 / 10)) / 2]
    assert whole[2]['lr'] == pytest.approx(rates, rel=1e-5)


def test_the_last_validation_is_that_of_the_record(whole):
    _, record, curve, _ = whole
    assert curve['validated'] == [0, 1, 2]
    last = {s: v['accuracy'] for s, v in record['scores']['val'].items()}
    assert {s: v[-1] for s, v in curve['validation'].items()} == pytest.approx(last, rel=1e-5)
    assert len(last) == 3
    assert any(len(set(v)) > 1 for v in curve['validation'].values())


@pytest.mark.parametrize('method', ['modality_dropout', 'uhved'])
def test_curves_change_no_weight_and_no_score(method, tmp_path):
    weights, records = [], []
    for machine, validated in ((PLAIN, [2]), (CURVES, [0, 1, 2])):
        e = experiment(tmp_path / str(machine.curves), method, ema=0.5)
        record, found = recorded(e, machine)
        assert found['']['validated'] == validated
        weights.append(torch.load(e.folder / 'checkpoint.pth', weights_only=True))
        records.append({k: v for k, v in scientific(record).items() if k != 'curves'})
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert records[0] == records[1]


def stop(e, patch, at):
    real = hooks.Checkpoint._save

    def save(self, runner):
        real(self, runner)
        if self.file.parent == e.folder and runner.epoch == at:
            raise Stopped

    with patch.context() as inner:
        inner.setattr(hooks.Checkpoint, '_save', save)
        with pytest.raises(Stopped):
            execution.run(e, CURVES, lambda *_: None)


@pytest.mark.parametrize('at', [1, 3])
def test_a_stopped_training_has_the_curves_of_an_undisturbed_one(at, whole, tmp_path, monkeypatch):
    e = experiment(tmp_path)
    stop(e, monkeypatch, at)
    record, _ = recorded(e)
    names = [x.folder / curves.CURVES for x in (whole[0], e)]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert scientific(record) == scientific(whole[1])


@pytest.mark.parametrize(('kept', 'epochs'), [(None, [1, 2]), ('{"epochs": 3}', [0, 1, 2])])
def test_a_state_of_an_older_version_goes_on_and_a_foreign_one_begins_anew(
    kept, epochs, tmp_path, monkeypatch
):
    e = experiment(tmp_path, 'modality_dropout')
    stop(e, monkeypatch, 1)
    file = e.folder / 'resume.pth'
    content = torch.load(file, weights_only=True)
    content.pop('curves')
    torch.save(content if kept is None else {**content, 'curves': kept}, file)
    assert recorded(e)[1]['']['epochs'] == epochs


def test_a_network_of_its_own_for_each_subset_has_curves_of_its_own(tmp_path):
    _, found = recorded(experiment(tmp_path, 'customized', epochs=1))
    assert {name: set(curve['validation']) for name, curve in found.items()} == {
        name: {name} for name in ('a', 'b', 'a+b')
    }


def test_a_fit_without_epochs_has_no_curves(tmp_path):
    e = experiment(tmp_path, 'majority')
    record, found = recorded(e)
    assert found == {}
    assert 'curves' not in record
    assert not (e.folder / curves.CURVES).exists()


CURVE = {'epochs': [0], 'lr': [0.1], 'losses': {}, 'validated': [], 'validation': {}}
DAMAGES = {
    'a flipped digit': lambda text: text.replace('1', '2', 1),
    'no file': lambda text: None,
    'a list': lambda text: '[]',
    'nested': lambda text: '[' * 100_000,
    'not finite': lambda text: text.replace('0.1', 'NaN'),
    'no lr': lambda text: text.replace('"lr"', '"rate"'),
    'an epoch twice': lambda text: text.replace('[0]', '[0, 0]'),
    'too few values': lambda text: text.replace('[0.1]', '[]'),
    'no number': lambda text: text.replace('0.1', '"x"'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_curves_are_no_curves(damage, tmp_path):
    file = tmp_path / curves.CURVES
    record = {'curves': curves.write(file, 'x', {'': CURVE})}
    assert curves.read(file, record) == {'': CURVE}
    text = DAMAGES[damage](file.read_text())
    file.unlink()
    if text is not None:
        file.write_text(text)
    # The hash alone tells the first two; an owner of the folder can make the others fit.
    for bound in (False, True) if damage not in ('a flipped digit', 'no file') else (False,):
        told = {'curves': curves.digest(file).sha256} if bound else record
        with pytest.raises(store.RecordError, match='cannot be read as curves') as error:
            curves.read(file, told)
        assert '\n' not in str(error.value)


def test_a_run_without_its_curves_counts(whole, tmp_path):
    e, record, *_ = whole
    file = e.folder / curves.CURVES
    content = file.read_bytes()
    file.write_text('{}')
    try:
        assert store.unproven(e.folder / store.RECORD, record) == ''
        assert store.scan(e.folder.parents[3]).problems == []
    finally:
        file.write_bytes(content)


class Reads(TorchDispatchMode):
    """Counts how often Python reads a number from a tensor, which waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_step_reads_a_number(tmp_path):
    counts = []
    for size in (40, 8):  # one step an epoch, and five
        e = experiment(tmp_path / str(size), 'modality_dropout', batch_size=size, epochs=1)
        method = execution.build(e, 'cpu')
        with Reads() as reads:
            execution.training.train(
                method,
                execution.loaders(e, e.parts[0], PLAIN),
                e.protocol,
                execution.training.Job(e.folder, 'x', 0, 'cpu'),
                lambda *_: None,
            )
        counts.append(reads.count)
    assert counts[0] == counts[1]


class Fake(BaseVisBackend):
    """A visualisation backend that keeps what it is told."""

    told: list = []

    def __init__(self, save_dir):
        super().__init__(save_dir)
        self.told.append(('folder', save_dir))

    def _init_env(self):
        """Does nothing."""

    experiment = None

    def add_config(self, config, **_):
        self.told.append(('config', config.to_dict()))

    def add_scalars(self, scalar_dict, step=0, **_):
        self.told.append((step, dict(scalar_dict)))

    def close(self):
        self.told.append(('closed', None))


class Broken(Fake):
    """A backend whose server cannot be reached."""

    def add_scalars(self, scalar_dict, step=0, **_):
        raise ConnectionError('no\nroute')


def shown(e, kind, monkeypatch):
    """Runs an experiment with a backend in the place of TensorBoard's; returns what it is told."""
    name = 'TensorboardVisBackend'
    monkeypatch.setitem(VISBACKENDS.module_dict, name, kind)
    monkeypatch.setattr(Fake, 'told', [])
    recorded(e, Machine('cpu', curves=True, visualizer='tensorboard'))
    return Fake.told


def test_a_visualiser_is_told_the_curves_of_each_epoch(whole, tmp_path, monkeypatch):
    e = experiment(tmp_path)
    told = [x for x in shown(e, Fake, monkeypatch) if x[0] != 'closed']
    starts = [k for k, (what, _) in enumerate(told) if what == 'folder']
    assert len(starts) == 2  # its teacher's, and its own
    (_, folder), (_, config), *rest = told[starts[1] :]
    assert folder == str(e.folder / 'tensorboard')
    assert (config['method'], config['seed'], config['epochs']) == (METHOD, 0, 3)
    curve = whole[2]
    steps = defaultdict(dict)
    for epoch, values in rest:
        steps[epoch] |= values
    for epoch in range(3):
        expected = {f'train/{k}': v[epoch] for k, v in curve['losses'].items()}
        expected |= {'train/lr': curve['lr'][epoch]}
        expected = {k: v for k, v in expected.items() if v is not None}
        expected |= {
            f'val/accuracy {s.replace("+", "-")}': v[epoch] for s, v in curve['validation'].items()
        }
        assert steps[epoch] == expected


def test_a_visualiser_that_fails_ends_no_training(whole, tmp_path, monkeypatch, capsys):
    e = experiment(tmp_path)
    assert shown(e, Broken, monkeypatch)[-1][0] != 'closed'
    lines = [x for x in capsys.readouterr().out.splitlines() if '--visualizer' in x]
    assert len(lines) == 2
    assert lines[1].startswith(f'{e.folder}: --visualizer tensorboard: ConnectionError: no route')
    pair = [x.folder / curves.CURVES for x in (whole[0], e)]
    assert pair[0].read_bytes() == pair[1].read_bytes()


@pytest.mark.parametrize('resumed', [False, True])
def test_only_a_training_that_goes_on_keeps_what_tensorboard_has(resumed, tmp_path, monkeypatch):
    e = experiment(tmp_path, 'modality_dropout')
    if resumed:
        stop(e, monkeypatch, 1)
    left = e.folder / 'tensorboard' / 'events'
    left.parent.mkdir(parents=True)
    left.touch()
    shown(e, Fake, monkeypatch)
    assert left.exists() == resumed


def test_a_visualiser_is_closed_when_the_training_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise Stopped

    monkeypatch.setattr(hooks.Checkpoint, 'after_train', fail)
    with pytest.raises(Stopped):
        shown(experiment(tmp_path, 'modality_dropout'), Fake, monkeypatch)
    assert Fake.told[-1] == ('closed', None)


@pytest.mark.parametrize('name', arguments.VISUALIZERS)
def test_a_visualiser_that_is_not_installed_is_told_in_one_line(name, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    args = run.parser().parse_args(['--methods', 'complete', '--visualizer', name])
    with pytest.raises(UserError, match=re.escape(f'pip install {name}')) as error:
        arguments.check(args)
    assert '\n' not in str(error.value)


def test_mlflow_writes_into_the_run_s_folder_whatever_it_made_of_the_variable(
    tmp_path, monkeypatch
):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'sqlite:////elsewhere')  # as MLflow itself does
    monkeypatch.setattr(showing, 'TRACKING', None)
    own = showing._settings('mlflow', tmp_path, {}, 'x')
    assert own['tracking_uri'] == f'sqlite:///{tmp_path}/mlflow/mlflow.db'
    monkeypatch.setattr(showing, 'TRACKING', 'http://host')
    assert showing._settings('mlflow', tmp_path, {}, 'x')['tracking_uri'] == 'http://host'


@pytest.mark.parametrize('name', arguments.VISUALIZERS)
def test_every_visualiser_is_a_backend_of_mmengine(name, tmp_path):
    about = {'dataset': 'd', 'method': 'm:a=1', 'seed': 0}
    backend = VISBACKENDS.build(showing._settings(name, tmp_path, about, 'ab/rgb+ir'))
    inside = backend._save_dir.removeprefix(str(tmp_path)).strip('/')
    assert inside == ('' if name == 'wandb' else name)
    assert not list(tmp_path.iterdir())  # nothing is opened before something is told


def test_tensorboard_gets_the_curves(whole, tmp_path):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    e = experiment(tmp_path)
    recorded(e, Machine('cpu', curves=True, visualizer='tensorboard'))
    found = events.EventAccumulator(str(e.folder / 'tensorboard')).Reload()
    values = [x.value for x in found.Scalars('train/loss')]
    assert values == pytest.approx(whole[2]['losses']['loss'], rel=1e-5)


def test_the_command_hands_both_options_to_the_trainings(tmp_path):
    words = ['--methods', 'modality_dropout', '--datasets', 'synth_faces', '--device', 'cpu']
    words += ['--results', str(tmp_path), '--curves', '--cfg-options', 'train=16', 'val=8']
    words += ['test=8', 'size=16', 'width=4', 'batch_size=8', 'epochs=2']
    assert run.main(words) == 0
    (file,) = tmp_path.rglob(curves.CURVES)
    assert json.loads(file.read_text())['networks']['']['validated'] == [0, 1]
