"""The table with rows by training gaps, from records made by hand."""

import csv
import io
import re

import numpy as np
import pytest
from made_records import (
    NAMES,
    SAMPLES,
    SUBSETS,
    acer_of,
    make_failure,
    make_outcomes,
    make_record,
    make_refusal,
    save,
)

from benchmark import tables
from benchmark.report import captions, writer
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal

HALF = 'rgb=0.5'
MIXED = 'rgb=0.2,depth=0.5,ir=0.8'
REASON = 'this method trains on complete samples only, and 20 of 40 have gaps'
REALISED = {
    '': (0.0, 0.0, 0.0),
    HALF: (0.5, 0.0, 0.0),
    MIXED: (0.2, 0.5, 0.8),
    '0.3': (0.292, 0.292, 0.292),
}


def gaps(rates, **protocol):
    """What training gaps change in a record."""
    return {
        'protocol': {'rates': rates, **protocol},
        'gaps': {'rates': dict(zip(NAMES, REALISED[rates], strict=True))},
    }


def named(rates, **protocol):
    """The id of the protocol of such a record."""
    return make_record('any', 0, make_outcomes({}), **gaps(rates, **protocol))['protocol_id']


class Runs:
    """Runs under several training gaps and their outcomes."""

    def __init__(self):
        self.records, self.failed, self.outcomes = [], [], {}

    def add(self, label, seed, errors, rates, changes=None, **protocol):
        outcomes = make_outcomes(dict.fromkeys(SUBSETS, errors), [seed, errors, *label.encode()])
        changes = {**gaps(rates, **protocol), **(changes or {})}
        record = make_record(label, seed, outcomes, **changes)
        self.records.append(record)
        self.outcomes[record['identity']] = outcomes
        return record

    def fail(self, label, seed, rates, error, make=make_failure):
        failure = make(label, seed, error)
        protocol = {**failure['protocol'], **gaps(rates)['protocol']}
        failure |= {'protocol': protocol, 'protocol_id': named(rates)}
        self.failed.append(failure)

    def load(self, record):
        return self.outcomes.get(record['identity'])

    def joined(self, **arguments):
        made = writer.table(self.records, self.load, self.failed, by_gaps=True, **arguments)
        return made.gaps

    def only_block(self, **arguments):
        (block,) = self.joined(**arguments).blocks
        return block


@pytest.fixture
def runs():
    """Two methods under three training gaps, three seeds; good is far ahead under MIXED alone."""
    made = Runs()
    for seed in range(3):
        for rates, good, poor in ((MIXED, 40, 150), ('', 8, 8), (HALF, 20, 20)):
            made.add('good', seed, good + seed, rates)
            made.add('poor', seed, poor + seed, rates)
    return made


def refuse(made, label='needy', seeds=(0, 1), rates=(HALF, MIXED)):
    for seed in seeds:
        for text in rates:
            made.fail(label, seed, text, f'{label} on faces: {REASON}', make_refusal)


def test_rows_are_sorted_by_how_much_is_missing_and_then_by_method(runs):
    block = runs.only_block()
    assert captions.lead(block) == 'training gaps % (rgb/depth/ir)'
    assert [(row.lead, row.label) for row in block.rows] == [
        ('0/0/0', 'good'),
        ('0/0/0', 'poor'),
        ('50/0/0', 'good'),
        ('50/0/0', 'poor'),
        ('20/50/80', 'good'),
        ('20/50/80', 'poor'),
    ]
    assert list(block.columns) == [*SUBSETS, 'mean', 'worst']


def test_cells_are_those_of_the_records_under_the_same_gaps(runs):
    block = runs.only_block()
    for rates, lead in (('', '0/0/0'), (HALF, '50/0/0'), (MIXED, '20/50/80')):
        mine = [
            runs.load(r)
            for r in runs.records
            if r['method']['name'] == 'poor' and r['protocol']['rates'] == rates
        ]
        (row,) = (row for row in block.rows if (row.lead, row.label) == (lead, 'poor'))
        assert row.cells['ir'].mean == pytest.approx(100 * sum(acer_of(o, 'ir') for o in mine) / 3)
        worst = [max(acer_of(o, s) for s in SUBSETS) for o in mine]
        assert row.cells['worst'].mean == pytest.approx(100 * sum(worst) / 3)
        assert row.seeds == 3


def test_marks_compare_methods_under_the_same_gaps(runs):
    marked = {
        (row.lead, row.label): {c.mark for c in row.cells.values()}
        for row in runs.only_block().rows
    }
    assert marked.pop(('20/50/80', 'good')) == {'best'}
    assert set().union(*marked.values()) == {''}


def test_realised_rates_are_shown_and_not_those_asked_for(runs):
    runs.add('good', 0, 9, '0.3')
    leads = [row.lead for row in runs.only_block().rows]
    assert '29.2/29.2/29.2' in leads


