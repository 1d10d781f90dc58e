"""The mutation run on a module of a few lines."""

import ast
import sys

import pytest

from tools import mutate

MODULE = '''"""Two functions."""


def known(x: int) -> bool:
    """Says whether x is more than 3."""
    return x > 3


def unknown(x):
    """Never called."""
    return x + 1
'''
TEST = """
from made_for_mutation import known

def test_known():
    assert known(4)
    assert not known(3)
    assert known(5) is True
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / 'made_for_mutation.py').write_text(MODULE)
    (tmp_path / 'test_made.py').write_text(TEST)
    return tmp_path


def test_mutants_of_tested_lines_are_noticed_and_those_of_others_survive(project, capsys):
    before = set(sys.modules)
    survivors, size = mutate.measure(project, 'made_for_mutation.py', ['test_made.py'], 99, 0)
    assert size == 6
    told = [(m.line, str(m)) for m in survivors]
    assert told == [
        (11, 'return x + 1  ->  return None'),
        (11, 'x + 1  ->  (x - 1)'),
        (11, '1  ->  2'),
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f'made_for_mutation.py:{line}  {text}' for line, text in told]
    assert (project / 'made_for_mutation.py').read_text() == MODULE
    assert 'made_for_mutation' not in set(sys.modules) - before


def test_tests_that_fail_without_a_change_are_told(project):
    (project / 'test_made.py').write_text(f'{TEST}    assert False\n')
    with pytest.raises(ValueError, match='fail without any change'):
        mutate.measure(project, 'made_for_mutation.py', ['test_made.py'], 1, 0)


def test_the_sample_depends_on_the_seed_alone():
    every = mutate.mutants(MODULE.encode())
    samples = [mutate.drawn(every, 2, seed) for seed in 'aabcdefg']
    assert samples[0] == samples[1]
    assert len(set(map(tuple, samples))) > 1
    assert all(len(sample) == 2 for sample in samples)
    assert mutate.drawn(every, 99, 'a') == every


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('a = x < y <= z', ['(x < y < z)', '(x <= y <= z)']),
        ('a = x * (y + z)', ['(x / (y + z))', '(y - z)']),
        ('a = x and not y', ['(x or not y)', '(y)']),
        ('if f(x):\n    g()', ['(not (f(x)))', 'pass']),
        ('f(0.5, True)', ['pass', '1.5', 'False']),
        ('a: int = 3', ['4']),
        ('self.a = b\nc = d\nc += b', ['pass', 'pass']),
        ('raise E(f"{x + 1}")', ['pass']),
        ('é = "é" in x', ['("é" not in x)']),
        ('def f(x: 1 = 2) -> 3:\n    """One."""\n    return x', ['3', 'return None']),
    ],
)
def test_changes_and_their_places(source, expected):
    data = source.encode()
    found = mutate.mutants(data)
    assert [m.new for m in found] == [text.replace('"é"', "'é'") for text in expected]
    for mutant in found:
        ast.parse(mutant.applied(data))


def test_a_test_that_does_not_end_is_ended(project):
    (project / 'test_made.py').write_text('def test_made():\n    while True:\n        pass\n')
    assert not mutate.passes(project, ['test_made.py'], 2)
