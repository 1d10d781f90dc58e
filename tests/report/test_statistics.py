"""Metrics, summaries and paired tests against scikit-learn, scipy, loops and null cases."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
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


def test_gap_closed_runs_from_chance_to_ceiling():
    assert statistics.gap_closed(0.5, 0.1, 0.5) == 0
    assert statistics.gap_closed(0.1, 0.1, 0.5) == 1
    assert statistics.gap_closed(0.2, 0.1, 0.5) == pytest.approx(0.75)
    assert math.isnan(statistics.gap_closed(0.5, 0.5, 0.5))


def test_holm_agrees_with_stepping_down_by_hand(rng):
    p = rng.random(12) ** 3
    for alpha in (0.01, 0.05, 0.2, 0.5):
        rejected = np.zeros(12, bool)
        for step, i in enumerate(np.argsort(p)):
            if p[i] >= alpha / (12 - step):
                break
            rejected[i] = True
        np.testing.assert_array_equal(statistics.holm(p) < alpha, rejected)


def test_holm_s_adjusted_values_never_fall_from_a_smaller_p_to_a_larger(rng):
    p = np.array([0.02, 0.01, 0.021, 0.5, 0.022])
    expected = []
    for value in p:
        smaller = sorted(q for q in p if q <= value)
        expected.append(min(1, max((len(p) - i) * q for i, q in enumerate(smaller))))
    np.testing.assert_allclose(statistics.holm(p), expected)
    assert statistics.holm(p)[2] == statistics.holm(p)[0]  # 0.08, although 3 * 0.021 is less


def test_the_smallest_p_value_is_one_in_the_draws_and_the_observation(rng):
    drawn = rng.normal(0, 1e-3, (2, 99, 1))
    found = statistics.compare(np.array([0.1]), np.array([0.6]), 0.1 + drawn[0], 0.6 + drawn[1])
    assert found.p == pytest.approx(1 / 100)


def _run(rng, target, error):
    wrong = rng.random(len(target)) < error
    return {'target': target, 'pred/a': np.where(wrong, 1 - target, target)}


def test_bootstrap_of_one_seed_agrees_with_the_normal_test_of_paired_proportions(rng):
    target = rng.integers(2, size=3000)
    for error in (0.112, 0.118, 0.13):
        a, b = _run(rng, target, 0.1), _run(rng, target, error)
        d = (a['pred/a'] == target) * 1.0 - (b['pred/a'] == target)
        scale = d.std() / math.sqrt(len(d))
        found = statistics.paired_bootstrap({0: a}, {0: b}, 'a', 'accuracy')
        assert found.difference == pytest.approx(d.mean())
        assert found.p == pytest.approx(2 * stats.norm.sf(abs(d.mean()) / scale), abs=0.03)
        assert found.low == pytest.approx(d.mean() - 1.96 * scale, abs=0.2 * scale)
        assert found.high == pytest.approx(d.mean() + 1.96 * scale, abs=0.2 * scale)


def test_bootstrap_p_values_of_one_seed_are_uniform_where_nothing_differs():
    p = []
    for i in range(150):
        rng = np.random.default_rng(i)
        target = rng.integers(2, size=400)
        a, b = _run(rng, target, 0.2), _run(rng, target, 0.2)
        p.append(statistics.paired_bootstrap({0: a}, {0: b}, 'a', 'accuracy', replicates=400).p)
    assert stats.kstest(p, 'uniform').pvalue > 0.01


@pytest.mark.parametrize('seeds', [2, 3])
def test_methods_that_differ_by_their_seeds_alone_are_rarely_called_different(seeds):
    """Drawing the seeds with replacement would call about half or a quarter of these different."""
    called = 0
    for i in range(150):
        rng = np.random.default_rng(i)
        target = rng.integers(2, size=400)
        a, b = (
            {k: _run(rng, target, 0.3 + 0.08 * rng.standard_normal()) for k in range(seeds)}
            for _ in range(2)
        )
        p = statistics.paired_bootstrap(a, b, 'a', 'accuracy', replicates=400).p
        called += p < 0.05
    assert called <= stats.binom.ppf(0.999, 150, 0.05)


def test_a_clear_difference_over_seeds_is_found(rng):
    target = rng.integers(2, size=2000)
    a = {k: _run(rng, target, 0.05) for k in range(3)}
    b = {k: _run(rng, target, 0.15) for k in range(3)}
    found = statistics.paired_bootstrap(a, b, 'a', 'ACER')
    assert found.p < 0.01
    assert found.low < found.difference < found.high < 0


def test_seed_noise_is_welchs_test_where_samples_do_not_vary(rng):
    a, b = np.array([0.10, 0.14, 0.15]), np.array([0.18, 0.19, 0.25])
    still = np.zeros((100_000, 3))
    found = statistics.compare(a, b, a + still, b + still)
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue, abs=0.005)
    assert found.low == pytest.approx(interval.low, abs=0.005)
    assert found.high == pytest.approx(interval.high, abs=0.005)


def test_only_shared_seeds_are_compared_and_draws_repeat(rng):
    target = rng.integers(2, size=300)
    a = {k: _run(rng, target, 0.1) for k in (0, 1, 2)}
    b = {k: _run(rng, target, 0.2) for k in (1, 2, 5)}
    found = statistics.paired_bootstrap(a, b, 'a', 'accuracy')
    right = [[(r[k]['pred/a'] == target).mean() for k in (1, 2)] for r in (a, b)]
    assert found.difference == pytest.approx(np.mean(right[0]) - np.mean(right[1]))
    assert statistics.paired_bootstrap(a, b, 'a', 'accuracy') == found


def test_identical_predictions_do_not_differ(rng):
    target = rng.integers(2, size=300)
    a = {0: _run(rng, target, 0.1)}
    assert statistics.paired_bootstrap(a, a, 'a', 'ACER').p == 1


def test_resampling_in_pieces_draws_whole_test_sets(rng, monkeypatch):
    target = rng.integers(2, size=100)
    run = _run(rng, target, 0.3)
    counts = metrics.contributions(run, 'a', 'accuracy')[:, None]
    monkeypatch.setattr(statistics, 'CHUNK', 1000)
    drawn = statistics.resample([counts], 'accuracy', replicates=1003)
    assert drawn.shape == (1003, 1, 1)
    rate = (run['pred/a'] == target).mean()
    assert drawn.mean() == pytest.approx(rate, abs=0.01)
    assert drawn.std() == pytest.approx(math.sqrt(rate * (1 - rate) / 100), rel=0.1)


def test_holm_is_the_closed_test_of_all_intersections(rng):
    """A hypothesis is rejected if Bonferroni rejects every intersection that it belongs to."""
    ties = [0.01, 0.04, 0.03, 0.9, 0.03, 0.2]
    for p in (ties, *(rng.random((5, 6)) ** 2)):
        sets = [s for n in range(1, 7) for s in itertools.combinations(range(6), n)]
        bonferroni = {s: min(1, len(s) * min(p[i] for i in s)) for s in sets}
        expected = [max(bonferroni[s] for s in sets if i in s) for i in range(6)]
        np.testing.assert_allclose(statistics.holm(p), expected)


@pytest.mark.parametrize('beyond', [0, 1, 7])
def test_the_draws_that_are_as_extreme_count_with_the_observed_one(beyond):
    """A p-value of the bootstrap is never 0: the observed difference is one of the outcomes."""
    drawn = np.full((99, 1), 0.5)
    drawn[:beyond] = 1.25  # as far from the difference of 0.5 as no difference is, and further
    found = statistics.compare(np.array([0.5]), np.array([0.0]), drawn, np.zeros((99, 1)))
    assert found.p == pytest.approx((beyond + 1) / 100)


def test_the_bootstrap_takes_the_live_class_and_the_seed_of_its_draws(rng):
    target, *predicted = rng.integers(3, size=(3, 400))
    a, b = ({0: {'target': target, 'pred/a': p}} for p in predicted)
    for live in range(3):
        found = statistics.paired_bootstrap(a, b, 'a', 'ACER', live=live)
        tables = [confusion_matrix(target == live, p == live, normalize='true') for p in predicted]
        first, second = ((table[0, 1] + table[1, 0]) / 2 for table in tables)
        assert found.difference == pytest.approx(first - second)
    other = statistics.paired_bootstrap(a, b, 'a', 'ACER', live=2, seed=1)
    assert other.difference == found.difference
    assert other.low != found.low


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
