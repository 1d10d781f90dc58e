"""Rules for the error of a difference and its degrees of freedom, compared on normal scores.

The variances are those of the networks that `simulate.py` draws: C is common to all seeds, and each
run adds W by its own errors on the test samples and the variance of its seed. They are taken as
known but for the variance between seeds. `simulate.py` writes the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.stats import multivariate_normal

from benchmark.missing import generator
from benchmark.report import comparison

ERROR = 0.1
"""Error rate of every method, as a fraction."""

SHARED, OWN = 0.5, 0.15
"""Shares of the variance of a sample's difficulty: of all networks, of those of one method."""

TAILS = (7, 20)
"""Numbers of tests m for which p < .05 / m is counted, as Holm's correction asks."""

SPREADS = (0.2, 0.5, 1.0, 1.5)
COUNTS = (3, 5, 10)
SAMPLES = (2000, 20_000)

METHODS = 5
"""Methods over which the pooled rule pools; the second alone may have another spread."""


def variances(samples: int) -> tuple[float, float]:
    """Returns W and C in squared points for a test set of so many samples."""
    z = NormalDist().inv_cdf(ERROR)
    both = [
        multivariate_normal([0, 0], [[1, r], [r, 1]]).cdf([z, z]) - ERROR**2
        for r in (SHARED + OWN, SHARED)
    ]
    own, cross = (1e4 * float(c) / samples for c in both)
    return 1e4 * ERROR * (1 - ERROR) / samples - own, 2 * (own - cross)


class Draw(NamedTuple):
    """Simulated seeds: (R, S, METHODS) deviations of scores, and W, C and N."""

    seeds: np.ndarray
    own: float
    common: float
    units: int

    @property
    def between(self) -> np.ndarray:
        """(R, METHODS) variances between seeds."""
        return self.seeds.var(1, ddof=1)


Errors = tuple[np.ndarray, np.ndarray]
"""(R,) standard errors, (R,) degrees of freedom."""

Rule = Callable[[Draw], Errors]


def _welch(parts: np.ndarray, freedom: float, rest: np.ndarray, units: int) -> Errors:
    """Joins (R, K) variances of seeds, each with its degrees of freedom, and the (R,) rest."""
    total = parts.sum(-1) + rest
    spread = (parts**2).sum(-1) / freedom + rest**2 / (units - 1)
    return np.sqrt(total), total**2 / spread


def _known(draw: Draw, spread: tuple[float, float]) -> Errors:
    total = sum(draw.own + s**2 for s in spread) / draw.seeds.shape[1] + draw.common
    return np.full(len(draw.seeds), math.sqrt(total)), np.full(len(draw.seeds), math.inf)


def _added(draw: Draw) -> Errors:
    """Variance of the samples plus variance between seeds, whose overlap counts twice."""
    count = draw.seeds.shape[1]
    error, _ = _welch(draw.between[:, :2] / count, count - 1, draw.common + 2 * draw.own / count,
                      draw.units)  # fmt: skip
    return error, error**4 * (count - 1) / ((draw.between[:, :2] / count) ** 2).sum(1)


def _separate(draw: Draw) -> Errors:
    """S - 1 for either method's variance as observed, N - 1 for the rest."""
    count, between = draw.seeds.shape[1], draw.between[:, :2]
    rest = draw.common + np.maximum(draw.own - between, 0).sum(1) / count
    return _welch(between / count, count - 1, rest, draw.units)


def _floored(draw: Draw) -> Errors:
    """S - 1 for either method's variance, which is at least W."""
    count = draw.seeds.shape[1]
    between = np.maximum(draw.between[:, :2], draw.own)
    return _welch(between / count, count - 1, np.full(len(between), draw.common), draw.units)


def _shared(floor: float) -> Rule:
    """S - 1 for both methods together, whose variance is at least a part of W."""

    def rule(draw: Draw) -> Errors:
        count, between = draw.seeds.shape[1], draw.between[:, :2]
        total = np.maximum(between.sum(1), 2 * draw.own) / count + draw.common
        seeds = np.maximum(between.sum(1), floor * 2 * draw.own) / count
        return _welch(seeds[:, None], count - 1, total - seeds, draw.units)

    return rule


def _table_rule(draw: Draw) -> Errors:
    count, between = draw.seeds.shape[1], draw.between[:, :2]
    own = np.full(2, draw.own)
    return comparison.standard_error(between, own, draw.common, count, draw.units)


def _seeds_alone(draw: Draw) -> Errors:
    """S - 1 for the whole error."""
    error, _ = _table_rule(draw)
    return error, np.full(len(error), draw.seeds.shape[1] - 1)


def _paired(draw: Draw) -> Errors:
    """S - 1 for the variance of the S differences at the same seed, which is at least 2 W."""
    count = draw.seeds.shape[1]
    between = (draw.seeds[..., 0] - draw.seeds[..., 1]).var(1, ddof=1)
    seeds = np.maximum(between, 2 * draw.own)[:, None] / count
    return _welch(seeds, count - 1, np.full(len(seeds), draw.common), draw.units)


