"""The committed simulation of the tests: what it has to show, and what the text says of it."""

import math
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'tools'))
import simulate  # noqa: E402
import simulate_rules  # noqa: E402

TEXT = (ROOT / 'docs' / 'statistics.md').read_text(encoding='utf-8')
CHOSEN = simulate_rules.TABLES


def tables():
    """Returns the three tables of the page: repetitions, and the rows as title -> cell."""
    found = []
    for part in re.split(r'\n\n(?=\*\*)', simulate.PAGE.read_text(encoding='utf-8')):
        lines = [line[1:-1].split('|') for line in part.splitlines() if line.startswith('|')]
        lines = [[cell.strip() for cell in line] for line in lines]
        count = int(re.search(r'([\d,]+) (?:repetitions|draws|tables)', part)[1].replace(',', ''))
        rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
        found.append((count, rows))
    return found


CELLS, RULES, MARKED = tables()


def margin(share, count):
    """Two standard errors of a share that is estimated from so many repetitions."""
    return 2 * math.sqrt(share * (1 - share) / count)


def test_every_cell_keeps_the_level_the_tail_and_the_coverage():
    repetitions, rows = CELLS
    assert repetitions >= 10_000
    grid = {(row['seeds'], row['samples'], row['sd of seeds']) for row in rows}
    spreads = ('0.2', '0.5', '1', '1.5', '0.2 and 1.5')
    wanted = {(s, n, sd) for s in ('3', '5', '10') for n in ('200', '2,000') for sd in spreads}
    assert grid == wanted
    for row in rows:
        assert float(row['level %']) <= 5 + 100 * margin(0.05, repetitions)
        assert float(row['covered %']) >= 95 - 100 * margin(0.05, repetitions)
        for tests in simulate_rules.TAILS:
            share = 1.5 * 0.05 / tests
            most = 1.5 * (1 + margin(share, repetitions) / share)
            assert float(row[f'p < .05/{tests}, times too often']) <= most


def test_three_seeds_find_a_point_more_often_than_the_former_test():
    row = next(
        row
        for row in CELLS[1]
        if (row['seeds'], row['samples'], row['sd of seeds']) == ('3', '2,000', '0.2')
    )
    assert float(row['power %']) > 17
    # No test of this level has more than what the text tells.
    assert float(row['power %']) < float(re.search(r'power for one point is (\d+) %', TEXT)[1])


def test_the_rule_of_the_tables_is_the_one_that_keeps_level_and_tail_at_least_cost():
    repetitions, rows = RULES
    kept = {}
    for row in rows:
        held = float(row['level %, N = 2,000']) <= 5 + 100 * margin(0.05, repetitions)
        held &= float(row['level %, N = 20,000']) <= 5 + 100 * margin(0.05, repetitions)
        tails = [float(row[f'p < .05/{m}, times too often, N = 2,000']) for m in (7, 20)]
        if held and max(tails) <= 1.5 and row['rule'] != 'all variances known':
            kept[row['rule']] = [float(v) for title, v in row.items() if title.startswith('power')]
    assert max(kept, key=lambda rule: kept[rule][0]) == CHOSEN
    assert 'S - 1 each (Welch, Satterthwaite)' not in kept


def test_the_page_is_that_of_the_code():
    repetitions, rows = RULES
    found = simulate_rules.rates(3, 2000, (0.2, 0.2), repetitions)
    for row in rows:
        assert row['power %, 3 seeds, sd 0.2'] == f'{found[row["rule"]][-1]:.0f}'


def test_the_text_tells_the_numbers_of_the_page():
    friedman = [float(row['Friedman over subsets %'] or 'nan') for row in MARKED[1]]
    friedman = [f for f in friedman if not math.isnan(f)]
    assert f'different in {min(friedman):.0f} to {max(friedman):.0f} %' in ' '.join(TEXT.split())
    row = next(row for row in RULES[1] if row['rule'] == CHOSEN)
    tail = row['p < .05/20, times too often, N = 20,000']
    assert f'up to {tail} times too often' in ' '.join(TEXT.split())


@pytest.mark.parametrize('row', MARKED[1], ids=lambda row: f'{row["methods"]}-{row["seeds"]}')
def test_marks_and_intervals_of_ranks_err_in_five_percent_of_tables_at_most(row):
    most = 5 + 100 * margin(0.05, MARKED[0])
    for title in ('marked in the mean %', 'elsewhere %', 'rank intervals that miss %'):
        assert float(row[title] or 0) <= most
