"""The runs of one protocol side by side, checked against their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from benchmark.errors import UserError, nearest
from benchmark.records import metrics, verification
from benchmark.records.repetition import unfinished
from benchmark.records.schema import Outcomes, Record, RecordError, is_external, scores_in
from benchmark.records.units import Unit, unit_of
from benchmark.report import grouping, statistics
from benchmark.report.samples import Samples, agreeing, run_name
from benchmark.report.standings import MAIN, Scores, Standings
from benchmark.subsets import subset_order
from benchmark.tested import is_sample

Loader = Callable[[Record], Outcomes | None]
"""Returns the outcomes of a record's run, or None if they are not at hand."""


Absent = Callable[[Sequence[str]], np.ndarray | None]


def _never(_: Sequence[str]) -> None:
    """Says that no expected score is asked for."""


EXPECTED = 'expected'
"""The column of the expected score when modalities are missing with given probabilities."""


class NoColumn(UserError):
    """A column that was asked for does not exist in a data set."""


class Runs:
    """The finished runs of one protocol on the same data; only such runs may be compared.

    Predictions of other code on the same test samples stand beside them.

    Runs whose records contradict their outcomes are left out, so that there may be none.

    Attributes:
        protocol_id: The protocol's id, which no other data share.
        data: The description of the data set.
        metric: The metric of the scores.
        main: Whether this is the data set's own metric, whose differences alone can be tested.
        higher: Whether a higher score is better.
        which: Field `subsets` of the protocol, which says what is tested.
        subsets: The S subsets that some run was tested on.
        columns: Id of each column -> its subsets: the subsets themselves, then the summaries.
        titles: Column id -> title of the columns to show.
        records: The records of the runs.
        samples: What the outcomes tell of the test samples.
        contributions: Per run (U, S, C) the contributions of U units to the metric, or None if they
            are not known. A unit is a cluster of test samples where the outcomes name clusters,
            otherwise a sample; for Dice a sample is a volume.
        values: (runs, columns) scores, NaN where not tested; summaries are over what was tested.
        groups: Row label -> indices of its runs, one per seed.
        seeds: The number of seeds of the rows that have most.

    Args:
        members: The records of the protocol, at least one.
        outcomes: Returns the outcomes of a record's run.
        problems: Takes one line for each run left out and for each unusable file of outcomes.
        metric: The metric to show, by default the data set's own.
        titles: Id of a subset or summary -> column title of those to show, by default all.
        absent: Returns of the M modalities (M,) the probability of each of being missing, which
            adds the column `EXPECTED` and ranks by it, or None.

    Raises:
        UserError: The metric's direction is not known, or a column of `titles` does not exist.
    """

    def __init__(
        self,
        members: Sequence[Record],
        outcomes: Loader,
        problems: list[str],
        metric: str = '',
        titles: Mapping[str, str] | None = None,
        absent: Absent = _never,
    ) -> None:
        agreed = list(agreeing(members, problems))
        self.data = (agreed or members)[0]['dataset']
        self.protocol_id = members[0]['protocol_id']
        self.metric = metric or self.data['metric']
        self.main = self.metric == self.data['metric']
        own = self.data['higher_is_better']
        self.higher = own if self.main else metrics.higher_is_better(self.metric)
        found = list(_proven(agreed, outcomes, problems))
        counted = [record for record, _ in found] or members
        self.which = members[0]['protocol'].get('subsets', '')
        # Other code may have been tested on more subsets than those that a protocol asks for.
        ours = [r for r in counted if not is_external(r)] if self.which else []
        tested = {subset for record in ours or counted for subset in record['scores']['test']}
        self.subsets = subset_order(tested, self.data['modalities'])
        self.columns = statistics.columns(self.subsets, len(self.data['modalities']))
        self.absent = absent(self.data['modalities'])
        if self.absent is not None:
            able = statistics.possible(self.data['modalities'], self.absent)
            if self.which and (lack := len({*able} - {*self.subsets})):
                raise NoColumn(
                    f'--fail: the expected score needs the scores of all {len(able):,} subsets '
                    f'that can occur, of which {lack:,} were not tested'
                )
            self.columns[EXPECTED] = [s for s in self.subsets if s in able]
        summaries = [c for c in list(self.columns)[len(self.subsets) :] if self.columns[c]]
        summaries.sort(key=lambda column: column != EXPECTED)
        self.titles = _titles(dict(titles or {}), self.subsets, summaries)
        self.samples = Samples()
        kept = list(self._counted(found, problems))
        self.records = [record for record, _ in kept]
        # Outcomes tell what samples contribute to the data set's own metric alone.
        each = [added if self.main else None for _, added in kept]
        if (clusters := self.samples.clusters) is not None:
            each = [a if a is None else statistics.pooled(a, clusters) for a in each]
        self.contributions = each
        scores = [scores_in(record, self.metric) for record in self.records]
        values = [[found.get(s, np.nan) for s in self.subsets] for found in scores]
        plain = np.array(values).reshape(len(kept), len(self.subsets))
        self.values = self.summarise(plain)
        self.groups = grouping.rows(self.records)
        self.seeds = max(map(len, self.groups.values()), default=0)

    @property
    def printed(self) -> Unit:
        """How the scores are printed."""
        return unit_of(self.metric)

    @property
    def own(self) -> list[Record]:
        """The records of runs of this project, without predictions of other code."""
        return [record for record in self.records if not is_external(record)]

    @property
    def external(self) -> list[str]:
        """The labels of the rows whose predictions other code made."""
        return [k for k, members in self.groups.items() if is_external(self.records[members[0]])]

    @property
    def numbers(self) -> dict[str, int]:
        """Subset id -> the number of test samples that it was measured on."""
        found = [record['n']['test'] for record in self.records]
        return {s: max(n.get(s, 0) for n in found) for s in self.subsets}

    @property
    def units(self) -> dict[str, int]:
        """Subset id -> the number of independent units that it was measured on."""
        return self.samples.units(self.numbers)

    @property
    def unit(self) -> str:
        """What an independent unit is: 'clusters' where the data set names them, ..."""
        return self.sample if self.samples.clusters is None else 'clusters'

    @property
    def sample(self) -> str:
        """What a score is measured on: 'samples', or 'volumes' for Dice."""
        return 'volumes' if self.data['metric'] == 'Dice' else 'samples'

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> its number of independent units; older records do not tell the training's."""
        told = next((r['samples'] for r in self.records if 'samples' in r), None)
        if told is not None:
            return {'training': told['train'], 'validation': told['val'], 'test': told['test']}
        if self.unit == 'clusters':
            return {'test': max(self.units.values())}
        numbers = self.records[0]['n']
        found = {'validation': numbers['val'], 'test': numbers['test']}
        return {split: max(n.values()) for split, n in found.items() if n}

    def summarise(self, values: np.ndarray) -> np.ndarray:
        """Appends the summaries to scores of subsets: (..., S) -> (..., columns)."""
        sizes = np.array([s.count('+') + 1 for s in self.subsets])
        count = len(self.data['modalities'])
        row = statistics.with_summaries(values, sizes, count, self.higher, is_sample(self.which))
        if self.absent is None:
            return row
        guess = self.data['chance'] if self.main else None
        weighed = statistics.expectations(
            values, self.subsets, self.data['modalities'], self.absent, guess
        )
        return np.concatenate([row, weighed[..., None]], axis=-1)

    def summarised(self, scores: Mapping[str, float | None]) -> dict[str, float]:
        """Returns column id -> score of a row that does not stem from runs.

        Args:
            scores: Subset id -> score. If one lacks, no summary is given.
        """
        given = [scores.get(subset) for subset in self.subsets]
        row = self.summarise(np.array(given, dtype=float))
        if None in given:
            row[len(given) :] = np.nan
        return dict(zip(self.columns, row.tolist(), strict=True))

    @cached_property
    def standings(self) -> Standings:
        """What can be said of the differences between the rows."""
        return Standings(
            Scores(
                columns=self.columns,
                values=self.values,
                rows=grouping.seeds(self.records, self.groups),
                units=self.contributions,
                metric=self.metric,
                higher=self.higher,
                summarise=self.summarise,
                main=MAIN if self.absent is None else EXPECTED,
            )
        )

    def _counted(
        self, proven: Iterable[tuple[Record, Outcomes | None]], problems: list[str]
    ) -> Iterator[tuple[Record, np.ndarray | None]]:
        """Yields each run that counts with the contributions of its samples, if these are known."""
        for record, outcomes in proven:
            if not any(self.metric in scores for scores in record['scores']['test'].values()):
                problems.append(f'{run_name(record)}: its outcomes do not tell {self.metric}')
                continue
            try:
                added = None
                if outcomes is not None:
                    added = self.samples.add(record, outcomes, self.subsets)
            except RecordError as error:
                problems.append(f'{error}; {unfinished(record, force=True)}')
            else:
                yield record, added


