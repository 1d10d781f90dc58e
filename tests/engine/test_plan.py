"""A plan lists what is refused and goes on, where a run ends before anything is trained."""

import dataclasses
import inspect

import numpy as np
import pytest
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import dry_run, grid, notes, plan
from benchmark.engine.building import Machine
from benchmark.engine.description import _changed
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec, typed
from benchmark.records import store
from benchmark.registry import DATASETS, METHODS, discover, parse_spec
from benchmark.report import captions, writer

discover()

TINY = ['train=32', 'val=16', 'test=16', 'size=24', 'width=8', 'batch_size=16', 'epochs=3']


def command(results, *words, methods=('hemis',), options=TINY):
    return ['--methods', *methods, '--results', str(results), '--device', 'cpu', *words,
            '--cfg-options', *options]  # fmt: skip


@pytest.fixture
def one_class(tmp_path):
    """A file of arrays whose samples are all of one class."""
    file = tmp_path / 'alone.npz'
    rows = np.random.default_rng(0).random((30, 4), np.float32)
    zeros = np.zeros(30, int)
    np.savez(file, **{'inputs/a': rows, 'target': zeros, 'split': np.arange(30) % 3})
    return file


def refused(told):
    return [line for line in told.splitlines() if line.startswith('refused')]


def test_a_data_set_that_cannot_be_used_is_listed_and_the_others_planned(
    one_class, tmp_path, capsys
):
    words = ['--datasets', 'arrays', 'synth_faces', '--data-root', str(one_class)]
    args = command(tmp_path / 'results', *words)
    assert run.main([*args, '--dry-run']) == 1
    told = capsys.readouterr().out
    (line,) = refused(told)
    assert line.startswith(f'refused   arrays in {one_class}  ')
    assert 'to run    synth_faces  hemis' in told
    assert told.strip().endswith('; 1 refused')
    assert run.main(args) == 2
    assert capsys.readouterr().err == f'error: {line.split("  ")[-1]}\n'
    assert not list((tmp_path / 'results').rglob('*.*'))


def test_a_file_that_is_not_there_is_listed(tmp_path, capsys):
    words = ['--datasets', 'arrays', 'synth_faces', '--data-root', 'none.npz', '--dry-run']
    assert run.main(command(tmp_path, *words)) == 1
    told = capsys.readouterr()
    assert 'refused   arrays in none.npz  ' in told.out
    assert 'to run    synth_faces' in told.out
    assert told.err == 'measuring  synth_faces  hemis\n'


@pytest.mark.parametrize(
    ('words', 'options'), [([], ['rates=ir=0.5']), (['--gaps', 'complete', 'ir=0.5'], [])]
)
def test_rates_that_do_not_fit_one_data_set_leave_the_other(words, options, tmp_path, capsys):
    words = ['--datasets', 'synth_rooms', 'synth_faces', *words]
    args = command(tmp_path, *words, options=[*TINY, *options])
    assert run.main([*args, '--dry-run']) == 1
    told = capsys.readouterr().out
    (line,) = refused(told)
    assert line.startswith('refused   synth_rooms  ')
    assert "'ir'" in line
    assert 'to run    synth_faces  hemis  rates=ir=0.5' in told
    assert told.strip().endswith('; 1 refused')
    assert run.main(args) == 2
    assert not list(tmp_path.rglob('*.*'))


def test_where_all_is_refused_the_plan_gives_its_total(tmp_path, capsys):
    words = ['--datasets', 'synth_faces', '--gaps', '0.5', '--dry-run']
    assert run.main(command(tmp_path, *words, methods=['mmanet'])) == 1
    told = capsys.readouterr().out
    assert 'refused   synth_faces  mmanet  rates=' in told
    assert 'nothing to run' in told


def test_a_row_that_two_words_name_is_told_and_runs_once(tmp_path, capsys):
    words = ['--datasets', 'synth_rooms', 'synth_faces', '--seeds', '0', '1', '--dry-run']
    methods = ['mmanet', 'mmanet:variant=paper']
    assert run.main(command(tmp_path, *words, methods=methods)) == 0
    told = capsys.readouterr().out
    assert told.count('is run once') == 2
    assert 'note: synth_rooms: mmanet:variant=paper is mmanet there; it is run once' in told
    assert told.count('to run    synth_rooms') == 2
    assert told.count('to run    synth_faces') == 2


def test_a_file_in_the_place_of_the_results_is_told(tmp_path, capsys):
    (tmp_path / 'README.md').touch()
    assert run.main(command(tmp_path / 'README.md', '--datasets', 'synth_faces')) == 2
    told = capsys.readouterr().err
    assert told == f'error: {tmp_path}/README.md: expected a folder, found a file\n'


def test_a_data_root_that_no_data_set_reads_is_refused(tmp_path, capsys):
    for datasets, told in (
        ([], 'synth_faces and synth_rooms read no data'),
        (['--datasets', 'synth_rooms'], 'synth_rooms reads no data'),
    ):
        words = [*datasets, '--data-root', str(tmp_path)]
        assert run.main(command(tmp_path / 'out', *words)) == 2
        assert capsys.readouterr().err == (
            f'error: --data-root: {told}; did you forget --datasets arrays, folders or volumes?\n'
        )


