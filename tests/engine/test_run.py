"""The command line from end to end, in the test's own process unless it must die."""

import csv
import itertools
import json
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forks import status_of
from repetitions import scientific
from tasks import TASKS

from benchmark import files, run, tables
from benchmark.engine import hooks, state, training
from benchmark.errors import UserError
from benchmark.method import SubsetScore
from benchmark.records import store
from benchmark.registry import METHODS, discover, lookup

TINY = ['train=32', 'val=8', 'test=8', 'size=16', 'width=4', 'batch_size=16', 'epochs=3']
SMALL = ['train=32', 'val=8', 'test=16', 'size=16', 'width=4', 'batch_size=16', 'epochs=3']
MMANET = 'mmanet:begin_epoch=2'


def arguments(results, *methods, options=SMALL, datasets=('synth_faces',)):
    return ['--methods', *methods, '--datasets', *datasets, '--results', str(results), '--device',
            'cpu', '--cfg-options', *options]  # fmt: skip


def quick(results, *methods, epochs=3, options=()):
    """The command on vectors of three modalities, with which networks are small and train fast."""
    file = results.parent / 'signs.npz'
    if not file.exists():
        rng = np.random.default_rng(0)
        target, rows = np.arange(56) % 2, rng.normal(size=(56, 3, 4))
        rows += 2 * target[:, None, None]
        inputs = {f'inputs/{name}': rows[:, k] for k, name in enumerate(('rgb', 'depth', 'ir'))}
        split = np.repeat([0, 1, 2], [32, 8, 16])
        np.savez(file, target=target, split=split, **inputs)
    options = [f'epochs={epochs}', 'batch_size=16', 'width=4', *options]
    words = arguments(results, *methods, options=options, datasets=('arrays',))
    return [*words, '--data-root', str(file)]


def record_files(results):
    return sorted((results / 'runs').rglob('record.json'))


def only_record(results, method):
    found = [store.read(f) for f in record_files(results)]
    (record,) = [r for r in found if r['method']['label'] == method]
    return record


def networks(results):
    """File, relative to the results, -> weights of every trained network."""
    files = sorted(results.rglob('checkpoint.pth'))
    return {f.relative_to(results): torch.load(f, weights_only=True) for f in files}


def kept_aside(file):
    """Contents of the records that were moved away from a record's name."""
    return [f.read_bytes() for f in file.parent.glob('record*.json') if f != file]


def equal(networks, others):
    return networks.keys() == others.keys() and all(
        torch.equal(weights[name], others[file][name])
        for file, weights in networks.items()
        for name in weights
    )


@contextmanager
def steps_of(name, stop=None, nap=0.0):
    """Yields the epoch of every step that a method takes; it fails in the epoch `stop`."""
    discover()
    cls, epochs = lookup(METHODS, name), []
    real = cls.loss

    def loss(self, batch):
        if self.epoch == stop:
            raise RuntimeError('stopped')
        epochs.append(self.epoch)
        time.sleep(nap)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, 'loss', loss)
        yield epochs


@pytest.fixture
def raise_version(monkeypatch):
    """Raises the version of a registered method."""

    def raised(name):
        cls = lookup(METHODS, name)
        monkeypatch.setattr(cls, 'version', cls.version + 1)

    return raised


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    results = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        # Nothing is drawn, and importing what could draw takes longer than these trainings.
        patch.setitem(sys.modules, 'matplotlib.figure', None)
        assert run.main(arguments(results, MMANET)) == 0
    return results


@pytest.fixture
def method_file(tmp_path):
    def write(body, name='odd'):
        file = tmp_path / f'{name}.py'
        file.write_text(
            'import torch\nfrom benchmark.registry import METHODS\n'
            'from methods.modality_dropout import ModalityDropout\n\n'
            f"@METHODS.register_module('{name}', force=True)\n"
            f'class Odd(ModalityDropout):\n    """Odd (2026)."""\n\n{body}'
        )
        return f'{file}:{name}'

    yield write
    METHODS.module_dict.pop('odd', None)
    for module in [name for name in sys.modules if name.startswith('outside_odd')]:
        del sys.modules[module]


