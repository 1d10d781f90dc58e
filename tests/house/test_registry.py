"""Names, options and protocols: how they are read, and what is said when they are wrong."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tasks import TASKS, Toy

import methods
from benchmark import registry
from benchmark.dataset import Dataset
from benchmark.engine.arguments import pairs
from benchmark.engine.experiment import experiment
from benchmark.engine.places import folder_name
from benchmark.engine.plan import (
    Request,
    check_options,
    experiments,
    open_datasets,
    protocol_for,
)
from benchmark.engine.protocol import CHOICES, Protocol
from benchmark.errors import UserError, unknown
from benchmark.method import Modality
from benchmark.missing import Sampler
from benchmark.narrowed import open_data
from benchmark.options import Range, Spec, options_of, read, resolve, spell, typed
from benchmark.registry import DATASETS, METHODS, load_file, lookup, parse_spec
from benchmark.source import code_of

registry.discover()
ROOT = Path(registry.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers or breaks is gone after it."""
    monkeypatch.setattr(METHODS, '_module_dict', dict(METHODS.module_dict))
    monkeypatch.setattr(registry, 'BROKEN', {})
    monkeypatch.setattr(registry, 'CLAIMED', {})


def method_file(folder, name='odd', body='    pass', more='', file=''):
    file = folder / f'{file or name}.py'
    file.write_text(
        'from benchmark.registry import METHODS\n'
        'from methods.modality_dropout import ModalityDropout\n'
        f"@METHODS.register_module('{name}')\n"
        f'class Odd(ModalityDropout):\n{body}\n{more}'
    )
    return file


class Options:
    """Something with one option of each type."""

    def __init__(self, task, count=3, *, rate: float = 0.5, flag=False, word='a', free=None):
        pass


def test_a_spec_is_a_name_and_options():
    assert parse_spec('mmanet') == parse_spec('mmanet:') == ('mmanet', {})
    assert parse_spec('mmanet:alpha=2,rates=a=1') == ('mmanet', {'alpha': '2', 'rates': 'a=1'})


@pytest.mark.parametrize('spec', ['mmanet:alpha', 'mmanet:=2', 'mmanet:beta=1,alpha'])
def test_an_option_without_key_or_value_is_told(spec):
    with pytest.raises(UserError, match='expected key=value after the colon, found'):
        parse_spec(spec)


def test_the_nearest_name_is_given_where_there_is_one():
    assert "did you mean 'mmanet'?" in str(unknown('method', 'mmnet', ['rfnet', 'mmanet']))
    assert 'did you mean' not in str(unknown('method', 'zzz', ['rfnet', 'mmanet']))
    assert 'known: mmanet, rfnet' in str(unknown('method', 'zzz', ['rfnet', 'mmanet']))


def test_an_error_is_one_line_that_a_terminal_cannot_obey():
    error = unknown('key', 'inputs/\x1b[2J', ['inputs/a\nb', 'target\x07'])
    assert str(error) == (
        "unknown key 'inputs/\\x1b[2J'; did you mean 'inputs/a\\nb'? "
        '(known: inputs/a b, target\ufffd)'
    )
    assert str(UserError('two\nlines \x1b[31m')) == 'two lines \ufffd[31m'


@pytest.mark.parametrize('name', ['..', '', '.hid', 'a/b', 'a:b', 'a b', '\\x1b[31m', 'z' * 61])
def test_a_name_that_no_folder_can_have_or_nobody_can_type_is_refused_with_its_file(name, tmp_path):
    file = method_file(tmp_path, name, file='odd')
    with pytest.raises(UserError, match='method name: expected a letter or digit') as error:
        load_file(file)
    assert str(error.value).startswith(f'{file}: ')
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize('name', ['a', '3d', 'my_method.v2', 'MMANet+', 'größe', 'z' * 60])
def test_a_name_that_a_folder_can_have_is_taken(name, tmp_path):
    load_file(method_file(tmp_path, name, file='fine'))
    assert lookup(METHODS, name)


