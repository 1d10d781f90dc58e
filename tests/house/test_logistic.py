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
    monkeypatch.setattr(tool, 'compare', lambda *given: {'a': 0.0})
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
    monkeypatch.setattr(tool, 'compare', lambda name, found: {'a': 0.0})
    words = ['--sets', 'digits', '--seeds', '0', '1', '--results', str(tmp_path)]
    assert tool.main([*words, '--cfg-options', 'ema=0', 'clip=1']) == 0
    assert tool.main(words) == 0
    assert [call[1] for call in asked] == ['logistic', 'modality_dropout'] * 2
    options = [call[call.index('--cfg-options') + 1:] if '--cfg-options' in call else []
               for call in asked]  # fmt: skip
    assert options == [[], ['ema=0', 'clip=1'], [], []]
    folders = [call[call.index('--results') + 1] for call in asked]
    assert folders == [*[str(tmp_path / 'clip=1_ema=0')] * 2, *[str(tmp_path / 'default')] * 2]
