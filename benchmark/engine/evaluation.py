"""Scores of every subset of the modalities, through mmengine's loops and metrics.

Each batch is encoded once; `stacking` decodes it under all subsets. A method that overrides
`predict` mixes modalities in its encoders and is run subset by subset instead; the numbers mean the
same.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmark.dataset import Split
from benchmark.engine.hooks import TrainingDiverged
from benchmark.engine.kept import NotFinite, Predicted
from benchmark.engine.parallel import processes
from benchmark.engine.stacking import decoded, repeatable
from benchmark.engine.subset_metrics import metric_for
from benchmark.engine.windows import averaged
from benchmark.errors import UserError
from benchmark.method import Batch, Method, SubsetScore, Task
from benchmark.missing import subset_id
from benchmark.shown import few, noun
from benchmark.subsets import subset_table


def subset_logits(
    method: Method, batch: Batch, masks: Sequence[np.ndarray], number: int = 0
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields (mask, logits) for each subset, encoding once where the method allows.

    Volumes are predicted window by window (`windows`).

    Args:
        method: The method, in eval mode.
        batch: A batch on the method's device.
        masks: The subsets, (M,) bool each; intersected with what each sample has.
        number: Which batch of the split this is; what a network draws depends on it.
    """
    task = method.task
    if task.volumes:

        def predict(
            inputs: dict[str, Tensor], some: Sequence[np.ndarray], places: Tensor
        ) -> Iterator[tuple[np.ndarray, Tensor]]:
            placed = batch._replace(inputs=inputs, places=places)
            return _logits(method, placed, some, number)

        sides = task.modalities[0].shape[1:]
        yield from averaged(batch.inputs, masks, sides, len(task.classes), predict)
        return
    yield from _logits(method, batch, masks, number)