@pytest.mark.parametrize('name', ['json', 'benchmark.errors', 'methods.mmanet', 'torch'])
def test_a_module_of_python_is_no_method(name):
    with pytest.raises(UserError, match=f"unknown method '{name}'"):
        lookup(METHODS, name)


def test_a_misspelt_dataset_is_told_with_the_nearest_one():
    with pytest.raises(
        UserError, match="unknown data set 'synth_face'; did you mean 'synth_faces'"
    ):
        lookup(DATASETS, 'synth_face')


@pytest.mark.parametrize(
    ('text', 'default', 'value'),
    [
        ('7', 3, 7),
        ('1e-3', 0.5, 0.001),
        (2, 0.5, 2.0),
        ('true', False, True),
        ('False', True, False),
        ('0', True, False),
        (1, False, True),
        (0.2, 'a', '0.2'),
    ],
)
def test_a_value_is_read_as_the_type_of_its_default(text, default, value):
    found = read('x', text, type(default))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ('text', 'default', 'kind'),
    [('1.5', 3, 'a whole number'), (1.5, 3, 'a whole number'), ('x', 3, 'a whole number'),
     ('x', 0.5, 'a number'), ('', 0.5, 'a number'),
     ('yes', False, 'true or false'), (2, False, 'true or false')],
)  # fmt: skip
def test_a_value_of_another_type_is_told(text, default, kind):
    with pytest.raises(UserError, match=f'^odd:key: expected {kind}, found {text!r}$'):
        read('odd:key', text, type(default))


def test_what_is_given_goes_before_settings_and_settings_before_defaults():
    found = resolve(Options, 'odd', {'rate': '0.1'}, {'rate': 0.9, 'count': 5})
    assert found == {'count': 5, 'rate': 0.1, 'flag': False, 'word': 'a', 'free': None}
    with pytest.raises(UserError, match="unknown option of odd 'coutn'; did you mean 'count'"):
        resolve(Options, 'odd', {'coutn': '1'}, {})
    with pytest.raises(UserError, match="unknown option of odd 'task'"):
        resolve(Options, 'odd', {'task': '1'}, {})
    with pytest.raises(UserError, match="odd:flag: expected true or false, found 'perhaps'"):
        resolve(Options, 'odd', {'flag': 'perhaps'}, {})


class Annotated:
    """Options whose types only the annotations tell."""

    def __init__(
        self,
        task: object,
        heads: int = 1,
        *,
        variant: Literal['paper', 'official'] = 'paper',
        weight: float = 1,
        shape: tuple[int, int] = (2, 3),
        shares: tuple[float, ...] = (),
        limit: int | None = None,
        alpha: float | Literal['auto'] = 'auto',
    ) -> None:
        pass


@pytest.mark.parametrize(
    ('key', 'text', 'value', 'spelled'),
    [
        ('heads', '007', 7, '7'),
        ('variant', 'official', 'official', 'official'),
        ('weight', '8e-4', 0.0008, '0.0008'),
        ('weight', '0.00080', 0.0008, '0.0008'),
        ('weight', '2', 2.0, '2'),
        ('weight', '1e-7', 1e-7, '1e-07'),
        ('shape', '4/5', (4, 5), '4/5'),
        ('shares', '0.50/1', (0.5, 1.0), '0.5/1'),
        ('limit', 'none', None, 'none'),
        ('limit', '3', 3, '3'),
        ('alpha', 'auto', 'auto', 'auto'),
        ('alpha', '0.50', 0.5, '0.5'),
    ],
)
def test_text_becomes_a_typed_value_with_one_spelling(key, text, value, spelled):
    found = resolve(Annotated, 'odd', {key: text}, {})[key]
    assert found == value
    assert type(found) is type(value)
    assert spell(found) == spelled
    assert resolve(Annotated, 'odd', {key: spelled}, {})[key] == value


