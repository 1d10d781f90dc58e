"""The figure of the grid over training samples and width, on records made by hand."""

import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from made_records import SUBSETS, acer_of, make_outcomes, make_record, save

from benchmark.files import ROOT
from benchmark.report import writer
from tools import figures

SETTINGS = [(125, 4), (125, 8), (500, 4), (500, 8)]
ERRORS = {(125, 4): 90, (125, 8): 70, (500, 4): 30, (500, 8): 50}
"""Setting -> errors of `customized` on each subset; `modality_dropout` makes 50."""


def write(folder, label, setting, seed, errors, dataset='faces', epochs=3):
    train, width = setting
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, errors), seed)
    about = {
        'name': dataset,
        'options': {'train': train, 'width': width},
        'fingerprint': f'{train}-{width}',
    }
    record = make_record(label, seed, outcomes, dataset=about, protocol={'epochs': epochs})
    return save(folder / 'runs', record, outcomes)


@pytest.fixture
def folder(tmp_path):
    for setting in SETTINGS:
        for seed in range(3):
            write(tmp_path, 'modality_dropout', setting, seed, 50 + seed)
            write(tmp_path, 'customized', setting, seed, ERRORS[setting] + seed)
    return tmp_path


def test_a_point_is_the_difference_of_the_means_and_its_interval_that_of_the_tables(folder):
    found, _, problems = figures.read(folder)
    assert problems == []
    assert [(p.train, p.width, p.seeds) for p in found] == [(*s, (0, 1, 2)) for s in SETTINGS]
    for setting, point in zip(SETTINGS, found, strict=True):
        base, own = (
            np.mean([
                acer_of(make_outcomes(dict.fromkeys(SUBSETS, n + seed), seed), subset)
                for seed in range(3)
                for subset in SUBSETS
            ])
            for n in (50, ERRORS[setting])
        )  # fmt: skip
        # ACER: less is better, so the sign is turned.
        assert point.gain.difference == pytest.approx(base - own, abs=1e-12)
        assert point.means == pytest.approx((base, own), abs=1e-12)
        assert point.gain.low < point.gain.difference < point.gain.high
    table = writer.write_tables(folder, 'faces')
    runs = table.blocks[0].first
    theirs = runs.standings.compare('customized', 'modality_dropout', 'mean')
    ours = next(p.gain for p in found if f'{p.train}-{p.width}' == runs.data['fingerprint'])
    assert ours.p == theirs.p
    assert (ours.low, ours.high) == (-theirs.high, -theirs.low)


def test_the_sign_of_a_metric_that_should_be_high_is_not_turned(tmp_path):
    for label, errors in (('modality_dropout', 50), ('customized', 30)):
        outcomes = make_outcomes(dict.fromkeys(SUBSETS, errors))
        about = {
            'metric': 'accuracy',
            'higher_is_better': True,
            'options': {'train': 125, 'width': 4},
        }
        scores = {'val': {}, 'test': {s: {'accuracy': 1 - errors / 400} for s in SUBSETS}}
        record = make_record(label, 0, outcomes, dataset=about, scores=scores)
        save(tmp_path / 'runs', record, outcomes)
    (point,), _, problems = figures.read(tmp_path)
    assert problems == []
    assert point.gain.difference == pytest.approx(20 / 400)


def test_the_figure_is_the_same_twice_and_has_a_panel_for_each_data_set(folder, capsys):
    for seed in range(3):
        for label, errors in (('modality_dropout', 50), ('customized', 60)):
            write(folder, label, (125, 4), seed, errors, dataset='rooms')
    assert figures.main([str(folder)]) == 0
    out = capsys.readouterr().out
    svg = folder / 'figures' / 'sign-flip.svg'
    first = svg.read_bytes()
    assert figures.main([str(folder)]) == 0
    assert svg.read_bytes() == first
    tree = ElementTree.fromstring(first)
    ids = {node.get('id', '') for node in tree.iter()}
    assert {'axes_1', 'axes_2'} <= ids
    assert 'axes_3' not in ids
    assert not list(tree.iter('{http://www.w3.org/2000/svg}text'))  # glyphs are paths
    assert 'missing: rooms train=125 width=8: every run' in out
    faces, rooms = figures.draw(figures.read(folder)[0]).axes
    for panel in (faces, rooms):  # the rooms lack 500
        assert [label.get_text() for label in panel.get_xticklabels()] == ['125', '500']


def test_lines_differ_in_grey_and_in_form_and_untested_marks_are_open(folder):
    write(folder, 'modality_dropout', (2000, 4), 0, 50)
    write(folder, 'customized', (2000, 4), 0, 40)
    found = figures.read(folder)[0]
    lone = next(p for p in found if p.train == 2000)
    assert lone.seeds == (0,)
    assert lone.gain.difference > 0
    assert np.isnan(lone.gain.low)
    with matplotlib.rc_context(figures.STYLE):
        (panel,) = figures.draw(found).axes
    named = [line for line in panel.lines if line.get_label().startswith('width')]
    assert [line.get_label() for line in named] == ['width 4', 'width 8']
    for look in ('get_marker', 'get_linestyle', 'get_color'):
        assert len({getattr(line, look)() for line in named}) == 2
    for line, width in zip(named, (4, 8), strict=True):
        told = [100 * p.gain.difference for p in found if p.width == width]
        np.testing.assert_allclose(line.get_ydata(), told)
    opened = [line for line in panel.lines if line.get_markerfacecolor() == '1']
    assert [line.get_ydata()[0] for line in opened] == [100 * lone.gain.difference]
    bars = [line.get_ydata() for line in panel.lines if line.get_marker() == '_']
    drawn = sorted(found, key=lambda p: (p.width, p.train))
    tested = [p.gain for p in drawn if p is not lone]
    np.testing.assert_allclose(bars, [(100 * g.low, 100 * g.high) for g in tested])


