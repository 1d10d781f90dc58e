"""What the methods of a block cost, from their records: columns of the CSV and a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.missing import subset_ids
from benchmark.records.schema import Record
from benchmark.report.layout import Grid

UNITS = {'T': 1e12, 'G': 1e9, 'M': 1e6, 'k': 1e3}


def facts(chosen: Sequence[Record]) -> dict[str, float | str]:
    """Returns a row's cost in plain numbers: means over seeds, of the memory the maximum.

    Args:
        chosen: The row's records, one per seed.
    """
    costs = [r['cost'] for r in chosen]
    first, subsets = costs[0], subset_ids(chosen[0]['dataset']['modalities'])
    own, teacher, test = (
        float(np.mean([cost[key] for cost in costs]))
        for key in ('train_seconds', 'teacher_seconds', 'test_seconds')
    )
    return {
        'parameters': first['parameters'],
        'deployed_parameters': first['deployed_parameters'],
        **{f'flops_{s}': first['flops'][s] for s in subsets if s in first['flops']},
        'train_seconds_with_teacher': own + teacher,
        'teacher_seconds': teacher,
        'test_seconds': test,
        'peak_memory_mib': max(cost['peak_memory_mb'] for cost in costs),
        **({'tuning_seconds': chosen[0]['tuning']['seconds']} if 'tuning' in chosen[0] else {}),
    }


def grid(groups: Mapping[str, Sequence[Record]], subsets: Mapping[str, str]) -> Grid:
    """Returns the table of what each row cost.

    Args:
        groups: Row label -> its records.
        subsets: Subset id -> column title, of the subsets shown.
    """
    rows = {label: facts(chosen) for label, chosen in groups.items()}
    counts = [f'flops_{s}' for s in subsets if any(f'flops_{s}' in row for row in rows.values())]
    titles = {
        'deployed_parameters': 'parameters',
        'parameters': 'in training',
        **{key: subsets[key.removeprefix('flops_')] for key in counts},
        'train_seconds_with_teacher': 'train s',
        'teacher_seconds': 'teacher s',
        'tuning_seconds': 'tuning s',
        'test_seconds': 'test s',
        'peak_memory_mib': 'memory MiB',
    }
    optional = ('teacher_seconds', 'tuning_seconds')
    keys = [k for k in titles if k not in optional or any(row.get(k) for row in rows.values())]
    sizes, per_sample = _unit(rows, ['parameters', 'deployed_parameters']), _unit(rows, counts)
    units = {'parameters': sizes, 'deployed_parameters': sizes, **dict.fromkeys(counts, per_sample)}
    lines = [
        [label, *(_text(row.get(key), units.get(key)) for key in keys)]
        for label, row in rows.items()
    ]
    flops = f'; under each subset, {per_sample}FLOPs of one sample' if counts else ''
    return Grid(
        title=f'Cost: parameters in {sizes}{flops}',
        caption=_caption(keys, bool(counts), [r for chosen in groups.values() for r in chosen]),
        header=['method', *(titles[key] for key in keys)],
        rows=lines,
    )


def _unit(rows: Mapping[str, Mapping[str, float | str]], keys: Sequence[str]) -> str:
    """Returns the largest unit in which the smallest number is at least a tenth."""
    values = [value for row in rows.values() for key in keys if (value := row.get(key))]
    smallest = min(map(float, values), default=1.0)
    return next((unit for unit, size in UNITS.items() if smallest >= size / 10), 'units')


def _text(value: float | str | None, unit: str | None) -> str:
    """Returns a cell: a count in its unit, else seconds or MiB; nothing where there are none."""
    if not value:
        return ''
    if unit is not None:
        return f'{float(value) / UNITS.get(unit, 1):.2f}'
    return f'{float(value):.0f}' if float(value) >= 10 else f'{float(value):.1f}'


def _caption(keys: Sequence[str], flops: bool, chosen: Sequence[Record]) -> list[str]:
    """Says what the numbers count and where they were measured."""
    machines = sorted({r['environment'].get('device', 'an unknown device') for r in chosen})
    teacher = 'teacher_seconds' in keys
    counted = 'A multiply-add is two FLOPs; what is off is not encoded, where the method allows.'
    return [
        'Parameters are those that a prediction needs; in training, auxiliary parts come on top'
        f'{", a frozen teacher does not count" if teacher else ""}.',
        *([counted] if flops else []),
        'Train s is the whole training, validation included'
        f'{"; teacher s is the part of it that its teacher took" if teacher else ""}.',
        *(['Tuning s is the search before it.'] if 'tuning_seconds' in keys else []),
        'Test s is the test of all subsets. Seconds are means over seeds, on '
        f'{", ".join(machines)}; memory is the largest peak in training'
        f'{", of the whole process on a CPU" if "cpu" in machines else ""}.',
    ]
