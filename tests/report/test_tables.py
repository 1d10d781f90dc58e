"""Tables as text, from records made by hand."""

import csv
import io
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from made_records import (
    ID,
    SAMPLES,
    SUBSETS,
    TARGET,
    acer_of,
    make_failure,
    make_outcomes,
    make_record,
    make_refusal,
    save,
)
from scripts import run_script
from sklearn.metrics import balanced_accuracy_score

from benchmark import running
from benchmark import tables as commands
from benchmark.errors import UserError
from benchmark.missing import subset_ids
from benchmark.records import metrics, store
from benchmark.report import captions, common, published, writer
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal


class Runs:
    """Some runs and their outcomes."""

    def __init__(self):
        self.records, self.outcomes = [], {}

    def add(self, label, seed, errors, salt=0, **changes):
        if isinstance(errors, int):
            errors = dict.fromkeys(SUBSETS, errors)
        # Each label has errors of its own, the same whenever the test runs.
        outcomes = make_outcomes(errors, seed=[seed, salt, *label.encode()])
        record = make_record(label, seed, outcomes, **changes)
        self.records.append(record)
        self.outcomes[record['identity']] = outcomes
        return record

    def load(self, record):
        return self.outcomes.get(record['identity'])

    def table(self, **arguments):
        return writer.table(self.records, self.load, **arguments)

    def only_block(self, **arguments):
        (block,) = self.table(**arguments).blocks
        return block


@pytest.fixture
def three():
    """Three methods with 4, 40 and 120 wrong of 400, three seeds each."""
    runs = Runs()
    for seed in range(3):
        runs.add('good', seed, 4 + seed)
        runs.add('fair', seed, 40 + seed)
        runs.add('poor', seed, 120 + seed)
    return runs


def _row(block, label):
    (found,) = (row for row in block.rows if row.label == label)
    return found.cells


def test_columns_are_subsets_by_size_then_order_then_summaries(three):
    assert list(three.only_block().columns) == [
        *('rgb', 'depth', 'ir', 'rgb+depth', 'rgb+ir', 'depth+ir', 'rgb+depth+ir'),
        *('mean', 'worst', 'missing_0', 'missing_1', 'missing_2'),
    ]


def test_cells_are_mean_and_deviation_over_seeds_of_scikit_learns_acer(three):
    row = _row(three.only_block(), 'fair')
    fair = [three.load(r) for r in three.records if r['method']['name'] == 'fair']
    scores = np.array([[100 * acer_of(o, s) for s in SUBSETS] for o in fair])
    assert row['ir'].mean == pytest.approx(scores[:, 2].mean())
    assert row['ir'].std == pytest.approx(scores[:, 2].std(ddof=1))
    assert row['mean'].mean == pytest.approx(scores.mean())
    assert row['mean'].std == pytest.approx(scores.mean(1).std(ddof=1))
    assert row['worst'].mean == pytest.approx(scores.max(1).mean())
    assert row['missing_1'].mean == pytest.approx(scores[:, 3:6].mean())


def test_best_and_second_are_marked_where_the_difference_is_significant(three):
    block = three.only_block()
    assert {cell.mark for cell in _row(block, 'good').values()} == {'best'}
    assert {cell.mark for cell in _row(block, 'fair').values()} == {'second'}
    assert {cell.mark for cell in _row(block, 'poor').values()} == {''}


def test_nothing_is_marked_where_methods_differ_by_chance():
    runs = Runs()
    for seed in range(3):
        for label in ('a', 'b', 'c'):
            runs.add(label, seed, 40)
    block = runs.only_block()
    assert not any(cell.mark for row in block.rows for cell in row.cells.values())
    text = markdown(runs.table())
    assert '| **' not in text
    assert '<u>' not in text


def test_only_columns_with_a_significant_difference_are_marked():
    runs = Runs()
    for seed in range(3):
        runs.add('a', seed, {s: 40 for s in SUBSETS} | {'rgb': 5})
        runs.add('b', seed, {s: 40 for s in SUBSETS} | {'rgb': 100})
    row = _row(runs.only_block(), 'a')
    assert row['rgb'].mark == 'best'
    assert not any(row[s].mark for s in SUBSETS[1:])


def test_higher_is_better_turns_the_ranking_round():
    runs = Runs()
    for seed in range(3):
        for label, errors in (('good', 4), ('poor', 100)):
            record = runs.add(label, seed, errors, dataset={'metric': 'accuracy'})
            record['dataset']['higher_is_better'] = True
            for scores in record['scores']['test'].values():
                scores['accuracy'] = 1 - errors / SAMPLES
    block = runs.only_block()
    assert _row(block, 'good')['rgb'].mark == 'best'
    assert _row(block, 'poor')['worst'].mean == pytest.approx(75)
    assert 'accuracy ↑' in captions.title(block)


