"""`compare.py`: predictions of other code from a file to the tables, and runs to such files."""

import csv
import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from made_records import make_failure, make_outcomes, make_record, save
from toy_runs import arrays, trained

from benchmark import compare
from benchmark.engine import comparing, plan
from benchmark.errors import UserError
from benchmark.files import ROOT
from benchmark.missing import subset_ids
from benchmark.records import prediction_files, store

NAMES = ['rgb', 'gait', 'scan']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data of the user's own, a run on them, and what it predicted as a file."""
    folder = tmp_path_factory.mktemp('compared')
    np.savez(folder / 'arr.npz', **arrays())
    runs = trained(folder, 'arr.npz', 'arrays', 'majority', 'logistic')
    assert compare.main(['--export', *map(str, runs.values()), '--out', str(folder / 'out')]) == 0
    return folder


def compared(folder, *files, results='results'):
    words = ['--datasets', 'arrays:width=4', '--data-root', str(folder / 'arr.npz')]
    return compare.main([*map(str, files), *words, '--results', str(folder / results)])


def rows_of(folder):
    with (folder / 'results' / 'tables' / 'arr.csv').open() as file:
        return {row['method']: row for row in csv.DictReader(file)}


def test_an_exported_run_has_the_cells_of_the_run(folder, capsys):
    files = sorted((folder / 'out').glob('*.npz'))
    assert [file.name.split('-')[1] for file in files] == ['logistic', 'majority']
    assert compared(folder, *files) == 0
    told = capsys.readouterr().out
    assert told.count('recorded: ') == 2
    assert 'logistic (external)' in told
    rows = rows_of(folder)
    for label in ('logistic', 'majority'):
        own, other = rows[label], rows[f'{label} (external)']
        cells = [*subset_ids(NAMES), 'mean', 'worst', 'mean_UAR']
        assert [own[c] for c in cells] == [other[c] for c in cells]
        assert own['rgb'] != ''
        assert own['protocol'] == other['protocol']


def test_data_that_are_opened_otherwise_are_refused(folder, capsys):
    (file,) = (folder / 'out').glob('*logistic*')
    words = ['--datasets', 'arrays', '--data-root', str(folder / 'arr.npz')]
    assert compare.main([str(file), *words, '--results', str(folder / 'four')]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r'fingerprint: expected \w+ of arr as .*, found \w+ of arr:width=4: ', line)
    assert line.endswith('; if the files are the same, type --datasets arrays:width=4')


@pytest.mark.parametrize(
    ('spec', 'opened_as', 'hint'),
    [
        ('arr:width=4', 'arrays:width=8', 'type --datasets arrays:width=4$'),
        ('arr', 'arrays:width=8', 'type --datasets arrays$'),
        ('arr:width=4', 'arrays:width=4', 'other options$'),
        ('arr:wodth=4', 'arrays', 'other options$'),
        ('arr:root=/etc', 'arrays', 'other options$'),
        ('arr:$(rm)', 'arrays', 'other options$'),
        ('arr:class_weights=$(rm)', 'arrays', "type --datasets 'arrays:class_weights=.*'$"),
    ],
)
def test_the_options_of_a_file_are_told_as_they_are_typed(folder, spec, opened_as, hint):
    (data,) = plan.open_datasets([opened_as], [folder / 'arr.npz'], {})
    (known,) = of(spec, folder)
    given = dataclasses.replace(known, fingerprint='0' * 12)
    with pytest.raises(UserError, match=hint):
        comparing.outcomes_of(given, data)


def test_a_table_of_the_same_predictions_has_the_same_cells(folder):
    (file,) = (folder / 'out').glob('*logistic*')
    (found,) = prediction_files.read(file)
    lines = ['method,dataset,seed,id,modalities,target,prediction,p(cat),p(dog),p(hen)']
    for subset, kinds in found.subsets.items():
        odds = np.exp(kinds['logit'].astype(float))
        for k, p in enumerate(odds / odds.sum(1, keepdims=True)):
            words = ['tabled', 'arr', 0, found.ids[k], subset]
            label, guess = (found.classes[x[k]] for x in (found.target, kinds['pred']))
            lines.append(','.join(map(str, [*words, label, guess, *p])))
    (folder / 'x.csv').write_text('\n'.join(lines))
    assert compared(folder, folder / 'x.csv') == 0
    rows = rows_of(folder)
    for subset in subset_ids(NAMES):
        assert rows['tabled (external)'][subset] == rows['logistic'][subset]


