"""Majority: the most frequent class of the training split, or the mean, whatever the input."""

import torch
from torch import Tensor, nn

from benchmark.method import KINDS, Batch, Task
from benchmark.registry import METHODS
from methods.common.fitted import FLOOR, Fitted, log_prior


@METHODS.register_module('majority')
class Majority(Fitted):
    """Predicts the most frequent class of the training split, the least that a method must beat.

    The logits are the logarithms of the classes' shares, so that cross-entropy is that of the
    class frequencies. It is scikit-learn's `DummyClassifier` (Pedregosa et al., JMLR 2011). Of
    several labels it predicts the share of the training samples that have each, as log-odds. In a
    regression it predicts the mean of each value in the training split, as `DummyRegressor` does.
    """

    task_kinds = KINDS

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.prior = nn.Parameter(torch.zeros(len(task.classes)))

    def decode(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the same logits, or values, for every sample, or pixel."""
        place = next(iter(features.values())).shape[1:-1]
        return self.prior.reshape(1, -1, *[1] * len(place)).expand(len(mask), -1, *place)

    @torch.no_grad()
    def fit(self, train: Batch, val: Batch) -> None:
        """Counts the classes of the training split, or averages its values."""
        if self.task.kind == 'regression':
            mean = train.target.double().nanmean(0)
            if self.target_scale is not None:
                mean = (mean - self.target_scale[:, 0]) / self.target_scale[:, 1]
            self.prior.copy_(mean)
            return
        if self.task.kind == 'multilabel':
            self.prior.copy_(log_odds(train.target, self.class_weights))
            return
        weights = self.class_weights.cpu().numpy().astype(float)
        self.prior.copy_(self.prior.new_tensor(log_prior(self.table(train)[1], weights)))


def log_odds(target: Tensor, weights: Tensor) -> Tensor:
    """Returns the log-odds of the share of samples that have each label, (K,) float64.

    A share is at least `FLOOR` and at most 1 - `FLOOR`.

    Args:
        target: (N, K) of 0 and 1; what is IGNORE does not count.
        weights: (K,) weights of the samples that have the label.
    """
    have, lack = ((target == value).sum(0).double() for value in (1, 0))
    have = have * weights
    return (have / (have + lack).clamp_min(FLOOR)).clamp(FLOOR, 1 - FLOOR).logit()
