"""One record per run: its identity, how it is written, read back and found again.

A record is a JSON file beside the per-sample outcomes of the same run, at
`<dataset>/<method variant>/<protocol id>/seed<k>/record.json`. It is written last and whole, so a
record that can be read is a run that ended.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from benchmark.files import writing
from benchmark.records.schema import SCHEMA, Failure, Outcomes, Record, RecordError, check

RECORD = 'record.json'
OUTCOMES = 'outcomes.npz'

IDENTITY = {'method': ('name', 'options', 'version'), 'dataset': ('name', 'options', 'fingerprint')}
"""Beside schema, protocol and seed, all that can change a score: no path, device or label."""

SEARCH = ('trials', 'seed', 'space')
"""What identifies a search; a tuned run is another than an untuned one of the same options."""

PLACE = ('environment', 'commit', 'finished')
TIMES = ('train_seconds', 'teacher_seconds', 'test_seconds', 'peak_memory_mb')


class Scan(NamedTuple):
    """What lies under a folder of runs.

    Attributes:
        complete: File -> record of each finished run.
        failed: File -> record of each run that ended in an error.
        problems: One line per file that is no valid record; none of these is counted.
    """

    complete: dict[Path, Record]
    failed: dict[Path, Failure]
    problems: list[str]


def identity(record: Mapping[str, Any]) -> str:
    """Hashes the fields that can change a score; method, dataset, protocol and seed suffice."""
    chosen: dict[str, Any] = {
        part: {field: record[part][field] for field in fields} for part, fields in IDENTITY.items()
    }
    chosen |= {'schema': SCHEMA, 'protocol': record['protocol'], 'seed': record['seed']}
    if 'tuning' in record:
        chosen['tuning'] = {field: record['tuning'][field] for field in SEARCH}
    return hashlib.sha256(_dumps(chosen).encode()).hexdigest()[:16]


def scientific(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a repetition on the same machine must reproduce: all but times and place.

    What could have been tuned is left out too: it is no result, and the first records lack it.
    """
    kept = {key: value for key, value in record.items() if key not in PLACE}
    if 'method' in kept:
        kept['method'] = {key: v for key, v in kept['method'].items() if key != 'tunable'}
    if 'tuning' in kept:
        kept['tuning'] = {key: v for key, v in kept['tuning'].items() if key != 'seconds'}
    if 'cost' in kept:
        kept['cost'] = {key: v for key, v in kept['cost'].items() if key not in TIMES}
    return cast(dict[str, Any], json.loads(_dumps(kept)))


def comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Returns whether two records agree in everything but times, memory and environment."""
    return scientific(a) == scientific(b)


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Validates a record and writes it atomically; an undefined score (NaN) is written as null.

    Raises:
        RecordError: The record is not valid; nothing is written.
        UserError: The place cannot be written.
    """
    text = _dumps(_defined(dict(record)), indent=1)
    validate(json.loads(text), str(path))
    with writing(path) as file:
        file.write(f'{text}\n'.encode())


def read(path: Path) -> Record | Failure:
    """Reads and validates a record.

    Raises:
        RecordError: The file is torn, of another schema, incomplete, foreign or edited.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise RecordError(f'{path}: cannot be read as a record: {error}') from error
    return validate(record, str(path))


def validate(record: Any, where: str = 'record') -> Record | Failure:
    """Checks a record as parsed from JSON, and returns it.

    Args:
        record: The parsed JSON.
        where: The file, for the message.

    Raises:
        RecordError: One line naming the file, the field, what was expected and what found.
    """
    try:
        check(record)
        if record['identity'] != identity(record):
            raise RecordError(
                f'identity: {record["identity"]} does not belong to the content '
                f'({identity(record)}): the record is foreign or was edited'
            )
    except RecordError as error:
        raise RecordError(f'{where}: {error}') from None
    return cast(Record | Failure, record)


def write_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Writes per-sample outcomes atomically; the same arrays give the same bytes."""
    with writing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **dict(sorted(outcomes.items())))


def read_outcomes(path: Path) -> Outcomes:
    """Reads what `write_outcomes` wrote.

    Raises:
        RecordError: The file is missing or torn.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f'{path}: cannot be read as outcomes: {error}') from error


def scan(root: Path, dataset: str | None = None) -> Scan:
    """Reads every record under a folder of runs, in the order of their paths.

    Args:
        root: The folder of runs, `<results>/runs`.
        dataset: Only the runs in this dataset's folder.
    """
    found = Scan({}, {}, [])
    first: dict[str, Path] = {}
    for path in sorted((root / dataset if dataset else root).rglob(RECORD)):
        try:
            record = read(path)
            _check_place(path, record, first.setdefault(record['identity'], path))
        except RecordError as error:
            found.problems.append(str(error))
        else:
            if record['status'] == 'failed':
                found.failed[path] = record
            else:
                found.complete[path] = record
    return found


def _check_place(path: Path, record: Record | Failure, first: Path) -> None:
    place = '/'.join(path.parts[-3:-1])
    expected = f'{record["protocol_id"]}/seed{record["seed"]}'
    if place != expected:
        raise RecordError(f'{path}: a record of {expected} in the folder {place}')
    if first != path:
        raise RecordError(f'{path}: the same run as {first}')


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, sort_keys=True, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    """Turns numpy numbers and arrays into what JSON knows; anything else is an error."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f'a record cannot hold a {type(value).__name__}')


def _defined(record: dict[str, Any]) -> dict[str, Any]:
    """Replaces scores that are not finite by None: JSON has no word for them."""
    if 'scores' not in record:
        return record

    def null(metrics: dict[str, Any]) -> dict[str, Any]:
        return {k: v if v is None or math.isfinite(v) else None for k, v in metrics.items()}

    scores = {
        split: {subset: null(metrics) for subset, metrics in subsets.items()}
        for split, subsets in record['scores'].items()
    }
    return {**record, 'scores': scores}