def _logits(
    method: Method, batch: Batch, masks: Sequence[np.ndarray], number: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields (mask, logits) of inputs that the network sees as a whole."""
    device = batch.available.device
    if type(method).predict is Method.predict:
        with repeatable(device, number):
            features = method.encode(batch.inputs)
        yield from decoded(method, features, batch.available, masks, number)
        return
    for mask in masks:
        allowed = batch.available & torch.as_tensor(mask, device=device)
        with repeatable(device, number, *mask):
            logits = method.predict_at(batch.inputs, allowed, batch.places)
        yield mask, logits


class SubsetEvaluator(Evaluator):
    """One metric per subset; samples count for the subsets that they have.

    Args:
        task: What is measured.
        only: Subset ids to measure; all of them by default.
        split: The split that is measured: its volumes, for Dice, and the ids of its samples, for
            messages.

    Attributes:
        scores: After a pass, subset id -> its score, for subsets that some sample has.
        outcomes: After a pass, subset id -> per-sample outcomes and their positions.
        watch: Called with (subset, logits, batch, samples that have it, number) of each batch.
    """

    watch: Callable[[np.ndarray, Tensor, Batch, Tensor, int], None] | None = None

    def __init__(
        self, task: Task, only: Sequence[str] | None = None, split: Split | None = None
    ) -> None:
        volumes = (None, None) if split is None else (split.groups, split.geometry)
        self.masks = subset_table(task.names, only)
        self.by_subset = {subset: metric_for(task, *volumes) for subset in self.masks}
        super().__init__(list(self.by_subset.values()))
        self.task, self.split = task, split
        self._axes = 1 + len(task.modalities[0].shape) if task.kind == 'segmentation' else 2
        self.scores: dict[str, SubsetScore] = {}
        self.outcomes: dict[str, dict[str, np.ndarray]] = {}

    def process_subset(
        self, mask: np.ndarray, logits: Tensor, batch: Batch, number: int = 0
    ) -> None:
        """Hands one subset's logits to its metric, for the samples that have the subset.

        Args:
            mask: The subset, (M,) bool.
            logits: (B, K) or (B, K, H, W).
            batch: The samples.
            number: Which batch of the split this is, for the message.

        Raises:
            UserError: The logits are no tensor, or of another number of samples, classes or axes.
        """
        expected = (len(batch.ids), len(self.task.classes))
        if not isinstance(logits, Tensor):
            raise UserError(
                f'prediction: expected logits {expected} as a tensor, '
                f'found {type(logits).__name__}; `decode` or `predict` of the method returns them'
            )
        if tuple(logits.shape[:2]) != expected or logits.ndim != self._axes:
            raise UserError(
                f'prediction: expected logits {expected}{self._size()}, '
                f'found {tuple(logits.shape)}; `decode` or `predict` of the method returns them'
            )
        lacking = torch.from_numpy(~mask).to(batch.available.device, non_blocking=True)
        has = (batch.available | lacking).all(1)
        subset = subset_id(self.task.names, mask)
        self.by_subset[subset].process(batch, Predicted(logits, has, number))
        if self.watch is not None:
            self.watch(mask, logits, batch, has, number)

    def _size(self) -> str:
        return {2: '', 4: ' and H, W', 5: ' and D, H, W'}[self._axes]

    def samples(self, subset: str) -> dict[str, np.ndarray]:
        """Returns what a subset's metric has kept since it was last asked, and forgets it.

        Raises:
            TrainingDiverged: As in `evaluate`.
        """
        metric = self.by_subset[subset]
        results, metric.results = metric.results, []
        with self._naming(subset):
            return metric.samples(results)

    @contextlib.contextmanager
    def _naming(self, subset: str) -> Iterator[None]:
        """Names the samples whose logits are found to be NaN or infinite in the block."""
        try:
            yield
        except NotFinite as found:
            raise TrainingDiverged(
                f'prediction is not finite: subset {subset}, batch {found.number}, '
                f'{self._named(found.ids)}'
            ) from None

    def _named(self, positions: np.ndarray) -> str:
        """Returns the ids of at most three samples, and how many more there are."""
        ids = positions if self.split is None else np.asarray(self.split.ids)[positions]
        return f'{noun("samples", len(ids))} {few(list(ids))}'

    def _gather(self) -> None:
        """Gives every process what all have kept, in the order of the batches."""
        every = self.by_subset.values()
        kept = [tree_map_only(Tensor, Tensor.cpu, metric.results) for metric in every]
        for metric, *parts in zip(every, *processes.everyone(kept), strict=True):
            metric.results = sorted(itertools.chain(*parts), key=lambda k: int(k['number'][0]))

    def evaluate(self, size: int) -> dict[str, float]:
        """Returns '<subset>/<metric>' -> value, and fills `scores` and `outcomes`.

        Raises:
            TrainingDiverged: A logit of a sample that has the subset is NaN or infinite.
        """
        flat = {}
        self.scores, self.outcomes = {}, {}
        if processes.world() > 1:
            self._gather()
        for subset, metric in self.by_subset.items():
            with self._naming(subset):
                metrics = metric.evaluate(size)
            if not metrics:
                continue
            self.outcomes[subset] = metric.outcomes
            n = len(metric.outcomes['ids'])
            self.scores[subset] = SubsetScore(metrics, metric.predicted, n)
            flat.update({f'{subset}/{name}': value for name, value in metrics.items()})
        return flat


class _SubsetLoop:
    """One iteration of a loop over subsets; mixed into mmengine's validation and test loops."""

    runner: Any
    evaluator: Any

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Batch) -> None:
        """Encodes a batch and hands every subset's logits to the evaluator."""
        stage = 'test' if isinstance(self, TestLoop) else 'val'
        self.runner.call_hook(f'before_{stage}_iter', batch_idx=idx, data_batch=data_batch)
        model = self.runner.model
        batch = model.data_preprocessor(data_batch, False)
        number = idx * processes.world() + processes.rank()
        masks = list(self.evaluator.masks.values())
        for mask, logits in subset_logits(model, batch, masks, number):
            self.evaluator.process_subset(mask, logits, batch, number)
        self.runner.call_hook(
            f'after_{stage}_iter', batch_idx=idx, data_batch=data_batch, outputs=[]
        )


class SubsetValLoop(_SubsetLoop, ValLoop):
    """mmengine's validation loop over every subset."""


class SubsetTestLoop(_SubsetLoop, TestLoop):
    """mmengine's test loop over every subset."""
