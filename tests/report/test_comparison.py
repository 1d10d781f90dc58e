"""The test of a difference against closed forms, scipy and simulations with known answers."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmark.records import metrics
from benchmark.report import comparison

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tools'))
import simulate  # noqa: E402
import simulate_rules  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def _run(rng, target, error):
    wrong = rng.random(len(target)) < error
    return {'target': target, 'pred/a': np.where(wrong, 1 - target, target)}


def _counts(run, metric='accuracy', live=1):
    return metrics.contributions(run, 'a', metric, live)[:, None]


@pytest.mark.parametrize(
    ('p', 'shown'),
    [
        (0.0004, '< 0.001'), (0.0006, '< 0.001'), (0.0014, '0.001'), (0.049, '0.049'),
        (0.04951, '0.0495'), (0.0502, '0.0502'), (0.0500004, '0.0500004'), (0.05, '0.050'),
        (np.nextafter(0.05, 1), '0.050'), (0.0506, '0.051'), (1.0, '1.000'),
    ],
)  # fmt: skip
def test_a_printed_p_tells_on_which_side_of_the_level_it_lies(p, shown):
    assert comparison.p_text(p) == shown


def test_holm_agrees_with_stepping_down_by_hand(rng):
    p = rng.random(12) ** 3
    for alpha in (0.01, 0.05, 0.2, 0.5):
        rejected = np.zeros(12, bool)
        for step, i in enumerate(np.argsort(p)):
            if p[i] >= alpha / (12 - step):
                break
            rejected[i] = True
        np.testing.assert_array_equal(comparison.holm(p) < alpha, rejected)


def test_holm_s_adjusted_values_never_fall_from_a_smaller_p_to_a_larger(rng):
    p = np.array([0.02, 0.01, 0.021, 0.5, 0.022])
    expected = []
    for value in p:
        smaller = sorted(q for q in p if q <= value)
        expected.append(min(1, max((len(p) - i) * q for i, q in enumerate(smaller))))
    np.testing.assert_allclose(comparison.holm(p), expected)
    assert comparison.holm(p)[2] == comparison.holm(p)[0]  # 0.08, although 3 * 0.021 is less


def test_holm_is_the_closed_test_of_all_intersections(rng):
    """A hypothesis is rejected if Bonferroni rejects every intersection that it belongs to."""
    ties = [0.01, 0.04, 0.03, 0.9, 0.03, 0.2]
    for p in (ties, *(rng.random((5, 6)) ** 2)):
        sets = [s for n in range(1, 7) for s in itertools.combinations(range(6), n)]
        bonferroni = {s: min(1, len(s) * min(p[i] for i in s)) for s in sets}
        expected = [max(bonferroni[s] for s in sets if i in s) for i in range(6)]
        np.testing.assert_allclose(comparison.holm(p), expected)


def test_resampling_in_pieces_draws_whole_test_sets(rng, monkeypatch):
    target = rng.integers(2, size=100)
    run = _run(rng, target, 0.3)
    counts = metrics.contributions(run, 'a', 'accuracy')[:, None]
    monkeypatch.setattr(comparison, 'CHUNK', 1000)
    drawn = comparison.resample([counts], 'accuracy', replicates=1003)
    assert drawn.shape == (1003, 1, 1)
    rate = (run['pred/a'] == target).mean()
    assert drawn.mean() == pytest.approx(rate, abs=0.01)
    assert drawn.std() == pytest.approx(math.sqrt(rate * (1 - rate) / 100), rel=0.1)


def test_the_covariance_by_samples_is_that_of_means(rng):
    """The bootstrap of a mean has a closed form: the covariance of the outcomes over N."""
    target = rng.integers(2, size=500)
    a, b = _run(rng, target, 0.2), _run(rng, target, 0.3)
    b['pred/a'][:200] = a['pred/a'][:200]
    drawn = comparison.resample([_counts(a), _counts(b)], 'accuracy')[..., 0]
    right = np.stack([r['pred/a'] == target for r in (a, b)])
    expected = np.cov(right) / 500
    np.testing.assert_allclose(comparison.covariance(drawn, 500), expected, rtol=0.1)


def test_the_covariance_of_few_units_is_not_too_small(rng):
    values = rng.random((12, 1))
    draws = values[rng.integers(12, size=(40_000, 12))].mean(1)
    expected = values.var(ddof=1) / 12
    assert comparison.covariance(draws, 12)[0, 0] == pytest.approx(expected, rel=0.03)


def test_draws_without_a_score_are_left_out_and_one_unit_tells_nothing(rng):
    drawn = rng.random((50, 2))
    known = comparison.covariance(drawn[10:], 30)
    drawn[:10, 1] = np.nan
    np.testing.assert_array_equal(comparison.covariance(drawn, 30), known)
    assert np.isnan(comparison.covariance(drawn, 1)).all()
    drawn[:-1, 0] = np.nan
    assert np.isnan(comparison.covariance(drawn, 30)).all()


def test_without_an_error_of_samples_it_is_welch_s_statistic_with_the_fewest_degrees_of_freedom(
    rng,
):
    a, b = np.array([0.10, 0.14, 0.15]), np.array([0.18, 0.19, 0.25])
    found = comparison.compare(a, b, np.zeros((6, 6)), 1000)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(welch.statistic), 2))
    half = stats.t.ppf(0.975, 2) * (a.mean() - b.mean()) / welch.statistic
    middle = a.mean() - b.mean()
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))


def test_a_spread_between_seeds_far_below_that_of_the_samples_counts_for_two_thirds_of_it():
    """In the degrees of freedom: the variance of the difference is at least that of the samples."""
    between, own = np.array([[0.0, 0.3], [4.0, 0.0], [1.0, 1.5]]), np.array([1.0, 2.0])
    error, degrees = comparison.standard_error(between, own, 0.5, 3, 400)
    totals = [0.5 + (1 + 2) / 3, 0.5 + (4 + 0) / 3, 0.5 + (1 + 2) / 3]
    seeds = [2 / 3 * (1 + 2) / 3, (4 + 0) / 3, (1 + 1.5) / 3]
    np.testing.assert_allclose(error, np.sqrt(totals))
    expected = [t**2 / (s**2 / 2 + (t - s) ** 2 / 399) for t, s in zip(totals, seeds, strict=True)]
    np.testing.assert_allclose(degrees, expected)
    nothing = comparison.standard_error(np.zeros(2), np.zeros(2), 0.0, 3, 400)
    assert tuple(map(float, nothing)) == (0, 2)


def test_without_an_error_of_seeds_the_test_is_that_of_the_samples():
    """Networks that are the same with every seed: all is common, and the seeds add nothing."""
    shared = np.kron(np.array([[4.0, 1.0], [1.0, 9.0]]), np.ones((3, 3))) * 1e-6
    found = comparison.compare(np.full(3, 0.50), np.full(3, 0.49), shared, 25)
    error = math.sqrt((4 + 9 - 2) * 1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(0.01 / error, 24))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 24) * error)
    assert found.common == pytest.approx(11e-6)
    assert found.own == pytest.approx((0, 0), abs=1e-15)


def test_what_the_samples_explain_of_the_variance_between_seeds_counts_once():
    # Each network errs on samples of its own: variance 2e-4 of each, nothing is shared.
    shared, count = np.eye(8) * 2e-4, 4
    quiet = np.array([0.5, 0.501, 0.502, 0.503])
    found = comparison.compare(quiet, quiet + 0.01, shared, 500)
    assert found.common == pytest.approx(0)
    assert found.own == pytest.approx((2e-4, 2e-4))
    # The variance of two means of 500 samples each, of which two thirds count as that of seeds.
    half = stats.t.ppf(0.975, 1 / (4 / 9 / 3 + 1 / 9 / 499)) * math.sqrt(2 * 2e-4 / count)
    assert found.high - found.low == pytest.approx(2 * half)
    loud = np.array([0.4, 0.5, 0.6, 0.7])
    found = comparison.compare(loud, quiet, shared, 500)
    half = stats.t.ppf(0.975, 3) * math.sqrt((loud.var(ddof=1) + quiet.var(ddof=1)) / count)
    assert found.high - found.low == pytest.approx(2 * half)


def test_p_values_are_not_bounded_by_the_number_of_draws(rng):
    target = rng.integers(2, size=1000)
    runs = [_run(rng, target, e) for e in 5 * [0.05] + 5 * [0.3]]
    drawn = comparison.resample([_counts(r) for r in runs], 'accuracy')[..., 0]
    scores = np.array([(r['pred/a'] == target).mean() for r in runs])
    shared = comparison.covariance(drawn, 1000)
    found = comparison.compare(scores[:5], scores[5:], shared, 1000)
    assert 0 < found.p < 1 / comparison.REPLICATES
    assert 0 < found.low < found.difference < found.high


def test_one_seed_and_undefined_scores_say_nothing_of_methods():
    one = comparison.compare(np.array([0.1]), np.array([0.6]), np.eye(2) * 1e-4, 400)
    assert one.difference == pytest.approx(-0.5)
    assert np.isnan([one.p, one.low, one.high]).all()
    unknown = comparison.compare(np.zeros(3), np.ones(3), np.full((6, 6), np.nan), 400)
    assert np.isnan(unknown.p)


@pytest.mark.parametrize(('gap', 'p'), [(0.0, 1.0), (0.5, 0.0)])
def test_scores_without_any_variance_differ_or_are_equal(gap, p):
    found = comparison.compare(np.full(3, 0.5), np.full(3, 0.5 - gap), np.zeros((6, 6)), 400)
    assert (found.p, found.low, found.high) == (p, gap, gap)


@pytest.mark.parametrize(('spread', 'difference'), [(0.2, 1.5), (0.5, 1.5), (1.0, 2.0), (1.5, 3.0)])
def test_the_seeds_needed_give_the_planned_power_in_a_simulation(spread, difference):
    """The test itself, on normal scores whose variances are those that were planned with."""
    own, common = simulate_rules.variances(2000)
    each = own + spread**2
    plan = comparison.Comparison(0, 1, 0, 0, (each, each), (own, own), common)
    needed = comparison.seeds_needed(plan, difference, 2000)
    power = {}
    for count in (needed, needed - 1):
        rng = np.random.default_rng(0)
        seeds = rng.normal(0, math.sqrt(each), (20_000, count, simulate_rules.METHODS))
        draw = simulate_rules.Draw(seeds, own, common, 2000)
        rule, normal = simulate_rules.RULES[simulate_rules.TABLES], rng.standard_normal(20_000)
        p = simulate_rules.p_values(rule, draw, normal, (spread, spread), difference)
        power[count] = (p < comparison.LEVEL).mean()
    assert power[needed] > comparison.POWER - 0.02
    assert power[needed - 1] < comparison.POWER


def test_no_number_of_seeds_makes_up_for_a_small_test_set():
    found = comparison.Comparison(0, 1, 0, 0, (1e-4, 1e-4), (1e-4, 1e-4), 1e-4)
    assert comparison.seeds_needed(found, 0.02, 400) is None
    assert comparison.seeds_needed(found, 0.05, 400) < 10
    assert comparison.seeds_needed(found, 0.5, 400) == 3


@pytest.mark.parametrize('higher', [True, False])
def test_the_probability_of_being_better_is_that_of_mann_and_whitney(rng, higher):
    a, b = rng.integers(6, size=5) / 10, rng.integers(6, size=7) / 10
    wins = stats.mannwhitneyu(a, b).statistic / 35
    assert comparison.better(a, b, higher) == pytest.approx(wins if higher else 1 - wins)


def test_the_level_holds_in_a_short_simulation_and_the_power_beats_plain_addition():
    """A short form of tools/simulate.py, whose page has the levels within their errors."""
    most = stats.binom.ppf(0.999, 300, 0.05) / 300
    for seeds, spread in ((3, (0.2, 0.2)), (3, (0.2, 1.5)), (5, (0.5, 0.5))):
        level, power = simulate.measure(simulate.Case(seeds, 400, spread), (0.0, 4.0), 300)
        assert level.rejected <= most
        if seeds > 3:
            assert power.rejected > power.added
        assert min(level.covered, power.covered) >= 1 - most


@pytest.mark.parametrize('samples', simulate_rules.SAMPLES)
def test_unequal_spreads_of_three_seeds_keep_level_and_tail_on_normal_scores(samples):
    """S - 1 degrees of freedom for either method of its own fail here, and the test sees it."""
    found = simulate_rules.rates(3, samples, (0.2, 1.5), 40_000)
    assert found[simulate_rules.TABLES][0] < 1.05
    assert found['S - 1 each (Welch, Satterthwaite)'][0] > 1.1
    if samples == 2000:
        assert found[simulate_rules.TABLES][1] < 1.5
        assert found['S - 1 each (Welch, Satterthwaite)'][1] > 1.7


def test_equal_methods_are_rarely_marked_in_a_short_simulation():
    most = stats.binom.ppf(0.999, 20, 0.05) / 20
    for grid in (simulate.Grid(2, 3, 60, 1.0), simulate.Grid(4, 3, 60, 1.0, weak=1)):
        found = simulate.false_marks(grid, 20)
        assert (found[:2] <= most).all()
        assert found[3] <= most
    assert not simulate.false_marks(simulate.Grid(3, 3, 19, 1.0), 5)[:2].any()
    assert not simulate.false_marks(simulate.Grid(3, 2, 60, 1.0), 5)[:2].any()


def test_intervals_of_ranks_hold_the_true_rank_of_methods_that_differ():
    grid = simulate.Grid(4, 3, 100, 0.5, step=2.0)
    assert simulate.false_marks(grid, 20)[3] <= stats.binom.ppf(0.999, 80, 0.05) / 80
    far = simulate.standings(grid._replace(samples=400, step=15.0), np.random.default_rng(0))
    assert list(far.ranks.values()) == [(1, 1), (2, 2), (3, 3), (4, 4)]
