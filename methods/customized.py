"""Customised training: one network per subset of the modalities, reported as one row."""

from benchmark.method import KINDS
from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('customized')
class Customized(ModalityDropout):
    """One dedicated network per subset, trained and tested on that subset only.

    The 'Customized' rows of MMANet's tables (Wei et al., CVPR 2023, Table 1): the network of
    `modality_dropout` with its mask fixed. M modalities require 2^M - 1 trainings. L = L_task.
    """

    task_kinds = KINDS
    version = 2
    supported_networks = ModalityDropout.supported_networks
    dedicated = True
    shares_convolution = True
