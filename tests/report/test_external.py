"""Rows of other code in tables and on the page, from records made by hand."""

import csv
import io
import itertools

import numpy as np
import pytest
from made_records import ID, NAMES, SUBSETS, make_outcomes, make_record, save

from benchmark import tables
from benchmark.records import repetition
from benchmark.records.identity import identity, protocol_id
from benchmark.report import captions, writer
from benchmark.report.figures.charts import CHARTS
from benchmark.report.figures.source import Asked, Source
from benchmark.report.page import bundle, document, scores
from benchmark.report.page.view import View
from benchmark.report.render import csv as to_csv
from benchmark.report.render import markdown, terminal
from benchmark.report.selection import Selection

GUEST = 'net (external)'
NO_COST = {
    **dict.fromkeys(('parameters', 'deployed_parameters', 'train_seconds'), 0),
    **dict.fromkeys(('teacher_seconds', 'test_seconds', 'peak_memory_mb'), 0.0),
    'flops': {},
}


class Kept:
    """Records and their outcomes."""

    def __init__(self):
        self.records, self.outcomes = [], {}

    def add(self, label, seed, errors, subsets=SUBSETS, external=False, **changes):
        found = make_outcomes(dict.fromkeys(subsets, errors), [seed, errors, *label.encode()])
        if external:
            method = {'name': 'net', 'options': {}, 'source': 'external', 'code': f'{seed}'}
            changes = {'method': method, 'cost': NO_COST, **changes}
        record = make_record(label, seed, found, **changes)
        if external:
            own = protocol_id({}, record['dataset']['fingerprint'])
            record |= {'protocol': {}, 'protocol_id': own, 'environment': {}}
            record['gaps'] = {'rates': {}, 'mask_hash': '', 'dropped': 0}
            record['identity'] = identity(record)
        self.records.append(record)
        self.outcomes[record['identity']] = found
        return record

    def table(self, **arguments):
        return writer.table(self.records, lambda r: self.outcomes.get(r['identity']), **arguments)


@pytest.fixture
def ours():
    """Two methods with three seeds."""
    kept = Kept()
    for (label, errors), seed in itertools.product({'good': 8, 'poor': 80}.items(), range(3)):
        kept.add(label, seed, errors + seed)
    return kept


@pytest.fixture
def both(ours):
    """The same with three trainings of other code, by numbers of its own, better than both."""
    for seed in (11, 12, 20):
        ours.add(GUEST, seed, 1, external=True)
    return ours


def marks(block):
    return {row.label: row.cells['mean'].mark for row in block.rows if row.kind == 'method'}


def test_rows_of_other_code_stand_and_are_tested_beside_ours(both):
    made = both.table()
    (block,) = made.blocks
    assert made.problems == []
    assert block.protocols == {ID}
    assert marks(block) == {'good': 'second', 'poor': '', GUEST: 'best'}
    assert block.first.external == [GUEST]
    row = next(row for row in block.rows if row.label == GUEST)
    expected = [100 * both.records[-1]['scores']['test'][s]['ACER'] for s in SUBSETS]
    assert [round(row.cells[s].mean, 9) for s in SUBSETS] == pytest.approx(expected)
    assert (row.seeds, row.extra['options']) == (3, 'external')


def test_other_numbers_of_trainings_take_no_test_from_our_rows(ours):
    alone = marks(ours.table().blocks[0])
    assert alone == {'good': 'best', 'poor': ''}
    for seed in (7, 8, 9):
        ours.add(GUEST, seed, 200, external=True)
    (block,) = ours.table().blocks
    assert marks(block) == {'good': 'best', 'poor': 'second', GUEST: ''}
    assert block.first.standings.seeds == [0, 1, 2]


def test_the_text_says_what_may_be_concluded_and_what_is_not_known(both):
    (block,) = both.table().blocks
    told = captions.caption(block)
    assert f'Rows of other code: {GUEST}.' in told
    assert f'Protocol {ID}: training masks drawn uniformly' in told
    assert 'not between methods under one protocol' in told
    assert any('external (other code was trained' in line for line in captions.origins(block))
    assert not any('different versions of the code' in line for line in captions.notes(block))
    assert f'| {GUEST}' in markdown(both.table())
    assert 'external: predictions of other code' in terminal(both.table())
    both.records = both.records[:6]
    assert 'other code' not in captions.caption(both.table().blocks[0])


def test_cost_and_encoder_of_other_code_are_not_told(both):
    for record in both.records[:6]:
        record['dataset']['encoder'] = 'width 8'
    made = both.table()
    assert [row[0] for row in made.blocks[0].cost.rows] == ['good', 'poor']
    told = {
        row['method']: (row['parameters'], row['encoder'])
        for row in csv.DictReader(io.StringIO(to_csv(made)))
        if row['seeds']
    }
    own = '2000000', 'width 8'
    assert told == {'good': own, 'poor': own, GUEST: ('', '')}


def test_without_runs_of_ours_other_code_has_a_block_of_its_own():
    kept = Kept()
    for seed in range(3):
        kept.add(GUEST, seed, 5, external=True)
    (block,) = kept.table().blocks
    assert block.cost is None
    told = captions.caption(block)
    assert block.first.protocol_id.startswith('external-')
    assert f'Protocol {block.first.protocol_id}: that of other code, which is not known.' in told
    assert 'training data are complete' not in told


def test_a_method_of_the_same_name_is_another_row(ours):
    method = {'name': 'good', 'options': {'alpha': 1.0}, 'source': 'external'}
    ours.add('good (external)', 0, 5, external=True, method=method)
    (block,) = ours.table().blocks
    assert {label: len(members) for label, members in block.first.groups.items()} == {
        'good': 3,
        'good (external)': 1,
        'poor': 3,
    }


