"""The scores of all subsets on the same test samples, for data whose samples lack modalities."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from benchmark.records import metrics, verification
from benchmark.records.repetition import unfinished
from benchmark.records.schema import Outcomes, Record, RecordError
from benchmark.report.runs import Loader
from benchmark.shown import noun


def restricted(record: Record, outcomes: Outcomes) -> tuple[Record, Outcomes, int]:
    """Returns a record and its outcomes on the test samples that every subset was tested on.

    The third is the number of other test samples, which only some subsets were tested on.

    A sample that lacks a modality is tested on fewer subsets than others. Columns of a table are
    then of different samples, some of which may be harder than others.

    Raises:
        RecordError: There is no such sample, or the outcomes do not prove the record.
    """
    record = verification.verified(record, outcomes)
    subsets = list(record['n']['test'])
    metric = record['dataset']['metric']
    tested = np.array([metrics.tested(outcomes, subset, metric) for subset in subsets])
    rows = tested.all(0)
    if not rows.any():
        raise RecordError(f'{record["method"]["label"]}: no sample was tested on every subset')
    kept = {name: array[rows] for name, array in outcomes.items()}
    scores = {s: metrics.recomputed(kept, s, record['dataset']) for s in subsets}
    test = {
        s: {metric: None if np.isnan(value) else value for metric, value in found.items()}
        for s, found in scores.items()
    }
    changed: dict[str, Any] = {
        **record,
        'scores': {**record['scores'], 'test': test},
        'n': {**record['n'], 'test': dict.fromkeys(subsets, int(rows.sum()))},
    }
    return cast(Record, changed), kept, int(tested.any(0).sum() - rows.sum())


def on_common_samples(
    complete: list[Record], load: Loader, left_out: list[str]
) -> tuple[list[Record], Loader]:
    """Returns the records on the samples that every subset was tested on, and their outcomes.

    Args:
        complete: The records.
        load: Returns the outcomes of a record's run.
        left_out: Takes one line for each run that has none, and one for the samples left out.
    """
    records: list[Record] = []
    kept: dict[str, Outcomes] = {}
    for record in complete:
        try:
            outcomes = load(record)
            if outcomes is None:
                raise RecordError('no outcomes')
            changed, kept[record['identity']], lost = restricted(record, outcomes)
        except RecordError as error:
            told = f'{record["method"]["label"]} seed {record["seed"]}: {error}'
            left_out.append(f'{told}; {unfinished(record)}')
            continue
        records.append(changed)
        if lost:
            line = f'{lost:,} {noun("test samples", lost)} not tested on every subset'
            left_out += [] if line in left_out else [line]
    return records, lambda record: kept[record['identity']]