def test_segmentation_is_ranked_by_its_areas():
    runs = Runs()
    rng = np.random.default_rng(0)
    target = rng.integers(3, size=(60, 50))
    for seed, label in itertools.product(range(3), ('good', 'poor')):
        error = 0.05 if label == 'good' else 0.4
        wrong = rng.random(target.shape) < error
        predicted = np.where(wrong, (target + 1) % 3, target)
        areas = np.array(
            [
                [[np.sum(x & y) for x, y in zip(t == k, p == k, strict=True)] for k in range(3)]
                for t, p in zip(target, predicted, strict=True)
            ]
        ).sum(-1)
        sizes = [[(x == k).sum(1) for k in range(3)] for x in (predicted, target)]
        stacked = np.stack([areas, np.transpose(sizes[0]), np.transpose(sizes[1])], axis=1)
        record = runs.add(label, seed, 0, dataset={'metric': 'mIoU', 'kind': 'segmentation'})
        record['dataset']['higher_is_better'] = True
        score = float(metrics.miou(stacked.sum(0)))
        record['scores']['test'] = {s: {'mIoU': score} for s in SUBSETS}
        runs.outcomes[record['identity']] = {f'areas/{s}': stacked for s in SUBSETS}
    assert runs.table().problems == []
    assert _row(runs.only_block(), 'good')['rgb'].mark == 'best'


def test_without_outcomes_nothing_is_marked_and_the_caption_says_so(three):
    (block,) = writer.table(three.records, lambda record: None).blocks
    assert not any(cell.mark for row in block.rows for cell in row.cells.values())
    assert 'without outcomes' in captions.caption(block)


def test_a_row_without_outcomes_is_shown_and_leaves_its_differences_untested(three):
    for record in three.records:
        if record['method']['name'] == 'poor':
            del three.outcomes[record['identity']]
    block = three.only_block()
    assert {cell.mark for cell in _row(block, 'good').values()} == {'best'}
    assert {cell.mark for cell in _row(block, 'fair').values()} == {''}
    assert 'Not ranked: poor (no outcomes).' in captions.caption(block)


def test_a_record_whose_score_is_not_that_of_its_outcomes_is_left_out_and_named(three):
    three.records[0]['scores']['test']['ir']['ACER'] = 0.001
    table = three.table()
    assert len(table.problems) == 1
    assert f'good {ID} seed 0: ACER of ir is 0.001000' in table.problems[0]
    (good,) = (row for row in table.blocks[0].rows if row.label == 'good')
    assert good.seeds == 2
    assert 'good: 2 of 3 seeds' in captions.notes(table.blocks[0])


def test_outcomes_of_other_samples_are_named_and_not_counted(three):
    identity = three.records[-1]['identity']
    other = make_outcomes(dict.fromkeys(SUBSETS, 122), target=TARGET[::-1])
    record = make_record('poor', 2, other)
    three.records[-1], three.outcomes[record['identity']] = record, other
    assert record['identity'] == identity
    table = three.table()
    assert ['other test samples' in p and '--force' in p for p in table.problems] == [True]
    (poor,) = (row for row in table.blocks[0].rows if row.label == 'poor')
    assert poor.seeds == 2


def test_one_seed_prints_no_deviation_and_says_so():
    runs = Runs()
    runs.add('a', 0, 40)
    text = markdown(runs.table())
    assert '±' not in text
    assert 'There is one seed' in text


def test_protocols_and_data_are_never_mixed(three):
    three.add('good', 0, 9, protocol={'epochs': 9})
    three.add('good', 0, 9, dataset={'fingerprint': 'xyz'})
    longer, other = (record['protocol_id'] for record in three.records[-2:])
    blocks = {b.first.protocol_id: len(b.rows) for b in three.table().blocks}
    assert blocks == {ID: 3, longer: 1, other: 1}
    shown = terminal(three.table(), {longer})
    assert longer in shown
    assert ID not in shown


def test_variants_of_one_label_are_rows_of_their_own():
    runs = Runs()
    runs.add('m', 0, 10)
    runs.add('m', 0, 10, method={'options': {'alpha': 2.0}})
    runs.add('m', 0, 10, method={'version': 2})
    assert [row.label for row in runs.only_block().rows] == [
        'm (version=1, alpha=1.0)',
        'm (version=1, alpha=2.0)',
        'm (version=2, alpha=1.0)',
    ]


def test_a_subset_that_was_not_tested_leaves_the_row_and_is_told(three):
    three.add('part', 0, {'rgb': 1, 'depth': 2})
    block = three.only_block()
    row = _row(block, 'part')
    assert np.isnan(row['ir'].mean)
    assert row['mean'].mean == pytest.approx((row['rgb'].mean + row['depth'].mean) / 2)
    assert row['mean'].mark == ''
    assert 'part: summaries over 2 of 7 subsets' in captions.notes(block)
    assert _row(block, 'good')['mean'].mark == 'best'


def test_collapsed_models_are_flagged_with_subset_and_class():
    runs = Runs()
    runs.add('m', 0, {'rgb': 5, 'ir': 5})
    outcomes = {**runs.load(runs.records[0]), 'pred/ir': np.zeros(SAMPLES, np.int16)}
    record = make_record('m', 1, outcomes)
    runs.records.append(record)
    runs.outcomes[record['identity']] = outcomes
    block = runs.only_block()
    assert block.rows[0].sign == '†'
    assert captions.notes(block) == [
        '† m collapsed: for every sample it predicts attack on ir (seed 1)'
    ]


