"""Files of predictions that any code may write: an .npz archive, or a table in CSV.

`docs/external.md` describes both layouts. This module reads what a file says and checks that it
says it completely and once; `benchmark.engine.comparing` compares what it says with the data set.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError, unknown
from benchmark.options import Spec
from benchmark.records import archive, repetition
from benchmark.records.predictions import Predictions, wrong
from benchmark.records.schema import Outcomes, Record, RecordError

KINDS = ('pred', 'prob', 'logit', 'areas', 'confusion')
"""What an archive may hold of a subset, as `<kind>/<subset>`."""

ABOUT = ('method', 'dataset', 'seed', 'id')
"""What every file must say."""

BESIDE = ('target', 'classes', 'note', 'fingerprint')
"""What a file may say; of these a table has 'target' alone."""

KEYS = ('method', 'dataset', 'seed', 'id', 'modalities')
"""Columns that every table must have."""

SAID = ('prediction', 'file', 'target')
"""Columns that a table may have, beside those of `STATED`."""

STATED = re.compile(r'(p|logit)\((.*)\)')
"""A column of probabilities or logits of one class."""


def read(file: Path) -> list[Predictions]:
    """Reads a file of predictions: one training from an archive, one or more from a table.

    Raises:
        UserError: The file cannot be read, or lacks a part, or has one that is not understood.
    """
    if not file.is_file():
        raise UserError(f'{file}: expected a file of predictions, found {_kind(file)}')
    if file.suffix.lower() == '.csv':
        return _read_table(file)
    if file.suffix.lower() == '.npz':
        return [_read_archive(file)]
    raise UserError(f'{file}: expected a name that ends in .npz or .csv')


def _kind(path: Path) -> str:
    return 'a folder' if path.is_dir() else 'no such file'


def _read_archive(file: Path) -> Predictions:
    try:
        arrays = archive.read(file)
    except RecordError as error:
        raise UserError(str(error).replace('as outcomes', 'as predictions')) from None
    for key in ABOUT:
        if key not in arrays:
            raise UserError(f'{file}: expected the key {key!r}, found none')
    subsets: dict[str, dict[str, np.ndarray]] = {}
    for key in arrays.keys() - {*ABOUT, *BESIDE}:
        kind, slash, subset = key.partition('/')
        if not slash or kind not in KINDS:
            known = (*ABOUT, *BESIDE, *(f'{kind}/<subset>' for kind in KINDS))
            raise UserError(f'{file}: {unknown("key", key[:100], known)}')
        subsets.setdefault(subset, {})[kind] = arrays[key]
    seed, ids = arrays['seed'], arrays['id']
    if seed.shape or seed.dtype.kind not in 'iu':
        raise wrong(file, 'seed', 'a whole number', _about(seed))
    if ids.ndim != 1 or ids.dtype.kind not in 'iuU' or not len(ids):
        raise wrong(file, 'id', 'names of samples (N,)', _about(ids))
    for key, array in _of_samples(subsets, arrays.get('target')):
        if not array.shape or len(array) != len(ids):
            raise wrong(file, key, f'{len(ids)} samples as in id', _about(array))
    texts = {key: _text(file, key, arrays) for key in ('method', 'dataset', 'note', 'fingerprint')}
    classes = tuple(map(str, np.atleast_1d(arrays.get('classes', ())).tolist()))
    named = {'target': arrays.get('target'), 'classes': classes, 'subsets': subsets}
    return Predictions(file=file, seed=int(seed), ids=ids.astype(np.str_), **texts, **named)  # type: ignore[arg-type]


def _of_samples(
    subsets: Mapping[str, Mapping[str, np.ndarray]], target: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays that have a row per sample, with their keys."""
    if target is not None:
        yield 'target', target
    for subset, kinds in subsets.items():
        yield from ((f'{kind}/{subset}', array) for kind, array in kinds.items())


def _text(file: Path, key: str, arrays: Outcomes) -> str:
    array = arrays.get(key, np.array(''))
    if array.shape or array.dtype.kind != 'U':
        raise wrong(file, key, 'a text', _about(array))
    return str(array)


def _about(array: np.ndarray) -> str:
    """Describes an array for a message."""
    return repr(array.tolist()) if not array.shape else f'{array.dtype} {array.shape}'


def _read_table(file: Path) -> list[Predictions]:
    """Reads a table with a row for each training, sample and subset."""
    try:
        with file.open(newline='', encoding='utf-8-sig') as opened:
            header, *rows = [*csv.reader(opened, strict=True)] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        told = ' '.join(str(error).split())
        raise UserError(f'{file}: cannot be read as a table: {told}') from None
    kind, classes = _check_header(file, header)
    trainings: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise wrong(file, f'row {number}', f'{len(header)} fields', len(row))
        cells = dict(zip(header, row, strict=True))
        key = cells['method'], cells['dataset'], cells['seed']
        trainings.setdefault(key, []).append(cells)
    if not trainings:
        raise wrong(file, 'rows', 'a row for each sample and subset', 'none')
    return [_training(file, key, own, kind, classes) for key, own in trainings.items()]


