"""The tables of papers, against computations from the records and from the published files."""

import csv
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_records import SUBSETS, make_failure, make_outcomes, make_record, make_refusal, save

from benchmark import run, tables
from benchmark.engine.grids import GRIDS
from benchmark.missing import subset_ids
from benchmark.registry import METHODS, discover, lookup, parse_spec
from benchmark.report import paper_text, writer
from benchmark.report.layouts import LAYOUTS
from benchmark.report.paper import papers
from benchmark.report.published import published
from benchmark.report.selection import Selection

ROOT = Path(__file__).resolve().parents[2]
FACES = {'rgb': 3, 'depth': 3, 'ir': 3}
METRICS = {'casia_surf': 'ACER', 'nyuv2': 'mIoU', 'brats2018': 'Dice'}
NAMES = {
    'casia_surf': ['rgb', 'depth', 'ir'],
    'nyuv2': ['rgb', 'depth'],
    'brats2018': ['flair', 't1ce', 't1', 't2'],
}


PAGE = r"""\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


def printed(dataset, method, protocol=None):
    """A row of the file of published numbers."""
    content = json.loads((ROOT / 'results' / 'published' / f'{dataset}.json').read_text())
    (row,) = (r for r in content['rows'] if r['method'] == method and r.get('protocol') == protocol)
    return row


def made(dataset, labels, seeds=(0, 1, 2), **changes):
    """Records with random scores, without outcomes."""
    subsets, metric = subset_ids(NAMES[dataset]), METRICS[dataset]
    about = {
        'name': dataset, 'modalities': NAMES[dataset], 'metric': metric, 'ceiling': {},
        'kind': 'classification' if metric == 'ACER' else 'segmentation',
        'higher_is_better': metric != 'ACER',
    }  # fmt: skip
    found = [metric]
    if metric == 'Dice':
        about['regions'] = ['WT', 'TC', 'ET']
        found += [f'Dice_{region}' for region in about['regions']]
    records = []
    for label in labels:
        for seed in seeds:
            record = make_record(label, seed, make_outcomes({}), dataset=about, **changes)
            rng = np.random.default_rng([seed, *label.encode()])
            record['scores']['test'] = {s: {m: rng.random() for m in found} for s in subsets}
            record['n']['test'] = dict.fromkeys(subsets, 100)
            record['gaps']['rates'] = dict.fromkeys(NAMES[dataset], 0.0)
            records.append(record)
    return records


def table_of(records, dataset, unscored=(), **arguments):
    rows = published(dataset, [])
    found = writer.table(records, lambda r: None, unscored, rows, **arguments)
    assert found.problems == []
    return found


def scores(records, label, metric, subset):
    each = [r for r in records if r['method']['label'] == label]
    return np.array([100 * r['scores']['test'][subset][metric] for r in each])


def entries(paper, spec):
    k = [column.spec for column in paper.columns].index(spec)
    return {key: row[k] for key, row in paper.rows.items()}


@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts_name_methods_with_options_that_exist(name):
    discover()
    for column in LAYOUTS[name].columns:
        method, options = parse_spec(column.spec)
        lookup(METHODS, method)
        run_options = GRIDS['mmanet-ablation'].methods + GRIDS['redcore-rates'].methods
        assert not options or column.spec in run_options


def test_the_ablations_and_the_sweep_show_what_their_grids_run():
    shown = {
        c.spec for name in ('mmanet-distillation', 'mmanet-mar') for c in LAYOUTS[name].columns
    }
    assert shown == set(GRIDS['mmanet-ablation'].methods)
    sweep, grid = LAYOUTS['redcore-rates'], GRIDS['redcore-rates']
    assert {c.spec for c in sweep.columns} == set(grid.methods)
    assert ['complete', *sweep.rates[1:]] == list(grid.gaps)


def test_every_published_name_is_that_of_some_row():
    files = sorted((ROOT / 'results' / 'published').glob('*.json'))
    names = {row['method'] for file in files for row in published(file.stem, [])}
    for layout in LAYOUTS.values():
        for column in layout.columns:
            assert not column.published or set(column.published) & names, column


def test_table_1_of_mmanet_with_the_published_numbers_and_the_drop():
    records = made('casia_surf', ['customized', 'modality_dropout', 'hemis'])
    (paper,) = papers(table_of(records, 'casia_surf'), 'mmanet-table1')
    assert list(paper.rows) == [*SUBSETS, 'mean']
    customised, unified = (
        printed('casia_surf', name) for name in ('Customized (SF)', 'Unified (SF-MD)')
    )
    for subset in SUBSETS:
        own = {
            k: scores(records, k, 'ACER', subset).mean() for k in ('customized', 'modality_dropout')
        }
        first, second = (entries(paper, spec)[subset] for spec in own)
        assert first.mean == pytest.approx(own['customized'])
        spread = scores(records, 'customized', 'ACER', subset).std(ddof=1)
        assert first.std == pytest.approx(spread)
        assert (first.printed, second.printed) == (
            customised['scores'][subset], unified['scores'][subset],
        )  # fmt: skip
        assert second.difference == pytest.approx(own['modality_dropout'] - second.printed)
        ours, theirs = paper.drops[subset]
        assert ours == pytest.approx(own['customized'] - own['modality_dropout'])
        assert theirs == pytest.approx(first.printed - second.printed)
    # The published difference of rgb: 10.01 - 11.75.
    assert paper.drops['rgb'][1] == pytest.approx(-1.74)
    mean = entries(paper, 'modality_dropout')['mean']
    assert mean.printed == unified['mean']
    every = [scores(records, 'modality_dropout', 'ACER', s) for s in SUBSETS]
    assert mean.mean == pytest.approx(np.mean(every))
    assert mean.std == pytest.approx(np.mean(every, axis=0).std(ddof=1))


def test_the_drop_is_negative_where_the_second_is_worse_also_if_higher_is_better():
    records = made('nyuv2', ['customized', 'modality_dropout'])
    (paper,) = papers(table_of(records, 'nyuv2'), 'mmanet-table1')
    own = [scores(records, k, 'mIoU', 'rgb').mean() for k in ('modality_dropout', 'customized')]
    assert paper.drops['rgb'][0] == pytest.approx(own[0] - own[1])
    assert paper.drops['rgb'][1] == pytest.approx(41.34 - 44.22)


def test_rfnets_15_subsets_by_region_beside_one_protocol():
    records = made('brats2018', ['hemis', 'uhved', 'robustseg', 'rfnet'])
    found = papers(table_of(records, 'brats2018'), 'rfnet-subsets')
    assert [paper.metric for paper in found] == ['Dice_WT', 'Dice_TC', 'Dice_ET']
    row = printed('brats2018', 'RFNet', 'C')
    for paper in found:
        mine = entries(paper, 'rfnet')
        assert len(mine) == 16
        assert {r['method'].rpartition(' ')[2] for r in paper.printed.values()} == {'C'}
        for subset, value in row['scores'][paper.metric].items():
            own = scores(records, 'rfnet', paper.metric, subset).mean()
            assert mine[subset].mean == pytest.approx(own)
            assert mine[subset].printed == value
            assert mine[subset].difference == pytest.approx(own - value)
        assert mine['mean'].printed == row['mean'][paper.metric]


def test_circles_and_marks_are_in_every_format(tmp_path):
    records = made('casia_surf', ['customized', 'modality_dropout'])
    table = table_of(records, 'casia_surf')
    written = paper_text.write(tmp_path, table, 'mmanet-table1')
    assert written.stem.name == 'casia_surf-mmanet-table1'
    text = written.stem.with_suffix('.md').read_text()
    assert '| rgb | depth | ir | customized | published‡ | diff.‡ | modality_dropout |' in text
    assert '| ● | ○ | ● |' in text
    assert '‡ not comparable: Customized (SF)' in text
    assert 'modality_dropout Unified (SF-MD)' in text
    assert 'MMANet (Wei et al., CVPR 2023, arXiv 2304.08028), Table 1' in text
    tex = written.stem.with_suffix('.tex').read_text()
    assert r'$\bullet$ & $\circ$ & $\bullet$ &' in tex
    assert r'$^\ddagger$' in tex
    lines = list(csv.DictReader(written.stem.with_suffix('.csv').open()))
    assert len(lines) == 2 * 8
    (line,) = (x for x in lines if (x['row'], x['method']) == ('rgb', 'customized'))
    own = scores(records, 'customized', 'ACER', 'rgb')
    assert float(line['score']) == pytest.approx(own.mean(), rel=1e-5)
    assert (line['published'], line['published_as']) == ('10.01', 'Customized (SF)')
    assert float(line['difference']) == pytest.approx(own.mean() - 10.01, abs=1e-3)
    assert (line['comparable'], line['seeds']) == ('no', '3')


def test_a_partial_table_says_what_is_missing_and_the_command_is_one_that_runs(tmp_path, capsys):
    records = made('casia_surf', ['modality_dropout', 'hemis'])
    records = [r for r in records if (r['method']['name'], r['seed']) != ('hemis', 1)]
    lost = [make_failure('rfnet', 0, 'no memory'), make_refusal('mmformer', 0, 'no sense')]
    for each in lost:
        each['dataset'] = records[0]['dataset']
    table = table_of(records, 'casia_surf', lost)
    (paper,) = papers(table, 'mmanet-classification')
    told = {line.partition(': ')[0]: line for line in paper.missing}
    assert (
        'hemis: no seed 1; this fills it: python benchmark/run.py --methods hemis '
        in (told['hemis'])
    )
    assert '--seeds 1 ' in told['hemis']
    assert 'lcr: no run; this fills it:' in told['lcr']
    assert '--seeds 0 1 2 ' in told['lcr']
    assert any('failed: rfnet seed 0' in line and 'no memory' in line for line in paper.missing)
    assert 'rfnet: no run' in told['rfnet']
    assert any('refused: mmformer' in line for line in paper.missing)
    assert 'mmformer' not in told
    empty = entries(paper, 'lcr')['rgb']
    assert math.isnan(empty.mean)
    assert empty.printed == 13.44
    # The words after the program are arguments that the command accepts.
    words = told['lcr'].partition('run.py ')[2].split()
    args = run.parser().parse_args(words)
    assert (args.methods, args.datasets, args.seeds) == (['lcr'], ['casia_surf'], [0, 1, 2])


def test_a_row_whose_label_leaves_out_a_default_is_found():
    records = made('casia_surf', ['distilled', 'distilled:loss=at'])
    for record in records:
        at = record['method']['label'].endswith('at')
        usual = {'alpha': 'auto', 'temperature': 2}
        record['method']['options'] = usual | {'loss': 'at' if at else 'soft_target'}
    (paper,) = papers(table_of(records, 'casia_surf'), 'mmanet-distillation')
    target = 'distilled:alpha=auto,loss=soft_target,temperature=2'
    for spec, label in ((target, 'distilled'), ('distilled:loss=at', 'distilled:loss=at')):
        entry = entries(paper, spec)['ir']
        assert entry.mean == pytest.approx(scores(records, label, 'ACER', 'ir').mean())
    assert entries(paper, 'distilled:loss=sp')['ir'].seeds == 0


def test_a_variant_does_not_stand_for_the_method():
    records = made('casia_surf', ['mmanet:alpha=0', 'modality_dropout'])
    (paper,) = papers(table_of(records, 'casia_surf'), 'mmanet-mar')
    assert entries(paper, 'mmanet')['rgb'].seeds == 0
    assert entries(paper, 'mmanet:alpha=0')['rgb'].seeds == 3


def sweep_of():
    records = []
    for k, rates in enumerate(('', '0.3', 'rgb=0.2,depth=0.5,ir=0.8')):
        methods = ['modality_dropout', 'redcore'][: 2 - (k == 1)]
        for record in made('casia_surf', methods, protocol={'rates': rates}):
            share = {'': [0, 0, 0], '0.3': [0.3] * 3}.get(rates, [0.2, 0.5, 0.8])
            record['gaps']['rates'] = dict(zip(NAMES['casia_surf'], share, strict=True))
            for s in SUBSETS:
                record['scores']['test'][s]['ACER'] /= k + 1
            records.append(record)
    return records


def test_redcores_sweep_has_a_row_for_each_missing_rate():
    records = sweep_of()
    (paper,) = papers(table_of(records, 'casia_surf'), 'redcore-rates')
    assert list(paper.rows) == ['0/0/0', '10/10/10', '30/30/30', '50/50/50', '70/70/70',
                                '90/90/90', '20/50/80']  # fmt: skip
    chosen = [r for r in records if r['protocol']['rates'].startswith('rgb')]
    every = [scores(chosen, 'redcore', 'ACER', s) for s in SUBSETS]
    entry = entries(paper, 'redcore')['20/50/80']
    assert entry.mean == pytest.approx(np.mean(every))
    assert entry.std == pytest.approx(np.mean(every, axis=0).std(ddof=1))
    assert entries(paper, 'redcore')['30/30/30'].seeds == 0
    (line,) = (x for x in paper.missing if x.startswith('50/50/50 %'))
    assert 'rates=0.5' in line
    assert '--methods modality_dropout redcore redcore:rate=0 ' in line
    assert any(x.startswith('30/30/30 %: redcore: no run') for x in paper.missing)


def test_with_a_sensor_that_fails_the_layout_has_the_expected_score():
    records = made('casia_surf', ['customized', 'modality_dropout'])
    table = table_of(records, 'casia_surf', selection=Selection(where='ir=off', fail='rgb=0.25'))
    (paper,) = papers(table, 'mmanet-table1')
    assert list(paper.rows) == ['rgb', 'depth', 'rgb+depth', 'expected', 'mean']
    both, one = (scores(records, 'customized', 'ACER', s) for s in ('rgb+depth', 'depth'))
    entry = entries(paper, 'customized')['expected']
    assert entry.mean == pytest.approx((0.75 * both + 0.25 * one).mean())
    assert entry.printed == pytest.approx(0.75 * 3.41 + 0.25 * 4.45)
    assert entry.difference == pytest.approx(entry.mean - entry.printed)
    # The mean that the paper prints, 7.52, is over all subsets.
    mean = entries(paper, 'modality_dropout')['mean']
    assert mean.printed == pytest.approx((11.75 + 5.87 + 4.61) / 3)
    assert mean.difference == pytest.approx(mean.mean - mean.printed)


def test_a_mean_over_other_subsets_has_no_difference():
    records = made('casia_surf', ['customized', 'modality_dropout'])
    for record in records:
        del record['scores']['test']['ir'], record['n']['test']['ir']
    (paper,) = papers(table_of(records, 'casia_surf'), 'mmanet-table1')
    mean = entries(paper, 'modality_dropout')['mean']
    assert mean.printed == 7.52
    assert math.isnan(mean.difference)


@pytest.fixture
def folder(tmp_path):
    for seed in range(3):
        for label in ('customized', 'modality_dropout', 'mmanet'):
            outcomes = make_outcomes(dict.fromkeys(SUBSETS, 20 + seed), [seed, *label.encode()])
            save(tmp_path / 'runs', make_record(label, seed, outcomes), outcomes)
    return tmp_path


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--layout', 'mmanet-tabel1'], "unknown layout 'mmanet-tabel1'; did you mean"),
        (['--layout', 'mmanet-table1', '--columns', 'rgb'], 'expected no --columns beside it'),
        (['--layout', 'mmanet-segmentation'], 'expected segmentation data, found classification'),
        (['--layout', 'rfnet-subsets'], 'expected segmentation data with 4 modalities, found'),
        (
            ['--layout', 'mmanet-table1', '--only', 'mmanet'],
            '--only leaves none of its methods (customized, modality_dropout)',
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_one_line(folder, words, told, capsys):
    assert tables.main([str(folder), *words]) == 2
    found = capsys.readouterr().err
    assert told in found
    assert len(found.splitlines()) == 1


def test_a_layout_without_a_run_names_the_command_that_makes_them(folder, capsys):
    shutil.rmtree(folder / 'runs' / 'faces' / 'customized')
    shutil.rmtree(folder / 'runs' / 'faces' / 'modality_dropout')
    assert tables.main([str(folder), '--layout', 'mmanet-table1']) == 2
    told = 'no run of customized, modality_dropout; this makes them: python benchmark/run.py '
    found = capsys.readouterr().err
    assert told in found
    # The runs lie outside the checkout, and a file that is passed on names no folder of a machine.
    assert found.rstrip().endswith(' --results FOLDER')


def test_the_command_prints_and_writes_the_layout_beside_the_ordinary_table(folder, capsys):
    assert tables.main([str(folder), '--layout', 'mmanet-classification']) == 0
    told = capsys.readouterr().out
    (lack,) = [line for line in told.splitlines() if line.startswith('missing: lcr: no run; ')]
    assert 'this fills it: python benchmark/run.py' in lack
    assert lack.endswith(' --results FOLDER')
    assert 'missing: published numbers: results/published has none of this table for faces' in told
    assert 'faces-mmanet-classification.md, .tex, .csv' in told
    files = {f.name for f in (folder / 'tables').iterdir()}
    assert {'faces.md', 'faces-mmanet-classification.csv'} <= files


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='needs pdflatex')
@pytest.mark.parametrize(
    ('dataset', 'layout'),
    [
        ('casia_surf', 'mmanet-table1'),
        ('casia_surf', 'mmanet-classification'),
        ('nyuv2', 'mmanet-segmentation'),
        ('casia_surf', 'dmrnet'),
        ('brats2018', 'rfnet-subsets'),
        ('casia_surf', 'redcore-rates'),
    ],
)
def test_the_tables_of_papers_compile(dataset, layout, tmp_path):
    labels = ['customized', 'modality_dropout', 'hemis', 'rfnet', 'mmanet', 'dmrnet', 'redcore']
    table = table_of(made(dataset, labels), dataset)
    written = paper_text.write(tmp_path, table, layout)
    text = written.stem.with_suffix('.tex').read_text()
    (tmp_path / 'page.tex').write_text(PAGE % text)
    command = ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'page.tex']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert 'Missing character' not in done.stdout


def test_what_is_missing_is_a_comment_in_latex_and_a_source_is_told_once(tmp_path):
    table = table_of(made('brats2018', ['hemis', 'rfnet']), 'brats2018')
    written = paper_text.write(tmp_path, table, 'rfnet-subsets')
    lines = written.stem.with_suffix('.tex').read_text().splitlines()
    assert lines[0].startswith('% missing: uhved: no run; this fills it: python benchmark/run.py')
    assert not [x for x in lines if 'missing' in x and not x.startswith('%')]
    text = written.stem.with_suffix('.md').read_text()
    (source,) = (x for x in text.splitlines() if x.startswith('- published HeMIS'))
    assert source.count('RFNet, protocol C') == 1


def test_many_methods_are_split_for_the_page_and_are_whole_in_markdown(tmp_path):
    records = made('casia_surf', ['modality_dropout', 'mmanet'])
    written = paper_text.write(tmp_path, table_of(records, 'casia_surf'), 'mmanet-classification')
    shown = [title for text in written.tables for title in text.header if '‡' not in title]
    assert shown == ['rgb', 'depth', 'ir', 'modality_dropout', 'hemis', 'lcr',
                     'rgb', 'depth', 'ir', 'rfnet', 'mmformer', 'mmanet']  # fmt: skip
    # A cell of the last method stands beneath its title in both.
    first = written.tables[1].rows[0]
    own = scores(records, 'mmanet', 'ACER', 'rgb').mean()
    assert float(first[9].split()[0]) == pytest.approx(own, abs=0.005)
    lines = written.stem.with_suffix('.md').read_text().splitlines()
    (header,) = (line for line in lines if line.startswith('| rgb |'))
    assert 'modality_dropout' in header
    assert 'mmanet' in header
    assert written.stem.with_suffix('.tex').read_text().count(r'\begin{table*}') == 2