def test_one_bad_file_does_not_stop_the_others(folder, capsys):
    (good,) = (folder / 'out').glob('*majority*')
    np.savez(folder / 'bad.npz', **{**np.load(good), 'pred/rgb': np.arange(12), 'seed': 1})
    np.savez(folder / 'lacking.npz', id=['a'])
    assert compared(folder, folder / 'lacking.npz', folder / 'bad.npz', good, results='two') == 2
    told = capsys.readouterr()
    first, second = told.err.splitlines()
    assert first == f"error: {folder / 'lacking.npz'}: expected the key 'method', found none"
    assert second.startswith(f'error: {folder / "bad.npz"}: pred/rgb: expected classes from 0 to 2')
    assert told.out.count('recorded: ') == 1


def test_a_training_that_two_files_tell_of_is_refused(folder, capsys):
    (good,) = (folder / 'out').glob('*majority*')
    assert compared(folder, good, good, results='three') == 2
    told = capsys.readouterr()
    assert 'expected each training once, found majority seed 0 on arr' in told.err
    assert told.out.count('recorded: ') == 1


def test_files_of_other_options_or_of_unknown_data_stop_no_other(tmp_path, capsys):
    for test in (6, 8):
        names = [f'test-{k:05}' for k in range(test)]
        about = {'method': 'm', 'dataset': f'synth_faces:test={test}', 'seed': 0}
        np.savez(tmp_path / f'{test}.npz', id=names, **about, **{'pred/rgb': np.arange(test) % 2})
    np.savez(tmp_path / 'odd.npz', id=['a'], method='m', dataset='odd', seed=0, **{'pred/a': [0]})
    np.savez(tmp_path / 'bad.npz', id=['a'], method='m', dataset='synth_faces:test=x', seed=0,
             **{'pred/rgb': [0]})  # fmt: skip
    files = [str(tmp_path / f'{name}.npz') for name in ('odd', 6, 'bad', 8)]
    assert compare.main([*files, '--results', str(tmp_path / 'r')]) == 2
    told = capsys.readouterr()
    assert told.out.count('recorded: ') == 2
    first, second = told.err.splitlines()
    assert first.startswith(f"error: {files[0]}: unknown data set 'odd'")
    assert second.startswith(f"error: {files[2]}: dataset 'synth_faces:test=x': ")
    assert 'test' in second


ARGUMENTS = [
    ([], 'expected FILE ... to compare or --export RUN ..., found neither'),
    (['x.npz', '--export', 'y', '--out', 'z'], 'to compare or --export RUN ..., found both'),
    (['--export', 'y'], 'expected --export RUN ... together with --out FOLDER'),
    (['x.npz', '--out', 'z'], 'expected --export RUN ... together with --out FOLDER'),
    (['nowhere.npz'], 'nowhere.npz: expected a file of predictions, found no such file'),
    (['--export', 'nowhere', '--out', 'z'], 'record.json: cannot be read as a record'),
]


