"""Pictures of the test samples of runs: made for `show.py`, or kept by a run on embedded data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.engine import card as cards
from benchmark.engine import deployed, drawing, gallery
from benchmark.engine.choice import Chosen, choose
from benchmark.engine.experiment import Experiment
from benchmark.engine.gallery import Source
from benchmark.engine.loading import split_of
from benchmark.errors import UserError
from benchmark.method import Method, Task
from benchmark.narrowed import open_data
from benchmark.records import gallery as files
from benchmark.records import store
from benchmark.records.gallery import Gallery, Rule
from benchmark.records.schema import Outcomes, Record, RecordError, is_external
from benchmark.registry import DATASETS, lookup
from benchmark.shown import few

SHOWN = ('classification', 'segmentation')
"""Kinds of task whose answers can be drawn."""

BY_ITSELF: dict[Rule, int] = {'random': 4}
"""Rules of the pictures that a run keeps by itself: the same samples for every method."""


class Run(NamedTuple):
    """A finished run.

    Attributes:
        folder: Its folder.
        model: Its networks.
        record: Its record.
        outcomes: What it predicted for the test split.
    """

    folder: Path
    model: deployed.Model
    record: Record
    outcomes: Outcomes


def opened(folder: Path, device: str = 'cpu', method_file: Path | None = None) -> Run:
    """Opens a run.

    Args:
        folder: Its folder, or a file in it.
        device: 'cpu' or 'cuda'.
        method_file: The Python file of the method, if it lies outside `methods/`.

    Raises:
        UserError: It is not there, not finished, damaged or of an older version.
    """
    file = (folder.parent if folder.is_file() else folder) / store.RECORD
    if not file.is_file():
        raise UserError(_unrecorded(file.parent))
    try:
        record = store.read(file)
        if record['status'] != 'complete':
            found = f'one that {"was " * (record["status"] == "refused")}{record["status"]}'
            raise UserError(f'{file}: expected a finished run, found {found}')
        if is_external(record):
            raise UserError(f'{file}: expected a run, found predictions of other code')
        if name := store.lacking(file, record):
            raise UserError(f'{file.with_name(name)}: missing, damaged or of another run')
        outcomes = store.read_outcomes(file.with_name(store.OUTCOMES), record)
    except RecordError as error:
        raise UserError(str(error)) from None
    return Run(file.parent, deployed.load(folder, device, method_file), record, outcomes)


def _unrecorded(folder: Path) -> str:
    """Says why a folder cannot be shown."""
    if not folder.is_dir():
        return f'{folder}: expected the folder of a run, found nothing there{cards.beside(folder)}'
    below = [file.parent for file in sorted(store.files(folder))]
    if below:
        return f'{folder}: expected one run, found {few(below)}'
    return (
        f'{folder}: expected a finished run, found no {store.RECORD}; folders of teachers and of '
        'trainings that have not ended have none'
    )


def recorded(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Returns which of several folders hold a record, and which do not, as those of teachers.

    A pattern of the shell (`runs/parts/*/*/seed0`) names both. If none has a record, the first
    counts as one that has, so that opening it tells why it has none.
    """
    there = [f for f in folders if f.is_file() or (f / store.RECORD).is_file()]
    there = there or list(folders[:1])
    return there, [f for f in folders if f not in there]


def check_together(runs: Sequence[Run]) -> None:
    """Checks that runs were tested on the same samples.

    Raises:
        UserError: They were not.
    """
    first = runs[0]
    for run in runs[1:]:
        data, other = first.record['dataset'], run.record['dataset']
        same = data['fingerprint'] == other['fingerprint'] and np.array_equal(
            first.outcomes['name'], run.outcomes['name']
        )
        if not same:
            raise UserError(
                f'{run.folder}: expected the test samples of {first.folder} ({data["name"]}, '
                f'{data["fingerprint"]}), found those of {other["name"]}, {other["fingerprint"]}'
            )