def test_one_command_makes_records_and_three_tables(uninterrupted):
    record = only_record(uninterrupted, MMANET)
    assert record['status'] == 'complete'
    assert len(record['scores']['test']) == len(record['cost']['flops']) == 7
    assert record['cost']['teacher_seconds'] > 0
    flops = record['cost']['flops']
    assert flops['rgb'] < flops['rgb+ir'] < flops['rgb+depth+ir']
    for suffix in ('md', 'tex'):
        text = (uninterrupted / 'tables' / f'synth_faces.{suffix}').read_text()
        assert 'ceiling' in text
    with open(uninterrupted / 'tables' / 'synth_faces.csv') as file:
        rows = list(csv.DictReader(file))
    assert [r['method'] for r in rows if r['method'].startswith('mmanet')]
    mine = next(r for r in rows if r['method'].startswith('mmanet'))
    assert float(mine['depth']) == pytest.approx(
        100 * record['scores']['test']['depth']['ACER'], abs=0.01
    )


def test_the_log_holds_every_metric_of_each_validation(uninterrupted):
    (record,) = record_files(uninterrupted)
    log = record.with_name('train.log').read_text()
    lines = [line for line in log.splitlines() if ': validation ACER ' in line]
    assert len(lines) == 3
    assert all(re.search(r'rgb\+depth\+ir/ACER \d\.\d{4}', line) for line in lines)
    assert 'mmanet: strong modality' in log  # what a method logs by mmengine's print_log


def test_what_is_recorded_is_not_run_again(uninterrupted, capsys):
    (file,) = record_files(uninterrupted)
    before = file.read_bytes()
    assert run.main(arguments(uninterrupted, MMANET)) == 0
    assert file.read_bytes() == before
    assert '1 of 1 experiments are recorded already' in capsys.readouterr().out


def test_a_repetition_gives_the_same_record(uninterrupted, tmp_path):
    assert run.main(arguments(tmp_path, MMANET)) == 0
    pair = [only_record(r, MMANET) for r in (uninterrupted, tmp_path)]
    assert scientific(pair[0]) == scientific(pair[1])
    outcomes = [record_files(r)[0].with_name('outcomes.npz') for r in (uninterrupted, tmp_path)]
    assert outcomes[0].read_bytes() == outcomes[1].read_bytes()


DEATHS = {
    'while the teacher trains': (hooks.Checkpoint, '_save', 2),
    'before the teacher is kept': (state, 'keep_trained', 1),
    'with a checkpoint half in place': (files, '_commit', 7),
    'while testing': (training, 'test', 1),
    'with the outcomes but no record': (store, 'write', 1),
}


def selecting(results):
    """A run that keeps its best weights beside the last ones."""
    return quick(results, 'modality_dropout', options=['selection=worst'])


def deadly(real, call):
    """A function that kills its process when it is called for the given time."""
    calls = itertools.count(1)

    def called(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    return called


@pytest.fixture(scope='module')
def killed(uninterrupted, tmp_path_factory):
    """Moment -> results of a run that was killed then."""
    folders = {m: tmp_path_factory.mktemp('killed') for m in [*DEATHS, 'selecting']}
    runs = [(*DEATHS[m], arguments(folders[m], MMANET)) for m in DEATHS]
    runs.append((hooks.Checkpoint, '_save', 3, selecting(folders['selecting'])))
    for owner, name, call, words in runs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, deadly(getattr(owner, name), call))
            assert status_of(lambda words=words: run.main(words)) == -signal.SIGKILL
    return folders


@pytest.mark.parametrize('moment', DEATHS)
def test_a_killed_run_goes_on_to_the_same_record(moment, uninterrupted, killed):
    results = killed[moment]
    assert not record_files(results)
    assert run.main(arguments(results, MMANET)) == 0
    pair = [only_record(r, MMANET) for r in (uninterrupted, results)]
    assert scientific(pair[0]) == scientific(pair[1])


