"""The scores of all subsets on the same test samples, for data whose samples lack modalities."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from benchmark.records import metrics, verification
from benchmark.records.schema import Outcomes, Record, RecordError


def restricted(record: Record, outcomes: Outcomes) -> tuple[Record, Outcomes]:
    """Returns a record and its outcomes on the test samples that every subset was tested on.

    A sample that lacks a modality is tested on fewer subsets than others. Columns of a table are
    then of different samples, some of which may be harder than others.

    Raises:
        RecordError: There is no such sample, or the outcomes do not prove the record.
    """
    record = verification.verified(record, outcomes)
    subsets = list(record['n']['test'])
    metric = record['dataset']['metric']
    rows = np.all([metrics.tested(outcomes, subset, metric) for subset in subsets], axis=0)
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
    return cast(Record, changed), kept