@pytest.mark.parametrize(
    ('key', 'text', 'told'),
    [
        ('variant', 'offical', "unknown value of odd:variant 'offical'; did you mean 'official'"),
        ('weight', 'nan', "odd:weight: expected a number, found 'nan'"),
        ('weight', '1e400', "odd:weight: expected a number, found '1e400'"),
        ('shape', '4', "odd:shape: expected 2 values separated by '/', found '4'"),
        ('shares', '1/x', "odd:shares: expected a number, found 'x'"),
        ('limit', '1.5', "odd:limit: expected a whole number, found '1.5'"),
        ('alpha', 'aut', "odd:alpha: expected a number, found 'aut'"),
    ],
)
def test_a_value_that_its_annotation_forbids_is_told(key, text, told):
    with pytest.raises(UserError, match=told):
        resolve(Annotated, 'odd', {key: text}, {})


@pytest.mark.parametrize(
    ('given', 'inside', 'outside', 'told'),
    [
        (Range(), (0, 1e9), (-1e-9,), '0 or more'),
        (Range(0, above=True), (1e-9,), (0, -1), 'more than 0'),
        (Range(1, 32), (1, 32, True, 'auto', None), (0, 33), '1 to 32'),
        (Range(0, 1, below=True), (0, 0.999), (1, -0.1), '0 to below 1'),
        (Range(-1), ((-1, 0.5), -1), ((0.5, -2), -1.5), '-1 or more'),
    ],
)
def test_a_range_takes_the_numbers_in_it_alone(given, inside, outside, told):
    for value in inside:
        given.check('odd:share', value)
    for value in outside:
        with pytest.raises(UserError, match=f'^odd:share: expected {told}, found -?[0-9.e-]+$'):
            given.check('odd:share', value)


def test_an_option_given_twice_is_refused():
    with pytest.raises(UserError, match='expected one value of alpha, found two'):
        parse_spec('mmanet:alpha=4,alpha=5')
    with pytest.raises(UserError, match='--cfg-options: expected one value of lr, found two'):
        pairs(['lr=1', 'epochs=2', 'lr=3'])
    with pytest.raises(UserError, match="--cfg-options: expected KEY=VALUE, found 'lr'"):
        pairs(['lr'])
    assert pairs(['name=007', 'rates=rgb=0.2,depth=0.5']) == {
        'name': '007',
        'rates': 'rgb=0.2,depth=0.5',
    }


def test_every_spelling_of_the_same_options_is_one_experiment(tmp_path):
    kl = options_of(METHODS.module_dict['redcore'])['kl'].default
    methods = ['redcore', f'redcore:kl={kl}', f'redcore:kl={kl:.1e}', 'redcore:kl=5e-1',
               'redcore:kl=0.50']  # fmt: skip
    grid = experiments(Request(methods, [0], {}, tmp_path, 'cpu'), [Toy(TASKS['vectors'])])
    assert [e.label for e in grid] == ['redcore', 'redcore:kl=0.5']
    assert grid[0].source == 'default'


class Wide(Dataset):
    def __init__(self, splits, more=(), /, *, width: int = 64, cache: str = 'none'):
        self.given = splits, more, width, cache


class Narrow(Wide):
    def __init__(self, splits, *, width: int = 8, **shared):
        super().__init__(splits, width=width, **shared)


class Own(Narrow):
    def __init__(self, *, root: str = '', **shared):
        super().__init__(root, **shared)


class Closed(Narrow):
    def __init__(self, *, root: str = ''):
        super().__init__(root, cache='ram')


def test_a_data_set_has_the_options_that_its_constructor_hands_on():
    own = {k: o for k, o in options_of(Own).items() if k not in Own.shared()}
    assert own == {'root': (str, ''), 'width': (int, 8), 'cache': (str, 'none')}
    assert [*own] == ['root', 'width', 'cache']
    assert typed(Own, 'own', {'cache': 'ram', 'width': '4'}) == {'cache': 'ram', 'width': 4}
    data = open_data(Own, {'root': 'x', 'cache': 'ram', 'modalities': ''})
    assert data.given == ('x', (), 8, 'ram')
    assert [*options_of(Closed)] == [*Dataset.shared_options, 'root']
    with pytest.raises(UserError, match="unknown option of own 'widht'; did you mean 'width'"):
        typed(Own, 'own', {'widht': '4'})


