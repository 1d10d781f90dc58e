"""Modality dropout: one network, a random subset of the modalities per sample and step."""

from benchmark.method import Method
from benchmark.registry import METHODS
from methods.common.losses import multi_scale
from methods.common.networks import Encoders, decoder, fusion


@METHODS.register_module('modality_dropout')
class ModalityDropout(Method):
    """The unified model with modality dropout: SF-MD and ESANet-MD in MMANet's tables.

    Features of missing modalities are zeroed after the encoders (Wei et al., MMANet, CVPR 2023,
    the 'Unified' rows); the task loss alone trains it.
    """

    supported_networks = ('pyramid', 'esanet')

    def __init__(self, task):
        super().__init__(task)
        self.encoders, self.fusion, self.decoder = Encoders(task), fusion(task), decoder(task)

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return self.encoders(inputs)

    def decode(self, features, mask):
        """Decodes what mask (B, M) allows."""
        return self.decoder(self.fusion(features, mask))

    def loss(self, batch):
        """Returns the task's cross-entropy on the samples' masks."""
        maps = self.decoder.maps(self.fusion(self.encode(batch.inputs), batch.mask))
        return {'loss_task': multi_scale(self.task_loss, self.decoder.outputs(maps), batch.target)}