def _check_kind(task: Task) -> None:
    """Checks that samples of a task can be shown.

    Raises:
        UserError: They have several labels, or values.
    """
    if task.kind not in SHOWN:
        raise UserError(
            f'{task.dataset}: expected a task of {" or ".join(SHOWN)}, whose answers can be drawn, '
            f'found {task.kind}'
        )


def source_of(run: Run, root: Path | None) -> Source:
    """Opens the test split of a run.

    Args:
        run: The run.
        root: Where the data of the training lie; None for embedded data.

    Raises:
        UserError: The data are not those of the training, or cannot be read.
    """
    card = run.model.card
    if card.intake.task.volumes:
        raise UserError(
            f'{run.folder}: expected images or vectors to draw, found volumes (network=unet3d); '
            'predict.py writes their label maps as volumes'
        )
    cls = lookup(DATASETS, card.dataset['spec'])
    if root is None and not cls.embedded:
        raise UserError(f'expected --data PATH, where the data of {card.dataset["name"]} lie')
    if root is not None and cls.embedded:
        raise UserError(f'--data: expected none, {card.dataset["spec"]} is drawn by this project')
    options = {**card.intake.options, **({} if root is None else {'root': str(root)})}
    _check_kind(card.intake.task)
    if 'pretrained' in options:  # the weights of the run replace them
        options['pretrained'] = 'none'
    data = open_data(cls, options)
    if data.fingerprint != card.dataset['fingerprint']:
        raise UserError(
            f'{root or data.name}: expected the data of the training, whose fingerprint is '
            f'{card.dataset["fingerprint"]}, found {data.fingerprint}'
        )
    split = data.split('test')
    return Source(data.task, split, run.record['dataset'], card.intake.preparation)


def galleries(
    runs: Sequence[Run],
    source: Source,
    rules: Mapping[Rule, int],
    subsets: Sequence[str] = (),
    seed: int = 0,
    side: int = drawing.SIDE,
) -> list[Gallery]:
    """Returns the pictures of the same samples for each of several runs.

    Args:
        runs: The runs, which `check_together` has passed.
        source: Their test samples.
        rules: Rule -> how many samples it chooses.
        subsets: The subsets that are shown and that the rules look at; by default those of
            `gallery.shown_subsets`.
        seed: Seed of the random choice.
        side: Longest side of a picture in pixels.

    Raises:
        UserError: No sample was tested on the subsets that a rule needs.
    """
    subsets = subsets or gallery.shown_subsets(source.task.names)
    chosen = choose([run.outcomes for run in runs], source.data, subsets, rules, seed)
    return [
        _named(
            gallery.make(source, run.model.networks, run.outcomes, chosen, subsets, side),
            run.record['identity'],
            run.record['outcomes'][store.OUTCOMES],
            len(runs),
        )
        for run in runs
    ]


def _named(made: Gallery, identity: str, outcomes: str, chosen: int) -> Gallery:
    return {**made, 'identity': identity, 'outcomes': outcomes, 'chosen': chosen}


def keep(
    experiment: Experiment, networks: Mapping[str, Method], outcomes: Outcomes, sha256: str
) -> None:
    """Keeps pictures of random test samples beside the record, if the data are embedded.

    Pictures of other data may show persons, and a page of results is sent round; such pictures are
    kept when somebody asks for it (`show.py --keep`).

    Args:
        experiment: What was tested.
        networks: The subset that a network is for, '' for all -> the network.
        outcomes: What they predicted for the test split.
        sha256: Hash of the file of outcomes.

    Raises:
        UserError: The file cannot be written.
    """
    data = experiment.data
    if not data.embedded or data.task.kind not in SHOWN:
        return
    split = split_of(data, 'test')
    source = Source(data.task, split, experiment.header['dataset'], data.preparation(split))
    subsets = gallery.shown_subsets(data.task.names)
    chosen: list[Chosen] = choose([outcomes], source.data, subsets, BY_ITSELF)
    made = gallery.make(source, networks, outcomes, chosen, subsets)
    files.write(experiment.folder, _named(made, experiment.identity, sha256, 1))
