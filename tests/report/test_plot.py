"""Figures for a paper: the numbers of the page, readable, and the same at every call."""

import csv
import dataclasses
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from made_corruptions import make_tests
from made_pages import HOSTILE, add, add_rooms, made, outcomes_of
from made_records import make_failure, make_record, save
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from PIL import Image
from scripts import run_script

from benchmark import tables
from benchmark.errors import UserError
from benchmark.missing import subset_ids
from benchmark.records import corruptions, store
from benchmark.report import robustness
from benchmark.report.figures import command, formats
from benchmark.report.figures.charts import CHARTS
from benchmark.report.figures.drawing import heat, lines, pages, scatter, sheets
from benchmark.report.figures.shapes import (
    Column,
    Group,
    Heat,
    Lines,
    Mark,
    Matrices,
    Point,
    Rows,
    Scatter,
    Series,
)
from benchmark.report.figures.source import Asked, Source
from benchmark.report.page import bundle, corrupted, curves, reading
from benchmark.report.selection import Selection
from benchmark.report.writer import Lacking

NAMES = ['rgb', 'depth', 'ir']
SUBSETS = subset_ids(NAMES)
COLUMN, TEXT = formats.WIDTHS.values()


def source_of(folder, asked=None, selection=None, dataset='faces', **more):
    """What charts are made from, of the only block of a results folder."""
    chosen = selection or Selection()
    found = reading.read(dataset, folder / 'runs' / dataset, selection=chosen, **more)
    (view,) = found.views
    training = curves.section_of(view, found.folder)
    return Source(view, found.seen(view), training, asked or Asked())


def pictures(source, chart):
    return {picture.name: picture for picture in CHARTS[chart](source)}


