"""The metrics of one subset where targets have a column for each label or value."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from benchmark.engine.kept import SubsetMetric
from benchmark.engine.outputs import predicted_values
from benchmark.method import Batch
from benchmark.records import labels, values


class MultilabelMetric(SubsetMetric):
    """Macro F1, micro F1 and mean average precision of several labels (`records.labels`)."""

    def kept(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Keeps target and logits (B, K), which are not rounded, since they rank samples."""
        return {'target': batch.target, 'logit': logits.detach().float()}

    def measure(self, samples: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics as fractions."""
        target, logit = samples.pop('target'), samples['logit']
        self.predicted, self.outcomes = tuple(labels.shares(logit).tolist()), samples
        return labels.of_labels(target, logit)


class RegressionMetric(SubsetMetric):
    """MAE, RMSE, R2 and Pearson's correlation; of sentiments also accuracies and F1."""

    def kept(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Keeps target and predicted values (B, K) in the units of the target."""
        return {'target': batch.target, 'value': predicted_values(self.task, logits)}

    def measure(self, samples: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics."""
        target, value = samples.pop('target'), samples['value']
        self.predicted, self.outcomes = (0.0,) * value.shape[1], samples
        return values.of_values(target, value, self.task.sentiment)
