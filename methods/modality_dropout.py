"""Modality dropout: one network, a random subset of the modalities per sample and step."""

from benchmark.method import Method
from benchmark.registry import METHODS
from methods.common.networks import ConcatFusion, Encoders, decoder


@METHODS.register_module('modality_dropout')
class ModalityDropout(Method):
    """The unified model with modality dropout: SF-MD and ESANet-MD in MMANet's tables.

    Features of missing modalities are zeroed after the encoders (Wei et al., MMANet, CVPR 2023,
    the 'Unified' rows); the task loss alone trains it.
    """

    def __init__(self, task):
        super().__init__(task)
        self.encoders = Encoders(task)
        self.fusion = ConcatFusion(task)
        self.decoder = decoder(task)

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return self.encoders(inputs)

    def decode(self, features, mask):
        """Decodes the masked concatenation; mask (B, M) bool."""
        return self.decoder(self.fusion(features, mask))

    def loss(self, batch):
        """Returns the task's cross-entropy on the samples' masks."""
        return {'loss_task': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}
