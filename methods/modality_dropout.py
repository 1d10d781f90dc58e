"""Modality dropout: one network that trains with random subsets; absent maps are zero."""

from typing import ClassVar

from torch import Tensor

from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from methods.common.losses import multi_scale
from methods.common.networks import Encoders, Maps, decoder, fusion


@METHODS.register_module('modality_dropout')
class ModalityDropout(Method):
    """Every sample draws a subset in every epoch: SF-MD and ESANet-MD (Wei et al., CVPR 2023)."""

    task_kinds = KINDS
    version = 2
    shares_convolution = True
    supported_networks: ClassVar[tuple[str, ...]] = ('pyramid', 'esanet', 'unet3d')

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.encoders, self.fusion, self.decoder = Encoders(task), fusion(task), decoder(task)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits; the fusion sets the maps that the mask excludes to zero."""
        return self.decoder(self.fusion(features, mask))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the task's loss under the samples' masks, over all outputs of the decoder."""
        maps = self.decoder.maps(self.fusion(self.encode(batch.inputs), batch.mask))
        return {'loss_task': multi_scale(self.task_loss, self.decoder.outputs(maps), batch.target)}
