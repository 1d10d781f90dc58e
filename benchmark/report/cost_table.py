"""What the methods cost, from their records: columns of the CSV file, and a small table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.records.schema import Record, is_external
from benchmark.report.runs import Runs
from benchmark.subsets import subset_order

UNITS = {'T': 1e12, 'G': 1e9, 'M': 1e6, 'k': 1e3}
SIZES = ('deployed_parameters', 'parameters')
OPTIONAL = ('teacher_seconds', 'pretrain_seconds', 'tuning_seconds')
"""Columns that are left out if they are empty."""


@dataclass(frozen=True)
class TextTable:
    """A table of plain text.

    Attributes:
        title: What it shows.
        caption: Sentences on how the numbers came about.
        header: Title of each column.
        rows: One text per column.
        labels: How many columns on the left are labels.
    """

    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    labels: int = 1


def facts(chosen: Sequence[Record]) -> dict[str, float | str]:
    """Returns what a row cost, in plain numbers.

    Args:
        chosen: The records of the row, one per seed.

    Returns:
        Parameters, FLOPs of one sample per subset, seconds (means over seeds), and the largest
        memory in MiB; nothing of other code, whose cost is not known.
    """
    if is_external(chosen[0]):
        return {}
    costs = [record['cost'] for record in chosen]
    first = costs[0]
    subsets = subset_order(first['flops'], chosen[0]['dataset']['modalities'])
    own, teacher, first_training, test = (
        float(np.mean([cost.get(key, 0.0) for cost in costs]))
        for key in ('train_seconds', 'teacher_seconds', 'pretrain_seconds', 'test_seconds')
    )
    return {
        'parameters': first['parameters'],
        'deployed_parameters': first['deployed_parameters'],
        **{f'flops_{s}': first['flops'][s] for s in subsets},
        'train_seconds_with_teacher': own + teacher + first_training,
        'teacher_seconds': teacher,
        **({'pretrain_seconds': first_training} if first_training else {}),
        'test_seconds': test,
        'peak_memory_mib': max(cost['peak_memory_mb'] for cost in costs),
        **({'tuning_seconds': chosen[0]['tuning']['seconds']} if 'tuning' in chosen[0] else {}),
    }


def text_table(runs: Runs, subsets: Mapping[str, str]) -> TextTable | None:
    """Returns the table of what each method cost, None if that is known of none.

    Args:
        runs: The runs of one protocol.
        subsets: Subset id -> column title, of the subsets to show.
    """
    every = {k: facts([runs.records[i] for i in members]) for k, members in runs.groups.items()}
    rows = {label: row for label, row in every.items() if row}
    if not rows:
        return None
    found = {key for row in rows.values() for key, value in row.items()}
    flops = {f'flops_{s}': title for s, title in subsets.items() if f'flops_{s}' in found}
    titles = {
        'deployed_parameters': 'parameters',
        'parameters': 'in training',
        **flops,
        'train_seconds_with_teacher': 'train s',
        'teacher_seconds': 'teacher s',
        'pretrain_seconds': 'pre-training s',
        'tuning_seconds': 'tuning s',
        'test_seconds': 'test s',
        'peak_memory_mib': 'memory MiB',
    }
    for key in OPTIONAL:
        if not any(row.get(key) for row in rows.values()):
            del titles[key]
    size, per_sample = _unit(rows.values(), SIZES), _unit(rows.values(), flops)
    units = {**dict.fromkeys(SIZES, size), **dict.fromkeys(flops, per_sample)}
    told = f'; under each subset, {per_sample}FLOPs of one sample' if flops else ''
    return TextTable(
        title=f'Cost: parameters in {size}{told}',
        caption=' '.join(_caption(titles, bool(flops), runs.own)),
        header=['method', *titles.values()],
        rows=[
            [label, *(_text(row.get(key), units.get(key)) for key in titles)]
            for label, row in rows.items()
        ],
    )


def _unit(rows: Iterable[Mapping[str, float | str]], keys: Iterable[str]) -> str:
    """Returns the largest unit in which the smallest number is at least a tenth."""
    wanted = set(keys)
    values = [float(v) for row in rows for key, v in row.items() if key in wanted and v]
    smallest = min(values, default=1.0)
    return next((unit for unit, size in UNITS.items() if smallest >= size / 10), 'units')


def _text(value: float | str | None, unit: str | None) -> str:
    """Returns a cell: a number in its unit, else seconds or MiB; nothing where there are none."""
    if not value:
        return ''
    if unit is not None:
        return f'{float(value) / UNITS.get(unit, 1):.2f}'
    return f'{float(value):.0f}' if float(value) >= 10 else f'{float(value):.1f}'


def _caption(keys: Iterable[str], flops: bool, records: Sequence[Record]) -> list[str]:
    """Says what the numbers count and where they were measured."""
    machines = sorted({r['environment'].get('device', 'an unknown device') for r in records})
    teacher, first, tuning = (key in keys for key in OPTIONAL)
    counted = (
        'A multiply-add counts as two FLOPs; modalities outside the subset are not encoded where '
        'the method allows it.'
    )
    return [
        'Parameters are those that a prediction needs; those in training include auxiliary parts'
        f'{" but no frozen teacher" if teacher else ""}.',
        *([counted] if flops else []),
        'Train s is the time of the whole training with its validation'
        f'{"; teacher s is the part of it that trained the teacher" if teacher else ""}'
        f'{"; pre-training s is that which trained the encoders first" if first else ""}.',
        *(['Tuning s is the time of the search before the training.'] if tuning else []),
        'Test s is the time to test all subsets. Seconds are means over seeds, measured on '
        f'{", ".join(machines)}; memory is the largest peak in training'
        f'{", of the whole process on a CPU" if "cpu" in machines else ""}.',
    ]