@pytest.mark.parametrize('recorded', [[], ['rgb']])
def test_a_collapse_is_told_by_the_outcomes_whatever_the_record_says(recorded):
    runs = Runs()
    outcomes = {**make_outcomes({'rgb': 5, 'ir': 5}), 'pred/ir': np.zeros(SAMPLES, np.int16)}
    record = make_record('m', 0, outcomes)
    record |= {'collapsed': recorded, 'predicted': {'ir': [0.5, 0.5], 'rgb': [0.0, 1.0]}}
    runs.records.append(record)
    runs.outcomes[record['identity']] = outcomes
    block = runs.only_block()
    assert block.rows[0].sign == '†'
    assert captions.notes(block) == [
        '† m collapsed: for every sample it predicts attack on ir (seed 0)'
    ]


@pytest.mark.parametrize(
    ('part', 'field', 'value'),
    [
        ('dataset', 'ceiling', {'ir': 0.4}),
        ('dataset', 'chance', 0.25),
        ('dataset', 'classes', ['live', 'attack']),
        ('samples', 'train', 7),
    ],
)
def test_a_run_that_describes_the_data_in_another_way_is_left_out(part, field, value, three):
    for record in three.records:
        record['samples'] = {'train': 9, 'val': 9, 'test': SAMPLES}
    three.records[0][part][field] = value  # the first of its row and of the table
    table = three.table()
    (problem,) = table.problems
    told = 'samples' if part == 'samples' else field
    assert problem.startswith(f'good {ID} seed 0: {told}: other runs on the same data')
    assert table.blocks[0].first.data == three.records[1]['dataset']
    assert next(row.seeds for row in table.blocks[0].rows if row.label == 'good') == 2


def test_every_format_explains_the_column_worst(three):
    told = 'the score of its worst subset'
    table = three.table()
    shown = terminal(table, color=False)
    assert f'worst: for each seed {told}' in shown
    for text in (markdown(table), latex(table)):
        assert f'worst is {told}' in text
    worst = {r['method']: r['worst_is'] for r in csv.DictReader(io.StringIO(to_csv(table)))}
    for label, text in worst.items():
        members = [r for r in three.records if r['method']['label'] == label]
        scores = [{s: m['ACER'] for s, m in r['scores']['test'].items()} for r in members]
        subsets = ', '.join(max(found, key=found.get) for found in scores)
        assert text == f'of each seed {told} ({subsets})'


def test_failed_runs_are_listed_and_not_counted(three):
    failed = [make_failure('good', 7, 'out of\nmemory')]
    block = three.only_block(unscored=failed)
    assert captions.failures(block) == [f'failed: good seed 7 ({ID}): out of memory']
    assert captions.failures(block)[0] in markdown(three.table(unscored=failed))
    assert captions.failures(block)[0] in terminal(three.table(unscored=failed))
    alone = writer.table([], three.load, failed)
    assert alone.blocks == alone.problems == []
    assert alone.unfinished == {ID: captions.failures(block)}
    told = f'## {ID}: no finished run\n\n- {captions.failures(block)[0]}\n'
    assert markdown(alone).endswith(told)


def test_a_refusal_is_told_with_the_tables_of_its_own_protocol_alone(three, capsys):
    refused = {**make_refusal('needy', 0, 'no'), 'protocol_id': 'uniform-last-9'}
    table = three.table(unscored=[refused])
    line = 'not counted: refused: needy (uniform-last-9): no'
    for protocols, told in ((None, True), ({'uniform-last-9'}, True), ({ID}, False)):
        writer.show(table, protocols)
        assert (line in capsys.readouterr().out) == told
    assert 'needy' not in markdown(table).partition('## uniform-last-9')[0]


REFERENCES = {'ceiling': {s: 0.05 for s in SUBSETS}, 'chance': 0.5}
PUBLISHED = [
    {
        'method': 'Paper',
        'scores': {'ir+depth': 1.0, 'rgb': 2.0},
        'mean': 0.5,
        'source': 'Paper, Table 1',
        'certainty': 'read in the paper',
        'comparable': False,
        'why_not': 'another backbone',
    }
]


def test_ceiling_chance_and_published_rows_stand_beneath_and_are_never_ranked():
    runs = Runs()
    for seed in range(2):
        runs.add('a', seed, 40, dataset=REFERENCES)
        runs.add('b', seed, 150, dataset=REFERENCES)
    block = runs.only_block(published=PUBLISHED)
    labels = [row.label for row in block.rows]
    assert labels == ['a', 'b', 'ceiling (ideal observer)', 'chance', 'Paper (published)']
    assert not any(cell.mark for row in block.rows[2:] for cell in row.cells.values())
    paper = _row(block, 'Paper (published)')
    assert (paper['depth+ir'].mean, paper['rgb'].mean, paper['mean'].mean) == (1.0, 2.0, 0.5)
    assert np.isnan(paper['ir'].mean)
    assert np.isnan(paper['worst'].mean)
    assert block.rows[-1].sign == '‡'
    assert '‡ not comparable: Paper: another backbone' in published.sources(block.shown)
    closed = [(0.5 - acer_of(runs.load(r), s)) / 0.45 for r in runs.records[::2] for s in SUBSETS]
    assert block.rows[0].extra['gap closed %'] == f'{100 * np.mean(closed):.1f}'


