"""Measures the tests of the tables on simulated runs whose true differences are known.

    python tools/simulate.py                  # writes docs/comparisons/simulation.md
    python tools/simulate.py --repetitions 200

Two methods are simulated with S seeds and N test samples. Each network has a true error rate of its
own, which is normal over seeds on the probit scale, around 10 % or another mean. Each sample has a
difficulty that all networks share, a part that the networks of one method share, and a part for
each network, so that networks err on the same samples more often than by chance. Outcomes are right
or wrong; they go through `benchmark.report.comparison` and `benchmark.report.standings`, as those
of real runs do. Rules for the degrees of freedom are compared on normal scores with the same
variances, of which far more can be drawn (`simulate_rules.py`).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import simulate_rules  # noqa: E402
from scipy import special  # noqa: E402
from scipy.stats import friedmanchisquare  # noqa: E402
from simulate_rules import ERROR, OWN, SHARED  # noqa: E402

from benchmark.missing import generator, subset_ids  # noqa: E402
from benchmark.report import comparison, statistics  # noqa: E402
from benchmark.report.standings import Scores, Standings  # noqa: E402

PAGE = ROOT / 'docs' / 'comparisons' / 'simulation.md'
NORMAL = NormalDist()
MODALITIES = ('a', 'b', 'c')
SUBSETS = subset_ids(MODALITIES)


class Case(NamedTuple):
    """One cell: S seeds, N samples, and the deviation between seeds of each method, in points."""

    seeds: int
    samples: int
    spread: tuple[float, float]


def outcomes(case: Case, differences: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Draws whether each of the 2S networks errs on each of the N samples.

    Args:
        case: The cell.
        differences: D true differences of the methods in points, each with the same networks.
        rng: The generator.

    Returns:
        (D, 2S, N) bool, the first method's networks before the second's.
    """
    networks, slope = 2 * case.seeds, 100 * NORMAL.pdf(NORMAL.inv_cdf(ERROR))
    spreads = np.repeat(case.spread, case.seeds) / slope
    means = [[NORMAL.inv_cdf(ERROR + d / 100 * m) for m in (0, 1)] for d in differences]
    # The mean of a normal threshold's error rate is that of a threshold nearer to 0.
    centres = np.repeat(means, case.seeds, axis=1) * np.sqrt(1 + spreads**2)
    thresholds = centres + spreads * rng.standard_normal(networks)
    each = math.sqrt(1 - SHARED - OWN) * _normal(rng, networks, case.samples)
    each += np.repeat(math.sqrt(OWN) * _normal(rng, 2, case.samples), case.seeds, axis=0)
    each += math.sqrt(SHARED) * _normal(rng, case.samples)
    return each < thresholds.astype(np.float32)[..., None]


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def compared(wrong: np.ndarray, difference: float) -> tuple[float, bool, float]:
    """Compares two simulated methods by the test of the tables, and by plain addition.

    The error rate is a mean, whose bootstrap covariance has a closed form. Plain addition, which
    is shown for comparison, counts what the samples explain of the variance between seeds twice.

    Args:
        wrong: (2S, N) as of `outcomes`.
        difference: The true difference in points.

    Returns:
        The p-value, whether the interval covers the difference, the p-value by plain addition.
    """
    count, samples = len(wrong) // 2, wrong.shape[1]
    errors = wrong.astype(np.float32)
    means = errors.mean(1, dtype=float)
    products = (errors @ errors.T).astype(float)  # whole numbers below 2^24
    shared = (products / samples - np.outer(means, means)) / (samples - 1)
    a, b = np.split(means, 2)
    found = comparison.compare(a, b, shared, samples)
    sign = np.repeat([1 / count, -1 / count], count)
    squares = np.array(found.between) / count
    total = squares.sum() + sign @ shared @ sign
    spread = (squares**2).sum() / (count - 1)
    degrees = total**2 / spread if spread else math.inf
    plain = 2 * special.stdtr(degrees, -abs(found.difference) / math.sqrt(total))
    return found.p, found.low <= -difference / 100 <= found.high, float(plain)