def test_options_of_a_method_stand_in_its_own_file():
    class Sub(METHODS.module_dict['redcore']):
        def __init__(self, task, beta: float = 1.0, **others):
            super().__init__(task, **others)

    assert options_of(Sub) == {'beta': (float, 1.0)}


ROWS = [
    'mmanet', 'mmanet:alpha=4', 'odd:word=a/b', 'odd:word=a_b', 'odd:word=a b', 'odd:word=a:b',
    'odd:word=ü', 'odd:word=u', f'odd:word={"x" * 300}', f'odd:word={"x" * 299}y',
    'odd:word=../../x', 'odd:word=<b>\n',
]  # fmt: skip


def test_every_row_has_a_folder_of_its_own_whose_name_any_file_system_takes():
    names = [folder_name(row) for row in ROWS]
    assert len({name.lower() for name in names}) == len(ROWS)
    assert all(re.fullmatch(r'[\w.,=+-]{1,120}', name, re.ASCII) for name in names)
    assert names[:2] == ['mmanet', 'mmanet-alpha=4']


@pytest.mark.parametrize('letter', ['m', 'é'])
def test_the_networks_of_long_subsets_have_folders_of_their_own(letter, tmp_path):
    names = tuple(f'{letter * 28}{k}' for k in range(9))
    modalities = tuple(Modality(name, (6,)) for name in names)
    data = Toy(dataclasses.replace(TASKS['vectors'], modalities=modalities))
    protocol = Protocol.build(data.recipe, {}, 'cpu')
    parts = experiment(Spec('customized'), data, protocol, 0, tmp_path).parts
    for part in parts:
        part.folder.mkdir(parents=True)  # fails where it is there, or its name is too long
    assert parts[0].folder.name == names[0] == parts[0].only[0]
    assert len(parts) == 2**9 - 1


@pytest.mark.parametrize(
    ('field', 'spellings', 'recorded'),
    [
        ('rates', ['a=0.2', 'a=0.20', '0,a=2e-1', 'a=.2,b=0'], 'a=0.2'),
        ('rates', ['0.5', 'a=0.5,b=0.50', '0.5,b=0.5'], '0.5'),
        ('rates', ['', '0', 'a=0'], ''),
        ('rates', ['complete', '', '0'], ''),
        ('sampler', ['bernoulli:0.3', 'bernoulli:.30', 'bernoulli:a=0.3,b=0.3'], 'bernoulli:0.3'),
        ('schedule', ['step:0.5/0.8', 'step:.50/8e-1'], 'step:0.5/0.8'),
        ('schedule', ['step', 'step:0.16666666667/0.33333333333/0.5'], 'step'),
        ('weight_decay', ['0', '-0.0', '0e3'], 0.0),
        ('lr', ['5e-4', '0.0005'], 0.0005),
    ],
)
def test_every_spelling_of_the_same_protocol_has_one_id(field, spellings, recorded):
    data = Toy(TASKS['vectors'])
    data.spec = 'toy'
    found = [protocol_for(data, {field: text}, 'cpu') for text in spellings]
    assert {p.recorded()[field] for p in found} == {recorded}
    assert len({p.id('data') for p in found}) == 1


def test_a_file_outside_is_loaded_once(tmp_path):
    file = method_file(tmp_path)
    for _ in range(2):
        assert parse_spec(f'{file}:odd:alpha=1') == ('odd', {'alpha': '1'})
    assert lookup(METHODS, 'odd').__name__ == 'Odd'


def test_a_file_of_the_tree_may_be_named_by_its_path():
    cls = lookup(METHODS, 'hemis')
    assert parse_spec('methods/hemis.py:hemis') == ('hemis', {})
    assert parse_spec(f'{ROOT}/methods/hemis.py:hemis') == ('hemis', {})
    assert lookup(METHODS, 'hemis') is cls


def test_two_files_outside_of_one_file_name_are_two_modules(tmp_path):
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        load_file(method_file(tmp_path / name, name, file='mine'))
    modules = {lookup(METHODS, name).__module__ for name in ('first', 'second')}
    assert len(modules) == 2
    assert code_of(lookup(METHODS, 'first')) != code_of(lookup(METHODS, 'second'))


