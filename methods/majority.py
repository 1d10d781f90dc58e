"""Majority: the most frequent class of the training split, whatever the input."""

import torch
from torch import Tensor, nn

from benchmark.method import Batch, Task
from benchmark.registry import METHODS
from methods.common.fitted import Fitted, log_prior


@METHODS.register_module('majority')
class Majority(Fitted):
    """Predicts the most frequent class of the training split, the least that a method must beat.

    The logits are the logarithms of the classes' shares, so that cross-entropy is that of the
    class frequencies. It is scikit-learn's `DummyClassifier` (Pedregosa et al., JMLR 2011).
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.prior = nn.Parameter(torch.zeros(len(task.classes)))

    def decode(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the same logits for every sample, or pixel."""
        place = next(iter(features.values())).shape[1:-1]
        return self.prior.reshape(1, -1, *[1] * len(place)).expand(len(mask), -1, *place)

    @torch.no_grad()
    def fit(self, train: Batch, val: Batch) -> None:
        """Counts the classes of the training split."""
        weights = self.class_weights.cpu().numpy().astype(float)
        self.prior.copy_(self.prior.new_tensor(log_prior(self.table(train)[1], weights)))
