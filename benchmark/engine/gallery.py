"""Some test samples under every subset of the modalities: inputs, predictions and errors."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.dataset import Preparation, Split
from benchmark.engine import choice, drawing
from benchmark.engine.choice import Chosen
from benchmark.engine.evaluation import subset_logits
from benchmark.engine.loading import Samples
from benchmark.engine.outputs import padded
from benchmark.method import Batch, Method, Task
from benchmark.missing import subset_id, subset_ids
from benchmark.records.gallery import FORMAT, Answer, Gallery, Picture, Shown, key_of
from benchmark.records.schema import DatasetInfo, Outcomes
from benchmark.subsets import extremes, subset_table

MOST_SUBSETS = 31
"""Most subsets that are shown by default; of more, single modalities and the largest subsets."""

AT_ONCE = 4
"""Samples that the networks predict at a time."""


@dataclass(frozen=True)
class Source:
    """The test samples that pictures are made of.

    Attributes:
        task: The task.
        split: The test split.
        data: The data set as the record describes it.
        preparation: How the data set has normalised its inputs.
    """

    task: Task
    split: Split
    data: DatasetInfo
    preparation: Preparation = field(default_factory=dict)

    def place(self, row: int, name: str) -> tuple[int, str]:
        """Returns the position in the split of what is shown of a sample, and its place in words.

        Of a volume a slice is shown: the middle one of those in which the largest region lies or,
        if nothing is labelled, of all.

        Args:
            row: Row of the sample in the outcomes.
            name: Its name there.
        """
        groups = self.split.groups
        if self.data['metric'] != 'Dice' or groups is None:
            return row, ''
        slices = np.flatnonzero(np.asarray(groups) == name)
        label = np.asarray(self.split.target[slices])
        areas = [np.isin(label, classes).sum((1, 2)) for _, classes in self.task.regions]
        largest = max(areas, key=lambda area: int(area.sum()))
        there = np.flatnonzero(largest) if largest.any() else np.arange(len(slices))
        middle = int(there[len(there) // 2])
        return int(slices[middle]), f'slice {middle + 1} of {len(slices)}'


def shown_subsets(names: Sequence[str]) -> list[str]:
    """Returns the subsets that are shown by default, smallest first."""
    if 2 ** len(names) - 1 <= MOST_SUBSETS:
        return subset_ids(names)
    return extremes(names)


class Pictures:
    """Makes the pictures of a gallery, each of which is kept once.

    Args:
        source: The samples.
        side: Longest side of a picture in pixels.
    """

    def __init__(self, source: Source, side: int = drawing.SIDE) -> None:
        self.source, self.side = source, side
        self.kept: dict[str, str] = {}

    def keep(self, png: bytes, text: str) -> Picture:
        """Keeps a PNG file and returns how it is referred to."""
        key = key_of(png)
        self.kept[key] = base64.b64encode(png).decode()
        return {'key': key, 'text': text}

    def inputs(self, batch: Batch, row: int) -> dict[str, Picture]:
        """Draws the modalities that a sample has."""
        found, target = {}, batch.target[row].numpy()
        for k, modality in enumerate(self.source.task.modalities):
            if not batch.available[row, k]:
                continue
            values = batch.inputs[modality.name][row].numpy()
            if self.source.data['metric'] == 'Dice':
                # The network sees a window of the labelled slice; the rest of it is drawn black.
                outside = np.subtract(target.shape, values.shape[1:])
                edges = [(0, 0), *((int(n) // 2, int(n) - int(n) // 2) for n in outside)]
                values = np.pad(values, edges, constant_values=values.min())
            facts = self.source.preparation.get(modality.name)
            found[modality.name] = self.keep(*drawing.sample(modality, values, facts, self.side))
        return found

    def answer(self, logits: Tensor, target: Tensor, error: float) -> Answer:
        """Draws what a network answered to a sample.

        Args:
            logits: (K,) or (K, h, w).
            target: () or (H, W).
            error: Its error by the outcomes of the run.
        """
        task = self.source.task
        if task.kind == 'classification':
            return {'error': error, 'shares': logits.double().softmax(0).tolist()}
        predicted, truth = label_map(task, logits, target), target.numpy()
        png, wrong = drawing.mistakes(predicted, truth, self.side)
        text = f'{100 * wrong:.1f} % of the pixels are wrong'
        return {
            'error': error,
            'map': self.keep(*drawing.labels(task, predicted, self.side)),
            'mistakes': self.keep(png, text),
            'wrong': wrong,
        }


def label_map(task: Task, logits: Tensor, target: Tensor) -> np.ndarray:
    """Returns the predicted classes (H, W) at the size of the labels, as the test compares them.

    Args:
        task: The task.
        logits: (K, h, w).
        target: (H, W).
    """
    if task.metric == 'Dice':
        return padded(logits.argmax(0), target).numpy()
    if logits.shape[1:] != target.shape:
        size = tuple(target.shape)
        logits = F.interpolate(logits[None], size, mode='bilinear', align_corners=False)[0]
    return logits.argmax(0).numpy()


@torch.no_grad()
def answers(
    networks: Mapping[str, Method], batch: Batch, subsets: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yields the logits (B, K) or (B, K, h, w) of a batch under each subset, on the CPU.

    Args:
        networks: The subset that a network is for, '' for all -> the network, in eval mode.
        batch: The samples.
        subsets: Ids of the subsets.
        names: Names of the modalities.
    """
    masks = subset_table(names, subsets)
    for only, network in networks.items():
        wanted = [mask for subset, mask in masks.items() if only in ('', subset)]
        if not wanted:
            continue
        for mask, logits in subset_logits(network, network.data_preprocessor(batch, False), wanted):
            yield subset_id(names, mask), logits.float().cpu()


