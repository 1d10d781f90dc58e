"""Tables of the tests under corruptions, and their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmark.records import corruptions
from benchmark.records.corruptions import subsets_of
from benchmark.records.kinds import KINDS
from benchmark.records.units import PERCENT, Unit, shown
from benchmark.report import escaping
from benchmark.report.cost_table import TextTable
from benchmark.report.render import comma_separated, latex_of, section
from benchmark.report.robustness import FEWEST, Robustness
from benchmark.report.table import Table
from benchmark.report.writer import Lacking, show_texts, write_text

WIDE = 4
"""Most modalities of which the tables show every pair of a corrupted and an absent one."""

NO_RELATIVE = 'There is no relative robustness: the score without any input is not known.'
"""What tables and page say where nothing can be called kept."""

HEADER = ['method', 'protocol', 'modality', 'corruption', 'severity', 'subset', 'seeds']
"""Columns of the CSV file before its numbers."""


def found(made: Table, root: Path) -> tuple[list[Robustness], list[str]]:
    """Returns the tests of each protocol of a table that has some, and a line per unusable file.

    Args:
        made: The table of the data set.
        root: The folder of its runs.
    """
    scanned = corruptions.scan(root)
    each = [Robustness(block.first, scanned.tests) for block in made.blocks]
    return [one for one in each if one.rows and one.kinds], scanned.problems


def of(results: Path, made: Table, root: Path) -> list[TextTable]:
    """Writes the files of a data set and returns the tables that the terminal shows.

    Args:
        results: The results folder.
        made: The table of the data set.
        root: The folder of its runs.

    Raises:
        Lacking: No run was tested under corruptions.
        UserError: A file cannot be written.
    """
    each, problems = found(made, root)
    if not each:
        told = ''.join(f'; {line}' for line in problems[:1])
        raise Lacking(
            f'{made.dataset}: no run was tested under corruptions; the command that made the runs '
            f'does so with --corruptions{told}'
        )
    write(results, _stem(made), each, problems)
    return [tables(one)[0] for one in each]


def _stem(made: Table) -> str:
    return made.stem.name if made.stem else made.dataset


def show(results: Path, made: Table, texts: Sequence[TextTable]) -> None:
    """Prints the tables that `of` returned, if it did, and where the files are."""
    show_texts(texts)
    if texts:
        print(f'written: {results / "tables" / _stem(made)}-corruptions.md, .tex, .csv')


def tables(found: Robustness) -> list[TextTable]:
    """Returns the tables of one protocol: all corruptions, by severity, and beside absence."""
    return [_overall(found), _by_severity(found), _beside_absence(found)]


def _overall(found: Robustness) -> TextTable:
    effective = found.effective()
    known = not all(map(np.isnan, effective.values()))
    where, rows, unit = found.where(), [], found.runs.printed
    for label in found.rows:
        cells = [
            _cell(found.mean(label, found.where(severity=0)), unit),
            _cell(found.mean(label, where), unit),
            _cell(found.area(label, where), unit),
            *([] if found.empty is None else [_cell(found.relative(label, where))]),
            *([_cell(np.array([effective[label]]), unit)] if known else []),
            *(_cell(found.mean(label, found.where(kind=kind)), unit) for kind in found.kinds),
        ]
        rows.append([label, *cells, str(len(found.rows[label]))])
    added = [] if found.empty is None else ['relative %']
    added += ['effective'] if known else []
    header = ['method', 'clean', 'corrupted', 'area', *added, *found.kinds, 'seeds']
    return TextTable(_title(found, 'under corruption'), _about(found, known), header, rows)


def _by_severity(found: Robustness) -> TextTable:
    unit = found.runs.printed
    modalities = [] if found.empty is None else found.modalities
    rows = [
        [
            label,
            *(_cell(found.mean(label, found.where(severity=s)), unit) for s in found.severities),
            *(_cell(found.relative(label, found.where(modality=m))) for m in modalities),
        ]
        for label in found.rows
    ]
    header = [
        'method',
        *(f'severity {s}' if s else 'clean' for s in found.severities),
        *(f'{m} corrupted, relative %' for m in modalities),
    ]
    caption = 'The score at each severity is the mean over modalities and corruptions.'
    if modalities:
        caption += (
            ' The last columns give the relative robustness, in percent, if one modality is '
            'corrupted and the others are clean, as the mean over corruptions and severities.'
        )
    what = 'by severity and by modality' if modalities else 'by severity'
    return TextTable(_title(found, what), caption, header, rows)


def _beside_absence(found: Robustness) -> TextTable:
    """Returns the scores with one modality corrupted and others absent."""
    names, unit = found.runs.data['modalities'], found.runs.printed
    cases = [
        (m, subset)
        for m in found.modalities
        for subset in reversed(subsets_of(names, m))
        if len(names) <= WIDE or subset in (m, found.whole)
    ]
    rows = [
        [label, *(_cell(found.mean(label, found.where(m, subset=s)), unit) for m, s in cases)]
        for label in found.rows
    ]
    header = ['method', *(_case(m, s, names) for m, s in cases)]
    caption = (
        'Noise in one modality beside the absence of another: the score if the first modality is '
        'corrupted, as the mean over corruptions and severities, and the network is given only '
        'the modalities that the column does not exclude.'
    )
    if len(names) > WIDE:
        caption += ' The CSV file also has the subsets that lack one other modality.'
    return TextTable(_title(found, 'corruption beside absence'), caption, header, rows)


def _case(modality: str, subset: str, names: Sequence[str]) -> str:
    absent = [name for name in names if name not in subset.split('+')]
    if not absent:
        return f'{modality} corrupted'
    told = 'alone' if subset == modality else f'without {", ".join(absent)}'
    return f'{modality} corrupted, {told}'


def _title(found: Robustness, what: str) -> str:
    runs = found.runs
    metric = f'{runs.metric} {"↑" if runs.higher else "↓"}{runs.printed.suffix}'
    return f'{runs.data["name"]}, {runs.protocol_id}: {metric} {what}'


def _cell(seeds: np.ndarray, unit: Unit = PERCENT) -> str:
    """Returns a mean over seeds with its deviation, '' if it is not known."""
    if np.isnan(seeds).any() or not len(seeds):
        return ''
    mean = unit.text(seeds.mean())
    return f'{mean} ± {unit.text(seeds.std(ddof=1))}' if len(seeds) > 1 else mean


def _about(found: Robustness, known: bool) -> str:
    told = ', '.join(f'{kind} ({KINDS[kind]})' for kind in found.kinds)
    first = (
        'One modality at a time is corrupted, and the network is given all modalities. Clean is '
        'the score of the same networks and samples without corruption; corrupted is the mean over '
        f'modalities, corruptions and severities {", ".join(map(str, found.severities[1:]))}, '
        'with equal weights. Area is the area under the score by severity, from the clean input '
        f'to the highest severity, divided by the latter. {_kept(found)}'
    )
    trend = (
        'Effective is the score in points that exceeds what the clean score predicts, by a line '
        'through the log-odds of the other rows (Taori et al., 2020, whose line is of models '
        'without an intervention).'
        if known
        else f'Effective robustness is not computed: it needs {FEWEST} methods whose scores differ.'
    )
    several = any(len(tests) > 1 for tests in found.rows.values())
    spread = '± is the standard deviation over seeds. ' if several else ''
    last = (
        f'The other columns are the scores under {told}, each as the mean over the modalities that '
        f'it fits. {spread}Differences are not tested. A cell is empty where a row lacks some of '
        'the tests'
    )
    if found.empty is not None:
        last += (
            ', and a relative robustness also where a clean score is not better than that '
            'without any input'
        )
    return f'{first}\n\n{trend}\n\n{last}.'


def _kept(found: Robustness) -> str:
    if found.empty is None:
        return NO_RELATIVE
    empty = shown(found.empty, found.runs.metric) if found.empty else '0'
    return f'Relative is {gain(found)} {empty}, the score without any input, that is kept.'


def gain(found: Robustness) -> str:
    """Names the share that is kept, up to the score without any input."""
    if found.runs.higher:
        return 'the share of the clean score above'
    return 'the share of what the clean score lies below'


def lines(found: Robustness) -> Iterator[list[float | str]]:
    """Yields the rows of the CSV file: a score for each test and row."""
    factor = found.runs.printed.factor
    for curve in found.curves():
        seeds = len(found.rows[curve.label])
        for severity, mean, std in zip(curve.severities, curve.mean, curve.std, strict=True):
            if not np.isnan(mean):
                where = curve.label, found.runs.protocol_id, curve.modality, curve.kind
                numbers = [factor * float(mean), factor * float(std)]
                yield [*where, severity, curve.subset, seeds, *numbers]


def write(results: Path, stem: str, found: Sequence[Robustness], problems: Sequence[str]) -> Path:
    """Writes `<results>/tables/<stem>-corruptions.md`, `.tex` and `.csv`.

    Args:
        results: The results folder.
        stem: The name of the files of the data set.
        found: The tests of each protocol.
        problems: A line per file of tests that is not counted.

    Returns:
        The path of the files without their suffix.

    Raises:
        UserError: A file cannot be written.
    """
    path = results / 'tables' / f'{stem}-corruptions'
    made = [text for one in found for text in tables(one)]
    left_out = [f'Not counted: {line}.' for line in problems]
    parts = [escaping.markdown(f'# {stem} under corruptions')]
    for text in made:
        parts += section(text, 2)
    parts += map(escaping.markdown, left_out)
    rows: list[list[float | str]] = [[*HEADER, 'score', 'score_std']]
    rows += (line for one in found for line in lines(one))
    contents = {
        'md': '\n\n'.join(parts) + '\n',
        'tex': latex_of(made, left_out),
        'csv': comma_separated(rows),
    }
    for suffix, content in contents.items():
        write_text(path.with_name(f'{path.name}.{suffix}'), content)
    return path
