"""Distillation losses, as plain functions of a student's and a teacher's outputs.

No function detaches its arguments: the caller computes the teacher's outputs without gradients.
All losses are scalars in float32, also inside autocast.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def soft_target(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns the divergence of softened class probabilities.

        L = T^2 KL(softmax(z_t / T) || softmax(z_s / T))

    averaged over samples or pixels. The factor T^2 keeps the size of the gradient independent of T
    (Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015, section 2).

    Args:
        student: Logits z_s, (B, K) or (B, K, H, W).
        teacher: Logits z_t of the same shape.
        temperature: T, above 0.
    """
    log_s, log_t = ((z.float() / temperature).log_softmax(1) for z in (student, teacher))
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def logit_regression(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean of (z_s - z_t)^2 over all elements of the logits.

    Ba & Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014, section 2, where the squares
    are summed over the classes and halved.

    Args:
        student: Logits z_s, (B, K) or (B, K, H, W).
        teacher: Logits z_t of the same shape.
    """
    return F.mse_loss(student.float(), teacher.float())


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean of (f_s - f_t)^2 over all elements of the features.

    Romero et al., FitNets, ICLR 2015. There a regressor adapts a thin student's features to the
    teacher's shape; here both networks have the same shape and need none.

    Args:
        student: Features f_s of any shape.
        teacher: Features f_t of the same shape.
    """
    return F.mse_loss(student.float(), teacher.float())


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean of (a_s - a_t)^2 over pixels and samples, a being attention maps.

    The attention a of a sample is sum_c f_c^2 at every pixel, divided by its L2 norm over the
    pixels (Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017; squared and
    averaged as in their code). If a map has a single pixel, its attention is always 1, and the loss
    is always 0.

    Args:
        student: Maps f_s, (B, C, H, W).
        teacher: Maps f_t, (B, C', H, W).
    """
    a_s, a_t = (F.normalize(x.float().square().mean(1).flatten(1)) for x in (student, teacher))
    return F.mse_loss(a_s, a_t)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the distance between the similarities that samples have in two networks.

        L = 1/N sum_ij (Gs_ij - Gt_ij)^2

    where G is the Gram matrix of the features with rows of unit L2 norm. This is N times the loss
    of Tung & Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, so that its weight does
    not depend on N. It equals `margin_aware_distillation` for equal entropies.

    Args:
        student: Features of N samples, (N, ds).
        teacher: Features of the same samples, (N, dt).
    """
    with torch.autocast(student.device.type, enabled=False):
        return row_errors(scaled(student), scaled(teacher)).mean()


def neighbours(features: Tensor) -> Tensor:
    """Returns the probabilities with which samples are neighbours in the space of the features.

        p_ij = k_ij / sum_j k_ij,  k_ij = (cos(f_i, f_j) + 1) / 2

    Args:
        features: (N, d).

    Returns:
        p, (N, N), in float32; every row sums to 1.
    """
    unit = F.normalize(scaled(features))
    # Opposite features have the kernel 0, whose logarithm in the divergence would be infinite.
    kernel = ((unit @ unit.T + 1) / 2).clamp_min(1e-6)
    return kernel / kernel.sum(1, keepdim=True)


def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean over samples i of KL(p_t(. | i) || p_s(. | i)), p from `neighbours`.

    Passalis & Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV
    2018, with its cosine kernel. As in the authors' code, a sample counts as its own neighbour. The
    memory needed is that of several (N, N) matrices.

    Args:
        student: Features of N samples, (N, ds).
        teacher: Features of the same samples, (N, dt).
    """
    with torch.autocast(student.device.type, enabled=False):
        p_s, p_t = neighbours(student), neighbours(teacher)
        return (p_t * (p_t / p_s).log()).sum(1).mean()


def entropy_weights(logits: Tensor) -> Tensor:
    """Returns each sample's share of the batch's total entropy, the weights w_i of MAD.

    The entropy is computed from log-softmax, since p log p is NaN if a probability underflows to 0.
    If all entropies are 0, all samples have the same weight.

    Args:
        logits: (N, K).

    Returns:
        (N,) in float32, summing to 1.
    """
    log_p = F.log_softmax(logits.float(), 1)
    entropy = -(log_p.exp() * log_p).sum(1)
    total = entropy.sum()
    shares = entropy / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, shares, 1 / len(logits))


def scaled(features: Tensor) -> Tensor:
    """Returns features (N, d) in float32, divided by their greatest magnitude.

    Products of products of large features would overflow. The rows of a normalised Gram matrix do
    not depend on the common factor, which is therefore treated as a constant in the gradient.
    """
    x = features.float()
    return x / x.detach().abs().amax().clamp_min(torch.finfo(x.dtype).tiny)


def row_products(x: Tensor, y: Tensor, x_columns: Tensor, y_columns: Tensor) -> Tensor:
    """Returns the inner products of corresponding rows of two Gram matrices, X Xc^T and Y Yc^T.

    The cheaper of two exact ways is taken. To build the Gram matrices, (N, C), costs N C (dx + dy)
    multiplications. Reordered as x_i^T (Xc^T Yc) y_i, the same number costs (N + C) dx dy, far less
    for the many pixels of segmentation.

    Args:
        x: X, (N, dx).
        y: Y, (N, dy).
        x_columns: Xc, (C, dx).
        y_columns: Yc, (C, dy).

    Returns:
        (N,).
    """
    (n, dx), (c, dy) = x.shape, y_columns.shape
    if n * c * (dx + dy) <= (n + c) * dx * dy:
        return ((x @ x_columns.T) * (y @ y_columns.T)).sum(1)
    return (x @ (x_columns.T @ y_columns) * y).sum(1)


def row_errors(student: Tensor, teacher: Tensor, parts: int = 1) -> Tensor:
    """Returns the squared distances between the rows of two Gram matrices with unit rows.

    A row of zeros (norm below 1e-6 of the scale) stays zero and has no gradient.

    Args:
        student: Features, (N, ds), as `scaled` returns them.
        teacher: Features, (N, dt), likewise.
        parts: Number P of blocks of columns that are normalised separately; 1 is the definition.
            Block k begins at column floor(k N / P).

    Returns:
        (N,).
    """
    errors = student.new_zeros(len(student))
    bounds = [len(student) * k // parts for k in range(parts + 1)]
    for begin, end in itertools.pairwise(bounds):
        s, t = student[begin:end], teacher[begin:end]
        # For unit rows |a - b|^2 = |a|^2 + |b|^2 - 2 cos(a, b), so that no Gram matrix is needed.
        cosine = row_products(student, teacher, s, t)
        for x, columns in ((student, s), (teacher, t)):
            squares = row_products(x, x, columns, columns)
            there = squares > 1e-12
            # The clamp acts inside rsqrt: where() alone would still pass on its NaN gradient at 0.
            cosine = cosine * torch.where(there, squares.clamp_min(1e-12).rsqrt(), 0.0)
            errors = errors + there
        errors = errors - 2 * cosine
    return errors


def margin_aware_distillation(
    student: Tensor, teacher: Tensor, logits: Tensor, parts: int = 1
) -> Tensor:
    """Returns MAD: the student reproduces how samples relate, weighted by the teacher's entropy.

        L_MAD = sum_i w_i sum_j (Gs_ij - Gt_ij)^2

    where G is the Gram matrix of the batch's features with rows of unit L2 norm, and w_i the
    sample's share of the entropy of the teacher's softmax (Wei et al., MMANet, CVPR 2023, section
    3.2).

    Args:
        student: Features of N samples, (N, ds).
        teacher: Features of the same samples, (N, dt).
        logits: The teacher's logits, (N, K).
        parts: Number of blocks of columns that are normalised separately; 1 is the definition.
    """
    with torch.autocast(student.device.type, enabled=False):
        errors = row_errors(scaled(student), scaled(teacher), parts)
        return (entropy_weights(logits) * errors).sum()


def column_weighted_distillation(student: Tensor, teacher: Tensor, logits: Tensor) -> Tensor:
    """Returns MAD as MMANet's released classification code computes it.

    There the weight w_j multiplies column j of the squared differences, although it is the rows
    that have unit norm: sum_j w_j sum_i (Gs_ij - Gt_ij)^2.

    Args:
        student: Features of N samples, (N, ds).
        teacher: Features of the same samples, (N, dt).
        logits: The teacher's logits, (N, K).
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = (F.normalize(x @ x.T) for x in (scaled(student), scaled(teacher)))
        return (entropy_weights(logits) * (s - t).square().sum(0)).sum()


def pooled(maps: Tensor, rows: int) -> Tensor:
    """Returns maps (B, C, H, W) averaged over the cells of a grid, if they have more than `rows`.

    The grid has `rows` rows and 4/3 as many columns, but no more than the map has, as MMANet's
    released segmentation code pools to 30 x 40. Values and gradients are those of adaptive average
    pooling, whose backward pass is not deterministic on CUDA. This one is: the average over a cell
    is a matrix product over the rows and another one over the columns.

    Args:
        maps: (B, C, H, W).
        rows: Number of rows of the grid.

    Returns:
        (B, C, rows, columns) in float32, or the maps unchanged if H is at most `rows`.
    """
    height, width = maps.shape[2:]
    if height <= rows:
        return maps
    with torch.autocast(maps.device.type, enabled=False):
        x = maps.float()
        by_row, by_column = (
            _shares(length, cells, x)
            for length, cells in ((height, rows), (width, min(width, rows * 4 // 3)))
        )
        return by_row @ (x @ by_column.T)


def _shares(length: int, cells: int, like: Tensor) -> Tensor:
    """Returns the share of each of `length` positions in the average of each cell, (cells, length).

    Cell i covers the positions from floor(i L / C) to ceil((i + 1) L / C) - 1.
    """
    cell, position = (torch.arange(n, device=like.device) for n in (cells, length))
    begin, end = cell * length // cells, -(-(cell + 1) * length // cells)
    inside = (position >= begin[:, None]) & (position < end[:, None])
    return (inside / (end - begin)[:, None]).to(like.dtype)


def pixels(maps: Tensor) -> Tensor:
    """Reshapes maps (B, C, H, W) to one row per pixel, (B H W, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
