"""One model per subset of the modalities, assembled into one row."""

from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('customized')
class Customized(ModalityDropout):
    """One dedicated model per subset, trained and tested on that subset alone.

    The 'Customized' rows of MMANet's tables (CVPR 2023, Table 1): the same network with its mask
    fixed, 2^M-1 trainings, each member seeing one subset only.
    """

    supported_networks = ModalityDropout.supported_networks
    dedicated = True
