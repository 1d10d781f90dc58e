"""Nearest-neighbour imputation: missing vectors are the mean of those of similar samples."""

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.method import Task
from benchmark.registry import METHODS
from methods.mean_imputation import MeanImputation

DONORS = 2000
"""Most training samples that are kept as possible neighbours, the first ones of the split."""


@METHODS.register_module('knn_imputation')
class KNNImputation(MeanImputation):
    """Replaces missing vectors by those of similar training samples, then as `mean_imputation`.

    A missing feature is the mean over the training samples that have it and are nearest in the
    features that are there (Troyanskaya et al., Bioinformatics 2001): scikit-learn's `KNNImputer`
    on standardised features. Vectors only: among the pixels of images, distances mean little.

    Args:
        task: What the data set requires.
        neighbours: Number of neighbours.

    Raises:
        UserError: A modality is no vector.
    """

    contract_exceptions = dict.fromkeys(
        ('faces', 'mixed', 'sequences', 'rooms', 'esanet'), 'imputes vectors alone'
    )

    def __init__(self, task: Task, *, neighbours: int = 5) -> None:
        super().__init__(task)
        if neighbours < 1:
            raise UserError(f'knn_imputation: neighbours: expected 1 or more, found {neighbours}')
        self.neighbours = neighbours
        # Rows of a fixed number, so that every fitted network of a task has the same shapes.
        self.register_buffer('donors', torch.zeros(DONORS, len(self.blank)))
        self.register_buffer('known', torch.zeros(DONORS, len(self.blank), dtype=torch.bool))
        self.register_buffer('scale', torch.ones(len(self.blank)))

    @classmethod
    def check_network(cls, task: Task) -> None:
        """Checks that all modalities are vectors, before anything is trained.

        Raises:
            UserError: One is not.
        """
        super().check_network(task)
        for modality in task.modalities:
            if modality.kind != 'vector':
                raise UserError(
                    f'knn_imputation on {task.dataset}: expected vectors, found '
                    f'{modality.kind} {modality.name}; mean_imputation takes all kinds'
                )

    def remember(self, x: np.ndarray) -> None:
        """Keeps means, scales and rows of the training table."""
        super().remember(x)
        here = ~np.isnan(x)
        gap = np.where(here, x - self.means, 0)
        std = np.sqrt((gap**2).sum(0) / np.maximum(here.sum(0), 1))
        self.scale.copy_(torch.from_numpy(np.where(std > 0, std, 1)))
        rows, self.known[:] = torch.from_numpy(x[here.any(1)][:DONORS]), False
        self.known[: len(rows)] = ~rows.isnan()
        self.donors[: len(rows)] = rows.nan_to_num().to(self.donors)

    def imputed(self, x: np.ndarray) -> np.ndarray:
        """Fills gaps from the nearest training samples; the mean where none is near."""
        if not np.isnan(x).any():
            return x
        mean, scale = self.means, self.scale.cpu().double().numpy()
        donors = self.donors.double().where(self.known, torch.nan)[self.known.any(1)].cpu().numpy()
        if not len(donors):
            return super().imputed(x)
        from sklearn.impute import KNNImputer  # here, because every command loads this file

        imputer = KNNImputer(n_neighbors=self.neighbours, keep_empty_features=True)
        imputer.fit((donors - mean) / scale)
        return imputer.transform((x - mean) / scale) * scale + mean

    def completed(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the joined features with the gaps filled."""
        table = self.joined(features, mask, torch.full_like(self.blank, torch.nan))
        found = self.imputed(table.detach().cpu().double().numpy())
        return table.new_tensor(found)
