"""How the runs of a table came about, in words: data set, test samples, protocol, training gaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.options import spell, with_options
from benchmark.records.distances import is_distance
from benchmark.records.repetition import changed
from benchmark.records.units import unit_of
from benchmark.records.values import ERRORS, UNBOUNDED
from benchmark.report import gaps
from benchmark.report.runs import Runs
from benchmark.shown import noun

SELECTION = {
    'last': 'tested after the last epoch',
    'mean': 'tested at the epoch of the best validation mean over subsets',
    'worst': 'tested at the epoch of the best validation score on the worst subset',
    'full': 'tested at the epoch of the best validation score with all modalities',
}
SAMPLER = {
    'uniform': 'training masks drawn uniformly from the subsets',
    'by_size': 'training masks drawn uniformly by number of modalities',
    'complete': 'training on all modalities',
}
MASK_SCHEDULE = {
    'curriculum': 'from complete samples to these masks by a curriculum',
    'learned': 'subsets of low validation scores drawn more often',
}
TITLES = {'sampler': 'training masks', 'rates': 'training gaps'}
"""Field of a protocol -> what it is called in titles, which name these first."""

PARTS = (
    '{epochs} epoch{epochs_plural} with batches of {batch_size}',
    '{optimizer}',
    'learning rate {lr:g}',
    'weight decay {weight_decay:g}',
    '{schedule} schedule with a linear warm-up ({warmup:g} epoch{warmup_plural})',
    '{precision}',
    'task loss {loss}',
    'gradients clipped to the norm {clip:g}',
    'weights averaged with the decay {ema:g}',
    'noise on vectors ({noise:g} (D / n)^2)',
    'noise on vectors ({vector_noise:g} D / n)',
)
"""Each is left out where the protocol has no such field; records leave out these fields where they
are off."""


ORIGINS = {
    'default': 'the defaults of the method',
    'no search space': 'the defaults of the method, of which --tune can choose none',
    'paper settings': "those of the method's paper on these data",
    'searched': 'values that a search found, from results/settings.json',
    'schedule': 'a schedule of fitting length, from results/settings.json; nothing was searched',
    'settings.json': 'values from results/settings.json',
    'given': 'as typed',
    'tuned': 'values that --tune chose',
    'external': 'other code was trained, with options of its own',
}
"""Value of the column 'options' -> where a row's options come from."""


def origins(found: Iterable[str]) -> list[str]:
    """Explains in one note the values of the column 'options' that occur."""
    values = set(found)
    told = [f'{value} ({meaning})' for value, meaning in ORIGINS.items() if value in values]
    where = "the column 'options' says where the options of a row come from"
    return [f'{where}: {", ".join(told)}'] if told else []


def named(runs: Runs) -> str:
    """Returns the data set's name with those of its options that are not the defaults."""
    return with_options(runs.data['name'], changed(runs.data))


def _told(options: Mapping[str, Any]) -> str:
    return ', '.join(f'{key}={spell(value)}' for key, value in options.items() if value != '')


def data(runs: Runs) -> list[str]:
    """Says with which options the data set was read, and how large its splits are."""
    options = _told(runs.data['options'])
    sizes = ', '.join(f'{count:,} {split}' for split, count in runs.sizes.items())
    return [
        *([f'Options of the data set: {options}.'] if options else []),
        *([f'Encoders: {runs.data["encoder"]}.'] if 'encoder' in runs.data else []),
        *([f'{runs.unit.capitalize()}: {sizes}.'] if sizes else []),
    ]


def words(protocol: Mapping[str, Any]) -> str:
    """Says a protocol in words; fields that it lacks are left out."""
    if not protocol:
        return 'that of other code, which is not known'
    sampler = protocol.get('sampler', '')
    fields = ('epochs', 'warmup', 'pretrain_epochs')
    plurals = {f'{key}_plural': '' if protocol.get(key) == 1 else 's' for key in fields}
    told = [
        SAMPLER.get(sampler, f'training masks drawn by {sampler}') + ' unless a method has its own',
        MASK_SCHEDULE.get(protocol.get('mask_schedule', '').partition(':')[0], ''),
        SELECTION.get(protocol.get('selection', ''), ''),
    ]
    for part in PARTS:
        try:
            told.append(part.format(**protocol, **plurals))
        except (KeyError, ValueError):
            continue
    if protocol.get('nesterov') is False:
        told.append('plain momentum')
    if protocol.get('share_encoders'):
        told.append('one encoder for modalities of like kind and size')
    if protocol.get('pretrain'):
        how = 'encoders pre-trained ({pretrain}, {pretrain_epochs} epoch{pretrain_epochs_plural})'
        told.append(how.format(**protocol, **plurals))
    return ', '.join(filter(None, told))


def apart(gathered: Sequence[Runs]) -> list[str]:
    """Says of each of several protocols what tells it from the others, in a few words."""
    protocols = [runs.records[0]['protocol'] for runs in gathered]
    keys = dict.fromkeys([*TITLES, *(key for protocol in protocols for key in protocol)])
    differing = [k for k in keys if any(p.get(k) != protocols[0].get(k) for p in protocols)]
    return [
        ', '.join(filter(None, (_setting(key, protocol.get(key, '')) for key in differing)))
        if protocol
        else 'other code'
        for protocol in protocols
    ]


def _setting(key: str, value: Any) -> str:
    """Returns a field of a protocol in a title; '' where it says nothing."""
    if key in TITLES:
        return f'{TITLES[key]} {value or "none"}'
    return '' if value == '' else f'{key}={spell(value)}'


def training_gaps(runs: Runs) -> str:
    """Says which share of the training samples lacks which modality, '' where this is not known."""
    rates = gaps.realised(runs)
    if not rates:
        return ''
    if not any(rates.values()):
        return 'The training data are complete.'
    told = ', '.join(f'{name} {rate:.1f} %' for name, rate in rates.items())
    why = gaps.dependence(runs.records[0])
    return f'Training samples that lack a modality: {told}{f" ({why})" if why else ""}.'


def samples(runs: Runs) -> str:
    """Says how many samples the scores are on, and of how many clusters where these are known."""
    numbers = f'{_range(runs.numbers)} test {noun(runs.sample, max(runs.numbers.values()))}'
    if runs.unit == 'clusters':
        numbers += f' of {_range(runs.units)} {noun("clusters", max(runs.units.values()))}'
    return f'{numbers}, by subset' if len(set(runs.numbers.values())) > 1 else numbers


def _range(counts: Mapping[str, int]) -> str:
    least, most = min(counts.values()), max(counts.values())
    return f'{least:,}' if least == most else f'{least:,} to {most:,}'


def measured(metric: str, runs: Runs) -> str:
    """Says the unit of a metric of runs and its direction."""
    better = f'{"higher" if runs.higher else "lower"} is better.'
    unit, several = unit_of(metric), len(runs.data['classes'])
    words = f'{metric} {unit.words}, {better}'
    if metric in UNBOUNDED and several > 1:
        each = ', of which each is in units of its own' if metric in ERRORS else ''
        words = f'{metric} as the mean over the {several} values of the target{each}; {better}'
    if not is_distance(metric):
        return words
    return (
        f'{words} It is the 95th percentile of the distances between the surfaces of prediction '
        'and label, 0 where both are empty and the diagonal of the volume where one of them is.'
    )
