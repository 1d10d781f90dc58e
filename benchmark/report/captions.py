"""The sentences around a block: what its numbers are, how they came about, what does not count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmark.records.schema import Record, Unscored
from benchmark.report import coverage, gaps, settings
from benchmark.report.comparison import LEVEL
from benchmark.report.runs import EXPECTED, Runs
from benchmark.report.standings import MIN_UNITS
from benchmark.report.table import Block
from benchmark.shown import noun

LISTED = 15
"""Most subsets that a sentence lists one by one: those of 4 modalities."""


def title(block: Block) -> str:
    """Names data set, its options other than the defaults, metric and direction."""
    runs = block.first
    arrow = '↑' if runs.higher else '↓'
    told = f'{settings.named(runs)}: {runs.metric} {arrow}{runs.printed.suffix}'
    return f'{told} by training gaps' if block.by_gaps else told


def lead(block: Block) -> str:
    """Returns the title of the column of leads."""
    return f'training gaps % ({"/".join(block.first.data["modalities"])})'


def size(block: Block) -> str:
    """Says in a few words how many seeds and test samples the numbers are from."""
    runs, count = block.widest, len(block.leads)
    told = f'{runs.seeds} seed{"s" if runs.seeds > 1 else ""}, {settings.samples(runs)}'
    return (
        f'{count} setting{"s" if count > 1 else ""} of training gaps, {told}'
        if block.by_gaps
        else told
    )


def numbers(runs: Runs) -> str:
    """Says on how many samples each subset was tested, if these are not the same; else ''."""
    if len(set(runs.numbers.values())) < 2:
        return ''
    told = ', '.join(f'{subset} {n:,}' for subset, n in runs.numbers.items())
    return f'Number of test {runs.sample} by subset: {told}.'


def caption(block: Block) -> str:
    """Returns sentences on metric, protocol, seeds, test samples, summaries and significance.

    They are paragraphs, with an empty line between two.
    """
    runs = block.widest
    protocol = settings.words(runs.records[0]['protocol'])
    summaries = f'For each seed, {coverage.mean(runs)}, worst is {coverage.worst(runs)}'
    about = [settings.measured(runs.metric, runs)]
    about += settings.data(runs)
    told = []
    if block.by_gaps:
        told += [
            'The first column gives the percentage of training samples that lack '
            f'{"/".join(runs.data["modalities"])}, as counted; they are the same samples in every '
            'epoch. The other columns give the subset that is available at test.',
            f'Protocol: {protocol}.',
        ]
    else:
        told += [f'Protocol {runs.protocol_id}: {protocol}.', settings.training_gaps(runs)]
        which = 'tested subsets' if runs.which else 'subsets'
        summaries += f', and missing k is the mean over the {which} that lack k modalities'
    columns = f'{_deviation(runs)}. The scores are on {settings.samples(runs)}. {summaries}.'
    columns = ' '.join(filter(None, [columns, *coverage.told(runs), block.told]))
    marks = 'Methods are compared only under the same training gaps. ' if block.by_gaps else ''
    parts = [' '.join(about), ' '.join(filter(None, told)), columns, external(runs)]
    return '\n\n'.join([*filter(None, parts), f'{marks}{significance(runs)}'])


def external(runs: Runs) -> str:
    """Says what may be concluded from rows of other code, '' if there are none."""
    if not runs.external:
        return ''
    return (
        f'Rows of other code: {", ".join(runs.external)}. Their predictions are on the same test '
        'samples and are scored and tested as all others. How these networks were trained and '
        'selected, on which data, with how many parameters and how much tuning is not known: a '
        'difference is one between trained networks, and not between methods under one protocol.'
    )


def _deviation(runs: Runs) -> str:
    if runs.seeds == 1:
        return 'There is one seed and hence no standard deviation'
    return f'± is the standard deviation (ddof = 1) over {runs.seeds} seeds'


def significance(runs: Runs) -> str:
    """Says what marks mean and by which test, or what is missing for any."""
    if len(runs.groups) > 1 and not runs.main:
        return f'No score is marked: differences are tested in {runs.data["metric"]} only.'
    standings = runs.standings
    if standings.lacking:
        return f'No score is marked: {standings.lacking}.'
    main = 'expected score' if standings.main == EXPECTED else standings.main
    text = (
        'The best score is bold if it differs significantly from the second, the second is '
        f'underlined if it differs from the third: p < {LEVEL} in a t-test on '
        f'{len(standings.seeds)} shared seeds, whose error joins the variance by test samples '
        "(paired bootstrap) and the variance between seeds. Holm's correction is over the tests "
        f'of the {main}, and over those of all other columns.'
    )
    if standings.ranks:
        text += f' Rank: the 95 % interval of the rank in the {main}.'
    small = [
        k for k, count in standings.effective.items() if count < MIN_UNITS and k in runs.titles
    ]
    if small:
        told = ', '.join(runs.titles[key] for key in small)
        text += f' Not tested, on fewer than {MIN_UNITS} independent samples: {told}.'
    if standings.left_out:
        told = ', '.join(f'{label} ({why})' for label, why in standings.left_out.items())
        text += f' Not ranked: {told}.'
    return text


def origins(block: Block) -> list[str]:
    """Explains in one note the values of the column 'options' that occur."""
    return settings.origins(row.extra.get('options', '') for row in block.rows)


def unmarked(runs: Runs) -> str:
    """Says in one sentence why no score is marked."""
    if runs.standings.lacking:
        return significance(runs)
    seeds = len(runs.standings.seeds)
    return f'No score is marked: no tested difference has p < {LEVEL} on {seeds} shared seeds.'


def notes(block: Block) -> list[str]:
    """Returns the footnotes on the block's methods."""
    most = block.widest.seeds
    told = [f'{k}: {r.seeds} of {most} seeds' for k, r in block.leads.items() if r.seeds < most]
    for name, runs in block.leads.items():
        own = [*_small(runs), *_incomplete(runs), *_collapsed(runs), *_trained(runs), *_tuned(runs)]
        told += [f'{name}: {note}' if name else note for note in own]
    return told


