"""Draws figures for a paper from recorded runs; nothing is trained, and torch is not loaded."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.files import user_path, writing
from benchmark.records import corruptions
from benchmark.records.repetition import placed
from benchmark.report import escaping, writer
from benchmark.report.arguments import add_metric, add_records, add_selection, datasets
from benchmark.report.figures.charts import CHARTS
from benchmark.report.figures.formats import FORMATS, Settings, settings_of
from benchmark.report.figures.shapes import Picture
from benchmark.report.figures.source import Asked, Source
from benchmark.report.page import curves, reading
from benchmark.report.render import comma_separated
from benchmark.report.selection import Selection, with_summaries
from benchmark.report.writer import Lacking
from benchmark.streams import Parser, telling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = """examples:
  python benchmark/plot.py results
      all charts of all data sets, as PDF of one column's width, written to results/figures
  python benchmark/plot.py results --chart missing shapley --format pdf,png
      two charts, each in two formats
  python benchmark/plot.py results --chart scores --width text --out paper/figures
      the heatmap over both columns of a page
  python benchmark/plot.py results --chart difference --baseline modality_dropout
      every method less one of them
  python benchmark/plot.py results --chart expected --fail rgb=0.05,ir=0.1
      the expected score if these sensors fail now and then
  python benchmark/plot.py results --chart missing --only hemis mmanet --data
      two methods alone, and the numbers of the figure as CSV
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/plot.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records(p, 'the figures go to figures/ in it')
    p.add_argument(
        '--out',
        type=partial(user_path, what='--out'),
        metavar='FIGURES',
        help='folder of the figures (default: RESULTS/figures)',
    )
    p.add_argument(
        '--chart',
        nargs='+',
        default=(),
        metavar='NAME',
        help=f'charts: {", ".join(CHARTS)} (default: all)',
    )
    p.add_argument(
        '--format',
        default='pdf',
        metavar='NAME,...',
        help=f'formats of the files: {", ".join(FORMATS)} (default: pdf)',
    )
    p.add_argument(
        '--width',
        default='column',
        metavar='WIDTH',
        help='column (3.25 inches), text (6.75 inches) or a number of inches (default: column)',
    )
    p.add_argument(
        '--subsets',
        nargs='+',
        default=(),
        metavar='SUBSET',
        help='the subsets to show, e.g. rgb rgb+depth (default: all; in charts with a figure for '
        'each subset, that of all modalities)',
    )
    p.add_argument(
        '--baseline',
        default='',
        metavar='METHOD',
        help='the row of which the chart difference shows the differences (default: the best one)',
    )
    p.add_argument(
        '--data',
        action='store_true',
        help='also write the numbers of each figure to a CSV file beside it',
    )
    add_metric(p)
    add_selection(p)
    return p


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 2 if something could not be made.

    Raises:
        UserError: Nothing could be made, which is told with status 2.
    """
    args = parser().parse_args(argv)
    settings = settings_of(args)
    columns = with_summaries({s: s for s in args.subsets}, args.summaries)
    root = args.runs or args.results / 'runs'
    names = datasets(root, args.datasets)
    out = args.out or args.results / 'figures'
    asked = Asked(args.summaries, args.baseline, args.subsets, bool(args.only))
    selection = Selection(tuple(args.only), args.where, args.fail)
    written, errors = 0, list[UserError]()
    for name in names:
        try:
            folder = writer.folder_of(name, root)
            found = reading.read(name, folder, '', columns, args.metric, selection)
            tests, problems = corruptions.scan(folder)
            for line in [*found.problems, *problems]:
                told = placed(line.replace(f'{folder}/', ''), folder.parent)
                print(f'not counted: {escaping.terminal(told)}')
            written += _data_set(out / name, found, settings, selection.suffix, asked, tests)
        except UserError as error:
            errors.append(error)
    return _tell(errors, written, bool(args.datasets))


def _tell(errors: Sequence[UserError], written: int, named: bool) -> int:
    """Tells why data sets have no figures; returns the exit status.

    Raises:
        UserError: No data set has any, or one has none that was named.
    """
    # An argument that is wrong for all data sets is told once.
    errors = list({str(error): error for error in errors}.values())
    failed = [error for error in errors if not isinstance(error, Lacking)]
    if errors and (named or not written):
        for error in errors[1:]:
            print(f'left out: {error}')
        raise errors[0]
    for error in errors:
        print(f'left out: {error}')
    return 2 if failed else 0


def _data_set(
    out: Path,
    found: reading.Reading,
    settings: Settings,
    suffix: str,
    asked: Asked,
    tests: Mapping[str, corruptions.Tests],
) -> int:
    """Writes the figures of a data set; returns how many there are.

    Args:
        out: What the names of the files begin with; it ends in the name of the data set.
        found: The records.
        settings: How figures are written.
        suffix: What the names of the files end in.
        asked: What to show.
        tests: Identity of a run -> its tests under corruptions.

    Raises:
        UserError: There is none, or a file cannot be written.
    """
    if not found.views:
        raise Lacking(f'{out.name}: there is no finished run')
    count, lacking = 0, list[str]()
    for view in found.views:
        runs = view.runs
        end = ('' if runs.main else f'-{runs.metric}') + suffix
        stem = f'{out.name}-{runs.protocol_id}' if len(found.views) > 1 else out.name
        training = curves.section_of(view, found.folder)
        source = Source(view, found.seen(view), training, asked, tests)
        for chart in settings.charts:
            try:
                for picture in CHARTS[chart](source):
                    _write(out.with_name(f'{stem}-{picture.name}{end}'), picture, settings)
                    count += 1
            except Lacking as lack:
                lacking.append(f'{stem}-{chart}: {lack}')
    if not count:
        raise Lacking('; '.join(lacking))
    for why in lacking:
        print(f'left out: {escaping.terminal(why)}')
    return count


def _write(stem: Path, picture: Picture, settings: Settings) -> None:
    """Writes a figure in all formats, its pages with numbers, and says so."""
    from benchmark.report.figures.drawing import pages, sheets  # loads matplotlib

    with warnings.catch_warnings(record=True) as told, sheets.styled():
        warnings.simplefilter('always')
        figures = pages.draw(picture.shape, settings.width)
        for stem_of_page, figure in _pages(stem, figures):
            for suffix in settings.formats:
                _save(stem_of_page, suffix, picture, figure)
    if settings.data:
        text = comma_separated([list(picture.header), *_cells(picture)])
        writer.write_text(stem.with_name(f'{stem.name}.csv'), text)
    suffixes = [f'.{suffix}' for suffix in (*settings.formats, *['csv'] * settings.data)]
    first = f'{stem}{"-1" if len(figures) > 1 else ""}'
    more = f' ({len(figures)} pages)' if len(figures) > 1 else ''
    print(f'written: {first}{", ".join(suffixes)}{more}')
    for line in filter(None, (picture.note, _boxes([str(w.message) for w in told]))):
        print(f'note: {escaping.terminal(f"{stem.name}: {line}")}')


def _pages(stem: Path, figures: Sequence[Figure]) -> Iterator[tuple[Path, Figure]]:
    """Yields the stem of each page and the page; several pages have numbers."""
    for k, figure in enumerate(figures):
        yield stem.with_name(f'{stem.name}-{k + 1}') if len(figures) > 1 else stem, figure


def _save(stem: Path, suffix: str, picture: Picture, figure: Figure) -> None:
    """Writes a page, without a date, so that equal records make equal files."""
    title, about = picture.title, picture.about
    told: dict[str, dict[str, Any]] = {
        'pdf': {'Title': title, 'Subject': about, 'CreationDate': None},
        'svg': {'Title': title, 'Description': about, 'Date': None},
        'png': {'Title': title, 'Description': about},
    }
    with writing(stem.with_name(f'{stem.name}.{suffix}')) as file:
        figure.savefig(file, format=suffix, metadata=told[suffix])


def _cells(picture: Picture) -> list[list[str | float]]:
    return [['' if cell is None else cell for cell in row] for row in picture.rows]


def _boxes(warned: Sequence[str]) -> str:
    """Says which characters the font lacks, if warnings tell of any."""
    numbers = {int(n) for text in warned for n in re.findall(r'Glyph (\d+) .*missing from', text)}
    lacking = ' '.join(map(chr, sorted(numbers)))
    return f'the font shows boxes in the place of {lacking}' if lacking else ''