def test_selection_by_validation_survives_resuming(killed, tmp_path):
    results = killed['selecting']
    assert not record_files(results)
    for folder in (results, tmp_path):
        assert run.main(selecting(folder)) == 0
    pair = [only_record(r, 'modality_dropout') for r in (results, tmp_path)]
    assert scientific(pair[0]) == scientific(pair[1])


@pytest.mark.parametrize('method', ['dmrnet', 'redcore'])
def test_a_method_that_draws_noise_goes_on_with_the_noise_of_its_epoch(method, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    assert run.main(quick(whole, method, epochs=2)) == 0
    with steps_of(method, stop=1):
        assert run.main(quick(parts, method, epochs=2)) == 1
    with steps_of(method) as epochs:
        assert run.main(quick(parts, method, epochs=2)) == 0
    assert set(epochs) == {1}
    assert equal(networks(whole), networks(parts))
    outcomes = [record_files(r)[0].with_name('outcomes.npz') for r in (whole, parts)]
    assert outcomes[0].read_bytes() == outcomes[1].read_bytes()


def test_the_seconds_before_a_stop_are_counted(tmp_path, capsys):
    args = quick(tmp_path, 'modality_dropout', epochs=2)
    with steps_of('modality_dropout', stop=1, nap=0.3) as epochs:
        assert run.main(args) == 1
    assert epochs == [0, 0]
    capsys.readouterr()
    assert run.main(args) == 0
    assert 'checkpoint' not in ''.join(capsys.readouterr())
    assert only_record(tmp_path, 'modality_dropout')['cost']['train_seconds'] >= 0.6


def test_initial_weights_are_drawn_from_the_seed(tmp_path):
    options = [*TINY[:-1], 'epochs=1', 'lr=1e-30']  # too little to move any weight
    for results, seeds in (('both', ['0', '1']), ('again', ['0'])):
        args = arguments(tmp_path / results, 'modality_dropout', options=options)
        assert run.main([*args, '--seeds', *seeds]) == 0
    first, second = networks(tmp_path / 'both').values()
    (again,) = networks(tmp_path / 'again').values()
    drawn = [name for name, x in first.items() if x.ndim > 1]
    assert len(drawn) > 10
    for name in drawn:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], second[name])


def test_another_version_of_a_method_does_not_go_on_from_a_stopped_training(
    tmp_path, raise_version
):
    args = quick(tmp_path, 'modality_dropout')
    with steps_of('modality_dropout', stop=2) as epochs:
        assert run.main(args) == 1
    assert set(epochs) == {0, 1}
    raise_version('modality_dropout')
    with steps_of('modality_dropout') as epochs:
        assert run.main(args) == 0
    assert set(epochs) == {0, 1, 2}


def test_another_version_of_a_method_trains_anew_and_keeps_the_record_before(
    tmp_path, raise_version
):
    args = quick(tmp_path, 'modality_dropout')
    assert run.main(args) == 0
    (file,) = record_files(tmp_path)
    before = file.read_bytes()
    raise_version('modality_dropout')
    with steps_of('modality_dropout') as epochs:
        assert run.main(args) == 0
    assert set(epochs) == {0, 1, 2}
    version = json.loads(before)['method']['version']
    assert only_record(tmp_path, 'modality_dropout')['method']['version'] == version + 1
    assert kept_aside(file) == [before]
    assert store.scan(tmp_path / 'runs').problems == []


def test_a_failure_of_another_version_keeps_the_record_before(tmp_path, raise_version):
    args = quick(tmp_path, 'modality_dropout')
    assert run.main(args) == 0
    (file,) = record_files(tmp_path)
    before = file.read_bytes()
    raise_version('modality_dropout')
    with steps_of('modality_dropout', stop=0):
        assert run.main(args) == 1
    assert only_record(tmp_path, 'modality_dropout')['status'] == 'failed'
    assert kept_aside(file) == [before]


def test_a_failure_does_not_take_the_place_of_a_complete_record(tmp_path):
    args = quick(tmp_path, 'modality_dropout')
    assert run.main(args) == 0
    (file,) = record_files(tmp_path)
    before = file.read_bytes()
    with steps_of('modality_dropout', stop=0):
        assert run.main([*args, '--force']) == 1
    assert file.read_bytes() == before


