"""What is left under corruptions: numbers, tables and the section of the page."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
from made_corruptions import make_tests
from made_pages import HOSTILE
from made_records import SUBSETS, make_outcomes, make_record, save

from benchmark import tables
from benchmark.records import corruptions, store
from benchmark.report import escaping, robustness, robustness_tables, writer
from benchmark.report.page import document
from benchmark.report.robustness import Robustness

METHODS = ('a', 'b', 'c', 'd', 'e', 'f')


def wrong(method, seed, m, k, s, x):
    """The share of errors of a test: more with severity, and other ones for each part of it."""
    place = ('rgb', 'depth', 'ir').index(m) + 3 * ('gaussian', 'blur').index(k)
    return 0.1 + 0.002 * s * (5 + place + METHODS.index(method) + seed + x.count('+'))


def add(runs, method, seed, errors=wrong, label=None, clean=40, **more):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, clean), seed)
    record = make_record(label or method, seed, outcomes, dataset={'chance': 0.5})
    path = save(runs, record, outcomes)
    if errors:
        make_tests(path, lambda *test: errors(method, seed, *test), **more)
    return path


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    results = tmp_path_factory.mktemp('results')
    for k, method in enumerate(METHODS):
        for seed in (0, 1):
            add(results / 'runs', method, seed, clean=40 + 8 * k + 2 * seed)
    add(results / 'runs', 'z', 0, errors=None)
    return results


@pytest.fixture(scope='module')
def found(results):
    table = writer.write_tables(results, 'faces')
    (one,), problems = robustness_tables.found(table, results / 'runs/faces')
    assert problems == []
    return one


def scores(results, method, seed):
    """The scores of a run, straight from its file."""
    (folder,) = results.glob(f'runs/faces/{method}/*/seed{seed}')
    tests = corruptions.read(folder, store.read(folder / store.RECORD))
    flat = {
        (m, k, int(s), x): cell['score']
        for m, kinds in tests['tests'].items()
        for k, severities in kinds.items()
        for s, cells in severities.items()
        for x, cell in cells.items()
    }
    return {x: cell['score'] for x, cell in tests['clean'].items()}, flat


def test_a_mean_is_over_the_tests_that_are_named(results, found):
    assert found.modalities == ['rgb', 'depth', 'ir']
    assert found.kinds == ['gaussian', 'blur']
    assert found.severities == (0, 1, 3, 5)
    assert list(found.rows) == list(METHODS)
    whole = 'rgb+depth+ir'
    for seed in (0, 1):
        clean, flat = scores(results, 'c', seed)
        cases = [
            (found.where(), lambda m, k, s, x: x == whole),
            (found.where('depth'), lambda m, k, s, x: m == 'depth' and x == whole),
            (found.where('', 'blur', 3), lambda m, k, s, x: (k, s, x) == ('blur', 3, whole)),
            (found.where('ir', subset='depth+ir'), lambda m, k, s, x: (m, x) == ('ir', 'depth+ir')),
        ]
        for where, belongs in cases:
            expected = np.mean([v for test, v in flat.items() if belongs(*test)])
            assert found.mean('c', where)[seed] == pytest.approx(expected)
        assert found.mean('c', found.where(severity=0))[seed] == pytest.approx(clean[whole])
        assert np.isnan(found.mean('c', found.where('ir', subset='rgb+depth'))).all()


def test_relative_robustness_is_the_share_of_the_clean_score_above_chance_that_is_kept(
    results, found
):
    for seed in (0, 1):
        clean, flat = scores(results, 'b', seed)
        kept = [
            (0.5 - value) / (0.5 - clean[x])
            for (_, _, _, x), value in flat.items()
            if x == 'rgb+depth+ir'
        ]
        assert found.relative('b', found.where())[seed] == pytest.approx(np.mean(kept))


def test_the_share_that_is_kept_of_made_scores():
    values = np.array([0.9, 0.7, 0.5, 0.4])[:, None]
    np.testing.assert_allclose(robustness.kept_share(values, 0.5, True)[:, 0], [1, 0.5, 0, -0.25])
    np.testing.assert_allclose(
        robustness.kept_share(1 - values, 0.5, False)[:, 0], [1, 0.5, 0, -0.25]
    )
    assert np.isnan(robustness.kept_share(values, 0.9, True)).all()
    assert np.isnan(robustness.kept_share(values, 0.1, False)).all()


def test_the_area_under_a_severity_curve_is_a_mean_height():
    assert robustness.area(np.full(6, 0.7), range(6)) == pytest.approx(0.7)
    assert robustness.area(np.linspace(1, 0, 6), range(6)) == pytest.approx(0.5)
    # From 0 to 1: (1 + .8) / 2, from 1 to 5: 4 * (.8 + .2) / 2; over 5.
    assert robustness.area(np.array([1, 0.8, 0.2]), (0, 1, 5)) == pytest.approx((0.9 + 2) / 5)


def test_the_area_of_a_row_is_the_mean_of_those_of_its_curves(results, found):
    clean, flat = scores(results, 'd', 1)
    whole = 'rgb+depth+ir'
    areas = []
    for m in ('rgb', 'depth', 'ir'):
        for k in ('gaussian', 'blur'):
            a, b, c, d = clean[whole], *(flat[m, k, s, whole] for s in (1, 3, 5))
            areas.append(((a + b) / 2 + (b + c) + (c + d)) / 5)
    assert found.area('d', found.where())[1] == pytest.approx(np.mean(areas))


@pytest.mark.parametrize('higher', [True, False])
def test_effective_robustness_is_the_distance_from_a_line_through_the_log_odds_of_the_others(
    higher,
):
    clean = np.array([0.55, 0.6, 0.7, 0.8, 0.9, 0.95])
    odds = clean / (1 - clean)
    on_line = 1 / (1 + 1 / (0.5 * odds**0.8))  # log-odds: log(0.5) + 0.8 log(odds)
    corrupted = on_line.copy()
    corrupted[2] += 0.05
    found = robustness.effective(clean, corrupted, True)
    assert found[2] == pytest.approx(0.05)
    assert (found[[0, 1, 3, 4, 5]] < 0).any()
    np.testing.assert_allclose(robustness.effective(clean, on_line, True), 0, atol=1e-9)
    if not higher:
        # The same rows in a metric of errors.
        same = robustness.effective(1 - clean, 1 - corrupted, False)
        np.testing.assert_allclose(same, found, atol=1e-9)


def test_a_trend_needs_rows_that_differ():
    clean = np.array([0.6, 0.7, 0.8, 0.9])
    assert np.isnan(robustness.effective(clean, clean - 0.1, True)).all()
    clean = np.array([0.6, 0.7, 0.8, 0.9, np.nan])
    assert np.isnan(robustness.effective(clean, clean - 0.1, True)).all()
    assert np.isnan(robustness.effective(np.full(6, 0.7), np.full(6, 0.5), True)).all()


def test_effective_robustness_of_rows_is_that_of_their_means(found):
    rows = list(found.rows)
    x = np.array([found.mean(r, found.where(severity=0)).mean() for r in rows])
    y = np.array([found.mean(r, found.where()).mean() for r in rows])
    assert list(found.effective().values()) == pytest.approx(
        robustness.effective(x, y, False).tolist()
    )
    assert not np.isnan([*found.effective().values()]).any()


def test_curves_have_every_test_with_its_mean_and_deviation(results, found):
    curves = list(found.curves())
    # Six rows, three modalities, two kinds, four subsets.
    assert len(curves) == 6 * 3 * 2 * 4
    (curve,) = [c for c in curves if c[:4] == ('e', 'depth', 'blur', 'rgb+depth')]
    each = []
    for seed in (0, 1):
        clean, flat = scores(results, 'e', seed)
        corrupted = [flat['depth', 'blur', s, 'rgb+depth'] for s in (1, 3, 5)]
        each.append([clean['rgb+depth'], *corrupted])
    assert curve.severities == (0, 1, 3, 5)
    np.testing.assert_allclose(curve.mean, np.mean(each, axis=0))
    np.testing.assert_allclose(curve.std, np.std(each, axis=0, ddof=1))


def test_a_row_that_lacks_a_test_has_no_mean_over_it(tmp_path):
    add(tmp_path / 'runs', 'a', 0)
    add(tmp_path / 'runs', 'b', 0, kinds=('gaussian',))
    table = writer.write_tables(tmp_path, 'faces')
    (one,), _ = robustness_tables.found(table, tmp_path / 'runs/faces')
    assert not np.isnan(one.mean('a', one.where())).any()
    assert np.isnan(one.mean('b', one.where())).all()
    assert not np.isnan(one.mean('b', one.where(kind='gaussian'))).any()
    overall = robustness_tables.tables(one)[0]
    row = dict(zip(overall.header, overall.rows[1], strict=True))
    assert row['corrupted'] == row['area'] == row['relative %'] == row['blur'] == ''
    assert row['clean'] == row['gaussian'] == '' or row['gaussian']
    assert 'effective' not in overall.header
    assert 'is not computed: it needs 5 methods whose scores differ' in overall.caption
    # One seed has no deviation, and the caption does not speak of it.
    assert '±' not in ''.join(map(str, overall.rows)) + overall.caption


def test_the_tables_are_written_in_three_formats(results, found, capsys):
    assert tables.main([str(results), '--corruptions']) == 0
    told = capsys.readouterr().out
    assert 'ACER ↓ (%) under corruption' in told
    prose = told[told.index('One modality at a time') : told.index('The other columns')]
    assert 80 < max(map(len, prose.splitlines())) <= escaping.WIDE
    assert '± is the standard deviation over seeds. Differences' in told.replace('\n', ' ')
    stem = results / 'tables/faces-corruptions'
    assert f'written: {stem}.md, .tex, .csv\n' in told
    text = stem.with_name(f'{stem.name}.md').read_text()
    header = (
        '| method | clean | corrupted | area | relative % | effective | gaussian | blur | seeds |'
    )
    assert header in text
    row = next(line for line in text.splitlines() if line.startswith('| c |'))
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    mean = found.mean('c', found.where())
    assert cells[2] == f'{100 * mean.mean():.2f} ± {100 * mean.std(ddof=1):.2f}'
    assert float(cells[5]) == pytest.approx(100 * found.effective()['c'], abs=0.006)
    assert 'rgb corrupted, without ir' in text
    assert 'ir corrupted, alone' in text
    assert r'\begin{table*}' in stem.with_name(f'{stem.name}.tex').read_text()
    with stem.with_name(f'{stem.name}.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 3 * 2 * 4 * 4
    (one,) = [
        r for r in rows
        if (r['method'], r['modality'], r['corruption'], r['severity'], r['subset'])
        == ('f', 'ir', 'gaussian', '5', 'ir')
    ]  # fmt: skip
    each = [scores(results, 'f', seed)[1]['ir', 'gaussian', 5, 'ir'] for seed in (0, 1)]
    assert float(one['score']) == pytest.approx(100 * np.mean(each))
    assert float(one['score_std']) == pytest.approx(100 * np.std(each, ddof=1))


def test_data_without_tests_are_told_in_one_line(tmp_path, capsys):
    path = add(tmp_path / 'runs', 'a', 0, errors=None)
    assert tables.main([str(tmp_path), '--corruptions']) == 2
    assert 'faces: no run was tested under corruptions' in capsys.readouterr().err
    (path.parent / corruptions.FILE).write_text('{}')
    assert tables.main([str(tmp_path), '--corruptions']) == 2
    assert 'expected format 1' in capsys.readouterr().err


@pytest.mark.parametrize(
    'words', [['--where', 'ir=off'], ['--metric', 'AUC'], ['--common-samples']]
)
def test_other_selections_of_tests_are_refused(results, words, capsys):
    assert tables.main([str(results), '--corruptions', *words]) == 2
    assert '--corruptions: expected no' in capsys.readouterr().err


def section(root):
    """The section of the page on corruptions."""
    (block,) = document.dataset('faces', root, 'd0')['blocks']
    (found,) = [s for s in block['sections'] if s['title'] == 'Corruptions']
    return found


def test_the_page_shows_every_curve_and_what_is_kept(results, found):
    part, kept = section(results / 'runs/faces')['parts']
    assert len(part['rows']) == 6 * 3 * 2 * 4 * 4
    subsets = part['selects'][2]['options']
    assert subsets[0] == 'all modalities'
    wanted = [METHODS.index('c'), 1, 1, subsets.index('rgb+depth'), 5]
    (row,) = [row for row in part['rows'] if row[:5] == wanted]
    where = found.where('depth', 'blur', 5, 'rgb+depth')
    assert row[5] == pytest.approx(100 * found.mean('c', where).mean(), abs=0.005)
    assert kept['cols'] == ['all corruptions', 'Gaussian noise', 'Gaussian blur']
    share = 100 * found.relative('c', found.where('ir', 'blur')).mean()
    assert kept['layers']['0/3'][2][2] == pytest.approx(share, abs=1e-3)
    assert math.isclose(
        kept['layers']['0/0'][2][0], 100 * found.relative('c', found.where()).mean(), abs_tol=1e-3
    )


def test_the_page_shows_the_area_and_the_effective_robustness_of_the_tables(results, found):
    kept = section(results / 'runs/faces')['parts'][1]
    assert kept['colours'] == ['high', 'low', 'signed']  # ACER: a low area is better
    overall = robustness_tables.tables(found)[0]
    for name, row, area, effective in zip(
        kept['rows'], overall.rows, kept['layers']['1/0'], kept['layers']['2/0'], strict=True
    ):
        told = dict(zip(overall.header, row, strict=True))
        assert told['method'] == name
        assert float(told['area'].split(' ± ')[0]) == pytest.approx(area[0], abs=0.006)
        assert float(told['effective']) == pytest.approx(effective[0], abs=0.006)
    rows = list(found.rows)
    x, y = (
        np.array([found.mean(r, found.where('ir', 'blur', s)).mean() for r in rows])
        for s in (0, None)
    )
    one = [row[2] for row in kept['layers']['2/3']]
    assert one == pytest.approx(100 * robustness.effective(x, y, False), abs=1e-3)


def test_a_page_without_tests_says_how_they_are_made(tmp_path):
    add(tmp_path / 'runs', 'a', 0, errors=None)
    (part,) = section(tmp_path / 'runs/faces')['parts']
    assert part['kind'] == 'lacking'
    assert part['text'].startswith('No run was tested under corruptions.')


def test_hostile_labels_do_nothing(tmp_path):
    add(tmp_path / 'runs', 'a', 0, label=HOSTILE.replace('/', ''))
    assert tables.main([str(tmp_path), '--corruptions']) == 0
    stem = tmp_path / 'tables'
    assert "'=A1*2" in (stem / 'faces-corruptions.csv').read_text()
    assert '<b>' not in (stem / 'faces-corruptions.md').read_text()
    assert '\\alpha' not in (stem / 'faces-corruptions.tex').read_text().replace(
        'textbackslash', ''
    )


def test_without_a_known_chance_the_whole_score_counts(tmp_path):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    path = save(tmp_path / 'runs', make_record('a', 0, outcomes), outcomes)
    make_tests(path, lambda *test: 0.2)
    table = writer.write_tables(tmp_path, 'faces')
    (one,), _ = robustness_tables.found(table, tmp_path / 'runs/faces')
    assert isinstance(one, Robustness)
    assert one.empty == 0.5  # ACER of any constant answer
    assert one.relative('a', one.where()) == pytest.approx([0.3 / 0.4])


def test_what_is_kept_is_worded_by_the_direction_of_the_metric(results, found):
    below = 'the share of what the clean score lies below 50.00 %, the score without any input'
    assert f'Relative is {below}, that is kept.' in robustness_tables.tables(found)[0].caption
    assert f'The relative robustness is {below}' in section(results / 'runs/faces')['about']
    higher = SimpleNamespace(runs=SimpleNamespace(higher=True))
    assert robustness_tables.gain(higher) == 'the share of the clean score above'


def test_without_a_known_worst_score_nothing_is_called_kept(results, found, monkeypatch):
    # As of the MAE of a regression: a lower score is better, and chance is not known.
    monkeypatch.setattr(robustness, 'without_input', lambda runs: None)
    one = Robustness(found.runs, found.tests)
    overall, by_severity, _ = robustness_tables.tables(one)
    assert overall.header[:5] == ['method', 'clean', 'corrupted', 'area', 'effective']
    assert all(all(row) and len(row) == len(overall.header) for row in overall.rows)
    assert by_severity.header == ['method', 'clean', *(f'severity {s}' for s in (1, 3, 5))]
    assert all(len(row) == len(by_severity.header) for row in by_severity.rows)
    shown = section(results / 'runs/faces')
    kept = shown['parts'][1]
    assert [o.split()[0] for o in kept['selects'][0]['options']] == ['area', 'effective']
    assert kept['colours'] == ['low', 'signed']
    area = 100 * found.area('c', found.where()).mean()
    assert kept['layers']['0/0'][2][0] == pytest.approx(area, abs=0.006)
    for text in (overall.caption, shown['about']):
        assert 'There is no relative robustness' in text
        assert 'share of the clean score' not in text
        assert 'a relative robustness also' not in text
    assert 'relative' not in by_severity.caption