def make(
    source: Source,
    networks: Mapping[str, Method],
    outcomes: Outcomes,
    chosen: Sequence[Chosen],
    subsets: Sequence[str],
    side: int = drawing.SIDE,
) -> Gallery:
    """Returns the pictures of chosen samples; the caller fills in whose they are, and who chose.

    Args:
        source: The test samples.
        networks: As in `answers`.
        outcomes: What the run predicted for them.
        chosen: The samples.
        subsets: Ids of the subsets that are shown.
        side: Longest side of a picture in pixels.
    """
    pictures = Pictures(source, side)
    names, split = source.task.names, source.split
    samples = Samples(split, source.task, split.available)
    places = [source.place(c.position, str(outcomes['name'][c.position])) for c in chosen]
    errors = {s: choice.errors(outcomes, s, source.data) for s in subsets if _has(outcomes, s)}
    shown: list[Shown] = []
    for first in range(0, len(chosen), AT_ONCE):
        some = list(zip(chosen, places, strict=True))[first : first + AT_ONCE]
        positions = np.array([position for _, (position, _) in some])
        batch = samples.__getitems__(np.searchsorted(samples.positions, positions).tolist())
        new = [_shown(pictures, outcomes, batch, k, *one) for k, one in enumerate(some)]
        for subset, logits in answers(networks, batch, list(errors), names):
            for k, (one, _) in enumerate(some):
                error = float(errors[subset][one.position])
                if np.isfinite(error) and set(subset.split('+')) <= new[k]['inputs'].keys():
                    new[k]['answers'][subset] = pictures.answer(logits[k], batch.target[k], error)
        shown += new
    return {
        'format': FORMAT,
        'identity': '',
        'outcomes': '',
        'chosen': 1,
        'of': len(outcomes['name']),
        'differs': max((_gap(source, one) for one in shown), default=0.0),
        'colours': [] if source.data['kind'] == 'classification' else drawing.colours(source.task),
        'samples': shown,
        'pictures': pictures.kept,
    }


def _has(outcomes: Outcomes, subset: str) -> bool:
    return any(f'{kind}/{subset}' in outcomes for kind in ('pred', 'areas'))


def _shown(
    pictures: Pictures,
    outcomes: Outcomes,
    batch: Batch,
    row: int,
    chosen: Chosen,
    place: tuple[int, str],
) -> Shown:
    """Returns a sample without answers."""
    shown: Shown = {
        'rule': chosen.rule,
        'value': chosen.value,
        'name': str(outcomes['name'][chosen.position]),
        'place': place[1],
        'inputs': pictures.inputs(batch, row),
        'answers': {},
    }
    task, target = pictures.source.task, batch.target[row].numpy()
    if task.kind == 'classification':
        shown['label'] = int(target)
    else:
        shown['truth'] = pictures.keep(*drawing.labels(task, target, pictures.side))
    return shown


def _gap(source: Source, shown: Shown) -> float:
    """Returns the largest difference between an error that is shown and that of the outcomes."""
    found = [0.0]
    for answer in shown['answers'].values():
        if 'shares' in answer:
            found.append(abs(1 - answer['shares'][shown['label']] - answer['error']))
        elif source.data['metric'] != 'Dice':
            found.append(abs(answer['wrong'] - answer['error']))
    return max(found)
