"""The words around a table: what the numbers are, how they came about, what does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmark import ranking, statistics
from benchmark.ranking import Runs
from benchmark.schema import DatasetInfo, Failure, Record

SELECTION = {
    'last': 'tested after the last epoch',
    'mean': 'tested at the epoch of the best validation mean over subsets',
    'worst': 'tested at the epoch of the best validation score on the worst subset',
    'full': 'tested at the epoch of the best validation score with all modalities',
}
SAMPLER = {
    'uniform': 'training masks uniform over the subsets',
    'by_size': 'training masks uniform over the number of modalities',
    'complete': 'training on all modalities',
}
PARTS = (
    '{epochs} epochs of batches of {batch_size}',
    '{optimizer}',
    'learning rate {lr:g}',
    'weight decay {weight_decay:g}',
    '{schedule} schedule with a warm-up of {warmup:g}',
    '{precision}',
)


def title(data: DatasetInfo) -> str:
    """Names dataset, metric and the direction in which it is better."""
    arrow = '↑' if data['higher_is_better'] else '↓'
    return f'{data["name"]}: {data["metric"]} {arrow} (%)'


def caption(runs: Runs) -> list[str]:
    """Returns sentences on protocol, seeds, test set, summaries and significance."""
    first = runs.records[0]
    protocol = first['protocol_id']
    better = 'higher' if first['dataset']['higher_is_better'] else 'lower'
    return [
        f'{first["dataset"]["metric"]} in percent, {better} is better.',
        f'Protocol {protocol}: {words(first["protocol"])}.',
        _gaps(runs),
        f'{_seeds(runs)}; {_samples(runs)}.',
        'Mean, worst, and the mean by number of missing modalities are taken per seed.',
        _significance(runs),
    ]


def words(protocol: Mapping[str, Any]) -> str:
    """Says a protocol in words."""
    sampler = protocol.get('sampler', '')
    parts = [
        SAMPLER.get(sampler, f'training masks {sampler}') + " unless a method's own",
        SELECTION.get(protocol.get('selection', ''), ''),
    ]
    for part in PARTS:
        try:
            parts.append(part.format(**protocol))
        except (KeyError, ValueError):
            continue
    return ', '.join(filter(None, parts))


def size(runs: Runs) -> str:
    """Says in a few words how many seeds and test samples stand behind the numbers."""
    most = max(len(members) for members in runs.groups.values())
    return f'{most} seed{"s" if most > 1 else ""}, {_samples(runs)}'


def _gaps(runs: Runs) -> str:
    rates = runs.records[0]['gaps']['rates']
    if not any(rates.values()):
        return 'The training data are complete.'
    told = ', '.join(f'{name} {100 * rate:.1f} %' for name, rate in rates.items())
    return f'Missing in the training data: {told}.'


def _seeds(runs: Runs) -> str:
    most = max(len(members) for members in runs.groups.values())
    if most == 1:
        return 'One seed, so no deviation can be given'
    return f'± is the standard deviation (ddof = 1) over {most} seeds'


def _samples(runs: Runs) -> str:
    sizes = {n for r in runs.records for n in r['n']['test'].values()}
    if len(sizes) == 1:
        return f'{sizes.pop():,} test samples'
    return f'{min(sizes):,} to {max(sizes):,} test samples, by subset'


def _significance(runs: Runs) -> str:
    if len(runs.groups) < 2:
        return 'Nothing is ranked: there is one method.'
    without = [
        label
        for label, members in runs.groups.items()
        if any(runs.counts[i] is None for i in members)
    ]
    if len(without) == len(runs.groups):
        return 'Nothing is marked: without per-sample outcomes no difference can be tested.'
    several = any(len(members) > 1 for members in runs.groups.values())
    spread = ' and the spread over seeds by Welch' if several else '; the training is not repeated'
    text = (
        f'Bold is the best where it differs from the second, underlined the second where it '
        f'differs from the third: paired bootstrap of the test samples '
        f'({statistics.REPLICATES:,} draws){spread}, '
        f'p < {ranking.ALPHA} after Holm over the columns.'
    )
    if without:
        text += f' Differences to {", ".join(without)} are not tested: outcomes are missing.'
    return text


def notes(runs: Runs, failed: Sequence[Failure]) -> list[str]:
    """Returns the footnotes on a block's own rows."""
    return [*_incomplete(runs), *_collapsed(runs), *(failure(f) for f in failed)]


def sources(published: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the footnotes on published rows: source, errata, why not comparable."""
    origin: dict[str, list[str]] = {}
    reason: dict[str, list[str]] = {}
    errata = []
    for row in published:
        origin.setdefault(f'{row["source"]}; {row["certainty"]}', []).append(row['method'])
        if not row['comparable']:
            reason.setdefault(row['why_not'], []).append(row['method'])
        if row.get('erratum'):
            errata.append(f'{row["method"]} (published): {row["erratum"]}')
    return [
        *(f'published {"; ".join(rows)}: {text}' for text, rows in origin.items()),
        *errata,
        *(f'‡ not comparable: {"; ".join(rows)}: {text}' for text, rows in reason.items()),
    ]


def _incomplete(runs: Runs) -> list[str]:
    """Tells rows with fewer seeds or subsets than the others."""
    told = []
    most = max(len(members) for members in runs.groups.values())
    for label, members in runs.groups.items():
        if len(members) < most:
            told.append(f'{label}: {len(members)} of {most} seeds')
        tested = ~np.isnan(runs.values[members, : len(runs.subsets)]).any(0)
        if not tested.all():
            told.append(f'{label}: summaries over {tested.sum()} of {len(tested)} subsets')
    return told


def _collapsed(runs: Runs) -> list[str]:
    """Tells where a network gives one answer to everything."""
    seeds: dict[str, list[int]] = {}
    for label, members in runs.groups.items():
        for record in (runs.records[i] for i in members):
            for name, subsets in _answers(record).items():
                text = f'† {label} collapsed: it answers {name} on {", ".join(subsets)}'
                seeds.setdefault(text, []).append(record['seed'])
    return [f'{text} (seed {", ".join(map(str, found))})' for text, found in seeds.items()]


def _answers(record: Record) -> dict[str, list[str]]:
    by_class: dict[str, list[str]] = {}
    for subset in record['collapsed']:
        answer = int(np.argmax(record['predicted'][subset]))
        by_class.setdefault(record['dataset']['classes'][answer], []).append(subset)
    return by_class


def failure(record: Failure) -> str:
    """Tells a failed run in one line."""
    error = ' '.join(record['error'].split())
    label, where = record['method']['label'], record['protocol_id']
    return f'failed: {label} seed {record["seed"]} ({where}): {error}'