class Rates(NamedTuple):
    """Shares of simulations: p < .05, the interval covers, p < .05 by plain addition.

    `tails` are the shares of p < .05 / m for m of `simulate_rules.TAILS`, in multiples of .05 / m.
    """

    rejected: float
    covered: float
    added: float
    tails: tuple[float, ...]


def measure(case: Case, differences: Sequence[float], repetitions: int) -> list[Rates]:
    """Simulates one cell and returns the rates of each difference."""
    rng = generator(0, 'simulate', *map(str, case))
    drawn = (outcomes(case, differences, rng) for _ in range(repetitions))
    found = np.array([[compared(w, d) for w, d in zip(both, differences, strict=True)]
                      for both in drawn])  # fmt: skip
    rates = []
    for p, covered, plain in np.moveaxis(found, 0, 2):
        tails = tuple(simulate_rules.excess(p, m) for m in simulate_rules.TAILS)
        level = comparison.LEVEL
        rates.append(Rates((p < level).mean(), covered.mean(), (plain < level).mean(), tails))
    return rates


class Grid(NamedTuple):
    """A table of methods; each has an accuracy that is `step` points above the next one's."""

    methods: int
    seeds: int
    samples: int
    spread: float
    weak: int = 0
    step: float = 0.0


def standings(grid: Grid, rng: np.random.Generator) -> Standings:
    """Simulates a table of methods on the 7 subsets of 3 modalities.

    The last `weak` methods have one seed only.
    """
    modalities, subsets = MODALITIES, SUBSETS
    sizes = np.array([s.count('+') + 1 for s in subsets])
    counts = [1 if m >= grid.methods - grid.weak else grid.seeds for m in range(grid.methods)]
    method = np.repeat(np.arange(grid.methods), counts)
    each = math.sqrt(1 - SHARED - OWN) * _normal(rng, len(method), len(subsets), grid.samples)
    each += math.sqrt(OWN) * _normal(rng, grid.methods, 1, grid.samples)[method]
    each += math.sqrt(SHARED) * _normal(rng, len(subsets), grid.samples)
    threshold = NORMAL.inv_cdf(ERROR)
    seed = rng.standard_normal((len(method), 1)) + rng.standard_normal((len(method), len(subsets)))
    points = grid.spread * seed / math.sqrt(2) + grid.step * method[:, None]
    right = each > threshold + points[..., None] / (100 * NORMAL.pdf(threshold))
    units = [np.stack([~run.T, run.T], axis=2) for run in right]

    def summarise(values: np.ndarray) -> np.ndarray:
        return statistics.with_summaries(values, sizes, len(modalities), True)

    columns = statistics.columns(subsets, len(modalities))
    rows = {
        f'm{m}': {s: int(i) for s, i in enumerate(np.flatnonzero(method == m))}
        for m in range(grid.methods)
    }
    values = summarise(right.mean(2))
    return Standings(Scores(columns, values, rows, units, 'accuracy', True, summarise))


def false_marks(grid: Grid, repetitions: int) -> np.ndarray:
    """Returns the shares of tables with an error of each kind.

    Returns:
        (4,): a mark in the mean, one in any other column, p < .05 by Friedman's test over the
        subsets, and the share of all intervals of ranks that miss a rank which is true. The first
        three are errors only where all methods are equal.
    """
    rng = generator(0, 'tables', *map(str, grid))
    found = []
    for _ in range(repetitions):
        made = standings(grid, rng)
        columns = {column for row in made.marks.values() for column in row}
        means = [
            made.scores.values[list(row.values()), : len(SUBSETS)].mean(0)
            for row in made.scores.rows.values()
        ]
        p = friedmanchisquare(*means).pvalue if len(means) > 2 else math.nan
        marked = ['mean' in columns, bool(columns - {'mean'}), p < comparison.LEVEL]
        found.append([*marked, _missed(grid, made)])
    return np.mean(found, axis=0)