def test_other_data_are_another_block(ours):
    ours.add(GUEST, 0, 5, external=True, dataset={'fingerprint': 'xyz'})
    first, second = ours.table().blocks
    assert (first.first.external, second.first.external) == ([], [GUEST])


def test_other_code_stands_in_every_protocol_of_the_data(both):
    both.add('good', 0, 9, protocol={'epochs': 4})
    found = [block.first.external for block in both.table().blocks]
    assert found == [[GUEST], [GUEST]]


def test_the_table_by_training_gaps_leaves_other_code_out(both):
    for seed in range(3):
        rates = {'rates': dict(zip(NAMES, (0.5, 0, 0), strict=True))}
        both.add('good', seed, 30, gaps=rates, protocol={'rates': 'rgb=0.5'})
    (block,) = both.table(by_gaps=True).gaps.blocks
    assert {row.label for row in block.rows if row.kind == 'method'} == {'good', 'poor'}


def test_subsets_that_lack_make_a_partial_row(ours):
    ours.add(GUEST, 0, 5, subsets=SUBSETS[:2], external=True)
    (block,) = ours.table().blocks
    row = next(row for row in block.rows if row.label == GUEST)
    assert [s for s in SUBSETS if not np.isnan(row.cells[s].mean)] == SUBSETS[:2]
    assert f'{GUEST}: summaries over 2 of {len(SUBSETS)} subsets' in captions.notes(block)


@pytest.fixture
def partial(ours):
    """The block of two methods and of other code that is better on the subsets that it has."""
    some = ['rgb', 'depth', 'rgb+depth+ir']
    for seed in range(3):
        ours.add(GUEST, seed, 1, subsets=some, external=True)
    (block,) = ours.table().blocks
    return block


def test_the_page_ranks_a_row_on_some_subsets_behind_those_on_all(partial):
    view = View('v', partial)
    assert [view.methods[m] for m in view.order] == ['good', 'poor', GUEST]
    (signs,) = ({r['name']: r['sign'] for r in t['rows']} for t in [scores.table(view)])
    assert signs == {'good': '', 'poor': '', GUEST: '§'}
    heat = scores.heatmap(view)['parts'][0]
    assert dict(zip(heat['rows'], heat['signs'], strict=True)) == signs
    (heat,) = scores.heatmap(view)['parts']
    assert view.methods[heat['baseline']] == 'good'


def test_lines_by_number_of_missing_modalities_have_means_over_the_same_subsets(partial):
    view = View('v', partial)
    section = scores.missing(view)
    drawn = {(view.methods[row[0]], row[1]) for row in section['parts'][0]['rows']}
    every = set(itertools.product(['good', 'poor'], range(3)))
    assert drawn == every | {(GUEST, 0)}
    assert f'Left out where their mean would be over other subsets: {GUEST}.' in section['about']


@pytest.mark.parametrize('baseline', ['good', GUEST])
def test_differences_are_of_means_over_the_same_subsets(partial, baseline):
    view = View('v', partial)
    (picture,) = CHARTS['difference'](Source(view, {}, {}, Asked(('mean',), baseline)))
    other = GUEST if baseline == 'good' else 'good'
    (found,) = [row for row in picture.rows if row[0] == other]
    means = dict(zip(view.methods, view.means, strict=True))
    places = {key: k for k, key in enumerate(partial.first.columns)}
    expected = means[other] - means[baseline]
    for title, value in zip(picture.header[1:], found[1:], strict=True):
        if title in ('rgb', 'depth', 'rgb+depth+ir'):
            assert value == pytest.approx(expected[places[title]], abs=1e-3)
        else:
            assert value is None, title


@pytest.mark.parametrize(
    'words',
    [
        ['--baseline', GUEST],
        ['--baseline', 'good'],
        ['--only', 'net', 'poor'],
        ['--only', GUEST],
        ['--fail', 'rgb=0.1'],
        ['--where', 'rgb=off'],
        ['--summaries', 'mean'],
        ['--common-samples'],
        ['--transpose'],
        ['--fail', 'rgb=0.1', '--where', 'ir=off', '--only', 'net', 'good', '--baseline', GUEST],
    ],
    ids=' '.join,
)
def test_options_of_tables_apply_to_other_code(both, words, tmp_path, capsys):
    for record in both.records:
        save(tmp_path / 'runs', record, both.outcomes[record['identity']])
    assert tables.main([str(tmp_path), *words]) == 0
    told = capsys.readouterr()
    assert told.err == ''
    assert GUEST in told.out


def test_the_expected_score_of_other_code_is_that_of_its_subsets(both):
    selection = Selection(fail='rgb=0.5,depth=0.5,ir=0.5')
    (block,) = both.table(selection=selection).blocks
    row = next(row for row in block.rows if row.label == GUEST)
    # All of the 2^3 states are as probable; nothing at all is worth the best constant answer.
    assert row.cells['expected'].mean == pytest.approx(
        np.mean([row.cells[s].mean for s in SUBSETS]), rel=0.2
    )


def test_the_page_shows_other_code_without_a_cost(both, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, 'javascript', lambda: '')
    for record in both.records:
        save(tmp_path / 'runs', record, both.outcomes[record['identity']])
    (block,) = document.dataset('faces', tmp_path / 'runs' / 'faces', 'd0')['blocks']
    assert block['methods'] == ['good', GUEST, 'poor']
    cost = next(section for section in block['sections'] if section['id'].endswith('cost'))
    assert {row[0] for row in cost['parts'][0]['rows']} == {0, 2}
    for section in block['sections']:
        assert 'cannot be made' not in str(section), section['title']


def test_the_command_that_repeats_other_code_compares_its_file(both):
    assert repetition.command(both.records[-1]) == 'python benchmark/compare.py FILE'
