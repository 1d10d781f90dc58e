"""Measures the tests of the tables on simulated runs whose true differences are known.

    python tools/simulate.py                  # writes docs/comparisons/simulation.md
    python tools/simulate.py --repetitions 200

Two methods are simulated with S seeds and N test samples. Each network has a true error rate of its
own: 10 %, plus a normal deviation for its seed. Each sample has a difficulty that all networks
share, a part that the networks of one method share, and a part for each network, so that networks
err on the same samples more often than by chance. Outcomes are right or wrong; they go through
`benchmark.report.comparison` and `benchmark.report.standings`, as those of real runs do.
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
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from scipy import special  # noqa: E402
from scipy.stats import friedmanchisquare  # noqa: E402

from benchmark.missing import generator, subset_ids  # noqa: E402
from benchmark.report import comparison, statistics  # noqa: E402
from benchmark.report.standings import Scores, Standings  # noqa: E402

PAGE = ROOT / 'docs' / 'comparisons' / 'simulation.md'
ERROR = 0.1
SHARED, OWN = 0.5, 0.15
"""Shares of the variance of a sample's difficulty: of all networks, of those of one method."""

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
    threshold, networks = NORMAL.inv_cdf(ERROR), 2 * case.seeds
    seeds = np.repeat(case.spread, case.seeds) * rng.standard_normal(networks)
    points = seeds + np.outer(differences, np.repeat([0, 1], case.seeds))
    thresholds = threshold + points / (100 * NORMAL.pdf(threshold))
    each = math.sqrt(1 - SHARED - OWN) * _normal(rng, networks, case.samples)
    each += np.repeat(math.sqrt(OWN) * _normal(rng, 2, case.samples), case.seeds, axis=0)
    each += math.sqrt(SHARED) * _normal(rng, case.samples)
    return each < thresholds.astype(np.float32)[..., None]


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def p_values(wrong: np.ndarray) -> tuple[float, float]:
    """Returns the p-values of one simulated comparison by the test, and by plain addition.

    The error rate is a mean, whose bootstrap covariance has a closed form. Plain addition, which
    is shown for comparison, counts what the samples explain of the variance between seeds twice.

    Args:
        wrong: (2S, N) as of `outcomes`.
    """
    count, samples = len(wrong) // 2, wrong.shape[1]
    shared = np.cov(wrong.astype(np.float32)).astype(float) / samples
    a, b = np.split(wrong.mean(1), 2)
    found = comparison.compare(a, b, shared, samples)
    sign = np.repeat([1 / count, -1 / count], count)
    squares = np.array(found.between) / count
    total = squares.sum() + sign @ shared @ sign
    spread = (squares**2).sum() / (count - 1)
    degrees = total**2 / spread if spread else math.inf
    plain = 2 * special.stdtr(degrees, -abs(found.difference) / math.sqrt(total))
    return found.p, float(plain)


def rejected(case: Case, differences: Sequence[float], repetitions: int) -> np.ndarray:
    """Returns the shares of simulations with p < .05, (D, 2): by the test, by plain addition."""
    rng = generator(0, 'simulate', *map(str, case))
    drawn = (outcomes(case, differences, rng) for _ in range(repetitions))
    found = [[p_values(wrong) for wrong in both] for both in drawn]
    return np.mean(np.array(found) < comparison.LEVEL, axis=0)


class Grid(NamedTuple):
    """A table of equal methods."""

    methods: int
    seeds: int
    samples: int
    spread: float
    weak: int = 0


def standings(grid: Grid, rng: np.random.Generator) -> Standings:
    """Simulates a table of equal methods on the 7 subsets of 3 modalities.

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
    points = grid.spread * seed / math.sqrt(2)
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
    """Returns the shares of tables in which equal methods are called different.

    Returns:
        (3,): by a mark in the mean, by one in any other column, and by Friedman's test over the
        subsets with p < .05.
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
        found.append(['mean' in columns, bool(columns - {'mean'}), p < comparison.LEVEL])
    return np.mean(found, axis=0)


def page(repetitions: int) -> Iterator[str]:
    """Yields the lines of the page."""
    error = 100 * math.sqrt(0.05 * 0.95 / repetitions)
    yield f'**Two methods** ({repetitions:,} repetitions a cell; a level of 5 % has a standard'
    yield f'error of {error:.1f} %; power is for a true difference of 1 point)'
    yield ''
    titles = ['seeds', 'samples', 'sd of seeds', 'level %', 'power %', 'level, added %']
    yield f'| {" | ".join([*titles, "power, added %"])} |'
    yield '| ---: | ---: | ---: | ---: | ---: | ---: | ---: |'
    spreads = [(0.2, 0.2), (0.5, 0.5), (1.0, 1.0), (1.5, 1.5), (0.2, 1.5)]
    for samples in (200, 2000):
        for seeds in (3, 5, 10):
            for spread in spreads:
                case = Case(seeds, samples, spread)
                level, power = 100 * rejected(case, (0.0, 1.0), repetitions)
                told = ' and '.join(f'{s:g}' for s in dict.fromkeys(spread))
                cells = f'{level[0]:.1f} | {power[0]:.0f} | {level[1]:.1f} | {power[1]:.0f}'
                yield f'| {seeds} | {samples:,} | {told} | {cells} |'
    few = max(repetitions // 10, 20)
    yield ''
    yield f'**Tables of equal methods on 7 subsets** ({few:,} tables a row)'
    yield ''
    titles = ['methods', 'seeds', 'samples', 'sd of seeds', 'marked in the mean %', 'elsewhere %']
    yield f'| {" | ".join([*titles, "Friedman over subsets %"])} |'
    yield '| --- | ---: | ---: | ---: | ---: | ---: | ---: |'
    grids = [Grid(2, 3, 400, 0.5), Grid(5, 3, 400, 0.5), Grid(5, 3, 400, 1.5), Grid(5, 5, 400, 1.5)]
    grids += [Grid(5, 3, 400, 0.5, weak=1), Grid(5, 3, 10, 0.5)]
    for grid in grids:
        found = 100 * false_marks(grid, few)
        names = f'{grid.methods}, one with 1 seed' if grid.weak else str(grid.methods)
        rest = f'{grid.seeds} | {grid.samples} | {grid.spread:g} | {found[0]:.1f} | {found[1]:.1f}'
        friedman = f'{found[2]:.1f}' if grid.methods > 2 else ''
        yield f'| {names} | {rest} | {friedman} |'


def main(argv: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--repetitions', type=int, default=2500, metavar='N')
    parser.add_argument('--out', type=Path, default=PAGE, metavar='FILE')
    args = parser.parse_args(argv)
    args.out.write_text('\n'.join(page(args.repetitions)) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
