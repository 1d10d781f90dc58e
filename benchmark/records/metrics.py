"""The metrics, as pure functions of sums over samples.

What each sample adds to such a sum is its contribution: one cell of a confusion matrix, or areas in
pixels. A resampled test set is scored by adding up contributions, without another prediction.
Values are fractions; NaN stands for a value that was not measured or is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.errors import unknown
from benchmark.records import distances, labels, values
from benchmark.records.arithmetic import nanmean, ratio
from benchmark.records.ranking import eer_auc
from benchmark.records.schema import DatasetInfo, Outcomes

HIGHER_IS_BETTER = {
    **dict.fromkeys(('ACER', 'APCER', 'BPCER', 'EER', distances.HD95), False),
    **dict.fromkeys(('accuracy', 'AUC', 'UAR', 'F1'), True),
    **dict.fromkeys(('mIoU', 'pixel_accuracy', 'class_accuracy', 'Dice'), True),
    **labels.DIRECTIONS,
    **values.DIRECTIONS,
}
"""Every metric that a table can show -> its direction; of one region (`Dice_WT`) the same."""


def higher_is_better(metric: str) -> bool:
    """Returns a metric's direction.

    Raises:
        UserError: The metric is unknown. A direction is never guessed.
    """
    name = metric.partition('_')[0] if metric.startswith(('Dice_', 'HD95_')) else metric
    if name not in HIGHER_IS_BETTER:
        raise unknown('metric', metric, HIGHER_IS_BETTER)
    return HIGHER_IS_BETTER[name]


def confusion(target: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix: how many samples of each class were predicted as which.

    Args:
        target: (N,) labels.
        predicted: (N,) predicted classes; samples with -1 were not tested and do not count.
        classes: K.

    Returns:
        (K, K), rows are targets.

    Raises:
        ValueError: A label or a prediction is none of the K classes.
    """
    tested = predicted >= 0
    for found in (target[tested], predicted[tested]):
        if len(found) and not 0 <= found.min() <= found.max() < classes:
            raise ValueError(f'expected classes 0 to {classes - 1}, found {found.max()}')
    cells = target[tested].astype(np.int64) * classes + predicted[tested]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy(confusions: np.ndarray) -> np.ndarray:
    """Returns the share of right predictions, of (..., K, K) confusion matrices."""
    return ratio(np.trace(confusions, axis1=-2, axis2=-1), confusions.sum((-2, -1)))


def apcer(confusions: np.ndarray, live: int) -> np.ndarray:
    """Returns the share of attacks taken for live, of (..., K, K) confusion matrices."""
    attacks = confusions.sum((-2, -1)) - confusions[..., live, :].sum(-1)
    accepted = confusions[..., :, live].sum(-1) - confusions[..., live, live]
    return ratio(accepted, attacks)


def bpcer(confusions: np.ndarray, live: int) -> np.ndarray:
    """Returns the share of live samples taken for attacks, of (..., K, K) confusion matrices."""
    total = confusions[..., live, :].sum(-1)
    return ratio(total - confusions[..., live, live], total)


def acer(confusions: np.ndarray, live: int) -> np.ndarray:
    """Returns (APCER + BPCER) / 2, of (..., K, K) confusion matrices.

    It is NaN without any live sample or without any attack. All kinds of attack are pooled, as in
    the papers on CASIA-SURF; ISO/IEC 30107-3 takes the worst kind instead.
    """
    return (apcer(confusions, live) + bpcer(confusions, live)) / 2


def uar(confusions: np.ndarray) -> np.ndarray:
    """Returns the mean recall over the classes that occur, of (..., K, K) confusion matrices."""
    return nanmean(ratio(np.diagonal(confusions, axis1=-2, axis2=-1), confusions.sum(-1)))


