"""Methods whose training goes through all subsets of the modalities, of which there may be many."""

from __future__ import annotations

from benchmark.subsets import LISTED

METHODS = {
    'dmrnet': 'mines hard combinations among',
    'gmd': 'has a loss for each of',
    'logistic': 'fits a model for each of',
    'uhved': 'fuses its experts over each of',
}
"""Such a method -> what it does in training.

They are named here, since a change of their files would change what identifies their records.
"""


def refusal(name: str, modalities: int) -> str:
    """Returns why a method cannot train with so many modalities, '' if it can.

    Args:
        name: Its registered name.
        modalities: M.
    """
    if name not in METHODS or modalities <= LISTED:
        return ''
    return (
        f'in training this method {METHODS[name]} all {2**modalities - 1:,} subsets of the '
        f'modalities; expected at most {LISTED} modalities, found {modalities}'
    )
