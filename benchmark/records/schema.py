"""The fields of a record as types.

The types are the only statement of the schema: `benchmark.records.checks` reads them, so that a new
field is added in one place. This module works without torch, so that tables are made in a second.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import numpy as np

from benchmark.records.costs import Cost

SCHEMA = 1

EXTERNAL = 'external'
"""What the source of a method's options says of predictions that other code made."""

Outcomes = dict[str, np.ndarray]
"""What a run predicted for the N samples of a split, in the split's order.

'name' (N,) holds the ids of the samples, and 'cluster' (N,), if there is one, the cluster that each
belongs to, for example a person. Runs of older versions have neither.

Classification into K classes: 'target' (N,) holds the labels; for each subset 'pred/<subset>' (N,)
holds the predicted classes, -1 where the sample was not tested, and 'logit/<subset>' logits, NaN
where not tested: if K = 2, (N,) float32, the log-odds of the live class (ACER) or of class 1;
otherwise (N, K), float32 for ACER and float16 for others. Older runs have 'score/<subset>' (N,)
float32, the probability of the live class (ACER) or of the predicted one.

Segmentation into K classes: 'areas/<subset>' (N, 3, K) holds the pixels of intersection, prediction
and label per class, all 0 where not tested.

Dice of R regions: 'areas/<subset>' (V, 3, R) holds the areas of V volumes, -1 where not tested;
'name' and 'cluster' are (V,), of the volumes. Where HD95 was measured, 'hd95/<subset>' (V, R)
float32 holds it in millimetres, NaN where not tested.

Several labels: 'target' and 'logit/<subset>', values: 'target' and 'value/<subset>', all (N, K).
"""


class _Method(TypedDict):
    name: str
    label: str
    options: dict[str, Any]
    version: int
    source: Literal['default', 'paper settings', 'settings.json', 'tuned', 'given', 'external']


class MethodInfo(_Method, total=False):
    """The method and its options.

    `label` names its row in tables. `source` says where the options come from; it is 'external'
    where other code trained the method and made the predictions, so that training, options and
    cost are not known. `tunable` lists the options that a search may choose. `code` is the hash of
    the method's source code and of its teacher's, or of external predictions. `notes` tells where
    values of `results/settings.json` come from, and where the training did otherwise than the
    options say: a schedule that it was too short for, smaller batches; of external predictions
    what their file says. The oldest records lack these three.
    """

    tunable: list[str]
    code: str
    notes: list[str]


class _Dataset(TypedDict):
    name: str
    options: dict[str, Any]
    fingerprint: str
    kind: Literal['classification', 'segmentation', 'multilabel', 'regression']
    modalities: list[str]
    classes: list[str]
    metric: Literal['ACER', 'accuracy', 'mIoU', 'Dice', 'F1', 'MAE']
    higher_is_better: bool
    live: int
    ceiling: dict[str, float]
    chance: float | None


class DatasetInfo(_Dataset, total=False):
    """The data set and its metric.

    `live` is the index of the bona fide class, which ACER needs. `ceiling` gives the score of the
    ideal observer on each subset and `chance` the score of guessing, where they are known.
    `regions` names the regions of Dice in the order of the outcomes. `encoder` says in words which
    network encodes the inputs, and its width. `changed` names the options that are not the data
    set's defaults. `reader` is the registered name that it was opened by, such as 'arrays'.
    """

    regions: list[str]
    encoder: str
    changed: list[str]
    reader: str
    sentiment: bool


SubsetMetrics = dict[str, dict[str, float | None]]
"""Subset id -> metric -> value as a fraction (HD95 in mm), None where it is undefined."""


class Scores(TypedDict):
    """The metrics of both splits that a run measures."""

    val: SubsetMetrics
    test: SubsetMetrics


class SampleNumbers(TypedDict):
    """For both splits: subset id -> number of samples that the subset was measured on."""

    val: dict[str, int]
    test: dict[str, int]


class SampleCounts(TypedDict):
    """The number of independent samples in each split.

    These are the clusters where the data set names them, otherwise the volumes if the metric is
    Dice, otherwise the samples.
    """

    train: int
    val: int
    test: int


class Gaps(TypedDict):
    """The training gaps.

    `rates` gives the share of training samples that lack each modality, as counted; `mask_hash`
    identifies which samples they are; `dropped` counts the samples that lack every modality, which
    no training can use.
    """

    rates: dict[str, float]
    mask_hash: str
    dropped: int


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


class GridInfo(TypedDict):
    """The grid that asked for a run: its name or that of its file, and a hash of what it runs."""

    name: str
    sha256: str


class Rules(TypedDict, total=False):
    """The training and selection rules, `benchmark.engine.protocol.Protocol`.

    Records lack the fields that are younger than they are.
    """

    sampler: str
    rates: str
    selection: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    schedule: str
    warmup: float
    val_interval: int
    precision: str
    clip: float
    loss: str
    ema: float
    nesterov: bool
    mechanism: str
    mask: str
    subsets: str
    sampling: str
    pretrain: str
    pretrain_epochs: int
    encoder: str
    encoder_weights: str
    encoder_frozen: bool
    mask_schedule: str
    share_encoders: bool
    vector_noise: float
    noise: float  # of the variance (D / n)^2; only older records have it


class _Run(TypedDict):
    schema: int
    identity: str
    method: MethodInfo
    dataset: DatasetInfo
    protocol: Rules
    protocol_id: str
    seed: int
    environment: dict[str, str]
    commit: str
    finished: str


class Run(_Run, total=False):
    """The fields of every record; with `tuning` if options were tuned, and `grid` after `--grid`.

    `content` is the SHA-256 of all other fields; records of older versions do not have it.
    """

    tuning: Tuning
    grid: GridInfo
    content: str


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


class _Complete(Run):
    status: Literal['complete']
    scores: Scores
    n: SampleNumbers
    predicted: dict[str, list[float]]
    collapsed: list[str]
    selected_epoch: int
    gaps: Gaps
    cost: Cost


class Record(_Complete, total=False):
    """The record of a finished run.

    `predicted` gives, per subset, the share of each class among the test predictions. `collapsed`
    lists the subsets on which nearly all predictions are of one class. `outcomes` gives the SHA-256
    of each file of outcomes beside the record, by the file's name; without these files the run does
    not count as finished. `curves` is the SHA-256 of the file of curves beside the record, if the
    training had epochs. Records of older versions have no `samples`, `outcomes` or `curves`.
    """

    samples: SampleCounts
    outcomes: dict[str, str]
    curves: str


def is_external(record: Record | Unscored) -> bool:
    """Returns whether other code trained the method and made the predictions."""
    return record['method']['source'] == EXTERNAL


class RecordError(ValueError):
    """A file does not hold a valid record, or valid outcomes; the message is one line."""


def test_scores(record: Record) -> dict[str, float]:
    """Returns subset id -> the data set's own metric on the test split, where it is defined."""
    return scores_in(record, record['dataset']['metric'])


def scores_in(record: Record, metric: str) -> dict[str, float]:
    """Returns subset id -> a metric on the test split, where it was measured and is defined."""
    values = {s: metrics.get(metric) for s, metrics in record['scores']['test'].items()}
    # A record that has just been made holds NaN where a file holds null.
    return {s: value for s, value in values.items() if value is not None and value == value}