def test_a_file_outside_may_not_take_the_name_of_a_method(tmp_path):
    file = method_file(tmp_path, 'hemis', file='mine')
    with pytest.raises(UserError, match=r"mine.py: method 'hemis' is registered by methods/hemis"):
        load_file(file)
    assert lookup(METHODS, 'hemis').__name__ == 'HeMIS'


def test_two_files_that_register_a_name_are_both_named_as_seen_from_here(tmp_path, monkeypatch):
    for folder in ('first', 'second'):
        (tmp_path / folder).mkdir()
        method_file(tmp_path / folder, 'claimed', file='mine')
    monkeypatch.chdir(tmp_path)
    load_file(Path('first/mine.py'))
    for given in ('second/mine.py', f'{tmp_path}/second/mine.py'):
        told = "^second/mine.py: method 'claimed' is registered by first/mine.py already"
        with pytest.raises(UserError, match=told):
            load_file(Path(given))


def test_several_names_in_one_word_and_a_file_without_a_name_are_told(tmp_path):
    with pytest.raises(UserError, match="'hemis,rfnet'; names are separated by spaces"):
        lookup(METHODS, 'hemis,rfnet')
    file = method_file(tmp_path, 'alone', file='alone')
    with pytest.raises(
        UserError, match=r'alone.py: expected FILE.py:NAME with the registered name'
    ):
        parse_spec(str(file))


def test_a_name_that_two_files_of_the_tree_register_is_refused_and_names_both(
    tmp_path, monkeypatch
):
    (tmp_path / 'methods').mkdir()
    for file in ('first', 'second'):
        method_file(tmp_path / 'methods', 'twice', file=file)
    monkeypatch.setattr(registry, 'ROOT', tmp_path)
    monkeypatch.setattr(methods, '__path__', [*methods.__path__, str(tmp_path / 'methods')])
    registry.discover()
    with pytest.raises(UserError, match=r'^methods/second.py: .* by methods/first.py already'):
        lookup(METHODS, 'twice')
    assert lookup(METHODS, 'hemis')


@pytest.mark.parametrize('mistake', ['uniform:', 'complete:', 'by_size:2'])
def test_samplers_without_a_value_take_no_colon(mistake):
    with pytest.raises(UserError, match=f"unknown sampler '{mistake}'"):
        Sampler(mistake, ('a', 'b'))


def test_one_data_set_spelled_twice_is_opened_once_and_two_of_a_name_are_refused():
    specs = ['synth_faces:train=64', 'synth_faces:train=0064']
    assert len(open_datasets(specs, [], {})) == 1
    with pytest.raises(UserError, match='in two commands, each with a --results folder') as told:
        open_datasets([specs[0], 'synth_faces:train=32'], [], {})
    assert 'name=' not in str(told.value)


@pytest.mark.parametrize(
    'mistake',
    [
        'absent_name',
        'raise OSError',
        'def f(:',
        'import absent',
        'raise SystemExit(0)',
        'raise BaseException',
        "raise ValueError('two\\nlines \\x1b[31m')",
    ],
)
def test_a_broken_file_is_told_with_its_line_and_works_once_mended(mistake, tmp_path):
    file = method_file(tmp_path, 'broken', more=mistake)
    with pytest.raises(UserError) as error:
        load_file(file)
    assert str(error.value).startswith(f'{file}: ')
    assert 'line 6)' in str(error.value)
    assert str(error.value).isprintable()
    METHODS.module_dict.pop('broken', None)
    load_file(method_file(tmp_path, 'broken'))
    assert lookup(METHODS, 'broken')


@pytest.mark.parametrize('name', ['rfnet', 'odd', 'synth_faces'])
def test_a_file_has_to_register_the_name_that_is_typed_after_it(tmp_path, name):
    empty = tmp_path / 'noreg.py'
    empty.write_text(method_file(tmp_path, 'odd').read_text().replace('@METHODS', '# @METHODS'))
    told = (
        rf"^{empty}: registers no method or data set '{name}' \(it registers nothing; is the line"
    )
    for _ in range(2):  # also where it is loaded already
        with pytest.raises(UserError, match=told):
            parse_spec(f'{empty}:{name}')
    for registry_, word in ((METHODS, 'method'), (DATASETS, 'data set')):
        with pytest.raises(UserError, match=f"no {word} '{name}' .*@{word[:4].upper()}") as error:
            parse_spec(f'{empty}:{name}:alpha=1', registry_)
        assert '\n' not in str(error.value)


