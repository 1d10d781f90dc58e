"""The page: the data of all blocks, put into the template."""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError, noting
from benchmark.files import writing
from benchmark.records import corruptions, store
from benchmark.records.repetition import placed
from benchmark.report import arguments, captions, escaping, published, settings, writer
from benchmark.report.page import (
    bundle,
    charts,
    corrupted,
    costs,
    curves,
    gallery,
    lattice,
    predictions,
    reading,
    scores,
)
from benchmark.report.page.view import Section, View, lacking, section, tidy
from benchmark.report.table import Block

if TYPE_CHECKING:
    import jinja2

NAME = 'index.html'
HERE = Path(__file__).parent


def write(results: Path, runs: Path | None = None, datasets: Sequence[str] = ()) -> list[UserError]:
    """Writes `<results>/index.html` from the records of all data sets.

    Args:
        results: The results folder.
        runs: The folder of runs, by default `<results>/runs`.
        datasets: The data sets, by default all that have runs.

    Returns:
        Why a data set is not on the page, one error for each; the page tells it, too.

    Raises:
        UserError: There are no runs, none of a data set that was named, or the page cannot be
            written. The page that stands there stays.
    """
    root = runs or results / 'runs'
    names = arguments.datasets(root, datasets)
    for folder in (writer.folder_of(name, root) for name in datasets):
        if not folder.is_dir():
            raise arguments.without_runs(folder)
    made: list[dict[str, Any]] = []
    errors: list[UserError] = []
    for name in names:
        with noting(f'{name}: its part of the page', errors):
            made.append(dataset(name, writer.folder_of(name, root), f'd{len(made)}'))
    text = render(made, tidy(map(str, errors)))
    with writing(results / NAME) as file:
        file.write(text.encode())
    return errors


def show(results: Path, runs: Path | None = None, datasets: Sequence[str] = ()) -> bool:
    """Writes the page and prints where it is, or in one line each what is missing and why.

    Nothing that goes wrong here ends a command, whose records and tables are written already.

    Returns:
        Whether all data sets are on the page.
    """
    errors: list[UserError] = []
    with noting(f'{results / NAME}', errors):
        errors += store.up_to_date(runs or results / 'runs', lambda: write(results, runs, datasets))
        print(f'written: {results / NAME}')
    for why in errors:
        print(f'error: {why}', file=sys.stderr)
    return not errors


def dataset(name: str, root: Path, id: str) -> dict[str, Any]:
    """Returns all that the page tells of a data set.

    Args:
        name: Its name.
        root: The folder of its runs.
        id: Identifies it on the page.

    Raises:
        UserError: There is no such folder.
    """
    found = reading.read(name, root, id)
    lost = itertools.chain(*found.table.unfinished.values())
    tested = corruptions.scan(root)
    told = [*found.problems, *tested.problems, *lost, *_unfinished(root)]
    return {
        'id': id,
        'name': escaping.terminal(name),
        'blocks': [
            block(view, found, tested.tests, title)
            for view, title in zip(found.views, _titles(found.views), strict=True)
        ],
        'problems': tidy(placed(line.replace(f'{root}/', ''), root.parent) for line in told),
    }


def _unfinished(root: Path) -> list[str]:
    """Names the folders of runs that have no record, which a teacher's never has."""
    folders = [d for d in sorted(root.glob('*/*/seed*')) if d.is_dir()]
    without = [d for d in folders if not (d / store.RECORD).is_file()]
    trained = 'trained and not tested, as a teacher is'
    return [f'{trained if (d / store.TRAINED).is_file() else "not finished"}: {d}' for d in without]


def _titles(views: Sequence[View]) -> list[str]:
    """Returns the titles of blocks; equal ones are followed by what tells their protocols apart."""
    alike: dict[str, list[View]] = {}
    for view in views:
        alike.setdefault(captions.title(view.block), []).append(view)
    found = {
        view.id: f'{title}, {words}' if words else title
        for title, own in alike.items()
        for view, words in zip(own, settings.apart([v.runs for v in own]), strict=True)
    }
    return [found[view.id] for view in views]


