"""Logistic regression: one linear model for every subset of the modalities."""

import numpy as np
import torch
from torch import Tensor

from benchmark.method import Batch, Task
from benchmark.missing import subset_masks
from benchmark.registry import METHODS
from methods.common.fitted import Linear, log_prior


@METHODS.register_module('logistic')
class Logistic(Linear):
    """One logistic regression per subset, fitted to the training samples that have the subset.

    It answers whether a network is worth its cost on these data: scikit-learn's
    `LogisticRegression` (Pedregosa et al., JMLR 2011) of the standardised features of the subset,
    with the penalty that the validation split chooses. As in `customized`, M modalities have
    2^M - 1 models; there is no gradient descent in steps, and the fields of the protocol have no
    effect, `rates` excepted.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task, 2 ** len(task.modalities))

    def which(self, mask: Tensor) -> Tensor:
        """Returns the number of a subset: the sum of 2^m over its modalities m."""
        return (mask.long() << torch.arange(mask.shape[1], device=mask.device)).sum(1)

    def fit(self, train: Batch, val: Batch) -> None:
        """Fits every subset; model 0, of no modality at all, knows the classes' shares."""
        (x, y), (xv, yv) = self.table(train), self.table(val)
        none = np.zeros((len(self.task.classes), 0))
        weights = self.class_weights.cpu().numpy().astype(float)
        self.keep(0, np.zeros(x.shape[1], bool), (none, log_prior(y, weights)))
        for mask in subset_masks(len(self.task.names)):
            columns = np.repeat(mask, list(self.sizes.values()))
            has, checked = (~np.isnan(t[:, columns]).any(1) for t in (x, xv))
            found = self.fitted(
                (x[has][:, columns], y[has]), (xv[checked][:, columns], yv[checked])
            )
            self.keep(int(self.which(torch.from_numpy(mask)[None])), columns, found)