def test_a_file_that_registers_another_name_is_told_with_that_name(tmp_path, monkeypatch):
    file = method_file(tmp_path, 'mean_fuson', file='mine')
    monkeypatch.chdir(tmp_path)
    request = Request(['mine.py:rfnet'], [0], {}, tmp_path, 'cpu')
    data = Toy(TASKS['vectors'])
    with pytest.raises(UserError, match=r"^mine.py: registers no method 'rfnet' \(it registers "):
        experiments(request, [data])
    with pytest.raises(UserError, match=r"'mean_fuson'; did you mean 'mean_fuson'\?\)$"):
        parse_spec(f'{file}:mean_fusion', METHODS)
    with pytest.raises(UserError, match=r'methods/hemis.py: .* \(it registers .hemis.\)$'):
        parse_spec(f'{ROOT}/methods/hemis.py:rfnet')
    with pytest.raises(UserError, match="registers no data set 'synth_faces'"):
        open_datasets(['mine.py:synth_faces'], [], {})
    assert lookup(METHODS, 'mean_fuson').__name__ == 'Odd'


def test_a_file_may_name_what_it_registers_through_another_file(tmp_path, monkeypatch):
    method_file(tmp_path, 'inner', file='inner_of_test')
    outer = tmp_path / 'outer.py'
    outer.write_text('import inner_of_test\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'inner_of_test', raising=False)
    for _ in range(2):
        assert parse_spec(f'{outer}:inner', METHODS) == ('inner', {})


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match='nowhere.py: no such file'):
        parse_spec(f'{tmp_path}/nowhere.py:odd')


def test_a_broken_file_in_the_tree_leaves_the_others_alone(tmp_path, monkeypatch):
    (tmp_path / 'methods').mkdir()
    (tmp_path / 'methods' / 'halfway.py').write_text('import os\nos.no_such_thing\n')
    method_file(tmp_path / 'methods', 'whole')
    monkeypatch.setattr(registry, 'ROOT', tmp_path)
    monkeypatch.setattr(methods, '__path__', [*methods.__path__, str(tmp_path / 'methods')])
    registry.discover()
    assert lookup(METHODS, 'whole')
    with pytest.raises(UserError, match=r"'halfway' cannot be used: methods/halfway.py: .*line 2"):
        lookup(METHODS, 'halfway')


@pytest.mark.parametrize('field', [f.name for f in dataclasses.fields(Protocol)])
def test_protocols_that_differ_in_any_field_have_different_ids(field):
    plain = Protocol()
    default = getattr(plain, field)
    other = {str: 'rgb=0.5', int: 99, float: 0.123, bool: not default}[type(default)]
    other = {'mask_schedule': 'curriculum:0.5'}.get(field, other)
    value = next(v for v in CHOICES.get(field, [other]) if v != default)
    changed = dataclasses.replace(plain, **{field: value})
    assert changed.id('data') != plain.id('data')
    assert plain.id('other data') != plain.id('data')


def test_in_another_process_ids_are_the_same_and_nothing_needless_or_foreign_is_loaded(tmp_path):
    """A package called datasets is installed, which a command must not take for its own.

    A timm is installed, too, that cannot be imported.
    """
    (tmp_path / 'timm.py').write_text("raise RuntimeError('made for another PyTorch')")
    (tmp_path / 'datasets').mkdir()
    (tmp_path / 'datasets' / '__init__.py').write_text("raise SystemExit('the decoy was imported')")
    code = """
import runpy, sys
sys.path[0] = 'benchmark'  # where the script lies, as if `python benchmark/run.py` had been typed
runpy.run_path('benchmark/run.py')
from benchmark import running
from benchmark.engine.protocol import Protocol
from benchmark.registry import DATASETS
running.discover()
needless = {'sklearn', 'matplotlib', 'onnx', 'scipy.integrate', 'torch._inductor'}
print(Protocol(lr=0.3).id('data'), needless & {*sys.modules})
print('synth_faces' in DATASETS.module_dict)
"""
    out = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True, check=True, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    )  # fmt: skip
    assert out.stdout.decode().splitlines() == [f'{Protocol(lr=0.3).id("data")} set()', 'True']


