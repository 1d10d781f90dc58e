"""Predictions of other code become a record, once they fit the test split of a data set.

The metrics are those of `benchmark.records.metrics`, computed from the outcomes that the record
lies beside, so that nothing which other code computed is believed.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from benchmark.dataset import Dataset
from benchmark.engine import environment, plan, recording, together
from benchmark.engine.compared_areas import Areas
from benchmark.engine.compared_classes import Classes
from benchmark.engine.description import described
from benchmark.engine.loading import split_of
from benchmark.engine.places import place
from benchmark.errors import UserError, unknown
from benchmark.files import digest
from benchmark.method import Task
from benchmark.missing import subset_id
from benchmark.options import keyed, spell
from benchmark.records import store, verification
from benchmark.records.identity import protocol_id
from benchmark.records.predictions import Predictions
from benchmark.records.schema import EXTERNAL, SCHEMA, Outcomes, Record
from benchmark.registry import DATASETS
from benchmark.shown import one_line
from benchmark.subsets import subset_order

SUFFIX = f' ({EXTERNAL})'
"""What the labels of rows of other code end in."""


LOCAL = (*plan.UNSCORED, 'pretrained')
"""Options of data sets that no file decides: they say where data lie and what is loaded."""


class Compared(NamedTuple):
    """A record that was made of predictions.

    Attributes:
        file: The record's file.
        record: The record.
        notes: What was left out, or replaced.
    """

    file: Path
    record: Record
    notes: list[str]


class Sources:
    """The data sets that predictions are of; each is opened once.

    Args:
        found: The predictions, which name their data sets.
        specs: The data sets, where the names do not suffice: data of the user's own.
        roots: Where the data lie.
        words: Options of the data sets, as in --cfg-options.

    Raises:
        UserError: An option is none of these data sets, or a data set of `specs` cannot be opened.
    """

    def __init__(
        self,
        found: Sequence[Predictions],
        specs: Sequence[str],
        roots: Sequence[Path],
        words: Sequence[str],
    ) -> None:
        self.roots, self.options = roots, keyed(words, '--cfg-options', 'KEY=VALUE')
        named = dict.fromkeys(_name(one) for one in found if _name(one) in DATASETS.module_dict)
        plan.check_options(self.options, specs or list(named))
        together.check_roots(specs or list(named), roots)
        opened = plan.open_datasets(specs, roots, self.options) if specs else []
        self.given = {data.name: data for data in opened}
        self._opened: dict[str, Dataset] = {}

    def of(self, one: Predictions) -> Dataset:
        """Returns the data set of predictions.

        Raises:
            UserError: It is not known or cannot be opened, or is none of those that were given.
        """
        if self.given:
            if _name(one) not in self.given:
                raise UserError(f'{one.file}: {unknown("data set", _name(one), self.given)}')
            return self.given[_name(one)]
        spec = _named(one)
        if spec not in self._opened:
            try:
                (self._opened[spec],) = plan.open_datasets([spec], self.roots, self.options)
            except UserError as error:
                raise UserError(f'{one.file}: dataset {spec!r}: {error}') from None
        return self._opened[spec]


def _named(found: Predictions) -> str:
    """Returns the spec of the data set that a file names; anybody may have made the file.

    Raises:
        UserError: It is no registered data set, or has an option that says what to load.
    """
    name, _, tail = found.dataset.partition(':')
    if name not in DATASETS.module_dict:
        # Data of one's own have any name; only one that is all but a registered one is misspelt.
        told = unknown('data set', name[:100], DATASETS.module_dict, alike=0.85)
        raise UserError(
            f'{found.file}: {told}; data of your own are opened by --datasets arrays --data-root '
            'FILE or the like'
        )
    options = keyed(filter(None, tail.split(',')), f'{found.file}: dataset', 'KEY=VALUE')
    # A file from elsewhere must not decide which paths this machine reads, or which code it runs.
    local = [key for key in options if key in LOCAL]
    if local or '.py' in tail:
        raise found.wrong(
            'dataset', f'no {local[0] if local else "file"}, which only --datasets may say', tail
        )
    return found.dataset


def _typed(found: Predictions, data: Dataset) -> str:
    """Says how to open data with the options that a file names; '' where they have them."""
    tail = found.dataset.partition(':')[2]
    try:
        asked = keyed(filter(None, tail.split(',')), 'dataset', 'KEY=VALUE')
    except UserError:
        return ''
    given = {k: spell(data.options[k]) for k in described(data)['changed'] if k not in LOCAL}
    if asked == given or {*asked} - {*data.declared} or {*asked} & {*LOCAL}:
        return ''
    spec = ':'.join(filter(None, (data.spec, tail)))
    return f'; if the files are the same, type --datasets {shlex.quote(spec)}'


def _name(found: Predictions) -> str:
    """Returns the name of the data set of predictions, without its options."""
    return found.dataset.partition(':')[0]


def record(found: Predictions, data: Dataset, results: Path) -> Compared:
    """Scores predictions and writes their outcomes and their record.

    Args:
        found: The predictions.
        data: The data set that they are of.
        results: The results folder.

    Raises:
        UserError: The predictions do not fit the data set, or nothing can be written.
    """
    outcomes, notes = outcomes_of(found, data)
    name, own = found.method.removesuffix(SUFFIX), protocol_id({}, data.fingerprint)
    label = name + SUFFIX
    folder = place(results, 'runs', data, f'{name}-{EXTERNAL}', own) / f'seed{found.seed}'
    file = folder / store.RECORD
    try:
        made = _record(found, data, outcomes, label)
        if _other(file, made['identity']):
            notes.append(f'{found.file}: replaces other predictions of {label} seed {found.seed}')
        made['outcomes'] = {store.OUTCOMES: store.write_outcomes(folder / store.OUTCOMES, outcomes)}
        store.write(file, made)
    except store.RecordError as error:
        raise UserError(f'{found.file}: {error}') from error
    return Compared(file, cast(Record, made), notes)


def _other(file: Path, identity: str) -> bool:
    """Returns whether a record of something else is in the place of a file."""
    try:
        return store.read(file)['identity'] != identity
    except store.RecordError:
        return False


def _record(found: Predictions, data: Dataset, outcomes: Outcomes, label: str) -> dict[str, Any]:
    """Returns the record of outcomes; what this project cannot know of the training is 0."""
    name = one_line(found.file.name)
    tested = [key.partition('/')[2] for key in outcomes if key.partition('/')[0] in _PROVING]
    header = {
        'schema': SCHEMA,
        'method': {
            'name': label.removesuffix(SUFFIX),
            'label': label,
            'options': {},
            'version': 1,
            'source': EXTERNAL,
            'tunable': [],
            'code': _hash(outcomes),
            **({'notes': [one_line(found.note)]} if found.note else {}),
        },
        'dataset': {k: v for k, v in described(data).items() if k != 'encoder'},
        'protocol': {},
        'protocol_id': protocol_id({}, data.fingerprint),
        'seed': found.seed,
    }
    empty: dict[str, Any] = {subset: {} for subset in tested}
    made: dict[str, Any] = {
        **header,
        'identity': store.identity(header),
        'status': 'complete',
        'scores': {'val': {}, 'test': empty},
        'n': {'val': {}, 'test': {}},
        'predicted': {subset: [0.0] * len(data.task.classes) for subset in tested},
        'collapsed': [],
        'selected_epoch': 0,
        'gaps': {'rates': {}, 'mask_hash': '', 'dropped': 0},
        'cost': {
            **dict.fromkeys(('parameters', 'deployed_parameters'), 0),
            **dict.fromkeys(('train_seconds', 'teacher_seconds', 'test_seconds'), 0.0),
            'flops': {},
            'peak_memory_mb': 0.0,
        },
        **environment.circumstances('cpu'),
        # Versions of this machine say nothing of the code that made the predictions.
        'environment': {'file': name, 'sha256': digest(found.file).sha256},
    }
    return {**verification.verified(cast(Record, made), outcomes)}


_PROVING = ('pred', 'areas')
"""The kinds of outcomes of which each subset has one."""


def _hash(outcomes: Outcomes) -> str:
    """Returns a hash of predictions, which is in the identity of their record."""
    whole = hashlib.sha256()
    for key, array in sorted(outcomes.items()):
        # Type and shape count: the same bytes may be other numbers.
        whole.update(f'{key} {array.dtype.str} {array.shape}'.encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


def outcomes_of(found: Predictions, data: Dataset) -> tuple[Outcomes, list[str]]:
    """Returns the outcomes of predictions in the order of the test split, and what is left out.

    Raises:
        UserError: The predictions are of other samples, classes or labels, or are no predictions.
    """
    task, split = data.task, split_of(data, 'test')
    if found.fingerprint not in ('', data.fingerprint):
        expected = f'{data.fingerprint} of {data.name} as it is opened here'
        told = f'{found.fingerprint} of {found.dataset}: other files, or other options'
        told += _typed(found, data)
        raise found.wrong('fingerprint', expected, told)
    if found.classes and found.classes != task.classes:
        told = ', '.join(found.classes)[:200]
        raise found.wrong('classes', f'{", ".join(task.classes)} in this order', told)
    if task.kind not in ('classification', 'segmentation'):
        raise UserError(
            f'{found.file}: expected predictions of classes or label maps, since others cannot be '
            f'compared, found the data set {task.dataset} with a {task.kind} task'
        )
    reader = (Classes if task.kind == 'classification' else Areas)(found, task, split)
    measured: dict[str, dict[str, np.ndarray]] = {}
    notes: list[str] = []
    for given in found.subsets:
        mask = _mask(found, task, given)
        subset = subset_id(task.names, mask)
        if subset in measured:
            raise found.wrong('subsets', f'{subset} once', f'{given} again')
        has = np.asarray((split.available >= mask).all(1))
        if not has.any():
            raise found.wrong(f'subset {subset}', 'one that some test sample has', 'none that does')
        measured[subset], dropped = reader.read(given, has)
        if dropped:
            told = f'{dropped} predictions on {subset} are of samples that lack it'
            notes.append(f'{found.file}: {told}, and do not count')
    kept = {s: measured[s] for s in subset_order(measured, task.names)}
    return recording.outcomes(task, split, kept), notes


def _mask(found: Predictions, task: Task, given: str) -> np.ndarray:
    """Returns the mask (M,) of a subset, whose modalities may be named in any order."""
    members = given.split('+')
    for name in members:
        if name not in task.names:
            told = unknown(f'modality in subset {given[:200]!r}:', name[:100], task.names)
            raise UserError(f'{found.file}: {told}')
    if len(set(members)) < len(members):
        raise found.wrong(f'subset {given[:200]!r}', 'every modality once', 'one twice')
    return np.isin(task.names, members)
