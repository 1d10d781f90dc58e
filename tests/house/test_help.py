"""What `--help` and `--list` tell."""

import pytest

from benchmark import registry, run, tables
from benchmark.files import ROOT
from benchmark.registry import COMMANDS, DATASETS
from benchmark.report.page import command as report


@pytest.mark.parametrize('command', [run, tables, report], ids=['run', 'tables', 'report'])
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


def test_the_commands_among_the_data_sets_are_not_imported_as_data_sets(monkeypatch):
    modules = [file.removesuffix('.py').replace('/', '.') for file in COMMANDS]
    assert all((ROOT / file).is_file() for file in COMMANDS)
    imported = []
    monkeypatch.setattr(registry, '_import', lambda module, _: imported.append(module))
    registry.discover()
    assert 'datasets.arrays' in imported
    assert not {*modules} & {*imported}