def test_gaps_of_the_same_realised_rates_are_told_apart():
    runs = Runs()
    for text in ('0.5', 'rgb=0.5,depth=0.5,ir=0.5'):
        changes = {'gaps': {'rates': dict.fromkeys(NAMES, 0.5)}, 'protocol': {'rates': text}}
        runs.add('m', 0, 9, HALF, changes)
    assert [row.lead for row in runs.only_block().rows] == [
        '50/50/50 (rates=0.5)',
        '50/50/50 (rates=rgb=0.5,depth=0.5,ir=0.5)',
    ]


def test_protocols_that_differ_in_more_than_rates_are_never_joined(runs):
    runs.add('good', 0, 9, '', epochs=9)
    runs.add('good', 0, 9, HALF, epochs=9)
    runs.add('good', 0, 9, HALF, {'dataset': {'fingerprint': 'xyz'}})
    runs.add('good', 0, 9, '', selection='worst')
    other = runs.records[-2]['protocol_id']
    blocks = {frozenset(b.protocols): len(b.rows) for b in runs.joined().blocks}
    assert sorted(blocks.values()) == [1, 2, 6]
    assert blocks[frozenset({other})] == 1
    assert blocks[frozenset({named('', epochs=9), named(HALF, epochs=9)})] == 2


def test_the_ceiling_stands_once_beneath_all_gaps(runs):
    for record in runs.records:
        record['dataset'] |= {'ceiling': dict.fromkeys(SUBSETS, 0.05), 'chance': 0.5}
    block = runs.only_block()
    assert [row.label for row in block.rows[6:]] == ['ceiling (ideal observer)', 'chance']
    assert [row.lead for row in block.rows[6:]] == ['', '']


def test_refused_methods_are_noted_once_with_the_gaps(runs):
    refuse(runs)
    runs.fail('broken', 0, HALF, 'out of memory')
    block = runs.only_block()
    assert captions.failures(block) == [
        f'refused: needy on 50/0/0, 20/50/80: {REASON}',
        f'failed: broken seed 0 ({named(HALF)}): out of memory',
    ]
    usual = writer.table(runs.records, runs.load, runs.failed).blocks
    told = [line for b in usual for line in captions.failures(b) if 'needy' in line]
    assert sorted(told) == sorted(
        f'refused: needy ({named(text)}): {REASON}' for text in (HALF, MIXED)
    )


def test_gaps_under_which_nothing_ran_are_named_by_the_rates_asked_for(runs):
    refuse(runs, rates=['0.3'])
    assert captions.failures(runs.only_block()) == [f'refused: needy on 30/30/30: {REASON}']
    runs.add('good', 0, 9, '0.3')
    assert captions.failures(runs.only_block()) == [f'refused: needy on 29.2/29.2/29.2: {REASON}']


def test_a_failure_of_another_protocol_is_not_told(runs):
    refuse(runs)
    for record in runs.failed:
        record['protocol']['epochs'] = 99
    assert captions.failures(runs.only_block()) == []


def test_footnotes_name_their_gaps(runs):
    runs.add('good', 3, 9, HALF)
    flat = runs.add('flat', 0, 0, HALF)
    outcomes = {**runs.load(flat), 'pred/ir': np.zeros(SAMPLES, np.int16)}
    flat['scores']['test']['ir']['ACER'] = 0.5
    runs.outcomes[flat['identity']] = outcomes
    block = runs.only_block()
    assert captions.notes(block)[:2] == ['0/0/0: 3 of 4 seeds', '20/50/80: 3 of 4 seeds']
    assert '50/0/0: poor: 3 of 4 seeds' in captions.notes(block)
    assert any(re.fullmatch(r'50/0/0: † flat collapsed: .* on ir \(seed 0\)', n)
               for n in captions.notes(block))  # fmt: skip
    assert captions.size(block) == '3 settings of training gaps, 4 seeds, 400 test samples'


def test_the_size_is_that_of_the_setting_with_most_seeds(runs):
    runs.add('good', 3, 9, HALF)
    for label in ('third', 'fourth'):
        runs.add(label, 0, 9, MIXED)
    told = captions.size(runs.only_block())
    assert told == '3 settings of training gaps, 4 seeds, 400 test samples'


def test_markdown_and_terminal_have_a_column_for_the_gaps(runs):
    table = runs.joined()
    text = markdown(table)
    assert '## faces: ACER ↓ (%) by training gaps' in text
    assert '| training gaps % (rgb/depth/ir) | method | rgb |' in text
    assert '| --- | --- | ---: |' in text
    assert re.search(r'\| 20/50/80 \| good \| \*\*\d', text)
    assert 'Cost' not in text
    lines = terminal(table, color=False).splitlines()
    assert lines[0].endswith(
        'by training gaps  (3 settings of training gaps, 3 seeds, 400 test samples)'
    )
    assert lines[1].split('  ')[0] == 'training gaps % (rgb/depth/ir)'
    assert re.match(r'20/50/80 +poor +\d', lines[8])
    assert 'faces' in terminal(table, {named(HALF)})
    assert terminal(table, {'uniform-other'}) == ''