def test_further_columns_say_how_many_seeds_and_where_options_come_from(three):
    extra = three.only_block().rows[0].extra
    assert set(extra) == {'rank 95 %', 'APCER %', 'BPCER %', 'seeds', 'options'}
    assert (extra['rank 95 %'], extra['seeds'], extra['options']) == ('2', '3', 'default')


def test_values_that_a_search_found_are_told_from_a_shortened_schedule():
    runs = Runs()
    search, schedule = 'a search over 8 trials on data_seed=2', 'the released schedule, shortened'
    notes = {
        'both': [f'begin=3 from {schedule}', f'alpha=2 from {search}'],
        'found': [f'alpha=2 from {search}'],
        'short': [f'begin=3 from {schedule}'],
        'other': ['alpha=2 from a colleague'],
    }
    for label, told in notes.items():
        runs.add(label, 0, 40)['method'] |= {'source': 'settings.json', 'notes': told}
    runs.add('typed', 0, 40)['method'] |= {'source': 'given', 'notes': notes['both']}
    block = runs.only_block()
    assert {row.label: row.extra['options'] for row in block.rows if row.extra} == {
        'both': 'searched',
        'found': 'searched',
        'short': 'schedule',
        'other': 'settings.json',
        'typed': 'given',
    }
    (note,) = captions.origins(block)
    assert all(f'{word} (' in note for word in ('searched', 'schedule', 'settings.json', 'given'))
    assert 'default (' not in note


def test_columns_of_different_samples_tell_their_numbers_in_every_format():
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    there = {k: outcomes[k][:16] for k in ('target', 'pred/ir')}
    record = make_record('m', 0, outcomes)
    outcomes['pred/ir'] = np.where(np.arange(SAMPLES) < 16, outcomes['pred/ir'], -1)
    record['scores']['test']['ir']['ACER'] = acer_of(there, 'ir')
    record['n']['test']['ir'] = 16
    table = writer.table([record], lambda r: outcomes)
    assert table.problems == []
    assert '| test samples | 400 | 400 | 16 | 400 |' in markdown(table)
    assert 'test samples & 400 & 400 & 16 & 400' in latex(table)
    assert re.search(r'test samples +400 +400 +16 +400', terminal(table))
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row['n_rgb'], row['n_ir'], row['n_test']) == ('400', '16', '400')
    small = 'summaries are also over subsets with fewer than 20 test samples: ir 16'
    assert captions.notes(table.blocks[0]) == [small]


def test_equal_numbers_of_samples_need_no_row(three):
    assert 'test samples |' not in markdown(three.table())
    (row, *_) = csv.DictReader(io.StringIO(to_csv(three.table())))
    assert 'n_rgb' not in row


def test_rates_that_must_be_read_together_stand_together():
    runs = Runs()
    for seed in range(2):
        outcomes = {'target': TARGET, 'pred/rgb': TARGET.copy()}
        outcomes['pred/rgb'][1:5:2] = 0  # 2 of 200 live samples
        outcomes['pred/rgb'][0 : 12 * seed : 2] = 1  # none, then 6 of 200 attacks
        record = make_record('m', seed, outcomes, dataset={'modalities': ['rgb', 'ir']})
        runs.records.append(record)
        runs.outcomes[record['identity']] = outcomes
    (row,) = runs.only_block().rows
    assert (row.extra['APCER %'], row.extra['BPCER %']) == ('1.50', '1.00')
    (told,) = csv.DictReader(io.StringIO(to_csv(runs.table())))
    assert float(told['mean_APCER']) == pytest.approx(1.5)
    other = runs.only_block(metric='APCER').rows[0].extra
    assert (other['BPCER %'], 'APCER %' in other) == ('1.00', False)
    table = runs.table(metric='APCER')
    for text in (terminal(table), latex(table), latex(replace(table, transposed=True))):
        assert re.search(r'BPCER \\?%', text)
        assert '1.00' in text
    assert 'BPCER' not in terminal(runs.table())


def test_accuracy_has_uar_beside_it_and_the_majority_beneath():
    target = (np.arange(SAMPLES) % 10 == 0).astype(int)
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 20), target=target)
    record = make_record('m', 0, outcomes, dataset={'metric': 'accuracy'})
    record['dataset']['higher_is_better'] = True
    for subset, scores in record['scores']['test'].items():
        scores['accuracy'] = float((outcomes[f'pred/{subset}'] == target).mean())
    (block,) = writer.table([record], lambda r: outcomes).blocks
    uar = np.mean([balanced_accuracy_score(target, outcomes[f'pred/{s}']) for s in SUBSETS])
    assert block.rows[0].extra['UAR %'] == f'{100 * uar:.2f}'
    (majority,) = (row for row in block.rows if row.label.startswith('majority'))
    assert {round(c.mean, 6) for c in majority.cells.values()} == {90}
    table = writer.table([record], lambda r: outcomes)
    for text in (terminal(table), latex(table), latex(replace(table, transposed=True))):
        assert re.search(r'UAR \\?%', text)
        assert f'{100 * uar:.2f}' in text


def test_accuracy_of_even_classes_stands_alone_in_the_terminal():
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    data = {'metric': 'accuracy', 'higher_is_better': True}
    record = make_record('m', 0, outcomes, dataset=data)
    for scores in record['scores']['test'].values():
        scores['accuracy'] = 0.9
    table = writer.table([record], lambda r: outcomes)
    assert table.problems == []
    assert 'UAR %' in markdown(table)
    assert 'UAR' not in terminal(table)


