"""Tests trained networks and writes what an experiment leaves: outcomes, then the record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from benchmark.dataset import SPLITS, Split
from benchmark.engine import cost, environment, locks, notes, showing, training
from benchmark.engine.building import Machine, loader_of
from benchmark.engine.evaluation import SubsetEvaluator
from benchmark.engine.experiment import Experiment
from benchmark.engine.loading import split_of
from benchmark.engine.parallel import sections
from benchmark.errors import UserError
from benchmark.method import Method, Task
from benchmark.missing import mask_hash
from benchmark.records import curves, store, verification


class Trained(NamedTuple):
    """A trained network, and its training: seconds, selected epoch, validation scores, memory."""

    method: Method
    summary: dict[str, Any]


def finish(
    experiment: Experiment,
    machine: Machine,
    trained: list[Trained],
    earlier: dict[str, Any],
) -> store.Record:
    """Tests the trained networks and writes outcomes and record, the record last.

    The validation split is predicted once more before the test split is opened: its outcomes are
    then those of the very weights that are tested, however often the training was interrupted.

    Raises:
        TrainingDiverged: A prediction is NaN or infinite.
    """
    validated = _predict(experiment, machine, trained, 'val')
    started = time.perf_counter()
    tested = _predict(experiment, machine, trained, 'test')
    seconds = time.perf_counter() - started
    scores = {s: score for e in tested for s, score in e.scores.items()}
    # The validation scores are those that the selection of the epoch and the method saw.
    val = {s: v for _, summary in trained for s, v in summary['scores'].items()}
    record: dict[str, Any] = {
        **experiment.header,
        'method': _method(experiment),
        'status': 'complete',
        'scores': {
            'val': {s: v['metrics'] for s, v in val.items()},
            'test': {s: score.metrics for s, score in scores.items()},
        },
        'n': {
            'val': {s: v['n'] for s, v in val.items()},
            'test': {s: score.n for s, score in scores.items()},
        },
        'samples': {name: _units(split_of(experiment.data, name)) for name in SPLITS},
        'predicted': (predicted := {s: list(score.predicted) for s, score in scores.items()}),
        'collapsed': verification.collapsed(predicted, experiment.data.task.kind),
        'selected_epoch': max(summary['epoch'] for _, summary in trained),
        'gaps': _gap_report(experiment),
        'cost': {
            **_size(experiment, [method for method, _ in trained]),
            'train_seconds': sum(summary['seconds'] for _, summary in trained),
            'teacher_seconds': earlier['seconds'],
            **{k: v for k, v in earlier.items() if k == 'pretrain_seconds'},
            'test_seconds': seconds,
            'peak_memory_mb': max(
                summary['peak_memory_mb'] for summary in [earlier, *(s for _, s in trained)]
            ),
        },
        **environment.circumstances(machine.device, machine.grid),
    }
    record['environment'] |= machine.unusual
    locks.check_held()
    keep_other(experiment)
    record['outcomes'] = _keep(experiment, trained, {'val': validated, 'test': tested})
    record |= _curves(experiment, trained)
    store.write(experiment.folder / store.RECORD, record)
    return cast(store.Record, record)


def _keep(
    experiment: Experiment, trained: list[Trained], found: dict[str, list[SubsetEvaluator]]
) -> dict[str, str]:
    """Writes outcomes, and pictures of some test samples where a run keeps them by itself.

    Returns:
        File of outcomes -> its SHA-256.
    """
    hashes, data = {}, experiment.data
    for name, split in ((store.VALIDATION, 'val'), (store.OUTCOMES, 'test')):
        measured = {s: kept for e in found[split] for s, kept in e.outcomes.items()}
        made = outcomes(data.task, split_of(data, split), measured)
        hashes[name] = store.write_outcomes(experiment.folder / name, made)
    networks = {
        part.only[0] if part.only else '': method
        for part, (method, _) in zip(experiment.parts, trained, strict=True)
    }
    try:
        showing.keep(experiment, networks, made, hashes[store.OUTCOMES])
    except UserError:
        raise
    except Exception as error:
        # No picture is worth a training.
        told = f'{type(error).__name__}: {error}'
        print(f'{experiment.folder}: no pictures of samples: {told}', flush=True)
    return hashes


def _curves(experiment: Experiment, trained: list[Trained]) -> dict[str, str]:
    """Writes the curves of each network, and returns their field; a fit without epochs has none."""
    networks = {
        ''.join(part.only or []): summary['curves']
        for part, (_, summary) in zip(experiment.parts, trained, strict=True)
        if 'curves' in summary
    }
    if not networks:
        return {}
    place = experiment.folder / curves.CURVES
    return {'curves': curves.write(place, experiment.identity, networks)}


def _method(experiment: Experiment) -> dict[str, Any]:
    """Returns the method as the header of a record has it, with the notes on its training."""
    told = notes.of(experiment)
    return {**experiment.header['method'], **({'notes': told} if told else {})}


def _predict(
    experiment: Experiment, machine: Machine, trained: list[Trained], name: str
) -> list[SubsetEvaluator]:
    """Returns what each network predicts for a split."""
    found = []
    for part, (method, _) in zip(experiment.parts, trained, strict=True):
        with sections.shared(name, experiment, part, method):
            loader, only = loader_of(experiment, machine, name), experiment.subsets_of(part)
            found.append(training.test(method, loader, part.folder, machine.device, only))
    return found


def keep_other(experiment: Experiment) -> None:
    """Moves a record of another version of the method aside instead of overwriting it.

    What lies beside it goes along, and goes first: an interruption leaves the record to be moved
    later.
    """
    file = experiment.folder / store.RECORD
    with contextlib.suppress(store.RecordError):
        found = store.read(file)
        if found['identity'] == experiment.identity:
            return
        for name in (*store.BESIDE, store.RECORD):
            part = file.with_name(name)
            if part.is_file():
                part.rename(part.with_stem(f'{part.stem}-{found["identity"]}'))


def _units(split: Split) -> int:
    """Returns how many independent samples a split has."""
    clusters = split.clusters
    named = (clusters, split.groups, split.ids)
    return len(np.unique(next(names for names in named if names is not None)))


def _gap_report(experiment: Experiment) -> dict[str, Any]:
    kept, names = experiment.readable, experiment.data.task.names
    return {
        'rates': {m: float(1 - kept[:, k].mean()) for k, m in enumerate(names)},
        'mask_hash': mask_hash(kept),
        'dropped': int((~kept.any(1)).sum()),
    }


def outcomes(
    task: Task, split: Split, measured: Mapping[str, Mapping[str, np.ndarray]]
) -> store.Outcomes:
    """Returns per-sample outcomes of every subset in the order of a split.

    Args:
        task: The task.
        split: The split.
        measured: Subset id -> what a `SubsetMetric` keeps of the samples that have the subset.
    """
    arrays = samples_of(task, split)
    samples, classes = len(arrays['name']), len(task.classes)
    # Classes are counted below zero, since -1 stands for a sample that was not tested.
    label = np.result_type(np.int16, np.min_scalar_type(-classes))
    if task.kind == 'classification':
        arrays['target'] = np.asarray(split.target[np.arange(samples)]).astype(label)
    elif task.kind != 'segmentation':
        kept = np.int8 if task.kind == 'multilabel' else np.float32
        arrays['target'] = np.asarray(split.target[np.arange(samples)]).astype(kept)
        arrays['target'] = arrays['target'].reshape(samples, -1)
    for subset, found in measured.items():
        for key, values in found.items():
            if key == 'ids':
                continue
            kind, blank = (label, -1) if key == 'pred' else (values.dtype, np.nan)
            if key == 'areas':
                kind, blank = np.dtype(np.int64), -1 if task.metric == 'Dice' else 0
            array = np.full((samples, *values.shape[1:]), blank, kind)
            array[found['ids']] = values
            arrays[f'{key}/{subset}'] = array
    return arrays


def samples_of(task: Task, split: Split) -> store.Outcomes:
    """Returns 'name' and, where the data set has clusters, 'cluster' of what is counted."""
    names, clusters = np.asarray(split.ids), split.clusters
    if task.metric == 'Dice' and split.groups is not None:
        names, first = np.unique(split.groups, return_index=True)
        clusters = None if clusters is None else np.asarray(clusters)[first]
    found = {'name': names.astype(np.str_)}
    if clusters is not None:
        found['cluster'] = np.asarray(clusters).astype(np.str_)
    return found


def _size(experiment: Experiment, methods: list[Method]) -> dict[str, Any]:
    """Returns parameters, those the deployed networks need, and FLOPs per subset."""
    flops: dict[str, int] = {}
    for part, method in zip(experiment.parts, methods, strict=True):
        flops.update(cost.flops(method, experiment.subsets_of(part)))
    return {
        'parameters': sum(p.numel() for method in methods for p in method.parameters()),
        'deployed_parameters': sum(cost.deployed_parameters(method) for method in methods),
        'flops': flops,
    }
