"""Tests a run's networks under graded corruptions of one modality, beside the absence of others.

Nothing is trained, and the record stays as it is: the networks are those of the run's checkpoint,
the samples those of the test split. A batch is encoded once; then only the corrupted modality is
encoded anew for each corruption and severity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.dataset import Split
from benchmark.engine import corruptions, environment, state
from benchmark.engine.building import Machine, loader_of
from benchmark.engine.corrupted import CLEAN, Bench, Grade
from benchmark.engine.deployed import Model, load
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.experiment import Experiment
from benchmark.engine.stacking import decoded, repeatable
from benchmark.engine.subset_metrics import DiceMetric
from benchmark.method import Batch, Method, Task
from benchmark.missing import subset_id
from benchmark.records import corruptions as files
from benchmark.records import metrics
from benchmark.records.corruptions import Cell, Cells, Tests, subsets_of
from benchmark.records.schema import Record, RecordError
from benchmark.subsets import subset_table


class Request(NamedTuple):
    """What is tested: names of corruptions, and severities from 1 to 5."""

    kinds: tuple[str, ...]
    severities: tuple[int, ...]

    def grades(self, task: Task) -> dict[str, list[Grade]]:
        """Returns for each modality what it is tested under."""
        return {
            m.name: [
                (kind, severity)
                for kind in corruptions.kinds_of(m)
                if kind in self.kinds
                for severity in self.severities
            ]
            for m in task.modalities
        }

    def size(self, task: Task) -> tuple[int, int]:
        """Returns how many corrupted inputs a run is tested on, and how many subsets these have."""
        grades = self.grades(task)
        subsets = [len(subsets_of(task.names, m)) * len(each) for m, each in grades.items()]
        return sum(map(len, grades.values())), sum(subsets)


class Tally:
    """Sums of what samples contribute to the metric, for each grade and subset.

    Args:
        task: The metric.
        split: The samples that are tested.
        subsets: The subsets that they are tested on.
    """

    def __init__(self, task: Task, split: Split, subsets: Sequence[str]) -> None:
        self.task = task
        # The distance of surfaces would be measured once for each corruption and severity.
        self.evaluator = SubsetEvaluator(task, subsets, replace(split, geometry=None))
        groups = split.ids if split.groups is None else split.groups
        self.volume = np.unique(groups, return_inverse=True)[1]
        self.sums: dict[tuple[Grade, str], np.ndarray] = {}
        self.numbers: dict[tuple[Grade, str], int] = {}

    def add(
        self, grade: Grade, mask: np.ndarray, logits: Tensor, batch: Batch, number: int
    ) -> None:
        """Adds what a network says of a batch; arguments of `SubsetEvaluator.process_subset`."""
        subset = subset_id(self.task.names, mask)
        self.evaluator.process_subset(mask, logits, batch, number)
        samples, key = self.evaluator.samples(subset), (grade, subset)
        if not len(samples['ids']):
            return
        if self.task.metric == 'Dice':
            total = self.sums.setdefault(
                key, np.full((self.volume.max() + 1, *samples['areas'].shape[1:]), -1, np.int64)
            )
            places = self.volume[samples['ids']]
            total[places] = np.maximum(total[places], 0)
            np.add.at(total, places, samples['areas'])
        else:
            added = self._contributions(samples)
            self.sums[key] = self.sums.get(key, 0) + added.sum(0)
            # Of several labels, a sample may have none, and none be predicted.
            count = len(added) if self.task.metric == 'F1' else int(added.any(1).sum())
            self.numbers[key] = self.numbers.get(key, 0) + count

    def _contributions(self, samples: dict[str, np.ndarray]) -> np.ndarray:
        metric = self.task.metric
        if metric == 'mIoU':
            outcomes = {'areas/x': samples['areas']}
        else:
            kinds = {k: v for k, v in samples.items() if k in ('pred', 'logit', 'value')}
            outcomes = {'target': samples['target'], **{f'{k}/x': v for k, v in kinds.items()}}
        return metrics.contributions(outcomes, 'x', metric, self.task.live)

    def cells(self, grade: Grade) -> Cells:
        """Returns the cells of a grade."""
        return {subset: self._cell(grade, subset) for at, subset in self.sums if at == grade}

    def _cell(self, grade: Grade, subset: str) -> Cell:
        total = self.sums[grade, subset]
        if self.task.metric != 'Dice':
            return files.cell_of(self.numbers[grade, subset], total, self.task.metric)
        metric = cast(DiceMetric, self.evaluator.by_subset[subset])
        each = metrics.contributions({'areas/x': metric.settled(total)}, 'x', 'Dice')
        return files.cell_of(int(each[:, 0].sum()), each.sum(0), 'Dice')


def predictions(
    network: Method,
    batch: Batch,
    modality: str,
    grades: Mapping[Grade, Callable[[], Tensor]],
    masks: Sequence[np.ndarray],
    number: int = 0,
) -> Iterator[tuple[Grade, np.ndarray, Tensor]]:
    """Yields (grade, mask, logits) of a batch with one corrupted modality, each encoded once.

    Args:
        network: The network, in eval mode.
        batch: The clean batch, on the network's device.
        modality: The modality that is corrupted.
        grades: Grade -> what returns the modality under it, on any device.
        masks: The subsets, (M,) bool each.
        number: Which batch of the split this is.
    """

    def encoded(given: dict[str, Tensor]) -> dict[str, Any]:
        with repeatable(device, number):
            return network.encode(given)

    once = type(network).predict is Method.predict
    device = batch.available.device
    features = encoded(batch.inputs) if once else {}
    for grade, make in grades.items():
        inputs = batch.inputs
        if grade != CLEAN:
            anew = {modality: make().to(device)}
            inputs = {**batch.inputs, **anew}
        # The features of one modality do not depend on another one.
        if not once:
            pairs = subset_logits(network, batch._replace(inputs=inputs), masks, number)
        else:
            seen = features if grade == CLEAN else {**features, **encoded(anew)}
            pairs = decoded(network, seen, batch.available, masks, number)
        yield from ((grade, mask, logits) for mask, logits in pairs)


@torch.no_grad()
def tally(
    model: Model,
    bench: Bench,
    loader: DataLoader,
    modality: str,
    grades: Sequence[Grade],
    tested: Collection[str] | None = None,
) -> Tally:
    """Returns the sums of one pass over the test split with one corrupted modality.

    Args:
        model: The networks.
        bench: The test samples.
        loader: Their batches.
        modality: The modality that is corrupted.
        grades: The corruptions and severities.
        tested: The subsets that the run was tested on; all by default.
    """
    names = model.task.names
    wanted = [s for s in subsets_of(names, modality) if tested is None or s in tested]
    masks = subset_table(names, wanted)
    found = Tally(model.task, bench.test, wanted)
    for number, raw in enumerate(loader):
        makers = {
            grade: lambda raw=raw, grade=grade: bench.corrupted(raw, modality, grade)
            for grade in (CLEAN, *grades)
        }
        for only, network in model.networks.items():
            own = [masks[subset] for subset in wanted if only in ('', subset)]
            if not own:
                continue
            batch = network.data_preprocessor(raw, False)
            for grade, mask, logits in predictions(network, batch, modality, makers, own, number):
                found.add(grade, mask, logits, batch, number)
    return found


def lacking(tests: Tests | None, request: Request, task: Task) -> dict[str, list[Grade]]:
    """Returns for each modality what is asked for and not tested yet; nothing if all is."""
    known = tests['tests'] if tests else {}
    missing = {
        m: [g for g in grades if str(g[1]) not in known.get(m, {}).get(g[0], {})]
        for m, grades in request.grades(task).items()
    }
    return {m: grades for m, grades in missing.items() if grades}


def known(folder: Path, record: Record) -> Tests | None:
    """Returns the tests that a run has, by the formulas of this version; names a damaged file."""
    try:
        found = files.read(folder, record)
    except RecordError as error:
        state.name(folder / files.FILE, error)
        return None
    return found if found and found['version'] == corruptions.VERSION else None


def test(
    experiment: Experiment,
    record: Record,
    bench: Bench,
    machine: Machine,
    request: Request,
    report: Callable[[str], None],
) -> Tests:
    """Tests a run on what it has not been tested on, and adds that to the file beside its record.

    The file is written after each modality, from where an interrupted test goes on.

    Args:
        experiment: The experiment of the run.
        record: Its record.
        bench: The test samples.
        machine: Where to compute.
        request: What to test.
        report: Told which modality is being tested.

    Raises:
        TrainingDiverged: A prediction is NaN or infinite.
        UserError: The networks cannot be used, or the file cannot be written.
    """
    tests = known(experiment.folder, record) or _empty(record, machine)
    todo = lacking(tests, request, bench.task)
    model = load(experiment.folder, machine.device)
    loader = loader_of(experiment, machine, 'test', resident=False)  # corrupted on the host
    for modality, grades in todo.items():
        report(f'corrupted {modality}')
        started = time.perf_counter()
        found = tally(model, bench, loader, modality, grades, record['scores']['test'])
        tests['clean'].update(found.cells(CLEAN))
        kinds = tests['tests'].setdefault(modality, {})
        for kind, severity in grades:
            kinds.setdefault(kind, {})[str(severity)] = found.cells((kind, severity))
        tests['seconds'] += time.perf_counter() - started
        state.make_room(experiment.folder, files.FILE)
        files.write(experiment.folder, tests)
    return tests


def _empty(record: Record, machine: Machine) -> Tests:
    return {
        'format': files.FORMAT,
        'version': corruptions.VERSION,
        'identity': record['identity'],
        'record': record['content'],
        'device': environment.circumstances(machine.device)['environment']['device'],
        'seconds': 0.0,
        'clean': {},
        'tests': {},
    }