def test_the_caption_states_options_and_sizes_of_the_data():
    runs = Runs()
    record = runs.add('m', 0, 40, dataset={'options': {'size': 48, 'width': 12}})
    assert 'Options of the data set: size=48, width=12.' in captions.caption(runs.only_block())
    record['dataset']['options'] |= {'class_weights': [1.0, 2.5], 'binary': True}
    told = captions.caption(runs.only_block())  # as they are typed
    assert 'size=48, width=12, class_weights=1/2.5, binary=true.' in told
    for added in ('class_weights', 'binary'):
        del record['dataset']['options'][added]
    record['samples'] = {'train': 1500, 'val': 500, 'test': 400}
    record['dataset']['encoder'] = 'ResNet-18, width 12'
    told = captions.caption(runs.only_block())
    assert 'Encoders: ResNet-18, width 12. ' in told
    assert 'Samples: 1,500 training, 500 validation, 400 test.' in told
    (row,) = csv.DictReader(io.StringIO(to_csv(runs.table())))
    assert (row['dataset_options'], row['n_training']) == ('size=48 width=12', '1500')


def test_markdown_as_text():
    runs = Runs()
    for seed in (0, 1):
        outcomes = {'target': TARGET, 'pred/rgb': TARGET.copy()}
        # Of 200 live samples 2, of 200 attacks 2 * seed are wrong.
        outcomes['pred/rgb'][1:5:2] = 0
        outcomes['pred/rgb'][0 : 4 * seed : 2] = 1
        record = make_record('m_1', seed, outcomes, dataset={'modalities': ['rgb', 'ir']})
        runs.records.append(record)
        runs.outcomes[record['identity']] = outcomes
    lines = markdown(runs.table()).splitlines()
    assert lines[:3] == ['# faces', '', '## faces: ACER ↓ (%)']
    assert lines[4:12] == [
        'ACER in percent, lower is better. Samples: 400 test.',
        '',
        f'Protocol {ID}: training masks drawn uniformly from the subsets unless a method '
        'has its own, tested after the last epoch. The training data are complete.',
        '',
        '± is the standard deviation (ddof = 1) over 2 seeds. The scores are on 400 test samples. '
        'For each seed, mean is over the subsets, worst is the score of its worst subset, which '
        'may differ between seeds, and missing k is the mean over the subsets that lack k '
        'modalities.',
        '',
        'No score is marked: there is one method only.',
        '',
    ]
    header = 'method | rgb | mean | worst | missing 1 | APCER % | BPCER % '
    header += '| seeds | options'
    cell = '0.75 ± 0.35'
    assert lines[12] == f'| {header} |'
    assert lines[14] == f'| m_1 | {cell} | {cell} | {cell} | {cell} | 0.50 | 1.00 | 2 | default |'
    where = "the column 'options' says where the options of a row come from"
    assert f'- {where}: default (the defaults of the method)' in lines


def test_markdown_terminal_and_latex_show_the_marks(three):
    table = three.table()
    mean = _row(table.blocks[0], 'good')['mean'].mean
    second = _row(table.blocks[0], 'fair')['mean'].mean
    assert f'**{mean:.2f}** ±' in markdown(table)
    assert f'<u>{second:.2f}</u> ±' in markdown(table)
    assert rf'\textbf{{{mean:.2f}}}\,$\pm$' in latex(table)
    assert rf'\underline{{{second:.2f}}}' in latex(table)
    plain = terminal(table, color=False)
    assert f'*{mean:.2f}' in plain
    assert f'_{second:.2f}' in plain
    assert '\033' not in plain
    coloured = terminal(table, color=True)
    assert f'\033[1m{mean:.2f}\033[0m' in coloured
    widths = {len(re.sub('\033.*?m', '', line)) for line in coloured.splitlines()[1:6]}
    assert len(widths) == 1


def test_latex_is_balanced_and_has_as_many_cells_as_columns(three):
    three.add('odd_name:a=1,b={x}&50%#~^\\|<', 0, 30)
    text = latex(three.table(unscored=[make_failure('x_y', 0, 'bad {')], published=PUBLISHED))
    found = re.findall(r'\\begin{tabular}{l(r+)}\n(.*?)\\end{tabular}', text, re.S)
    assert len(found) == 2
    for columns, body in found:
        rows = [line for line in body.splitlines() if line.endswith(r' \\')]
        for row in rows:
            assert len(re.findall(r'(?<!\\)&', row)) == len(columns)
    assert [len(re.findall(r' \\\\\n', body)) for _, body in found] == [6, 5]
    bare = re.sub(r'\\[{}\\]', '', text)
    assert bare.count('{') == bare.count('}')
    for name in re.findall(r'\\begin{(\w+)}', text):
        assert text.count(f'\\begin{{{name}}}') == text.count(f'\\end{{{name}}}')
    body = text[text.index(r'\caption') :]
    assert not re.search(r'(?<!\\)[_#%]', body)
    assert body.isascii()


