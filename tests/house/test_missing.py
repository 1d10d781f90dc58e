"""What goes missing: the laws of the samplers, and gaps that last a run."""

import itertools
import math
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from benchmark.errors import UserError
from benchmark.missing import (
    Sampler,
    derive,
    generator,
    hide,
    mask_hash,
    parse_rates,
    subset_id,
    subset_ids,
    subset_masks,
)

NAMES = ('rgb', 'depth', 'ir', 'thermal')
DRAWS = 100_000
ROOT = Path(__file__).resolve().parents[2]


def powerset(names):
    """All non-empty subsets of the names, in no particular order."""
    rows = itertools.product((True, False), repeat=len(names))
    return {frozenset(itertools.compress(names, row)) for row in rows} - {frozenset()}


def drawn(spec, names, there=None, seed=0):
    """How often each subset is drawn for samples that all have the modalities `there`."""
    row = [name in (names if there is None else there) for name in names]
    masks = Sampler(spec, names).draw(np.tile(row, (DRAWS, 1)), generator(seed, 'test'))
    bits = 2 ** np.arange(len(names))
    codes, counts = np.unique(masks @ bits, return_counts=True)
    rows = codes[:, None] & bits
    found = zip(rows, counts.tolist(), strict=True)
    return {frozenset(itertools.compress(names, row)): count for row, count in found}


def assert_law(counts, weights):
    """The counts follow the weights: none where the weight is zero, chi-square elsewhere."""
    possible = [s for s, w in weights.items() if w > 0]
    assert set(counts) <= set(possible)
    assert sum(counts.values()) == DRAWS
    total = sum(weights.values())
    expected = [DRAWS * weights[s] / total for s in possible]
    found = [counts.get(s, 0) for s in possible]
    assert len(found) == 1 or scipy.stats.chisquare(found, expected).pvalue > 1e-3


def bernoulli(names, rates):
    """Weight of each subset when each modality is missing on its own with its rate."""
    return {
        s: math.prod(1 - rates[n] if n in s else rates[n] for n in names) for s in powerset(names)
    }


def test_subsets_go_by_size_and_their_ids_by_the_dataset_s_order():
    assert subset_ids(('z', 'a', 'm')) == ['z', 'a', 'm', 'z+a', 'z+m', 'a+m', 'z+a+m']
    assert {frozenset(i.split('+')) for i in subset_ids(NAMES)} == powerset(NAMES)
    assert subset_id(('z', 'a', 'm'), [True, False, True]) == 'z+m'
    assert subset_ids(NAMES) == [subset_id(NAMES, mask) for mask in subset_masks(4)]


@pytest.mark.parametrize('count', [2, 3, 4])
def test_uniform_draws_each_subset_equally_often_and_by_size_the_size_first(count):
    names = NAMES[:count]
    assert_law(drawn('uniform', names), dict.fromkeys(powerset(names), 1))
    by_size = {s: 1 / math.comb(count, len(s)) for s in powerset(names)}
    assert_law(drawn('by_size', names), by_size)


@pytest.mark.parametrize(
    ('spec', 'rates'),
    [
        ('bernoulli:0.3', {'rgb': 0.3, 'depth': 0.3, 'ir': 0.3}),
        ('bernoulli:rgb=0.2,depth=0.5', {'rgb': 0.2, 'depth': 0.5, 'ir': 0}),
        ('bernoulli:0.4,ir=1', {'rgb': 0.4, 'depth': 0.4, 'ir': 1}),
    ],
)
def test_bernoulli_gives_the_rate_at_which_a_modality_is_missing(spec, rates):
    assert_law(drawn(spec, NAMES[:3]), bernoulli(NAMES[:3], rates))


def test_complete_gives_all_that_a_sample_has():
    available = np.random.default_rng(0).random((50, 3)) < 0.5
    drawn_masks = Sampler('complete', NAMES[:3]).draw(available, generator(0))
    assert (drawn_masks == available).all()
    drawn_masks[:] = False
    assert available.any()


LAWS = {
    'uniform': dict.fromkeys(powerset(NAMES), 1),
    'by_size': {s: 1 / math.comb(4, len(s)) for s in powerset(NAMES)},
    'bernoulli:0.3': bernoulli(NAMES, dict.fromkeys(NAMES, 0.3)),
    'bernoulli:rgb=.2,ir=.5': bernoulli(NAMES, {'rgb': 0.2, 'depth': 0, 'ir': 0.5, 'thermal': 0}),
}


@pytest.mark.parametrize('spec', LAWS)
@pytest.mark.parametrize('there', [{'rgb', 'ir'}, {'depth'}, {'depth', 'ir', 'thermal'}])
def test_incomplete_samples_draw_from_the_law_restricted_to_what_they_have(spec, there):
    fitting = {s: w for s, w in LAWS[spec].items() if s <= there}
    if sum(fitting.values()):
        assert_law(drawn(spec, NAMES, there), fitting)
    else:
        assert drawn(spec, NAMES, there) == {frozenset(): DRAWS}


@pytest.mark.parametrize('spec', ['uniform', 'by_size', 'bernoulli:0.6', 'complete'])
def test_a_draw_is_part_of_what_is_there_and_empty_only_if_nothing_is(spec):
    available = np.random.default_rng(0).random((2000, 4)) < 0.5
    mask = Sampler(spec, NAMES).draw(available, generator(0))
    assert not (mask & ~available).any()
    assert (mask.any(1) == available.any(1)).all()


