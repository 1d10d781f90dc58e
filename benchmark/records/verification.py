"""Whether a record and the outcomes of its run tell the same story."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from benchmark.files import stamp
from benchmark.records import archive, distances, labels, values
from benchmark.records.identity import content
from benchmark.records.metrics import ratio, recomputed, tested
from benchmark.records.schema import Outcomes, Record, RecordError, is_external
from benchmark.subsets import subset_order

Measured = Literal['val', 'test']
"""A split that a run predicts and measures."""

TOLERANCE = 1e-5
"""Largest difference of a recorded score from that of its outcomes.

Records of older versions hold scores of segmentation that were computed in float32.
"""

COLLAPSE = 0.999
"""A subset whose predictions are one class to at least this share counts as collapsed."""

_VALIDATED: set[tuple[object, ...]] = set()
"""File, times and record of validation outcomes that agree; several tables may need a record."""

_PER_SUBSET = {
    'classification': ('pred', 'logit', 'score'),
    'segmentation': ('areas', 'hd95'),
    'multilabel': ('logit',),
    'regression': ('value',),
}
_ABOUT_SAMPLES = ('target', 'name', 'cluster')


def verified(record: Record, outcomes: Outcomes) -> Record:
    """Computes what a record says of the test split again from the outcomes of the run.

    Returns:
        The record with what the outcomes tell: every metric that they determine, also those that a
        record of an older version lacks, and no other; the numbers of samples, the shares of the
        predicted classes and the collapsed subsets.

    Raises:
        RecordError: The outcomes do not fit the record, or contradict one of its scores.
    """
    data, recorded = record['dataset'], record['scores']['test']
    test, numbers, predicted = {}, {}, {}
    for subset in subset_order(recorded, data['modalities']):
        scores = recorded[subset]
        # A score that differs would mean that one of the two files was edited or exchanged.
        found = _agreeing(record, outcomes, subset, 'test')
        try:
            numbers[subset] = int(tested(outcomes, subset, data['metric']).sum())
            predicted[subset] = _predicted(record, outcomes, subset)
        except (KeyError, ValueError, IndexError) as error:
            raise RecordError(f'outcomes do not fit the record: {error}') from None
        test[subset] = {k: scores.get(k, None if np.isnan(v) else v) for k, v in found.items()}
    proven: dict[str, Any] = {
        'scores': {**record['scores'], 'test': test},
        'n': {**record['n'], 'test': numbers},
        'predicted': predicted,
        'collapsed': collapsed(predicted, data['kind']),
    }
    return cast(Record, {**record, **proven})


def check_validation(file: Path, record: Record) -> None:
    """Computes the validation scores of a record again from the outcomes of that split.

    Args:
        file: The outcomes of the validation split, which lie beside the record.
        record: The record. Those of older versions, and of other code, name no such outcomes.

    Raises:
        RecordError: The file is damaged, or contradicts one of the scores.
    """
    scores = record['scores']['val']
    if not scores or file.name not in record.get('outcomes', {}):
        return
    if (known := (file, stamp(file), content(record))) in _VALIDATED:
        return
    outcomes = archive.read(file)
    try:
        check_fit(record, outcomes, 'val')
        for subset in scores:
            _agreeing(record, outcomes, subset, 'val')
    except RecordError as error:
        raise RecordError(f'{file}: {error}') from None
    _VALIDATED.add(known)


def _agreeing(record: Record, outcomes: Outcomes, subset: str, split: Measured) -> dict[str, float]:
    """Returns every metric that outcomes determine, once the record's are seen to be the same."""
    try:
        found = recomputed(outcomes, subset, record['dataset'])
    except (KeyError, ValueError, IndexError) as error:
        raise RecordError(f'outcomes do not fit the record: {error}') from None
    if told := _contradiction(subset, record['scores'][split][subset], found):
        raise RecordError(told)
    return found


def collapsed(predicted: Mapping[str, list[float]], kind: str = '') -> list[str]:
    """Returns the subsets on which nearly all predictions are of one class.

    Args:
        predicted: Subset id -> share of each class among the predictions.
        kind: Kind of the task; of several labels, none need be predicted for a sample.
    """
    if kind == 'multilabel':
        return []
    return [subset for subset, shares in predicted.items() if max(shares) >= COLLAPSE]


