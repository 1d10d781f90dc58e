"""The figure of how each modality learns, and the same curves on the page."""

import dataclasses

import pytest
from made_pages import add
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmark.missing import subset_ids
from benchmark.records import curves as files
from benchmark.records import store
from benchmark.report.figures.charts import CHARTS
from benchmark.report.figures.drawing import grid, pages, sheets
from benchmark.report.figures.shapes import Grid, Series
from benchmark.report.figures.source import Source
from benchmark.report.page import curves, reading
from benchmark.report.writer import Lacking

NAMES = ['rgb', 'depth', 'ir']
SUBSETS = subset_ids(NAMES)


def curve(scale, kept=True):
    """Curves of three epochs, of which two are validated; every value is another one."""
    more = {
        'gradient_norms': {n: [scale * (k + e) for e in range(3)] for k, n in enumerate(NAMES)},
        'modality_losses': {n: [None, scale * 0.01 * (k + 1)] for k, n in enumerate(NAMES)},
    }
    return {
        'epochs': [0, 1, 2],
        'lr': [0.1] * 3,
        'losses': {'loss': [1.0, 0.5, 0.25]},
        'validated': [0, 2],
        'validation': {s: [0.5, 0.01 * k] for k, s in enumerate(SUBSETS)},
        **(more if kept else {}),
    }


def source_of(folder, **runs):
    """The block of runs, each of one seed with the curves of its networks."""
    for label, networks in runs.items():
        path = add(folder / 'runs', label, 0)
        record = store.read(path)
        sha256 = files.write(path.with_name(files.CURVES), record['identity'], networks)
        store.write(path, {**record, 'curves': sha256})
    found = reading.read('faces', folder / 'runs' / 'faces')
    (view,) = found.views
    return Source(view, found.seen(view), curves.section_of(view, found.folder))


def test_the_figure_shows_the_numbers_of_the_files_method_beside_method(tmp_path):
    source = source_of(tmp_path, one={'': curve(1)}, two={'': curve(10)}, old={'': curve(1, False)})
    (picture,) = CHARTS['modalities'](source)
    assert sorted(picture.shape.columns) == ['one', 'two']
    assert list(picture.shape.names) == NAMES
    norms = dict(zip(picture.shape.columns, picture.shape.charts[1], strict=True))
    for label, scale in (('one', 1), ('two', 10)):
        for k, series in enumerate(norms[label]):
            assert series.name == NAMES[k]
            assert series.lines == [[(e, scale * (k + e)) for e in range(3)]]
    table = {tuple(row[:5]): row[5] for row in picture.rows}
    loss, score = 'validation loss, alone', 'ACER (%), alone'
    assert table['two', loss, 'ir', 0, 2] == pytest.approx(0.3)
    assert ('two', loss, 'ir', 0, 0) not in table  # it was undefined
    place = SUBSETS.index('depth')
    assert table['one', score, 'depth', 0, 2] == pytest.approx(place)
    assert table['one', score, 'depth', 0, 0] == pytest.approx(50)


def test_without_such_curves_there_is_no_figure_and_the_reason_is_told(tmp_path):
    source = source_of(tmp_path, old={'': curve(1, False)})
    with pytest.raises(Lacking, match='--curves keeps it'):
        next(CHARTS['modalities'](source))


def test_networks_of_single_subsets_give_the_curves_that_they_have():
    only = {
        name: {**curve(1), 'gradient_norms': {n: [2.0 * (n == name) or None] * 3 for n in NAMES}}
        for name in ('rgb', 'depth')
    }
    only['rgb']['gradient_norms']['ir'] = [1.0, 2.0, 3.0]
    only['depth']['gradient_norms']['ir'] = [3.0, 2.0, 1.0]
    found = curves.of_networks(only, SUBSETS, 'ACER')
    assert found['gradient norm of rgb'] == {0: 2.0, 1: 2.0, 2: 2.0}
    assert found['gradient norm of ir'] == {0: 2.0, 1: 2.0, 2: 2.0}


def grid_of(columns, names):
    lines = [[(0, 1.0), (1, 2.0)]]
    charts = [[[Series(n, lines) for n in names] for _ in range(columns)] for _ in range(2)]
    charts[1][0][0] = Series(names[0], [[(0, -5.0), (1, 40.0)]])
    return Grid([f'method {c}' for c in range(columns)], ['loss', 'norm'], charts, names, 'epoch')


def test_options_of_methods_stand_in_a_second_line_where_names_are_too_wide():
    names = ['ogm_ge:modulation=ogm', 'ogm_ge:modulation=none', 'rfnet']
    with sheets.styled():
        room = max(map(sheets.measure, names))
        assert sheets.titles(names, room) == names
        narrow = max(sheets.measure(text) for text in ('modulation=none', 'ogm_ge:', 'rfnet'))
        found = sheets.titles(names, narrow)
        assert found == ['ogm_ge:\nmodulation=ogm', 'ogm_ge:\nmodulation=none', 'rfnet']
        shape = dataclasses.replace(grid_of(3, NAMES), columns=names)
        (figure,), (plain,) = grid.draw(shape, 4.0), grid.draw(grid_of(3, NAMES), 4.0)
    assert figure.get_figheight() == pytest.approx(plain.get_figheight() + sheets.LINE)


def test_the_charts_of_a_row_share_their_scale_and_pages_hold_what_fits():
    with sheets.styled():
        (figure,) = pages.draw(grid_of(3, NAMES), 6.75)
        FigureCanvasAgg(figure).draw()
        charts = [axes for axes in figure.axes if axes.axison]
        limits = [axes.get_ylim() for axes in charts]
        assert len(charts) == 6
        assert len({*limits[:3]}) == len({*limits[3:]}) == 1
        assert limits[3][0] < -5 < 40 < limits[3][1]
        assert all(len(axes.lines) == 3 for axes in charts)
        many = [f'm{k}' for k in range(7)]
        found = list(grid.draw(grid_of(4, many), 3.25))
    assert len(found) == 4  # two columns fit, and six series can be told apart
    shown = [sum(len(axes.lines) for axes in figure.axes if axes.axison) for figure in found]
    assert sum(shown) == 4 * 2 * 7