def test_the_page_counts_what_is_proven_and_lists_what_lacks(folder):
    found, lacking, _ = figures.read(folder)
    text = figures.page(found, lacking, ['one run'])
    assert (
        '- faces, customized against modality_dropout: better in 1, worse in 2, and not '
        'distinguishable in 1 of the settings that could be tested (p < 0.05 after correction).'
    ) in text
    rows = [line for line in text.splitlines() if line.startswith('| faces')]
    assert len(rows) == 4
    assert rows[2].startswith('| faces (ACER) | customized | 500 | 4 | 3 | 12.75 | 7.75 | +5.00 |')
    assert '- faces train=125 width=4: mmanet, seeds 0, 1, 2' in text
    assert '- faces train=125 width=12: every run\n' in text
    assert 'train=125 width=4: customized' not in text
    assert text.endswith('## Not counted\n\n- one run\n')


def test_a_missing_seed_is_named_and_the_shared_ones_are_compared(folder):
    write(folder, 'customized', (125, 4), 1, 0).unlink()
    found, lacking, _ = figures.read(folder)
    assert found[0].seeds == (0, 2)
    assert np.isnan(found[0].gain.p)
    assert 'faces train=125 width=4: customized, seed 1' in lacking


def test_two_protocols_of_one_setting_and_empty_folders_are_refused(folder, tmp_path, capsys):
    write(folder, 'customized', (125, 4), 0, 50, epochs=9)
    assert figures.main([str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith('error: faces')
    assert 'expected one protocol for train=125 width=4' in told
    assert figures.main([str(tmp_path / 'nothing')]) == 2
    assert '--grid sign-flip, found none' in capsys.readouterr().err


def test_the_committed_table_is_that_of_the_records_and_proves_what_the_page_says():
    results = ROOT / 'results' / 'sign-flip'
    text = (results / 'figures' / 'sign-flip.md').read_text()
    assert figures.page(*figures.read(results)) == text
    verdicts = [line for line in text.splitlines() if ' against modality_dropout: ' in line]
    assert len(verdicts) == 2 * len(figures.DEFAULT.methods[1:])
    page = ' '.join((ROOT / 'docs' / 'results.md').read_text().split())
    assert 'in no setting is `customized`, `mmanet` or `mmin` proven to be better' in page
    assert all('better in 0, worse in ' in line for line in verdicts)
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| synth_')]
    told = {}
    for named, *setting, _, base, own, _, _, last in rows:
        _, data, metric = named.split()
        p = last.removesuffix(' |')
        if p.startswith('<') or float(p) < 0.05:
            words = f'({own} against {base} {metric.strip("()")}, p = {p})'
            told[(data, *setting)] = words
    assert told.keys() == {
        ('synth_faces', 'customized', '2000', '12'), ('synth_rooms', 'mmin', '500', '4')
    }  # fmt: skip
    assert all(words in page for words in told.values())
    assert f'In the {len(rows) - len(told)} other comparisons' in page
    pictures = (ROOT / 'docs/pictures/sign-flip.svg', results / 'figures/sign-flip.svg')
    assert len({picture.read_text() for picture in pictures}) == 1


def test_the_committed_table_of_digits_is_that_of_the_records_and_proves_what_the_page_says():
    results = ROOT / 'results' / 'digits'
    grid = figures.grid_of(str(results / 'digits.yaml'))
    found, *others = figures.read(results, grid)
    assert others == [[], []]
    text = (results / 'figures' / 'digits.md').read_text()
    assert figures.page(found, *others, 'digits') == text
    pictures = (ROOT / 'docs/pictures/digits.svg', results / 'figures/digits.svg')
    assert len({picture.read_text() for picture in pictures}) == 1
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| digits')]
    page = ' '.join((ROOT / 'docs' / 'results.md').read_text().split())
    gains, proven = {}, {}
    for _, method, *_, gain, _, last in rows:
        p = last.removesuffix(' |')
        gains.setdefault(method, []).append(float(gain))
        proven.setdefault(method, []).append(p.startswith('<') or float(p) < 0.05)
    assert {method: len(each) for method, each in gains.items()} == dict.fromkeys(gains, 12)
    own = gains['customized']
    assert min(own) > 0
    told = f'has the higher mean in all twelve settings, by {min(own):.2f} to {max(own):.2f} points'
    assert f'`customized` {told}; in the ten others the difference is not proven' in page
    better = {
        (*row[2:4],): f'({row[6]} against {row[5]} %, p = {row[-1].removesuffix(" |")})'
        for row, known in zip(rows, proven['customized'], strict=False)
        if known
    }
    assert better.keys() == {('900', '4'), ('900', '8')}
    assert f'at width 4 {better["900", "4"]} and at width 8 {better["900", "8"]}' in page
    worse = {method: sum(each) for method, each in proven.items() if method != 'customized'}
    assert worse == {'mmanet': 10, 'mmin': 3}
    assert all(
        gain < 0
        for method in worse
        for gain, known in zip(gains[method], proven[method], strict=True)
        if known
    )
    told = '`mmanet` is proven to be worse than `modality_dropout` in ten of the twelve settings'
    assert f'{told}, and `mmin` in three**' in page


def test_a_grid_that_the_figure_cannot_show_is_one_line(folder, capsys):
    assert figures.main([str(folder), '--grid', 'fusion']) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        'error: --grid fusion: expected several methods, train and width in vary'
    )
    assert told.count('\n') == 1