@pytest.mark.parametrize(
    ('overrides', 'told'),
    [
        ({'selection': 'lst'}, "unknown selection 'lst'; did you mean 'last'"),
        ({'optimizer': 'AdmW'}, "unknown optimizer 'AdmW'; did you mean 'AdamW'"),
        ({'schedule': 'cosin'}, "did you mean 'cosine'"),
        ({'precision': 'float64'}, "unknown precision 'float64'"),
        ({'epochs': '0'}, 'epochs: expected at least 1, found 0'),
        ({'batch_size': '-4'}, 'batch_size: expected at least 2, found -4'),
        ({'epochs': '2.5'}, "epochs: expected a whole number, found '2.5'"),
        ({'lr': 'fast'}, "lr: expected a number, found 'fast'"),
        ({'epoch': '3'}, "unknown option 'epoch'; did you mean 'epochs'"),
        ({'schedule': 'step:'}, 'schedule: expected ascending fractions'),
        ({'schedule': 'step:0.5/nan/0.8'}, 'schedule: expected ascending fractions'),
        ({'schedule': 'step:0.5/0.5'}, 'schedule: expected ascending fractions'),
    ],
)
def test_a_bad_protocol_value_is_told(overrides, told):
    with pytest.raises(UserError, match=told):
        Protocol.build({}, overrides, 'cpu')


def test_overrides_go_before_the_recipe_and_the_dataset_s_own_before_all():
    data = Toy(TASKS['vectors'])
    data.spec = 'toy'
    options = {'lr': '0.3', 'epochs': '7', 'toy.epochs': '9', 'other.epochs': '1'}
    found = protocol_for(data, options, 'cpu')
    recipe = {'batch_size': 8, 'epochs': 9, 'lr': 0.3, 'precision': 'float32'}
    assert found == dataclasses.replace(Protocol(), **recipe)
    assert protocol_for(data, {}, 'cuda').precision == 'bfloat16'


def test_options_of_nothing_are_told_with_the_nearest_key():
    check_options({'epochs': 1, 'train': 9, 'synth_faces.train': 9, 'synth_faces.lr': 1},
                  ['synth_faces'])  # fmt: skip
    for key, near in {'epoch': 'epochs', 'synth_face.train': 'synth_faces.train'}.items():
        told = f"unknown option in --cfg-options '{key}'; .*'{near}'. .known: .*epochs, .*width.$"
        with pytest.raises(UserError, match=told) as error:
            check_options({key: 1}, ['synth_faces', 'synth_rooms'])
        # Each key stands there once, and not again for each data set.
        assert 'synth_rooms.' not in str(error.value)
        assert len(str(error.value)) < 1000


def test_options_of_one_dataset_reach_it_whatever_its_tables_are_called(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / 'mine.npz',
        **{
            'inputs/a': rng.random((30, 4)),
            'target': np.arange(30) % 2,
            'split': np.arange(30) % 3,
        },
    )
    (data,) = open_datasets(['arrays'], [tmp_path / 'mine.npz'], {'arrays.epochs': '2'})
    assert data.name == 'mine'
    assert protocol_for(data, {'arrays.epochs': '2'}, 'cpu').epochs == 2


def test_two_datasets_of_one_name_are_refused(tmp_path):
    keys = {'inputs/a': np.eye(6), 'target': np.arange(6) % 2, 'split': np.arange(6) % 3}
    files = [tmp_path / where / 'mine.npz' for where in ('here', 'there')]
    for file in files:
        file.parent.mkdir()
        np.savez(file, **keys)
    with pytest.raises(UserError, match=r"called 'mine'.*arrays:name=second"):
        open_datasets(['arrays'], files, {})
    specs = [f'arrays:root={files[0]}', f'arrays:root={files[1]},name=second', 'synth_faces']
    assert [d.name for d in open_datasets(specs, [], {})] == ['mine', 'second', 'synth_faces']
    assert [d.name for d in open_datasets(['synth_faces'], files, {})] == ['synth_faces']


