"""What methods cost, beneath the table and in the CSV, from records made by hand."""

import csv
import io
import re

import pytest
from made_records import SUBSETS, make_outcomes, make_record

from benchmark.report import cost_table, writer
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal

OUTCOMES = make_outcomes(dict.fromkeys(SUBSETS, 40))
FLOPS = {subset: 10_000_000 * (1 + subset.count('+')) for subset in SUBSETS}


def record(label, seed=0, **cost):
    return make_record(label, seed, OUTCOMES, cost={'flops': FLOPS, **cost})


def table_of(*records, **arguments):
    return writer.table(records, lambda r: None, **arguments)


def cells(*records, **arguments):
    """Row label -> column title -> text of the cost table."""
    (block,) = table_of(*records, **arguments).blocks
    header = block.cost.header[1:]
    return {line[0]: dict(zip(header, line[1:], strict=True)) for line in block.cost.rows}


def test_counts_are_in_one_unit_and_seconds_are_means_over_seeds():
    runs = [
        record('m', seed, train_seconds=100.0 * seed, teacher_seconds=20.0, test_seconds=2.0 * seed)
        for seed in (1, 2, 6)
    ]
    row = cells(*runs)['m']
    assert row['parameters'] == '1.50'
    assert row['in training'] == '2.00'
    assert (row['rgb'], row['rgb+ir'], row['rgb+depth+ir']) == ('10.00', '20.00', '30.00')
    assert row['train s'] == '320'
    assert row['teacher s'] == '20'
    assert row['test s'] == '6.0'
    (block,) = table_of(*runs).blocks
    assert block.cost.title == ('Cost: parameters in M; under each subset, MFLOPs of one sample')


def test_memory_is_the_largest_of_all_seeds():
    runs = [record('m', seed, peak_memory_mb=float(peak)) for seed, peak in enumerate((7, 900, 30))]
    assert cells(*runs)['m']['memory MiB'] == '900'


def test_a_column_of_teachers_is_there_only_if_some_method_has_one():
    alone, taught = record('a', teacher_seconds=0.0), record('b', teacher_seconds=5.0)
    assert 'teacher s' not in cells(alone)['a']
    both = cells(alone, taught)
    assert (both['a']['teacher s'], both['b']['teacher s']) == ('', '5.0')
    assert (both['a']['train s'], both['b']['train s']) == ('50', '55')
    caption = table_of(alone, taught).blocks[0].cost.caption
    assert 'teacher s is the part' in caption
    assert 'teacher' not in table_of(alone).blocks[0].cost.caption


@pytest.mark.parametrize(
    ('smallest', 'unit', 'text'),
    [
        (900, 'k', '0.90'),
        (99_000, 'k', '99.00'),
        (100_000, 'M', '0.10'),
        (469_430, 'M', '0.47'),
        (250_000_000, 'G', '0.25'),
        (12, 'units', '12.00'),
    ],
)
def test_the_unit_suits_the_smallest_number(smallest, unit, text):
    small, large = ({'n': smallest * factor} for factor in (1, 30))
    assert cost_table._unit([large, small], ['n']) == unit
    assert cost_table._text(smallest, unit) == text


def test_columns_follow_the_layout_of_a_paper():
    row = cells(record('m'), columns={'rgb+ir': 'RI', 'ir': 'I'})['m']
    assert list(row) == ['parameters', 'in training', 'RI', 'I', 'train s', 'teacher s', 'test s',
                         'memory MiB']  # fmt: skip
    assert (row['RI'], row['I']) == ('20.00', '10.00')


def test_a_record_without_flops_leaves_its_cells_empty():
    rows = cells(record('a', flops={'rgb': 5_000_000}), record('b', flops={}))
    assert (rows['a']['rgb'], rows['b']['rgb']) == ('5.00', '')
    assert 'ir' not in rows['a']
    bare = table_of(record('c', flops={})).blocks[0].cost
    assert 'FLOPs' not in bare.title + bare.caption


def test_the_caption_names_the_devices():
    cpu, gpu = record('a'), record('b')
    cpu['environment']['device'], gpu['environment']['device'] = 'cpu', 'NVIDIA X'
    caption = table_of(cpu, gpu).blocks[0].cost.caption
    assert 'on NVIDIA X, cpu' in caption
    assert 'whole process on a CPU' in caption
    assert 'whole process' not in table_of(gpu).blocks[0].cost.caption


def test_what_a_search_took_is_a_column_of_its_own():
    tuned = record('a')
    tuned['tuning'] = {
        'trials': 2, 'seed': 1, 'space': {}, 'tried': [], 'chosen': None, 'seconds': 360.0,
    }  # fmt: skip
    rows = cells(tuned, record('b'))
    (label,) = (name for name in rows if name.startswith('a'))
    assert (rows[label]['tuning s'], rows['b']['tuning s']) == ('360', '')
    assert 'tuning s' not in cells(record('b'))['b']


def test_cost_stands_in_the_files_and_not_in_the_terminal():
    made = table_of(record('m|x', teacher_seconds=20.0), record('n_1'))
    text = markdown(made)
    title = '### Cost: parameters in M; under each subset, MFLOPs of one sample'
    assert title in text
    lines = text[text.index(title) :].splitlines()
    assert lines[4].startswith('| method | parameters | in training | rgb | depth |')
    assert r'| m\|x | 1.50 | 2.00 | 10.00 |' in text
    tex = latex(made)
    assert r'n\_1 & 1.50 & 2.00 & 10.00' in tex
    assert tex.count(r'\begin{table*}') == 2
    assert 'FLOPs' not in terminal(made)
    assert 'train s' not in terminal(made)


def test_the_csv_holds_everything_in_plain_numbers():
    made = table_of(record('m', train_seconds=1234.5, teacher_seconds=20.0))
    (row,) = csv.DictReader(io.StringIO(to_csv(made)))
    assert {key: float(row[f'flops_{key}']) for key in SUBSETS} == FLOPS
    assert [key for key in row if key.startswith('flops_')] == [f'flops_{s}' for s in SUBSETS]
    assert (row['parameters'], row['deployed_parameters']) == ('2000000', '1500000')
    assert (row['train_seconds_with_teacher'], row['teacher_seconds']) == ('1254.5', '20')
    assert (row['test_seconds'], row['peak_memory_mib']) == ('1', '10')


def test_large_counts_keep_all_their_digits():
    (row,) = csv.DictReader(io.StringIO(to_csv(table_of(record('m', flops={'rgb': 123_456_789})))))
    assert row['flops_rgb'] == '123456789'
    assert not re.search(r'e\+', to_csv(table_of(record('m', flops={'rgb': 10**13}))))
