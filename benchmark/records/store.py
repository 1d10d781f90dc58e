"""The identity of a record, and how records are written, read and found.

The record of a run is the JSON file `<dataset>/<method spec>/<protocol id>/seed<k>/record.json`;
the outcomes of the run lie beside it. The record is written last, and whole or not at all, so that
a run whose record can be read has ended.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from benchmark.files import read_json, stamp, writing
from benchmark.records import archive, gallery, kinds, verification
from benchmark.records.checks import check
from benchmark.records.curves import CURVES
from benchmark.records.identity import content, dumps, identity, protocol_id
from benchmark.records.repetition import unfinished
from benchmark.records.schema import Outcomes, Record, RecordError, Unscored
from benchmark.shown import one_line

T = TypeVar('T')

RECORD = 'record.json'
TRAINED = 'trained.json'
"""How a training went, in the folder that it has left whole; a teacher has no record beside it."""
OUTCOMES = 'outcomes.npz'
"""What was predicted for the test split."""
VALIDATION = 'validation.npz'
"""What the tested network predicted for the validation split, in the same form."""

BESIDE = (OUTCOMES, VALIDATION, CURVES, gallery.FILE, kinds.FILE)
"""What belongs to a record and lies beside it."""

_PROVEN: dict[tuple[object, ...], str] = {}
"""Record and times of its files -> what `unproven` found; a plan asks several times."""


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


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Checks a record and writes it with the hash of its content, whole or not at all.

    An undefined score (NaN) becomes null, and an error one line.

    Raises:
        RecordError: The record is not valid; nothing is written.
        UserError: The file cannot be written.
    """
    plain = json.loads(dumps(_defined(dict(record))))
    plain['content'] = content(plain)
    validate(plain, str(path))
    with writing(path) as file:
        file.write(f'{dumps(plain, indent=1)}\n'.encode())


def read(path: Path) -> Record | Unscored:
    """Reads and checks a record.

    Raises:
        RecordError: The file is damaged, edited, of another schema, or no record at all.
    """
    try:
        record = read_json(path, strict=True)
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
        own = protocol_id(record['protocol'], record['dataset']['fingerprint'])
        if record['protocol_id'] != own:
            raise RecordError(
                f'protocol_id: expected {own}, which is that of the protocol and the data, '
                f'found {record["protocol_id"]}'
            )
        if record.get('content', found := content(record)) != found:
            raise RecordError('content: the record was edited, or damaged')
    except RecordError as error:
        raise RecordError(f'{where}: {error}') from None
    return cast(Record | Unscored, record)


def write_outcomes(path: Path, outcomes: Outcomes) -> str:
    """Writes outcomes, whole or not at all, and returns the SHA-256 of the file."""
    return archive.write(path, outcomes)


def read_outcomes(path: Path, record: Record | None = None) -> Outcomes:
    """Reads what `write_outcomes` wrote.

    Args:
        path: The file.
        record: The record of the run, which the outcomes of the test split must fit, and its
            validation scores those of the validation split beside them.

    Raises:
        RecordError: The file is missing or damaged, or does not belong to the record.
    """
    outcomes = archive.read(path)
    if record is not None:
        try:
            verification.check_fit(record, outcomes)
        except RecordError as error:
            raise RecordError(f'{path}: {error}') from None
        verification.check_validation(path.with_name(VALIDATION), record)
    return outcomes


def lacking(path: Path, record: Record) -> str:
    """Returns the file of outcomes that a record names and that is missing or changed, or ''.

    Args:
        path: The file of the record.
        record: Its content. Records of older versions name no files.
    """
    named = record.get('outcomes', {}).items()
    changed = (n for n, sha256 in named if not archive.matches(path.with_name(n), sha256))
    return next(changed, '')


def unproven(path: Path, record: Record) -> str:
    """Returns why the outcomes beside a record do not prove it, '' if they do.

    Args:
        path: The file of the record.
        record: Its content, as read.
    """
    if name := lacking(path, record):
        return _not_there(name)
    file = path.with_name(OUTCOMES)
    known = path, record['identity'], stamp(path), stamp(file)
    if known not in _PROVEN:
        try:
            verification.verified(record, read_outcomes(file, record))
            _PROVEN[known] = ''
        except RecordError as error:
            _PROVEN[known] = str(error)
    return _PROVEN[known]