def _small(runs: Runs) -> Iterator[str]:
    """Tells that summaries are over subsets with few independent units."""
    small = {s: n for s, n in runs.units.items() if n < MIN_UNITS}
    if not small:
        return
    least, most = min(small.values()), max(small.values())
    if len(small) == len(runs.units):
        count = f'{most}' if least == most else f'{least} to {most}'
        yield f'every subset has only {count} test {noun(runs.unit, most)}; tests need {MIN_UNITS}'
        return
    told = ', '.join(f'{subset} {n}' for subset, n in small.items())
    if len(small) > LISTED:
        told = f'{len(small)} subsets, of {least} to {most}'
    few = f'fewer than {MIN_UNITS} test {runs.unit}'
    yield f'summaries are also over subsets with {few}: {told}'


def _incomplete(runs: Runs) -> Iterator[str]:
    """Tells which rows have fewer seeds or subsets than the others."""
    for label, members in runs.groups.items():
        if len(members) < runs.seeds:
            yield f'{label}: {len(members)} of {runs.seeds} seeds'
        tested = ~np.isnan(runs.values[members, : len(runs.subsets)]).any(0)
        if not tested.all():
            yield f'{label}: summaries over {tested.sum()} of {len(tested)} subsets'


def _collapsed(runs: Runs) -> list[str]:
    """Tells in one line for each row where its networks predict one class for all samples."""
    told = []
    for label, members in runs.groups.items():
        seeds: dict[str, list[int]] = {}
        shares = []
        for record in (runs.records[i] for i in members):
            answers: dict[str, list[str]] = {}
            for subset in record['collapsed']:
                predicted = record['predicted'][subset]
                answer = record['dataset']['classes'][int(np.argmax(predicted))]
                shares.append(max(predicted))
                answers.setdefault(answer, []).append(subset)
            for answer, subsets in answers.items():
                text = f'{answer} on {_listed(subsets, len(runs.subsets))}'
                seeds.setdefault(text, []).append(record['seed'])
        where = [
            f'{text} (seed{"s" if len(found) > 1 else ""} {", ".join(map(str, found))})'
            for text, found in seeds.items()
        ]
        if where:
            every = 'every' if min(shares) == 1 else 'nearly every'
            told.append(f'† {label} collapsed: for {every} sample it predicts {"; ".join(where)}')
    return told


