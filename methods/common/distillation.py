"""What a student learns from its teacher, as plain functions of the two networks' outputs.

Gradients flow to whatever asks for them: the caller computes the teacher without. All values are
float32, whatever the autocast.
"""

import torch
import torch.nn.functional as F  # noqa: N812


def soft_target(student, teacher, temperature):
    """Matches softened class probabilities: T^2 KL(softmax(z_t / T) || softmax(z_s / T)).

    Averaged over samples or pixels; T^2 keeps the gradient's size whatever T (Hinton, Vinyals &
    Dean, Distilling the Knowledge in a Neural Network, 2015, section 2).

    Args:
        student: Logits (B, K) or (B, K, H, W).
        teacher: Logits of the same shape.
        temperature: T.
    """
    log_s, log_t = ((z.float() / temperature).log_softmax(1) for z in (student, teacher))
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def logit_regression(student, teacher):
    """Matches logits: the mean of (z_s - z_t)^2.

    Ba & Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014, section 2; there summed over
    the classes and halved.

    Args:
        student: Logits (B, K) or (B, K, H, W).
        teacher: Logits of the same shape.
    """
    return F.mse_loss(student.float(), teacher.float())


def hint(student, teacher):
    """Matches features: the mean of (f_s - f_t)^2 (Romero et al., FitNets, ICLR 2015).

    FitNets put a regressor between a thin student and its teacher; here the shapes are equal.

    Args:
        student: Features of any shape.
        teacher: Features of the same shape.
    """
    return F.mse_loss(student.float(), teacher.float())


def attention_transfer(student, teacher):
    """Matches where features are strong: the mean of (a_s - a_t)^2 over pixels and samples.

    a is sum_c f_c^2 as a vector of unit L2 norm over the pixels (Zagoruyko & Komodakis, Paying
    More Attention to Attention, ICLR 2017, squared and averaged as in their code). The
    attention of a single pixel is 1 whatever the features.

    Args:
        student: Maps (B, C, H, W).
        teacher: Maps (B, C', H, W).
    """
    a_s, a_t = (F.normalize(x.float().square().mean(1).flatten(1)) for x in (student, teacher))
    return F.mse_loss(a_s, a_t)


def similarity_preserving(student, teacher):
    """Matches how samples relate: (1/N) sum_ij (Gs_ij - Gt_ij)^2, G Gram with rows of unit norm.

    N times Tung & Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, so that its
    weight does not depend on N; it is MAD where the teacher is equally sure of all samples.

    Args:
        student: (N, ds) features.
        teacher: (N, dt) features.
    """
    with torch.autocast(student.device.type, enabled=False):
        return row_errors(scaled(student), scaled(teacher)).mean()


def neighbours(features):
    """Returns p_ij = k_ij / sum_j k_ij, k = (cos + 1) / 2, of features (N, d), as (N, N)."""
    unit = F.normalize(scaled(features))
    # A pair of opposites has no share, whose logarithm would be infinite.
    kernel = ((unit @ unit.T + 1) / 2).clamp_min(1e-6)
    return kernel / kernel.sum(1, keepdim=True)


def probabilistic_transfer(student, teacher):
    """Matches how likely samples are neighbours: the mean over i of KL(p_t(. | i) || p_s(. | i)).

    The cosine kernel of Passalis & Tefas, Learning Deep Representations with Probabilistic
    Knowledge Transfer, ECCV 2018; as in their code a sample neighbours itself. Holds
    several N x N matrices.

    Args:
        student: (N, ds) features.
        teacher: (N, dt) features.
    """
    with torch.autocast(student.device.type, enabled=False):
        p_s, p_t = neighbours(student), neighbours(teacher)
        return (p_t * (p_t / p_s).log()).sum(1).mean()


def entropy_weights(logits):
    """Returns each sample's share (N,) of the entropy of softmax(logits), logits (N, K).

    Where no sample has any entropy left, all weigh the same.
    """
    log_p = F.log_softmax(logits.float(), 1)
    entropy = -(log_p.exp() * log_p).sum(1)
    total = entropy.sum()
    shares = entropy / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, shares, 1 / len(logits))


def scaled(features):
    """Returns (N, d) in float32 with greatest magnitude 1, which no Gram ratio depends on."""
    x = features.float()
    return x / x.detach().abs().amax().clamp_min(torch.finfo(x.dtype).tiny)


def row_products(x, y, x_columns, y_columns):
    """Returns <(X Xc^T)_i, (Y Yc^T)_i> for every row i, (N,), by the cheaper of two exact ways.

    The Gram matrices, N x C, cost N C (dx + dy) multiplications; x_i^T (Xc^T Yc) y_i, the same
    number without them, costs (N + C) dx dy, far less for the many pixels of segmentation.
    """
    (n, dx), (c, dy) = x.shape, y_columns.shape
    if n * c * (dx + dy) <= (n + c) * dx * dy:
        return ((x @ x_columns.T) * (y @ y_columns.T)).sum(1)
    return (x @ (x_columns.T @ y_columns) * y).sum(1)


def row_errors(student, teacher, parts=1):
    """Returns the squared distance (N,) between the unit rows of two Gram matrices.

    For unit rows it is 2 - 2 cos. A row of zeros (below 1e-6 of the scale) stays zero and gets
    no gradient. With `parts` > 1 that many blocks of columns are each normalised on their own.
    """
    errors = student.new_zeros(len(student))
    for s, t in zip(student.chunk(parts), teacher.chunk(parts), strict=True):
        cosine = row_products(student, teacher, s, t)
        for x, columns in ((student, s), (teacher, t)):
            squares = row_products(x, x, columns, columns)
            there = squares > 1e-12
            cosine = cosine * torch.where(there, squares.clamp_min(1e-12).rsqrt(), 0.0)
            errors = errors + there
        errors = errors - 2 * cosine
    return errors


def margin_aware_distillation(student, teacher, logits, parts=1):
    """MAD: the student copies how samples relate, most where the teacher is least certain.

    sum_i w_i sum_j (Gs_ij - Gt_ij)^2, G the Gram matrix of the batch with rows of unit L2 norm and
    w_i the sample's share of the entropy of the teacher's softmax (MMANet, section 3.2).

    Args:
        student: (N, ds) features.
        teacher: (N, dt) features.
        logits: (N, K) of the teacher.
        parts: Blocks of columns normalised apart; the definition is 1.
    """
    with torch.autocast(student.device.type, enabled=False):
        errors = row_errors(scaled(student), scaled(teacher), parts)
        return (entropy_weights(logits) * errors).sum()


def column_weighted_distillation(student, teacher, logits):
    """The released classification code's MAD: the weights meet columns, not the unit rows."""
    with torch.autocast(student.device.type, enabled=False):
        s, t = (F.normalize(x @ x.T) for x in (scaled(student), scaled(teacher)))
        return (entropy_weights(logits) * (s - t).square().sum(0)).sum()


def pixels(maps):
    """Turns (B, C, H, W) into one row per pixel, (B H W, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
