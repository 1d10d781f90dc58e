"""What a record holds, as types, and the check that a file holds it.

The types are the only statement of the schema: `check` reads them, so a field is added in one
place. No torch here: tables are made in a second.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import numpy as np

from benchmark.missing import subset_ids

SCHEMA = 1

Outcomes = dict[str, np.ndarray]
"""Per-sample outcomes on the test split, in the split's order.

Classification: 'target' (N,) integers; per subset 'pred/<subset>' (N,) int16, -1 where the sample
was not tested on it, and optionally 'score/<subset>' (N,) float32. Segmentation: per subset
'areas/<subset>' (N, 3, K) integers, the pixels of intersection, prediction and label; all zero
where the image was not tested. For Dice (V, 3, R) over volumes and regions, -1 where the volume was
not tested.
"""


class _Method(TypedDict):
    name: str
    label: str
    options: dict[str, Any]
    version: int
    source: Literal['default', 'paper settings', 'tuned', 'given']


class MethodInfo(_Method, total=False):
    """The method variant; `label` is its row in tables, `source` says who chose its options.

    `tunable` are the options that a search may choose; the first records do not have it.
    """

    tunable: list[str]


class DatasetInfo(TypedDict):
    """The data and the metric; `live` is the index of the bona fide class, for ACER."""

    name: str
    options: dict[str, Any]
    fingerprint: str
    kind: Literal['classification', 'segmentation']
    modalities: list[str]
    classes: list[str]
    metric: Literal['ACER', 'accuracy', 'mIoU', 'Dice']
    higher_is_better: bool
    live: int
    ceiling: dict[str, float]
    chance: float | None


SubsetMetrics = dict[str, dict[str, float | None]]
"""Subset id -> metric -> value as a fraction, None where it is undefined."""


class Scores(TypedDict):
    """Metrics per split."""

    val: SubsetMetrics
    test: SubsetMetrics


class Counts(TypedDict):
    """Subset id -> number of samples it was measured on, per split."""

    val: dict[str, int]
    test: dict[str, int]


class Gaps(TypedDict):
    """Real gaps in the training data: realised missing rates, hash of the mask, rows dropped."""

    rates: dict[str, float]
    mask_hash: str
    dropped: int


class Cost(TypedDict):
    """What the run took; `flops` per subset, of one sample. Deployed: without training aids."""

    parameters: int
    deployed_parameters: int
    flops: dict[str, int]
    train_seconds: float
    teacher_seconds: float
    test_seconds: float
    peak_memory_mb: float


class Trial(TypedDict):
    """One setting of a search and its validation mean over subsets, None where it failed."""

    options: dict[str, Any]
    score: float | None


class Tuning(TypedDict):
    """The search that chose the options of a tuned row, the same for all its seeds.

    `seed` is that of the trials; `space` says what each option was drawn from; `tried[chosen]` was
    the best, and `tried[0]` is the setting that applies without tuning; `seconds` are those of all
    trials and their teacher.
    """

    trials: int
    seed: int
    space: dict[str, str]
    tried: list[Trial]
    chosen: int | None
    seconds: float


class _Run(TypedDict):
    schema: int
    identity: str
    method: MethodInfo
    dataset: DatasetInfo
    protocol: dict[str, Any]
    protocol_id: str
    seed: int
    environment: dict[str, str]
    commit: str
    finished: str


class Run(_Run, total=False):
    """The fields of every record; `tuning` is there where the options were tuned."""

    tuning: Tuning


class Failure(Run):
    """A run that ended in an error."""

    status: Literal['failed']
    error: str


class Record(Run):
    """A finished run; `predicted` is the share of each class among the test predictions."""

    status: Literal['complete']
    scores: Scores
    n: Counts
    predicted: dict[str, list[float]]
    collapsed: list[str]
    selected_epoch: int
    gaps: Gaps
    cost: Cost


class RecordError(ValueError):
    """A file that is no valid record or outcomes of this benchmark; one line naming it."""


def test_scores(record: Record) -> dict[str, float]:
    """Returns subset id -> the dataset's metric on the test split, where it is defined."""
    return scores_in(record, record['dataset']['metric'])


def scores_in(record: Record, metric: str) -> dict[str, float]:
    """Returns subset id -> a metric on the test split, where it is held and defined."""
    values = {s: metrics.get(metric) for s, metrics in record['scores']['test'].items()}
    return {subset: value for subset, value in values.items() if value is not None}


def check(record: Any) -> None:
    """Checks the fields of a record, their types, and that its scores belong together.

    Raises:
        RecordError: Names the field, what was expected and what found.
    """
    if not isinstance(record, dict):
        raise RecordError(f'expected an object, found {type(record).__name__}')
    if record.get('schema') != SCHEMA:
        raise RecordError(f'schema: expected {SCHEMA}, found {record.get("schema")!r}')
    status = record.get('status')
    if status not in ('complete', 'failed'):
        raise RecordError(f'status: expected complete or failed, found {status!r}')
    failed = status == 'failed'
    _check_type(record, Failure if failed else Record, '')
    if not failed:
        _check_scores(typing.cast(Record, record))


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
        raise RecordError(f'{field}: expected {_words(expected)}, found {value!r}')
    if origin is dict:
        for key, inner in value.items():
            _check_type(inner, arguments[1], f'{field}.{key}')
    elif origin is list:
        for index, inner in enumerate(value):
            _check_type(inner, arguments[0], f'{field}[{index}]')


def _check_fields(value: dict[str, Any], hint: Any, prefix: str) -> None:
    for key, inner in get_type_hints(hint).items():
        if key in value:
            _check_type(value[key], inner, f'{prefix}{key}')
        elif key in hint.__required_keys__:
            raise RecordError(f'{prefix}{key}: missing')


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


def _check_scores(record: Record) -> None:
    known = subset_ids(record['dataset']['modalities'])
    metric = record['dataset']['metric']
    splits = (
        ('val', record['scores']['val'], record['n']['val']),
        ('test', record['scores']['test'], record['n']['test']),
    )
    for split, subsets, counts in splits:
        for subset, metrics in subsets.items():
            if subset not in known:
                raise RecordError(f'scores.{split}: {subset!r} is none of {", ".join(known)}')
            value: Any = metrics.get(metric, 'nothing')
            if value is not None and not (_is_a(value, float, None, ()) and 0 <= value <= 1):
                raise RecordError(
                    f'scores.{split}.{subset}.{metric}: expected a fraction, found {value!r}'
                )
            if counts.get(subset, 0) < 1:
                raise RecordError(f'n.{split}.{subset}: expected at least 1')
    if not record['scores']['test']:
        raise RecordError('scores.test: no subset was tested')
