"""The check that a record has the fields of its type, and that their values fit together.

A record is a file that anybody may have made. Its size and depth are therefore bounded before
anything is computed from it, and no text in it can move a terminal's cursor or break a line.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from benchmark.names import COLUMN, MODALITIES
from benchmark.records import distances
from benchmark.records.metrics import HIGHER_IS_BETTER
from benchmark.records.schema import SCHEMA, Failure, Record, RecordError, Refusal, Run, is_external
from benchmark.records.values import UNBOUNDED
from benchmark.shown import MAX_TEXT, unsafe
from benchmark.subsets import is_subset

MAX_DEPTH = 12
MAX_NUMBER = 2**63

ROUNDING = 1e-9
"""How far beyond 0 and 1 a fraction may lie that was computed in double precision."""

_BY_STATUS = {'complete': Record, 'failed': Failure, 'refused': Refusal}


def check(record: Any) -> None:
    """Checks that a record has all fields, of the right types, and values that fit together.

    Raises:
        RecordError: The message names the field, what was expected and what was found.
    """
    if not isinstance(record, dict):
        raise RecordError(f'expected an object, found {type(record).__name__}')
    _check_values(record, '', 0)
    if record.get('schema') != SCHEMA:
        raise RecordError(f'schema: expected {SCHEMA}, found {_told(record.get("schema"))}')
    status = record.get('status')
    if not isinstance(status, str) or status not in _BY_STATUS:
        expected = ', '.join(_BY_STATUS)
        raise RecordError(f'status: expected one of {expected}, found {_told(status)}')
    _check_type(record, _BY_STATUS[status], '')
    _check_run(cast(Run, record))
    for name in record.get('outcomes', {}):
        if not re.fullmatch(r'\w[\w.-]*', name):
            raise RecordError(f'outcomes: expected names of files, found {_told(name)}')
    if status == 'complete':
        _check_complete(cast(Record, record))


def check_form(value: Any, hint: Any) -> None:
    """Checks that what a JSON file holds is of a type, and its texts and numbers harmless.

    Raises:
        RecordError: The message names the field, what was expected and what was found.
    """
    _check_values(value, '', 0)
    _check_type(value, hint, '')


def _check_values(value: Any, field: str, depth: int) -> None:
    """Checks what no value may be, whatever its field: not finite, too long, too deep, unsafe."""
    if isinstance(value, str):
        _check_text(value, field)
    elif isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            raise RecordError(f'{field}: expected at most {MAX_DEPTH} levels of nesting')
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                _check_text(key, f'a name in {field or "the record"}')
            _check_values(inner, f'{field}.{key}' if field else str(key), depth + 1)
    elif isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
        raise RecordError(f'{field}: expected a number below 2^63, found {_told(value)}')


def _check_text(text: str, field: str) -> None:
    if len(text) > MAX_TEXT:
        raise RecordError(f'{field}: expected at most {MAX_TEXT} characters, found {len(text)}')
    if any(map(unsafe, text)):
        raise RecordError(f'{field}: expected no control characters, found {_told(text)}')


def _check_type(value: Any, hint: Any, field: str) -> None:
    if hint is Any:
        return
    if typing.is_typeddict(hint):
        _check_type(value, dict, field)
        _check_fields(value, hint, f'{field}.' if field else '')
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if not _is_a(value, hint, origin, arguments):
        expected = getattr(hint, '__name__', str(hint)) if origin is None else str(hint)
        raise RecordError(f'{field}: expected {_words(expected)}, found {_told(value)}')
    if origin is dict:
        for key, inner in value.items():
            _check_type(inner, arguments[1], f'{field}.{key}')
    elif origin is list:
        for index, inner in enumerate(value):
            _check_type(inner, arguments[0], f'{field}[{index}]')


@functools.cache
def _hints(hint: Any) -> dict[str, Any]:
    """Returns the types of a dictionary's fields, whose texts are evaluated once."""
    return get_type_hints(hint)


def _check_fields(value: dict[str, Any], hint: Any, prefix: str) -> None:
    hints = _hints(hint)
    for key, inner in hints.items():
        if key in value:
            _check_type(value[key], inner, f'{prefix}{key}')
        elif key in hint.__required_keys__:
            raise RecordError(f'{prefix}{key}: missing')
    for key in value.keys() - hints.keys():
        raise RecordError(f'{prefix}{_told(key)}: this version knows no such field')


def _is_a(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, a, get_origin(a), get_args(a)) for a in arguments)
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    return isinstance(value, (int, float) if hint is float else origin or hint)


def _words(hint: str) -> str:
    return hint.replace('typing.', '').replace('Literal', 'one of ').replace(' | ', ' or ')


