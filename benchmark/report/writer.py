"""Writes and prints the tables of a data set, from its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark import tested
from benchmark.errors import UserError, unknown
from benchmark.files import writing
from benchmark.records import metrics, store
from benchmark.records.repetition import placed
from benchmark.records.schema import Outcomes, Record, Unscored, is_external, test_scores
from benchmark.records.units import shown
from benchmark.report import arguments, baseline, captions, common, escaping, gaps
from benchmark.report.cost_table import TextTable
from benchmark.report.published import published
from benchmark.report.render import FORMATS, comma_separated, grid, latex_of, section, terminal
from benchmark.report.runs import Loader, NoColumn, Runs, gather
from benchmark.report.selection import EVERYTHING, Selection
from benchmark.report.table import Block, Table
from benchmark.subsets import subset_order


class Lacking(UserError):
    """The records of a data set lack what was asked for; those of another may have it.

    Args:
        error: What is lacking.
        metrics: The metrics that the records hold, if it is a metric that is lacking.
    """

    def __init__(self, error: object, metrics: Iterable[str] = ()) -> None:
        super().__init__(str(error))
        self.metrics = set(metrics)


def table(
    complete: Iterable[Record],
    outcomes: Loader,
    unscored: Iterable[Unscored] = (),
    published: Iterable[Mapping[str, Any]] = (),
    columns: Mapping[str, str] | None = None,
    metric: str = '',
    by_gaps: bool = False,
    selection: Selection = EVERYTHING,
) -> Table:
    """Makes the table of one data set.

    Args:
        complete: Records of finished runs.
        outcomes: Returns the outcomes of a record's run, for significance.
        unscored: Records of failed and refused runs, to be listed.
        published: Rows of `results/published/<dataset>.json`.
        columns: Subset id -> column title, in the order of a paper's table; by default all subsets,
            smallest first.
        metric: The metric to show, by default the data set's own.
        by_gaps: Whether to make the table by training gaps, too.
        selection: Which methods to show, and which sensors are off or fail.
    """
    complete, unscored = list(complete), list(unscored)
    shown = set(map(id, selection.kept([*complete, *unscored])))
    complete = [r for r in complete if id(r) in shown]
    complete, outcomes = selection.without(complete, outcomes)
    unscored = [r for r in unscored if id(r) in shown]
    rest, problems = unscored, list[str]()
    name = next((record['dataset']['name'] for record in [*complete, *rest]), '')
    blocks = []
    gathered = gather(complete, outcomes, problems, metric, columns, selection.absent)
    for runs in gathered:
        here = [r for r in rest if r['protocol_id'] == runs.protocol_id]
        blocks.append(Block({'': runs}, here, *_beside(selection, runs, published)))
        rest = [r for r in rest if r not in here]
    unfinished = captions.by_protocol(rest)
    joined = None
    if by_gaps:
        ours = [r for r in complete if not is_external(r)]  # the gaps of others are not known
        if len(ours) < len(complete):
            gathered = gather(ours, outcomes, [], metric, columns, selection.absent)
        found = gaps.joined(gathered).items()
        members = [
            Block(leads, [r for r in unscored if gaps.base(r) == k], told=_told(selection, leads))
            for k, leads in found
        ]
        joined = Table(name, members, problems, unfinished=unfinished)
    return Table(name, blocks, problems, joined, unfinished=unfinished)


def _beside(
    selection: Selection, runs: Runs, published: Iterable[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], str]:
    """Returns the rows of papers to show beneath runs, and sentences on what was asked for."""
    told = selection.told(runs.data['modalities'])
    return selection.published(list(published), runs.data), told


def _told(selection: Selection, leads: Mapping[str, Runs]) -> str:
    return selection.told(next(iter(leads.values())).data['modalities'])


def write_tables(
    results: Path,
    dataset: str,
    runs: Path | None = None,
    by_gaps: bool = False,
    metric: str = '',
    columns: Mapping[str, str] | None = None,
    transposed: bool = False,
    same_samples: bool = False,
    selection: Selection = EVERYTHING,
) -> Table:
    """Reads the records of a data set and writes `<results>/tables/<dataset>.md`, `.tex`, `.csv`.

    Args:
        results: The results folder.
        dataset: Name of the data set and of its folder.
        runs: The folder of runs, by default `<results>/runs`.
        by_gaps: Whether to write `<dataset>-gaps.*` too, with rows by training gaps.
        metric: The metric to show, by default the data set's own; the names of the files end in the
            name of any other.
        columns: As in `table`.
        transposed: Whether LaTeX has a row per subset and a column per method.
        same_samples: Whether to score all subsets on the test samples that every subset was tested
            on; the names of the files then end in '-common'.
        selection: Which rows and subsets to show; the names of the files end in what it says.

    Raises:
        Lacking: No record holds the metric, a column, method or modality does not exist, or
            `by_gaps` is set and no run has training gaps.
        UserError: There is no record, or the tables cannot be written.
    """
    root = folder_of(dataset, runs or results / 'runs')
    found = store.scan(root)
    if not any(found):
        raise arguments.without_runs(root)
    if metric and metric not in (known := _metrics(found)):
        raise Lacking(arguments.no_metric(f'metric of {dataset}', metric, known), known)
    complete, unscored = list(found.complete.values()), list(found.unscored.values())
    left_out: list[str] = []
    load = loader(found)
    if same_samples:
        complete, load = common.on_common_samples(complete, load, left_out)
    asked = (published(dataset, left_out), columns, metric, by_gaps, selection)
    made = _table_or_lacking(dataset, complete, load, unscored, *asked)
    if metric and not made.blocks:
        raise unproven(dataset, metric, found)
    told = dict.fromkeys([*found.problems, *left_out, *made.problems])
    problems = [placed(line.replace(f'{root}/', ''), root.parent) for line in told]
    own = {'', *(r['dataset']['metric'] for r in complete)}
    suffix = ('' if metric in own else f'-{metric}') + ('-common' if same_samples else '')
    suffix += selection.suffix
    stem, other = (results / 'tables' / f'{dataset}{part}{suffix}' for part in ('', '-gaps'))
    lost = made.unfinished
    joined = made.gaps and Table(dataset, made.gaps.blocks, problems, None, False, other, lost)
    made = Table(dataset, made.blocks, problems, joined, transposed, stem, lost)
    if joined and not joined.blocks and not any(r['protocol'].get('rates') for r in unscored):
        raise Lacking(f'{dataset}: no run with training gaps (rates)')
    for each in filter(None, (joined, made)):
        _write(each.stem or stem, each)
    return made


def unproven(dataset: str, metric: str, found: store.Scan) -> Lacking:
    """Returns the error on a metric that the outcomes do not tell, and the records may hold."""
    if metric in (held := _held(found)):
        return Lacking(f'{dataset}: no run has outcomes that prove its {metric}')
    return Lacking(arguments.no_metric(f'metric of {dataset}', metric, held), held)


def folder_of(dataset: str, runs: Path) -> Path:
    """Returns the folder of a data set's records.

    Raises:
        UserError: The name is empty or holds a path.
    """
    if dataset in ('', '..') or Path(dataset).name != dataset:
        raise UserError(f'--datasets: expected the name of a data set, found {dataset!r}')
    return runs / dataset


def loader(found: store.Scan) -> Loader:
    """Returns what reads the outcomes that lie beside a record."""
    files = {record['identity']: path for path, record in found.complete.items()}

    def load(record: Record) -> Outcomes | None:
        return store.read_outcomes(files[record['identity']].with_name(store.OUTCOMES), record)

    return load


def _table_or_lacking(dataset: str, *arguments: Any) -> Table:
    """Returns the table; a column that does not exist is lacking in this data set alone."""
    try:
        return table(*arguments)
    except NoColumn as error:
        raise Lacking(f'{dataset}: {error}') from None


def _write(stem: Path, made: Table) -> None:
    for suffix, render in FORMATS.items():
        write_text(stem.with_name(f'{stem.name}.{suffix}'), render(made))


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears under its name whole or not at all."""
    with writing(path) as file:
        file.write(text.encode())


