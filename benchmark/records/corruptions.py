"""The file of a run's tests under corruptions, which lies beside its record.

The file belongs to one record, whose hash it holds, and never changes that. It holds counts, from
which every score is computed again when the file is read.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

import numpy as np

from benchmark.files import read_json, writing
from benchmark.records import metrics, store
from benchmark.records.checks import check_form
from benchmark.records.identity import content
from benchmark.records.kinds import FILE, KINDS, SEVERITIES
from benchmark.records.schema import Record, RecordError
from benchmark.subsets import extremes

FORMAT = 1

TOLERANCE = 1e-6
"""Largest difference of a score from that of its counts."""

ELSEWHERE = 0.01
"""Largest difference of a clean score from the record's, for tests on another device."""


class Cell(TypedDict):
    """The score of one test on one subset, None where it is undefined.

    `n` is the number of test samples, or of volumes for Dice. `totals` are the samples'
    contributions to the metric (`benchmark.records.metrics.contributions`), summed.
    """

    n: int
    score: float | None
    totals: list[float]


Cells = dict[str, Cell]
"""Subset -> its cell."""


class Tests(TypedDict):
    """What the file holds.

    `identity` and `record` are the identity of the run and the hash of its record's content.
    `version` is that of the formulas. `clean` has the cells of the uncorrupted input. `tests` has
    those of modality -> corruption -> severity -> subset. `device` names where they were computed.
    """

    format: int
    version: int
    identity: str
    record: str
    device: str
    seconds: float
    clean: Cells
    tests: dict[str, dict[str, dict[str, Cells]]]


def subsets_of(names: Iterable[str], modality: str) -> list[str]:
    """Returns the subsets on which a corrupted modality is tested, M + 1 of M modalities.

    They are the modality alone, the complete set, and those that lack one other modality: noise in
    one modality beside the absence of another.
    """
    return [subset for subset in extremes(list(names)) if modality in subset.split('+')]


def cell_of(number: int, totals: np.ndarray, metric: str) -> Cell:
    """Returns a cell of summed contributions (C,)."""
    score = float(metrics.score(totals, metric))
    return {'n': number, 'score': None if math.isnan(score) else score, 'totals': totals.tolist()}


def write(folder: Path, tests: Tests) -> None:
    """Writes the file, whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    whole = {**tests, 'content': content(tests)}
    with writing(folder / FILE) as file:
        file.write(f'{json.dumps(whole, indent=1, sort_keys=True)}\n'.encode())


def read(folder: Path, record: Record) -> Tests | None:
    """Reads the tests of a run.

    Args:
        folder: The folder of the run.
        record: Its record.

    Returns:
        None if there are none, or those that there are belong to another record.

    Raises:
        RecordError: The file is damaged or edited, or contradicts itself or the record.
    """
    file = folder / FILE
    try:
        found = read_json(file)
        if not isinstance(found, dict) or found.get('format') != FORMAT:
            raise RecordError(f'expected format {FORMAT}')
        if found.pop('content', None) != content(found):
            raise RecordError('its content does not fit its hash')
        check_form(found, Tests)
        tests = cast(Tests, found)
        if (tests['identity'], tests['record']) != (record['identity'], record.get('content')):
            return None
        _check(tests, record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        told = ' '.join(str(error).split())[:200]
        raise RecordError(f'{file}: cannot be read as tests under corruptions: {told}') from None
    return tests


def _check(tests: Tests, record: Record) -> None:
    names = record['dataset']['modalities']
    own, clean = record['dataset']['metric'], tests['clean']
    _check_cells('clean', clean, record, extremes(names))
    for subset, cell in clean.items():
        recorded = record['scores']['test'].get(subset, {}).get(own)
        gap = abs((cell['score'] or 0) - (recorded or 0))
        if (cell['score'] is None) != (recorded is None) or gap > ELSEWHERE:
            raise RecordError(f'clean.{subset}: {cell["score"]}, but {recorded} in the record')
    for modality, kinds in tests['tests'].items():
        if modality not in names:
            raise RecordError(f'tests: no modality {modality[:100]!r}')
        for kind, severities in kinds.items():
            if kind not in KINDS:
                raise RecordError(f'tests.{modality}: no corruption {kind[:100]!r}')
            for severity, cells in severities.items():
                where = f'tests.{modality}.{kind}.{severity[:100]}'
                if severity not in map(str, SEVERITIES):
                    raise RecordError(f'{where}: expected a severity from 1 to 5')
                _check_cells(where, cells, record, subsets_of(names, modality))
                if not cells.keys() <= clean.keys():
                    raise RecordError(f'{where}: expected subsets that have a clean score')


def _check_cells(where: str, cells: Cells, record: Record, subsets: list[str]) -> None:
    data = record['dataset']
    for subset, cell in cells.items():
        if subset not in subsets:
            raise RecordError(f'{where}: {subset[:100]!r} is none of {", ".join(subsets)[:200]}')
        # For mIoU a record counts images without a labelled pixel, which contribute nothing.
        most = record['n']['test'].get(subset, 0)
        if not 1 <= cell['n'] <= most or (cell['n'] < most and data['metric'] != 'mIoU'):
            raise RecordError(f'{where}.{subset}.n: expected {most}, found {cell["n"]}')
        totals = np.array(cell['totals'], float)
        if len(totals) != _width(data) or (totals < 0).any():
            raise RecordError(f'{where}.{subset}.totals: expected {_width(data)} numbers from 0')
        if data['metric'] in ('ACER', 'accuracy') and totals.sum() != cell['n']:
            raise RecordError(f'{where}.{subset}.totals: expected the sum {cell["n"]}')
        score, value = float(metrics.score(totals, data['metric'])), cell['score']
        told_nan = value is None and math.isnan(score)
        if not told_nan and not (value is not None and abs(score - value) <= TOLERANCE):
            raise RecordError(f'{where}.{subset}: score {value}, but {score:.6f} by its counts')
        if value is not None and not 0 <= value <= (math.inf if data['metric'] == 'MAE' else 1):
            raise RecordError(f'{where}.{subset}: expected a fraction, found {value}')


def _width(data: Mapping[str, Any]) -> int:
    """Returns how many numbers a sample contributes to the metric of a data set."""
    sizes = {
        'F1': 3 * len(data['classes']),
        'MAE': 2,
        'ACER': 4,
        'accuracy': 2,
        'mIoU': 3 * len(data['classes']),
    }
    return sizes.get(data['metric'], 1 + len(data.get('regions', ())))


class Found(NamedTuple):
    """The tests of several runs: identity of a run -> its tests, and a line per unusable file."""

    tests: dict[str, Tests]
    problems: list[str]


def scan(root: Path) -> Found:
    """Reads the tests of all runs of a data set that have some; a run without a record has none.

    Args:
        root: The folder of the data set's runs.
    """
    found = Found({}, [])
    for file in sorted(root.glob(f'*/*/seed*/{FILE}')):
        # Whatever is wrong with the record is told where tables read it.
        with contextlib.suppress(RecordError):
            record = store.read(file.with_name(store.RECORD))
            if record['status'] != 'complete':
                continue
            try:
                tests = read(file.parent, record)
            except RecordError as error:
                found.problems.append(str(error))
                continue
            if tests is not None:
                found.tests[record['identity']] = tests
    return found
