"""A network for all subsets with a decoder of its own for each modality beside the joint one."""

from __future__ import annotations

from torch import Tensor, nn

from benchmark.method import Batch, Task
from methods.common.encoders import Maps, fused_channels
from methods.common.losses import labels_of
from methods.common.networks import decoder
from methods.modality_dropout import ModalityDropout


class UnimodalHeads(ModalityDropout):
    """Modality dropout whose modalities also predict alone; only training uses these predictions.

    Args:
        task: What the data set requires.

    Attributes:
        heads: Modality name -> the decoder of this modality alone.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        channels = fused_channels(task)[0]
        self.heads = nn.ModuleDict({name: decoder(task, channels) for name in task.names})

    def unimodal_losses(self, features: dict[str, Maps], batch: Batch) -> dict[str, Tensor]:
        """Returns for each modality the task loss of its own decoder.

        Each covers the samples whose mask holds the modality; it is 0 where none does.

        Args:
            features: Modality name -> maps.
            batch: The batch.
        """
        return {
            name: self.task_loss(self.heads[name](features[name]), labels_of(batch.target, there))
            for name, there in zip(self.task.names, batch.mask.T, strict=True)
        }
