"""What is counted: samples or volumes, and clusters of them where outcomes name clusters."""

import csv
import io
import itertools
import re

import numpy as np
import pytest
from made_records import SAMPLES, SUBSETS, TARGET, acer_of, make_outcomes, make_record

from benchmark.report import baseline, captions, paper_text, writer
from benchmark.report.page import scores
from benchmark.report.page.view import View
from benchmark.report.paper import papers
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal


def made(size, few=SAMPLES, counts=None, labels=('m',), seeds=1, **dataset):
    """The table of some runs, of persons with `size` samples each; ir has `few` of the samples."""
    records, outcomes = [], {}
    for label, seed in itertools.product(labels, range(seeds)):
        found = make_outcomes(dict.fromkeys(SUBSETS, 40), [seed, *label.encode()])
        there = {k: found[k][:few] for k in ('target', 'pred/ir')}
        record = make_record(label, seed, found, dataset=dataset)
        record |= {'samples': counts} if counts else {}
        record['scores']['test']['ir']['ACER'] = acer_of(there, 'ir')
        record['n']['test']['ir'] = few
        found['pred/ir'] = np.where(np.arange(SAMPLES) < few, found['pred/ir'], -1)
        found['cluster'] = np.array([f'person{i // size:03}' for i in range(len(TARGET))])
        records.append(record)
        outcomes[record['identity']] = found
    table = writer.table(records, lambda r: outcomes[r['identity']])
    assert table.problems == []
    return table


def test_captions_and_terminal_count_clusters_beside_samples():
    table = made(4)
    (block,) = table.blocks
    assert 'The scores are on 400 test samples of 100 clusters.' in captions.caption(block)
    assert captions.size(block) == '1 seed, 400 test samples of 100 clusters'
    assert '400 test samples of 100 clusters)' in terminal(table)
    assert block.first.sizes == {'test': 100}
    assert 'Clusters: 100 test.' in captions.caption(block)


def test_sizes_of_splits_are_told_in_their_own_unit():
    table = made(4, counts={'train': 30, 'val': 12, 'test': 100})
    (block,) = table.blocks
    assert 'Clusters: 30 training, 12 validation, 100 test.' in captions.caption(block)
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row['unit'], row['n_training'], row['n_test']) == ('clusters', '30', '100')


@pytest.mark.parametrize(('size', 'told'), [(1, False), (20, False), (25, True), (SAMPLES, True)])
def test_few_units_are_few_clusters(size, told):
    table = made(size)
    notes = captions.notes(table.blocks[0])
    told_of = f'{SAMPLES // size} test cluster{"s" * (size < SAMPLES)}'
    line = f'every subset has only {told_of}; tests need 20'
    assert notes == ([line] if told else [])


def test_columns_of_different_samples_tell_samples_and_clusters_in_every_format():
    table = made(4, few=84)
    assert '| test samples | 400 | 400 | 84 | 400 |' in markdown(table)
    assert '| test clusters | 100 | 100 | 21 | 100 |' in markdown(table)
    assert 'test clusters & 100 & 100 & 21 & 100' in latex(table)
    assert re.search(r'test clusters +100 +100 +21 +100', terminal(table))
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row['n_rgb'], row['n_ir']) == ('100', '21')
    told = 'on 84 to 400 test samples of 21 to 100 clusters, by subset.'
    assert told in captions.caption(table.blocks[0])
    assert captions.notes(table.blocks[0]) == []


def test_every_table_and_the_page_tell_columns_of_different_samples():
    both = {'labels': ('hemis', 'rfnet'), 'seeds': 3}
    whole, few = made(4, **both), made(4, few=84, **both)
    told = 'Number of test samples by subset: rgb 400, depth 400, ir 84, rgb+depth 400, '
    for table, there in ((whole, False), (few, True)):
        (block,) = table.blocks
        (paper,) = papers(table, 'mmanet-classification')
        texts = (
            baseline.tables(block.first, 'rfnet')[0].caption,
            paper_text.text_table(paper).caption,
            scores.heatmap(View('b', block))['about'],
        )
        assert [told in text for text in texts] == [there] * 3


def test_the_samples_of_dice_are_volumes():
    rng = np.random.default_rng(0)
    areas = np.sort(rng.integers(1, 50, size=(12, 3, 2)), axis=1)
    areas[:, 0] = areas[:, 1]
    outcomes = {f'areas/{s}': areas for s in SUBSETS}
    score = float(np.mean(2 * areas[:, 0] / (areas[:, 1] + areas[:, 2])))
    data = {'metric': 'Dice', 'kind': 'segmentation', 'higher_is_better': True}
    record = make_record('m', 0, make_outcomes(dict.fromkeys(SUBSETS, 1)), dataset=data)
    record['scores']['test'] = {s: {'Dice': score} for s in SUBSETS}
    record['n']['test'] = dict.fromkeys(SUBSETS, 12)
    (block,) = writer.table([record], lambda r: outcomes).blocks
    assert 'The scores are on 12 test volumes.' in captions.caption(block)
    assert 'Volumes: 12 test.' in captions.caption(block)
    assert captions.notes(block)[0] == 'every subset has only 12 test volumes; tests need 20'


def test_title_and_files_name_the_options_that_are_not_the_defaults():
    options = {'size': 24, 'data_seed': 1}
    table = made(1, options=options, changed=['size'], encoder='ResNet-18, width 12')
    assert captions.title(table.blocks[0]) == 'faces (size=24): ACER ↓ (%)'
    assert '## faces (size=24): ACER ↓ (%)' in markdown(table)
    assert r'\caption{faces (size=24): ACER $\downarrow$ (\%).}' in latex(table)
    assert terminal(table).startswith('faces (size=24): ACER ↓ (%)')
    for text in (markdown(table), latex(table)):
        assert 'Encoders: ResNet-18, width 12.' in text
        assert 'Options of the data set: size=24, data' in text
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert (row['dataset_options'], row['encoder']) == (
        'size=24 data_seed=1',
        'ResNet-18, width 12',
    )
    plain = made(1, options=options)
    assert captions.title(plain.blocks[0]) == 'faces: ACER ↓ (%)'
