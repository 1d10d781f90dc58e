"""Which subsets are tested, and the training masks of many modalities."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from benchmark import draws, tested
from benchmark.errors import UserError
from benchmark.missing import Sampler, generator
from benchmark.report import sampling
from benchmark.subsets import (
    extremes,
    is_subset,
    subset_ids,
    subset_masks,
    subset_named,
    subset_order,
    subset_table,
)

NAMES = ('rgb', 'depth', 'ir')
MANY = tuple(f's{k:02}' for k in range(20))
DRAWS = 60_000


def test_subsets_are_put_in_order_and_recognised_without_a_list_of_all():
    every = subset_ids(('z', 'a', 'm', 'b'))
    assert subset_order(reversed(every), ('z', 'a', 'm', 'b')) == every
    assert all(is_subset(s, ('z', 'a', 'm', 'b')) for s in every)
    for wrong in ('', 'a+z', 'z+z', 'z+', 'y', 'z+y', 'z+a+m+b+z'):
        assert not is_subset(wrong, ('z', 'a', 'm', 'b'))
    assert subset_order(['s19', 's02+s19', 's03'], MANY) == ['s03', 's19', 's02+s19']
    table = subset_table(MANY, ['s02+s19', 's03'])
    assert list(table) == ['s03', 's02+s19']
    assert np.flatnonzero(table['s02+s19']).tolist() == [2, 19]
    whole = subset_table(NAMES)
    assert list(whole) == subset_ids(NAMES)
    np.testing.assert_array_equal(list(whole.values()), subset_masks(3))


@pytest.mark.parametrize('count', range(1, 7))
def test_extremes_are_the_smallest_and_the_largest_subsets(count):
    names = MANY[:count]
    sizes = {1, count - 1, count}
    assert extremes(names) == [s for s in subset_ids(names) if s.count('+') + 1 in sizes]


def test_all_subsets_of_many_modalities_are_never_listed():
    with pytest.raises(UserError, match='at most 12 modalities.*found 20, which have 1,048,575'):
        subset_masks(20)


@pytest.mark.parametrize(
    ('modalities', 'number'), [(4, 12), (9, 31), (9, 128), (20, 75), (32, 128)]
)
def test_a_sample_holds_every_extreme_and_two_of_each_other_size(modalities, number):
    found = tested.sample(modalities, number)
    assert len(found) == len(set(found)) == number
    assert list(found) == sorted(found, key=lambda members: (len(members), members))
    counts = Counter(map(len, found))
    assert counts[1] == counts[modalities - 1] == modalities
    assert counts[modalities] == 1
    assert all(counts[size] >= 2 for size in range(2, modalities - 1))
    assert all(counts[size] <= math.comb(modalities, size) for size in counts)
    assert set(map(len, found)) == set(range(1, modalities + 1))


def test_a_larger_sample_holds_a_smaller_one_and_grows_to_all_subsets():
    samples = [set(tested.sample(6, n)) for n in range(tested.fewest(6), 64)]
    assert all(a < b for a, b in itertools.pairwise(samples))
    names = MANY[:6]
    everything = ['+'.join(names[m] for m in members) for members in tested.sample(6, 63)]
    assert everything == subset_ids(names)
    assert tested.spelled('sampled:63', names) == tested.spelled('all', names) == ''


def test_the_drawn_subsets_of_a_size_are_equally_frequent():
    counts = Counter(members for seed in range(800) for members in tested.sample(5, 16, seed))
    for size in (2, 3):
        found = [count for members, count in counts.items() if len(members) == size]
        assert len(found) == 10
        # A sample never holds a subset twice, so that the counts vary less than at random.
        assert scipy.stats.chisquare(found).pvalue > 1e-3


def test_the_default_is_all_subsets_of_8_modalities_and_a_sample_of_more():
    assert tested.spelled('', MANY[:8]) == ''
    assert tested.spelled('', MANY[:9]) == 'sampled:128'
    assert tested.tested('', NAMES) == subset_ids(NAMES)
    assert len(tested.tested('sampled:128', MANY)) == 128
    assert tested.spelled('sampled:128', NAMES) == ''


def test_a_file_lists_subsets_in_any_order_and_a_record_holds_them(tmp_path):
    file = tmp_path / 'some.txt'
    file.write_text(' ir + rgb # two\n\n# a comment\nrgb+depth+ir\ndepth\n')
    spec = tested.spelled(str(file), NAMES)
    assert tested.tested(spec, NAMES) == ['depth', 'rgb+ir', 'rgb+depth+ir']
    assert tested.spelled(spec, NAMES) == spec  # as typed again from a record
    assert not tested.is_sample(spec)
    file.write_text('\n'.join(subset_ids(NAMES)))
    assert tested.spelled(str(file), NAMES) == ''
    file.write_text('\n'.join([MANY[19], '+'.join(MANY)]))
    assert tested.spelled(str(file), MANY) == 'list:80000,fffff'


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('rgb+dpeth\nrgb+depth+ir', "some.txt, line 1.*'dpeth'.*did you mean 'depth'"),
        ('ir\nrgb+depth+ir\nir', 'line 3: expected every subset once, found ir again, .*line 1'),
        ('ir+ir', 'line 1: subset .*expected every modality once'),
        ('rgb\nir', "expected the set of all modalities 'rgb[+]depth[+]ir'.*found 2 subsets"),
        ('# nothing', 'expected a subset in each line, found none'),
        (b'\xff\xfe', 'cannot be read'),
    ],
)
def test_a_list_that_cannot_be_used_is_told_in_one_line(tmp_path, text, told):
    file = tmp_path / 'some.txt'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=told) as error:
        tested.spelled(str(file), NAMES)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('given', 'told'),
    [
        ('sampled:74', 'expected a number from 75 to 1000 for 20 modalities'),
        ('sampled:1001', 'expected a number from 75 to 1000'),
        ('sampled:', 'expected a number'),
        ('sampled:x', 'expected a number'),
        ('all', 'at most 12 modalities, found 20, .*; --subsets sampled:128 tests a sample'),
        ('smapled:99', "expected all, sampled:K .* found 'smapled:99', which is no file"),
        ('list:100000', "expected hexadecimal numbers from 1 to fffff, found '100000'"),
        ('list:-1,fffff', "found '-1'"),
    ],
)
def test_other_words_are_told_in_one_line(given, told):
    with pytest.raises(UserError, match=told):
        tested.spelled(given, MANY)


def test_a_subset_may_be_named_in_any_order():
    assert subset_named('ir+rgb', NAMES, 'subset') == 'rgb+ir'


def scores_of(count, seed):
    """Scores of all subsets, better with more and with better modalities, and some noise."""
    rng = np.random.default_rng(seed)
    masks = subset_masks(count)
    worth = masks @ rng.uniform(0, 0.4, count)
    return masks, 1 / (1 + np.exp(-worth)) + rng.normal(0, 0.01, len(masks))


def test_the_mean_of_a_sample_estimates_that_of_all_and_its_interval_covers_it():
    masks, scores = scores_of(9, 0)
    known = {tuple(np.flatnonzero(m).tolist()): s for m, s in zip(masks, scores, strict=True)}
    truth, errors, covered, plain = scores.mean(), [], 0, []
    for seed in range(300):
        members = tested.sample(9, 60, seed)
        values = np.array([known[m] for m in members])
        sizes = np.array([len(m) for m in members])
        named = {'+'.join(map(str, m)): known[m] for m in members}
        mean = tested.mean(named, 9, 'sampled:60')
        lacking = [values[sizes == size].mean() for size in range(9, 0, -1)]
        assert sampling.estimate(np.array(lacking), 9) == pytest.approx(mean)
        reach = sampling.reach(values, sizes, 9)
        errors.append(mean - truth)
        covered += abs(mean - truth) <= reach
        plain.append(values.mean() - truth)
    spread = np.std(errors)
    assert abs(np.mean(errors)) < 4 * spread / math.sqrt(300)
    assert 0.92 <= covered / 300 <= 0.98
    # Single modalities and nearly complete sets are no fair sample of all subsets.
    assert abs(np.mean(plain)) > 5 * np.std(plain) / math.sqrt(300)


def test_a_sample_of_all_subsets_has_the_mean_of_all_and_no_interval():
    masks, scores = scores_of(5, 1)
    sizes = masks.sum(1)
    lacking = np.array([scores[sizes == size].mean() for size in range(5, 0, -1)])
    assert sampling.estimate(lacking, 5) == pytest.approx(scores.mean())
    assert sampling.reach(scores, sizes, 5) == 0
    some = np.ones(31, bool)
    some[[5, 6, 7, 8, 9, 10, 11, 12, 13]] = False  # one pair of ten is left
    assert math.isnan(sampling.reach(scores[some], sizes[some], 5))
    assert tested.mean({'a': 0.2, 'b': 0.4, 'a+b': 0.9}, 2, '') == pytest.approx(0.5)


def law(weights, mask):
    """Compares drawn masks with the weights of subsets by a chi-square test."""
    counts = Counter(map(tuple, mask.tolist()))
    assert set(counts) <= set(weights)
    total = sum(weights.values())
    expected = [DRAWS * w / total for w in weights.values()]
    assert len(weights) == 1 or (
        scipy.stats.chisquare([counts[m] for m in weights], expected).pvalue > 1e-3
    )


def inside(available):
    """The non-empty subsets of three modalities that a sample has."""
    rows = itertools.product((False, True), repeat=3)
    return [
        r for r in rows if any(r) and all(a or not m for m, a in zip(r, available, strict=True))
    ]


@pytest.mark.parametrize(
    'available', [(True, True, True), (True, False, True), (False, True, False)]
)
def test_closed_forms_draw_from_the_same_distributions_as_tables(available):
    there = np.tile(np.array(available, bool), (DRAWS, 1))
    rng = generator(3, 'closed', *available)
    able = inside(available)
    law(dict.fromkeys(able, 1), draws.bernoulli(there, np.full(3, 0.5), rng))
    law({m: 1 / math.comb(3, sum(m)) for m in able}, draws.by_size(there, rng))
    rates = (0.2, 0.9, 0.6)
    weights = {
        m: math.prod(1 - r if on else r for on, r in zip(m, rates, strict=True)) for m in able
    }
    law(weights, draws.bernoulli(there, np.array(rates), rng))
    # These are the distributions that a table holds.
    table = Sampler('bernoulli:rgb=.2,depth=.9,ir=.6', NAMES).draw(there, rng)
    law(weights, table)


def test_closed_forms_leave_a_row_empty_where_no_subset_can_occur():
    rng = generator(0, 'closed')
    rows = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    always = draws.bernoulli(rows, np.array([0.0, 0.5, 0.5]), rng)
    assert always[:, 0].tolist() == [False, True, False, True]
    assert always.any(1).tolist() == [False, True, False, True]
    never = draws.bernoulli(rows, np.array([1.0, 1.0, 0.3]), rng)
    assert never.tolist() == [[False, False, row[2]] for row in rows.tolist()]
    assert draws.by_size(rows, rng).any(1).tolist() == [True, True, False, True]
    assert draws.only(rows, rows[0]).tolist() == [[False, True, True], [False] * 3, [False] * 3,
                                                  [False, True, True]]  # fmt: skip


@pytest.mark.parametrize(
    'spec', ['uniform', 'by_size', 'bernoulli:0.3', 'only:s00+s19', 'complete']
)
def test_masks_of_20_modalities_are_drawn_without_a_table(spec):
    available = np.random.default_rng(0).random((500, 20)) < 0.7
    available[0] = False
    mask = Sampler(spec, MANY).draw(available, generator(0, 'mask', 1))
    assert mask.shape == available.shape
    assert not (mask & ~available).any()
    if not spec.startswith('only'):
        assert (mask.any(1) == available.any(1)).all()
    again = Sampler(spec, MANY).draw(available, generator(0, 'mask', 1))
    np.testing.assert_array_equal(mask, again)


def test_a_sampler_of_many_modalities_is_checked_without_a_table():
    for spec, told in [
        ('uniform:3', 'unknown sampler'),
        ('only:s00+s0', "'s0'.*did you mean"),
        ('only:s19+s00', 'in the order of the data set, only:s00[+]s19'),
        ('bernoulli:1', 'expected a rate below 1'),
    ]:
        with pytest.raises(UserError, match=told):
            Sampler(spec, MANY)