def test_every_file_of_a_run_is_on_the_disk_before_its_name(tmp_path, disk):
    args = quick(tmp_path, 'modality_dropout', epochs=2, options=['selection=worst'])
    assert run.main(args) == 0
    named = {path.name for path in disk.renamed}
    assert named >= {'resume.pth', 'best.pth', 'checkpoint.pth', 'outcomes.npz', 'record.json'}
    assert disk.unsynced == []
    assert {path.name for path in disk.settled} >= {'outcomes.npz', 'record.json'}


def test_a_nan_loss_stops_the_run_and_names_step_and_term(tmp_path, method_file, capsys):
    spec = method_file(
        '    def loss(self, batch):\n'
        '        terms = super().loss(batch)\n'
        '        bad = self.epoch == 1\n'
        "        return {**terms, 'loss_odd': terms['loss_task'] * (float('nan') if bad else 0)}\n"
    )
    assert run.main(quick(tmp_path, spec, 'modality_dropout')) == 1
    told = capsys.readouterr().out
    assert 'loss is not finite at step 2 (epoch 1): loss_odd' in told
    assert only_record(tmp_path, 'odd')['status'] == 'failed'
    assert only_record(tmp_path, 'modality_dropout')['status'] == 'complete'
    assert 'Traceback' not in told


@pytest.mark.parametrize(
    ('returned', 'found'),
    [
        (None, 'found NoneType'),
        (torch.zeros(()), 'found Tensor'),
        ({}, 'found no term'),
        ({'task': torch.zeros(())}, "found 'task'"),
        ({'loss_task': 1.0}, "found float as 'loss_task'"),
        ({'loss_task': torch.zeros(4)}, "found Tensor (4,) as 'loss_task'"),
    ],
)
def test_a_loss_of_another_form_is_told_in_one_line(returned, found):
    method = METHODS.module_dict['modality_dropout'](TASKS['vectors'])
    with pytest.raises(UserError) as told:
        method.parse_losses(returned)
    assert str(told.value).startswith('loss of ModalityDropout: expected name -> scalar tensor')
    assert str(told.value).endswith(found)


@pytest.mark.parametrize('returned', ['None', '(super().decode(features, mask), 1)'])
def test_a_prediction_that_is_no_tensor_is_told_in_one_line(
    returned, tmp_path, method_file, capsys
):
    spec = method_file(
        '    def decode(self, features, mask):\n'
        f'        return super().decode(features, mask) if self.training else {returned}\n'
    )
    assert run.main(quick(tmp_path, spec)) == 1
    error = only_record(tmp_path, 'odd')['error']
    assert error.startswith('prediction: expected logits (')
    assert f'found {"NoneType" if returned == "None" else "tuple"}; `decode`' in error
    assert 'Traceback' not in capsys.readouterr().out


@pytest.mark.parametrize('error', ['KeyError', 'SystemExit'])
def test_a_method_that_raises_is_recorded_and_the_others_run(error, tmp_path, method_file, capsys):
    spec = method_file(f"    def decode(self, features, mask):\n        raise {error}('oops')\n")
    assert run.main(quick(tmp_path, spec, 'modality_dropout')) == 1
    told = capsys.readouterr().out
    failed = only_record(tmp_path, 'odd')
    assert error in failed['error']
    assert 'train.log' in told
    assert 'Traceback' not in told
    log = record_files(tmp_path)[0].parents[3] / 'odd'
    assert 'oops' in next(log.rglob('train.log')).read_text()
    assert only_record(tmp_path, 'modality_dropout')['status'] == 'complete'


def test_a_collapsed_model_is_flagged_in_record_and_table(tmp_path, method_file, capsys):
    spec = method_file(
        '    def decode(self, features, mask):\n'
        '        logits = super().decode(features, mask)\n'
        '        return logits * 0 + torch.tensor([1.0, 0.0])\n'
    )
    assert run.main(quick(tmp_path, spec)) == 0
    assert len(only_record(tmp_path, 'odd')['collapsed']) == 7
    assert 'collapsed' in capsys.readouterr().out