def test_the_grid_is_every_combination_once_and_checked_before_training(tmp_path):
    data = [Toy(TASKS['vectors'])]
    methods = ['complete', 'rfnet', 'complete']
    grid = experiments(Request(methods, [0, 1], {}, tmp_path, 'cpu'), data)
    assert [(e.name, e.seed) for e in grid] == [
        (n, s) for n in ('complete', 'rfnet') for s in (0, 1)
    ]
    assert len({e.folder for e in grid}) == 4
    for method, options, told in [
        ('mmnet', {}, "did you mean 'mmanet'"),
        ('mmanet:alpa=1', {}, "unknown option of mmanet 'alpa'"),
        ('complete', {'sampler': 'only:c'}, "'c'"),
        ('complete', {'rates': 'a=2'}, "'rates=a=2': expected a missing rate from 0 to 1"),
    ]:
        with pytest.raises(UserError, match=told):
            experiments(Request([method], [0], options, tmp_path, 'cpu'), data)
    assert not list(tmp_path.iterdir())


def test_a_plan_lists_what_the_network_does_not_fit_and_a_run_ends_before_any_training(
    tmp_path, capsys
):
    data = Toy(dataclasses.replace(TASKS['rooms'], network='esanet'))
    words = ['rfnet', 'modality_dropout'], [0], {}, tmp_path, 'cpu'
    refused = []
    (kept,) = experiments(Request(*words, refused=refused), [data])
    assert refused == ['toy  rfnet  seed 0']
    assert kept.label == 'modality_dropout'
    told = capsys.readouterr().out
    assert told.startswith('refused   toy  rfnet  seed 0  rfnet on toy: needs encoders')
    with pytest.raises(UserError, match='network=esanet'):
        experiments(Request(*words), [data])


def test_a_sampler_of_any_length_fits_into_a_folder_s_name():
    long = [f'bernoulli:{",".join(f"{c * 40}=0.{k}" for c in "abcdefgh")}' for k in (1, 2)]
    ids = {Protocol(sampler=sampler).id('f') for sampler in long}
    assert len(ids) == 2
    assert all(len(name) < 120 for name in ids)


def planned(file, folder):
    request = Request([f'{file}:odd'], [0], {}, folder, 'cpu')
    return experiments(request, [Toy(TASKS['vectors'])])


@pytest.mark.parametrize('space', ["{'alpha': 3}", "{'alpha': 'uniform'}", '3', "['alpha']"])
def test_what_is_no_distribution_is_refused_with_file_and_option(space, tmp_path):
    init = '    def __init__(self, task, alpha: float = 1.0):\n        super().__init__(task)\n'
    file = method_file(tmp_path, body=f'{init}    search = {space}\n')
    with pytest.raises(UserError, match='search of odd: ') as told:
        planned(file, tmp_path)
    assert str(told.value).startswith(f'{file}: ')
    assert ('alpha: expected Uniform, LogUniform or Choice' in str(told.value)) == (':' in space)


@pytest.mark.parametrize(
    ('option', 'expected'),
    [
        ("alpha: float = float('nan')", 'expected text, finite numbers'),
        ("alpha: tuple = (1.0, float('inf'))", 'expected text, finite numbers'),
        ('alpha: object = object()', 'expected text, finite numbers'),
        ('alpha: int', 'expected a default value'),
        ('*, alpha', 'expected a default value'),
    ],
)
def test_an_option_whose_value_no_record_can_hold_is_refused_in_the_plan(
    option, expected, tmp_path
):
    init = f'    def __init__(self, task, {option}):\n        super().__init__(task)\n'
    file = method_file(tmp_path, body=init)
    with pytest.raises(UserError, match=expected) as told:
        planned(file, tmp_path)
    assert str(told.value).startswith(f'{file}: odd:alpha: ')
    assert str(told.value).isprintable()
