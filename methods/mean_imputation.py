"""Mean imputation: one logistic regression, and training means for what is missing."""

import numpy as np
import torch

from benchmark.method import Batch
from benchmark.options import Range
from benchmark.registry import METHODS
from methods.common.fitted import Linear


@METHODS.register_module('mean_imputation')
class MeanImputation(Linear):
    """Replaces missing features by their training means, then applies one logistic regression.

    The simplest treatment of missing values (Little and Rubin, Statistical Analysis with Missing
    Data, 1987), with scikit-learn's `LogisticRegression` of the standardised features of all
    modalities. The means are those of the training samples that have the modality; the model is
    fitted to all training samples, with their gaps filled in the same way.
    """

    ranges = {'models': Range(1)}

    @property
    def means(self) -> np.ndarray:
        """The features' means over the training samples, (features,) float64."""
        return self.blank.cpu().double().numpy()

    def imputed(self, x: np.ndarray) -> np.ndarray:
        """Fills the gaps of a table (n, features), which are NaN."""
        return np.where(np.isnan(x), self.means, x)

    def remember(self, x: np.ndarray) -> None:
        """Keeps of the training table what `imputed` needs."""
        here = ~np.isnan(x)
        mean = np.where(here, x, 0).sum(0) / np.maximum(here.sum(0), 1)
        self.blank.copy_(torch.from_numpy(mean))

    def fit(self, train: Batch, val: Batch) -> None:
        """Takes the means, then fits the model to the completed training samples."""
        (x, y), (xv, yv) = self.table(train), self.table(val)
        self.remember(x)
        found = self.fitted((self.imputed(x), y), (self.imputed(xv), yv))
        self.keep(0, np.ones(x.shape[1], bool), found)
