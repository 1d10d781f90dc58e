"""Tests trained networks and writes what an experiment leaves: outcomes, then the record."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple, cast

import numpy as np

from benchmark.dataset import Split
from benchmark.engine import cost, environment, training
from benchmark.engine.building import Machine, loader_of_test
from benchmark.engine.evaluation import SubsetEvaluator
from benchmark.engine.experiment import Experiment
from benchmark.engine.loading import split_of
from benchmark.method import Method
from benchmark.missing import mask_hash
from benchmark.records import store

COLLAPSE = 0.999
"""A subset whose predictions are one class to at least this share counts as collapsed."""


class Trained(NamedTuple):
    """A trained network, and its training: seconds, selected epoch, validation scores, memory."""

    method: Method
    summary: dict[str, Any]


def finish(
    experiment: Experiment,
    machine: Machine,
    trained: list[Trained],
    teacher_cost: dict[str, Any],
) -> store.Record:
    """Tests the trained networks and writes outcomes and record, the record last."""
    test = split_of(experiment.data, 'test')
    started = time.perf_counter()
    loader = loader_of_test(experiment, machine)
    tested = [
        training.test(method, loader, part.folder, machine.device, part.only)
        for part, (method, _) in zip(experiment.parts, trained, strict=True)
    ]
    seconds = time.perf_counter() - started
    scores = {s: score for e in tested for s, score in e.scores.items()}
    val = {s: v for _, summary in trained for s, v in summary['scores'].items()}
    record = {
        **experiment.header,
        'status': 'complete',
        'scores': {
            'val': {s: v['metrics'] for s, v in val.items()},
            'test': {s: score.metrics for s, score in scores.items()},
        },
        'n': {
            'val': {s: v['n'] for s, v in val.items()},
            'test': {s: score.n for s, score in scores.items()},
        },
        'predicted': {s: list(score.predicted) for s, score in scores.items()},
        'collapsed': [s for s, score in scores.items() if max(score.predicted) >= COLLAPSE],
        'selected_epoch': max(summary['epoch'] for _, summary in trained),
        'gaps': _gap_report(experiment),
        'cost': {
            **_size(experiment, [method for method, _ in trained]),
            'train_seconds': sum(summary['seconds'] for _, summary in trained),
            'teacher_seconds': teacher_cost['seconds'],
            'test_seconds': seconds,
            'peak_memory_mb': max(
                summary['peak_memory_mb'] for summary in [teacher_cost, *(s for _, s in trained)]
            ),
        },
        **environment.circumstances(machine.device),
    }
    outcomes = _outcomes(experiment, test, tested)
    keep_other(experiment)
    store.write_outcomes(experiment.folder / store.OUTCOMES, outcomes)
    store.write(experiment.folder / store.RECORD, cast(store.Record, record))
    return cast(store.Record, record)


def keep_other(experiment: Experiment) -> None:
    """Moves a record of another version of the method aside instead of overwriting it."""
    file = experiment.folder / store.RECORD
    with contextlib.suppress(store.RecordError):
        found = store.read(file)
        if found['identity'] != experiment.identity:
            file.rename(file.with_name(f'record-{found["identity"]}.json'))


def _gap_report(experiment: Experiment) -> dict[str, Any]:
    kept, names = experiment.readable, experiment.data.task.names
    return {
        'rates': {m: float(1 - kept[:, k].mean()) for k, m in enumerate(names)},
        'mask_hash': mask_hash(kept),
        'dropped': int((~kept.any(1)).sum()),
    }


def _outcomes(
    experiment: Experiment, test: Split, tested: list[SubsetEvaluator]
) -> dict[str, np.ndarray]:
    """Returns per-sample outcomes of every subset in the order of the test split."""
    arrays: dict[str, np.ndarray] = {}
    task = experiment.data.task
    areas = np.zeros((len(test), 3, len(task.classes)), np.int32)
    if task.metric == 'Dice':
        volumes = len(test) if test.groups is None else len(np.unique(test.groups))
        areas = np.full((volumes, 3, len(task.regions)), -1, np.int64)
    for subset, found in ((s, o) for e in tested for s, o in e.outcomes.items()):
        rows = found['ids']
        if task.kind == 'segmentation':
            arrays[f'areas/{subset}'] = areas.copy()
            arrays[f'areas/{subset}'][rows] = found['areas']
            continue
        arrays[f'pred/{subset}'] = np.full(len(test), -1, np.int16)
        arrays[f'pred/{subset}'][rows] = found['pred']
        arrays[f'score/{subset}'] = np.full(len(test), np.nan, np.float32)
        arrays[f'score/{subset}'][rows] = found['score']
    if task.kind == 'classification':
        arrays['target'] = np.asarray(test.target[np.arange(len(test))]).astype(np.int16)
    return arrays


def _size(experiment: Experiment, methods: list[Method]) -> dict[str, Any]:
    """Returns parameters, those the deployed networks need, and FLOPs per subset."""
    flops: dict[str, int] = {}
    for part, method in zip(experiment.parts, methods, strict=True):
        flops.update(cost.flops(method, part.only))
    return {
        'parameters': sum(p.numel() for method in methods for p in method.parameters()),
        'deployed_parameters': sum(cost.deployed_parameters(method) for method in methods),
        'flops': flops,
    }
