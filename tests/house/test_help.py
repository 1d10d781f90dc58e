"""What `--help` and `--list` tell."""

import json
import subprocess
import sys

import pytest

from benchmark import compare, registry, run, show, tables
from benchmark.engine import catalogue, wanted
from benchmark.errors import UserError
from benchmark.files import ROOT
from benchmark.registry import COMMANDS, DATASETS, METHODS, lookup
from benchmark.report.page import command as report


@pytest.mark.parametrize(
    'command',
    [run, tables, report, show, compare],
    ids=['run', 'tables', 'report', 'show', 'compare'],
)
def test_every_option_has_a_text_and_the_command_has_examples(command):
    parser = command.parser()
    examples = parser.format_help().split('examples:')[1]
    assert f'python {parser.prog}' in examples
    for action in parser._actions:
        if action.dest != 'help' and action.option_strings:
            assert action.help
            assert 'e.g.' in action.help or action.option_strings[0] in examples, action.dest


def test_the_list_states_the_terms_of_use(capsys):
    assert run.main(['--list']) == 0
    told = ' '.join(capsys.readouterr().out.split('\nhow to get')[1].split())
    for name, cls in DATASETS.module_dict.items():
        if cls.__module__.startswith('datasets.') and not cls.embedded:
            assert f'{name}: {cls.how_to_get} Terms of use: {cls.licence}.' in told


def test_the_list_has_one_short_line_for_each_method_and_data_set(capsys):
    assert run.main(['--list']) == 0
    short = capsys.readouterr().out.split('\nhow to get')[0].splitlines()
    names = [line.split()[0] for line in short if line.startswith('  ')]
    assert {'mmanet', 'synth_faces', 'nyuv2'} <= {*names}
    assert len(names) == len({*names})
    assert max(map(len, short)) <= 150


def test_the_list_is_read_from_the_source_without_the_libraries(capsys):
    out, told, last = at_once('--list')
    assert (told, last) == ([], '0 []')
    assert run.main(['--list']) == 0  # here everything has been imported
    own = [c for c in (*METHODS.module_dict.values(), *DATASETS.module_dict.values())
           if not c.__module__.startswith(('methods.', 'datasets.'))]  # fmt: skip
    if not own:  # no test of this process has registered a class of its own
        assert out == capsys.readouterr().out


@pytest.mark.parametrize(
    'text',
    [
        'import no_such_package',
        'def broken(:',
        "METHODS.register_module('x', module=int)",
        "for name in 'ab':\n    METHODS.register_module(name)(type(name, (), {}))",
    ],
)
def test_what_only_an_import_shows_is_not_read(text, tmp_path, monkeypatch):
    for folder in ('methods', 'datasets'):
        (tmp_path / folder).mkdir()
    file = tmp_path / 'methods/one.py'
    monkeypatch.setattr(catalogue, 'ROOT', tmp_path)
    file.write_text("@METHODS.register_module('one')\nclass One:\n    'Does it.'\n")
    assert catalogue.entries() == ([('one', 'Does it.', False, '', '')], [])
    (tmp_path / 'methods/two.py').write_text(text)
    with pytest.raises(catalogue.Unclear):
        catalogue.entries()


def test_the_commands_among_the_data_sets_are_not_imported_as_data_sets(monkeypatch):
    modules = [file.removesuffix('.py').replace('/', '.') for file in COMMANDS]
    assert all((ROOT / file).is_file() for file in COMMANDS)
    imported = []
    monkeypatch.setattr(registry, '_import', lambda module, _: imported.append(module))
    registry.discover()
    assert 'datasets.arrays' in imported
    assert not {*modules} & {*imported}


AT_ONCE = """
import json, sys
sys.argv = ['benchmark/run.py', *json.loads(sys.argv[1])]
sys.path.insert(0, '')
from benchmark import run
try:
    status = run.main()
except SystemExit as ended:
    status = ended.code
print(status, sorted({'torch', 'mmengine', 'numpy', 'rich'} & set(sys.modules)), file=sys.stderr)
"""
"""Runs the command, then tells its exit status and which libraries were imported."""


def at_once(*words):
    done = subprocess.run(
        [sys.executable, '-c', AT_ONCE, json.dumps(words)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *told, last = done.stderr.splitlines()
    return done.stdout, told, last


def test_help_is_shown_without_the_libraries_that_take_long_to_import():
    out, told, last = at_once('--help')
    assert out.startswith('usage: benchmark/run.py')
    assert (told, last) == ([], '0 []')


WRONG = {
    'option': (
        ['--methods', 'a', '--frobnicate'],
        "unknown argument '--frobnicate'; did you mean '",
    ),
    'typo': (['--methods', 'a', '--seds', '1'], "'--seds'; did you mean '--seeds'?"),
    'choice': (['--methods', 'a', '--device', 'tpu'], "number of a GPU, e.g. cuda:1, found 'tpu'"),
    'type': (
        ['--methods', 'a', '--seeds', 'x'],
        "--seeds: expected whole numbers from 0 up, separated by spaces, e.g. 0 1 2, found 'x'",
    ),
    'number': (['--jobs', '0'], 'error: --jobs: expected 1 or more, found 0'),
    'method': (['--methods', 'mmanett:alpha=4'], "unknown method 'mmanett'; did you mean 'mmanet'"),
    'dataset': (
        ['--methods', 'rfnet', '--datasets', 'synth_face'],
        "unknown data set 'synth_face'; did you mean 'synth_faces'",
    ),
    'grid': (['--grid', 'referense'], "unknown grid 'referense'; did you mean 'reference'"),
    'pair': (['--methods', 'rfnet', '--cfg-options', 'lr'], "expected KEY=VALUE, found 'lr'"),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_wrong_arguments_are_refused_without_these_libraries(wrong):
    words, expected = WRONG[wrong]
    _, told, last = at_once(*words)
    assert expected in told[-1]
    assert told[-1].startswith('error: ')
    assert len(told) == 1
    assert last == '2 []'


@pytest.mark.parametrize(
    ('what', 'names', 'folder'),
    [('method', METHODS, 'methods'), ('data set', DATASETS, 'datasets')],
)
def test_names_are_refused_from_the_files_as_they_are_after_an_import(what, names, folder):
    registry.discover()
    own = [n for n, cls in names.module_dict.items() if cls.__module__.startswith(f'{folder}.')]
    wanted._check_names(what, own, ROOT / folder)
    with pytest.raises(UserError) as before:
        wanted._check_names(what, ['nothing_like_it'], ROOT / folder)
    with pytest.raises(UserError) as after:
        lookup(names, 'nothing_like_it')
    if len(own) == len(names.module_dict):  # other tests register names of their own
        assert str(before.value) == str(after.value)
    assert all(name in str(before.value) for name in own)


def test_names_are_left_to_the_import_where_a_file_registers_otherwise(tmp_path):
    (tmp_path / 'plain.py').write_text("@METHODS.register_module('plain')\nclass Plain: ...\n")
    (tmp_path / 'broken.py').write_text('1 / 0\n')
    for fine in (['plain:a=1'], ['broken'], ['elsewhere.py:mine']):
        wanted._check_names('method', fine, tmp_path)
    with pytest.raises(UserError, match=r"did you mean 'plain'\? \(known: plain\)"):
        wanted._check_names('method', ['plane'], tmp_path)
    (tmp_path / 'other.py').write_text('METHODS.register_module(name=NAME, module=Other)\n')
    wanted._check_names('method', ['plane'], tmp_path)
