"""Metrics and summaries against scikit-learn and loops."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from benchmark.errors import UserError
from benchmark.missing import subset_ids
from benchmark.records import metrics
from benchmark.report import statistics

NAMES = ('rgb', 'depth', 'ir')


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_confusion_and_accuracy_agree_with_scikit_learn(rng):
    target, predicted = rng.integers(4, size=300), rng.integers(4, size=300)
    counts = metrics.confusion(target, predicted, 4)
    np.testing.assert_array_equal(counts, confusion_matrix(target, predicted))
    assert metrics.accuracy(counts) == pytest.approx(accuracy_score(target, predicted))


def test_samples_that_were_not_tested_do_not_count(rng):
    target, predicted = rng.integers(2, size=50), rng.integers(2, size=50)
    tested = np.arange(50) < 30
    hidden = np.where(tested, predicted, -1)
    expected = confusion_matrix(target[:30], predicted[:30])
    np.testing.assert_array_equal(metrics.confusion(target, hidden, 2), expected)
    outcomes = {'target': target, 'pred/a': hidden}
    counts = metrics.contributions(outcomes, 'a', 'accuracy')
    assert counts.sum() == 30
    score = metrics.score(counts.sum(0), 'accuracy')
    assert score == pytest.approx(accuracy_score(target[:30], predicted[:30]))


@pytest.mark.parametrize('live', [0, 1])
def test_acer_of_an_asymmetric_confusion_keeps_apcer_and_bpcer_apart(live):
    counts = np.empty((2, 2))
    counts[live, live], counts[live, 1 - live] = 17242, 216
    counts[1 - live, 1 - live], counts[1 - live, live] = 39681, 571
    assert metrics.bpcer(counts, live) == pytest.approx(216 / 17458)
    assert metrics.apcer(counts, live) == pytest.approx(571 / 40252)
    assert metrics.acer(counts, live) == pytest.approx((216 / 17458 + 571 / 40252) / 2)
    assert metrics.accuracy(counts) == pytest.approx(1 - (216 + 571) / 57710)
    published = [1.2373, 1.4186, 1.3279, 98.6363]
    rates = metrics.bpcer(counts, live), metrics.apcer(counts, live), metrics.acer(counts, live)
    found = [100 * float(v) for v in (*rates, metrics.accuracy(counts))]
    np.testing.assert_allclose(found, published, atol=6e-5)


def test_acer_pools_all_kinds_of_attack(rng):
    target, predicted = rng.integers(4, size=500), rng.integers(4, size=500)
    live = 2
    accepted = np.mean([p == live for t, p in zip(target, predicted, strict=True) if t != live])
    rejected = np.mean([p != live for t, p in zip(target, predicted, strict=True) if t == live])
    counts = metrics.confusion(target, predicted, 4)
    assert metrics.acer(counts, live) == pytest.approx((accepted + rejected) / 2)
    outcomes = {'target': target, 'pred/a': predicted}
    totals = metrics.contributions(outcomes, 'a', 'ACER', live).sum(0)
    assert metrics.score(totals, 'ACER') == pytest.approx((accepted + rejected) / 2)


def test_acer_without_any_live_sample_is_undefined():
    assert np.isnan(metrics.acer(np.array([[5, 1], [0, 0]]), live=1))


def _areas(target, predicted, classes):
    """(N, 3, K) by naive loops over images and classes."""
    return np.array(
        [
            [[((t == k) & (p == k)).sum() for k in range(classes)]]
            + [[(x == k).sum() for k in range(classes)] for x in (p, t)]
            for t, p in zip(target, predicted, strict=True)
        ]
    )


def test_miou_is_pooled_over_images_and_agrees_with_scikit_learn(rng):
    target, predicted = rng.integers(3, size=(2, 6, 5, 4))
    outcomes = {'areas/a': _areas(target, predicted, 3)}
    totals = metrics.contributions(outcomes, 'a', 'mIoU').sum(0)
    expected = jaccard_score(target.ravel(), predicted.ravel(), average='macro')
    assert metrics.score(totals, 'mIoU') == pytest.approx(expected)


def test_a_class_that_is_neither_labelled_nor_predicted_is_left_out_of_miou(rng):
    target, predicted = rng.integers(3, size=(2, 6, 5, 4))
    four = metrics.miou(_areas(target, predicted, 4).sum(0))
    assert four == pytest.approx(metrics.miou(_areas(target, predicted, 3).sum(0)))
    only_predicted = np.where(predicted == 0, 3, predicted)
    expected = jaccard_score(target.ravel(), only_predicted.ravel(), average=None)
    assert expected[3] == 0
    found = metrics.miou(_areas(target, only_predicted, 4).sum(0))
    assert found == pytest.approx(expected.mean())


def test_summaries_agree_with_loops_and_know_the_direction(rng):
    ids = subset_ids(NAMES)
    sizes = np.array([len(s.split('+')) for s in ids])
    values = rng.random((5, 7))
    for higher, worst in ((True, min), (False, max)):
        found = statistics.with_summaries(values, sizes, 3, higher)
        for row, scores in zip(found, values, strict=True):
            pairs = [v for v, s in zip(scores, ids, strict=True) if s.count('+') == 1]
            expected = [*scores, sum(scores) / 7, worst(scores), scores[6], sum(pairs) / 3]
            np.testing.assert_allclose(row, [*expected, sum(scores[:3]) / 3])


def test_summaries_skip_what_was_not_tested():
    sizes = np.array([1, 1, 2])
    found = statistics.with_summaries(np.array([0.2, np.nan, np.nan]), sizes, 2, True)
    np.testing.assert_array_equal(found, [0.2, np.nan, np.nan, 0.2, 0.2, np.nan, 0.2])


def test_over_seeds_divides_by_one_less():
    mean, std = statistics.over_seeds([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert std == pytest.approx(math.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2))
    assert math.isnan(statistics.over_seeds([1.0])[1])
    assert statistics.over_seeds([1.0, 3.0]) == (2, pytest.approx(math.sqrt(2)))


def test_expected_score_is_what_random_sensors_give(rng):
    ids = subset_ids(NAMES)
    scores = dict(zip(ids, rng.random(7), strict=True))
    absent = np.array([0.1, 0.5, 0.8])
    there = rng.random((200_000, 3)) >= absent
    drawn = [
        scores['+'.join(n for n, t in zip(NAMES, row, strict=True) if t)]
        for row in there
        if any(row)
    ]
    assert statistics.expected(scores, NAMES, absent) == pytest.approx(np.mean(drawn), abs=0.003)


@pytest.mark.parametrize('higher', [True, False])
def test_shapley_values_are_the_mean_gain_over_all_orders(rng, higher):
    scores = dict(zip(subset_ids(NAMES), rng.random(7), strict=True))
    worth = {frozenset(s.split('+')): v for s, v in scores.items()} | {frozenset(): 0.25}
    gains = {name: [] for name in NAMES}
    for order in itertools.permutations(NAMES):
        for place, name in enumerate(order):
            gains[name].append(
                worth[frozenset(order[: place + 1])] - worth[frozenset(order[:place])]
            )
    sign = 1 if higher else -1
    found = statistics.shapley(scores, NAMES, 0.25, higher)
    assert found == pytest.approx({name: sign * np.mean(g) for name, g in gains.items()})
    assert sum(found.values()) == pytest.approx(sign * (scores['rgb+depth+ir'] - 0.25))


@pytest.mark.parametrize('higher', [True, False])
def test_interactions_are_the_mean_surplus_of_a_pair_over_all_orders(rng, higher):
    names = ['a', 'b', 'c', 'd']
    scores = dict(zip(subset_ids(names), rng.random(15), strict=True))
    worth = {frozenset(s.split('+')): v for s, v in scores.items()} | {frozenset(): 0.25}
    sign = 1 if higher else -1
    found = statistics.interactions(scores, names, 0.25, higher)
    assert list(found) == list(itertools.combinations(names, 2))
    for i, j in found:
        # The pair comes as one, in all orders of it and the others.
        surplus = []
        for order in itertools.permutations([i + j, *(n for n in names if n not in (i, j))]):
            before = frozenset(order[: order.index(i + j)])
            surplus.append(
                worth[before | {i, j}] - worth[before | {i}] - worth[before | {j}] + worth[before]
            )
        assert found[i, j] == pytest.approx(sign * np.mean(surplus))


def test_the_expected_score_counts_chance_where_all_sensors_may_fail(rng):
    scores = dict(zip(subset_ids(NAMES), rng.random(7), strict=True))
    absent = np.array([0.1, 0.5, 0.8])
    expected = sum(
        (scores['+'.join(there)] if there else 0.25)
        * math.prod(1 - p if n in there else p for n, p in zip(NAMES, absent, strict=True))
        for k in range(4)
        for there in itertools.combinations(NAMES, k)
    )
    assert statistics.expected(scores, NAMES, absent, 0.25) == pytest.approx(expected)
    assert statistics.expected(scores, NAMES, np.ones(3), 0.25) == 0.25
    assert math.isnan(statistics.expected(scores, NAMES, np.ones(3)))


def test_gap_closed_runs_from_chance_to_ceiling():
    assert statistics.gap_closed(0.5, 0.1, 0.5) == 0
    assert statistics.gap_closed(0.1, 0.1, 0.5) == 1
    assert statistics.gap_closed(0.2, 0.1, 0.5) == pytest.approx(0.75)
    assert math.isnan(statistics.gap_closed(0.5, 0.5, 0.5))


def test_metrics_of_a_stack_are_those_of_its_members(rng):
    stack = rng.integers(1, 9, size=(2, 3, 4, 4))
    live = 2
    rates = (metrics.apcer, metrics.bpcer, metrics.acer)
    functions = [metrics.accuracy, metrics.uar, metrics.macro_f1, metrics.dice, metrics.miou]
    functions += [lambda counts, rate=rate: rate(counts, live) for rate in rates]
    for function in functions:
        given = stack[..., :3, :] if function in (metrics.dice, metrics.miou) else stack
        found = function(given)
        for place in np.ndindex(2, 3):
            np.testing.assert_allclose(found[place], function(given[place]))


def test_errors_are_better_low_and_everything_else_is_better_high():
    for metric in ('ACER', 'APCER', 'BPCER', 'EER'):
        assert not metrics.higher_is_better(metric)
    rates = ('accuracy', 'AUC', 'UAR', 'F1', 'pixel_accuracy', 'class_accuracy')
    for metric in (*rates, 'mIoU', 'Dice', 'Dice_WT'):
        assert metrics.higher_is_better(metric)
    with pytest.raises(UserError, match="did you mean 'mIoU'"):
        metrics.higher_is_better('mIou')


def test_a_share_of_nothing_is_undefined():
    found = metrics.ratio(np.array([0, 1, 1]), np.array([0, 0, 4]))
    np.testing.assert_array_equal(found, [np.nan, np.nan, 0.25])
