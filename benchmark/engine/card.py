"""The file `model.json` of a run: all that is needed to use its networks without its data.

The weights stay where the training has put them, in `checkpoint.pth`, which is read as tensors
alone (`benchmark.engine.state`). The file beside them says what they are: the method with its
options, the task, how samples are prepared, and the versions. It names no place on the machine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.dataset import Intake
from benchmark.engine import environment, state
from benchmark.engine.building import tested_at_once
from benchmark.engine.experiment import Experiment
from benchmark.engine.loading import split_of
from benchmark.engine.places import part_name
from benchmark.errors import UserError
from benchmark.files import digest, read_json
from benchmark.method import Modality, Task
from benchmark.options import unpacked
from benchmark.records import identity as hashes
from benchmark.records import store
from benchmark.shown import few

CARD = 'model.json'
FORMAT = 1
"""Raised when older versions of this project cannot read the file any more."""

TUPLES = ('classes', 'class_weights', 'fewest', 'extents')


class Card(NamedTuple):
    """What a run's networks are.

    Attributes:
        folder: The folder of the run.
        method: Its 'name', 'label', 'options', 'version' and the hash of its 'code'.
        dataset: 'name', 'spec' (the registered name) and 'fingerprint' of the training data.
        intake: The task, the options of the data set, and how samples are prepared.
        networks: The subset that a network is for, '' for all -> the SHA-256 of its checkpoint.
        batch: Number of samples that a test batch had.
        subsets: Field of the protocol that says which subsets were tested.
        versions: Package -> version in the training.
        pretrain: Field of the protocol that says what trained the encoders first.
    """

    folder: Path
    method: dict[str, Any]
    dataset: dict[str, Any]
    intake: Intake
    networks: dict[str, str]
    batch: int
    subsets: str
    versions: dict[str, str]
    pretrain: str = ''

    def checkpoint(self, subset: str) -> Path:
        """Returns the file with the weights of a network."""
        return self.folder / part_name(subset) / state.WEIGHTS


def write(experiment: Experiment, device: str) -> None:
    """Writes the file for a finished training.

    Raises:
        UserError: It cannot be written.
    """
    data, method = experiment.data, experiment.header['method']
    # The weights are in the checkpoint; the path that they started from may exist nowhere else.
    task = dataclasses.replace(experiment.task, pretrained='')
    circumstances = environment.circumstances(device)
    content = {
        'format': FORMAT,
        'identity': experiment.identity,
        'method': {k: method[k] for k in ('name', 'label', 'options', 'version', 'code')},
        'dataset': {'name': data.name, 'spec': data.spec, 'fingerprint': data.fingerprint},
        'options': data.options,
        'task': dataclasses.asdict(task),
        # All splits are prepared alike, and the test split is not opened before the test.
        'preparation': data.preparation(split_of(data, 'val')),
        'seed': experiment.seed,
        'batch': tested_at_once(experiment),
        'subsets': experiment.protocol.subsets,
        'pretrain': experiment.protocol.pretrain,
        'networks': {
            part.only[0] if part.only else '': digest(part.folder / state.WEIGHTS).sha256
            for part in experiment.parts
        },
        'versions': circumstances['environment'],
        'commit': circumstances['commit'],
    }
    state.write_json(experiment.folder / CARD, content)


def read(run: Path) -> Card:
    """Reads the file of a run.

    Args:
        run: The folder of the run, or a file in it.

    Raises:
        UserError: There is no such run, it is of an older version that did not write the file, or
            the file is damaged.
    """
    folder = run.parent if run.is_file() else run
    file = folder / CARD
    if not file.is_file():
        raise UserError(_missing(folder))
    try:
        found = read_json(file)
        if found['format'] != FORMAT:
            raise UserError(f'{file}: expected format {FORMAT}, found {found["format"]!r}')
        if found.pop('content') != hashes.content(found):
            raise ValueError('its content does not fit its hash')
        return _card(folder, found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise UserError(f'{file}: cannot be used, damaged or edited: {why}') from None


def _card(folder: Path, found: Mapping[str, Any]) -> Card:
    task, options = _task(found['task']), unpacked(found['options'])
    intake = Intake(task, options, dict(found['preparation']))
    return Card(
        folder,
        dict(found['method']),
        dict(found['dataset']),
        intake,
        {str(subset): str(sha256) for subset, sha256 in found['networks'].items()},
        int(found['batch']),
        str(found.get('subsets', '')),  # older versions tested all
        dict(found['versions']),
        str(found.get('pretrain', '')),  # older versions had none
    )


def _task(found: Mapping[str, Any]) -> Task:
    """Returns the task that `dataclasses.asdict` has taken apart, with JSON's lists as tuples."""
    modalities = tuple(
        Modality(m['name'], tuple(m['shape']), m['padded']) for m in found['modalities']
    )
    regions = tuple((name, tuple(labels)) for name, labels in found['regions'])
    # Older versions lack `extents`, `fewest` and `scale`, which are empty then.
    tuples = {key: tuple(found.get(key, ())) for key in TUPLES}
    tuples['scale'] = tuple(tuple(pair) for pair in found.get('scale', ()))
    return Task(**{**found, 'modalities': modalities, 'regions': regions, **tuples})


def _missing(folder: Path) -> str:
    """Says why a folder has no such file."""
    if (folder / store.RECORD).is_file() or (folder / state.WEIGHTS).is_file():
        return (
            f'{folder}: expected {CARD}, found a run of an older version, which did not keep how '
            'samples are prepared; repeat its command with --force'
        )
    below = sorted(file.parent for file in folder.glob(f'**/{CARD}')) if folder.is_dir() else []
    if len(below) == 1:
        return f'{folder}: expected the folder of a run; did you mean {below[0]}?'
    if below:
        return f'{folder}: expected one run, found {few(below)}'
    return f'{folder}: expected the folder of a run, which holds {CARD}, found none{beside(folder)}'


def beside(folder: Path) -> str:
    """Says what lies beside a folder that is not there, such as a pattern that matches none."""
    above = next((parent for parent in folder.parents if parent.is_dir()), None)
    if folder.exists() or above is None or not os.access(above, os.R_OK):
        return ''
    names = sorted(path.name for path in above.iterdir() if path.is_dir() and path.name[0] != '.')
    where = 'the current folder' if above == Path() else above
    return f'; {where} holds {few(names, 8) or "no folder"}'
