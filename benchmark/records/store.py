"""The identity of a record, and how records are written, read and found.

The record of a run is the JSON file `<dataset>/<method spec>/<protocol id>/seed<k>/record.json`;
the outcomes of the run lie beside it. The record is written last, and whole or not at all, so that
a run whose record can be read has ended.
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
from benchmark.records.schema import SCHEMA, Outcomes, Record, RecordError, Unscored, check

RECORD = 'record.json'
OUTCOMES = 'outcomes.npz'

IDENTITY = {
    'method': ('name', 'options', 'version', 'code'),
    'dataset': ('name', 'options', 'fingerprint'),
}
"""What can change a score beside schema, protocol and seed; paths, device and label cannot."""

YOUNGER = ('code',)
"""Fields that the oldest records lack; without them the identity of those records is the same."""

SEARCH = ('trials', 'seed', 'space')
"""What identifies a search. A tuned run never has the identity of an untuned one, not even if the
search chose the same options."""


class Scan(NamedTuple):
    """The records under a folder.

    Attributes:
        complete: File -> record of each finished run.
        unscored: File -> record of each run that failed or was refused; `status` says which.
        problems: One line per file that is no valid record; these files count for nothing.
    """

    complete: dict[Path, Record]
    unscored: dict[Path, Unscored]
    problems: list[str]


def identity(record: Mapping[str, Any]) -> str:
    """Returns a hash of the fields that can change a score, 16 hexadecimal digits.

    Args:
        record: A record, or as much of one as `method`, `dataset`, `protocol`, `seed` and, if the
            options were tuned, `tuning`.
    """
    chosen: dict[str, Any] = {
        part: {f: record[part][f] for f in fields if f in record[part] or f not in YOUNGER}
        for part, fields in IDENTITY.items()
    }
    chosen |= {'schema': SCHEMA, 'protocol': record['protocol'], 'seed': record['seed']}
    if 'tuning' in record:
        chosen['tuning'] = {field: record['tuning'][field] for field in SEARCH}
    return hashlib.sha256(_dumps(chosen).encode()).hexdigest()[:16]


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Checks a record and writes it, whole or not at all; an undefined score (NaN) becomes null.

    Raises:
        RecordError: The record is not valid; nothing is written.
        UserError: The file cannot be written.
    """
    text = _dumps(_defined(dict(record)), indent=1)
    validate(json.loads(text), str(path))
    with writing(path) as file:
        file.write(f'{text}\n'.encode())


def read(path: Path) -> Record | Unscored:
    """Reads and checks a record.

    Raises:
        RecordError: The file is damaged, edited, of another schema, or no record at all.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise RecordError(f'{path}: cannot be read as a record: {error}') from error
    return validate(record, str(path))


def validate(record: Any, where: str = 'record') -> Record | Unscored:
    """Returns a record as parsed from JSON, once it is checked.

    Args:
        record: The parsed JSON.
        where: The file that it is from, for the message.

    Raises:
        RecordError: The message names the file, the field, what was expected and what was found.
    """
    try:
        check(record)
        if record['identity'] != identity(record):
            raise RecordError(
                f'identity: {record["identity"]} is not that of the content '
                f'({identity(record)}): the record was edited, or made by another version'
            )
    except RecordError as error:
        raise RecordError(f'{where}: {error}') from None
    return cast(Record | Unscored, record)


def write_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Writes outcomes, whole or not at all; the same arrays give the same bytes."""
    with writing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **dict(sorted(outcomes.items())))


def read_outcomes(path: Path) -> Outcomes:
    """Reads what `write_outcomes` wrote.

    Raises:
        RecordError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f'{path}: cannot be read as outcomes: {error}') from error


def scan(root: Path) -> Scan:
    """Reads every record under a folder, in the order of their paths."""
    found = Scan({}, {}, [])
    first: dict[str, Path] = {}
    for path in sorted(root.rglob(RECORD)):
        try:
            record = read(path)
            _check_place(path, record, first.setdefault(record['identity'], path))
        except RecordError as error:
            found.problems.append(str(error))
        else:
            if record['status'] == 'complete':
                found.complete[path] = record
            else:
                found.unscored[path] = record
    return found


def _check_place(path: Path, record: Record | Unscored, first: Path) -> None:
    """Checks that a record lies in the folder of its protocol and seed, and nowhere else."""
    place = '/'.join(path.parts[-3:-1])
    expected = f'{record["protocol_id"]}/seed{record["seed"]}'
    if place != expected:
        raise RecordError(f'{path}: a record of {expected} in the folder {place}')
    if first != path:
        raise RecordError(f'{path}: the same run as {first}')


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, sort_keys=True, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    """Turns numpy numbers and arrays into plain ones; JSON can hold nothing else."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f'a record cannot hold a {type(value).__name__}')


def _defined(record: dict[str, Any]) -> dict[str, Any]:
    """Replaces scores that are not finite by None, since JSON cannot express them."""
    if 'scores' not in record:
        return record

    def null(metrics: dict[str, Any]) -> dict[str, Any]:
        return {k: v if v is None or math.isfinite(v) else None for k, v in metrics.items()}

    scores = {
        split: {subset: null(metrics) for subset, metrics in subsets.items()}
        for split, subsets in record['scores'].items()
    }
    return {**record, 'scores': scores}
