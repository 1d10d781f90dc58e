"""What a reader must know of a training: whence its options, and where it does otherwise.

The terminal shows it before the training, and the table beneath the scores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from benchmark.engine import untrained, values
from benchmark.engine.experiment import Experiment
from benchmark.engine.fitting import is_fitted
from benchmark.engine.grids import field_of
from benchmark.engine.loading import Samples, split_of
from benchmark.engine.protocol import Protocol
from benchmark.engine.schedules import schedulers
from benchmark.missing import GAPS, Sampler
from benchmark.options import spell, with_options
from benchmark.registry import METHODS, parse_spec
from benchmark.task_losses import LOSSES


def named(e: Experiment) -> str:
    """Returns an experiment's label, with the gaps of its training data."""
    return f'{e.label}  {e.protocol.gaps}' if e.protocol.gaps else e.label


def located(e: Experiment, varied: Sequence[str]) -> str:
    """Returns the name of an experiment's data set, with its values of what a grid varies.

    Args:
        e: The experiment.
        varied: Options of data sets and fields of the protocol, as of --cfg-options.
    """
    known = {**e.data.options, **e.protocol.recorded()}
    own = (k for k in varied if k.rpartition('.')[0] in ('', e.data.spec))
    # Training gaps are told beside the method (`named`).
    told = [k for k in map(field_of, own) if k in known and k not in GAPS]
    return with_options(e.data.name, {k: known[k] for k in told})


def tell(todo: Sequence[Experiment]) -> None:
    """Prints the notes on experiments that have not run yet, each with the rows that it is on."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    changed = 0
    for e in todo:
        for note in of(e):
            rows.setdefault((e.data.name, note), {})[named(e)] = None
        changed += e.has_other_code
    for (data, note), labels in rows.items():
        print(f'note: {data}  {", ".join(labels)}: {note}')
    for line in dict.fromkeys(_tested(e) for e in todo if e.protocol.subsets):
        print(f'note: {line}')
    if changed:
        print(f'note: {changed} recorded with other code: trained anew, the old records are kept')


def _tested(e: Experiment) -> str:
    """Tells on how many of its subsets a data set is tested, where these are not all."""
    every = 2 ** len(e.data.task.names) - 1
    are = 'is' if len(e.subsets) == 1 else 'are'
    return f'{e.data.name}: {len(e.subsets)} of {every:,} subsets {are} tested'


def of(e: Experiment) -> list[str]:
    """Returns the notes on an experiment, each a sentence without its full stop.

    They concern values of `results/settings.json`, the loss of an official variant, class weights
    that a loss of the method's own ignores, options in vain, the method's schedule, what it learns
    from complete samples, the schedule of the learning rate, and the batch size.
    """
    found = values.sources(e.name, e.options, e.data.task.dataset) + _other_loss(e)
    found += _unweighted(e) + _idle(e)
    found += e.method.schedule_notes(e.options, e.protocol.epochs)
    if is_fitted(e.method):
        return found
    numbers: list[int] = []
    # Whatever is wrong with the data is told where the experiment runs.
    with contextlib.suppress(Exception):
        numbers = _numbers(e)
        if e.method.from_complete and not e.readable.all(1).any():
            found.append(
                f'no training sample has all modalities: {e.method.from_complete} are learned from '
                'such samples alone, and stay as they began'
            )
    size = e.protocol.batch_size
    steps = {number // min(size, number): None for number in numbers}
    rates = dict.fromkeys(note for each in steps for note in learning_rate(e.protocol, each))
    return [*found, *rates, *_batches(size, numbers)]


def _other_loss(e: Experiment) -> list[str]:
    """Returns the note on an official variant that trains with another loss than its code."""
    task, released = e.task, e.method.official_loss
    given = task.loss or LOSSES[task.kind][0]
    official = e.options.get('variant') == 'official' and task.kind == 'segmentation'
    if not (official and released) or given == released:
        return []
    return [f'variant=official trains with loss={given} here, its released code with {released}']


def _idle(e: Experiment) -> list[str]:
    """Returns the note on options of its row that change nothing beside the others."""
    given, told = parse_spec(e.label, METHODS)[1], []
    for option in (option for option in e.method.idle(e.options) if option in given):
        other, values_ = e.method.only_with[option]
        needed = ' or '.join(map(spell, values_))
        told.append(
            f'{option}={spell(e.options[option])} changes nothing with '
            f'{other}={spell(e.options[other])}: it counts with {other}={needed} alone'
        )
    return told


def _unweighted(e: Experiment) -> list[str]:
    """Returns the note on class weights that the loss of the method's own does not use."""
    task = e.task
    if task.kind != 'segmentation' or task.loss != 'own' or not task.class_weights:
        return []
    if untrained.weighs_classes(e.name, untrained.frozen(e.options), task):
        return []
    return ['its own loss (loss=own) does not use the class weights of the data set']


def _numbers(e: Experiment) -> list[int]:
    """Returns for each network of an experiment how many samples can train it, at least 2."""
    task, train = e.data.task, split_of(e.data, 'train')
    found = []
    for x in (e.teacher, e) if e.teacher else (e,):
        for part in x.parts:
            sampler = Sampler(part.sampler, task.names)
            found.append(len(Samples(train, task, x.readable, sampler, x.seed)))
    return [number for number in found if number > 1]


def learning_rate(protocol: Protocol, steps: int) -> list[str]:
    """Returns what of the schedule of the learning rate a training is too short for.

    Args:
        protocol: Gives the schedule.
        steps: Steps of one epoch.
    """
    epochs, warmup = protocol.epochs, protocol.warmup
    if protocol.schedule == 'onecycle':
        return []  # it has no warm-up, and fills any number of epochs
    length = f'the training of {epochs} epoch{"s" if epochs > 1 else ""}'
    if warmup and round(warmup * steps) >= epochs * steps:
        why = f'its warm-up (warmup={warmup:g}) fills {length}'
        return [f'the learning rate only rises: {why}; give more epochs, or warmup=0']
    planned = schedulers(protocol, steps)[-1].get('milestones', [])
    late = [s for s, at in zip(protocol.milestones, planned, strict=True) if at >= epochs * steps]
    if not late:
        return []
    shares = ' and '.join(f'{share:.3g}' for share in late)
    return [
        f'the learning rate is not divided by 10 at {shares} of the epochs: they are counted from '
        f'the end of the warm-up (warmup={warmup:g}), and {length} ends before'
    ]


def _batches(size: int, numbers: list[int]) -> list[str]:
    """Returns the note on batches that are smaller than the protocol says."""
    cut = [number for number in numbers if number < size]
    if not cut:
        return []
    told = f'{min(cut)}' if min(cut) == max(cut) else f'{min(cut)} to {max(cut)}'
    return [f'its batches have {told} samples instead of batch_size={size}: training has no more']