def table_of(picture):
    """First column -> the other numbers of a picture."""
    return {row[0]: row[1:] for row in picture.rows}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Two methods with three seeds and one with two."""
    folder = tmp_path_factory.mktemp('plots')
    for label, seeds in (('one', 3), ('other', 3), ('few', 2)):
        for seed in range(seeds):
            add(folder / 'runs', label, seed, samples=80, log=label == 'one')
    return folder


@pytest.fixture(scope='module')
def source(results):
    return source_of(results)


@pytest.fixture(scope='module')
def lines_of_csv(results):
    assert tables.main([str(results)]) == 0
    return {x['method']: x for x in csv.DictReader((results / 'tables' / 'faces.csv').open())}


# The numbers.


def test_scores_and_differences_are_those_of_the_tables(source, lines_of_csv):
    (picture,) = pictures(source, 'scores').values()
    keys = [*SUBSETS, 'mean', 'worst']
    assert list(picture.header) == ['method', *keys]
    means = [float(lines_of_csv[name]['mean']) for name in table_of(picture)]
    assert means == sorted(means)  # ACER: less is better, and the best is first
    for name, row in table_of(picture).items():
        assert row == pytest.approx([float(lines_of_csv[name][k]) for k in keys], abs=1e-4)
    (less,) = CHARTS['difference'](
        Source(source.view, source.seen, source.curves, Asked(baseline='few'))
    )
    assert set(table_of(less)) == {'one', 'other'}
    for name, row in table_of(less).items():
        gaps = [float(lines_of_csv[name][k]) - float(lines_of_csv['few'][k]) for k in keys]
        assert row == pytest.approx(gaps, abs=1e-3)
    assert less.shape.colouring == 'against'


def test_means_and_seeds_by_missing_modalities_are_those_of_the_tables(source, lines_of_csv):
    (picture,) = pictures(source, 'missing').values()
    for each in picture.shape.series:
        line = lines_of_csv[each.name]
        (points,) = each.lines
        assert [x for x, _ in points] == [0, 1, 2]
        for (k, mean), (_, low, high) in zip(points, each.band, strict=True):
            assert mean == pytest.approx(float(line[f'missing_{k}']), abs=1e-3)
            assert (high - low) / 2 == pytest.approx(float(line[f'missing_{k}_std']), abs=1e-3)
            own = [y for x, y in each.dots if x == k]
            assert len(own) == (2 if each.name == 'few' else 3)
            assert np.mean(own) == pytest.approx(mean, abs=1e-3)


def test_the_other_charts_show_the_numbers_of_the_page(results, source, monkeypatch):
    monkeypatch.setattr(bundle, 'javascript', lambda: '')
    data = made(results)[1]['parts']
    names = source.view.methods
    part = {key.partition('-')[2]: value for key, value in data.items()}

    def rows(end):
        return [dict(zip(part[end]['fields'], row, strict=True)) for row in part[end]['rows']]

    (ranks,) = pictures(source, 'ranks').values()
    shown = {ranks.shape.rows[m.row]: (m.low, m.high) for m in ranks.shape.groups[0].marks}
    assert shown == {names[r['m']]: (r['low'], r['high']) for r in rows('rank')}
    (shapley,) = pictures(source, 'shapley').values()
    found = {
        (shapley.shape.rows[m.row], g.name): m.value for g in shapley.shape.groups for m in g.marks
    }
    assert found == {(names[r['m']], r['modality']): r['value'] for r in rows('shapley')}
    (pairs,) = pictures(source, 'interactions').values()
    assert table_of(pairs) == dict(
        zip(part['pairs']['rows'], part['pairs']['layers'][''], strict=True)
    )
    assert [c.members for c in pairs.shape.columns] == [{0, 1}, {0, 2}, {1, 2}]
    for k, picture in enumerate(pictures(source, 'calibration').values()):
        layer = dict(zip(names, part['calibrated']['layers'][str(k)], strict=True))
        assert table_of(picture) == layer
    (classes,) = pictures(source, 'classes').values()
    best = source.order[0]
    for k, (title, matrix) in enumerate(classes.shape.panels):
        assert title == SUBSETS[k]
        assert matrix == part['confusion']['layers'][f'{best}/{k}']
    for name, end, field in (('risk', 'risk', 'risk'), ('reliability', 'reliability', 'accuracy')):
        (picture,) = pictures(source, name).values()
        own = {s.name: [y for _, y in s.lines[0]] for s in picture.shape.series}
        for m, method in enumerate(names):
            assert own[method] == [r[field] for r in rows(end) if (r['m'], r['s']) == (m, 6)]
    (cost,) = pictures(source, 'cost').values()
    for k, (_, _, points) in enumerate(cost.shape.panels):
        told = {cost.shape.names[p.number - 1]: (p.x, p.y, p.front) for p in points}
        kind = [r for r in rows('pareto') if r['kind'] == k]
        assert told == {names[r['m']]: (r['cost'], r['score'], r['front'] > 0) for r in kind}
    assert len(cost.shape.panels) == 4
    assert cost.note == 'FLOPs on 6 subsets are not shown; --subsets names others'
    loss, validation = pictures(source, 'curves').values()
    assert [s.lines for s in loss.shape.series] == [[[(0, 0.7), (1, 0.6)]] * 3]
    assert [s.lines for s in validation.shape.series] == [[[(1, 45.0)]] * 3]


def drawn(scores, absent, none):
    """The expectation, by going through all states of the sensors one by one."""
    total = 0.0
    for there in itertools.product((True, False), repeat=len(absent)):
        weight = math.prod(1 - p if t else p for p, t in zip(absent, there, strict=True))
        subset = '+'.join(n for n, t in zip(NAMES, there, strict=True) if t)
        total += weight * (scores[subset] if subset else none)
    return total


@pytest.mark.parametrize('chance', [0.5, None])
def test_the_expected_score_goes_through_all_states_of_the_sensors(tmp_path, chance):
    scores = []
    for seed in range(2):
        path = add(tmp_path / 'runs', 'm', seed, chance=chance)
        tested = store.read(path)['scores']['test']
        scores.append({s: 100 * tested[s]['ACER'] for s in SUBSETS})
    source = source_of(tmp_path, selection=Selection(fail='rgb=0.1,ir=0.3'))
    (picture,) = pictures(source, 'expected').values()
    each = [drawn(s, (0.1, 0.0, 0.3), 50) for s in scores]
    ((mark,), dots) = picture.shape.groups[0].marks, picture.shape.groups[0].dots
    assert [value for _, value in dots] == pytest.approx(each, abs=1e-3)
    assert mark.value == pytest.approx(np.mean(each), abs=1e-3)
    assert mark.high - mark.low == pytest.approx(2 * np.std(each, ddof=1), abs=1e-3)
    assert picture.shape.label == 'expected ACER (%) if modalities fail: rgb 10 %, ir 30 %'
    (picture,) = pictures(source_of(tmp_path), 'expected').values()
    ((line,),) = (s.lines for s in picture.shape.series)
    assert [x for x, _ in line] == pytest.approx(np.arange(0, 31, 2.5))
    for p, value in line:
        each = [drawn(s, (p / 100,) * 3, 50) for s in scores]
        assert value == pytest.approx(np.mean(each), abs=1e-3)


def test_without_a_sensor_the_others_share_the_whole_gain(results):
    whole = source_of(results)
    less = source_of(results, selection=Selection(where='depth=off'))
    column = list(whole.view.runs.columns).index('rgb+ir')
    (picture,) = pictures(less, 'shapley').values()
    assert [g.name for g in picture.shape.groups] == ['rgb', 'ir']
    for row, name in enumerate(picture.shape.rows):
        both = sum(m.value for g in picture.shape.groups for m in g.marks if m.row == row)
        score = whole.view.means[whole.view.methods.index(name), column]
        assert both == pytest.approx(50 - score, abs=1e-3)
    (pairs,) = pictures(less, 'interactions').values()
    assert [c.members for c in pairs.shape.columns] == [{0, 2}]


def test_chance_of_the_main_metric_is_not_that_of_another(results):
    with pytest.raises(Lacking, match='score without any modality'):
        pictures(source_of(results, metric='APCER'), 'shapley')


def test_the_gap_closed_leaves_out_the_worst_column(tmp_path):
    add(tmp_path / 'runs', 'm', 0, ceiling=dict.fromkeys(SUBSETS, 0.1))
    source = source_of(tmp_path)
    (picture,) = pictures(source, 'gap').values()
    assert list(picture.header) == ['method', *SUBSETS, 'mean']
    scores = table_of(*pictures(source, 'scores').values())['m']
    expected = [100 * (v - 50) / (10 - 50) for v in scores[:-1]]
    assert table_of(picture)['m'] == pytest.approx(expected, abs=1e-3)


def test_segmentation_has_a_row_for_each_class(tmp_path):
    add_rooms(tmp_path / 'runs', 'm', 0)
    (picture,) = pictures(source_of(tmp_path, dataset='rooms'), 'classes').values()
    assert list(picture.shape.rows) == ['wall', 'floor', 'box']
    means = np.mean(picture.shape.values, axis=0)
    (scores,) = pictures(source_of(tmp_path, dataset='rooms'), 'scores').values()
    np.testing.assert_allclose(means, scores.shape.values[0][:3], atol=0.01)


def test_corruptions_show_what_the_page_shows(tmp_path, monkeypatch):
    for label, more in (('a', 0.0), ('b', 0.05)):
        for seed in range(2):
            path = add(tmp_path / 'runs', label, seed, samples=400)
            make_tests(
                path, lambda m, k, s, x, more=more, seed=seed: 0.1 + 0.02 * s + more + seed / 50
            )
    tests, problems = corruptions.scan(tmp_path / 'runs' / 'faces')
    assert problems == []
    source = dataclasses.replace(source_of(tmp_path), tests=tests)
    severity, share = corrupted.section_of(source.view, tests)['parts']
    whole, area, *each = CHARTS['corruptions'](source)
    # Two methods have no trend, so that there is no effective robustness.
    assert area.name == 'corruptions-area'
    assert [p.name for p in each] == ['corruptions-1', 'corruptions-2', 'corruptions-3']
    keys = ['0/0', '1/0', '0/1', '0/2', '0/3']
    for picture, key in zip([whole, area, *each], keys, strict=True):
        layer = share['layers'][key]
        assert [table_of(picture)[name] for name in share['rows']] == layer
    assert list(whole.header) == ['method', *share['cols']]
    assert (whole.shape.colouring, area.shape.colouring) == ('high', 'low')
    assert whole.shape.empty.startswith('not tested, or a clean score')
    found = pictures(source, 'severity')
    assert list(found) == [f'severity-{m}-{k}' for m in (1, 2, 3) for k in (1, 2)]
    names = source.view.methods
    rows = [dict(zip(severity['fields'], row, strict=True)) for row in severity['rows']]
    for each in found['severity-2-1'].shape.series:
        told = [
            r
            for r in rows
            if (names[r['m']], r['modality'], r['kind'], r['subset']) == (each.name, 1, 0, 0)
        ]
        assert each.lines == [[(r['severity'], r['value']) for r in told]]
        assert [high - low for _, low, high in each.band] == pytest.approx(
            [2 * r['std'] for r in told]
        )
        assert [r['severity'] for r in told] == [0, 1, 3, 5]
    monkeypatch.setattr(robustness, 'effective', lambda clean, *_: np.arange(len(clean)) - 0.5)
    effective = pictures(source, 'corruptions')['corruptions-effective']
    assert {name: set(row) for name, row in table_of(effective).items()} == {'a': {-50}, 'b': {50}}
    assert effective.shape.colouring == 'signed'
    assert effective.note.endswith('of a single modality is not shown; the page has it')


def test_chosen_subsets_and_methods_have_figures_of_their_own(results):
    asked = Asked(subsets=['ir', 'rgb+ir'], only=True)
    source = source_of(results, asked, columns={'ir': 'ir', 'rgb+ir': 'rgb+ir'})
    assert list(pictures(source, 'risk')) == ['risk-3', 'risk-5']
    (scores,) = pictures(source, 'scores').values()
    assert list(scores.header) == ['method', 'ir', 'rgb+ir', 'mean', 'worst']
    assert sorted(pictures(source, 'classes')) == ['classes-1', 'classes-2', 'classes-3']
    titles = [title for title, _, _ in next(CHARTS['cost'](source)).shape.panels]
    assert titles[3:] == ['FLOPs on rgb+ir', 'FLOPs on ir']


# What is drawn.


def shown(figure):
    """The visible texts of a figure with their boxes in pixels."""
    FigureCanvasAgg(figure)  # measures texts
    figure.draw_without_rendering()
    found = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    away = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            major, (low, high) = axis.get_major_ticks(), sorted(limits)
            ticks = [*major, *axis.get_minor_ticks()]
            away.update(t.label1 for t in ticks if not low <= t.get_loc() <= high)
            away.update(t.label1 for t in major if not axes.axison)
    found = [t for t in found if t not in away]
    return [(t.get_text(), t.get_window_extent()) for t in found]


def problems_of(figure):
    """Texts that leave the figure or lie on each other."""
    texts, boxes = zip(*shown(figure), strict=True)
    low, high = np.split(np.array([box.extents for box in boxes]), 2, axis=1)
    outside = (low < -1) | (high > figure.get_size_inches() * figure.dpi + 1)
    found = [text for text, out in zip(texts, outside.any(1), strict=True) if out]
    common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    # Boxes have the height of the font, which is more than that of most letters.
    for one, other in np.argwhere((common > (1, 3)).all(2)):
        if one < other:
            found.append(f'{texts[one]} | {texts[other]}')
    return found


def heat_of(rows, modalities, long=''):
    names = [f'm{k}{long}' for k in range(modalities)]
    columns = [
        Column(s, frozenset(names.index(n) for n in s.split('+'))) for s in subset_ids(names)
    ]
    columns += [Column('mean'), Column('worst')]
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 99, (rows, len(columns))).tolist()
    methods = [f'{long}method{k}' for k in range(rows)]
    return Heat(methods, columns, values, names, 'ACER (%); the darker, the better', 'low')


def lines_shape(count, long=''):
    series = []
    for k in range(count):
        points = [(x, 10.0 * x + k) for x in range(4)]
        band = [(x, y - 2, y + 2) for x, y in points]
        series.append(Series(f'{long}method{k}', [points], band, [(1, 9.0), (1, 14.0)]))
    title = 'severity of Gaussian noise in the depth, given all modalities of the data set'
    return Lines(series, title, 'ACER (%)', whole=True)


def rows_shape(count, long=''):
    names = [f'{long}method{k}' for k in range(count)]
    groups = [
        Group(f'm{g}{long}', [Mark(k, k + g, k + g - 1, k + g + 1) for k in range(count)])
        for g in range(3)
    ]
    return Rows(names, groups, 'Shapley value (points of ACER)', zero=True)


def scatter_shape(count, long=''):
    rng = np.random.default_rng(1)
    points = [
        Point(k + 1, *xy, k == 0) for k, xy in enumerate(rng.uniform(10, 50, (count, 2)).tolist())
    ]
    titles = ['parameters', f'FLOPs on {long}', 'seconds', 'more']
    panels = [(title, 'ACER (%)', points) for title in titles]
    return Scatter(panels, [f'{long}method{k}' for k in range(count)], False)


def matrices_shape(count, long=''):
    names = [f'{long}class{k}' for k in range(min(count, 6))]
    table = np.full((len(names), len(names)), 100 / len(names)).tolist()
    panels = [(f'{subset}{long}', table) for subset in SUBSETS]
    return Matrices(names, panels, 'percent of the true class; best')


SHAPES = {
    'heat': lambda count, long: heat_of(count, 3, long),
    'lines': lines_shape,
    'rows': rows_shape,
    'scatter': scatter_shape,
    'matrices': matrices_shape,
}


@pytest.mark.parametrize(
    ('count', 'long', 'width'),
    [(1, '', COLUMN), (3, HOSTILE * 3, COLUMN), (19, '', COLUMN), (19, '', TEXT)],
)
@pytest.mark.parametrize('kind', SHAPES)
def test_no_text_leaves_the_figure_or_lies_on_another(kind, count, long, width):
    with sheets.styled():
        figures = pages.draw(SHAPES[kind](count, long), width)
        for figure in figures:
            assert problems_of(figure) == []
            assert figure.get_size_inches()[0] == pytest.approx(width)
            assert figure.get_size_inches()[1] <= sheets.TALLEST + 1e-9
            sizes = {t.get_fontsize() for t in figure.findobj(Text) if t.get_text()}
            assert min(sizes) >= sheets.SMALL


def test_every_cell_of_255_subsets_is_on_some_page():
    shape = heat_of(7, 8)
    with sheets.styled():
        figures = pages.draw(shape, COLUMN)
    cells = [c for f in figures for c in f.axes[0].collections if isinstance(c, PolyCollection)]
    assert sum(len(c.get_paths()) for c in cells) == 7 * 257
    circles = {'#222222': 0, 'white': 0}
    for line in (line for f in figures for line in f.axes[0].lines):
        circles[line.get_markerfacecolor()] += len(line.get_xdata())
    assert sum(circles.values()) == 255 * 8
    assert circles['#222222'] == sum(len(c.members or ()) for c in shape.columns)
    assert len(figures) > 1


def test_cells_show_their_numbers_where_these_fit():
    shape = heat_of(2, 3)
    with sheets.styled():
        (wide,) = pages.draw(shape, TEXT)
        told = [text for text, _ in shown(wide)]
        more = heat_of(1, 4)
        (narrow,) = pages.draw(more, COLUMN)
        numbers = {f'{v:.1f}' for v in more.values[0]}
        # Three numbers stand at the bar of the colours.
        assert len(numbers & {text for text, _ in shown(narrow)}) <= 3
    for row in shape.values:
        for value in row:
            assert f'{value:.2f}' in told


def test_titles_that_fit_take_one_line_beneath_the_cells():
    columns = [Column('all corruptions'), Column('Gaussian noise')]
    heights = []
    for titles in (columns, [*columns, *(Column('Gaussian noise') for _ in range(9))]):
        values = [[1.0] * len(titles)]
        with sheets.styled():
            (figure,) = pages.draw(Heat(['m'], titles, values, [], 'x', 'high'), COLUMN)
        assert problems_of(figure) == []
        heights.append(figure.get_size_inches()[1])
    widest = max(sheets.measure(column.title) for column in columns)
    assert heights[1] - heights[0] == pytest.approx(widest - sheets.LINE)


def test_what_was_not_tested_is_a_dash_and_a_minus_is_one():
    shape = Heat(
        ['m'], [Column('a'), Column('b'), Column('c')], [[None, -1.5, 0.001]], [], 'x', 'signed'
    )
    assert heat.texts_of(shape.values, 1.0, True) == [['–', '−1.50', '0.00']]
    assert heat.texts_of([[-0.001]], 1.0, True) == [['0.00']]
    assert heat.texts_of(shape.values, 0.01, True) is None
    full = dataclasses.replace(shape, values=[[1.0, 2.0, 3.0]])
    for each, more in ((shape, ['x; – is not known']), (full, ['x'])):
        with sheets.styled():
            (figure,) = pages.draw(each, COLUMN)
        assert [text for text, _ in shown(figure) if text.startswith('x')] == more


@pytest.mark.parametrize(('colouring', 'worse'), [('signed', -1.0), ('against', 1.0)])
def test_without_numbers_what_is_worse_is_hatched(colouring, worse):
    columns = [Column(f'c{k}') for k in range(30)]
    shape = Heat(['m'], columns, [[worse, -worse] * 15], [], 'worse is orange', colouring)
    with sheets.styled():
        (figure,) = pages.draw(shape, COLUMN)
    hatched = [c for c in figure.axes[0].collections if c.get_hatch()]
    assert sum(len(c.get_paths()) for c in hatched) == 15
    assert any('orange and hatched' in t.get_text() for t in figure.findobj(Text))


def test_dark_is_better_and_the_colours_are_scaled_as_on_the_page():
    low = heat.scale_of([[float(v) for v in range(101)]], 'low')
    assert (low.low, low.high, low.below, low.above) == (5, 95, True, True)
    dark = [heat.luminance(low.colours(low.share(v))[:3]) for v in (5, 50, 95)]
    assert dark == sorted(dark)
    high = heat.scale_of([[0.0, 1.0]], 'high')
    assert high.share(1.0) == 1
    signed = heat.scale_of([[-4.0, 1.0]], 'against')
    assert (signed.low, signed.high, signed.share(0.0)) == (-4, 4, 0.5)
    assert signed.share(-4) == 1


def test_texts_have_contrast_to_their_cells():
    for colours, k in itertools.product((sheets.ONE_WAY, sheets.TWO_WAYS), range(101)):
        colour = heat.luminance(colours(k / 100)[:3])
        ink = 0.0 if colour > heat.EVEN else 1.0
        bright, dark = max(colour, ink), min(colour, ink)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_series_of_a_panel_differ_without_colour():
    looks = [lines.look(k) for k in range(lines.MOST)]
    assert len({look['marker'] for look in looks}) == lines.MOST
    assert len({str(look['linestyle']) for look in looks}) == lines.MOST


def test_lines_and_bands_lie_at_their_place_and_only_dots_stand_side_by_side():
    series = [
        Series(name, [[(0, y), (2, y + 9)]], [(0, y - 1, y + 1), (2, y, y + 9)], [(0, y), (2, y)])
        for name, y in (('a', 10.0), ('b', 20.0))
    ]
    with sheets.styled():
        (figure,) = pages.draw(Lines(series, 'x', 'y', whole=True), COLUMN)
    panel = figure.axes[1]
    joined = [line for line in panel.lines if line.get_linestyle() != 'None']
    assert [list(line.get_xdata()) for line in joined] == [[0, 2], [0, 2]]
    for band in panel.collections:
        assert {x for x, _ in band.get_paths()[0].vertices} == {0, 2}
    first, second = (list(line.get_xdata()) for line in panel.lines if line not in joined)
    assert np.subtract(second, first) == pytest.approx([lines.SIDE_BY_SIDE] * 2)


@pytest.mark.parametrize('repeated', [1, 2, 4])
def test_a_long_title_of_the_axis_ends_above_the_legend(repeated):
    title = ' '.join(['severity of Gaussian noise in rgb, given all modalities'] * repeated)
    with sheets.styled():
        (figure,) = pages.draw(Lines([Series('m', [[(0, 1.0), (5, 2.0)]])], title, 'y'), COLUMN)
        shown(figure)
        sheet, panel = figure.axes
        below = panel.xaxis.label.get_window_extent().y0
        marks = [(line.get_window_extent().y1, line.get_markersize()) for line in sheet.lines]
        tops = [y + size / 2 * figure.dpi / 72 for y, size in marks]
    assert below >= max(tops)
    assert below >= max(text.get_window_extent().y1 for text in sheet.texts)


def test_panels_have_all_methods_and_one_scale_but_for_those_far_off():
    shape = lines_shape(13)
    far = Series('far', [[(0, 0.0), (3, 500.0)]])
    with sheets.styled():
        (figure,) = pages.draw(Lines([*shape.series, far], 'x', 'y', whole=True), TEXT)
    panels = figure.axes[1:]
    assert [axes.get_title() for axes in panels] == [
        'methods 1 to 5 of 14',
        'methods 6 to 10 of 14',
        'methods 11 to 14 of 14; other scale',
    ]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[2].get_ylim()[1] > 500
    named = {t.get_text() for t in figure.axes[0].texts}
    assert named == {*(each.name for each in shape.series), 'far'}


def test_numbers_with_many_digits_have_room_beside_the_axis():
    series = [Series('m', [[(0, 0.7), (1, 0.6)]])]
    points = [Point(1, 1.0, 0.7, True), Point(2, 2.0, 0.605, False)]
    with sheets.styled():
        (loss,) = pages.draw(Lines(series, 'epoch', 'training loss', shared=False), COLUMN)
        (cost,) = pages.draw(Scatter([('x', 'ACER (%)', points)], ['m', 'n'], False), COLUMN)
    for figure in (loss, cost):
        assert problems_of(figure) == []
        # A fiftieth of an inch at least is left at the edge.
        assert min(box.x0 for _, box in shown(figure)) >= figure.dpi / 50


def test_a_point_far_off_is_a_triangle_with_its_score():
    points = [Point(k, 10.0 * k, 10.0 + 0.1 * k, k == 1) for k in range(1, 9)]
    points.append(Point(9, 50.0, 60.0, False))
    assert scatter.poor(points, False) == {9}
    on_front = dataclasses.replace(points[-1], front=True)
    assert scatter.poor([*points[:-1], on_front], False) == set()
    assert scatter.poor(points[:-1], False) == set()
    with sheets.styled():
        (figure,) = pages.draw(
            Scatter([('x', 'y', points)], [f'm{k}' for k in range(9)], False), COLUMN
        )
    told = [t.get_text() for t in figure.axes[1].texts]
    assert told == [*map(str, range(1, 9)), '9 (60.00)']
    assert any(line.get_marker() == '^' for line in figure.axes[1].lines)
    assert any('triangle' in t.get_text() for t in figure.axes[0].texts)


def test_names_are_shortened_within_their_room_and_stay_apart():
    names = ['short', f'{"x" * 80}', f'{"x" * 90}', 'mmanet:alpha=4,beta=0.5,gamma=12,delta=1']
    found = sheets.fitted(names, 1.0)
    assert found[0] == 'short'
    assert len(set(found)) == 4
    assert all(sheets.measure(name) <= 1.0 for name in found)
    assert found[3].startswith('mmanet')
    assert found[3].endswith('=1')


def test_the_measure_of_a_text_is_that_of_the_drawing():
    with sheets.styled():
        figure, sheet = sheets.blank(4, 1)
        text = sheet.text(0, 0, 'modality_dropout', size=sheets.SMALL)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        inches = text.get_window_extent().width / figure.dpi
    assert sheets.measure('modality_dropout') == pytest.approx(inches, abs=0.04)


# The command.


def run(*words):
    return command.main([str(word) for word in words])


def test_files_are_the_same_twice_without_dates_and_with_fonts(results, tmp_path, capsys):
    words = ['--chart', 'missing', 'scores', '--format', 'pdf,svg,png', '--data']
    for out in ('a', 'b'):
        with mpl.rc_context({'text.usetex': True, 'font.size': 30, 'figure.dpi': 50}):
            assert run(results, '--out', tmp_path / out, *words) == 0
    names = sorted(f.name for f in (tmp_path / 'a').iterdir())
    kinds = ('csv', 'pdf', 'png', 'svg')
    assert names == [f'faces-{chart}.{k}' for chart in ('missing', 'scores') for k in kinds]
    for name in names:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
    pdf = (tmp_path / 'a' / 'faces-missing.pdf').read_bytes()
    assert b'CreationDate' not in pdf
    assert b'/FontFile2' in pdf
    assert re.search(rb'/MediaBox \[\s?0 0 234 ', pdf)
    svg = ElementTree.parse(tmp_path / 'a' / 'faces-missing.svg')
    assert not list(svg.iter('{http://www.w3.org/2000/svg}text'))
    assert not list(svg.iter('{http://purl.org/dc/elements/1.1/}date'))
    image = Image.open(tmp_path / 'a' / 'faces-missing.png')
    assert image.width == 3.25 * 300
    assert image.text['Title'] == 'Score by number of missing modalities'
    read = list(csv.reader((tmp_path / 'a' / 'faces-scores.csv').open()))
    assert read[0][0] == 'method'
    assert len(read) == 4
    assert (
        f'written: {tmp_path / "a" / "faces-missing"}.pdf, .svg, .png, .csv'
        in capsys.readouterr().out
    )


def test_hostile_names_are_drawn_as_they_are(tmp_path, capsys):
    label = HOSTILE.replace('/', '|') + '$\\frac{'
    names = ['$\\alpha_1$', '日', 'b' * 90]
    add(tmp_path / 'runs', label, 0, names=names, classes=[HOSTILE, 'live'])
    add(tmp_path / 'runs', 'm', 0, names=names, classes=[HOSTILE, 'live'])
    assert (
        run(tmp_path, '--format', 'svg', '--chart', 'scores', 'classes', 'missing', '--data') == 0
    )
    told = capsys.readouterr()
    assert told.err == ''
    assert 'note: faces-scores: the font shows boxes in the place of 日\n' in told.out
    with (tmp_path / 'figures' / 'faces-scores.csv').open() as file:
        assert f"'{label}" in [row[0] for row in csv.reader(file)]
    ElementTree.parse(next((tmp_path / 'figures').glob('faces-classes*.svg')))
    with sheets.styled():
        (figure,) = pages.draw(
            Heat(['$\\frac{'], [Column('a')], [[1.0]], [], '$x$', 'high'), COLUMN
        )
        assert '$\\frac{' in [text for text, _ in shown(figure)]


def test_two_protocols_have_files_of_their_own(tmp_path):
    ids = []
    for epochs in (3, 9):
        outcomes = outcomes_of(NAMES, 0)
        record = make_record('m', 0, outcomes, protocol={'epochs': epochs})
        ids.append(record['protocol_id'])
        save(tmp_path / 'runs', record, outcomes)
    assert run(tmp_path, '--chart', 'missing', '--where', 'ir=off') == 0
    files = sorted(f.name for f in (tmp_path / 'figures').iterdir())
    assert files == sorted(f'faces-{own}-missing-ir-off.pdf' for own in ids)


def test_what_is_not_there_is_left_out_with_its_reason(tmp_path, capsys):
    add(tmp_path / 'runs', 'm', 0)
    assert run(tmp_path, '--chart', 'curves', 'ranks', 'missing', '--format', 'png') == 0
    out = capsys.readouterr().out
    assert 'so there is no curve' in out
    assert 'left out: faces-ranks: There are no rank intervals: there is one method only' in out


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--chart', 'mising'], "unknown chart 'mising'; did you mean 'missing'?"),
        (['--format', 'pdf,jpg'], "unknown format 'jpg'"),
        (['--width', 'colum'], '--width: expected column or text or a number of inches'),
        (['--width', '0.5'], "from 2.5 to 20, found '0.5'"),
        (['--width', 'nan'], "found 'nan'"),
        (['--datasets', 'face'], "data set in {runs} 'face'; did you mean 'faces'? (known: faces)"),
        (['--datasets', '../x'], 'expected the name of a data set'),
        (['--only', 'onne'], "faces: unknown method 'onne'; did you mean 'one'?"),
        (['--subsets', 'rgbb'], "no subset or summary 'rgbb'; did you mean 'rgb'?"),
        (['--summaries', 'meen'], "unknown summary 'meen'; did you mean 'mean'?"),
        (['--where', 'irr=off'], "modality in --where 'irr'; did you mean 'ir'?"),
        (['--fail', 'ir=1.5'], "expected a missing rate from 0 to 1, found '1.5'"),
        (['--metric', 'ACCER'], "did you mean 'ACER'?"),
        (['--chart', 'difference', '--baseline', 'onee'], "did you mean 'one'?"),
        (['--chart', 'gap'], 'the data set does not state its ceiling'),
        (['--runs', 'nowhere'], 'nowhere: no runs found'),
    ],
)
def test_bad_arguments_are_one_line(results, tmp_path, words, told, capsys):
    assert run(results, '--out', tmp_path / 'out', *words) == 2
    found = capsys.readouterr().err
    assert told.replace('{runs}', str(results / 'runs')) in found
    assert found.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_matrix_that_is_wider_than_the_figure_says_which_width_it_needs():
    with (
        sheets.styled(),
        pytest.raises(Lacking, match='40 classes: expected a --width of at least'),
    ):
        pages.draw(matrices_of_40(), COLUMN)


def matrices_of_40():
    table = np.full((40, 40), 2.5).tolist()
    return Matrices([f'class{k}' for k in range(40)], [('rgb', table)], 'label')


def test_without_a_finished_run_there_is_one_line(tmp_path, capsys):
    save(tmp_path / 'runs', make_failure('m', 0, 'loss is NaN'))
    assert run(tmp_path) == 2
    assert capsys.readouterr().err == 'error: faces: there is no finished run\n'


def test_what_is_wrong_for_every_data_set_is_told_once(capsys):
    with pytest.raises(UserError, match='^odd$'):
        command._tell([UserError('odd'), UserError('odd')], 0, False)
    assert capsys.readouterr().out == ''


def test_a_folder_that_cannot_be_written_is_one_line(results, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert run(results, '--out', tmp_path / 'file', '--chart', 'ranks') == 2
    err = capsys.readouterr().err
    assert f'cannot be written: expected a folder, found the file {tmp_path / "file"}' in err
    assert err.count('\n') == 1


def test_the_command_runs_from_any_folder(results, tmp_path):
    words = [results, '--out', tmp_path / 'out', '--chart', 'ranks', '--format', 'svg']
    status, _, err = run_script('benchmark/plot.py', words, tmp_path)
    assert (status, err) == (0, '')
    assert (tmp_path / 'out' / 'faces-ranks.svg').is_file()