def test_transposed_latex_has_a_row_per_subset_with_circles(written):
    assert commands.main([str(written), '--transpose']) == 0
    text = (written / 'tables' / 'faces.tex').read_text()
    columns, body = re.search(r'begin{tabular}{(l+r+)}\n(.*?)\\end{tabular}', text, re.S).groups()
    assert columns == 'lllrrr'
    rows = [line.removesuffix(r' \\').split(' & ') for line in body.splitlines() if '&' in line]
    assert rows[0] == ['rgb', 'depth', 'ir', 'fair', 'good', 'poor']
    assert {len(row) for row in rows} == {6}
    full, none = r'$\bullet$', r'$\circ$'
    circles = [tuple(row[:3]) for row in rows[1:8]]
    assert circles == [
        tuple(full if m in s.split('+') else none for m in ('rgb', 'depth', 'ir')) for s in SUBSETS
    ]
    assert rows[8][:3] == ['mean', '', '']
    block = writer.write_tables(written, 'faces').blocks[0]
    assert rows[3][3].startswith(rf'\underline{{{_row(block, "fair")["ir"].mean:.2f}}}')
    assert text.count(r'\begin{table*}') == text.count(r'\end{table*}') == 2
    assert body.count(r'\midrule') == 2


def test_csv_holds_plain_numbers_per_variant_and_protocol(three):
    three.add('good', 0, 9, protocol={'selection': 'worst'})
    rows = list(csv.DictReader(io.StringIO(to_csv(three.table(published=PUBLISHED)))))
    assert [(r['method'], r['protocol'], r['seeds']) for r in rows] == [
        ('fair', ID, '3'),
        ('good', ID, '3'),
        ('poor', ID, '3'),
        ('good', three.records[-1]['protocol_id'], '1'),
    ]
    keys = [*SUBSETS, 'mean', 'worst', 'missing_0', 'missing_1', 'missing_2']
    scores = ['method', 'protocol', 'seeds', *keys, *(f'{k}_std' for k in keys)]
    assert list(rows[0])[: len(scores)] == scores
    row = _row(three.table().blocks[0], 'fair')
    for key in keys:
        assert float(rows[0][key]) == pytest.approx(row[key].mean, rel=1e-5)
        assert float(rows[0][f'{key}_std']) == pytest.approx(row[key].std, rel=1e-5)
    assert rows[3]['rgb_std'] == ''


def test_columns_can_follow_the_layout_of_a_paper(three):
    block = three.only_block(columns={'rgb+depth+ir': 'All', 'depth': 'D'})
    titles = list(block.columns.values())
    assert titles[:4] == ['All', 'D', 'mean', 'worst']
    full = _row(three.only_block(), 'fair')
    assert _row(block, 'fair')['depth'] == full['depth']
    assert _row(block, 'fair')['mean'].mean == full['mean'].mean
    # The modalities of a subset may be named in any order.
    other = three.only_block(columns={'ir+rgb+depth': 'All', 'depth': 'D'})
    assert other.columns == block.columns
    assert _row(other, 'fair') == _row(block, 'fair')
    with pytest.raises(UserError, match='expected one title of rgb.ir, found several'):
        three.only_block(columns={'rgb+ir': 'RI', 'ir+rgb': 'IR'})
    with pytest.raises(UserError, match="no subset or summary 'ir.ir'"):
        three.only_block(columns={'ir+ir': 'I'})
    with pytest.raises(UserError, match="no subset or summary 'sonar'"):
        three.only_block(columns={'sonar': 'S'})


def test_brief_tells_mean_and_worst(three):
    record = three.records[1]
    scores = {s: acer_of(three.load(record), s) for s in SUBSETS}
    last = max(scores, key=scores.get)
    mean = 100 * np.mean(list(scores.values()))
    expected = f'ACER {mean:.2f} % mean, {100 * scores[last]:.2f} % worst ({last})'
    assert writer.brief(record) == expected


@pytest.fixture
def written(tmp_path, three):
    for record in three.records:
        save(tmp_path / 'runs', record, three.load(record))
    return tmp_path


def test_tables_are_written_from_files_and_name_what_does_not_count(written, three):
    torn = written / f'runs/faces/good/{ID}/seed0/record.json'
    torn.write_text('{')
    lost = written / f'runs/faces/poor/{ID}/seed0/outcomes.npz'
    lost.write_bytes(lost.read_bytes()[:99])
    save(written / 'runs', make_failure('good', 5, 'no memory'))
    table = writer.write_tables(written, 'faces')
    folder = written / 'tables'
    assert sorted(p.name for p in folder.iterdir()) == ['faces.csv', 'faces.md', 'faces.tex']
    assert (folder / 'faces.md').read_text() == markdown(table)
    assert (folder / 'faces.tex').read_text() == latex(table)
    assert (folder / 'faces.csv').read_text() == to_csv(table)
    assert [p.split(':')[0] for p in table.problems] == [
        f'good/{ID}/seed0/record.json',
        f'poor {ID} seed 0',
    ]
    assert 'failed: good seed 5' in markdown(table)
    assert {row.label: row.seeds for row in table.blocks[0].rows} == {
        'good': 2,
        'fair': 3,
        'poor': 2,
    }