def block(
    view: View, found: reading.Reading, tests: Mapping[str, corruptions.Tests], title: str
) -> dict[str, Any]:
    """Returns all that the page tells of a block.

    Args:
        view: The block.
        found: What was read of its data set.
        tests: Identity of a run -> its tests under corruptions.
        title: Its title.
    """
    seen = found.seen(view)
    makers: list[tuple[str, Callable[[], Section]]] = [
        ('Methods and subsets', lambda: scores.heatmap(view)),
        ('Number of missing modalities', lambda: scores.missing(view)),
        ('Expected score', lambda: lattice.failing(view)),
        ('Shapley values', lambda: lattice.shapley(view)),
        ('Ranks', lambda: scores.ranks(view)),
        ('Cost', lambda: costs.section_of(view)),
        ('Calibration', lambda: predictions.calibrated(view, seen)),
        ('Classes', lambda: predictions.confused(view, seen)),
        ('Corruptions', lambda: corrupted.section_of(view, tests)),
        ('Training', lambda: curves.section_of(view, found.folder)),
        ('Samples', lambda: gallery.section_of(view, found.folder)),
    ]
    sections = [_or_reason(f'{view.id}s{k}', *maker) for k, maker in enumerate(makers)]
    return {
        'id': view.id,
        'title': escaping.terminal(title),
        'protocol': escaping.terminal(view.runs.protocol_id),
        'size': escaping.terminal(captions.size(view.block)),
        'caption': escaping.terminal(captions.caption(view.block)),
        'methods': view.methods,
        'chosen': view.chosen,
        'table': scores.table(view),
        'sections': sections,
        'failures': tidy(captions.failures(view.block)),
        'notes': tidy(_notes(view.block)),
    }


def _notes(block: Block) -> list[str]:
    return [*captions.notes(block), *captions.origins(block), *published.sources(block.shown)]


def _or_reason(id: str, title: str, make: Callable[[], Section]) -> Section:
    """Returns a section, or why it cannot be made: the others do not depend on it."""
    try:
        return make()
    except Exception as error:
        why = escaping.terminal(f'{type(error).__name__}: {error}')
        return section(id, title, '', lacking(f'This section cannot be made: {why}'))


def render(made: Sequence[dict[str, Any]], errors: Sequence[str] = ()) -> str:
    """Returns the page.

    Args:
        made: What `dataset` returned, for each data set.
        errors: Why a data set is not among them.
    """
    blocks = [block for each in made for block in each['blocks']]
    gallery.limited(blocks)
    shown = {
        'charts': charts.CHARTS,
        'blocks': {b['id']: {'methods': b['methods']} for b in blocks},
        'parts': {
            part['id']: {**part, 'block': b['id']}
            for b in blocks
            for each in b['sections']
            for part in each['parts']
            if part['kind'] not in ('lacking', 'gallery')
        },
    }
    return template('page.html.j2').render(
        datasets=made,
        errors=errors,
        data=_json(shown),
        vega=_code(bundle.javascript()) if shown['parts'] else '',
        script=_code((HERE / 'page.js').read_text(encoding='utf-8')),
        style=style(),
    )


def style() -> str:
    """Returns the style of the page, pictures of samples included."""
    return '\n'.join((HERE / f'{n}.css').read_text(encoding='utf-8') for n in ('page', 'gallery'))


@functools.cache
def template(name: str) -> jinja2.Template:
    """Returns a template of this folder."""
    import jinja2  # the help of the commands does not need it
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Names of methods are long, and browsers break lines at spaces and after hyphens alone.
    environment.filters['breakable'] = lambda name: markupsafe.Markup('<wbr>').join(
        re.split('(?<=[_:=])', name)
    )
    return environment.get_template(name)


def _json(value: Any) -> str:
    """Returns JSON that cannot end the element <script> that it stands in."""
    return json.dumps(value, separators=(',', ':')).replace('<', r'\u003c')


def _code(text: str) -> str:
    """Returns JavaScript whose strings cannot end the element <script> that it stands in."""
    return re.sub('<(/script|!--)', r'\\u003c\1', text, flags=re.IGNORECASE)
