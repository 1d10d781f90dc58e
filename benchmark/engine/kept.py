"""What is kept of the samples of a split under one subset, and the base of all metrics over it.

What is kept of a batch stays on its device until the split has ended: no batch waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from benchmark.engine.outputs import finite
from benchmark.method import Batch, Task


class Predicted(NamedTuple):
    """What a network says of a batch under one subset.

    Attributes:
        logits: (B, K) or (B, K, H, W).
        has: (B,) bool, the samples that have the subset; the others do not count.
        number: Which batch of the split this is, for messages.
    """

    logits: Tensor
    has: Tensor
    number: int = 0


class NotFinite(Exception):
    """Logits of samples that have the subset are NaN or infinite.

    Args:
        number: The batch.
        ids: Positions of the samples in the split.
    """

    def __init__(self, number: int, ids: np.ndarray) -> None:
        super().__init__(number, ids)
        self.number, self.ids = number, ids


class SubsetMetric(BaseMetric):
    """A metric of one subset, which also keeps what the record needs beside its value.

    Args:
        task: What is measured.

    Attributes:
        predicted: After `evaluate`, the share of each class among the predictions.
        outcomes: After `evaluate`, the positions ('ids') of what was measured in the split's order,
            and per-sample outcomes for them (`benchmark.records.schema.Outcomes`); nothing if no
            sample has the subset.
    """

    default_prefix = ''
    predicted: tuple[float, ...] = ()
    results: list[dict[str, Tensor]]

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.outcomes: dict[str, np.ndarray] = {}

    def kept(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Returns what is kept of the samples of a batch, (B, ...) each, on the device."""
        raise NotImplementedError

    def measure(self, samples: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics as fractions, and sets `predicted` and `outcomes`.

        Args:
            samples: What was kept, and the positions ('ids'), of all samples that have the subset.
        """
        raise NotImplementedError

    def process(self, data_batch: Batch, data_samples: Any) -> None:
        """Keeps what the metric needs of a batch, whose `Predicted` is `data_samples`."""
        logits, has, number = data_samples
        kept = self.kept(logits, data_batch)
        self.add(kept, data_batch.ids, has, finite(logits), number)

    def add(
        self, kept: dict[str, Tensor], ids: Tensor, has: Tensor, right: Tensor, number: int = 0
    ) -> None:
        """Adds what is kept of a batch.

        Args:
            kept: What the metric needs, (B, ...) each.
            ids: (B,) positions of the samples in the split.
            has: (B,) bool, the samples that have the subset.
            right: (B,) bool, the samples whose logits are finite.
            number: Which batch of the split this is.
        """
        told = {'has': has, 'finite': right, 'number': torch.full_like(ids, number), 'ids': ids}
        self.results.append({**told, **kept})

    def samples(self, results: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Returns what was kept of the samples that have the subset, one transfer for each key.

        Raises:
            NotFinite: A logit of such a sample is NaN or infinite.
        """
        table = {k: v.cpu().numpy() for k, v in _joined(results).items()}
        has = table.pop('has')
        found = {key: column[has] for key, column in table.items()}
        wrong, numbers = ~found.pop('finite'), found.pop('number')
        if wrong.any():
            first = numbers[wrong][0]
            raise NotFinite(int(first), found['ids'][wrong & (numbers == first)])
        return found

    def evaluate(self, size: int) -> dict[str, float]:
        """Returns the metrics of all samples since the last evaluation as fractions."""
        self.predicted, self.outcomes = (), {}
        results, self.results = self.results, []
        # mmengine's own function would gather the results of processes here, with repetitions.
        return self.compute_metrics(results) if results else {}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the metrics as fractions; none if no sample has the subset."""
        samples = self.samples(results)
        return self.measure(samples) if len(samples['ids']) else {}


def _joined(results: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns what was kept of several batches as if it were one."""
    return {key: torch.cat([kept[key] for kept in results]) for key in results[0]}
