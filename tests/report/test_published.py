"""The rows that papers print: what the files say, and how tables show it."""

import json
import math
import os

import numpy as np
import pytest
from made_records import make_outcomes, make_record, save

from benchmark.files import ROOT
from benchmark.report import published, writer
from benchmark.report.render import markdown

FILES = sorted((ROOT / 'results' / 'published').glob('*.json'))
NAMES = [path.stem for path in FILES]

MODALITIES = {
    'brats2015': {'flair', 't1ce', 't1', 't2'},
    'brats2018': {'flair', 't1ce', 't1', 't2'},
    'brats2020': {'flair', 't1ce', 't1', 't2'},
    'casia_surf': {'rgb', 'depth', 'ir'},
    'cityscapes': {'rgb', 'depth'},
    'crema_d': {'audio', 'visual'},
    'mcubes': {'rgb', 'aolp', 'dolp', 'nir'},
    'nyuv2': {'rgb', 'depth'},
}
"""Data set -> its modalities, of those whose rows have scores of subsets."""

CERTAINTY = (
    'read in the paper',
    "read in the authors' log",
    "read in the authors' files",
    "read in the authors' README",
    'second-hand',
    'recalled, never read',
)
NEEDED = {'method', 'scores', 'mean', 'runs', 'source', 'certainty', 'comparable'}
FURTHER = {'protocol', 'metric', 'truncated', 'repeats', 'other', 'erratum', 'why_not'}


def read(name):
    return json.loads((ROOT / 'results' / 'published' / f'{name}.json').read_text())


def by_metric(row):
    """Pairs (scores of subsets, mean), one for each metric of a row."""
    if isinstance(row['mean'], dict):
        return [(row['scores'].get(name, {}), mean) for name, mean in row['mean'].items()]
    return [(row['scores'], row['mean'])]


@pytest.mark.parametrize('name', NAMES)
def test_every_row_says_where_it_is_from_how_certain_it_is_and_why_it_is_not_comparable(name):
    content = read(name)
    assert (content['dataset'], content['unit']) == (name, 'percent')
    for row in content['rows']:
        assert set(row) >= NEEDED, row['method']
        assert set(row) <= NEEDED | FURTHER
        assert row['source']
        assert row['certainty'].startswith(CERTAINTY), row['certainty']
        assert row['runs'] is None or row['runs'] >= 1
        assert row['comparable'] is False  # no protocol of a paper is that of this suite
        assert ('why_not' in row) != ('protocol' in row)
        assert row.get('why_not') or content['protocols'][row['protocol']]
        assert row.get('truncated', 'mean') in ('mean', 'cells and mean')
    labels = [(row['method'], row['metric']) for row in published.published(name, [])]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize('name', NAMES)
def test_every_number_is_a_percentage_and_belongs_to_a_subset_or_has_a_name(name):
    for row in read(name)['rows']:
        found = list(row.get('other', {}).values())
        for scores, mean in by_metric(row):
            assert all(set(subset.split('+')) <= MODALITIES[name] for subset in scores)
            assert len({frozenset(subset.split('+')) for subset in scores}) == len(scores)
            found += [*scores.values(), mean]
        assert any(value is not None for value in found), row['method']
        assert all(value is None or 0 < value < 100 for value in found)


@pytest.mark.parametrize('name', NAMES)
def test_means_are_those_of_their_cells_or_told_to_be_truncated_or_wrong(name):
    for row in read(name)['rows']:
        for scores, mean in by_metric(row):
            if mean is None or not scores or None in scores.values():
                assert 'truncated' not in row
                continue
            # Cells are exact to half a hundredth, and so is their mean.
            computed = sum(scores.values()) / len(scores)
            rounded = abs(mean - computed) <= 0.005 + 1e-9
            cut = mean == math.floor(100 * computed + 1e-9) / 100
            wrong = f'{computed:.2f}' in row.get('erratum', '')
            about = row['method'], mean, computed
            assert rounded != ('truncated' in row or wrong), about
            assert cut or wrong or 'truncated' not in row, about


