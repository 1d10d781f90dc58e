"""Training on complete samples: the plain multimodal network, without modality dropout."""

from benchmark.method import KINDS
from benchmark.registry import METHODS
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('complete')
class Complete(ModalityDropout):
    """The plain multimodal network: every sample trains with all the modalities that it has.

    The lower reference of a table: it shows what missing modalities cost a network that was not
    trained for them. It is also the teacher of the distillation methods (Wei et al., MMANet, CVPR
    2023, section 3). L = L_task.
    """

    task_kinds = KINDS
    version = 2
    supported_networks = ModalityDropout.supported_networks
    sampler = 'complete'
    shares_convolution = True