def test_bad_arguments_end_a_plan(tmp_path, capsys):
    assert run.main(command(tmp_path, '--dry-run', methods=['hemmis'])) == 2
    assert "did you mean 'hemis'?" in capsys.readouterr().err


def test_a_plan_ends_when_nobody_reads_it(tmp_path, monkeypatch, capsys):
    items = [one(tmp_path, seed=seed) for seed in range(3)]
    monkeypatch.setattr(dry_run, 'unread', iter([False, True]).__next__)
    dry_run.show_plan(items, Machine('cpu'))
    assert capsys.readouterr().out.count('to run') == 1


def one(results, method='hemis', data=None, seed=0, **fields):
    data = data or Toy(TASKS['vectors'])
    protocol = Protocol.build({**data.recipe, **fields}, {}, 'cpu')
    return experiment(Spec(method), data, protocol, seed, results)


def rates_of(**fields):
    return notes.learning_rate(Protocol(**fields), 10)


def test_a_learning_rate_that_never_steps_is_told():
    short = {'epochs': 2, 'warmup': 1.0, 'schedule': 'step:0.6'}
    (told,) = rates_of(**short)
    assert told.startswith('the learning rate is not divided by 10 at 0.6 of the epochs: ')
    assert not rates_of(**{**short, 'epochs': 3})
    assert not rates_of(**{**short, 'warmup': 0.0})
    (told,) = rates_of(**{**short, 'schedule': 'step'})
    assert 'divided by 10 at 0.5 of the epochs' in told
    (told,) = rates_of(epochs=10, warmup=5.0, schedule='step:0.4/0.5/0.9')
    assert 'divided by 10 at 0.5 and 0.9 of the epochs' in told


def test_a_warm_up_that_fills_the_training_is_told():
    (told,) = rates_of(epochs=1, warmup=1.0)
    why = 'its warm-up (warmup=1) fills the training of 1 epoch'
    advice = 'give more epochs, or warmup=0'
    assert told == f'the learning rate only rises: {why}; {advice}'
    assert f'training of 2 epochs; {advice}' in rates_of(epochs=2, warmup=3, schedule='step')[0]
    assert not rates_of(epochs=2, warmup=1.0)
    assert not rates_of(epochs=1, warmup=0.0)
    assert not rates_of(epochs=1, warmup=1.0, schedule='onecycle')


def test_a_batch_size_above_the_training_split_is_told_on_terminal_and_table(tmp_path, capsys):
    data = Toy(TASKS['vectors'], (24, 8, 8))
    e = one(tmp_path, data=data, epochs=2, batch_size=25, warmup=0.0)
    told = 'its batches have 24 samples instead of batch_size=25: training has no more'
    assert notes.of(e) == [told]
    assert not notes.of(one(tmp_path, data=data, epochs=2, batch_size=24, warmup=0.0))
    assert grid.execute([e], Machine('cpu'), False, writer.brief)
    assert capsys.readouterr().out.splitlines()[0] == f'note: toy  hemis: {told}'
    assert store.read(e.folder / store.RECORD)['method']['notes'] == [told]
    assert f'hemis: {told}' in captions.notes(writer.write_tables(tmp_path, 'toy').blocks[0])
    # A run that is recorded is not told of again.
    assert grid.execute([e], Machine('cpu'), False, writer.brief)
    assert 'note: ' not in capsys.readouterr().out


def test_an_option_that_changes_nothing_beside_another_is_told(tmp_path):
    data = Toy(TASKS['vectors'], (24, 8, 8))
    protocol = Protocol.build(data.recipe, {'epochs': '9', 'batch_size': '8'}, 'cpu')

    def told(given):
        method, options = parse_spec(given)
        spec = Spec(method, tuple(typed(METHODS.module_dict[method], method, options).items()))
        return notes.of(experiment(spec, data, protocol, 0, tmp_path))

    assert told('distilled:loss=mad,temperature=5') == [
        'temperature=5 changes nothing with loss=mad: it counts with loss=soft_target alone'
    ]
    assert told('distilled:loss=soft_target,temperature=5') == []
    assert told('distilled:loss=mad') == []
    assert told('mmanet:mining_start=3,weak=single') == [
        'mining_start=3 changes nothing with weak=single: it counts with weak=mined alone'
    ]


def test_networks_for_single_subsets_may_have_fewer_samples(tmp_path):
    class Gaps(Toy):
        def split(self, name):
            found = super().split(name)
            available = found.available.copy()
            available[:10, 0] = False
            return dataclasses.replace(found, available=available)

    data = Gaps(TASKS['vectors'], (24, 8, 8))
    e = one(tmp_path, 'customized', data, epochs=2, batch_size=20, warmup=0.0)
    (told,) = notes.of(e)
    assert told.startswith('its batches have 14 samples instead of batch_size=20')


