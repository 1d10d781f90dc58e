"""What may be marked and ranked, from scores and outcomes made by hand."""

import numpy as np
import pytest
from made_records import SUBSETS, TARGET, make_outcomes, make_record
from scipy import stats

from benchmark.report import captions, comparison, standings, statistics, writer
from benchmark.report.standings import Scores, Standings

COLUMNS = [*SUBSETS, 'mean', 'worst', 'missing_0', 'missing_1', 'missing_2']


def scores_of(rates, seeds=(0, 1, 2), samples=400, higher=True, drop=()):
    """Rows of runs that are right on a share of the samples, the first ones, in every subset.

    Args:
        rates: Label -> share, or subset -> share.
        seeds: Of every row, or label -> seeds.
        samples: The number of test samples.
        higher: The direction.
        drop: Labels without outcomes.
    """
    sizes = np.array([s.count('+') + 1 for s in SUBSETS])
    rows, units, place = {}, [], 0
    for label, share in rates.items():
        own = seeds[label] if isinstance(seeds, dict) else seeds
        rows[label] = {}
        for seed in own:
            rng = np.random.default_rng([seed, *label.encode()])
            each = [share.get(s, 0.5) if isinstance(share, dict) else share for s in SUBSETS]
            right = np.argsort(rng.random((samples, len(SUBSETS))), 0) < np.array(each) * samples
            units.append(np.stack([~right, right], axis=2))
            rows[label][seed] = place
            place += 1

    def summarise(values):
        return statistics.with_summaries(values, sizes, 3, higher)

    values = summarise(np.stack([u[..., 1].mean(0) for u in units]))
    kept = [None if any(i in rows[name].values() for name in drop) else u
            for i, u in enumerate(units)]  # fmt: skip
    return Scores(statistics.columns(SUBSETS, 3), values, rows, kept, 'accuracy', higher, summarise)


CLEAR = {'good': 0.95, 'fair': 0.8, 'poor': 0.5}


def test_best_and_second_are_marked_in_every_column_of_clear_differences():
    found = Standings(scores_of(CLEAR)).marks
    assert found == {
        'good': dict.fromkeys(COLUMNS, 'best'),
        'fair': dict.fromkeys(COLUMNS, 'second'),
    }


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'seeds': (0,)}, 'fewer than two methods have at least 3 seeds (here: 1 seed each)'),
        ({'seeds': {'good': (0, 1), 'fair': (0,), 'poor': (1, 2, 3)}}, '(here: 1 to 3 seeds each)'),
        ({'drop': ('good', 'fair')}, '3 seeds and the predictions of all of them (outcomes.npz)'),
        ({'seeds': {'good': (0, 1, 2), 'fair': (3, 4, 5), 'poor': (1, 2, 3)}}, '(shared: none)'),
        ({'seeds': {'good': (0, 1, 2), 'fair': (1, 2, 3), 'poor': (1, 2, 3)}}, '(shared: 1, 2)'),
        ({'samples': 19}, 'at least 20 independent test samples (found: 19)'),
        ({'drop': ('good', 'fair', 'poor')}, 'without outcomes'),
    ],
)
def test_what_is_missing_for_a_mark_is_said(changes, told):
    found = Standings(scores_of(CLEAR, **changes))
    assert told in found.lacking
    assert found.marks == {}
    assert found.ranks == {}


def test_three_seeds_and_twenty_samples_are_enough():
    assert Standings(scores_of(CLEAR, samples=20)).marks['good']['mean'] == 'best'
    assert (comparison.MIN_SEEDS, standings.MIN_UNITS) == (3, 20)


def test_a_row_with_few_seeds_is_left_out_and_no_mark_contradicts_it():
    seeds = {'good': (0, 1, 2), 'fair': (0, 1, 2), 'poor': (0, 1, 2), 'new': (0,)}
    last = Standings(scores_of({**CLEAR, 'new': 0.4}, seeds))
    assert last.left_out == {'new': '1 seed'}
    assert last.marks == Standings(scores_of(CLEAR)).marks
    # A row that looks better than the best, but cannot be tested, leaves nothing to mark.
    assert Standings(scores_of({**CLEAR, 'new': 0.97}, seeds)).marks == {}
    between = Standings(scores_of({**CLEAR, 'new': 0.6}, seeds)).marks
    assert {mark for row in between.values() for mark in row.values()} == {'best'}


def test_the_shared_seeds_rank_and_test_and_must_agree_with_what_is_shown():
    seeds = {'a': (0, 1, 2), 'b': (0, 1, 2, 3)}
    found = scores_of({'a': 0.8, 'b': 0.6}, seeds)
    assert Standings(found).seeds == [0, 1, 2]
    assert Standings(found).compare('a', 'b', 'mean').difference == pytest.approx(0.2)
    # The fourth seed of b lifts its shown mean above that of a.
    found.values[6] = 1.5
    assert Standings(found).compare('a', 'b', 'mean').p < 0.001
    assert Standings(found).marks == {}