def _listed(subsets: Sequence[str], count: int) -> str:
    """Names some of `count` subsets, or says how many they are."""
    if len(subsets) == count > 1:
        return 'every subset'
    return ', '.join(subsets) if len(subsets) <= LISTED else f'{len(subsets)} subsets'


def _trained(runs: Runs) -> Iterator[str]:
    """Tells where a training was too short for a schedule, and which rows mix two codes."""
    rows: dict[str, list[str]] = {}
    for label, members in runs.groups.items():
        methods = [runs.records[i]['method'] for i in members]
        told = dict.fromkeys(note for method in methods for note in method.get('notes', []))
        if label not in runs.external and len({m.get('code') for m in methods}) > 1:
            told['its seeds were trained with different versions of the code'] = None
        for note in told:
            rows.setdefault(note, []).append(label)
    for note, labels in rows.items():
        every = len(labels) == len(runs.groups) > 1
        yield f'{"every row" if every else ", ".join(labels)}: {note}'


def _tuned(runs: Runs) -> Iterator[str]:
    """Tells which rows were tuned over what, which setting was chosen, and the cost."""
    for label, members in runs.groups.items():
        search = runs.records[members[0]].get('tuning')
        if search is None or search['chosen'] is None:
            continue
        winner = search['tried'][search['chosen']]
        chosen = ', '.join(f'{key}={value}' for key, value in winner['options'].items())
        space = ', '.join(f'{key} {text}' for key, text in search['space'].items())
        failed = sum(trial['score'] is None for trial in search['tried'])
        equal = sum(trial['score'] == winner['score'] for trial in search['tried'])
        won = f'is the first of {equal} trials with' if equal > 1 else 'has'
        yield (
            f'{label}: {chosen}{"" if search["chosen"] else ", the untuned setting,"} {won} the '
            f'best validation mean over subsets of {search["trials"]} trials'
            f'{f" ({failed} failed)" if failed else ""}; the trials have a random seed of '
            f'their own; search space: {space}; the search took {search["seconds"]:.0f} s'
        )


def failures(block: Block) -> list[str]:
    """Tells which runs failed or were refused."""
    return _refused_by_gaps(block) if block.by_gaps else unscored(block.unscored)


def unscored(records: Sequence[Record | Unscored]) -> list[str]:
    """Tells failed and refused runs, one line each; a refusal of all seeds is told once."""
    return list(dict.fromkeys(map(_failure, records)))


def by_protocol(records: Sequence[Unscored]) -> dict[str, list[str]]:
    """Tells failed and refused runs as `unscored`, for each protocol id."""
    members: dict[str, list[Unscored]] = {}
    for record in records:
        members.setdefault(record['protocol_id'], []).append(record)
    return {key: unscored(found) for key, found in members.items()}


def _failure(record: Any) -> str:
    label, where = record['method']['label'], record['protocol_id']
    if record['status'] == 'refused':
        return f'refused: {label} ({where}): {_reason(record)}'
    return f'failed: {label} seed {record["seed"]} ({where}): {_reason(record)}'


def _reason(record: Any) -> str:
    """Returns the error of a record in one line, without the names that the note gives already."""
    own = f'{record["method"]["label"]} on {record["dataset"]["name"]}: '
    return ' '.join(record['error'].split()).removeprefix(own)


def _refused_by_gaps(block: Block) -> list[str]:
    """Tells for each method under which gaps it was refused, then each failure."""
    leads = {runs.protocol_id: name for name, runs in block.leads.items()}
    refused: dict[tuple[str, str], set[str]] = {}
    for record in block.unscored:
        if record['status'] == 'refused':
            name = leads.get(record['protocol_id'], gaps.nominal(record))
            key = record['method']['label'], _reason(record)
            refused.setdefault(key, set()).add(name)
    order = [*leads.values(), *sorted(set().union(*refused.values()) - set(leads.values()))]
    told = [
        f'refused: {label} on {", ".join(sorted(found, key=order.index))}: {reason}'
        for (label, reason), found in refused.items()
    ]
    return told + unscored([r for r in block.unscored if r['status'] == 'failed'])
