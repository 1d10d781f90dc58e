"""New samples through the networks of a run: files of predictions, or scores without training."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch.utils.data import DataLoader

from benchmark import shown, tested
from benchmark.dataset import VOID, Split, Unseen, label_maps
from benchmark.engine.card import Card
from benchmark.engine.deployed import Model
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.loading import Samples, test_loader
from benchmark.engine.outputs import predicted_values
from benchmark.errors import UserError, unknown
from benchmark.files import writing
from benchmark.method import IGNORE, SubsetScore, Task
from benchmark.missing import subset_id
from benchmark.registry import DATASETS, lookup

TABLE = 'predictions.csv'
MASKS = 'masks'


class Request(NamedTuple):
    """Which samples are predicted.

    Attributes:
        root: Where they lie; None for data that are embedded.
        part: 'train', 'val', 'test', 'all', or '' for the default of `benchmark.dataset.Dataset`.
        without: Modalities that the networks must not use.
        workers: Loader processes.
    """

    root: Path | None
    part: str
    without: Sequence[str]
    workers: int


def opened(card: Card, request: Request, labelled: bool) -> Unseen:
    """Opens the samples of a request; those without a modality that may be used are left out.

    Raises:
        UserError: A modality is unknown, the samples do not fit the networks or cannot be read,
            none of them has a modality that may be used, or none that is to be scored has a
            labelled pixel.
    """
    names = card.intake.task.names
    for name in request.without:
        if name not in names:
            raise unknown('modality in --without:', name, names)
    cls = lookup(DATASETS, card.dataset['spec'])
    if request.root is None and not cls.embedded:
        raise UserError(
            f'DATA: expected where the samples lie, as {card.dataset["spec"]} reads them'
        )
    if request.root is not None and cls.embedded:
        raise UserError(f'DATA: expected none, for {card.dataset["spec"]} is drawn by this project')
    found: Unseen = cls.unseen(request.root, card.intake, labelled, request.part)
    kept = found.split.available & ~np.isin(names, list(request.without))
    if lost := int((~kept.any(1)).sum()):
        told = f'{lost} of {len(kept)} samples have no modality that may be used and are left out'
        found = found._replace(notes=[*found.notes, told])
    if lost == len(kept):
        gone = f' besides --without {" ".join(request.without)}' if request.without else ''
        raise UserError(
            f'{request.root or card.dataset["name"]}: expected some sample with a modality{gone}, '
            'found none'
        )
    split = replace(found.split, available=kept)
    if labelled and card.intake.task.kind == 'segmentation':
        _check_labels(split, card.intake.task, str(request.root or card.dataset['name']))
    return found._replace(split=split)


def _check_labels(split: Split, task: Task, where: str) -> None:
    """Looks for the first labelled pixel: one that is not ignored and, for Dice, in a region.

    Raises:
        UserError: There is none, as a split of a training may not be.
    """
    regions = sorted({label for _, labels in task.regions for label in labels})
    for row in np.flatnonzero(split.available.any(1)):
        labels = label_maps(split.target[np.array([row])], task)
        if (np.isin(labels, regions) if task.metric == 'Dice' else labels != IGNORE).any():
            return
    ignored = f'{VOID}, which is ignored,' if len(task.classes) <= VOID else 'ignored labels'
    found = 'no label of a region' if task.metric == 'Dice' else ignored
    raise UserError(
        f'{where}: expected some labelled pixel in the samples to score, found {found} everywhere'
    )


def evaluate(model: Model, split: Split, workers: int) -> dict[str, SubsetScore]:
    """Returns the score of every tested subset that some sample has, as the test of a run does.

    Args:
        model: The networks.
        split: Samples with labels.
        workers: Loader processes.
    """
    subsets = tested.tested(model.card.subsets, model.task.names)
    evaluator = SubsetEvaluator(model.task, subsets, split)
    with torch.no_grad():
        for number, raw in enumerate(_loader(model, split, workers)):
            for only, network in model.networks.items():
                batch = network.data_preprocessor(raw, False)
                masks = [mask for s, mask in evaluator.masks.items() if only in ('', s)]
                for mask, logits in subset_logits(network, batch, masks, number):
                    evaluator.process_subset(mask, logits, batch, number)
    evaluator.evaluate(len(split))
    return evaluator.scores


def predict(model: Model, unseen: Unseen, folder: Path, workers: int) -> dict[str, int]:
    """Writes the predictions of samples, each from all modalities that it has.

    Args:
        model: The networks.
        unseen: The samples.
        folder: Takes the table of ids with the probabilities of the classes or, in segmentation,
            with the files of the label maps, which lie in a folder beside it.
        workers: Loader processes.

    Returns:
        Subset of the modalities -> number of samples that were predicted from it.

    Raises:
        UserError: A file cannot be read or written.
    """
    dense = model.task.kind == 'segmentation'
    rows = (_label_maps if dense else _values)(model, unseen, folder, workers)
    header = ['file'] if dense else ['prediction', *(f'p({name})' for name in model.classes)]
    if model.task.kind == 'regression':
        header = list(model.classes)
    text, counts = io.StringIO(), Counter[str]()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(map(shown.csv, ['id', 'modalities', *header]))
    for name, subset, values in rows:
        counts[subset] += 1
        numbers = model.task.kind == 'regression'  # a sign is no beginning of a formula there
        told = values if numbers else map(shown.csv, values)
        table.writerow([shown.csv(name), shown.csv(subset), *told])
    with writing(folder / TABLE) as file:
        file.write(text.getvalue().encode())
    return dict(counts)


def _loader(model: Model, split: Split, workers: int) -> DataLoader:
    samples = Samples(split, model.task, split.available)
    return test_loader(samples, model.card.batch, workers, model.device == 'cuda')


Row = tuple[str, str, list[str]]
"""Id of a sample or volume, the modalities that were used, and what the table says of it."""


def _values(model: Model, unseen: Unseen, _: Path, workers: int) -> Iterator[Row]:
    """Yields classes or labels with their probabilities, or the values of a regression."""
    ids = unseen.split.ids
    for batch in _loader(model, unseen.split, workers):
        logits = model.logits(batch.inputs, batch.mask)
        found = _told(model.task, logits)
        for position, mask, told in zip(batch.ids.tolist(), batch.mask.numpy(), found, strict=True):
            yield str(ids[position]), subset_id(model.names, mask), told


def _told(task: Task, logits: torch.Tensor) -> list[list[str]]:
    """Returns what the table says of each sample; several labels are joined by '|'."""
    if task.kind == 'regression':
        return [[f'{x:.6g}' for x in row] for row in predicted_values(task, logits).tolist()]
    several = task.kind == 'multilabel'
    shares = (logits.sigmoid() if several else logits.softmax(1)).cpu().numpy()
    answers = [
        '|'.join(name for name, x in zip(task.classes, p, strict=True) if x > 0.5)
        if several
        else task.classes[int(p.argmax())]
        for p in shares
    ]
    return [[a, *(f'{x:.6f}' for x in p)] for a, p in zip(answers, shares, strict=True)]


def _label_maps(model: Model, unseen: Unseen, folder: Path, workers: int) -> Iterator[Row]:
    """Yields the rows of label maps, which are written; slices of a volume as one volume."""
    split, save = unseen.split, unseen.save or _png
    names = split.ids if split.groups is None else split.groups
    kept: list[np.ndarray] = []
    used = np.zeros(len(model.names), bool)
    before = ''

    def finished() -> Row:
        # A whole volume is one sample, and a slice one of several.
        alone = split.groups is None or kept[0].ndim == 3
        labels = kept[0] if alone else np.stack(kept)
        file = save(folder / MASKS, before, labels)
        return before, subset_id(model.names, used), [file.relative_to(folder).as_posix()]

    for batch in _loader(model, split, workers):
        logits = model.logits(batch.inputs, batch.mask)
        # A label map is written at the size of the image, which the network may have seen smaller.
        if unseen.save is None and logits.shape[2:] != batch.target.shape[1:]:
            size = tuple(batch.target.shape[1:])
            logits = F.interpolate(logits, size, mode='bilinear', align_corners=False)
        narrow = np.min_scalar_type(len(model.classes) - 1)
        labels = logits.argmax(1).cpu().numpy().astype(narrow)
        for k, position in enumerate(batch.ids.tolist()):
            # Slices come volume by volume: a new name says that the last volume is whole.
            if kept and names[position] != before:
                yield finished()
                kept = []
            before, used = str(names[position]), batch.mask[k].numpy()
            kept.append(labels[k])
    yield finished()


def _png(folder: Path, name: str, labels: np.ndarray) -> Path:
    """Writes a label map (H, W) as a PNG file."""
    path = folder / f'{name}.png'
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, 'PNG')
    with writing(path) as file:
        file.write(buffer.getvalue())
    return path