def _told(value: Any) -> str:
    """Returns a value for a message: in one line, and short."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]}...'


def _check_run(record: Run) -> None:
    """Checks what every record says of its data set and of its search."""
    data = record['dataset']
    names, metric = data['modalities'], data['metric']
    if not 1 <= len(names) <= MODALITIES:
        raise RecordError(
            f'dataset.modalities: expected 1 to {MODALITIES} names, found {len(names)}'
        )
    if len(set(names)) < len(names) or any(not name or '+' in name for name in names):
        raise RecordError(
            f'dataset.modalities: expected different names without "+", found {_told(names)}'
        )
    if columns := [name for name in names if COLUMN.fullmatch(name)]:
        raise RecordError(
            f'dataset.modalities: expected no names of columns of tables, found {columns[0]!r}'
        )
    if data['higher_is_better'] != HIGHER_IS_BETTER[metric]:
        raise RecordError(f'dataset.higher_is_better: expected {HIGHER_IS_BETTER[metric]}')
    if not data['classes'] or (
        metric == 'ACER' and data['live'] not in range(len(data['classes']))
    ):
        raise RecordError(
            f'dataset.live: expected one of {len(data["classes"])} classes, found {data["live"]}'
        )
    _check_subsets('dataset.ceiling', data['ceiling'], names)
    bounds = [*data['ceiling'].values(), *([] if data['chance'] is None else [data['chance']])]
    if metric not in UNBOUNDED:
        _check_fractions('dataset.ceiling and dataset.chance', bounds)
    if 'tuning' in record:
        chosen, tried = record['tuning']['chosen'], record['tuning']['tried']
        if chosen is not None and chosen not in range(len(tried)):
            raise RecordError(
                f'tuning.chosen: expected one of {len(tried)} settings, found {chosen}'
            )


def _check_complete(record: Record) -> None:
    names = record['dataset']['modalities']
    tested, classes = record['scores']['test'], len(record['dataset']['classes'])
    if not tested:
        raise RecordError('scores.test: no subset was tested')
    _check_scores(record, 'val')
    _check_scores(record, 'test')
    _check_keys('predicted', record['predicted'], tested)
    _check_keys('collapsed', record['collapsed'], tested)
    for subset, shares in record['predicted'].items():
        _check_fractions(f'predicted.{subset}', shares)
        # The sum is 0 where every pixel is ignored, so that nothing is counted.
        if len(shares) != classes or min(abs(sum(shares) - total) for total in (0, 1)) > 1e-3:
            raise RecordError(
                f'predicted.{subset}: expected {classes} shares with sum 1, found {_told(shares)}'
            )
    _check_keys('gaps.rates', record['gaps']['rates'], names)
    _check_fractions('gaps.rates', record['gaps']['rates'].values())
    lacking = [m for m in names if m not in record['gaps']['rates']]
    if lacking and not is_external(record):  # how other code trained is not known
        raise RecordError(
            f'gaps.rates: expected a share of each modality, {lacking[0]!r} is missing'
        )
    cost = {key: value for key, value in record['cost'].items() if key != 'flops'}
    flops = record['cost']['flops']
    _check_subsets('cost.flops', flops, names)
    counts = {**cost, **{f'flops.{s}': n for s, n in flops.items()}}
    for key, value in counts.items():
        if cast(float, value) < 0:
            raise RecordError(f'cost.{key}: expected at least 0, found {value}')


def _check_scores(record: Record, split: Literal['val', 'test']) -> None:
    scores, numbers = record['scores'][split], record['n'][split]
    metric = record['dataset']['metric']
    _check_subsets(f'scores.{split}', scores, record['dataset']['modalities'])
    for subset, metrics in scores.items():
        for name, value in {metric: 'nothing', **metrics}.items():
            fits, expected = _is_fraction, 'a fraction'
            if distances.is_distance(name):
                fits, expected = distances.valid, 'a distance'
            if name in UNBOUNDED:
                fits, expected = _is_number, 'a number'
            if value is not None and not fits(value):
                raise RecordError(
                    f'scores.{split}.{subset}.{name}: expected {expected}, found {_told(value)}'
                )
        if numbers.get(subset, 0) < 1:
            raise RecordError(f'n.{split}.{subset}: expected at least 1')
    _check_keys(f'n.{split}', numbers, scores)


def _check_subsets(field: str, found: Iterable[str], names: list[str]) -> None:
    for key in found:
        if not is_subset(key, names):
            told = ', '.join(names)[:200]
            raise RecordError(f'{field}: {_told(key)} is none of {told}, or of their subsets')


def _check_keys(field: str, found: Iterable[str], known: Iterable[str]) -> None:
    known = set(known)
    for key in found:
        if key not in known:
            raise RecordError(f'{field}: {_told(key)} is none of {", ".join(sorted(known))[:200]}')


def _check_fractions(field: str, values: Iterable[float]) -> None:
    for value in values:
        if not _is_fraction(value):
            raise RecordError(f'{field}: expected fractions, found {_told(value)}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_fraction(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and -ROUNDING <= value <= 1 + ROUNDING