def test_the_same_records_give_the_same_files(written):
    writer.write_tables(written, 'faces')
    before = [p.read_bytes() for p in sorted((written / 'tables').iterdir())]
    writer.write_tables(written, 'faces')
    assert [p.read_bytes() for p in sorted((written / 'tables').iterdir())] == before


def test_no_records_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"unknown data set in .*runs 'faces' \(known: none\)"):
        writer.write_tables(tmp_path, 'faces')
    (tmp_path / 'runs' / 'faces').mkdir(parents=True)
    with pytest.raises(UserError, match=r'runs/faces: no record.json found'):
        writer.write_tables(tmp_path, 'faces')
    with pytest.raises(UserError, match=r"'face'; did you mean 'faces'\?"):
        writer.write_tables(tmp_path, 'face')


def test_the_script_makes_tables_from_anywhere(written, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    words = [written, '--columns', 'rgb=R', 'ir=I']
    status, out, err = run_script('benchmark/tables.py', words, elsewhere)
    assert (status, err) == (0, '')
    assert re.search(r'method +R +I +mean +worst', out)
    assert (written / 'tables' / 'faces.md').is_file()
    status, _, err = run_script('benchmark/tables.py', [elsewhere], elsewhere)
    assert status == 2
    assert re.fullmatch(r'error: .*runs: no runs found\n', err)
    for name in ('cpu', 'gpu'):
        (elsewhere / 'in' / name / 'runs').mkdir(parents=True)
    for wrong, expected in (
        (elsewhere / 'none', f'there is no folder {elsewhere / "none"}'),
        (elsewhere / 'in', "results lie in its folders 'cpu', 'gpu'"),
        (written / 'runs', f'expected the folder {written}'),
        (written / 'runs' / 'faces', f'expected the folder {written}'),
    ):
        status, _, err = run_script('benchmark/tables.py', [wrong], elsewhere)
        assert (status, err.count('\n')) == (2, 1)
        assert err.endswith(f'/runs: no runs found; {expected}\n')


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['rgb=A', 'rgb=B'], '--columns: expected one title of rgb, found two'),
        (['rgb', 'depth='], "--columns: expected COLUMN=TITLE, found 'depth='"),
        (['=A'], "--columns: expected COLUMN=TITLE, found '=A'"),
    ],
)
def test_columns_without_a_title_or_with_two_are_refused(words, told, tmp_path, capsys):
    assert commands.main([str(tmp_path), '--columns', *words]) == 2
    assert capsys.readouterr().err == f'error: {told}\n'


def test_the_command_names_the_files_that_it_wrote(tmp_path, capsys):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    save(tmp_path / 'runs', make_record('m', 0, outcomes), outcomes)
    assert commands.main([str(tmp_path), '--metric', 'APCER']) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f'written: {tmp_path}/tables/faces-APCER.md, .tex, .csv'
    assert (tmp_path / 'tables' / 'faces-APCER.tex').is_file()


def test_a_subset_alone_is_its_own_title():
    assert commands.titles(['rgb=RGB', 'depth']) == {'rgb': 'RGB', 'depth': 'depth'}


def test_notes_of_a_training_and_rows_of_two_codes_stand_beneath_the_table():
    runs = Runs()
    short = 'a term is never used'
    for seed in range(3):
        runs.add('short', seed, 40)['method'] |= {'notes': [short], 'code': 'a' * 16}
        runs.add('mixed', seed, 40)['method'] |= {'code': str(min(seed, 1)) * 16}
        runs.add('older', seed, 40)['method'] |= {'notes': [short]}
    text = markdown(runs.table())
    assert text.count(short) == 1
    assert f'- older, short: {short}' in text
    assert text.count('with different versions of the code') == 1
    assert 'mixed: its seeds were trained with different versions of the code' in text
    for record in runs.records:
        record['method']['notes'] = [short]
    assert f'- every row: {short}' in markdown(runs.table())


def test_summaries_are_chosen_and_named_like_subsets(three):
    table = three.table(columns={'ir': 'I', 'rgb': 'R', 'worst': 'Min'})
    header = next(line for line in markdown(table).splitlines() if line.startswith('| method'))
    assert header.startswith('| method | I | R | Min | ')
    (block,) = three.table(columns={'missing_1': 'missing_1'}).blocks
    assert list(block.columns.values())[-1] == 'missing 1'
    assert set(SUBSETS) < set(block.columns)
    assert not {'mean', 'worst'} & set(block.columns)


def test_all_subsets_are_scored_on_their_common_samples(tmp_path):
    whole = make_outcomes(dict.fromkeys(SUBSETS, 40))
    rows = {k: v[16:] for k, v in whole.items()}
    outcomes = {**whole, 'pred/ir': np.where(np.arange(SAMPLES) < 16, -1, whole['pred/ir'])}
    for seed in range(2):
        record = make_record('m', seed, whole)
        there = {k: outcomes[k][16:] for k in ('target', 'pred/ir')}
        record['scores']['test']['ir']['ACER'] = acer_of(there, 'ir')
        record['n']['test']['ir'] = len(TARGET) - 16
        place = tmp_path / 'runs' / 'faces' / 'm' / record['protocol_id'] / f'seed{seed}'
        store.write_outcomes(place / 'outcomes.npz', outcomes)
        store.write(place / 'record.json', record)
    made = writer.write_tables(tmp_path, 'faces', same_samples=True)
    (row,) = (row for row in made.blocks[0].rows if row.kind == 'method')
    for subset in SUBSETS:
        assert row.cells[subset].mean == pytest.approx(100 * acer_of(rows, subset))
    assert made.problems == ['16 test samples not tested on every subset']
    text = (tmp_path / 'tables' / 'faces-common.md').read_text()
    assert 'The scores are on 384 test samples.' in text
    plain = writer.write_tables(tmp_path, 'faces').blocks[0].rows[0]
    assert plain.cells['rgb'].mean != pytest.approx(row.cells['rgb'].mean)