def test_samples_without_the_only_subset_stay_empty():
    available = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 1], [1, 1, 1]], bool)
    mask = Sampler('only:rgb+ir', NAMES[:3]).draw(available, generator(0))
    assert mask.tolist() == [[False] * 3, [True, False, True], [False] * 3, [True, False, True]]


def test_draws_depend_on_seed_and_purpose_alone():
    def draw(*purpose):
        return Sampler('uniform', NAMES).draw(np.ones((64, 4), bool), generator(*purpose))

    first = draw(0, 'mask', 3)
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert (draw(0, 'mask', 3) == first).all()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert all((draw(*p) != first).any() for p in [(1, 'mask', 3), (0, 'order', 3), (0, 'mask')])


def test_derived_seeds_are_the_same_in_another_process():
    code = 'from benchmark.missing import derive; print(derive(7, "weights"))'
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True, cwd=ROOT)
    assert int(other.stdout) == derive(7, 'weights') < 2**31
    assert len({derive(seed, use) for seed in range(50) for use in ('weights', 'order')}) == 100


def test_epochs_draw_independently_of_one_another():
    everything, sampler = np.ones((DRAWS, 2), bool), Sampler('uniform', NAMES[:2])
    pair = [sampler.draw(everything, generator(0, 'mask', e)) @ [1, 2] - 1 for e in (0, 1)]
    table = np.zeros((3, 3))
    np.add.at(table, tuple(pair), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize('rate', ['0', '0.05', '0.29', '0.3', '0.7', '1'])
@pytest.mark.parametrize('count', [1, 10, 100, 333])
def test_hide_takes_exactly_the_floor_of_the_rate(rate, count):
    ids = [f's{i}' for i in range(count)]
    kept = hide(np.ones((count, 2), bool), ids, np.array([float(rate), 0]), seed=0)
    assert (~kept).sum(0).tolist() == [math.floor(count * Fraction(rate)), 0]


def test_hidden_samples_follow_their_ids_not_their_order():
    rng = np.random.default_rng(0)
    available, ids = rng.random((200, 3)) < 0.8, np.array([f'sample-{i}' for i in range(200)])
    before, rates, order = available.copy(), np.array([0.2, 0.5, 0]), rng.permutation(200)
    kept = hide(available, ids, rates, seed=4)
    assert (hide(available[order], ids[order], rates, seed=4) == kept[order]).all()
    assert (available == before).all()
    assert not (kept & ~available).any()
    assert (kept[:, 2] == available[:, 2]).all()


def test_all_slices_of_a_volume_lose_a_modality_together():
    volumes = np.array([f'volume{k}' for k in np.random.default_rng(2).integers(10, size=300)])
    kept = hide(np.ones((300, 2), bool), volumes, np.array([0.35, 0]), seed=1)
    hidden = {v for v in volumes if not kept[volumes == v, 0].any()}
    assert len(hidden) == 3
    assert (kept[:, 0] == [v not in hidden for v in volumes]).all()
    # How many slices a volume has does not change which volumes are hidden.
    names = np.unique(volumes)
    alone = hide(np.ones((10, 2), bool), names, np.array([0.35, 0]), seed=1)
    assert set(names[~alone[:, 0]]) == hidden


def test_hidden_samples_differ_between_seeds_and_modalities():
    ids, everything = [f'{i}' for i in range(400)], np.ones((400, 2), bool)
    masks = [hide(everything, ids, np.array([0.5, 0.5]), seed) for seed in (0, 1)]
    columns = [masks[0][:, 0], masks[0][:, 1], masks[1][:, 0]]
    for one, other in itertools.combinations(columns, 2):
        # Hypergeometric: 200 of 400 twice, common part 100 with deviation 5.
        assert abs((one & other).sum() - 100) < 25


def test_masks_of_other_content_or_shape_hash_differently():
    masks = [np.zeros((4, 2), bool), np.zeros((2, 4), bool), np.eye(4, 2, dtype=bool)]
    assert len({mask_hash(m) for m in masks}) == 3
    assert mask_hash(masks[0].copy()) == mask_hash(masks[0])


@pytest.mark.parametrize(
    ('spec', 'told'),
    [
        ('unifrom', "did you mean 'uniform'"),
        ('bysize', "did you mean 'by_size'"),
        ('only:rgb+dept', "did you mean 'rgb+depth'"),
        ('only:', 'known: depth'),
        ('bernoulli:dept=0.2', "did you mean 'depth'"),
        ('bernoulli:1.5', "from 0 to 1, found '1.5'"),
        ('bernoulli:depth=-0.1', "from 0 to 1, found '-0.1'"),
        ('bernoulli:nan', "from 0 to 1, found 'nan'"),
        ('bernoulli:', "from 0 to 1, found ''"),
        ('bernoulli:1', 'below 1 for some modality'),
    ],
)
def test_a_bad_sampler_is_told_in_one_line(spec, told):
    with pytest.raises(UserError) as error:
        Sampler(spec, NAMES[:3])
    assert told in str(error.value)
    assert '\n' not in str(error.value)


def test_rates_are_read_by_modality():
    assert parse_rates('rgb=0.2,ir=0.5', NAMES, '').tolist() == [0.2, 0, 0.5, 0]
    assert parse_rates('0.25', NAMES, '').tolist() == [0.25] * 4


@pytest.mark.parametrize('spec', ['uniform', 'by_size', 'bernoulli:0.3', 'complete', 'only:a'])
def test_the_probabilities_of_the_subsets_sum_to_1(spec):
    found = Sampler(spec, ('a', 'b', 'c')).probabilities()
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