@pytest.fixture
def vectors(tmp_path):
    """Writes two modalities, told by their signs, of which the test split is given."""

    def write(a, b):
        train = np.tile([-1, 1], 16)
        columns = {'a': [train, train, a], 'b': [train, train, b]}
        inputs = {f'inputs/{name}': np.concatenate(x)[:, None] for name, x in columns.items()}
        split = np.repeat([0, 1, 2], [32, 32, len(a)])
        target = (inputs['inputs/a'][:, 0] > 0).astype(int)
        np.savez(tmp_path / 'signs.npz', target=target, split=split, **inputs)
        return ['--data-root', str(tmp_path / 'signs.npz')]

    return write


LOWEST = """
    def encode(self, inputs):
        return inputs

    def loss(self, batch):
        return {'loss_none': 0 * next(self.parameters()).sum()}

    def lowest(self, inputs, mask):
        values = [inputs[n] if n in inputs else torch.zeros(len(mask), 1) for n in ('a', 'b')]
        lowest = torch.where(mask, torch.cat(values, 1), torch.inf).amin(1, keepdim=True)
        return lowest + 0 * next(self.parameters()).sum()
"""


def test_collapsed_is_what_predicts_one_class_for_999_in_1000(vectors, method_file, tmp_path):
    spec = method_file(
        f'{LOWEST}'
        '    def decode(self, features, mask):\n'
        '        x = self.lowest(features, mask)\n'
        '        return torch.cat([-x, x], 1)\n'
    )
    a, b = np.ones((2, 2000))
    a[:2], b[2:5] = -1, -1
    args = arguments(tmp_path, spec, options=['epochs=1', 'batch_size=16'], datasets=['arrays'])
    assert run.main([*args, *vectors(a, b)]) == 0
    record = only_record(tmp_path, 'odd')
    assert record['predicted']['a'][1] == 1998 / 2000
    assert record['predicted']['b'][1] == 1997 / 2000
    assert record['collapsed'] == ['a']