def _check_header(file: Path, header: Sequence[str]) -> tuple[str, list[str]]:
    """Returns whether the table has 'p' or 'logit' columns, '' for neither, and their classes.

    Raises:
        UserError: A column lacks, stands there twice, or is not known.
    """
    for name, count in Counter(header).items():
        if count > 1:
            raise wrong(file, f'column {name!r}', 'it once', 'it twice')
    for key in KEYS:
        if key not in header:
            raise UserError(f'{file}: expected the column {key!r}, found none')
    rest = [name for name in header if name not in (*KEYS, *SAID)]
    stated = [STATED.fullmatch(name) for name in rest]
    for name, match in zip(rest, stated, strict=True):
        if match is None:
            known = (*KEYS, *SAID, 'p(<class>)', 'logit(<class>)')
            raise UserError(f'{file}: {unknown("column", name[:100], known)}')
    found = [match for match in stated if match]
    kinds = {match[1] for match in found}
    if len(kinds) > 1:
        raise wrong(file, 'columns', 'probabilities p(...) or logit(...)', 'both')
    if not kinds and not {'prediction', 'file'} & set(header):
        raise wrong(file, 'columns', 'prediction, p(<class>), logit(<class>) or file', 'none')
    return ''.join(kinds), [match[2] for match in found]


def _training(
    file: Path,
    key: tuple[str, str, str],
    rows: Sequence[Mapping[str, str]],
    kind: str,
    classes: Sequence[str],
) -> Predictions:
    """Makes arrays of the rows of one training, which method, data set and seed identify."""
    method, dataset, seed = key
    if not re.fullmatch(r'\d{1,10}', seed):
        raise wrong(file, 'seed', 'a whole number', repr(seed[:100]))
    place = {name: k for k, name in enumerate(dict.fromkeys(row['id'] for row in rows))}
    subsets: dict[str, dict[str, np.ndarray]] = {}
    targets: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        name, subset = row['id'], row['modalities']
        if (name, subset) in seen:
            raise wrong(file, f'id {name!r} on {subset}', 'one row', 'two')
        seen.add((name, subset))
        if targets.setdefault(name, row.get('target', '')) != row.get('target', ''):
            raise wrong(file, f'target of {name!r}', 'one label', 'two')
        arrays = subsets.setdefault(subset, _blank(row, len(place), kind, len(classes)))
        _fill(file, arrays, place[name], row, kind, classes)
    given = np.array([targets[name] for name in place]) if 'target' in rows[0] else None
    names = np.array(list(place), dtype=np.str_)
    return Predictions(
        file, method, dataset, int(seed), names, subsets, given, tuple(classes) if kind else ()
    )


def _blank(row: Mapping[str, str], count: int, kind: str, classes: int) -> dict[str, np.ndarray]:
    """Returns arrays in which nothing is predicted yet."""
    arrays: dict[str, np.ndarray] = {}
    for column, name in (('prediction', 'pred'), ('file', 'mask')):
        if column in row:
            arrays[name] = np.full(count, '', dtype=object)
    if kind:
        arrays['prob' if kind == 'p' else kind] = np.full((count, classes), np.nan)
    return arrays


def _fill(
    file: Path,
    arrays: Mapping[str, np.ndarray],
    place: int,
    row: Mapping[str, str],
    kind: str,
    classes: Sequence[str],
) -> None:
    """Puts what a row says into the arrays of its subset."""
    for column, name in (('prediction', 'pred'), ('file', 'mask')):
        if column in row:
            arrays[name][place] = row[column]
    for k, label in enumerate(classes):
        text = row[f'{kind}({label})']
        try:
            arrays['prob' if kind == 'p' else kind][place, k] = float(text)
        except ValueError:
            where = f'{kind}({label}) of {row["id"]!r} on {row["modalities"]}'
            raise wrong(file, where, 'a number', repr(text[:100])) from None


def write(file: Path, record: Record, outcomes: Outcomes) -> None:
    """Writes what a run predicted as an archive that `read` takes.

    Args:
        file: The archive.
        record: The record of the run.
        outcomes: Its outcomes of the test split. Older ones may lack logits, and then only classes
            are written.

    Raises:
        UserError: The outcomes do not name the samples, or the file cannot be written.
    """
    data, method = record['dataset'], record['method']
    if 'name' not in outcomes:
        raise UserError(
            f'{method["label"]} on {data["name"]}: its outcomes do not name the samples, as those '
            f'of older versions; this repeats the run: {repetition.command(record, force=True)}'
        )
    spec = Spec(data['name'], tuple(sorted(repetition.changed(data).items())))
    about = {'method': method['label'], 'dataset': str(spec), 'seed': record['seed']}
    about |= {'classes': data['classes'], 'fingerprint': data['fingerprint']}
    arrays = {'id': outcomes['name'], **{key: np.asarray(value) for key, value in about.items()}}
    for key, array in outcomes.items():
        kind = key.partition('/')[0]
        if kind == 'logit' and array.ndim == 1:
            array = _two_columns(array, data['live'] if data['metric'] == 'ACER' else 1)
        if kind in ('target', 'pred', 'logit', 'areas'):
            arrays[key] = array
    archive.write(file, arrays)


def _two_columns(odds: np.ndarray, positive: int) -> np.ndarray:
    """Returns logits (N, 2) of the log-odds (N,) of one of two classes."""
    logits = np.zeros((len(odds), 2), odds.dtype)
    logits[:, positive] = odds
    logits[np.isnan(odds)] = np.nan
    return logits
