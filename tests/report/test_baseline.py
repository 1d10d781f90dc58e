"""Every method against one, from records made by hand."""

import csv
import io

import numpy as np
import pytest
from made_records import ID, SUBSETS, make_outcomes, make_record, save
from scipy import stats

from benchmark import tables
from benchmark.report import baseline, comparison, writer

ERRORS = {'base': 40, 'near': 44, 'good': 8}


@pytest.fixture
def folder(tmp_path):
    for label, errors in ERRORS.items():
        for seed in range(4):
            wrong = dict.fromkeys(SUBSETS, errors + 3 * seed)
            outcomes = make_outcomes(wrong, seed=[seed, *label.encode()])
            save(tmp_path / 'runs', make_record(label, seed, outcomes), outcomes)
    return tmp_path


def runs_of(folder):
    return writer.write_tables(folder, 'faces').blocks[0].first


def lines_of(folder, column):
    found = baseline.against(runs_of(folder), 'base')
    return {line.method: line for line in found if line.column == column}


@pytest.mark.parametrize('column', ['mean', 'ir'])
def test_a_line_tells_difference_interval_and_p_over_the_rows(folder, column):
    found = lines_of(folder, column)
    assert list(found) == ['good', 'near']
    runs = runs_of(folder)
    c = list(runs.columns).index(column)
    own = {label: runs.values[members, c] for label, members in runs.groups.items()}
    raw = {m: runs.standings.compare(m, 'base', column) for m in found}
    adjusted = comparison.holm([raw[m].p for m in found])
    for (label, line), p in zip(found.items(), adjusted, strict=True):
        assert line.found == raw[label]
        assert line.found.difference == pytest.approx(own[label].mean() - own['base'].mean())
        assert line.p == pytest.approx(p)
        pooled = np.sqrt((own[label].var(ddof=1) + own['base'].var(ddof=1)) / 2)
        assert line.deviations == pytest.approx(line.found.difference / pooled)
        wins = stats.mannwhitneyu(own['base'], own[label]).statistic / 16
        assert line.better == pytest.approx(wins)  # ACER: lower is better
        needed = [comparison.seeds_needed(raw[label], d / 100, 400) for d in (0.5, 1, 2)]
        assert list(line.seeds) == needed


def test_the_mean_is_that_of_the_subsets(folder):
    lines = baseline.against(runs_of(folder), 'base')
    found = {line.column: line.found.difference for line in lines if line.method == 'good'}
    assert found['mean'] == pytest.approx(np.mean([found[s] for s in SUBSETS]))


def test_the_command_prints_the_mean_and_writes_every_subset(folder, capsys):
    assert tables.main([str(folder), '--baseline', 'base']) == 0
    out = capsys.readouterr().out
    assert f'faces: mean against base ({ID})' in out
    assert 'on seeds 0, 1, 2, 3' in out
    text = (folder / 'tables/faces-baseline.md').read_text()
    for column in ('mean', *SUBSETS):
        assert f'## faces: {column} against base ({ID})' in text
    assert text.count('| good |') == 8
    rows = list(csv.DictReader(io.StringIO((folder / 'tables/faces-baseline.csv').read_text())))
    assert len(rows) == 2 * 8
    line = lines_of(folder, 'mean')['good']
    assert float(rows[0]['difference']) == pytest.approx(100 * line.found.difference, rel=1e-4)
    assert float(rows[0]['p_holm']) == pytest.approx(line.p, rel=1e-4)
    assert rows[0]['baseline'] == 'base'


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--baseline', 'bse'], "unknown method of faces 'bse'; did you mean 'base'?"),
        (['--baseline', 'late'], '--baseline late: it has 1 seed'),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_one_line(words, told, folder, capsys):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    save(folder / 'runs', make_record('late', 0, outcomes), outcomes)
    assert tables.main([str(folder), *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1


def test_too_few_seeds_are_told(tmp_path, capsys):
    for label in ('a', 'b'):
        for seed in range(2):
            outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9), [seed, *label.encode()])
            save(tmp_path / 'runs', make_record(label, seed, outcomes), outcomes)
    assert tables.main([str(tmp_path), '--baseline', 'a']) == 2
    assert 'at least 3 seeds' in capsys.readouterr().err


def test_ranks_stand_in_markdown_and_csv(folder):
    made = writer.write_tables(folder, 'faces')
    ranks = {row.label: row.extra['rank 95 %'] for row in made.blocks[0].rows}
    assert ranks == {'base': '2 to 3', 'good': '1', 'near': '2 to 3'}
    rows = list(csv.DictReader(io.StringIO((folder / 'tables/faces.csv').read_text())))
    assert [(r['rank_low'], r['rank_high']) for r in rows] == [('2', '3'), ('1', '1'), ('2', '3')]
    assert '| rank 95 % |' in (folder / 'tables/faces.md').read_text()


@pytest.mark.parametrize('partial', ['part', 'base'])
def test_a_row_that_lacks_a_subset_is_not_compared_in_the_mean(partial, folder):
    """A mean over two subsets is no mean over seven, and what was not tested has no probability."""
    for seed in range(4):
        errors = {'rgb': 40, 'ir': 41} if partial == 'part' else dict.fromkeys(SUBSETS, 41)
        outcomes = make_outcomes(errors, [seed, 7])
        save(folder / 'runs', make_record('part', seed, outcomes), outcomes)
        if partial == 'base':
            outcomes = make_outcomes({'rgb': 40 + seed, 'ir': 40}, [seed, 8])
            save(folder / 'runs', make_record('base', seed, outcomes), outcomes)
    lines = {line.column: line for line in baseline.against(runs_of(folder), 'base')
             if line.method == 'part'}  # fmt: skip
    for column in ('mean', 'depth', 'rgb+depth+ir'):
        line = lines[column]
        assert np.isnan([*line.found[:4], line.p, line.deviations, line.better]).all()
        assert line.seeds == ()
    assert not np.isnan([lines['ir'].found.p, lines['ir'].p, lines['ir'].better]).any()
    mean, *_ = baseline.tables(runs_of(folder), 'base')
    assert ['part', *[''] * 8] in mean.rows
    assert f'not compared in the mean: {partial}.' in mean.caption
