"""A user's own arrays for a trained network: inputs alone, or with labels to score it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import SPLITS, Intake, Rows, Split, Unseen, no_target
from benchmark.errors import UserError
from benchmark.files import writing
from benchmark.method import Modality, Task
from datasets.common.families.array_inputs import Input, about, fail, lacks, read_inputs, texts
from datasets.common.families.unneeded import check_spelling
from datasets.common.io import notes
from datasets.common.io.images import encoded
from datasets.common.io.rows import Chosen, Standardised
from datasets.common.io.stored import load
from datasets.common.meaning import Meaning, meaning_of


def unseen_arrays(root: Path, intake: Intake, labelled: bool, part: str) -> Unseen:
    """Opens arrays in the layout of `datasets.arrays.Arrays`; `target` and `split` may lack.

    The arguments and errors are those of `benchmark.dataset.Dataset.unseen`.
    """
    task, raw = intake.task, load(root)
    inputs = _inputs(root, raw, intake)
    count = len(next(iter(inputs.values())).values)
    for name, one in inputs.items():
        if len(one.values) != count:
            found = len(one.values)
            raise fail(root, f'inputs/{name}', f'{count} samples as of the others', found)
    rows = _rows(root, raw, count, part)
    target = _target(root, raw, intake, rows, count) if labelled else no_target(task, len(rows))
    split = Split(
        inputs={
            m.name: _standardised(root, m, inputs[m.name], rows, intake)
            if m.name in inputs
            else np.broadcast_to(np.float32(0), (len(rows), *m.shape))
            for m in task.modalities
        },
        target=target,
        available=_available(root, raw, task, count)[rows],
        ids=np.array([f'row-{row}' for row in rows]),
    )
    others = [k for k in raw if k.startswith('inputs/') and k.partition('/')[2] not in inputs]
    numbers = {m: one.facts['numbers'] for m, one in inputs.items() if one.kind == 'image'}
    told = notes.unchecked(
        {m: kind for m, kind in numbers.items() if 'numbers' not in intake.preparation[m]}
    )
    told += notes.part(part or 'test', len(rows), count)
    if others:
        told.append(f'{root}: left aside: {", ".join(others)}, which the network does not use')
    save = functools.partial(_save, meaning_of(intake)) if task.kind == 'segmentation' else None
    return Unseen(split, save, told)


def _save(meaning: Meaning, folder: Path, name: str, labels: np.ndarray) -> Path:
    """Writes a label map (H, W) in the numbers that the label maps of the training have.

    Args:
        meaning: What these numbers mean.
        folder: Takes the file.
        name: The sample.
        labels: Its predicted classes.
    """
    path = folder / f'{name}.png'
    with writing(path) as out:
        out.write(encoded(meaning.numbers(labels)))
    return path


def _inputs(root: Path, raw: Mapping[str, np.ndarray], intake: Intake) -> dict[str, Input]:
    """Returns the inputs that are there, checked against those of the training."""
    task = intake.task
    there = [m for m in task.modalities if f'inputs/{m.name}' in raw]
    given = [key.partition('/')[2] for key in raw if key.startswith('inputs/')]
    others, lacking = set(given) - {*task.names}, [m for m in task.names if m not in given]
    check_spelling(f'{root}: inputs/', sorted(others), lacking)
    if not there:
        wanted = ', '.join(f'inputs/{name}' for name in task.names)
        raise UserError(f'{root}: expected some of the keys {wanted}, found {", ".join(raw)}')
    known = dict(raw)
    # How the training data were laid out settles what shapes alone leave open.
    for m in there:
        known.setdefault(f'kind/{m.name}', np.array(m.kind))
        shape = raw[f'inputs/{m.name}'].shape[1:]
        if layout := _layout(m, shape, intake.preparation[m.name].get('layout', '')):
            known.setdefault(f'layout/{m.name}', np.array(layout))
    known['target'] = np.zeros((1, 1, 1) if task.kind == 'segmentation' else 1, int)
    found = read_inputs(root, known, [m.name for m in there])
    for m in there:
        shape = found[m.name].values.shape[1:]
        expected = (m.shape[0], m.shape[1] - 1) if m.padded else m.shape
        if found[m.name].kind != m.kind or shape != expected:
            told = f'{m.kind} {expected} per sample, as in the training'
            raise fail(root, f'inputs/{m.name}', told, f'{found[m.name].kind} {shape}')
        _check_numbers(root, m.name, found[m.name], intake.preparation[m.name].get('numbers'))
    return found


def _layout(modality: Modality, shape: tuple[int, ...], trained: str) -> str:
    """Returns the layout in which new images fit the network, that of the training if both do.

    Args:
        modality: The modality of the network.
        shape: That of a new sample.
        trained: The layout of the training; '' where the run did not keep it.

    Returns:
        'channels_first' or 'channels_last'; '' where this cannot be known, and for other arrays.
    """
    channels, *plane = modality.shape
    shapes = {'channels_first': modality.shape, 'channels_last': (*plane, channels)}
    fitting = [layout for layout, wanted in shapes.items() if len(shape) == 3 and wanted == shape]
    return fitting[0] if len(fitting) == 1 else trained if fitting else ''


def _check_numbers(root: Path, name: str, one: Input, trained: str | None) -> None:
    """Checks that images hold numbers as in the training: in 16 bits they would be too bright."""
    found = one.facts.get('numbers')
    if trained and found != trained:
        raise fail(root, f'inputs/{name}', f'{trained} as in the training', found)


def _rows(root: Path, raw: Mapping[str, np.ndarray], count: int, part: str) -> np.ndarray:
    """Returns the positions of the samples that are asked for."""
    if part == 'all' or (not part and 'split' not in raw):
        return np.arange(count)
    if 'split' not in raw:
        raise fail(root, 'split', f'a key that says which samples are {part}', 'none')
    split = np.asarray(raw['split'])
    if split.shape != (count,):
        raise fail(root, 'split', f'({count},)', about(split))
    rows = np.flatnonzero(split == SPLITS.index(part or 'test'))
    if not len(rows):
        raise fail(root, 'split', f'some samples of {part or "test"}', 'none')
    return rows


def _available(root: Path, raw: Mapping[str, np.ndarray], task: Task, count: int) -> np.ndarray:
    """Returns which modalities each sample has, (N, M) bool."""
    every = [key.partition('/')[2] for key in raw if key.startswith('inputs/')]
    given = np.asarray(raw.get('available', np.ones((count, len(every)), bool)))
    if given.shape != (count, len(every)) or not np.isin(given, (0, 1)).all():
        raise fail(root, 'available', f'bool ({count}, {len(every)})', about(given))
    columns = [
        given[:, every.index(m)].astype(bool) if m in every else np.zeros(count, bool)
        for m in task.names
    ]
    return np.stack(columns, 1)


def _standardised(
    root: Path, modality: Modality, one: Input, rows: np.ndarray, intake: Intake
) -> Rows:
    real = one.real
    if not modality.padded:
        real = None
    elif real is None:
        real = np.ones(one.values.shape[:2], bool)
    plain = (np.zeros((1, 1)), np.ones((1, 1)))
    name = f'{root}: inputs/{modality.name}'
    found = Standardised(one.values, rows, plain, real, name)
    return found.prepared_by(intake.preparation[modality.name])


def _target(
    root: Path, raw: Mapping[str, np.ndarray], intake: Intake, rows: np.ndarray, count: int
) -> Any:
    """Returns the labels, whose values are checked where they are read."""
    task = intake.task
    if 'target' not in raw:
        raise lacks(root, "the key 'target' to score", 'target', raw)
    target = raw['target']
    columns = task.kind in ('multilabel', 'regression')
    size = task.modalities[0].shape[1:] if task.kind == 'segmentation' else ()
    if columns:
        target = target.reshape(len(target), -1)
        size = (len(task.classes),)
    if target.shape != (count, *size) or target.dtype.kind not in (
        'iuf' if task.kind == 'regression' else 'iub'
    ):
        raise fail(root, 'target', f'integers {(count, *size)}', about(target))
    if 'classes' in raw:
        names = texts(root, 'classes', np.ravel(raw['classes']))
        if names != task.classes:
            expected = f'{", ".join(task.classes)} as in the training'
            raise fail(root, 'classes', expected, ', '.join(names))
    if task.kind == 'segmentation':
        return meaning_of(intake).rows(target, rows, len(task.classes))
    return Chosen(target, rows)