def _pooled(draw: Draw) -> Errors:
    """One variance for all methods of a table, with METHODS (S - 1)."""
    count = draw.seeds.shape[1]
    seeds = 2 * np.maximum(draw.between.mean(1), draw.own)[:, None] / count
    rest = np.full(len(seeds), draw.common)
    return _welch(seeds, METHODS * (count - 1), rest, draw.units)


TABLES = '**S - 1 together, at least 2/3 W (the tables)**'

RULES: dict[str, Rule] = {
    'samples and seeds added (old tables)': _added,
    'S - 1 each (Welch, Satterthwaite)': _separate,
    'S - 1 each, variances at least W': _floored,
    'S - 1 together': _shared(0.0),
    TABLES: _table_rule,
    'S - 1 together, at least W': _shared(1.0),
    'S - 1 for seeds and samples': _seeds_alone,
    'paired by seed, at least 2 W': _paired,
    f'pooled over {METHODS} methods': _pooled,
}


def excess(p: np.ndarray, tests: int) -> float:
    """Returns the share of p-values below .05 / m as a multiple of .05 / m."""
    level = comparison.LEVEL / tests
    return float((p < level).mean()) / level


def p_values(
    rule: Rule, draw: Draw, normal: np.ndarray, spread: tuple[float, float], difference: float
) -> np.ndarray:
    """Returns the p-values of simulated comparisons.

    Args:
        rule: The rule.
        draw: R draws of seeds.
        normal: (R,) standard normal numbers, which are scaled to the error of the difference.
        spread: The true deviations between seeds.
        difference: The true difference in points.
    """
    gap = difference + normal * _known(draw, spread)[0]
    error, degrees = rule(draw)
    return 2 * special.stdtr(degrees, -np.abs(gap) / error)


def rates(
    count: int, samples: int, spread: tuple[float, float], repetitions: int
) -> dict[str, list[float]]:
    """Returns per rule the excess at 1 and at `TAILS`; the power in %, too, of equal spreads."""
    rng = generator(0, 'rules', str(count), str(samples), *map(str, spread))
    own, common = variances(samples)
    each = np.array([*spread, *[spread[0]] * (METHODS - 2)])
    deviations = rng.standard_normal((repetitions, count, METHODS)) * np.sqrt(own + each**2)
    draw = Draw(deviations, own, common, samples)
    normal = rng.standard_normal(repetitions)
    known = {'all variances known': lambda draw: _known(draw, spread)}
    found = {}
    for name, rule in {**known, **RULES}.items():
        p = p_values(rule, draw, normal, spread, 0.0)
        found[name] = [excess(p, m) for m in (1, *TAILS)]
        if spread[0] == spread[1]:
            p = p_values(rule, draw, normal, spread, 1.0)
            found[name].append(100 * float((p < comparison.LEVEL).mean()))
    return found


def lines(repetitions: int) -> Iterator[str]:
    """Yields the lines of the table of rules."""
    told = ', '.join(f'{s:g}' for s in SPREADS)
    pairs = list(itertools.combinations_with_replacement(SPREADS, 2))
    found = {
        (count, samples, pair): rates(count, samples, pair, repetitions)
        for count, samples, pair in itertools.product(COUNTS, SAMPLES, pairs)
    }
    yield f'**Rules for the degrees of freedom** (normal scores, {repetitions:,} draws a cell;'
    yield f'level and tail are the worst of {len(pairs)} pairs of sd of seeds, {told}, and of'
    yield f'{", ".join(map(str, COUNTS))} seeds; power is for a true difference of 1 point)'
    yield ''
    titles = ['rule', *(f'level %, N = {n:,}' for n in SAMPLES)]
    titles += [f'p < .05/{m}, times too often, N = {n:,}' for n in SAMPLES for m in TAILS]
    titles += [f'power %, {c} seeds, sd {s:g}' for c in (3, 5) for s in SPREADS]
    yield f'| {" | ".join(titles)} |'
    yield '| --- ' + '| ---: ' * (len(titles) - 1) + '|'
    for name in found[COUNTS[0], SAMPLES[0], pairs[0]]:
        worst = {
            n: np.max([found[c, n, pair][name][:3] for c in COUNTS for pair in pairs], axis=0)
            for n in SAMPLES
        }
        numbers = [f'{100 * comparison.LEVEL * worst[n][0]:.1f}' for n in SAMPLES]
        numbers += [f'{worst[n][1 + k]:.1f}' for n in SAMPLES for k in range(len(TAILS))]
        numbers += [
            f'{found[c, SAMPLES[0], (s, s)][name][-1]:.0f}' for c in (3, 5) for s in SPREADS
        ]
        yield f'| {name} | {" | ".join(numbers)} |'
