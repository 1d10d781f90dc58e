"""The metrics of several labels and of regression against scikit-learn and scipy."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from benchmark.records import distances, labels, metrics, units, values
from benchmark.records.ranking import average_precision

RNG = np.random.default_rng(0)


def drawn(n=60, k=5):
    """Targets and logits of labels; the last label never occurs and is never predicted."""
    target = (RNG.random((n, k)) < [0.5, 0.1, 0.3, 0.9, 0.0]).astype(np.int8)
    logit = (target + RNG.standard_normal((n, k)) - 0.5).astype(np.float32)
    logit[:, 1] = logit[:, 1].round()  # equal scores
    logit[:, 4] = -3
    return target, logit


def test_labels_are_scored_as_by_scikit_learn():
    target, logit = drawn()
    found = labels.of_labels(target, logit)
    predicted = logit > 0
    expected = {
        'F1': reference.f1_score(target, predicted, average='macro', zero_division=np.nan),
        'micro_F1': reference.f1_score(target, predicted, average='micro'),
        'mAP': np.mean(
            [reference.average_precision_score(target[:, j], logit[:, j]) for j in range(4)]
        ),
    }
    assert found == pytest.approx(expected)


def test_average_precision_of_equal_scores_and_without_positives():
    true, score = np.array([1, 0, 1, 0]) > 0, np.array([0.5, 0.5, 0.5, 0.1])
    assert average_precision(true, score) == pytest.approx(
        reference.average_precision_score(true, score)
    )
    assert np.isnan(average_precision(np.zeros(3, bool), np.arange(3)))


def test_values_are_scored_as_by_scikit_learn_and_scipy():
    y = RNG.standard_normal((50, 2)) * [1, 30] + [0, 500]
    p = y + RNG.standard_normal((50, 2)) * [0.5, 20]
    found = values.of_values(y, p)
    expected = {
        'MAE': reference.mean_absolute_error(y, p),
        'RMSE': reference.root_mean_squared_error(y, p),
        'R2': reference.r2_score(y, p),
        'Pearson': np.mean([stats.pearsonr(y[:, j], p[:, j]).statistic for j in range(2)]),
    }
    assert found == pytest.approx(expected)
    flat = values.of_values(np.ones((4, 1)), np.arange(4.0)[:, None])
    assert np.isnan(flat['R2'])
    assert np.isnan(flat['Pearson'])


def test_sentiments_are_counted_as_in_the_papers():
    y = np.r_[RNG.integers(-9, 10, 80) / 3, np.zeros(9)]
    p = y + RNG.standard_normal(89)
    p[:3] = 5, -7, 0
    found = values.of_values(y[:, None], p[:, None], sentiment=True)
    some = y != 0
    clipped = [np.clip(x, -3, 3).round().astype(int) for x in (y, p)]
    expected = {
        'Acc7': reference.accuracy_score(*clipped),
        'Acc2_has0': reference.accuracy_score(y >= 0, p >= 0),
        'F1_has0': reference.f1_score(y >= 0, p >= 0, average='weighted'),
        'Acc2_non0': reference.accuracy_score(y[some] > 0, p[some] > 0),
        'F1_non0': reference.f1_score(y[some] > 0, p[some] > 0, average='weighted'),
    }
    assert {k: v for k, v in found.items() if k in expected} == pytest.approx(expected)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.isnan(values.of_sentiments(np.zeros(3), np.ones(3))['Acc2_non0'])


@pytest.mark.parametrize('metric', ['F1', 'MAE'])
def test_a_resampled_test_set_is_scored_by_adding_contributions(metric):
    if metric == 'F1':
        target, told = drawn()
        outcomes, kind = {'target': target, 'logit/a': told.copy()}, 'logit/a'
    else:
        target = RNG.standard_normal((60, 2)).astype(np.float32)
        told = target + RNG.standard_normal((60, 2)).astype(np.float32)
        outcomes, kind = {'target': target, 'value/a': told.copy()}, 'value/a'
    outcomes[kind][:7] = np.nan
    assert metrics.tested(outcomes, 'a', metric).sum() == 53
    added = metrics.contributions(outcomes, 'a', metric)
    assert not added[:7].any()
    rows = RNG.integers(7, 60, 53)
    found = metrics.score(added[rows].sum(0), metric)
    of = labels.of_labels if metric == 'F1' else values.of_values
    assert found == pytest.approx(of(target[rows], told[rows])[metric])


def test_units_are_told():
    shown = [units.shown(0.12345, name) for name in ('MAE', 'R2', 'F1', 'mIoU', 'HD95_core')]
    assert shown == ['0.123', '0.123', '12.35 %', '12.35 %', '0.12 mm']
    # Beside distances, exactly what is bounded is printed in percent.
    known = {name: units.unit_of(name) for name in metrics.HIGHER_IS_BETTER}
    assert {name for name, unit in known.items() if unit is units.PERCENT} == {
        *metrics.HIGHER_IS_BETTER
    } - {*values.UNBOUNDED, distances.HD95}
    assert not metrics.higher_is_better('MAE')
    assert metrics.higher_is_better('mAP')
