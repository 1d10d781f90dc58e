"""`tools/logistic.py`: which sets it compares; the comparison itself trains networks."""

import importlib.util
import sys

import numpy as np
import pytest

from benchmark.files import ROOT


@pytest.fixture
def tool(monkeypatch):
    """The module of the tool."""
    monkeypatch.setattr('sys.path', ['', *sys.path])  # the tool replaces the first one
    spec = importlib.util.spec_from_file_location('logistic_tool', ROOT / 'tools' / 'logistic.py')
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--data', 'mine.npz'], ([], ['mine.npz'])),
        (['--data', 'mine.npz', '--sets', 'two'], (['two'], ['mine.npz'])),
        ([], (None, [])),
    ],
)
def test_beside_data_of_ones_own_no_other_set_is_compared(words, expected, tool, monkeypatch):
    asked = []

    def sets(names, files, draw):
        asked.append((names, [str(file) for file in files]))
        yield 'some', {}

    monkeypatch.setattr(tool, 'sets', sets)
    monkeypatch.setattr(tool, 'scored', lambda *given: {})
    monkeypatch.setattr(tool, 'compare', lambda name, _: [tool.Compared(name, 'a', 0.5, (0.5,))])
    assert tool.main(words) == 0
    names, files = expected
    assert asked == [([*tool.NORMAL, *tool.PICTURES] if names is None else names, files)]


def test_another_draw_has_a_name_and_values_of_its_own(tool):
    (one, first), (two, second) = (next(tool.sets(['two'], [], draw)) for draw in (0, 3))
    assert (one, two) == ('two', 'two-3')
    assert first['inputs/view0'].shape == second['inputs/view0'].shape
    assert not np.allclose(first['inputs/view0'], second['inputs/view0'])
    assert np.bincount(first['split']).tolist() == [1100, 275, tool.TEST]
    (_, some), (_, others) = (next(tool.sets(['digits'], [], draw)) for draw in (0, 3))
    assert not np.array_equal(some['target'], others['target'])
    assert sorted(some['target']) == sorted(others['target'])


def test_options_are_for_the_network_alone_and_have_a_folder_of_their_own(
    tool, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(tool.run, 'main', lambda words: asked.append(words) or 0)
    monkeypatch.setattr(tool, 'compare', lambda name, _: [tool.Compared(name, 'a', 0.5, (0.5,))])
    words = ['--sets', 'digits', '--seeds', '0', '1', '--results', str(tmp_path)]
    assert tool.main([*words, '--cfg-options', 'ema=0', 'clip=1']) == 0
    assert tool.main(words) == 0
    assert [call[1] for call in asked] == ['logistic', 'modality_dropout'] * 2
    options = [call[call.index('--cfg-options') + 1:] if '--cfg-options' in call else []
               for call in asked]  # fmt: skip
    assert options == [[], ['ema=0', 'clip=1'], [], []]
    folders = [call[call.index('--results') + 1] for call in asked]
    assert folders == [*[str(tmp_path / 'clip=1_ema=0')] * 2, *[str(tmp_path / 'default')] * 2]


def test_a_set_is_held_against_the_tolerance_by_the_mean_over_its_splits(tool, tmp_path, capsys):
    def row(data, given, *network):
        return tool.Compared(data, given, 0.8, network)

    rows = [row('mine-0', 'a', 0.78, 0.8), row('mine-1', 'a', 0.8), row('own', 'all', 0.9)]
    assert tool.by_set(rows) == pytest.approx({('mine', 'a'): -0.005, ('own', 'all'): 0.1})
    made = tool.table(rows, ['--data', 'mine.npz'])
    assert '`python tools/logistic.py --data mine.npz` from commit ' in made
    assert '| mine-0 | a | 80.00 | 79.00 | 78.00 to 80.00 | -1.00 |' in made
    assert '| own | all | 80.00 | 90.00 | 90.00 to 90.00 | +10.00 |' in made


@pytest.mark.parametrize(('network', 'status'), [(0.791, 0), (0.789, 1)])
@pytest.mark.parametrize('joined', [False, True])
def test_one_point_less_is_too_much(network, status, joined, tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'sets', lambda *_: [('two', {})])
    monkeypatch.setattr(tool, 'scored', lambda *_: {})
    monkeypatch.setattr(tool, 'compare', lambda *_: [tool.Compared('two', 'a', 0.8, (network,))])
    out = tmp_path / 'new' / 'table.md'
    place = [f'--out={out}'] if joined else ['--out', str(out)]
    assert tool.main([*place, '--sets', 'two', '--draw', '7']) == status
    text = out.read_text()
    assert f'| two | a | 80.00 | {100 * network:.2f} |' in text
    # Where the table is kept changes nothing in it.
    assert '`python tools/logistic.py --sets two --draw 7` from' in text