def test_a_sample_that_no_subset_has_all_of_counts_among_those_left_out():
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    record = make_record('m', 0, outcomes)
    for at, subset in enumerate(('rgb', 'ir')):
        outcomes[f'pred/{subset}'][10 * at : 10 * at + 7] = -1
        record['scores']['test'][subset]['ACER'] = acer_of(
            {k: outcomes[k][outcomes[f'pred/{subset}'] >= 0] for k in ('target', f'pred/{subset}')},
            subset,
        )
        record['n']['test'][subset] = len(TARGET) - 7
    problems = []
    common.on_common_samples([record], lambda _: outcomes, problems)
    assert problems == ['14 test samples not tested on every subset']


def test_of_many_subsets_a_footnote_gives_the_number(tmp_path):
    names = ['a', 'b', 'c', 'd', 'e']
    few = np.arange(10) % 2
    outcomes = {'target': few, **{f'pred/{s}': 0 * few for s in subset_ids(names)}}
    record = make_record('m', 0, outcomes, dataset={'modalities': names})
    record['gaps']['rates'] = dict.fromkeys(names, 0.0)
    text = markdown(writer.table([record], lambda r: outcomes))
    assert '- every subset has only 10 test samples; tests need 20' in text
    assert 'for every sample it predicts attack on every subset (seed 0)' in text


@pytest.mark.parametrize(('others', 'said'), [(0, 'every'), (2, 'nearly every')])
def test_a_footnote_says_every_sample_only_of_every_sample(others, said):
    count = 2000  # of which 0.1 % may have another answer
    target = np.arange(count) % 2
    guess = np.r_[np.ones(others, int), np.zeros(count - others, int)]
    outcomes = {'target': target, **{f'pred/{s}': target for s in SUBSETS}, 'pred/ir': guess}
    text = markdown(writer.table([make_record('m', 0, outcomes)], lambda r: outcomes))
    assert f'† m collapsed: for {said} sample it predicts attack on ir (seed 0)' in text


def test_a_row_whose_seeds_collapse_differently_has_one_line():
    runs = Runs()
    for seed, collapsed in enumerate((['rgb'], SUBSETS, ['rgb', 'ir'], ['rgb'])):
        outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
        outcomes |= {f'pred/{s}': np.zeros(SAMPLES, np.int16) for s in collapsed}
        record = make_record('m', seed, outcomes)
        runs.records.append(record)
        runs.outcomes[record['identity']] = outcomes
    assert captions.notes(runs.only_block()) == [
        '† m collapsed: for every sample it predicts attack on rgb (seeds 0, 3); '
        'attack on every subset (seed 1); attack on rgb, ir (seed 2)'
    ]


def test_whatever_goes_wrong_with_a_data_set_leaves_the_others_their_tables(
    tmp_path, capsys, monkeypatch
):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    for name in ('first', 'other'):
        save(tmp_path / 'runs', make_record('m', 0, outcomes, dataset={'name': name}), outcomes)
    whole = writer.table

    def broken(complete, *arguments):
        if complete and complete[0]['dataset']['name'] == 'first':
            raise ZeroDivisionError('odd')
        return whole(complete, *arguments)

    monkeypatch.setattr(writer, 'table', broken)
    assert commands.main([str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told == 'error: first: its tables cannot be made: ZeroDivisionError: odd\n'
    assert (tmp_path / 'tables' / 'other.md').is_file()
    assert not running.show({'first': None, 'other': None}, tmp_path)
    assert capsys.readouterr().err.startswith(told)


def test_a_data_set_without_a_column_leaves_the_others_their_tables(tmp_path, capsys):
    for name, modalities in (('first', ['rgb', 'ir']), ('other', ['a', 'b'])):
        outcomes = make_outcomes(dict.fromkeys(subset_ids(modalities), 40))
        changes = {'name': name, 'modalities': modalities}
        record = make_record('m', 0, outcomes, dataset=changes)
        record['gaps']['rates'] = dict.fromkeys(modalities, 0.0)
        place = tmp_path / 'runs' / name / 'm' / record['protocol_id'] / 'seed0'
        store.write_outcomes(place / 'outcomes.npz', outcomes)
        store.write(place / 'record.json', record)
    assert commands.main([str(tmp_path), '--columns', 'a=A', 'b=B']) == 0
    assert (tmp_path / 'tables' / 'other.md').is_file()
    assert "left out: first: no subset or summary 'a'" in capsys.readouterr().out
    for name in ('../runs/other', '..', '.', ''):
        assert commands.main([str(tmp_path), '--datasets', name]) == 2
        assert 'expected the name of a data set' in capsys.readouterr().err