def test_the_selected_epoch_is_the_latest_of_the_networks(vectors, method_file, tmp_path):
    spec = method_file(
        '    dedicated = True\n'
        f'{LOWEST}'
        '    def decode(self, features, mask):\n'
        '        x = self.lowest(features, mask)\n'
        '        right = mask.sum(1, keepdim=True) == self.epoch + 1\n'
        '        return torch.where(right, torch.cat([-x, x], 1), torch.cat([x, -x], 1))\n'
    )
    options = ['epochs=4', 'batch_size=16', 'selection=full']
    sides = np.tile([-1, 1], 8)
    args = arguments(tmp_path, spec, options=options, datasets=['arrays'])
    assert run.main([*args, *vectors(sides, sides)]) == 0
    record = only_record(tmp_path, 'odd')
    assert record['scores']['val'] == {
        s: {'accuracy': 1, 'UAR': 1, 'F1': 1} for s in ('a', 'b', 'a+b')
    }
    # The networks of one modality are right in epoch 0, that of two in epoch 1.
    assert record['selected_epoch'] == 1


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (['--methods', 'mmanett'], "unknown method 'mmanett'; did you mean 'mmanet'?"),
        (
            ['--methods', 'mmanet:alhpa=1'],
            "unknown option of mmanet 'alhpa'; did you mean 'alpha'?",
        ),
        (['--methods', 'mmanet:alpha=x'], "mmanet:alpha: expected a number, found 'x'"),
        (['--methods', 'nowhere.py:odd'], 'nowhere.py: no such file'),
        (['--datasets', 'synth_face'], "did you mean 'synth_faces'?"),
        (['--cfg-options', 'epoch=3'], "did you mean 'epochs'?"),
        (['--cfg-options', 'epochs=many'], "epochs: expected a whole number, found 'many'"),
        (['--cfg-options', 'sampler=only:rgb+dept'], "did you mean 'rgb+depth'?"),
        (['--cfg-options', 'rates=rgbb=0.5'], "did you mean 'rgb'?"),
        (['--cfg-options', 'rates=rgb=0.5,0.2'], "found '0.2' beside others"),
        (['--cfg-options', 'sampler=uniform:0.5'], "unknown sampler 'uniform:0.5'"),
        (['--gaps', '0.5', 'rgbb=0.5'], '--gaps on synth_faces: unknown modality'),
        (['--gaps', 'ir=0.5'], '--gaps on synth_rooms: unknown modality'),
        (['--gaps', 'complete'], 'expected some missing rate above 0'),
        (['--gaps', '0.5', '--cfg-options', 'rates=0.2'], 'expected no rates in --cfg-options'),
        (
            ['--gaps', '0.5', '--cfg-options', 'synth_rooms.rates=0.2'],
            'expected no synth_rooms.rates in --cfg-options',
        ),
        (['--cfg-options', 'optimizer=sgd'], "did you mean 'SGD'?"),
        (['--cfg-options', 'lr=-1'], 'lr: expected a positive number, found -1.0'),
        (['--cfg-options', 'epochs=True'], "epochs: expected a whole number, found 'True'"),
        (['--results', ''], "--results: expected a path, found '': it is empty"),
        (['--threads', '0'], '--threads: expected 1 or more, found 0'),
        (['--cfg-options', 'batch_size=1'], 'batch_size: expected at least 2, found 1'),
        (['--cfg-options', 'warmup=-3'], 'warmup: expected 0 epochs or more'),
        (['--cfg-options', 'selection=best'], "unknown selection 'best'"),
        (
            ['--device', 'cpu', '--cfg-options', 'precision=bfloat16'],
            'precision: expected float32 or auto on a CPU, found bfloat16',
        ),
        (['--only', 'runs/a', '--shard', '1/2'], '--only: expected no --shard beside it'),
        (['--datasets', 'arrays'], 'expected --data-root FILE.npz'),
        (['--datasets', 'arrays', '--data-root', 'gone.npz'], 'gone.npz'),
        (['--results', f'{__file__}/inside'], 'cannot be written'),
    ],
)
def test_a_bad_argument_is_one_clear_line_and_status_2(change, told, tmp_path, capsys):
    args = ['--methods', 'modality_dropout', '--results', str(tmp_path), *change]
    assert run.main(args) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1
    assert not record_files(tmp_path)


def test_several_rates_reach_the_protocol(tmp_path):
    options = [*SMALL, 'rates=rgb=0.25,ir=0.5', 'synth_faces.epochs=1']
    assert run.main(arguments(tmp_path, 'modality_dropout', options=options)) == 0
    record = only_record(tmp_path, 'modality_dropout')
    assert record['gaps']['rates'] == {'rgb': 0.25, 'depth': 0.0, 'ir': 0.5}
    assert record['protocol']['epochs'] == 1


GAPS = ['--gaps', 'complete', 'rgb=0.25,ir=0.5']


def test_one_command_makes_the_table_of_training_gaps(tmp_path, method_file, capsys):
    spec = method_file('    needs_complete = True\n')
    args = quick(tmp_path, 'modality_dropout', spec, epochs=1)
    assert run.main([*args, *GAPS, '--dry-run']) == 0
    assert 'refused   signs  odd  rates=rgb=0.25,ir=0.5' in capsys.readouterr().out
    assert not record_files(tmp_path)
    assert run.main([*args, *GAPS]) == 0
    told = capsys.readouterr().out
    refusal = 'refused   signs  odd  rates=rgb=0.25,ir=0.5  it trains on complete samples'
    assert told.index(refusal) < told.index('[1/3] signs  modality_dropout  seed 0')
    assert 'signs  modality_dropout  rates=rgb=0.25,ir=0.5  seed 0' in told
    assert 'refused: odd on 25/0/50: this method trains on complete samples only, and' in told
    assert 'FAILED' not in told
    file = tmp_path / 'tables' / 'signs-gaps.csv'
    with open(file) as lines:
        rows = list(csv.DictReader(lines))
    found = [(r['method'], r['rates'], float(r['missing_ir_in_training'])) for r in rows]
    assert found == [
        ('modality_dropout', '', 0),
        ('odd', '', 0),
        ('modality_dropout', 'rgb=0.25,ir=0.5', 50),
    ]
    # The setting without gaps is the ordinary protocol.
    assert run.main(args) == 0
    assert '2 of 2 experiments are recorded already' in capsys.readouterr().out
    before = file.read_bytes()
    file.unlink()
    assert tables.main([str(tmp_path), '--gaps']) == 0
    assert file.read_bytes() == before