def test_means_of_several_runs_are_those_of_the_runs():
    rows = [row for row in read('casia_surf')['rows'] if 'repeats' in row]
    assert [row['runs'] for row in rows] == [3, 3, 2] == [len(row['repeats']) for row in rows]
    for row in rows:
        for subset, score in row['scores'].items():
            # Both are exact to half a hundredth.
            assert np.mean([run[subset] for run in row['repeats']]) == pytest.approx(
                score, abs=0.01
            )
        assert np.mean([run['mean'] for run in row['repeats']]) == pytest.approx(
            row['mean'], abs=0.001
        )
        for run in row['repeats']:
            cells = [score for subset, score in run.items() if subset != 'mean']
            assert list(run)[:-1] == list(row['scores'])
            assert np.mean(cells) == pytest.approx(run['mean'], abs=0.005)


def test_the_means_over_fifteen_subsets_of_a_re_run_are_those_of_its_cells():
    rows = [row for row in read('brats2018')['rows'] if row.get('protocol') == 'C']
    full = [scores for row in rows for scores, _ in by_metric(row) if scores]
    assert [len(scores) for scores in full] == [15] * 5
    rfnet = next(row for row in rows if row['method'] == 'RFNet')['scores']['Dice_WT']
    sizes = {n: [v for s, v in rfnet.items() if s.count('+') == n - 1] for n in (1, 2, 3)}
    means = {n: float(np.mean(values)) for n, values in sizes.items()}
    assert means == pytest.approx({1: 80.72, 2: 86.24, 3: 88.53}, abs=0.005 + 1e-9)


@pytest.mark.parametrize(
    ('name', 'method'),
    [
        ('casia_surf', 'LCR'),
        ('nyuv2', 'Customized (ESANet)'),
        ('nyuv2', 'Unified (ESANet-MD)'),
    ],
)
def test_rows_that_nobody_read_say_so(name, method):
    (row,) = [row for row in read(name)['rows'] if row['method'] == method]
    assert row['certainty'].startswith('recalled, never read')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(published, 'PUBLISHED', tmp_path)
    plain = {'source': 'Paper', 'certainty': 'second-hand', 'comparable': False, 'runs': 3}
    content = {
        'dataset': 'brains',
        'unit': 'percent',
        'metric': 'Dice',
        'mean_of': ['Dice_WT', 'Dice_ET'],
        'protocols': {'A': 'the split is another'},
        'rows': [
            {
                'method': 'Net',
                'protocol': 'A',
                'scores': {'Dice_WT': {'t1': 80.0, 't2': 70.0}, 'Dice_ET': {'t1': 40.0}},
                'mean': {'Dice_WT': 75.0, 'Dice_ET': 30.5},
                **plain,
            },
            {
                'method': 'Half',
                'protocol': 'A',
                'scores': {},
                'mean': {'Dice_WT': 75.0, 'Dice_ET': None},
                **plain,
            },
            {'method': 'Rates', 'scores': {}, 'mean': None, 'other': {'rate 0.1': 9.0}, **plain},
        ],
    }
    (tmp_path / 'brains.json').write_text(json.dumps(content))
    return content


def test_a_row_of_several_metrics_becomes_a_row_for_each_and_one_for_their_mean(folder):
    rows = published.published('brains', [])
    label = 'Net, protocol A'
    assert [(row['method'], row['metric'], row['scores'], row['mean']) for row in rows] == [
        (label, 'Dice_WT', {'t1': 80.0, 't2': 70.0}, 75.0),
        (label, 'Dice_ET', {'t1': 40.0}, 30.5),
        (label, 'Dice', {'t1': 60.0}, 52.75),
        ('Half, protocol A', 'Dice_WT', {}, 75.0),
    ]
    assert {row['why_not'] for row in rows} == {'the split is another'}
    assert 'averaged over Dice_WT, Dice_ET' in rows[2]['certainty']
    assert published.published('nothing', []) == []


DAMAGED = [
    '',
    '{',
    'null',
    '[]',
    '{}',
    '[' * 200_000,
    '{"dataset": "faces", "metric": "ACER", "unit": "percent", "rows": [{}]}',
]


def change(**fields):
    """Returns a change of the first row of a file."""
    return lambda content: content['rows'][0].update(fields)


