"""Linear models that scikit-learn fits: what the reference rows without a network share."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.method import IGNORE, Batch, Method, Modality, Task

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's C, of which the validation split chooses one; smaller is simpler."""

PIXELS = 100_000
"""Most labelled pixels of label maps that are used, drawn at random."""

FLOOR = 1e-6
"""Probability of a class that no training sample has."""


class Fitted(Method):
    """A method that is fitted to the whole training split at once, without steps and epochs.

    Its inputs are rows of numbers: a vector as it is, a sequence as the mean of its frames without
    padding, an image flattened. With label maps every pixel is a sample of its own, whose features
    are the channels at that pixel.

    Attributes:
        sizes: Modality name -> number of features.
    """

    sampler = 'complete'

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.dense = task.kind == 'segmentation'
        self.sizes = {m.name: self._features(m) for m in task.modalities}

    def _features(self, modality: Modality) -> int:
        shape = modality.shape
        if modality.kind == 'sequence':
            return shape[1] - modality.padded
        return shape[0] if self.dense else int(np.prod(shape))

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the features of each modality: (B, D), or (B, H, W, D) beside label maps."""
        return {m.name: self._rows(m, inputs[m.name]) for m in self.task.modalities
                if m.name in inputs}  # fmt: skip

    def _rows(self, modality: Modality, x: Tensor) -> Tensor:
        if modality.kind == 'sequence':
            real = x[..., -1:] if modality.padded else torch.ones_like(x[..., :1])
            frames = torch.where(real > 0, x[..., : self.sizes[modality.name]], 0.0)
            return frames.sum(1) / real.sum(1).clamp_min(1)
        return x.movedim(1, -1) if self.dense else x.flatten(1)

    def joined(self, features: dict[str, Tensor], mask: Tensor, blank: Tensor) -> Tensor:
        """Joins the features of all modalities.

        Args:
            features: Modality name -> features; one that is left out counts as missing.
            mask: (B, M) bool, what may be used.
            blank: (sum of D,) what stands for the features of a missing modality.

        Returns:
            (B, sum of D) or (B, H, W, sum of D).
        """
        shape = next(iter(features.values())).shape[:-1]
        fillers = blank.split(list(self.sizes.values()))
        keep = mask.reshape(len(mask), *[1] * (len(shape) - 1), -1)
        columns = []
        for k, (name, filler) in enumerate(zip(self.sizes, fillers, strict=True)):
            x = features.get(name, filler.expand(*shape, -1))
            # A selection, not a product: missing modalities may hold NaN, and 0 times NaN is NaN.
            columns.append(torch.where(keep[..., k : k + 1], x, filler))
        return torch.cat(columns, -1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the task's loss under the masks of a batch; the fit does not use it."""
        return {'loss_task': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}

    def table(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labelled samples, or pixels, of a split for scikit-learn.

        Returns:
            (n, sum of D) float64, NaN where a modality is missing, and their labels (n,).
        """
        blank = torch.full((sum(self.sizes.values()),), torch.nan, device=batch.mask.device)
        x = self.joined(self.encode(batch.inputs), batch.available, blank)
        x, y = x.reshape(-1, x.shape[-1]), batch.target.reshape(-1)
        kept = (y != IGNORE).nonzero()[:, 0] if self.dense else torch.arange(len(y))
        if self.dense and len(kept) > PIXELS:
            generator = torch.Generator().manual_seed(0)
            kept = kept.cpu()[torch.randperm(len(kept), generator=generator)[:PIXELS]]
        return x[kept].double().cpu().numpy(), y[kept].cpu().numpy()


class Linear(Fitted):
    """Linear models of the joined features, one or one for every subset.

    Args:
        task: Gives modalities and classes.
        models: Number of linear models.
    """

    def __init__(self, task: Task, models: int = 1) -> None:
        super().__init__(task)
        features = sum(self.sizes.values())
        self.weight = nn.Parameter(0.01 * torch.randn(models, len(task.classes), features))
        self.bias = nn.Parameter(torch.zeros(models, len(task.classes)))
        self.register_buffer('blank', torch.zeros(features))

    def which(self, mask: Tensor) -> Tensor:
        """Returns which model each row of a mask (B, M) uses, (B,)."""
        return torch.zeros(len(mask), dtype=torch.long, device=mask.device)

    def completed(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the joined features, with `blank` in the place of missing ones."""
        return self.joined(features, mask, self.blank)

    def decode(self, features: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the logits of the model of each sample."""
        x, which = self.completed(features, mask), self.which(mask)
        flat = x.reshape(len(x), -1, x.shape[-1])
        logits = flat @ self.weight[which].mT + self.bias[which][:, None]
        return logits.reshape(*x.shape[:-1], -1).movedim(-1, 1)

    @torch.no_grad()
    def keep(self, model: int, columns: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> None:
        """Stores a fitted model.

        Args:
            model: Its number.
            columns: (sum of D,) bool, the features that it uses.
            found: Weights (K, features used) and bias (K,).
        """
        self.weight[model] = 0
        self.weight[model][:, torch.from_numpy(columns)] = self.weight.new_tensor(found[0])
        self.bias[model] = self.bias.new_tensor(found[1])

    def fitted(
        self, train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a logistic regression with this task's classes and their weights."""
        return logistic_regression(train, val, self.class_weights.cpu().numpy().astype(float))


def log_prior(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the classes' shares among labels.

    Args:
        labels: (n,), may be empty.
        weights: (K,) weights of the classes.
    """
    counts = np.bincount(labels, minlength=len(weights)) * weights
    return np.log(np.maximum(counts / max(counts.sum(), FLOOR), FLOOR))


def logistic_regression(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits scikit-learn's logistic regression to standardised features.

    The strength of the quadratic penalty is that of `STRENGTHS` with the smallest cross-entropy on
    the validation split; without validation samples it is scikit-learn's default, C = 1. With more
    features than samples, the features are rotated into the space of the samples first: the
    penalty does not change under rotations, so that the model is the same, and the fit is fast.

    Args:
        train: Features (n, D) and labels (n,).
        val: The same of the validation split, which chooses the penalty alone.
        weights: (K,) weights of the classes.

    Returns:
        Weights (K, D) and bias (K,), for features that are not standardised. A class without
        training samples has the probability `FLOOR` everywhere.
    """
    from scipy.linalg import qr  # here: all commands load this file, and few fit a model
    from sklearn.preprocessing import StandardScaler

    (x, y), count = train, len(weights)
    seen = np.unique(y)
    if len(seen) < 2:
        return np.zeros((count, x.shape[1])), log_prior(y, weights)
    scaler = StandardScaler().fit(x)
    z, basis = scaler.transform(x), None
    if len(z) < z.shape[1]:
        basis, r = qr(z.T, mode='economic')
        z = r.T
    known = np.isin(val[1], seen)
    checked = scaler.transform(val[0][known]) if known.any() else None
    if checked is not None and basis is not None:
        checked = checked @ basis
    slopes, bias = _best(z, y, checked, val[1][known], weights)
    slopes = (slopes if basis is None else slopes @ basis.T) / scaler.scale_
    bias = bias - slopes @ scaler.mean_
    # A class that was never seen is below the average of the others, whatever the features are.
    found = np.tile(slopes.mean(0), (count, 1))
    offset = np.full(count, bias.mean() + np.log(FLOOR))
    found[seen], offset[seen] = slopes, bias
    return found, offset


def _best(
    x: np.ndarray, y: np.ndarray, checked: np.ndarray | None, labels: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns slopes (classes seen, D) and bias of the best penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    strengths = (1.0,) if checked is None else STRENGTHS
    model = LogisticRegression(tol=1e-6, max_iter=1000, warm_start=True)
    best, kept = np.inf, (np.zeros(0), np.zeros(0))
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            # Separable classes with a weak penalty: the validation split judges what was found.
            warnings.simplefilter('ignore', ConvergenceWarning)
            model.fit(x, y, sample_weight=w[y])
        loss = 0.0
        if checked is not None:
            shares = model.predict_proba(checked)
            loss = log_loss(labels, shares, labels=model.classes_, sample_weight=w[labels])
        if loss < best:
            best, kept = loss, (model.coef_.copy(), model.intercept_.copy())
    slopes, bias = kept
    if len(slopes) == 1:  # of two classes scikit-learn keeps the log-odds of the second
        slopes, bias = np.concatenate([0 * slopes, slopes]), np.concatenate([0 * bias, bias])
    return slopes, bias
