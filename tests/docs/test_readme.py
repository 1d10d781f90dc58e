"""What the README says is so."""

import re
import sys
from pathlib import Path

import pytest

from benchmark import run
from benchmark.engine.protocol import Protocol
from benchmark.records import store
from benchmark.registry import DATASETS, METHODS, discover
from benchmark.report import writer
from benchmark.report.render import terminal

ROOT = Path(run.__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()
SMALL = ['train=64', 'val=32', 'test=32', 'epochs=1', 'batch_size=16']


def test_the_method_in_the_readme_runs_as_it_stands_there(tmp_path):
    (text,) = re.findall(r'```python\n("""Mean fusion.*?)```', README, re.S)
    assert len(text.splitlines()) <= 35
    file = tmp_path / 'mean_fusion.py'
    file.write_text(text)
    try:
        command = ['--methods', f'{file}:mean_fusion', '--results', str(tmp_path / 'results')]
        assert run.main([*command, '--cfg-options', *SMALL]) == 0
    finally:
        METHODS.module_dict.pop('mean_fusion', None)
        sys.modules.pop('outside_mean_fusion', None)
    found = [store.read(f) for f in (tmp_path / 'results').rglob('record.json')]
    assert {r['dataset']['name'] for r in found} == {'synth_faces', 'synth_rooms'}
    assert all(r['status'] == 'complete' for r in found)


def described(text, word):
    """Returns whether a word stands in a text's code: `in backticks` or in an indented line."""
    code = re.findall(r'`[^`\n]+`|^ {4}.*$', text, re.M)
    return any(re.search(rf'(?<![\w-]){re.escape(word)}(?![\w-])', part) for part in code)


def test_a_word_is_described_where_it_stands_whole_in_code():
    assert described('peak rate: `lr`', 'lr')
    assert described('`epochs lr clip`', 'lr')
    assert described('Try:\n\n    run.py --list-all --list', '--list')
    for text in ('already', 'the field lr', '`already`', '`color_lr`', '`lr-min`', '`a` lr `b`'):
        assert not described(text, 'lr'), text
    assert not described('    run.py --list-all', '--list')


def test_every_method_and_option_is_described():
    discover()
    ours = {n: c for n, c in METHODS.module_dict.items() if c.__module__.startswith('methods.')}
    for name in ours:
        assert f'| `{name}` |' in README, name
    for action in run.parser()._actions:
        if action.dest != 'help':
            assert described(README, action.option_strings[0]), action.option_strings[0]
    for field in Protocol.fields():
        assert described(README, field), field
    for name, cls in DATASETS.module_dict.items():
        assert not cls.__module__.startswith('datasets.') or described(README, name), name


@pytest.mark.parametrize(
    'command', re.findall(r'^ {4}(python benchmark/run\.py .*)$', README, re.M)
)
def test_every_command_line_in_the_readme_parses(command):
    words = command.split('#')[0].split()[2:]
    args = run.parser().parse_args([*words, '--device', 'cpu'])
    if args.list or args.data_root:
        return
    discover()
    grid, _ = run.prepare(args)
    assert grid


def test_the_reference_tables_are_those_of_the_reference_records(tmp_path):
    reference = ROOT / 'results' / 'reference'
    for folder in sorted((reference / 'runs').iterdir()):
        made = writer.write_tables(tmp_path, folder.name, reference / 'runs')
        assert not made.problems
        for suffix in ('md', 'tex', 'csv'):
            fresh = (tmp_path / 'tables' / f'{folder.name}.{suffix}').read_text()
            assert fresh == (reference / 'tables' / f'{folder.name}.{suffix}').read_text()
        assert terminal(made, color=False).strip() in README