def test_latex_is_balanced_and_parts_the_gaps(runs):
    refuse(runs, label='needy_one')
    text = latex(runs.joined())
    ((columns, body),) = re.findall(r'\\begin{tabular}{ll(r+)}\n(.*?)\\end{tabular}', text, re.S)
    rows = [line for line in body.splitlines() if line.endswith(r' \\')]
    assert len(rows) == 7
    assert {len(re.findall(r'(?<!\\)&', row)) for row in rows} == {len(columns) + 1}
    assert body.count(r'\midrule') == 3
    bare = re.sub(r'\\[{}\\]', '', text)
    assert bare.count('{') == bare.count('}')
    for name in re.findall(r'\\begin{(\w+)}', text):
        assert text.count(f'\\begin{{{name}}}') == text.count(f'\\end{{{name}}}') == 1
    body = text[text.index(r'\caption') :]
    assert not re.search(r'(?<!\\)[_#%]', body)
    assert body.isascii()


def test_csv_holds_given_and_realised_rates(runs):
    rows = list(csv.DictReader(io.StringIO(to_csv(runs.joined()))))
    assert [r['method'] for r in rows] == ['good', 'poor'] * 3
    last = rows[-1]
    assert (last['protocol'], last['rates'], last['seeds']) == (named(MIXED), MIXED, '3')
    assert [float(last[f'missing_{m}_in_training']) for m in NAMES] == pytest.approx([20, 50, 80])
    assert float(last['worst']) > float(rows[0]['worst'])
    assert rows[0]['rates'] == ''


@pytest.fixture
def written(tmp_path, runs):
    refuse(runs)
    for record in runs.records:
        save(tmp_path / 'runs', record, runs.load(record))
    return tmp_path


def test_tables_are_remade_from_records_by_the_script(written, runs, capsys):
    writer.write_tables(written, 'faces')
    before = {p.name: p.read_bytes() for p in (written / 'tables').iterdir()}
    assert tables.main([str(written), '--gaps']) == 0
    out = capsys.readouterr().out
    assert f'faces: ACER ↓ (%)  ({named(HALF)}' in out
    assert 'training gaps % (rgb/depth/ir)' in out
    after = {p.name: p.read_bytes() for p in (written / 'tables').iterdir()}
    assert {name: after[name] for name in before} == before
    new = {f'faces-gaps.{suffix}' for suffix in ('md', 'tex', 'csv')}
    assert after.keys() - before.keys() == new
    runs.failed = []
    assert after['faces-gaps.md'].decode() == markdown(
        writer.write_tables(written, 'faces', by_gaps=True).gaps
    )
    assert tables.main([str(written), '--gaps']) == 0
    assert {p.name: p.read_bytes() for p in (written / 'tables').iterdir()} == after


def test_the_caption_speaks_of_the_gaps_with_most_seeds_then_most_methods():
    runs = Runs()
    for seed in range(3):
        runs.add('good', seed, 9, HALF)
    for label in ('good', 'fair', 'poor'):
        runs.add(label, 0, 9, '')
    text = captions.caption(runs.only_block())
    assert 'over 3 seeds' in text
    assert 'there is one method only' in text
    for seed in range(3):
        for label in ('good', 'fair'):
            runs.add(label, seed, 9, MIXED)
    text = captions.caption(runs.only_block())
    assert 'over 3 seeds' in text
    assert 'The best score is bold' in text


def test_gaps_can_be_shown_in_another_metric(written, runs):
    for path in (written / 'runs').rglob('record.json'):
        path.unlink()
    for record in runs.records:
        outcomes = runs.load(record)
        for subset, scores in record['scores']['test'].items():
            right = outcomes[f'pred/{subset}'] == outcomes['target']
            scores['accuracy'] = float(right.mean())
        save(written / 'runs', record, outcomes)
    made = writer.write_tables(written, 'faces', by_gaps=True, metric='accuracy')
    assert captions.title(made.gaps.blocks[0]).startswith('faces: accuracy ↑ (%) by')
    assert (written / 'tables' / 'faces-gaps-accuracy.csv').is_file()
    assert not (written / 'tables' / 'faces-gaps.csv').exists()


def test_without_gaps_there_is_nothing_to_show(tmp_path, capsys):
    outcomes = make_outcomes({'rgb': 4})
    save(tmp_path / 'runs', make_record('m', 0, outcomes, **gaps('')), outcomes)
    assert tables.main([str(tmp_path), '--gaps']) == 2
    assert capsys.readouterr().err == ('error: faces: no run with training gaps (rates)\n')
    assert not (tmp_path / 'tables').exists()