def _missed(grid: Grid, made: Standings) -> float:
    """Returns the share of intervals that miss a rank; equal methods have every rank."""
    last = len(made.ranks)
    missed = [
        (low > (rank if grid.step else 1)) or (high < (rank if grid.step else last))
        for rank, (low, high) in ((int(m[1:]) + 1, r) for m, r in made.ranks.items())
    ]
    return sum(missed) / last if missed else math.nan


def _table(titles: Sequence[str]) -> list[str]:
    return [f'| {" | ".join(titles)} |', '| --- ' + '| ---: ' * (len(titles) - 1) + '|']


def cells(repetitions: int) -> Iterator[str]:
    """Yields the lines of the table of two methods."""
    error = 100 * math.sqrt(0.05 * 0.95 / repetitions)
    yield f'**Two methods** ({repetitions:,} repetitions a cell; a level of 5 % has a standard'
    yield f'error of {error:.2f} %; power is for a true difference of 1 point)'
    yield ''
    tails = [f'p < .05/{m}, times too often' for m in simulate_rules.TAILS]
    titles = ['seeds', 'samples', 'sd of seeds', 'level %', *tails, 'power %', 'covered %']
    yield from _table([*titles, 'level, added %', 'power, added %'])
    for samples in (200, 2000):
        for seeds in (3, 5, 10):
            for spread in [(0.2, 0.2), (0.5, 0.5), (1.0, 1.0), (1.5, 1.5), (0.2, 1.5)]:
                level, power = measure(Case(seeds, samples, spread), (0.0, 1.0), repetitions)
                told = ' and '.join(f'{s:g}' for s in dict.fromkeys(spread))
                far = ' | '.join(f'{t:.1f}' for t in level.tails)
                numbers = f'{100 * level.rejected:.1f} | {far} | {100 * power.rejected:.0f}'
                added = f'{100 * level.added:.1f} | {100 * power.added:.0f}'
                covered = f'{100 * power.covered:.1f}'
                yield f'| {seeds} | {samples:,} | {told} | {numbers} | {covered} | {added} |'


def marked(repetitions: int) -> Iterator[str]:
    """Yields the lines of the table of whole tables."""
    yield f'**Tables of methods on 7 subsets** ({repetitions:,} tables a row; marks and Friedman'
    yield 'are errors where all methods are equal)'
    yield ''
    titles = ['methods', 'seeds', 'samples', 'sd of seeds', 'marked in the mean %', 'elsewhere %']
    yield from _table([*titles, 'Friedman over subsets %', 'rank intervals that miss %'])
    grids = [Grid(2, 3, 400, 0.5), Grid(5, 3, 400, 0.5), Grid(5, 3, 400, 1.5), Grid(5, 5, 400, 1.5)]
    grids += [Grid(5, 3, 400, 0.5, weak=1), Grid(5, 3, 10, 0.5)]
    grids += [Grid(5, seeds, 400, 0.5, step=0.5) for seeds in (3, 5)]
    for grid in grids:
        found = 100 * false_marks(grid, repetitions)
        names = f'{grid.methods}, one with 1 seed' if grid.weak else str(grid.methods)
        names += f', {grid.step:g} points apart' if grid.step else ', equal'
        told = ['' if math.isnan(f) else f'{f:.1f}' for f in found]
        if grid.step:
            told[:3] = ['', '', '']
        elif grid.methods == 2:
            told[2] = ''
        cells = ' | '.join(told)
        yield f'| {names} | {grid.seeds} | {grid.samples} | {grid.spread:g} | {cells} |'


def page(repetitions: int) -> Iterator[str]:
    """Yields the lines of the page."""
    yield from cells(repetitions)
    yield ''
    yield from simulate_rules.lines(10 * repetitions)
    yield ''
    yield from marked(max(repetitions // 50, 20))


def main(argv: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--repetitions', type=int, default=10_000, metavar='N')
    parser.add_argument('--out', type=Path, default=PAGE, metavar='FILE')
    args = parser.parse_args(argv)
    args.out.write_text('\n'.join(page(args.repetitions)) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