def test_where_no_method_can_train_under_the_gaps_nothing_is_run(tmp_path, capsys):
    args = arguments(tmp_path, 'mmanet')
    assert run.main([*args, '--gaps', '0.5', 'ir=0.25']) == 2
    err = capsys.readouterr().err
    assert '--gaps: nothing is left to run: mmanet on synth_faces' in err
    assert err.count('\n') == 1
    assert not record_files(tmp_path)


@pytest.mark.parametrize('rule', ['mean', 'worst', 'full'])
def test_selection_needs_a_score_of_the_validation_split(rule):
    def scores(**values):
        return {s: SubsetScore({'ACER': v}, (1.0,), 5) for s, v in values.items()}

    selection = hooks.Selection(rule, 'ACER', 'rgb', Path())
    assert selection._value(scores(rgb=0.25)) == -0.25
    with pytest.raises(UserError, match=f'selection={rule}: expected ACER .* for rgb'):
        selection._value(scores(rgb=float('nan')))
    if rule == 'full':
        with pytest.raises(UserError, match='for rgb'):
            selection._value(scores(depth=0.1))


SCRIPT = [
    (0.5, 0.5),
    *[(0.5, 0.125)] * 2,
    *[(0.375, 0.375)] * 2,
    *[(0.25, 0.5)] * 2,
]
"""ACER of the full subset and of another one after each epoch; every rule finds a tie."""


@pytest.mark.parametrize(
    ('rule', 'expected'), [('mean', 1), ('worst', 3), ('full', 5), ('last', 6)]
)
@pytest.mark.parametrize('metric', ['ACER', 'accuracy'])
def test_the_first_epoch_of_the_best_score_is_selected(rule, expected, metric, tmp_path):
    selection = hooks.Selection(rule, metric, 'a+b', tmp_path)
    for epoch, values in enumerate(SCRIPT):
        values = values if metric == 'ACER' else [1 - v for v in values]
        scores = {
            s: SubsetScore({metric: v}, (1.0,), 5)
            for s, v in zip(('a+b', 'a'), values, strict=True)
        }
        runner = SimpleNamespace(
            epoch=epoch + 1,
            val_loop=SimpleNamespace(evaluator=SimpleNamespace(scores=scores)),
            model=SimpleNamespace(
                on_validation=lambda scores: None,
                state_dict=lambda epoch=epoch: {'epoch': torch.tensor(epoch)},
            ),
            logger=SimpleNamespace(info=lambda text: None),
        )
        selection.after_val_epoch(runner, {})
    assert selection.state['epoch'] == expected
    kept = selection.state['scores']['a+b']['metrics'][metric]
    assert kept == (SCRIPT[expected][0] if metric == 'ACER' else 1 - SCRIPT[expected][0])
    if rule != 'last':
        hooks.state.promote(tmp_path)
        assert torch.load(selection.best, weights_only=True)['epoch'] == expected


def test_a_torn_record_is_named_and_its_run_repeated(tmp_path, capsys):
    args = quick(tmp_path, 'complete', 'modality_dropout')
    assert run.main(args) == 0
    file = next(f for f in record_files(tmp_path) if 'complete' in str(f))
    whole = json.loads(file.read_text())
    file.write_text(file.read_text()[:300])
    assert run.main(quick(tmp_path, 'modality_dropout')) == 0
    assert 'not counted: complete' in capsys.readouterr().out
    assert run.main(args) == 0
    assert scientific(store.read(file)) == scientific(whole)


