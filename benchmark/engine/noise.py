"""Noise on vectors in training, the less the more samples there are for the features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmark.engine.loading import Samples
from benchmark.errors import UserError
from benchmark.method import Batch, Task


@dataclass(frozen=True)
class Noise:
    """Adds normal noise to the vectors of a training batch.

    Of a linear model that is fitted to n samples by squared errors, noise of the variance v in each
    feature penalises the squared weights n v times in the mean (Bishop, Training with noise is
    equivalent to Tikhonov regularization, 1995). Here v = f D / n, at most 1, for D features and
    the protocol's field f: the penalty is f D, whatever n is. As ridge regression does, the noise
    counts where samples are few for their features, and is next to nothing where they are many.
    That a formula of linear models suits networks is no theorem; `tools/logistic.py` measures it.

    Args:
        deviations: Modality -> standard deviation of the noise in each of its features.
        first: What else training does to a batch, before; None for nothing.
    """

    deviations: Mapping[str, float]
    first: Callable[[Batch], Batch] | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with noise; it is drawn on the CPU, so that devices agree."""
        batch = batch if self.first is None else self.first(batch)
        inputs = dict(batch.inputs)
        for name, deviation in self.deviations.items():
            x = inputs[name]
            drawn = deviation * torch.randn(x.shape)
            inputs[name] = x + drawn.to(x.device, x.dtype, non_blocking=True)
        return batch._replace(inputs=inputs)


def variance(factor: float, features: int, samples: int) -> float:
    """Returns the variance of the noise in each feature of a standardised vector, at most 1.

    Args:
        factor: The protocol's field `vector_noise`.
        features: Number of features of the modality.
        samples: Number of training samples that have it.
    """
    return min(1.0, factor * features / max(samples, 1))


def augmentation(samples: Samples, factor: float) -> Callable[[Batch], Batch] | None:
    """Returns what training does to a batch of these samples; None for nothing."""
    vectors = [(k, m) for k, m in enumerate(samples.task.modalities) if m.kind == 'vector']
    if not (factor and vectors):
        return samples.split.augment
    there = samples.available.sum(0)
    found = {m.name: math.sqrt(variance(factor, m.shape[0], int(there[k]))) for k, m in vectors}
    return Noise(found, samples.split.augment)


def check(factor: float, task: Task) -> None:
    """Checks that noise has something to be added to.

    Raises:
        UserError: There is no vector among the modalities.
    """
    if factor and all(m.kind != 'vector' for m in task.modalities):
        kinds = ' and '.join(sorted({f'{m.kind}s' for m in task.modalities}))
        raise UserError(
            f'vector_noise={factor:g} on {task.dataset}: expected vectors among the modalities, '
            f'found {kinds} alone'
        )