def test_copies_are_tested_once_and_have_the_marks_of_their_original(monkeypatch):
    families = []
    holm = comparison.holm
    monkeypatch.setattr(comparison, 'holm', lambda p: families.append(len(p)) or holm(p))
    low = {s: 0.9 + k / 100 for k, s in enumerate(SUBSETS)} | {'rgb': 0.6}
    found = Standings(scores_of({'a': low, 'b': {s: v - 0.1 for s, v in low.items()}}))
    assert found.copies() == {'worst': 'rgb', 'missing_0': 'rgb+depth+ir'}
    assert found.marks['a'].keys() == set(COLUMNS)
    assert families == [1, 7 + 2]


def test_the_mean_is_a_family_of_its_own(monkeypatch):
    """A p-value of .02 is significant in the mean, and not among the other columns."""
    given = comparison.Comparison(0.1, 0.02, 0.0, 0.2)
    monkeypatch.setattr(comparison, 'compare', lambda *arguments: given)
    shares = {s: 0.8 + k / 100 for k, s in enumerate(SUBSETS)}
    less = {s: v - 0.1 for s, v in shares.items()}
    assert Standings(scores_of({'a': shares, 'b': less})).marks == {'a': {'mean': 'best'}}


@pytest.mark.parametrize(('p', 'marked'), [(0.0499, True), (0.0501, False)])
def test_differences_are_significant_below_five_percent(p, marked, monkeypatch):
    monkeypatch.setattr(comparison, 'holm', lambda values: np.full(len(values), p))
    assert bool(Standings(scores_of(CLEAR)).marks) == marked


@pytest.mark.parametrize('higher', [True, False])
def test_the_direction_turns_the_ranking_round(higher):
    found = Standings(scores_of(CLEAR, higher=higher))
    assert found.marks['good' if higher else 'poor']['mean'] == 'best'
    order = ['good', 'fair', 'poor'] if higher else ['poor', 'fair', 'good']
    assert found.ranks == {label: (k, k) for k, label in enumerate(order, 1)}


def test_ranks_of_rows_that_cannot_be_told_apart_overlap():
    found = Standings(scores_of({'a': 0.8, 'b': 0.8, 'c': 0.8, 'd': 0.3})).ranks
    assert found == {'a': (1, 3), 'b': (1, 3), 'c': (1, 3), 'd': (4, 4)}


def test_ranks_correct_over_the_other_rows(monkeypatch):
    given = comparison.Comparison(0.1, 0.02, 0.0, 0.2)
    monkeypatch.setattr(comparison, 'compare', lambda *arguments: given)
    assert Standings(scores_of({'a': 0.8, 'b': 0.7, 'c': 0.6})).ranks['a'] == (3, 3)
    four = Standings(scores_of({'a': 0.8, 'b': 0.7, 'c': 0.6, 'd': 0.5})).ranks
    assert set(four.values()) == {(1, 4)}  # .02 times three tests


class Runs:
    """Records and outcomes as a table reads them."""

    def __init__(self):
        self.records, self.outcomes = [], {}

    def add(self, label, seed, errors, **arrays):
        outcomes = make_outcomes(errors, seed=[seed, *label.encode()]) | arrays
        self.records.append(make_record(label, seed, outcomes))
        self.outcomes[self.records[-1]['identity']] = outcomes

    def block(self, **arguments):
        made = writer.table(self.records, lambda r: self.outcomes[r['identity']], **arguments)
        assert made.problems == []
        (block,) = made.blocks
        return block


def marked(block):
    return {row.label: {k: c.mark for k, c in row.cells.items() if c.mark} for row in block.rows}


def test_marks_do_not_depend_on_the_columns_that_are_shown():
    runs = Runs()
    for seed in range(3):
        runs.add('a', seed, dict.fromkeys(SUBSETS, 30) | {'rgb': 52})
        runs.add('b', seed, dict.fromkeys(SUBSETS, 30) | {'rgb': 78})
    everything = marked(runs.block())
    assert everything == marked(runs.block(columns={'rgb': 'RGB'}))
    assert everything['a'].keys() <= {'rgb', 'worst', 'mean', 'missing_2'}


def clusters_of(size):
    return np.array([f'person{i // size:03}' for i in range(len(TARGET))])


@pytest.mark.parametrize(('size', 'units'), [(1, 400), (4, 100), (40, 10)])
def test_resampling_draws_clusters(size, units):
    """Samples of one person are one unit: ten persons with forty samples each are ten units."""
    runs = Runs()
    for seed in range(3):
        for label, errors in (('good', 4), ('poor', 100)):
            runs.add(label, seed, dict.fromkeys(SUBSETS, errors), cluster=clusters_of(size))
    block = runs.block()
    found = block.first.standings
    assert set(found.units.values()) == {units}
    assert bool(found.marks) == (units >= 20)
    assert ('(found: 10)' in captions.caption(block)) == (units < 20)


