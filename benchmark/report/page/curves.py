"""The section on training: loss and validation by epoch, read from the logs beside the records."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark.missing import subset_ids
from benchmark.records.schema import Record
from benchmark.report.page.view import Section, View, figure, lacking, number, section

LOG = 'train.log'
MAX_BYTES = 32 * 2**20

_LOSS = re.compile(r'epoch (\d+): (?!validation)(?:.*, )?loss ([-\d.einf]+)$')
_VALIDATION = re.compile(r'epoch (\d+): validation \S+ (.*)$')

KINDS = ('training loss', 'validation, mean over subsets')


def read(log: Path, metric: str, subsets: list[str]) -> dict[int, dict[int, float]]:
    """Returns for each of `KINDS` epoch -> value; of an epoch that was repeated, the last value.

    Args:
        log: The file; one that is missing or cannot be read holds nothing.
        metric: The metric of the validation.
        subsets: The subsets; where the log lacks one, there is no mean of that epoch.
    """
    found: dict[int, dict[int, float]] = {0: {}, 1: {}}
    try:
        if log.stat().st_size > MAX_BYTES:
            return found
        lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return found
    for line in lines:
        if told := _LOSS.search(line):
            found[0][int(told[1])] = float(told[2])
        elif told := _VALIDATION.search(line):
            pairs = dict(word.rsplit(' ', 1) for word in told[2].split(', ') if ' ' in word)
            each = [pairs.get(f'{subset}/{metric}') for subset in subsets]
            values = [100 * float(value) for value in each if value]
            if len(values) == len(subsets):
                found[1][int(told[1])] = float(np.mean(values))
    return found


def section_of(view: View, folder: Callable[[Record], Path]) -> Section:
    """Returns loss and validation by epoch.

    Args:
        view: The block.
        folder: Returns the folder of a record's run.
    """
    runs, rows = view.runs, []
    subsets = subset_ids(runs.data['modalities'])
    for m, members in enumerate(view.members):
        for i in members:
            record = runs.records[i]
            found = read(folder(record) / LOG, runs.data['metric'], subsets)
            rows += [
                [m, kind, record['seed'], epoch, number(value)]
                for kind, values in found.items()
                for epoch, value in sorted(values.items())
                if np.isfinite(value)
            ]
    about = (
        f'From the file {LOG} beside each record: the sum of the loss terms, and the mean of the '
        f'validation {runs.data["metric"]} in percent where it was measured. Losses of different '
        'methods have different terms and are not comparable.'
    )
    part = lacking(f'No file {LOG} with epochs lies beside the records, so there is no curve.')
    if rows:
        part = figure(
            f'{view.id}-curves',
            'curves',
            'Lines: loss or validation score by epoch, one line for each seed.',
            ['m', 'kind', 'seed', 'epoch', 'value'],
            rows,
            {'seed': 'seed', 'epoch': 'epoch', 'value': 'value'},
            selects=[{'field': 'kind', 'label': 'Show', 'options': list(KINDS)}],
        )
    return section(f'{view.id}-training', 'Training', about, part)