def test_data_that_cannot_be_read_are_no_reason_to_end_the_notes(tmp_path):
    class Broken(Toy):
        def split(self, name):
            raise OSError('gone')

    assert notes.of(one(tmp_path, data=Broken(TASKS['vectors']))) == []


@pytest.mark.parametrize(
    ('spec', 'changed'),
    [('synth_faces', []), ('synth_faces:width=WIDTH', []), ('synth_faces:width=8', ['width'])],
)
def test_a_record_names_the_options_of_the_data_set_that_are_not_its_defaults(spec, changed):
    usual = inspect.signature(DATASETS.module_dict['synth_faces']).parameters['width'].default
    (data,) = plan.open_datasets([spec.replace('WIDTH', str(usual))], [], {})
    assert _changed(data) == changed
    data.options['unknown'] = usual
    assert _changed(data) == [*changed, 'unknown']


def test_a_run_names_all_methods_that_do_not_fit_in_one_line(tmp_path, capsys):
    file = tmp_path / 'mine.npz'
    rows = np.random.default_rng(0).random((30, 4), np.float32)
    np.savez(file, **{'inputs/a': rows, 'target': rows[:, 0], 'split': np.arange(30) % 3})
    words = ['--datasets', 'arrays:target=regression', '--data-root', str(file)]
    methods = ['mmanet', 'modality_dropout', 'gmd', 'rfnet']
    args = command(tmp_path / 'x', *words, methods=methods, options=['epochs=1'])
    assert run.main(args) == 2
    assert capsys.readouterr().err == (
        'error: mmanet on mine: expected a task of classification or segmentation, on which its '
        'formulas are defined, found regression; refused as well: gmd on mine, rfnet on mine '
        '(--dry-run says why)\n'
    )
    assert not list((tmp_path / 'x').rglob('*.*'))


def test_a_value_that_a_constructor_refuses_is_told_before_anything_is_trained(tmp_path, capsys):
    file = tmp_path / 'dropped.py'
    file.write_text(
        'from torch import nn\nfrom benchmark.registry import METHODS\n'
        'from methods.modality_dropout import ModalityDropout\n\n'
        "@METHODS.register_module('dropped')\nclass Dropped(ModalityDropout):\n"
        '    def __init__(self, task, dropout: float = 0.0, width: float = 1.0):\n'
        '        super().__init__(task)\n        self.dropout = nn.Dropout(dropout)\n'
        '        assert width < 9, "too\\nwide"\n'
    )
    results, spec = tmp_path / 'results', f'{file}:dropped:'
    try:
        words = ['--datasets', 'synth_faces', '--seeds', '0', '1']
        args = command(results, *words, methods=(f'{spec}dropout=2', f'{spec}width=9'))
        assert run.main(args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        found = 'cannot be built: dropout probability has to be between 0 and 1, but got 2.0'
        assert line.startswith(f'error: dropped:dropout=2 on synth_faces: {found}; refused as well')
        assert not list(results.rglob('*.*'))
        assert run.main([*args, '--dry-run']) == 1
        told = refused(capsys.readouterr().out)
        assert len(told) == 4
        assert told[-1].endswith('dropped:width=9 on synth_faces: cannot be built: too wide')
    finally:
        METHODS.module_dict.pop('dropped', None)


VARIED = [
    ('synth_faces.train', (32, 64), 'synth_faces (train={})', 'synth_rooms'),
    ('lr', (0.001, 0.002), 'synth_faces (lr={})', 'synth_rooms (lr={})'),
    ('train+lr', ('32+0.001', '64+0.002'), 'synth_faces (train={}, lr={})',
     'synth_rooms (train={}, lr={})'),
]  # fmt: skip


@pytest.mark.parametrize(('key', 'varied', 'faces', 'rooms'), VARIED, ids=[v[0] for v in VARIED])
def test_a_command_tells_what_its_grid_varies(key, varied, faces, rooms, tmp_path, capsys):
    file = tmp_path / 'sizes.yaml'
    options = ', '.join(word.replace('=', ': ') for word in TINY if not word.startswith('train'))
    options += '' if 'train' in key else ', train: 32'
    file.write_text(
        'methods: [majority]\ndatasets: [synth_faces, synth_rooms]\n'
        f'options: {{{options}}}\nvary: {{{key}: [{", ".join(map(str, varied))}]}}\n'
    )
    words = ['--grid', str(file), '--results', str(tmp_path / 'r'), '--device', 'cpu']
    values = [str(value).split('+') for value in varied]
    # What is varied for one data set alone is no second training on another one.
    expected = {name.format(*value) for name in (faces, rooms) for value in values}
    for also in (['--dry-run'], ['--budget=0.001s'], ['--jobs', '2']):
        run.main([*words, *also])
        told = capsys.readouterr().out.splitlines()
        for name in expected:
            shown = [x for x in told if f' {name}  majority' in x and '  seed 0' in x]
            assert len(shown) == 1, (also, name)