def proven(path: Path, identity: str) -> tuple[Record | None, str]:
    """Returns the complete record of an experiment, if there is one that its outcomes prove.

    Args:
        path: The file of the record; it need not exist.
        identity: Identity of the experiment.

    Returns:
        The record, or None; and why the file does not count, '' if it is not there, does, or is of
        something else.
    """
    if not os.path.lexists(path):
        return None, ''
    try:
        found = read(path)
    except (RecordError, OSError) as error:
        return None, str(error).removeprefix(f'{path}: ')
    if found['identity'] != identity or found['status'] != 'complete':
        return None, ''
    why = unproven(path, found)
    return (None if why else found), why.removeprefix(f'{path.parent}/')


def _not_there(name: str) -> str:
    return f'{name} beside it is missing, damaged or of another run'


def scan(root: Path) -> Scan:
    """Reads every record under a folder, in the order of their paths."""
    found = Scan({}, {}, [])
    first: dict[str, Path] = {}
    for path in sorted(files(root, found.problems)):
        try:
            record = read(path)
            _check_place(path, record, first.setdefault(record['identity'], path))
            if record['status'] == 'complete' and (name := lacking(path, record)):
                raise RecordError(f'{path}: {_not_there(name)}; {unfinished(record)}')
        except RecordError as error:
            found.problems.append(str(error))
        else:
            if record['status'] == 'complete':
                found.complete[path] = record
            else:
                found.unscored[path] = record
    return found


def files(root: Path, problems: list[str] | None = None) -> list[Path]:
    """Returns whatever is called as a record is: files, folders, links to nothing or to themselves.

    Other processes may write and remove runs meanwhile, at which Path.rglob raises.

    Args:
        root: The folder to search.
        problems: Takes one line for each folder that cannot be read.
    """
    told = [] if problems is None else problems

    def tell(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # a results folder without runs, or a run that is removed at this moment
        told.append(f'{error.filename}: cannot be read: {error.strerror}')

    found = []
    for place, folders, names in os.walk(root, onerror=tell):
        if RECORD in itertools.chain(folders, names):
            found.append(Path(place) / RECORD)
        folders[:] = [name for name in folders if not name.startswith('.part-')]  # half written
    return found


def up_to_date(folder: Path, write: Callable[[], T]) -> T:
    """Writes tables again for as long as records change meanwhile.

    Several processes may write the same tables. Whichever ends last has then written them from all
    records that there were, and does not leave an older state behind.

    Args:
        folder: The folder of the records.
        write: Reads the records and writes the tables.

    Returns:
        What `write` returned last.
    """
    while True:
        before = _stamps(folder)
        made = write()
        if _stamps(folder) == before:
            return made


def _stamps(folder: Path) -> dict[Path, tuple[int, int] | None]:
    return {path: stamp(path) for path in files(folder)}


def _check_place(path: Path, record: Record | Unscored, first: Path) -> None:
    """Checks that a record lies in the folder of its data set, protocol and seed, and only there.

    The name of the method's folder between them is not checked.
    """
    folders = path.absolute().parts
    place = '/'.join([*folders[-5:-4], *folders[-3:-1]])
    expected = f'{record["dataset"]["name"]}/{record["protocol_id"]}/seed{record["seed"]}'
    if place != expected:
        raise RecordError(f'{path}: a record of {expected} in the folder {place}')
    if first != path:
        raise RecordError(f'{path}: the same run as {first}')


def _defined(record: dict[str, Any]) -> dict[str, Any]:
    """Makes a record what JSON can express: no scores that are not finite, errors in one line."""
    if 'error' in record:
        record = {**record, 'error': one_line(record['error'])}
    if 'scores' not in record:
        return record

    def null(metrics: dict[str, Any]) -> dict[str, Any]:
        return {k: v if v is None or math.isfinite(v) else None for k, v in metrics.items()}

    scores = {
        split: {subset: null(metrics) for subset, metrics in subsets.items()}
        for split, subsets in record['scores'].items()
    }
    return {**record, 'scores': scores}
