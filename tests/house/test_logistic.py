"""`tools/logistic.py`: which sets it compares; the comparison itself trains networks."""

import importlib.util
import sys

import pytest

from benchmark.files import ROOT


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['--data', 'mine.npz'], ([], ['mine.npz'])),
        (['--data', 'mine.npz', '--sets', 'two'], (['two'], ['mine.npz'])),
        ([], (None, [])),
    ],
)
def test_beside_data_of_ones_own_no_other_set_is_compared(words, expected, monkeypatch):
    monkeypatch.setattr('sys.path', ['', *sys.path])  # the tool replaces the first one
    spec = importlib.util.spec_from_file_location('logistic_tool', ROOT / 'tools' / 'logistic.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    asked = []

    def sets(names, files):
        asked.append((names, [str(file) for file in files]))
        yield 'some', {}

    monkeypatch.setattr(tool, 'sets', sets)
    monkeypatch.setattr(tool, 'scored', lambda *given: {})
    monkeypatch.setattr(tool, 'compare', lambda *given: {'a': 0.0})
    assert tool.main(words) == 0
    names, files = expected
    assert asked == [([*tool.NORMAL, *tool.PICTURES] if names is None else names, files)]