def write_baseline(results: Path, made: Table, name: str) -> list[TextTable]:
    """Writes the files of the table with `-baseline` in their names: every method against one.

    Args:
        results: The results folder.
        made: The table of the data set.
        name: The label of the row that the others are compared with.

    Returns:
        For each protocol that has the row, the table of the mean.

    Raises:
        Lacking: No protocol has the row, or it cannot be compared in any.
    """
    gathered = [block.first for block in made.blocks]
    if not any(name in runs.groups for runs in gathered):
        labels = {label for runs in gathered for label in runs.groups}
        raise Lacking(unknown(f'method of {made.dataset}', name, labels))
    able, tables, reasons = [], [], []
    for runs in (runs for runs in gathered if name in runs.groups):
        try:
            tables.append(baseline.tables(runs, name))
            able.append(runs)
        except UserError as error:
            reasons.append(f'{runs.protocol_id}: {error}')
    if not able:
        raise Lacking('; '.join(reasons))
    stem = results / 'tables' / f'{made.stem.name if made.stem else made.dataset}-baseline'
    parts = [escaping.markdown(f'# {made.dataset} against {name}')]
    texts = [text for each in tables for text in each]
    parts += [part for text in texts for part in section(text, 2)]
    left_out = [f'Not compared: {reason}' for reason in reasons]
    parts += [escaping.markdown(f'{line}.') for line in left_out]
    write_text(stem.with_name(f'{stem.name}.md'), '\n\n'.join(parts) + '\n')
    write_text(stem.with_name(f'{stem.name}.tex'), latex_of(texts, left_out))
    write_text(stem.with_name(f'{stem.name}.csv'), comma_separated(baseline.plain(able, name)))
    return [each[0] for each in tables]


