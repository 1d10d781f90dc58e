"""The plain network, trained on all modalities."""

from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('complete')
class Complete(ModalityDropout):
    """The plain multimodal network: every sample trains with all that it has, no dropout.

    The lower bracket of a table (what happens when nothing prepares a network for missing
    modalities) and the teacher of the distillation methods (MMANet, CVPR 2023, section 3).
    """

    supported_networks = ModalityDropout.supported_networks
    sampler = 'complete'
