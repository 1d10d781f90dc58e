"""The fields of a record as types, and the check that a file has these fields.

The types are the only statement of the schema: `check` reads them, so that a new field is added in
one place. This module works without torch, so that tables are made in a second.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import numpy as np

from benchmark.missing import subset_ids

SCHEMA = 1

Outcomes = dict[str, np.ndarray]
"""The predictions of a run on the N samples of the test split, in the split's order.

Classification: 'target' (N,) holds the labels; for each subset 'pred/<subset>' (N,) int16 holds
the predicted classes, -1 where the sample was not tested on the subset, and 'score/<subset>' (N,)
float32, if there is one, the probability of the live class (ACER) or of the predicted class.

Segmentation into K classes: for each subset 'areas/<subset>' (N, 3, K) holds the pixels of
intersection, prediction and label per class, all 0 where the image was not tested.

Dice of R regions: for each subset 'areas/<subset>' (V, 3, R) holds the same areas of V volumes, -1
where the volume was not tested.
"""


class _Method(TypedDict):
    name: str
    label: str
    options: dict[str, Any]
    version: int
    source: Literal['default', 'paper settings', 'tuned', 'given']


class MethodInfo(_Method, total=False):
    """The method and its options.

    `label` names its row in tables. `source` says where the options come from. `tunable` lists the
    options that a search may choose. `code` is the hash of the method's source code and of its
    teacher's. `notes` tells where the training was too short for a schedule of the method. The
    oldest records lack these three.
    """

    tunable: list[str]
    code: str
    notes: list[str]


class DatasetInfo(TypedDict):
    """The data set and its metric.

    `live` is the index of the bona fide class, which ACER needs. `ceiling` gives the score of the
    ideal observer on each subset and `chance` the score of guessing, where they are known.
    """

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
    """The metrics of both splits that a run measures."""

    val: SubsetMetrics
    test: SubsetMetrics


class SampleNumbers(TypedDict):
    """For both splits: subset id -> number of samples that the subset was measured on."""

    val: dict[str, int]
    test: dict[str, int]


class Gaps(TypedDict):
    """The training gaps.

    `rates` gives the share of training samples that lack each modality, as counted; `mask_hash`
    identifies which samples they are; `dropped` counts the samples that lack every modality, which
    no training can use.
    """

    rates: dict[str, float]
    mask_hash: str
    dropped: int


class Cost(TypedDict):
    """What the run cost.

    `deployed_parameters` are those that a prediction needs, `parameters` adds those that serve
    training alone. `flops` are the floating-point operations of one sample, per subset.
    """

    parameters: int
    deployed_parameters: int
    flops: dict[str, int]
    train_seconds: float
    teacher_seconds: float
    test_seconds: float
    peak_memory_mb: float


class Trial(TypedDict):
    """One setting of a search and its mean validation score over subsets, None if it failed."""

    options: dict[str, Any]
    score: float | None


class Tuning(TypedDict):
    """The search that chose the options of a tuned row; all seeds of the row share it.

    `seed` is the seed of every trial, and `space` says what each option was drawn from.
    `tried[chosen]` is the best setting; `tried[0]` is the setting that applies without tuning.
    `seconds` is the time of all trials and of their teacher.
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
    """The fields of every record; `tuning` is there if the options were tuned."""

    tuning: Tuning


class Failure(Run):
    """The record of a run that ended in an error."""

    status: Literal['failed']
    error: str


class Refusal(Run):
    """The record of a refused run: the method needs complete samples, and the data have gaps."""

    status: Literal['refused']
    error: str


Unscored = Failure | Refusal
"""A record without scores."""


class Record(Run):
    """The record of a finished run.

    `predicted` gives, per subset, the share of each class among the test predictions. `collapsed`
    lists the subsets on which nearly all predictions are of one class.
    """

    status: Literal['complete']
    scores: Scores
    n: SampleNumbers
    predicted: dict[str, list[float]]
    collapsed: list[str]
    selected_epoch: int
    gaps: Gaps
    cost: Cost


class RecordError(ValueError):
    """A file does not hold a valid record, or valid outcomes; the message is one line."""


_BY_STATUS = {'complete': Record, 'failed': Failure, 'refused': Refusal}


def test_scores(record: Record) -> dict[str, float]:
    """Returns subset id -> the data set's own metric on the test split, where it is defined."""
    return scores_in(record, record['dataset']['metric'])


def scores_in(record: Record, metric: str) -> dict[str, float]:
    """Returns subset id -> a metric on the test split, where it was measured and is defined."""
    values = {s: metrics.get(metric) for s, metrics in record['scores']['test'].items()}
    return {subset: value for subset, value in values.items() if value is not None}


def check(record: Any) -> None:
    """Checks that a record has all fields, of the right types, and scores that fit together.

    Raises:
        RecordError: The message names the field, what was expected and what was found.
    """
    if not isinstance(record, dict):
        raise RecordError(f'expected an object, found {type(record).__name__}')
    if record.get('schema') != SCHEMA:
        raise RecordError(f'schema: expected {SCHEMA}, found {record.get("schema")!r}')
    status = record.get('status')
    if status not in _BY_STATUS:
        raise RecordError(f'status: expected one of {", ".join(_BY_STATUS)}, found {status!r}')
    _check_type(record, _BY_STATUS[status], '')
    if status == 'complete':
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
    for split, subsets, numbers in splits:
        for subset, metrics in subsets.items():
            if subset not in known:
                raise RecordError(f'scores.{split}: {subset!r} is none of {", ".join(known)}')
            value: Any = metrics.get(metric, 'nothing')
            if value is not None and not (_is_a(value, float, None, ()) and 0 <= value <= 1):
                raise RecordError(
                    f'scores.{split}.{subset}.{metric}: expected a fraction, found {value!r}'
                )
            if numbers.get(subset, 0) < 1:
                raise RecordError(f'n.{split}.{subset}: expected at least 1')
    if not record['scores']['test']:
        raise RecordError('scores.test: no subset was tested')
