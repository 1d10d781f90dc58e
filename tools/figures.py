"""Draws where a method passes modality dropout, by training samples and width of the network.

    python benchmark/run.py --grid sign-flip --results results/sign-flip
    python tools/figures.py results/sign-flip

writes `sign-flip.svg` and `sign-flip.md` into the folder `figures` of the results. Another grid is
given by `--grid FILE.yaml`: it varies `train` and `width`, all its methods are compared with the
first one, and the figure has the name of the file.

Each panel shows one method on one data set: its mean over subsets less that of the first method, in
points of the metric and with the sign that makes a better method positive, with the 95 % interval
of `benchmark.report.comparison`. The records are read as tables read them, so runs that contradict
their outcomes do not count. What the grid runs and the folder lacks is listed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path[0] = str(ROOT)

import matplotlib as mpl  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmark.engine.grid_file import grid_of  # noqa: E402
from benchmark.engine.grids import NamedGrid  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.records import store  # noqa: E402
from benchmark.records.schema import Record  # noqa: E402
from benchmark.report import comparison, settings  # noqa: E402
from benchmark.report.comparison import LEVEL, Comparison, p_text  # noqa: E402
from benchmark.report.runs import Loader, Runs, gather  # noqa: E402
from benchmark.report.standings import MAIN  # noqa: E402

DEFAULT = grid_of('sign-flip')
STYLE = {
    # Glyphs are drawn as paths, so that no font is needed where the figure is read.
    'svg.fonttype': 'path',
    'svg.hashsalt': 'sign-flip',
    'font.size': 8,
    'axes.spines.top': False,
    'axes.spines.right': False,
}
LINES = (('o', '-', '0'), ('s', '--', '0.35'), ('^', ':', '0.55'), ('D', '-.', '0.7'))
"""Marker, line and grey of each width, which differ without colour."""

STEP = 1.1
"""Factor by which the marks of one width stand to the right of those of the next smaller one."""


class Point(NamedTuple):
    """One method against the baseline under one setting of the data set.

    Attributes:
        dataset, metric, baseline, method: What is measured, by name.
        train, width: The training samples, and the channels of the encoders' first stage.
        seeds: The seeds that both have.
        means: The means of the baseline and of the method over subsets and these seeds, fractions.
        gain: Method less baseline as fractions, positive where the method is better; only the
            difference is a number where nothing can be tested.
    """

    dataset: str
    metric: str
    baseline: str
    method: str
    train: int
    width: int
    seeds: tuple[int, ...]
    means: tuple[float, float]
    gain: Comparison


def points(
    records: Sequence[Record], outcomes: Loader, problems: list[str], grid: NamedGrid
) -> tuple[list[Point], list[str]]:
    """Compares every method of the grid with the baseline under each setting of one data set.

    Args:
        records: The finished runs on the data set.
        outcomes: Returns the outcomes of a record's run.
        problems: Takes one line for each run that does not count.
        grid: Its first method is the baseline.

    Returns:
        The points, and one line for each run that the grid has and the records lack.

    Raises:
        UserError: One setting has runs of several protocols or of several versions of the data.
    """
    found: list[Point] = []
    baseline, *methods = grid.methods
    held: dict[tuple[int, int], Runs] = {}
    for runs in gather(records, outcomes, problems):
        options = runs.data['options']
        if not {'train', 'width'} <= set(options):
            continue
        setting = int(options['train']), int(options['width'])
        if setting in held:
            raise UserError(
                f'{settings.named(runs)}: expected one protocol for train={setting[0]} '
                f'width={setting[1]}, found {held[setting].protocol_id} and {runs.protocol_id}'
            )
        held[setting] = runs
        pairs = [(baseline, method) for method in methods]
        found += [p for pair in pairs if (p := _point(pair, setting, runs, outcomes))]
    order = sorted(found, key=lambda p: (p.train, p.width, methods.index(p.method)))
    return order, list(_lacking(held, records, grid))


def _point(
    both: tuple[str, str], setting: tuple[int, int], runs: Runs, outcomes: Loader
) -> Point | None:
    """Returns the comparison of baseline and method, None where one of them lacks."""
    baseline, method = both
    chosen = [runs.records[i] for m in both for i in runs.groups.get(m, [])]
    pair = Runs(chosen, outcomes, []) if chosen else runs
    if set(both) - set(pair.groups):
        return None
    seeds = {m: {pair.records[i]['seed']: i for i in pair.groups[m]} for m in both}
    shared = sorted(set(seeds[baseline]) & set(seeds[method]))
    if not shared:
        return None
    place = list(pair.columns).index(MAIN)
    base, own = (float(np.mean([pair.values[seeds[m][s], place] for s in shared])) for m in both)
    standings = pair.standings
    if standings.lacking or standings.left_out:
        told = Comparison(own - base, math.nan, math.nan, math.nan)
    else:
        told = standings.compare(method, baseline, MAIN)
    if not pair.higher:
        told = told._replace(difference=-told.difference, low=-told.high, high=-told.low)
    name = pair.data['name']
    return Point(name, pair.metric, *both, *setting, tuple(shared), (base, own), told)


def _lacking(
    held: dict[tuple[int, int], Runs], records: Sequence[Record], grid: NamedGrid
) -> Iterator[str]:
    """Tells which runs of the grid are not among those that count."""
    name = records[0]['dataset']['name']
    for setting in grid.settings:
        train, width = int(setting['train']), int(setting['width'])
        runs = held.get((train, width))
        if runs is None:
            yield f'{name} train={train} width={width}: every run'
            continue
        for method in grid.methods:
            there = {runs.records[i]['seed'] for i in runs.groups.get(method, [])}
            if missing := [str(seed) for seed in grid.seeds if seed not in there]:
                told = f'seed{"s" if len(missing) > 1 else ""} {", ".join(missing)}'
                yield f'{name} train={train} width={width}: {method}, {told}'


def read(results: Path, grid: NamedGrid = DEFAULT) -> tuple[list[Point], list[str], list[str]]:
    """Returns the points of all data sets, what lacks and what does not count.

    Raises:
        UserError: No run of the grid is in the folder.
    """
    found, lacking, problems = list[Point](), list[str](), list[str]()
    for folder in sorted(path for path in (results / 'runs').glob('*') if path.is_dir()):
        scan = store.scan(folder)
        problems += scan.problems
        files = {record['identity']: path for path, record in scan.complete.items()}

        def load(record: Record, files: dict[str, Path] = files) -> object:
            return store.read_outcomes(files[record['identity']].with_name(store.OUTCOMES), record)

        if scan.complete:
            here, missing = points(list(scan.complete.values()), load, problems, grid)
            found, lacking = found + here, lacking + missing
    if not found:
        raise UserError(
            f'{results / "runs"}: expected runs of {grid.methods[0]} and of another method of '
            f'--grid {grid.name}, found none with equal data and seeds'
        )
    return found, lacking, problems


def draw(found: Sequence[Point]) -> Figure:
    """Draws a row of panels for each method and a column for each data set."""
    sets = list(dict.fromkeys((p.dataset, p.metric) for p in found))
    methods = list(dict.fromkeys(p.method for p in found))
    widths = sorted({p.width for p in found})
    figure = Figure(figsize=(1 + 3 * len(sets), 0.6 + 2.1 * len(methods)), layout='constrained')
    panels = figure.subplots(len(methods), len(sets), squeeze=False, sharex=True, sharey='col')
    for row, method in zip(panels, methods, strict=True):
        for panel, (dataset, metric) in zip(row, sets, strict=True):
            here = [p for p in found if (p.method, p.dataset) == (method, dataset)]
            _panel(panel, here, widths)
            panel.set_title(f'{dataset}: {method}')
            panel.set_ylabel(f'points of {metric} gained\nover {found[0].baseline}')
    trains = sorted({p.train for p in found})
    # All panels have the ticks of the last row, also where a data set lacks some of them.
    for panel in panels[-1]:
        panel.set_xticks(trains, [f'{t:,}' for t in trains])
        panel.minorticks_off()
        panel.set_xlabel('training samples')
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=4)
    return figure


def _panel(panel, found: Sequence[Point], widths: Sequence[int]) -> None:  # noqa: ANN001
    """Draws the lines of one method on one data set; a mark without an interval is open."""
    panel.axhline(0, color='0', linewidth=0.6)
    panel.set_xscale('log')
    for k, width in enumerate(widths):
        marker, line, grey = LINES[k % len(LINES)]
        here = sorted((p for p in found if p.width == width), key=lambda p: p.train)
        x = [p.train * STEP ** (k - (len(widths) - 1) / 2) for p in here]
        y = [100 * p.gain.difference for p in here]
        panel.plot(x, y, line, color=grey, linewidth=1, marker=marker, label=f'width {width}')
        for at, point in zip(x, here, strict=True):
            gain = point.gain
            value, low, high = (100 * v for v in (gain.difference, gain.low, gain.high))
            if math.isnan(low):
                panel.plot([at], [value], marker, color=grey, markerfacecolor='1')
            else:
                panel.plot([at, at], [low, high], color=grey, linewidth=1, marker='_')


def table(found: Sequence[Point]) -> list[str]:
    """Returns the lines of a Markdown table, and what is proven on each data set."""
    lines = [
        '| data set | method | training samples | width | seeds | '
        f'{found[0].baseline} % | method % | points gained | 95 % interval | p (Holm) |',
        '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |',
    ]
    told = []
    for dataset, method in dict.fromkeys((p.dataset, p.method) for p in found):
        family = [p for p in found if (p.dataset, p.method) == (dataset, method)]
        tested = [p for p in family if not math.isnan(p.gain.p)]
        adjusted = dict(zip(tested, comparison.holm([p.gain.p for p in tested]), strict=True))
        lines += [_line(p, adjusted.get(p, math.nan)) for p in family]
        told.append(_verdict(family[0], adjusted))
    return [*lines, '', *told]


def _line(point: Point, p: float) -> str:
    base, own = (f'{100 * value:.2f}' for value in point.means)
    gain = point.gain
    interval = '' if math.isnan(gain.low) else f'{100 * gain.low:+.2f} to {100 * gain.high:+.2f}'
    cells = [
        f'{point.dataset} ({point.metric})', point.method, f'{point.train}', f'{point.width}',
        f'{len(point.seeds)}', base, own, f'{100 * gain.difference:+.2f}', interval,
        '' if math.isnan(p) else p_text(p),
    ]  # fmt: skip
    return f'| {" | ".join(cells)} |'


def _verdict(first: Point, adjusted: dict[Point, float]) -> str:
    """Says in how many settings which of the two is better with p below the level."""
    proven = [point.gain.difference > 0 for point, p in adjusted.items() if p < LEVEL]
    better, others = sum(proven), len(adjusted) - len(proven)
    return (
        f'- {first.dataset}, {first.method} against {first.baseline}: better in {better}, worse in '
        f'{len(proven) - better}, and not distinguishable in {others} of '
        f'the settings that could be tested (p < {LEVEL} after correction).'
    )


def page(
    found: Sequence[Point],
    lacking: Sequence[str],
    problems: Iterable[str],
    name: str = DEFAULT.name,
) -> str:
    """Returns the Markdown file: figure, table, what the grid still lacks, what does not count."""
    baseline = found[0].baseline
    text = [
        f'# {baseline} and other methods by training samples and width',
        '',
        f'![Differences to {baseline}]({name}.svg)',
        '',
        f'Each number is over the seeds that the method and {baseline} share. Differences are in '
        'points of the metric, positive where the method is better. The intervals are not '
        'corrected; p is corrected by Holm over the settings of one method on one data set. '
        'A mark without an interval, open in the figure, could not be tested.',
        '',
        *table(found),
    ]
    for title, lines in (('Missing runs of the grid', lacking), ('Not counted', list(problems))):
        if lines:
            text += ['', f'## {title}', '', *(f'- {line}' for line in lines)]
    return '\n'.join(text) + '\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figure and writes the table of a results folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('results', type=Path, help='the results folder of the grid')
    parser.add_argument('--grid', default=DEFAULT.name, help='the grid (%(default)s), or its file')
    given = parser.parse_args(arguments)
    try:
        grid = grid_of(given.grid)
        if not {'train', 'width'} <= grid.varied.keys() or len(grid.methods) < 2:
            raise UserError(
                f'--grid {given.grid}: expected several methods, train and width in vary, found '
                f'{len(grid.methods)} and {", ".join(grid.varied) or "nothing"}'
            )
        found, lacking, problems = read(given.results, grid)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    (target := given.results / 'figures').mkdir(exist_ok=True)
    name = Path(grid.name).stem
    with mpl.rc_context(STYLE):
        draw(found).savefig(target / f'{name}.svg', metadata={'Date': None})
    (target / f'{name}.md').write_text(page(found, lacking, problems, name), encoding='utf-8')
    for line in lacking:
        print(f'missing: {line}')
    print(f'written: {target / name}.svg and .md')
    return 0


if __name__ == '__main__':
    sys.exit(main())
