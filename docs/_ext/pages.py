"""What `source` reads, as Markdown: a function per page of the catalogue, without Sphinx."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from source import ROOT, Class, assigned, read, registered, spelled

REFERENCE = 'results/reference/runs'


def prose(text: str) -> str:
    """Returns a docstring as Markdown: what is no code is protected from being read as markup."""
    pattern = r'(`[^`]*`|^ {4}.*$)|([<*_\[\]|])'  # four blanks begin a block of code
    return re.sub(pattern, lambda m: m[1] or f'\\{m[2]}', text, flags=re.MULTILINE)


def code(text: Any) -> str:
    """Returns inline code that may stand in a cell of a table."""
    escaped = str(text).replace('|', r'\|')
    return f'`{escaped}`' if escaped else ''


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yields a Markdown table and a blank line after it."""
    header = list(header)
    yield from (f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *rows))
    yield ''


def listed(values: dict[str, Any]) -> str:
    """Returns key = value pairs as code."""
    return ', '.join(code(f'{key}={value}') for key, value in values.items())


def entry(kind: str, name: str, cls: Class, facts: Iterable[list[str]]) -> Iterator[str]:
    """Yields the section of one method or data set."""
    file = cls.module.path.relative_to(ROOT).as_posix()
    yield from (f'({kind}-{name})=', f'## `{name}`', '', prose(cls.docstring.text), '')
    yield from table(['', ''], [['file', code(file)], *(fact for fact in facts if fact[1])])
    rows = [
        [code(o.name), code(o.default), prose(o.meaning), code(o.annotation)] for o in cls.options
    ]
    if rows:
        yield from table(['option', 'default', 'meaning', 'type'], rows)


def methods() -> Iterator[str]:
    """Yields a section per method."""
    for name, cls in registered('methods'):
        yield from entry('method', name, cls, method_facts(name, cls))


def method_facts(name: str, cls: Class) -> Iterator[list[str]]:
    """Yields what a method's class attributes say of it."""
    complete = cls.attribute('needs_complete', False)
    yield ['training data', 'complete samples only' if complete else 'may have training gaps']
    teacher = cls.attribute('teacher', None)
    yield ['teacher', f'[`{teacher}`](#method-{teacher})' if teacher else '']
    yield ['own training masks', code(cls.attribute('sampler', None) or '')]
    fitted = any(base.node.name == 'Fitted' for base in cls.lineage)
    dedicated = 'one per subset' if cls.attribute('dedicated', False) else 'one for all subsets'
    yield ['networks', 'none; scikit-learn or a count' if fitted else dedicated]
    # This attribute alone is not inherited, see `benchmark.method.Method`.
    own = 'supported_networks' in assigned(cls.node.body)
    architectures = cls.attribute('supported_networks', ()) if own else ('pyramid',)
    yield ['segmentation networks', ', '.join(map(code, architectures))]
    settings = cls.attribute('settings', {})
    if isinstance(settings, dict):
        settings = '; '.join(f'{code(data)}: {listed(s)}' for data, s in settings.items())
    else:
        settings = 'computed in the file, from those of another method'
    yield ['settings by data set', settings]
    yield ['search space of `--tune`', search_space(cls)]
    yield ['size, relative to `modality_dropout`', '' if fitted else size(name)]


def search_space(cls: Class) -> str:
    """Says what `--tune` may choose."""
    if any(isinstance(n, ast.FunctionDef) and n.name == 'search_space' for n in cls.node.body):
        return 'depends on the options'
    found = cls.expression('search')
    pairs = zip(found[1].keys, found[1].values, strict=True) if found else ()  # type: ignore
    return ', '.join(f'{code(ast.literal_eval(k))}: {code(ast.unparse(v))}' for k, v in pairs)


def size(name: str) -> str:
    """Says what the reference records hold of a method's size, as ratios; empty without records."""
    told = []
    for data in sorted((ROOT / REFERENCE).glob('*')):
        costs = [cost(data.name, method) for method in (name, 'modality_dropout')]
        if None in costs:
            continue
        ratios = [own / base for own, base in zip(*costs, strict=True)]  # type: ignore
        words = '{:.2f} times the parameters deployed, {:.2f} in training, {:.2f} times the FLOPs'
        told.append(f'{code(data.name)}: {words.format(*ratios)}')
    return '; '.join(told)


def cost(data: str, method: str) -> tuple[int, int, int] | None:
    """Returns deployed parameters, all parameters, FLOPs with all modalities; None if unknown."""
    files = sorted((ROOT / REFERENCE / data / method).glob('*/seed*/record.json'))
    if not files:
        return None
    found = json.loads(files[0].read_text(encoding='utf-8'))['cost']
    return found['deployed_parameters'], found['parameters'], max(found['flops'].values())


def datasets() -> Iterator[str]:
    """Yields a section per data set."""
    for name, cls in registered('datasets'):
        yield from entry('dataset', name, cls, dataset_facts(cls))


def dataset_facts(cls: Class) -> Iterator[list[str]]:
    """Yields what a data set's class attributes say of it."""
    embedded, streams = cls.attribute('embedded', False), cls.attribute('streams', False)
    yield ['licence', prose(cls.attribute('licence', ''))]
    yield ['how to get the data', prose(cls.attribute('how_to_get', ''))]
    yield ['samples', 'drawn' if embedded else 'decoded as they are read' if streams else '']
    yield ['published split', listed(cls.attribute('published_sizes', {}))]
    yield ['recipe (protocol fields)', listed(cls.attribute('recipe', {}))]


def protocol() -> Iterator[str]:
    """Yields the table of protocol fields."""
    module = read(next((ROOT / 'benchmark').rglob('protocol.py')))
    node = module.classes['Protocol']
    meanings = Class(module, node).docstring.sections['Attributes']
    choices = ast.literal_eval(assigned(module.tree.body)['CHOICES'])
    rows = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value:
            key, kind = item.target.id, ast.unparse(item.annotation)
            values = ', '.join(map(code, choices.get(key, ()))) or code(kind)
            default = code(spelled(module, item.value))
            rows.append([code(key), default, values, prose(meanings[key])])
    yield from table(['field', 'default', 'values', 'meaning'], rows)


def record() -> Iterator[str]:
    """Yields a section per group of a record's fields."""
    found = [read(ROOT / 'benchmark' / 'records' / name) for name in ('schema.py', 'costs.py')]
    for cls in (Class(module, node) for module in found for node in module.classes.values()):
        node, fields = cls.node, {}
        if not any(ast.unparse(base) == 'TypedDict' for c in cls.lineage for base in c.node.bases):
            continue
        for part in reversed(cls.lineage):
            optional = any(keyword.arg == 'total' for keyword in part.node.keywords)
            for item in (n for n in part.node.body if isinstance(n, ast.AnnAssign)):
                name, kind = ast.unparse(item.target), ast.unparse(item.annotation)
                fields[name] = [code(name), code(kind), 'sometimes' if optional else 'always']
        if not node.name.startswith('_'):
            yield from (f'### `{node.name}`', '', prose(cls.docstring.text), '')
            yield from table(['field', 'type', 'there'], fields.values())


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    'methods': methods,
    'datasets': datasets,
    'protocol': protocol,
    'record': record,
}
