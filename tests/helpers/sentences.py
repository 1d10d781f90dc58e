"""The pages of the documentation, and the comparisons of committed records that they rest on."""

import re
from functools import cache
from pathlib import Path

from benchmark.report.comparison import holm
from docs.committed import RATES, rates, rows_of
from docs.comparisons import families, on_new_seeds, rate_cases

ROOT = Path(__file__).resolve().parents[2]


@cache
def compared(dataset):
    """The rows of a data set; per family, (first, second, column) -> comparison, corrected p.

    Grids have their own names, and RedCore's rates one for each rate: `rates_faces 0.9`. The new
    seeds alone of `eight_rooms` are called `eight_rooms new`.
    """
    name, _, rate = dataset.partition(' ')
    if rate == 'new':
        tested = on_new_seeds(name)
        made = [known.standings.compare(*case) for known, case in tested]
        adjusted = zip(made, holm([c.p for c in made]), strict=True)
        cases = [case for _, case in tested]
        return tested[0][0], [dict(zip(cases, adjusted, strict=True))]
    if rate:
        known = rates(RATES[name])
        cases = rate_cases(known)
        made = [known[at].standings.compare(*case) for at, case in cases]
        held = zip(cases, zip(made, holm([c.p for c in made]), strict=True), strict=True)
        return known[rate], [{case: found for (at, case), found in held if at == rate}]
    known, found = rows_of(name), []
    for cases in families(name, known).values():
        made = [known.standings.compare(*case) for case in cases]
        adjusted = zip(made, holm([c.p for c in made]), strict=True)
        found.append(dict(zip(cases, adjusted, strict=True)))
    return known, found


def scores(known, label, column):
    """The scores of a row, one per seed, in percent."""
    at = [*known.columns].index(column)
    return 100 * known.values[known.groups[label], at]


def text_of(page):
    return re.sub(r'\s+', ' ', (ROOT / page).read_text())
