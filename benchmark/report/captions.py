"""The words around a table: what the numbers are, how they came about, what does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.errors import COMPLETE_ONLY
from benchmark.records.schema import Record, Unscored
from benchmark.report import ranking, statistics
from benchmark.report.ranking import Runs

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


def title(runs: Runs) -> str:
    """Names dataset, metric and the direction in which it is better."""
    arrow = '↑' if runs.higher else '↓'
    return f'{runs.records[0]["dataset"]["name"]}: {runs.metric} {arrow} (%)'


def caption(runs: Runs) -> list[str]:
    """Returns sentences on protocol, seeds, test set, summaries and significance."""
    first = runs.records[0]
    return [
        metric(runs),
        f'Protocol {first["protocol_id"]}: {words(first["protocol"])}.',
        _gaps(runs),
        spread(runs),
        'Mean, worst, and the mean by number of missing modalities are taken per seed.',
        significance(runs),
    ]


def metric(runs: Runs) -> str:
    """Names the metric, its unit and its direction in a sentence."""
    return f'{runs.metric} in percent, {"higher" if runs.higher else "lower"} is better.'


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


def spread(runs: Runs) -> str:
    """Says what the deviation is over, and how many samples were tested."""
    return f'{_seeds(runs)}; {_samples(runs)}.'


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


def significance(runs: Runs) -> str:
    """Says what marks mean and by which test, or why there are none."""
    if len(runs.groups) < 2:
        return 'Nothing is ranked: there is one method.'
    if not runs.main:
        own = runs.records[0]['dataset']['metric']
        return f'Nothing is marked: whether methods differ is tested in {own} alone.'
    without = [
        label
        for label, members in runs.groups.items()
        if any(runs.counts[i] is None for i in members)
    ]
    if len(without) == len(runs.groups):
        return 'Nothing is marked: without per-sample outcomes no difference can be tested.'
    several = any(len(members) > 1 for members in runs.groups.values())
    training = (
        ' and the spread over seeds by Welch' if several else '; the training is not repeated'
    )
    text = (
        f'Bold is the best where it differs from the second, underlined the second where it '
        f'differs from the third: paired bootstrap of the test samples '
        f'({statistics.REPLICATES:,} draws){training}, '
        f'p < {ranking.ALPHA} after Holm over the columns.'
    )
    if without:
        text += f' Differences to {", ".join(without)} are not tested: outcomes are missing.'
    return text


def notes(runs: Runs) -> list[str]:
    """Returns the footnotes on a block's own rows."""
    return [*_incomplete(runs), *_collapsed(runs), *_tuned(runs)]


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


def _tuned(runs: Runs) -> list[str]:
    """Tells which rows were tuned, over what, what was chosen, and what the search cost."""
    told = []
    for label, members in runs.groups.items():
        search = runs.records[members[0]].get('tuning')
        if search is None or search['chosen'] is None:
            continue
        options = search['tried'][search['chosen']]['options']
        chosen = ', '.join(f'{key}={value}' for key, value in options.items())
        space = ', '.join(f'{key} {text}' for key, text in search['space'].items())
        failed = sum(trial['score'] is None for trial in search['tried'])
        told.append(
            f'{label}: {chosen}{"" if search["chosen"] else ", the untuned setting,"} is the best '
            f'of {search["trials"]} trials{f" ({failed} failed)" if failed else ""} by the '
            f'validation mean over subsets, at a seed of their own; '
            f'searched: {space}; {search["seconds"]:.0f} s'
        )
    return told


def options(record: Record) -> str:
    """Says who chose a row's options, or that there was nothing to choose."""
    method = record['method']
    fixed = method['source'] == 'default' and method.get('tunable') == []
    return 'nothing to tune' if fixed else method['source']


def _answers(record: Record) -> dict[str, list[str]]:
    by_class: dict[str, list[str]] = {}
    for subset in record['collapsed']:
        answer = int(np.argmax(record['predicted'][subset]))
        by_class.setdefault(record['dataset']['classes'][answer], []).append(subset)
    return by_class


def failures(failed: Sequence[Unscored]) -> list[str]:
    """Tells failed runs, one line each; what no seed could train on is told once."""
    return list(dict.fromkeys(map(failure, failed)))


def failure(record: Unscored) -> str:
    """Tells a failed run in one line."""
    error = ' '.join(record['error'].split())
    label, where = record['method']['label'], record['protocol_id']
    if record['status'] == 'refused':
        return f'{label} not run ({where}): {COMPLETE_ONLY}'
    return f'failed: {label} seed {record["seed"]} ({where}): {error}'
