"""Some rows, sensors that are off and sensors that fail, against computations from the records."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
from made_records import NAMES, SUBSETS, make_outcomes, make_record, save
from scipy import stats

from benchmark import tables
from benchmark.report import captions, statistics, writer
from benchmark.report.render import csv as to_csv
from benchmark.report.render import markdown, terminal
from benchmark.report.selection import Selection

ERRORS = {'a': 4, 'b': 40, 'b:x=1': 80, 'c': 120}
FAIL = 'rgb=0.1,ir=0.3'
ABSENT = {'rgb': 0.1, 'depth': 0.0, 'ir': 0.3}


@pytest.fixture
def made():
    """Twelve records by method and seed, whose errors grow with the number of missing sensors."""
    records, outcomes = [], {}
    for (label, wrong), seed in itertools.product(ERRORS.items(), range(3)):
        errors = {s: wrong + seed + 7 * (2 - s.count('+')) + 9 * ('ir' in s) for s in SUBSETS}
        found = make_outcomes(errors, [seed, *label.encode()])
        options = {'options': {'x': len(label)}}
        record = make_record(label, seed, found, dataset={'chance': 0.5}, method=options)
        records.append(record)
        outcomes[record['identity']] = found
    return records, outcomes


def block_of(made, *records, **arguments):
    found = records or made[0]
    table = writer.table(found, lambda r: made[1].get(r['identity']), **arguments)
    assert table.problems == []
    (block,) = table.blocks
    return block


def rows_of(block):
    return {row.label: row for row in block.rows}


def scores_of(records, label):
    """Scores of each seed in percent, by subset."""
    chosen = [r['scores']['test'] for r in records if r['method']['label'] == label]
    return [{s: 100 * test[s]['ACER'] for s in SUBSETS} for test in chosen]


def drawn(scores, absent, chance):
    """The expectation by going through all states of the sensors one by one."""
    total = 0.0
    for there in itertools.product((True, False), repeat=3):
        p = math.prod(1 - absent[n] if t else absent[n] for n, t in zip(NAMES, there, strict=True))
        subset = '+'.join(n for n, t in zip(NAMES, there, strict=True) if t)
        total += p * (scores[subset] if subset else chance)
    return total


def test_only_the_rows_that_were_asked_for_are_shown_and_compared(made):
    block = block_of(made, selection=Selection(only=('a', 'c')))
    assert [row.label for row in block.rows if row.kind == 'method'] == ['a', 'c']
    assert block.first.standings.ranked == ['a', 'c']
    assert 'Only these methods were asked for and are compared: a, c.' in captions.caption(block)


def test_a_word_is_a_row_before_it_is_a_method(made):
    labels = list(block_of(made, selection=Selection(only=('b',))).first.groups)
    assert labels == ['b']
    others = [r for r in made[0] if r['method']['label'] != 'b']
    assert list(block_of(made, *others, selection=Selection(only=('b',))).first.groups) == ['b:x=1']


def test_without_a_sensor_the_subsets_that_are_left_count(made):
    block = block_of(made, selection=Selection(where='ir=off'))
    assert list(block.columns) == ['rgb', 'depth', 'rgb+depth', 'mean', 'worst', 'missing_1',
                                   'missing_2']  # fmt: skip
    row = rows_of(block)['b'].cells
    left = np.array([[s['rgb'], s['depth'], s['rgb+depth']] for s in scores_of(made[0], 'b')])
    assert row['mean'].mean == pytest.approx(left.mean())
    assert row['mean'].std == pytest.approx(left.mean(1).std(ddof=1))
    assert row['worst'].mean == pytest.approx(left.max(1).mean())
    assert row['mean'].mark == 'second'
    assert 'Only the subsets without ir count' in captions.caption(block)


def test_without_a_sensor_another_method_can_be_the_best(made):
    records, outcomes = [], {}
    for label, seed in itertools.product('pq', range(3)):
        few, many = (4, 90) if label == 'p' else (60, 5)
        found = make_outcomes({s: many if 'ir' in s else few for s in SUBSETS}, [seed, ord(label)])
        record = make_record(label, seed, found)
        records.append(record)
        outcomes[record['identity']] = found
    best = {}
    for where in ('', 'ir=off'):
        block = block_of((records, outcomes), selection=Selection(where=where))
        (best[where],) = (k for k, r in rows_of(block).items() if r.cells['mean'].mark == 'best')
    assert best == {'': 'q', 'ir=off': 'p'}


@pytest.mark.parametrize('chance', [0.5, None])
@pytest.mark.parametrize('fail', ['rgb=0.1,ir=0.3', '0.2', 'rgb=0.1,depth=1,ir=0'])
def test_the_expected_score_goes_through_all_states_of_the_sensors(made, fail, chance):
    for record in made[0]:
        record['dataset']['chance'] = chance
    block = block_of(made, selection=Selection(fail=fail))
    absent = {'rgb=0.1,ir=0.3': ABSENT, '0.2': dict.fromkeys(NAMES, 0.2)}.get(
        fail, {'rgb': 0.1, 'depth': 1.0, 'ir': 0.0}
    )
    none = math.prod(absent.values())
    rows, lines = rows_of(block), {r['method']: r for r in _csv(made, fail)}
    for label in ERRORS:
        each = [drawn(s, absent, 100 * (chance or 0)) for s in scores_of(made[0], label)]
        each = [value if chance else value / (1 - none) for value in each]
        cell = rows[label].cells['expected']
        assert cell.mean == pytest.approx(np.mean(each))
        assert cell.std == pytest.approx(np.std(each, ddof=1))
        low, high = stats.t.interval(0.95, 2, np.mean(each), stats.sem(each))
        assert float(lines[label]['expected_low']) == pytest.approx(low, rel=1e-5)
        assert float(lines[label]['expected_high']) == pytest.approx(high, rel=1e-5)
        assert rows[label].extra['expected 95 %'] == f'{low:.2f} to {high:.2f}'


def _csv(made, fail):
    load = lambda r: made[1][r['identity']]  # noqa: E731
    found = writer.table(made[0], load, selection=Selection(fail=fail))
    return list(csv.DictReader(io.StringIO(to_csv(found))))


def test_a_sensor_that_is_off_is_missing_with_certainty(made):
    block = block_of(made, selection=Selection(where='ir=off', fail='rgb=0.1'))
    absent = {'rgb': 0.1, 'depth': 0.0, 'ir': 1.0}
    each = [drawn(s, absent, 50) for s in scores_of(made[0], 'c')]
    assert rows_of(block)['c'].cells['expected'].mean == pytest.approx(np.mean(each))


def test_rows_are_ranked_by_the_expected_score_if_it_is_asked_for():
    # The mean over subsets prefers p, a system that rarely loses a sensor prefers q.
    records, outcomes = [], {}
    for label, seed in itertools.product('pq', range(3)):
        found = make_outcomes(
            {s: 60 if label == 'p' else 5 if s == SUBSETS[-1] else 90 for s in SUBSETS},
            [seed, ord(label)],
        )
        record = make_record(label, seed, found)
        records.append(record)
        outcomes[record['identity']] = found
    made = records, outcomes
    first = {}
    for fail in ('', '0.01'):
        block = block_of(made, selection=Selection(fail=fail))
        first[fail] = {k: r.extra['rank 95 %'] for k, r in rows_of(block).items()}
    assert first == {'': {'p': '1', 'q': '2'}, '0.01': {'p': '2', 'q': '1'}}
    assert 'the rank in the expected score' in captions.caption(block)


def test_a_subset_that_cannot_occur_is_not_needed(made):
    for record in made[0]:
        for subset in ('rgb', 'ir', 'rgb+ir'):
            del record['scores']['test'][subset], record['n']['test'][subset]
        for subset in ('rgb', 'ir', 'rgb+ir'):
            for kind in ('pred',):
                del made[1][record['identity']][f'{kind}/{subset}']
    sure = rows_of(block_of(made, selection=Selection(fail=FAIL)))['a'].cells['expected']
    assert not math.isnan(sure.mean)
    lost = rows_of(block_of(made, selection=Selection(fail='0.1')))['a'].cells['expected']
    assert math.isnan(lost.mean)


def test_a_failing_sensor_that_never_fails_gives_the_score_of_all(made):
    row = rows_of(block_of(made, selection=Selection(fail='0')))['a'].cells
    assert row['expected'] == row['rgb+depth+ir']


def test_one_seed_has_no_interval():
    assert all(map(math.isnan, statistics.interval([0.3])))


def test_the_expected_score_is_in_the_terminal_and_the_files(made):
    table = writer.table(made[0], lambda r: made[1][r['identity']], selection=Selection(fail=FAIL))
    header = next(x for x in terminal(table, color=False).splitlines() if x.startswith('method'))
    assert header.split()[-3:] == ['expected', 'mean', 'worst']
    assert '| expected | mean | worst |' in markdown(table)


@pytest.fixture
def folder(made, tmp_path):
    for record in made[0]:
        save(tmp_path / 'runs', record, made[1][record['identity']])
    return tmp_path


@pytest.mark.parametrize(
    ('words', 'stem', 'told'),
    [
        (['--only', 'a', 'c'], 'faces-only', None),
        (['--where', 'ir=off'], 'faces-ir-off', None),
        (['--fail', FAIL], 'faces-fail-rgb-0.1-ir-0.3', None),
        (['--fail', 'rgb=.1,ir=0.30'], 'faces-fail-rgb-0.1-ir-0.3', None),
        (['--summaries', 'mean', 'missing_1'], 'faces', None),
        (['--where', 'ir=off', '--baseline', 'c'], 'faces-ir-off faces-ir-off-baseline', None),
        (['--only', 'cc'], '', "faces: unknown method 'cc'; did you mean 'c'?"),
        (['--where', 'irr=off'], '', "modality in --where 'irr'; did you mean 'ir'?"),
        (['--where', 'ir=on'], '', "--where: expected MODALITY=off, found 'ir=on'"),
        (['--where', 'ir'], '', "--where: expected MODALITY=off, found 'ir'"),
        (['--where', 'ir=off,rgb=off,depth=off'], '', 'expected a modality that is left'),
        (['--fail', 'irr=0.1'], '', "modality in --fail 'irr'; did you mean 'ir'?"),
        (['--fail', 'ir=1.5'], '', "expected a missing rate from 0 to 1, found '1.5'"),
        (['--fail', 'ir=x'], '', "expected a missing rate from 0 to 1, found 'x'"),
        (['--fail', 'ir=0.1', '--where', 'ir=off'], '', 'expected no ir, which --where says'),
        (['--summaries', 'meen'], '', "unknown summary 'meen'; did you mean 'mean'?"),
        (['--summaries', 'rgb'], '', "unknown summary 'rgb'"),
        (['--summaries', 'expected'], '', "no subset or summary 'expected'"),
    ],
)
def test_the_command_writes_files_of_their_own_or_tells_one_line(folder, words, stem, told, capsys):
    if told is None:
        assert tables.main([str(folder), *words]) == 0
        files = {f.name for f in (folder / 'tables').iterdir()}
        assert files == {f'{s}.{suffix}' for s in stem.split() for suffix in ('md', 'tex', 'csv')}
        return
    assert tables.main([str(folder), *words]) == 2
    found = capsys.readouterr().err
    assert told in found
    assert len(found.strip().splitlines()) == 1


def test_summaries_are_chosen_beside_all_subsets(folder):
    tables.main([str(folder), '--summaries', 'missing_1', 'mean'])
    header = next(csv.reader((folder / 'tables' / 'faces.csv').open()))
    assert header[3:12] == [*SUBSETS, 'missing_1', 'mean']
