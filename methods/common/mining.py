"""How far predictions move when one modality is taken away: what MMANet mines."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from benchmark.errors import unknown
from benchmark.method import SubsetScore


def departures(
    names: tuple[str, ...], scores: dict[str, SubsetScore], dense: bool, official: bool
) -> list[float]:
    """Returns for each modality how far predictions without it are from those of the full set.

    Args:
        names: The names of the M modalities.
        scores: Id of a subset -> its score on the validation split.
        dense: As in `movement`.
        official: As in `movement`.

    Raises:
        UserError: The validation lacks the full set or one without a single modality.
    """
    full = '+'.join(names)
    reduced = ['+'.join(n for n in names if n != absent) for absent in names]
    for key in (full, *reduced):
        if key not in scores:
            raise unknown('subset in the validation that mmanet mines: subset', key, scores)
    return [movement(scores[key], scores[full], dense, official) for key in reduced]


def movement(score: SubsetScore, full: SubsetScore, dense: bool, official: bool) -> float:
    """Returns how far a subset's predictions are from those of the full set.

    In segmentation it is the squared difference of mIoU, as in MMANet's released code, in
    classification the divergence KL(subset || full) of the shares of predicted classes (Wei et al.,
    MMANet, CVPR 2023, Eq. 10-13).

    Args:
        score: Score of the subset.
        full: Score of the full set.
        dense: Whether the task is segmentation.
        official: Whether the softmax of the shares is compared instead of the shares, as in the
            released code.
    """
    if dense:
        return (score.metrics['mIoU'] - full.metrics['mIoU']) ** 2
    shares = torch.tensor([score.predicted, full.predicted], dtype=torch.float64)
    # 1e-6: the divergence would be infinite for a class that is never predicted.
    log_q = (shares if official else (shares + 1e-6).log()).log_softmax(1)
    return float(F.kl_div(log_q[1], log_q[0], reduction='sum', log_target=True))