CHANGES = [
    change(scores=None),
    change(scores={'Dice_WT': {'t1': 'ten'}}),
    change(scores={'Dice_WT': {'t1': {'t1': 1.0}}}, mean={'Dice_WT': 1.0}),
    change(mean='low'),
    change(mean=float('nan')),
    change(mean={'ACER': {}}),
    change(method='\x1b[31m'),
    change(protocol='Z'),
    change(source=['paper']),
    lambda content: content['rows'][0].pop('why_not', content['rows'][0].pop('protocol')),
    lambda content: content.update(mean_of=3),
]


@pytest.mark.parametrize('reader', ['arrays', 'folders', 'faces', ''])
def test_data_of_the_users_own_have_no_rows_of_papers(reader, folder, tmp_path):
    row = {'method': 'Net', 'scores': {'rgb': 5.0}, 'mean': 5.0, 'source': 'P', 'runs': 1,
           'certainty': 'read', 'comparable': True}  # fmt: skip
    file = {'dataset': 'faces', 'unit': 'percent', 'metric': 'ACER', 'rows': [row]}
    (published.PUBLISHED / 'faces.json').write_text(json.dumps(file))
    outcomes = make_outcomes({'rgb': 4, 'depth': 5})
    data = {'reader': reader} if reader else {}
    save(tmp_path / 'runs', make_record('m', 0, outcomes, dataset=data), outcomes)
    made = writer.write_tables(tmp_path, 'faces')
    assert made.problems == []
    shown = [row.label for row in made.blocks[0].rows if row.kind == 'published']
    assert shown == (['Net (published)'] if reader in ('faces', '') else [])


@pytest.mark.parametrize('damage', [*DAMAGED, *CHANGES])
def test_a_damaged_file_is_named_and_its_rows_are_left_out(
    damage, folder, tmp_path, monkeypatch, capsys
):
    text = damage
    if callable(damage):
        damage(content := folder)
        text = json.dumps(content)
    published.PUBLISHED.joinpath('faces.json').write_text(text)
    outcomes = make_outcomes({'rgb': 4, 'depth': 5})
    save(tmp_path / 'runs', make_record('m', 0, outcomes), outcomes)
    made = writer.write_tables(tmp_path, 'faces')
    assert len([p for p in made.problems if p.startswith('results/published/faces.json: ')]) == 1
    assert '\n' not in ''.join(made.problems)
    rows = [row.kind for row in made.blocks[0].rows]
    assert 'method' in rows
    assert 'published' not in rows


@pytest.mark.parametrize('make', [os.mkfifo, lambda p: p.mkdir(), lambda p: p.symlink_to(p)])
def test_what_is_no_file_is_named(make, folder):
    make(published.PUBLISHED / 'faces.json')
    problems = []
    assert published.published('faces', problems) == []
    assert len(problems) == 1


def test_footnotes_tell_the_number_of_runs_and_what_is_truncated(folder):
    row = published.published('brains', [])[0]
    others = [
        {**row, 'method': 'One', 'runs': 1, 'truncated': 'mean'},
        {**row, 'method': 'Some', 'runs': None, 'truncated': 'cells and mean'},
    ]
    assert published.sources([row, *others]) == [
        'published Net, protocol A: Paper; second-hand; mean of 3 runs',
        'published One: Paper; second-hand; one run',
        'published Some: Paper; second-hand; number of runs not known',
        'One (published): the mean is truncated, not rounded',
        'Some (published): the cells and the mean are truncated, not rounded',
        '‡ not comparable: Net, protocol A; One; Some: the split is another',
    ]


def test_a_table_shows_the_rows_of_its_metric_with_the_mark_of_what_is_not_comparable():
    record = make_record('m', 0, make_outcomes({'rgb': 4, 'depth': 5, 'ir': 6}))
    for scores in record['scores']['test'].values():
        scores['accuracy'] = 0.5
    rows = published.published('casia_surf', [])
    table = writer.table([record], lambda r: None, published=rows)
    shown = {row.label: row for row in table.blocks[0].rows if row.kind == 'published'}
    assert 'LCR (published)' in shown
    assert 'MMANet, batches of 64 (published)' not in shown
    assert {row.sign for row in shown.values()} == {'‡'}
    assert 'recalled, never read' in markdown(table)
    other = writer.table([record], lambda r: None, published=rows, metric='accuracy')
    labels = [row.label for row in other.blocks[0].rows if row.kind == 'published']
    assert labels == [f'{row["method"]} (published)' for row in rows if row['metric'] == 'accuracy']
