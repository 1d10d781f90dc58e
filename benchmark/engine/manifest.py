"""The mask manifest: a CSV file that says which modalities each training sample has.

It has a row for each training sample, with the sample's name in the column `id`, and 0 or 1 in the
column of each modality. The order of rows and of columns does not matter.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmark.dataset import Dataset
from benchmark.engine.gaps import GIVEN, kept
from benchmark.engine.loading import split_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError, unknown
from benchmark.files import check_file, writing

ID = 'id'
"""The column with the names of the samples."""


def applied(path: Path, data: Dataset, protocol: Protocol) -> Protocol:
    """Reads a manifest, which then applies to a data set, and returns the protocol with its hash.

    Raises:
        UserError: The file cannot be read, its columns, samples or values do not fit, or the
            protocol has other gaps.
    """
    if protocol.gaps:
        raise UserError(f'--mask: expected no other training gaps beside it, found {protocol.gaps}')
    train, names = split_of(data, 'train'), data.task.names
    rows = _read(path, names)
    ids = [str(i) for i in train.ids]
    _check_ids(path, data, ids, rows)
    mask = np.array([rows[i] for i in ids], dtype=bool).reshape(len(ids), len(names))
    # A 0 for what is there is a gap; a 1 for what is not there cannot be made true.
    if len(wrong := np.argwhere(mask & ~train.available)):
        row, column = wrong[0]
        raise UserError(
            f'--mask {path}: expected 0 for {names[column]} of {ids[row]}, which {data.name} does '
            'not have, found 1'
        )
    if not mask.any():
        raise UserError(f'--mask {path}: expected some 1, found 0 for every training sample')
    GIVEN[data] = mask
    found = hashlib.sha256(_text(names, ids, mask).encode()).hexdigest()[:16]
    return dataclasses.replace(protocol, mask=found)


def _check_ids(path: Path, data: Dataset, ids: list[str], rows: Iterable[str]) -> None:
    known, listed = set(ids), set(rows)
    foreign, absent = sorted(listed - known), [i for i in ids if i not in listed]
    if foreign or absent:
        told = [f'{len(foreign)} that are none of them, e.g. {foreign[0]!r}'] if foreign else []
        told += [f'none for {len(absent)} of them, e.g. {absent[0]!r}'] if absent else []
        raise UserError(
            f'--mask {path}: expected a row for each of the {len(ids)} training samples of '
            f'{data.name}, found {" and ".join(told)}'
        )


def _read(path: Path, names: tuple[str, ...]) -> dict[str, list[bool]]:
    """Returns the name of each sample of a manifest -> what may be read, in the order of names."""
    where = f'--mask {path}'
    try:
        check_file(path)
        text = path.read_text(encoding='utf-8-sig')
        lines = list(csv.reader(io.StringIO(text, newline=''), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(f'{where}: cannot be read: {why}') from None
    head = lines[0] if lines else []
    for column in head:
        if column not in (ID, *names):
            raise unknown(f'column in {where}: column', column, [ID, *names])
    if sorted(head) != sorted([ID, *names]):
        raise UserError(
            f'{where}: expected the columns {", ".join([ID, *names])}, each once, '
            f'found {", ".join(head) or "none"}'
        )
    places, rows = [head.index(name) for name in names], dict[str, list[bool]]()
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        if len(line) != len(head):
            raise UserError(
                f'{where}: row {number}: expected {len(head)} values, found {len(line)}'
            )
        sample, values = line[head.index(ID)], [line[place] for place in places]
        if sample in rows:
            raise UserError(f'{where}: row {number}: expected {sample!r} once, found it again')
        if wrong := [value for value in values if value not in ('0', '1')]:
            name = head[places[values.index(wrong[0])]]
            raise UserError(f'{where}: row {number}: {name}: expected 0 or 1, found {wrong[0]!r}')
        rows[sample] = [value == '1' for value in values]
    return rows


def _text(names: tuple[str, ...], ids: list[str], mask: np.ndarray) -> str:
    """Returns a manifest, the same for the same content."""
    out = io.StringIO(newline='')
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([ID, *names])
    # Sorted, so that the hash does not depend on the order of the rows.
    writer.writerows(sorted([i, *map(int, row)] for i, row in zip(ids, mask, strict=True)))
    return out.getvalue()


def export(path: Path, settings: Iterable[tuple[Dataset, Protocol, int]]) -> None:
    """Writes the mask manifest of training samples.

    Args:
        path: The file.
        settings: Data set, protocol and seed of each experiment; all must have the same gaps.

    Raises:
        UserError: They have not, or the file cannot be written.
    """
    texts: dict[str, str] = {}
    for data, protocol, seed in settings:
        ids = [str(i) for i in split_of(data, 'train').ids]
        text = _text(data.task.names, ids, kept(data, protocol, seed))
        texts.setdefault(text, f'{data.name} seed {seed} {protocol.gaps or "complete"}')
    if len(texts) != 1:
        raise UserError(
            '--export-mask: expected one data set, one seed and one setting of training gaps, '
            f'found {", ".join(list(texts.values())[:3]) or "no experiment"}'
        )
    with writing(path) as file:
        file.write(next(iter(texts)).encode())
    print(f'written: {path}: what each training sample of {next(iter(texts.values()))} has')
