"""Calibration, risk and Pareto front, against scikit-learn and brute force."""

import itertools

import numpy as np
import pytest
from made_records import make_record
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, brier_score_loss

from benchmark.report.page import calibration, costs

N = 500


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def described(**changes):
    return {**make_record('m', 0, {'target': np.zeros(1, np.int64)})['dataset'], **changes}


def two_classes(rng, kind, live=1):
    """Outcomes of two classes: log-odds of the live class, or its probability."""
    target = rng.integers(2, size=N)
    logit = rng.normal(np.where(target == live, 1.0, -1.0), 1.5).astype(np.float32)
    share = 1 / (1 + np.exp(-logit.astype(np.float64)))
    predicted = np.where(logit > 0, live, 1 - live)
    predicted[:50] = -1
    values = {'logit': logit, 'score': share.astype(np.float32)}[kind].copy()
    values[:50] = np.nan
    return {'target': target, 'pred/a': predicted, f'{kind}/a': values}, share


@pytest.mark.parametrize('kind', ['logit', 'score'])
@pytest.mark.parametrize('live', [0, 1])
def test_brier_score_and_calibration_error_of_two_classes_are_scikit_learns(rng, kind, live):
    outcomes, share = two_classes(rng, kind, live)
    found = calibration.stated(outcomes, 'a', described(live=live))
    target, share = outcomes['target'][50:], share[50:]
    assert found.brier.mean() == pytest.approx(brier_score_loss(target == live, share), abs=1e-6)
    confidence = np.maximum(share, 1 - share)
    right = (share > 0.5) == (target == live)
    true, stated = calibration_curve(right, confidence, n_bins=15)
    count = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    expected = (count[count > 0] * np.abs(true - stated)).sum() / len(right)
    error = calibration.calibration_error(calibration.bins(found))
    assert error == pytest.approx(expected, abs=1e-6)


def test_brier_score_of_many_classes_is_scikit_learns(rng):
    logits = rng.normal(size=(N, 4)).astype(np.float16)
    target, predicted = rng.integers(4, size=N), logits.argmax(1)
    outcomes = {'target': target, 'pred/a': predicted, 'logit/a': logits}
    data = described(metric='accuracy', classes=list('abcd'))
    found = calibration.stated(outcomes, 'a', data)
    exact = np.exp(logits.astype(np.float64))
    shares = exact / exact.sum(1, keepdims=True)
    expected = brier_score_loss(target, shares, scale_by_half=True, labels=range(4))
    assert found.brier.mean() == pytest.approx(expected)
    np.testing.assert_allclose(found.confidence, shares.max(1))


def test_older_outcomes_hold_the_probability_of_the_predicted_class(rng):
    target, predicted = rng.integers(3, size=N), rng.integers(3, size=N)
    share = rng.uniform(1 / 3, 1, N).astype(np.float32)
    outcomes = {'target': target, 'pred/a': predicted, 'score/a': share}
    found = calibration.stated(outcomes, 'a', described(metric='accuracy', classes=list('abc')))
    np.testing.assert_array_equal(found.confidence, share)
    # What the other classes were given is not known.
    assert found.brier is None
    assert calibration.stated({'target': target, 'pred/a': predicted}, 'a', described()) is None


def test_risk_is_the_share_of_errors_among_the_most_confident(rng):
    confidence, right = rng.permutation(np.arange(N) / N), rng.random(N) < 0.7
    found = calibration.risks(calibration.Stated(confidence, right, None))
    for k in (1, 7, 100, N):
        kept = sorted(range(N), key=lambda i: -confidence[i])[:k]
        assert found[k - 1] == pytest.approx(np.mean([not right[i] for i in kept]))
    area = auc(np.arange(1, N + 1) / N, found)
    assert found.mean() == pytest.approx(area, abs=2 / N)


def test_equal_confidences_have_no_order():
    confidence = np.array([0.9, 0.5, 0.5, 0.5])
    right = np.array([True, True, False, False])
    orders = []
    for order in itertools.permutations([1, 2, 3]):
        wrong = ~right[[0, *order]]
        orders.append(np.cumsum(wrong) / np.arange(1, 5))
    found = calibration.risks(calibration.Stated(confidence, right, None))
    np.testing.assert_allclose(found, np.mean(orders, axis=0))
    turned = calibration.Stated(confidence[::-1], right[::-1], None)
    np.testing.assert_allclose(calibration.risks(turned), found)


@pytest.mark.parametrize('higher', [True, False])
def test_the_front_is_what_no_other_point_beats(rng, higher):
    # Few different values make ties.
    points = rng.integers(6, size=(25, 2)).astype(float)
    sign = 1 if higher else -1
    found = costs.front(points[:, 0].tolist(), points[:, 1].tolist(), higher)
    for k, (cost, score) in enumerate(points):
        beaten = [
            (c <= cost and sign * s > sign * score) or (c < cost and sign * s >= sign * score)
            for c, s in points
        ]
        assert found[k] == (not any(beaten))
    assert any(found)