def test_the_plan_says_what_is_recorded_and_what_it_will_take(uninterrupted, capsys):
    args = arguments(uninterrupted, MMANET, 'rfnet', 'mmanet:begin_epoch=2,mining_start=0')
    assert run.main([*args, '--dry-run']) == 0
    told = capsys.readouterr().out
    assert 'recorded  synth_faces  mmanet' in told
    assert 'to run    synth_faces  rfnet' in told
    assert 'to run    synth_faces  mmanet:begin_epoch=2,mining_start=0' in told
    assert 'expected: ' in told
    assert len(record_files(uninterrupted)) == 1


def test_the_plan_lists_what_is_refused_and_where_a_stopped_run_goes_on(
    tmp_path, method_file, capsys
):
    spec = method_file("    def encode(self, inputs):\n        raise KeyError('oops')\n")
    args = quick(tmp_path, 'distilled', spec)
    with steps_of('distilled', stop=2):
        assert run.main(args) == 1
    capsys.readouterr()
    needy = quick(tmp_path, 'mmanet', options=['rates=0.5'])
    assert run.main([*needy, '--dry-run']) == 1
    told = capsys.readouterr().out
    assert 'refused   signs  mmanet  rates=0.5' in told
    assert 'trains on complete samples only' in told
    assert 'nothing to run; 1 refused' in told
    assert run.main([*args, '--dry-run']) == 1
    told = capsys.readouterr().out
    assert 'it resumes at epoch 3 of 3' in told
    assert 'refused   signs  odd  seed 0' in told
    assert "KeyError: 'oops'" in told
    assert told.strip().endswith('; 1 refused')


def test_a_run_of_edited_code_is_planned_and_trained_anew(tmp_path, monkeypatch, capsys):
    args = quick(tmp_path, 'modality_dropout', epochs=1)
    assert run.main(args) == 0
    (file,) = record_files(tmp_path)
    before = file.read_bytes()
    monkeypatch.setattr('benchmark.engine.experiment.code_of', lambda *_: 'f' * 16)
    capsys.readouterr()
    assert run.main([*args, '--dry-run']) == 0
    told = capsys.readouterr().out
    assert 'note: 1 recorded with other code: trained anew, the old records are kept' in told
    assert ', recorded with other code' in told
    assert file.read_bytes() == before
    assert run.main(args) == 0
    assert only_record(tmp_path, 'modality_dropout')['method']['code'] == 'f' * 16
    assert kept_aside(file) == [before]


def test_a_training_too_short_for_a_late_term_is_told_before_it_starts(tmp_path, capsys):
    args = arguments(tmp_path, 'dmrnet:warmup=6', 'modality_dropout', options=TINY)
    assert run.main([*args, '--dry-run']) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('note: ')]
    assert [line for line in notes if 'from a search' not in line] == [
        'note: synth_faces  dmrnet:warmup=6: the hard combination regulariser starts after 2 of 3 '
        'epochs, because its start after 6 epochs (numbers 0 to 5) would lie behind the end of the '
        'training'
    ]


def test_another_version_of_a_method_is_planned_anew(tmp_path, raise_version, capsys):
    args = quick(tmp_path, 'modality_dropout')
    with steps_of('modality_dropout', stop=2):
        assert run.main(args) == 1
    raise_version('modality_dropout')
    capsys.readouterr()
    assert run.main([*args, '--dry-run']) == 0
    told = capsys.readouterr().out
    assert 'to run' in told
    assert 'resumes' not in told


def test_the_list_names_every_method_and_dataset(capsys):
    assert run.main(['--list']) == 0
    told = capsys.readouterr().out
    names = ('mmanet', 'rfnet', 'modality_dropout', 'synth_faces')
    for word in (*names, '[embedded]', 'needs --data-root'):
        assert word in told


def test_force_trains_anew_and_finds_the_same(tmp_path):
    args = quick(tmp_path, 'modality_dropout')
    assert run.main(args) == 0
    (file,) = record_files(tmp_path)
    before, stamp = store.read(file), file.stat().st_mtime_ns
    assert run.main([*args, '--force']) == 0
    assert file.stat().st_mtime_ns > stamp
    assert scientific(store.read(file)) == scientific(before)
