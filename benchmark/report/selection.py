"""What a table is asked to show: some methods, the case of sensors that are off or fail."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from benchmark.errors import UserError, unknown
from benchmark.missing import parse_rates
from benchmark.records.schema import DatasetInfo, Outcomes, Record
from benchmark.report.runs import EXPECTED, Loader, NoColumn
from benchmark.tested import is_sample

OFF = 'off'
"""What --where says of a modality that is gone."""


@dataclass(frozen=True)
class Selection:
    """What is shown of the records of a data set; by default all of them.

    Attributes:
        only: Labels of rows. A word that is none is the name of a method, with all of its rows.
        where: Modalities that are gone, as typed: 'thermal=off,depth=off'.
        fail: Probability that a modality is missing, as typed: 'thermal=0.05,rgb=0.05'.
    """

    only: tuple[str, ...] = ()
    where: str = ''
    fail: str = ''

    @property
    def suffix(self) -> str:
        """What the names of the files end in."""
        gone = ''.join(f'-{part.replace("=", "-")}' for part in self.where.split(',') if part)
        chances = ''.join(f'-{_spelled(part)}' for part in self.fail.split(',') if part)
        return ('-only' if self.only else '') + gone + (f'-fail{chances}' if self.fail else '')

    def kept(self, records: Sequence[Any]) -> list[Any]:
        """Returns the records of the rows to show.

        Raises:
            NoColumn: A method has no record.
        """
        if not self.only:
            return list(records)
        labels = {record['method']['label'] for record in records}
        names = {record['method']['name'] for record in records}
        for word in self.only:
            if word not in labels | names:
                raise NoColumn(str(unknown('method', word, labels | names)))
        rows, methods = set(self.only) & labels, set(self.only) - labels
        return [
            r for r in records if r['method']['label'] in rows or r['method']['name'] in methods
        ]

    def off(self, names: Sequence[str]) -> list[str]:
        """Returns the modalities of a data set that are gone.

        Raises:
            NoColumn: The data set has no such modality, or none is left.
            UserError: A part is not MODALITY=off.
        """
        gone = []
        for part in self.where.split(',') if self.where else ():
            name, _, value = part.partition('=')
            if value != OFF:
                raise UserError(f'--where: expected MODALITY={OFF}, found {part!r}')
            if name not in names:
                raise NoColumn(str(unknown('modality in --where', name, names)))
            gone.append(name)
        if set(gone) == set(names):
            raise NoColumn(f'--where {self.where}: expected a modality that is left, found none')
        return gone

    def absent(self, names: Sequence[str]) -> np.ndarray | None:
        """Returns (M,) the probability of each modality of being missing, None if not asked for.

        Raises:
            NoColumn: The data set has no such modality.
            UserError: A probability is not from 0 to 1, or --where says that the modality is off.
        """
        gone = self.off(names)
        if not self.fail:
            return None
        if EXPECTED in names:
            raise NoColumn(f'--fail: a modality is called {EXPECTED!r} like the column')
        for name in (part.rpartition('=')[0] for part in self.fail.split(',')):
            if name and name not in names:
                raise NoColumn(str(unknown('modality in --fail', name, names)))
        found = parse_rates(self.fail, names, f'--fail {self.fail}')
        named = {part.rpartition('=')[0] for part in self.fail.split(',')}
        both = [name for name in gone if name in named]
        if both:
            raise UserError(f'--fail: expected no {both[0]}, which --where says is off')
        return np.array([1.0 if n in gone else p for n, p in zip(names, found, strict=True)])

    def without(self, records: Sequence[Record], load: Loader) -> tuple[list[Record], Loader]:
        """Returns the records, and what loads their outcomes, without the modalities of `where`.

        Args:
            records: The records.
            load: Returns the outcomes of a record's run.
        """
        if not self.where:
            return list(records), load
        if any(is_sample(record['protocol'].get('subsets', '')) for record in records):
            raise NoColumn(
                f'--where {self.where}: expected runs that were tested on every subset; of a '
                'sample too few subsets lack these modalities'
            )
        whole = {record['identity']: record for record in records}

        def left(record: Record) -> Outcomes | None:
            found, gone = load(whole[record['identity']]), set(self.off(_modalities(record)))
            if found is None:
                return None
            return {key: array for key, array in found.items() if not gone & _members(key)}

        return [_narrowed(r, set(self.off(_modalities(r)))) for r in records], left

    def published(
        self, rows: Sequence[Mapping[str, Any]], data: DatasetInfo
    ) -> list[Mapping[str, Any]]:
        """Returns the rows of papers, whose printed means count no longer if a modality is gone.

        Data of the user's own have no rows of papers, whatever they are called.
        """
        if data.get('reader', data['name']) != data['name']:
            return []
        gone = self.off(data['modalities'])
        return [{**row, 'mean': None} if gone else row for row in rows]

    def told(self, names: Sequence[str]) -> str:
        """Says in sentences what of the records is shown."""
        parts, gone = [], self.off(names)
        if self.only:
            parts.append(
                f'Only these methods were asked for and are compared: {", ".join(self.only)}.'
            )
        if gone:
            parts.append(
                f'Only the subsets without {" and ".join(gone)} count, also in the summaries.'
            )
        absent = self.absent(names)
        if absent is not None:
            chances = ', '.join(
                f'{n} {100 * p:g} %' for n, p in zip(names, absent, strict=True) if p
            )
            parts.append(
                f'The column {EXPECTED!r} is the mean over the subsets, each weighted by its '
                f'probability if modalities are missing independently of each other ({chances}).'
            )
        return ' '.join(parts)


EVERYTHING = Selection()


def with_summaries(
    columns: dict[str, str] | None, summaries: Sequence[str]
) -> dict[str, str] | None:
    """Adds the words of --summaries to the columns to show.

    Raises:
        UserError: A word is no summary.
    """
    for word in summaries:
        if not re.fullmatch(r'mean|worst|expected|missing_\d+', word):
            known = ('mean', 'worst', 'expected', 'missing_0', 'missing_1', 'missing_2')
            raise unknown('summary', word, known)
    return {**(columns or {}), **{word: word for word in summaries}} or None


def _spelled(part: str) -> str:
    """Returns a part of --fail for the name of a file: 'rgb-0.2' of 'rgb=.2' and 'rgb=0.20'."""
    name, equals, value = part.rpartition('=')
    with contextlib.suppress(ValueError):  # told where the probabilities are read
        value = f'{float(value):.10g}'
    return f'{name}-{value}' if equals else value


def _modalities(record: Record) -> list[str]:
    return record['dataset']['modalities']


def _members(key: str) -> set[str]:
    """Returns the modalities of an array of outcomes, none of one that all subsets share."""
    return set(key.partition('/')[2].split('+'))


def _narrowed(record: Record, gone: set[str]) -> Record:
    """Returns a record without the test subsets that have a modality which is gone."""
    test = record['scores']['test']
    kept = [subset for subset in test if not gone & set(subset.split('+'))]
    changed: dict[str, Any] = {
        **record,
        'scores': {**record['scores'], 'test': {s: test[s] for s in kept}},
        'n': {**record['n'], 'test': {s: record['n']['test'][s] for s in kept}},
        'collapsed': [s for s in record['collapsed'] if s in kept],
    }
    return cast(Record, changed)