def _predicted(record: Record, outcomes: Outcomes, subset: str) -> list[float]:
    """Returns the share of each class among the test predictions on a subset.

    Outcomes of Dice hold regions in the place of classes. They tell only whether anything but the
    background, the first class, was predicted.
    """
    metric, classes = record['dataset']['metric'], len(record['dataset']['classes'])
    there = tested(outcomes, subset, metric)
    if metric == 'Dice':
        shares = record['predicted'][subset]
        if outcomes[f'areas/{subset}'][there, 1].any():
            # Areas are those of regions here, from which shares of classes do not follow.
            return shares if shares[0] < 1 else [0.0] * classes
        return [1.0, *[0.0] * (classes - 1)]
    if metric == labels.METRIC:
        return labels.shares(outcomes[f'logit/{subset}'][there]).tolist()
    if metric == values.METRIC:
        return [0.0] * classes
    if metric == 'mIoU':
        counts = outcomes[f'areas/{subset}'][:, 1].sum(0)
    else:
        counts = np.bincount(outcomes[f'pred/{subset}'][there], minlength=classes)
    return np.nan_to_num(ratio(counts, counts.sum())).tolist()


def _contradiction(
    subset: str, scores: Mapping[str, float | None], found: Mapping[str, float]
) -> str:
    for metric, value in found.items():
        recorded = scores.get(metric, value)
        recorded = np.nan if recorded is None else recorded
        differs = abs(recorded - value) > TOLERANCE
        # A difference from NaN is NaN, which is above no tolerance.
        if differs or np.isnan(recorded) != np.isnan(value):
            return f'{metric} of {subset} is {recorded:.6f} in the record, {value:.6f} by outcomes'
    return ''


def check_fit(record: Record, outcomes: Outcomes, split: Measured = 'test') -> None:
    """Checks that outcomes are those of this record's run, by names, shapes and values.

    Args:
        record: The record.
        outcomes: What the run predicted for a split.
        split: The split.

    Raises:
        RecordError: The message names the array, what was expected and what was found.
    """
    data, numbers = record['dataset'], record['n'][split]
    kinds = _PER_SUBSET[data['kind']]
    known = {*_ABOUT_SAMPLES, *(f'{kind}/{subset}' for kind in kinds for subset in numbers)}
    for name in sorted(outcomes.keys() - known):
        raise RecordError(f'expected the arrays of the subsets tested, found {name[:100]!r}')
    needed = [f'{kinds[0]}/{subset}' for subset in numbers]
    if data['kind'] != 'segmentation':
        needed.insert(0, 'target')
    for name in needed:
        if name not in outcomes:
            raise RecordError(f'{name}: missing')
    samples = len(np.atleast_1d(outcomes[needed[0]]))
    for name, array in outcomes.items():
        if array.ndim == 0 or len(array) != samples:
            raise RecordError(f'{name}: expected {samples} samples, found shape {array.shape}')
        if (name in ('name', 'cluster')) != (array.dtype.kind == 'U') or (
            name == 'name' and len(set(array.tolist())) < samples
        ):
            raise RecordError(f'{name}: expected numbers, or different names as text')
    _check_units(record, outcomes, split)
    if data['kind'] == 'classification':
        _check_classes(record, outcomes, samples, numbers)
    elif data['kind'] != 'segmentation':
        _check_columns(record, outcomes, numbers)
    else:
        _check_areas(record, outcomes, samples, numbers)


def _check_units(record: Record, outcomes: Outcomes, split: Measured) -> None:
    """Checks the number of independent samples, which are clusters where these are named."""
    named = outcomes.get('cluster', outcomes.get('name'))
    if named is None or 'samples' not in record:
        return
    count, told = len(np.unique(named)), record['samples'][split]
    if count != told:
        raise RecordError(f'samples.{split}: expected {count} as in the outcomes, found {told}')