def test_copies_of_one_sample_are_no_further_evidence():
    """Each of 100 samples four times, as clusters: intervals are those of the 100 alone."""
    own = np.arange(100).repeat(4)
    widths = []
    for arrays in ({'cluster': clusters_of(4)}, {}):
        runs = Runs()
        for seed in range(3):
            for label, errors in (('a', 20), ('b', 30)):
                runs.add(label, seed, dict.fromkeys(SUBSETS, errors), **arrays)
                outcomes = list(runs.outcomes.values())[-1]
                alone = np.random.default_rng([seed, *label.encode()])
                wrong = np.isin(own, alone.choice(100, errors, replace=False))
                outcomes |= {f'pred/{s}': np.where(wrong, 1 - TARGET, TARGET) for s in SUBSETS}
                record = make_record(label, seed, outcomes)
                del runs.outcomes[runs.records.pop()['identity']]
                runs.records.append(record)
                runs.outcomes[record['identity']] = outcomes
        found = runs.block().first.standings.compare('a', 'b', 'mean')
        widths.append(found.high - found.low)
    assert widths[0] > 1.2 * widths[1]


def test_a_record_of_an_older_version_has_the_clusters_of_the_others():
    runs = Runs()
    for seed in range(3):
        runs.add('old', seed, dict.fromkeys(SUBSETS, 4))
        runs.add('new', seed, dict.fromkeys(SUBSETS, 100), cluster=clusters_of(4))
    assert runs.block().first.standings.units['mean'] == 100


def test_subsets_with_few_samples_are_not_tested_and_the_caption_says_so():
    runs = Runs()
    for seed in range(3):
        for label, errors in (('good', 4), ('poor', 100)):
            runs.add(label, seed, dict.fromkeys(SUBSETS, errors))
            outcomes = list(runs.outcomes.values())[-1]
            few = np.where(np.arange(len(TARGET)) < 12, outcomes['pred/ir'], -1)
            outcomes['pred/ir'] = few
            record = runs.records[-1]
            there = few >= 0
            wrong = [np.mean(few[there & (k == TARGET)] != k) for k in (0, 1)]
            record['scores']['test']['ir'] = {'ACER': float(np.mean(wrong))}
            record['n']['test']['ir'] = 12
    block = runs.block()
    found = block.first.standings
    assert (found.units['ir'], found.units['rgb'], found.units['mean']) == (12, 400, 12)
    assert found.marks['good'].keys() == {*SUBSETS, 'missing_0', 'missing_1'} - {'ir'}
    assert found.ranks == {}
    assert 'fewer than 20 independent samples: ir, mean, worst, missing 2' in captions.caption(
        block
    )


RARE = {
    'one live sample': ('ACER', lambda u: np.eye(4)[np.where(u == 0, 2 + u % 2, u % 2)], 4),
    'five live samples': ('ACER', lambda u: np.eye(4)[np.where(u < 5, 2 + u % 2, u % 2)], 20),
    'one cluster holds most': (
        'accuracy',
        lambda u: np.where(u == 0, 3000, 5)[:, None] * [1, 1],
        1,
    ),
    'a class of two images': ('mIoU', lambda u: np.stack([9 + 0 * u, 9 * (u < 2)] * 3, 1), 8),
    'equal samples': ('accuracy', lambda u: np.eye(2)[u % 2], 200),
}


@pytest.mark.parametrize('case', RARE)
def test_what_the_data_are_worth_counts_the_classes_and_samples_that_decide(case):
    metric, made, worth = RARE[case]
    added = made(np.arange(200))[:, None]
    rows = {'a': {0: 0, 1: 1, 2: 2}, 'b': {0: 3, 1: 4, 2: 5}}
    columns = statistics.columns(['m'], 1)

    def summarise(x):
        return statistics.with_summaries(x, np.array([1]), 1, True)

    scores = Scores(columns, np.zeros((6, 4)), rows, [added] * 6, metric, True, summarise)
    found = Standings(scores)
    assert found.effective['mean'] == worth
    assert bool(found.lacking) == (worth < 20)


def test_the_interval_of_a_row_counts_seeds_and_test_samples():
    made = Standings(scores_of({'a': 0.8, 'b': 0.6}, samples=400))
    low, high = made.interval('a', 'rgb')
    assert low < 0.8 < high
    runs = list(made.runs['a'])
    right = np.stack([made.scores.units[i][:, 0, 1] for i in runs], axis=1)
    # All seeds have one score, so that nothing is added to the variance by samples; the part of it
    # that the seeds do not share has two degrees of freedom, two thirds of it at least.
    shared = np.cov(right, rowvar=False) / len(right)
    variance = shared.sum() / 9
    own = 2 / 3 * (shared.trace() / 3 - (shared.sum() - shared.trace()) / 6) / 3
    degrees = variance**2 / (own**2 / 2 + (variance - own) ** 2 / (len(right) - 1))
    expected = stats.t.ppf(0.975, degrees) * variance**0.5
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_a_row_without_enough_seeds_has_no_interval():
    made = Standings(scores_of({'a': 0.8, 'b': 0.6}, seeds={'a': (0, 1, 2), 'b': (0, 1)}))
    assert np.isfinite(made.interval('a', 'mean')).all()
    assert np.isnan(made.interval('b', 'mean')).all()
