"""Which runs share a block of a table, and which of them share a row."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.records.schema import Record, is_external


def blocks(complete: Iterable[Record]) -> list[list[Record]]:
    """Returns the records of each block: of one protocol, which no other data share.

    Blocks are ordered by what differs between them, so that a block of 100 training samples stands
    before one of 900.

    Predictions of other code are of no protocol. They stand in every block of the same data, whose
    test samples are the same, after the runs of this project, or in a block of their own.
    """
    members: dict[str, list[Record]] = {}
    guests: dict[str, list[Record]] = {}
    for record in complete:
        if is_external(record):
            guests.setdefault(record['dataset']['fingerprint'], []).append(record)
        else:
            members.setdefault(record['protocol_id'], []).append(record)
    own = _in_order([records for _, records in sorted(members.items())])
    data = [records[0]['dataset']['fingerprint'] for records in own]
    alone = [records for of, records in sorted(guests.items()) if of not in data]
    beside = [[*o, *guests.get(of, [])] for o, of in zip(own, data, strict=True)]
    return [*beside, *alone]


def _in_order(found: list[list[Record]]) -> list[list[Record]]:
    """Sorts blocks by the options of their data, then by the fields of their protocols."""
    first = [records[0] for records in found]
    said = [(r['dataset']['options'], r['protocol']) for r in first]
    keys = [sorted({key for each in part for key in each}) for part in zip(*said, strict=True)]
    places = [
        # Of its data set a record does not say what is as usual: all training samples, which are
        # more than any number of them.
        [_place(data.get(key), 3) for key in keys[0]]
        + [_place(rule.get(key), 0) for key in keys[1]]
        for data, rule in said
    ]
    return [found[i] for i in sorted(range(len(found)), key=places.__getitem__)]


def _place(value: Any, none: int) -> tuple[int, float, str]:
    """Returns where a value stands among others: numbers (1), texts (2), and none where told."""
    if value is None:
        return none, 0.0, ''
    if isinstance(value, int | float):
        return 1, float(value), ''
    return 2, 0.0, value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def rows(records: Sequence[Record]) -> dict[str, list[int]]:
    """Groups runs that differ in the seed alone; a label is made unique by what differs.

    Returns:
        Row label -> indices of its runs.
    """
    found: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        found.setdefault(json.dumps(_setting(record), sort_keys=True), []).append(i)
    labelled: dict[str, list[list[int]]] = {}
    for members in found.values():
        labelled.setdefault(records[members[0]]['method']['label'], []).append(members)
    groups = {}
    for label, twins in sorted(labelled.items()):
        settings = [_setting(records[members[0]]) for members in twins]
        for members, own in zip(twins, settings, strict=True):
            differing = [k for k, v in own.items() if any(s.get(k) != v for s in settings)]
            told = ', '.join(f'{key}={own[key]}' for key in differing)
            groups[f'{label} ({told})' if told else label] = members
    return groups


def _setting(record: Record) -> dict[str, Any]:
    """Returns what makes a row of its own, beside its label."""
    method = record['method']
    setting = {'method': method['name'], 'version': method['version'], **method['options']}
    if is_external(record):
        # Another training of a method of this name, of which nothing is known.
        setting |= {'external': True}
    if 'tuning' in record:
        # A search may choose the untuned setting, and is a row of its own nevertheless.
        setting |= {'trials': record['tuning']['trials'], 'searched': record['tuning']['space']}
    return setting


def seeds(
    records: Sequence[Record], groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, int]]:
    """Returns row label -> seed -> index of the run.

    The number of a training of other code means nothing to this project. The trainings of such a
    row take the seeds that most of the other rows have, so that rows share as many as possible;
    no test pairs runs of the same seed.

    Args:
        records: The records of a block.
        groups: Row label -> indices of its runs.
    """
    own = Counter(record['seed'] for record in records if not is_external(record))
    usual = sorted(own, key=lambda seed: (-own[seed], seed))
    found = {}
    for label, members in groups.items():
        order = sorted(members, key=lambda i: records[i]['seed'])
        if own and is_external(records[order[0]]):
            taken = itertools.chain(usual, itertools.count(max(usual) + 1))
            found[label] = dict(zip(taken, order, strict=False))
        else:
            found[label] = {records[i]['seed']: i for i in members}
    return found