def _check_classes(
    record: Record, outcomes: Outcomes, samples: int, numbers: Mapping[str, int]
) -> None:
    classes = len(record['dataset']['classes'])
    _check_labels('target', outcomes['target'], 0, classes)
    for subset, number in numbers.items():
        predicted = outcomes[f'pred/{subset}']
        _check_labels(f'pred/{subset}', predicted, -1, classes)
        there = tested(outcomes, subset, record['dataset']['metric'])
        if there.sum() != number:
            raise RecordError(
                f'pred/{subset}: expected {number} samples tested, found {there.sum()}'
            )
        shape = (samples,) if classes == 2 else (samples, classes)
        for name, expected in ((f'logit/{subset}', shape), (f'score/{subset}', (samples,))):
            values = outcomes.get(name, np.zeros(expected, np.float32))
            if values.shape != expected or values.dtype.kind != 'f':
                raise RecordError(f'{name}: expected fractions {expected}, found {values.shape}')
            if not np.isfinite(values[there]).all():
                raise RecordError(f'{name}: expected finite numbers')
        if f'logit/{subset}' in outcomes and not is_external(record):
            _check_decisions(record, outcomes, subset)


def _check_columns(record: Record, outcomes: Outcomes, numbers: Mapping[str, int]) -> None:
    """Checks targets and predictions with a column for each label or value."""
    data, target = record['dataset'], outcomes['target']
    shape = len(target), len(data['classes'])
    valid = np.isin(target, (0, 1)) if data['kind'] == 'multilabel' else np.isfinite(target)
    if target.shape != shape or not valid.all():
        raise RecordError(f'target: expected targets {shape}, found shape {target.shape}')
    for subset, number in numbers.items():
        name = f'{_PER_SUBSET[data["kind"]][0]}/{subset}'
        found = outcomes[name]
        if found.shape != shape or found.dtype.kind != 'f':
            raise RecordError(f'{name}: expected numbers {shape}, found {found.shape}')
        there = np.isfinite(found)
        if (there != there[:, :1]).any() or there[:, 0].sum() != number:
            raise RecordError(f'{name}: expected {number} samples tested')


def _check_decisions(record: Record, outcomes: Outcomes, subset: str) -> None:
    """Checks that each sample's prediction is the class of its largest logit.

    Rounding to float16 may make two logits the same, and then either class is one of the largest.
    Other code may decide by another threshold, so that its predictions are not checked.
    """
    data, logit, predicted = (
        record['dataset'],
        outcomes[f'logit/{subset}'],
        outcomes[f'pred/{subset}'],
    )
    there = tested(outcomes, subset, data['metric'])
    logit, predicted = logit[there], predicted[there].astype(int)
    if logit.ndim == 1:
        positive = data['live'] if data['metric'] == 'ACER' else 1
        wrong = np.where(predicted == positive, logit < 0, logit > 0)
    else:
        wrong = np.take_along_axis(logit, predicted[:, None], 1)[:, 0] < logit.max(1)
    if wrong.any():
        raise RecordError(
            f'pred/{subset}: expected the class of the largest logit, found another one for '
            f'{int(wrong.sum())} of {len(wrong)} samples'
        )


def _check_labels(name: str, labels: np.ndarray, least: int, classes: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in 'iu':
        raise RecordError(f'{name}: expected classes (N,), found {labels.dtype} {labels.shape}')
    if len(labels) and not least <= labels.min() <= labels.max() < classes:
        raise RecordError(f'{name}: expected classes below {classes}, found {labels.max()}')


def _check_areas(
    record: Record, outcomes: Outcomes, samples: int, numbers: Mapping[str, int]
) -> None:
    data = record['dataset']
    dice = data['metric'] == 'Dice'
    columns = len(data['regions']) if 'regions' in data else None if dice else len(data['classes'])
    for subset, number in numbers.items():
        name, areas = f'areas/{subset}', outcomes[f'areas/{subset}']
        fits = areas.ndim == 3 and areas.shape[1] == 3 and columns in (None, areas.shape[2])
        if not fits or areas.dtype.kind not in 'iu' or not areas.size:
            raise RecordError(f'{name}: expected areas (N, 3, {columns or "regions"}) as integers')
        count = tested(outcomes, subset, data['metric']).sum()
        if count > number or (dice and count != number) or number > samples:
            raise RecordError(f'{name}: expected {number} samples tested, found {count}')
        if areas.min() < (-1 if dice else 0) or (areas[:, :1] > areas[:, 1:]).any():
            raise RecordError(f'{name}: expected intersections within prediction and label')
        there, far = tested(outcomes, subset, data['metric']), outcomes.get(f'hd95/{subset}')
        if far is not None and (not dice or distances.wrong(far, there, areas.shape[2])):
            raise RecordError(f'hd95/{subset}: expected distances of the volumes tested')