def macro_f1(confusions: np.ndarray) -> np.ndarray:
    """Returns the mean F1 over the classes that occur or are predicted, of (..., K, K)."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    return nanmean(ratio(2 * right, confusions.sum(-1) + confusions.sum(-2)))


def dice(areas: np.ndarray) -> np.ndarray:
    """Returns 2 intersection / (prediction + label), of areas (..., 3, R); 1 where both are 0."""
    intersection, predicted, labelled = np.moveaxis(areas, -2, 0)
    found = ratio(2 * intersection, predicted + labelled)
    return np.where(np.isnan(found), 1.0, found)


def miou(areas: np.ndarray) -> np.ndarray:
    """Returns the mean intersection over union, of pooled areas (..., 3, K).

    A class that is neither labelled nor predicted has no IoU and is left out of the mean, as in
    mmsegmentation. The code of ESANet and MMANet counts it as 0 instead.

    Args:
        areas: Pixels of intersection, prediction and label, summed over images.
    """
    intersection, predicted, labelled = np.moveaxis(areas, -2, 0)
    return nanmean(ratio(intersection, predicted + labelled - intersection))


def log_odds(logits: np.ndarray, live: int) -> np.ndarray:
    """Returns the log-odds of one class against all others together, (N,), of logits (N, K).

    Unlike softmax shares, which round to 1, they tell confident predictions apart.
    """
    others = np.delete(logits, live, axis=1).astype(np.float64)
    largest = others.max(1)
    rest = largest + np.log(np.exp(others - largest[:, None]).sum(1))
    return logits[:, live] - rest


def of_decisions(
    target: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    live: int | None = None,
    rank: np.ndarray | None = None,
) -> dict[str, float]:
    """Returns every metric of a classification.

    Args:
        target: (N,) labels.
        predicted: (N,) predicted classes.
        classes: K.
        live: For presentation attack detection the index of the live class, otherwise None.
        rank: (N,) the larger, the more likely live, for EER and AUC.
    """
    table = confusion(target, predicted, classes)
    found: dict[str, float | np.ndarray] = {'accuracy': accuracy(table)}
    if live is None:
        found |= {'UAR': uar(table), 'F1': macro_f1(table)}
    else:
        found |= {'APCER': apcer(table, live), 'BPCER': bpcer(table, live)}
        found['ACER'] = acer(table, live)
        if rank is not None:
            found['EER'], found['AUC'] = eer_auc(target == live, rank)
    return {name: float(value) for name, value in found.items()}


def of_areas(areas: np.ndarray) -> dict[str, float]:
    """Returns every metric of a segmentation, of areas (N, 3, K) of N images."""
    pooled = areas.sum(0, dtype=np.int64)
    right, _, labelled = pooled
    return {
        'mIoU': float(miou(pooled)),
        'pixel_accuracy': float(ratio(right.sum(), labelled.sum())),
        'class_accuracy': float(nanmean(ratio(right, labelled))),
    }


def of_volumes(areas: np.ndarray, regions: Sequence[str]) -> dict[str, float]:
    """Returns Dice and that of each region, of areas (V, 3, R) of V volumes.

    Args:
        areas: Voxels of intersection, prediction and label.
        regions: The R names; if empty, the mean alone is returned.
    """
    each = dice(areas).mean(0)
    named = zip(regions, each.tolist(), strict=True) if regions else ()
    return {'Dice': float(each.mean()), **{f'Dice_{name}': value for name, value in named}}


def recomputed(outcomes: Outcomes, subset: str, data: DatasetInfo) -> dict[str, float]:
    """Returns every metric that the outcomes of a subset determine.

    Args:
        outcomes: What a run predicted.
        subset: A subset that it was tested on.
        data: The record's description of the data set.

    Raises:
        KeyError: The outcomes do not hold the subset.
        ValueError: The arrays do not fit the data set.
    """
    metric = data['metric']
    there = tested(outcomes, subset, metric)
    if metric == 'Dice':
        dices = of_volumes(outcomes[f'areas/{subset}'][there], data.get('regions', ()))
        return dices | distances.told(outcomes, subset, there, data.get('regions', ()))
    if metric == 'mIoU':
        return of_areas(outcomes[f'areas/{subset}'])
    if metric == labels.METRIC:
        return labels.of_labels(outcomes['target'][there], outcomes[f'logit/{subset}'][there])
    if metric == values.METRIC:
        told = data.get('sentiment', False)
        return values.of_values(outcomes['target'][there], outcomes[f'value/{subset}'][there], told)
    target, predicted = outcomes['target'][there], outcomes[f'pred/{subset}'][there]
    if metric != 'ACER':
        return of_decisions(target, predicted, len(data['classes']))
    # Runs of older versions hold the probability of the live class, which ranks alike but for ties.
    rank = outcomes.get(f'logit/{subset}', outcomes.get(f'score/{subset}'))
    if rank is not None:
        rank = rank[there] if rank.ndim == 1 else log_odds(rank[there], data['live'])
    return of_decisions(target, predicted, len(data['classes']), data['live'], rank)


def tested(outcomes: Outcomes, subset: str, metric: str) -> np.ndarray:
    """Returns which samples were tested on a subset, (N,) bool, by the data set's own metric.

    For mIoU an image without a single labelled pixel contributes nothing and is not counted.
    """
    if metric == 'Dice':
        return np.asarray(outcomes[f'areas/{subset}'].min((1, 2)) >= 0)
    if metric == 'mIoU':
        return np.asarray(outcomes[f'areas/{subset}'][:, 2].any(1))
    if metric in (labels.METRIC, values.METRIC):
        kind = 'logit' if metric == labels.METRIC else 'value'
        return np.asarray(np.isfinite(outcomes[f'{kind}/{subset}']).all(1))
    return np.asarray(outcomes[f'pred/{subset}'] >= 0)


def determined(data: DatasetInfo) -> set[str]:
    """Returns the metrics that outcomes of a data set can tell, whether recorded or not."""
    if data['metric'] == 'Dice':
        return {'Dice', *(f'Dice_{name}' for name in data.get('regions', ()))}
    if data['metric'] == 'mIoU':
        return {'mIoU', 'pixel_accuracy', 'class_accuracy'}
    if data['metric'] == labels.METRIC:
        return {*labels.DIRECTIONS}
    if data['metric'] == values.METRIC:
        plain = {*values.UNBOUNDED}
        return {*values.DIRECTIONS} if data.get('sentiment', False) else plain
    own = ('APCER', 'BPCER', 'ACER', 'EER', 'AUC') if data['metric'] == 'ACER' else ('UAR', 'F1')
    return {'accuracy', *own}


def contributions(outcomes: Outcomes, subset: str, metric: str, live: int = 1) -> np.ndarray:
    """Returns each sample's contribution to a metric, (N, C), all 0 where it was not tested.

    C is 4 for ACER (the cells of the confusion matrix of attack and live), 2 for accuracy (wrong,
    right), 3K for mIoU (the areas), and 1 + R for Dice (a 1, and each region's Dice), whose samples
    are volumes; 3K for F1 (labels right, wrong, missed) and 2 for MAE (a 1, the absolute error).
    """
    if metric == 'Dice':
        each = np.insert(dice(outcomes[f'areas/{subset}']), 0, 1.0, axis=1)
        return np.where(tested(outcomes, subset, metric)[:, None], each, 0.0)
    if metric == 'mIoU':
        areas = outcomes[f'areas/{subset}']
        return areas.reshape(len(areas), -1)
    if metric in (labels.METRIC, values.METRIC):
        return _added(outcomes, subset, metric)
    target, predicted = outcomes['target'], outcomes[f'pred/{subset}']
    if metric == 'ACER':
        cells, columns = 2 * (target == live) + (predicted == live), 4
    else:
        cells, columns = (target == predicted).astype(np.int64), 2
    there = tested(outcomes, subset, metric)
    return (cells[:, None] == np.arange(columns)) & there[:, None]


def _added(outcomes: Outcomes, subset: str, metric: str) -> np.ndarray:
    """Returns the contributions (N, C) to the metric of labels or of values."""
    there = tested(outcomes, subset, metric)
    if metric == labels.METRIC:
        found = labels.counts(outcomes['target'], outcomes[f'logit/{subset}'])
        return found.reshape(len(found), -1) & there[:, None]
    wrong = outcomes[f'value/{subset}'].astype(np.float64) - outcomes['target']
    each = np.insert(np.abs(wrong).mean(1)[:, None], 0, 1.0, axis=1)
    return np.where(there[:, None], each, 0.0)


def score(totals: np.ndarray, metric: str) -> np.ndarray:
    """Returns a metric (...) of contributions (..., C) that are summed over samples."""
    if metric == 'mIoU':
        return miou(totals.reshape(*totals.shape[:-1], 3, -1))
    if metric == labels.METRIC:
        return nanmean(labels.f1(totals.reshape(*totals.shape[:-1], 3, -1)))
    if metric in ('Dice', values.METRIC):
        return ratio(totals[..., 1:].mean(-1), totals[..., 0])
    if metric == 'ACER':
        return acer(totals.reshape(*totals.shape[:-1], 2, 2), live=1)
    return ratio(totals[..., 1], totals.sum(-1))