def _metrics(found: store.Scan) -> set[str]:
    """Returns the metrics that some record holds on the test split or may tell by its outcomes."""
    described = [record['dataset'] for record in found.complete.values()]
    return _held(found).union(*map(metrics.determined, described))


def _held(found: store.Scan) -> set[str]:
    tested = [r['scores']['test'] for r in found.complete.values()]
    return {name for subsets in tested for scores in subsets.values() for name in scores}


def brief(record: Record) -> str:
    """Tells a run's test scores in one line."""
    metric, scores = record['dataset']['metric'], test_scores(record)
    if not scores:
        return f'{metric} is undefined on every subset'
    last = min if record['dataset']['higher_is_better'] else max
    # Of several with the worst score the first one; a file names them in another order.
    subset = last(subset_order(scores, record['dataset']['modalities']), key=scores.__getitem__)
    which = record['protocol'].get('subsets', '')
    mean = tested.mean(scores, len(record['dataset']['modalities']), which)
    kind = 'estimated mean' if tested.is_sample(which) else 'mean'
    worst = f'{shown(scores[subset], metric)} worst ({subset})'
    return f'{metric} {shown(mean, metric)} {kind}, {worst}'


def show(made: Table, protocols: set[str] | None = None) -> None:
    """Prints a table, that by training gaps beneath it if there is one, and what does not count.

    The last lines name the files.

    Args:
        made: The table.
        protocols: Only the blocks, failures and refusals of these protocol ids.
    """
    parts = [part for part in (made, made.gaps) if part]
    for part in parts:
        print(f'\n{terminal(part, protocols)}')
    lost = made.unfinished.items()
    own = [line for key, lines in lost if protocols is None or key in protocols for line in lines]
    for line in [*made.problems, *own]:
        print(f'not counted: {escaping.terminal(line)}')
    for part in parts:
        if part.stem:
            print(f'written: {part.stem}.md, .tex, .csv')


def show_texts(tables: Iterable[TextTable]) -> None:
    """Prints tables of text, for example those that `write_baseline` returned."""
    for text in tables:
        print('', text.title, grid(text), escaping.wrapped(text.caption), sep='\n')