@pytest.mark.parametrize(('words', 'told'), ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused_in_one_line(words, told, capsys):
    assert compare.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_failed_run_is_not_exported(tmp_path, capsys):
    record = make_failure('one', 0, 'out of memory')
    file = save(tmp_path, record)
    assert compare.main(['--export', str(file.parent), '--out', str(tmp_path / 'out')]) == 2
    assert 'expected a finished run, found status failed' in capsys.readouterr().err


def test_an_exported_run_names_options_of_the_data_that_are_not_the_defaults(tmp_path):
    outcomes = {**make_outcomes({'rgb': 3}), 'name': np.array([f's{k}' for k in range(400)])}
    data = {'name': 'synth_faces', 'options': {'test': 400, 'size': 48}, 'changed': ['test']}
    record = make_record('one', 0, outcomes, dataset=data)
    prediction_files.write(tmp_path / 'x.npz', record, outcomes)
    (found,) = prediction_files.read(tmp_path / 'x.npz')
    assert (found.dataset, found.fingerprint) == ('synth_faces:test=400', 'abc')


def of(dataset, folder):
    """A file of predictions of a data set."""
    np.savez(folder / 'x.npz', method='m', dataset=dataset, seed=0, id=['a'], **{'pred/rgb': [0]})
    return prediction_files.read(folder / 'x.npz')


def opened(found, *words):
    """The data set of the only training of a file."""
    return comparing.Sources(found, *words).of(found[0])


def test_the_data_set_that_a_file_names_is_opened(tmp_path):
    found = of('synth_faces:test=7', tmp_path)
    data = opened(found, [], [], ['train=20'])
    assert data.options['test'] == 7
    assert data.options['train'] == 20
    assert len(comparing.split_of(data, 'test')) == 7


@pytest.mark.parametrize(
    ('spec', 'told'),
    [
        ('nyuv2:root=/data', 'expected no root, which only --datasets may say'),
        ('nyuv2:pretrained=http://x/y.pth', 'expected no pretrained, which only --datasets may'),
        ('synth_faces:test=4/evil.py:x', 'expected no file, which only --datasets may say'),
        ('evil.py:synth_faces', "unknown data set 'evil.py'"),
        ('synth_faces:test', 'dataset: expected KEY=VALUE'),
        ('synth_faces:tset=4', "unknown option of synth_faces 'tset'; did you mean 'test'"),
    ],
)
def test_a_file_of_predictions_loads_no_other_file(spec, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('evil.py', 'synth_faces:test=4/evil.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('raise SystemExit(3)')
    with pytest.raises(UserError, match=re.escape(told)):
        opened(of(spec, tmp_path), [], [], [])


def test_a_data_set_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(UserError, match="'synth_face'; did you mean 'synth_faces'.*--datasets arr"):
        opened(of('synth_face', tmp_path), [], [], [])
    with pytest.raises(
        UserError, match=r"set 'good' \(known: arrays.*--datasets arrays --data-root"
    ):
        opened(of('good', tmp_path), [], [], [])
    with pytest.raises(UserError, match="x.npz: unknown data set 'parts' .known: synth_faces"):
        opened(of('parts', tmp_path), ['synth_faces'], [], [])
    with pytest.raises(UserError, match="option in --cfg-options 'tset'; did you mean 'test'"):
        opened(of('synth_faces', tmp_path), [], [], ['tset=9'])


def test_the_command_refuses_a_bad_file_before_it_loads_anything(tmp_path):
    np.savez(tmp_path / 'x.npz', method='m')
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', 'benchmark/compare.py', str(tmp_path / 'x.npz')],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        f"error: {tmp_path / 'x.npz'}: expected the key 'dataset', found none"
        in done.stderr.splitlines()
    )
    assert not any(line.endswith((' torch', ' mmengine')) for line in done.stderr.splitlines())


def test_the_protocol_of_other_code_is_of_its_data_alone(folder):
    for file in (folder / 'results').rglob('record.json'):
        record = store.read(file)
        assert (record['method']['source'] == 'external') == (record['protocol'] == {})
        if not record['protocol']:
            assert record['protocol_id'].startswith('external-')


def test_the_example_of_the_page_makes_files_that_fit(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    inputs = {f'inputs/{name}': rng.normal(size=(90, 4)) for name in ('rgb', 'ir')}
    split, target = np.arange(90) % 3, rng.integers(0, 2, 90)
    np.savez(tmp_path / 'pairs.npz', split=split, target=target, **inputs)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / 'docs' / 'external.md').read_text()
    stated = {}

    def probabilities(rows, subset, seed):
        p = np.random.default_rng([seed, len(subset)]).dirichlet([1, 1], len(rows))
        stated[subset, seed] = (p.argmax(1) == target[rows]).mean()
        return p

    exec(re.search(r'```python\n(.*?)```', page, re.S)[1], {'probabilities': probabilities})
    words = re.search(r'compare.py (mynet-0.*--data-root \S+)', page)[1].split()
    assert compare.main([*words, '--results', str(tmp_path / 'r')]) == 0
    with (tmp_path / 'r' / 'tables' / 'pairs.csv').open() as file:
        row = next(csv.DictReader(file))
    assert row['method'] == 'MyNet (external)'
    for subset in ('rgb', 'ir', 'rgb+ir'):
        mean = 100 * np.mean([stated[subset, seed] for seed in (0, 1, 2)])
        assert float(row[subset]) == pytest.approx(mean, abs=1e-3)