def _proven(
    members: Iterable[Record], outcomes: Loader, problems: list[str]
) -> Iterator[tuple[Record, Outcomes | None]]:
    """Yields each run whose record its outcomes prove, with these; others are named."""
    for record in members:
        try:
            found = outcomes(record)
            proven = record if found is None else verification.verified(record, found)
        except Exception as error:
            # Whatever one file holds, the tables of the others stand.
            kind = '' if isinstance(error, RecordError) else f'{type(error).__name__}: '
            problems.append(f'{run_name(record)}: {kind}{error}; {unfinished(record)}')
        else:
            yield proven, found


def _titles(
    given: dict[str, str], subsets: Sequence[str], summaries: Sequence[str]
) -> dict[str, str]:
    """Returns column id -> title; where no subset or no summary is given, all of them.

    Raises:
        NoColumn: A column does not exist, or is given twice.
    """
    # The modalities of a subset may be named in any order.
    ids = {tuple(sorted(subset.split('+'))): subset for subset in subsets}
    asked = [ids.get(tuple(sorted(key.split('+'))), key) for key in given]
    for key in asked:
        if asked.count(key) > 1:
            raise NoColumn(f'--columns: expected one title of {key}, found several')
        if key not in (*subsets, *summaries):
            near = nearest(key, [*subsets, *summaries])
            raise NoColumn(
                f'no subset or summary {key!r}{near} (tested: {", ".join(subsets)}; '
                f'summaries: {", ".join(summaries)})'
            )
    given = dict(zip(asked, given.values(), strict=True))
    plain = {key: key for key in subsets}
    words = {key: key.replace('_', ' ') for key in summaries}
    some = {key: title for key, title in given.items() if key in plain}
    told = {k: words[k] if title == k else title for k, title in given.items() if k in words}
    return {**(some or plain), **(told or words)}


def gather(
    complete: Iterable[Record],
    outcomes: Loader,
    problems: list[str],
    metric: str = '',
    titles: Mapping[str, str] | None = None,
    absent: Absent = _never,
) -> list[Runs]:
    """Returns the runs of each protocol among the records of a data set; arguments as of `Runs`."""
    gathered = [
        Runs(records, outcomes, problems, metric, titles, absent)
        for records in grouping.blocks(complete)
    ]
    return [runs for runs in gathered if runs.records]
