"""What the documentation says is so: generated parts against the classes, commands, options."""

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmark import compare, export, predict, run, show, speed, tables
from benchmark.engine.fitting import is_fitted
from benchmark.engine.grid_file import grid_of
from benchmark.engine.grids import GRIDS
from benchmark.options import options_of
from benchmark.registry import DATASETS, METHODS, discover
from benchmark.report.figures import command as plot
from benchmark.report.page import command as report
from docs.committed import PLACES, RATES, REFERENCE
from docs.comparisons import made
from docs.searches import search

ROOT = Path(run.__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PAGES = [p for p in sorted(DOCS.rglob('*.md')) if 'build' not in p.relative_to(DOCS).parts]
OPTIONS = (DOCS / 'options.md').read_text()
COMMANDS = {
    'run': run,
    'tables': tables,
    'report': report,
    'plot': plot,
    'show': show,
    'predict': predict,
    'export': export,
    'compare': compare,
    'speed': speed,
}
"""The commands in `benchmark/` by name."""

sys.path.insert(0, str(DOCS / '_ext'))
pages = importlib.import_module('pages')
source = importlib.import_module('source')
sys.path.pop(0)

discover()
REGISTRIES = {'methods': METHODS, 'datasets': DATASETS}
CLASSES = {
    (folder, name): cls
    for folder, registry in REGISTRIES.items()
    for name, cls in registry.module_dict.items()
    if cls.__module__.startswith(f'{folder}.')
}
ENTRIES = {(folder, name): cls for folder in REGISTRIES for name, cls in source.registered(folder)}


@cache
def catalogue(folder):
    """The generated page on all methods or data sets."""
    return '\n'.join(pages.PAGES[folder]())


def section(folder, name):
    """The catalogue's text on one method or data set."""
    text = catalogue(folder)
    kind = folder[:-1]
    return re.search(rf'^\({kind}-{name}\)=\n(.*?)(?=^\({kind}-|\Z)', text, re.M | re.S)[1]


def test_the_catalogue_has_every_method_and_data_set():
    assert sorted(ENTRIES) == sorted(CLASSES)
    for folder, name in CLASSES:
        assert section(folder, name).startswith(f'## `{name}`\n')


@pytest.mark.parametrize(('folder', 'name'), sorted(CLASSES))
def test_the_catalogue_has_the_constructor_s_options_and_defaults(folder, name):
    cls = CLASSES[folder, name]
    every = cls.shared() if folder == 'datasets' else ()
    expected = {k: option.default for k, option in options_of(cls).items() if k not in every}
    found = ENTRIES[folder, name].options
    assert {option.name: eval(option.default) for option in found} == expected
    text = section(folder, name)
    for option in found:
        assert option.meaning, f'{name}:{option.name} is not described under Args'
        assert f'| `{option.name}` | `{option.default}` |' in text


@pytest.mark.parametrize('name', [name for folder, name in sorted(CLASSES) if folder == 'methods'])
def test_the_catalogue_says_of_a_method_what_its_class_says(name):
    cls, text = CLASSES['methods', name], section('methods', name)
    facts = dict(re.findall(r'^\| ([^|]+) \| (.*) \|$', text, re.M))
    assert facts['training data'].startswith('complete') == cls.needs_complete
    assert facts.get('teacher') == (
        f'[`{cls.teacher}`](#method-{cls.teacher})' if cls.teacher else None
    )
    assert facts['segmentation networks'] == ', '.join(f'`{n}`' for n in cls.supported_networks)
    assert facts.get('own training masks') == (f'`{cls.sampler}`' if cls.sampler else None)
    assert facts['networks'].startswith('one per') == cls.dedicated
    space = facts.get('search space of `--tune`', '')
    if cls.search_space.__func__ is METHODS.module_dict['complete'].search_space.__func__:
        assert re.findall(r'`(\w+)`:', space) == list(cls.search)
    else:
        assert space == 'depends on the options'
    if 'computed' not in facts.get('settings by data set', ''):
        assert re.findall(r'`(\w+)`:', facts.get('settings by data set', '')) == list(cls.settings)


def test_the_catalogue_has_the_sizes_of_published_splits():
    told = {name for folder, name in CLASSES if '| published split |' in section(folder, name)}
    assert told == {
        name for (_, name), cls in CLASSES.items() if getattr(cls, 'published_sizes', {})
    }


def test_the_size_of_the_baseline_relative_to_itself_is_1():
    ratios = re.findall(r'(\d\.\d\d) (?:times|in)', pages.size('modality_dropout'))
    assert ratios == ['1.00'] * 6
    assert pages.size('no_such_method') == ''
    facts = {name: dict(pages.method_facts(name, cls)) for name, cls in pages.registered('methods')}
    key = 'size, relative to `modality_dropout`'
    without = {name for name, cls in METHODS.module_dict.items() if is_fitted(cls)}
    assert {name for name, told in facts.items() if told['networks'].startswith('none')} == without
    assert not any(facts[name][key] for name in without)
    assert facts['mmanet'][key]


def test_docstrings_become_markdown_that_shows_the_same_characters():
    text = 'Of `a_b\nc_d` and e_f, <x>, |y|: [z]\n\n    L_1 = <k>'
    expected = 'Of `a_b\nc_d` and e\\_f, \\<x>, \\|y\\|: \\[z\\]\n\n    L_1 = <k>'
    assert pages.prose(text) == expected


def test_every_protocol_field_and_record_field_is_generated():
    fields = importlib.import_module('benchmark.engine.protocol').Protocol.fields()
    rows = dict(re.findall(r'^\| `(\w+)` \| `([^`]*)` \|', '\n'.join(pages.protocol()), re.M))
    assert {key: ast.literal_eval(text) for key, text in rows.items()} == fields
    schema = importlib.import_module('benchmark.records.schema')
    text = '\n'.join(pages.record())
    parts = dict(re.findall(r'^### `(\w+)`\n(.*?)(?=^### |\Z)', text, re.M | re.S))
    assert 'Record' in parts
    for name, part in parts.items():
        kind = getattr(schema, name)
        there = dict(re.findall(r'^\| `(\w+)` \| .* \| (always|sometimes) \|$', part, re.M))
        assert there.keys() == kind.__annotations__.keys()
        assert {k for k, v in there.items() if v == 'always'} == set(kind.__required_keys__)


RECORDED = {
    '': ('Record', 'Failure'), 'method.': ('MethodInfo',), 'dataset.': ('DatasetInfo',),
    'scores.': ('Scores',), 'samples.': ('SampleCounts',), 'gaps.': ('Gaps',), 'cost.': ('Cost',),
    'tuning.': ('Tuning',), 'tuning.tried[].': ('Trial',), 'grid.': ('GridInfo',),
}  # fmt: skip
"""How a field is called from the record -> the types whose fields are called so."""


def test_the_page_on_records_says_what_every_field_means():
    schema = importlib.import_module('benchmark.records.schema')
    text = (DOCS / 'record.md').read_text().partition('## Fields')[2].partition('### Types')[0]
    told = re.findall(r'^\| `([\w.\[\]]+)` \| .{10,} \|$', text, re.M)
    kinds = ((prefix, getattr(schema, name)) for prefix, of in RECORDED.items() for name in of)
    known = {f'{prefix}{field}' for prefix, kind in kinds for field in kind.__annotations__}
    inner = {field.split('.')[0] for field in known if '.' in field}
    assert sorted(told) == sorted(known - inner - {'tuning.tried'})


def test_every_link_has_a_text():
    # Where pages are read as they are, on a web site of repositories, no title is filled in.
    assert [p.name for p in PAGES if re.search(r'(?<!!)\[\]\(', p.read_text())] == []


def flags():
    """The script and the name of every option of the commands."""
    for command, module in COMMANDS.items():
        for action in module.parser()._actions:
            yield from ((f'benchmark/{command}.py', s) for s in action.option_strings)
    for script in ('datasets/prepare.py', 'datasets/preview.py'):
        for node in ast.walk(ast.parse((ROOT / script).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('add_argument'):
                yield from ((script, a.value) for a in node.args if str(a.value).startswith('-'))


SECTIONS = dict(re.findall(r'^## `(\w+/\w+\.py)`\n(.*?)(?=^## `|\Z)', OPTIONS, re.M | re.S))
"""The script of each command -> what the page on options says of it."""


@pytest.mark.parametrize(('script', 'flag'), sorted(set(flags())))
def test_every_option_of_a_command_is_documented_with_it(script, flag):
    text = SECTIONS['benchmark/run.py' if flag in ('-h', '--help') else script]
    assert re.search(rf'^`[^\n]*(?<![\w-]){flag}(?![\w-])', text, re.M)


def test_every_protocol_field_is_documented_with_an_example():
    for field in importlib.import_module('benchmark.engine.protocol').Protocol.fields():
        row = re.search(rf'^\| `{field}` \| `--cfg-options (.*)` \|', OPTIONS, re.M)
        assert row, field
        assert f'{field}=' in row[1]


def commands():
    """(Page, command, words) of every command of `benchmark/` in the README and on the pages."""
    for page in [ROOT / 'README.md', *PAGES]:
        text = page.read_text().replace('\\\n', ' ')
        found = re.findall(rf'python benchmark/({"|".join(COMMANDS)})\.py([^`\n]*)', text)
        for command, words in found:
            # A variable of the shell is a number or a name; operators and ellipses end a command.
            plain = re.sub(r'"?\$\{?\w+\}?"?', '0', re.split(r'\s(?:[&|;]|>>?\s|\.{3})', words)[0])
            yield page.name, command, plain


EXAMPLES = re.findall(
    r"register_module\('(\w+)'\)",
    ''.join(page.read_text() for page in [ROOT / 'README.md', *PAGES]),
)
"""Methods that a page has the reader write."""


def names_in(registry, specs):
    """Checks names and options of specs, but for the reader's own files and shell variables."""
    for spec in specs:
        name, _, tail = spec.partition(':')
        if '.py:' in spec or name in ('0', *EXAMPLES):
            continue
        given = {
            part.partition('=')[0].rpartition('.')[2] for part in filter(None, tail.split(','))
        }
        assert given <= options_of(registry.module_dict[name]).keys(), spec


@pytest.mark.parametrize(('page', 'command', 'words'), sorted(set(commands())))
def test_every_command_line_parses(page, command, words):
    parser = COMMANDS[command].parser()
    if '--help' in words:
        with pytest.raises(SystemExit) as end:
            parser.parse_args(shlex.split(words))
        assert end.value.code == 0
        return
    args = parser.parse_args(shlex.split(words, comments=True))
    if command == 'run':
        shown = {*GRIDS, 'sweep.yaml'}
        assert (
            args.methods
            or args.list
            or args.status
            or args.grid in shown
            or grid_of(str(ROOT / args.grid))
        )
        names_in(METHODS, args.methods)
        names_in(DATASETS, args.datasets or [])
        known = set(importlib.import_module('benchmark.engine.protocol').Protocol.fields())
        known |= {p for cls in DATASETS.module_dict.values() for p in options_of(cls)}
        given = words.partition('--cfg-options')[2].partition(' --')[0].split()
        assert {word.partition('=')[0].rpartition('.')[2] for word in given} <= known


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_pages_load_nothing_from_elsewhere(page):
    text = page.read_text()
    assert 'http://' not in text
    for address in re.finditer(r'https://', text):
        before = text[: address.start()]
        # A hyperlink, or code that shows one; no picture, no script.
        assert before.endswith(('](', '<')) or before.count('`') % 2, before[-60:]
        assert not re.search(r'!\[[^\]]*\]\($', before)
    assert not re.search(r'<(script|link|img|iframe)\b', text)


def test_the_picture_of_the_house_names_every_module():
    text = (DOCS / 'architecture.md').read_text()
    tree = re.search(r'```text\n(benchmark/.*?)```', text, re.S)
    named = set(re.findall(r'(\w+)\.py', tree[1]))
    there = {p.stem for p in (ROOT / 'benchmark').rglob('*.py')} | {'prepare', 'preview'}
    assert named == there - {'__init__'}


def test_the_table_of_the_search_is_that_of_the_trials():
    assert search() == (DOCS / 'comparisons' / 'search.md').read_text()


COMPARED = *REFERENCE, *PLACES, *RATES


@pytest.mark.parametrize('name', COMPARED)
def test_the_comparisons_are_those_of_the_records(name):
    fresh, kept = made(name), (DOCS / 'comparisons' / f'{name}.md').read_text()
    number = r'(?<!alpha=)(?<!tuned )[+-]?\d+\.?\d*'
    assert re.sub(number, '#', fresh) == re.sub(number, '#', kept)
    values = [[float(n) for n in re.findall(number, text)] for text in (fresh, kept)]
    assert values[0] == pytest.approx(values[1], abs=0.02)


WHOLE_METHODS = ('README.md', 'docs/tutorials/student.md')


@pytest.fixture(params=WHOLE_METHODS)
def whole_method(request, tmp_path):
    """The file of a whole method as a page prints it, under a name that no other test uses."""
    text = re.search(r'```python\n("""Mean fusion.*?)```', (ROOT / request.param).read_text(), re.S)
    name = f'of_{Path(request.param).stem.lower()}'
    file = tmp_path / f'{name}.py'
    file.write_text(text[1].replace("'mean_fusion'", f"'{name}'"))
    yield file
    METHODS.module_dict.pop(name, None)
    for module in [known for known in sys.modules if known.startswith(f'outside_{name}')]:
        del sys.modules[module]


def test_a_method_as_a_page_prints_it_trains_on_both_embedded_data_sets(whole_method, tmp_path):
    small = ['train=16', 'val=8', 'test=8', 'size=24', 'width=4', 'epochs=1', 'batch_size=8']
    command = ['--methods', f'{whole_method}:{whole_method.stem}', '--results', str(tmp_path / 'r')]
    assert run.main([*command, '--cfg-options', *small]) == 0
    found = [json.loads(file.read_text()) for file in (tmp_path / 'r').rglob('record.json')]
    assert {r['dataset']['name'] for r in found} == {'synth_faces', 'synth_rooms'}
    assert all(r['status'] == 'complete' for r in found)


def test_a_method_as_a_page_prints_it_passes_the_linter(whole_method):
    ruff = shutil.which('ruff', path=Path(sys.executable).parent) or shutil.which('ruff')
    if ruff is None:
        pytest.skip('needs ruff')
    config = ['--config', str(ROOT / 'pyproject.toml'), str(whole_method)]
    for command in (['check'], ['format', '--check']):
        done = subprocess.run([ruff, *command, *config], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode()


def test_no_page_shows_directives_of_contents_where_nothing_builds_it():
    for page in PAGES:
        assert not re.findall(r'^`{3,}\{(?:toctree|glossary)\}', page.read_text(), re.M), page


def test_types_of_options_are_shown_by_their_values():
    kinds = {
        (folder, name, option.name): option.annotation
        for (folder, name), cls in ENTRIES.items()
        for option in cls.options
    }
    assert kinds['datasets', 'nyuv2', 'duplicates'] == "Literal['report', 'refuse']"
    operators = kinds['methods', 'fusion', 'fusion']
    assert operators.startswith("Literal['")
    assert "'concat'" in operators
    # What is left are Python's own names, and those of typing.
    known = {'Literal', 'None', 'int', 'float', 'str', 'bool', 'tuple', 'Path', 'Sequence'}
    names = {n.id for kind in kinds.values() if kind
             for n in ast.walk(ast.parse(kind)) if isinstance(n, ast.Name)}  # fmt: skip
    assert names <= known
