"""The hash of a method's code: what changes it, what does not, and what follows from a change."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from benchmark import source
from benchmark.source import code_of

FILE = '''"""A method."""
from shared import SCALE

class Mine:
    """Mine."""

    def loss(self, x):
        return 2 * x  # twice
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Writes a file and one that it imports beside it, and returns the hash of their code."""
    count = iter(range(100))

    def hashed(text=FILE, shared='SCALE = 1\n'):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        found = {}
        for name, content in (('shared', shared), (f'mine_{folder.name}', text)):
            file = folder / f'{name}.py'
            file.write_text(content)
            spec = importlib.util.spec_from_file_location(name, file)
            found[name] = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, found[name])
            spec.loader.exec_module(found[name])
        return code_of(found[f'mine_{folder.name}'].Mine)

    return hashed


def test_comments_docstrings_and_layout_do_not_count(code):
    text = FILE.replace('  # twice', '').replace('"""Mine."""', '"""Yours."""\n    """More."""')
    assert code(text.replace('2 * x', '(2\n            * x)')) == code()


def test_what_refuses_values_alone_does_not_count(code):
    text = FILE.replace('from shared', 'from benchmark.options import Range\nfrom shared')
    told = (
        "    ranges = {'scale': Range(1)}\n    from_complete = 'means'\n    official_loss = 'ce'\n"
    )
    text = text.replace('    def loss', f'{told}\n    def loss')
    assert code(text) == code()
    assert code(text.replace('from_complete', 'version')) != code()


@pytest.mark.parametrize(
    'changed',
    [
        {'text': FILE.replace('2 * x', '3 * x')},
        {'text': FILE.replace('2 * x', '2 + x')},
        {'text': FILE.replace('2 * x', 'x * 2')},
        {'text': f'{FILE}\nEXTRA = 1\n'},
        {'shared': 'SCALE = 2\n'},
    ],
)
def test_every_other_change_counts_also_in_an_imported_file(code, changed):
    assert code(**changed) != code()


def test_code_beyond_the_methods_does_not_count(code):
    assert code(f'import json\n{FILE}') != code()
    assert code(f'import json\n{FILE}') == code(f'import json\n{FILE}\n')


def test_libraries_and_the_project_beside_a_user_s_file_do_not_count(tmp_path, monkeypatch):
    """The folder of the file may hold an environment, Python itself, and a checkout."""
    places = {'installed': '.venv/lib/python3/site-packages', 'own': 'helpers', 'base': 'python'}
    monkeypatch.setattr(source, 'ROOT', tmp_path / 'checkout')
    monkeypatch.setattr(source, 'ENVIRONMENTS', {tmp_path / 'python'})
    for name, place in {**places, 'project': 'checkout/benchmark'}.items():
        (tmp_path / place).mkdir(parents=True)
        file = tmp_path / place / f'{name}.py'
        file.write_bytes(b'X = 1\n' if name == 'own' else b'no code\0')
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__file__=str(file)))
    file = tmp_path / 'mine.py'
    file.write_text(
        'import base\nimport installed\nimport own\nimport project\n\nclass Mine: ...\n'
    )
    monkeypatch.setitem(sys.modules, 'mine', SimpleNamespace(__file__=str(file)))
    found = []
    for content in ('X = 1\n', 'X = 1  # the same\n', 'X = 2\n'):
        (tmp_path / 'helpers' / 'own.py').write_text(content)
        source._hash.cache_clear()
        source._read.cache_clear()
        found.append(code_of(SimpleNamespace(__module__='mine')))
    source._hash.cache_clear()
    source._read.cache_clear()
    assert found[0] == found[1] != found[2]


def test_a_teacher_is_part_of_the_code():
    from benchmark.registry import METHODS, discover  # noqa: PLC0415

    discover()
    student, teacher = METHODS.module_dict['mmanet'], METHODS.module_dict['complete']
    assert code_of(student, teacher) != code_of(student)
