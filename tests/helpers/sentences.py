"""The pages of the documentation, and the comparisons of committed records that they rest on."""

import re
from functools import cache
from pathlib import Path

from benchmark.report.comparison import holm
from docs.committed import rates, rows_of
from docs.comparisons import digits, families, on_new_seeds, rate_cases, repeated

ROOT = Path(__file__).resolve().parents[2]


@cache
def compared(dataset):
    """The rows of a data set; per family, (first, second, column) -> comparison, corrected p.

    Grids have their own names, and RedCore's rates one for each rate: `rates_faces 90`, as the
    digits for each number of samples: `digits 450`. The new
    seeds alone of `eight_rooms` are called `eight_rooms new`. The comparisons of `repeated`,
    each of which has rows of its own, go by number: `repeated 0`, `repeated new 0`.
    """
    name, _, which = dataset.partition(' ')
    if name == 'repeated':
        new, number = which.startswith('new'), int(which.split()[-1])
        tested = repeated(new)
        known, case = tested[number]
        return known, [{case: list(corrected_in_order(tested))[number]}]
    if name == 'digits':
        tested = digits()
        known = next(k for k, _ in tested if k.data['options']['train'] == int(which))
        found = zip(tested, corrected_in_order(tested), strict=True)
        return known, [{case: test for (k, case), test in found if k is known}]
    if which == 'new':
        tested = on_new_seeds(name)
        return tested[0][0], [corrected(tested)]
    if which:
        known = rates(name)
        cases = rate_cases(known)
        found = zip(
            cases, corrected_in_order((known[rate], case) for rate, case in cases), strict=True
        )
        return known[which], [{case: test for (rate, case), test in found if rate == which}]
    known = rows_of(name)
    each = families(name, known).values()
    return known, [corrected([(known, case) for case in cases]) for cases in each]


def corrected(tested):
    """What is compared -> its comparison and its p-value, corrected over all of these tests."""
    return dict(zip((case for _, case in tested), corrected_in_order(tested), strict=True))


def corrected_in_order(tested):
    """The comparison of each (runs, what is compared), and its p-value as of `corrected`."""
    made = [known.standings.compare(*case) for known, case in tested]
    return zip(made, holm([c.p for c in made]), strict=True)


def scores(known, label, column):
    """The scores of a row, one per seed, in percent."""
    at = [*known.columns].index(column)
    return 100 * known.values[known.groups[label], at]


def text_of(page):
    return re.sub(r'\s+', ' ', (ROOT / page).read_text())
