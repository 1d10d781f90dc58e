"""Early fusion: one encoder of all raw inputs together, with zeros for what is missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import KINDS, Batch, Method, Modality, Task
from benchmark.registry import METHODS
from methods.common.early_fusion import stackable
from methods.common.encoders import ImageEncoder, PyramidEncoder, VectorEncoder, fused_channels
from methods.common.networks import decoder


@METHODS.register_module('early_fusion')
class EarlyFusion(Method):
    """One encoder reads all modalities, stacked along their channels. L = L_task.

    The first kind of fusion in the survey of Liang, Zadeh & Morency (2022, arXiv 2209.03430), that
    of raw modalities. Images of one size are stacked along their channels, vectors are joined. A
    missing modality is a zero in its channels. With indicator=True one channel per modality, which
    is 1 where the modality is present, tells a missing one from a black image. Since the encoder
    mixes the modalities from its first layer on, testing takes one pass per subset.

    What could not be verified: the survey prescribes neither the value that stands for a missing
    modality nor an indicator; both are this project's.

    Args:
        task: What the data set requires.
        indicator: Whether the encoder is told which modalities are present.

    Raises:
        UserError: The modalities are neither images of one size nor vectors.
    """

    task_kinds = KINDS

    contract_exceptions = {
        'mixed': 'inputs of different kinds cannot be stacked',
        'sequences': 'sequences of different lengths cannot be stacked',
    }

    def __init__(self, task: Task, *, indicator: bool = False) -> None:
        super().__init__(task)
        vectors = all(m.kind == 'vector' for m in task.modalities)
        if not vectors and not stackable(task):
            found = ', '.join(f'{m.name} {m.shape}' for m in task.modalities)
            raise UserError(
                f'early_fusion on {task.dataset}: expected images of one size or vectors, which '
                f'can be stacked, found {found}'
            )
        self.indicator = indicator
        self.shapes = {m.name: m.shape for m in task.modalities}
        channels = sum(m.shape[0] for m in task.modalities) + indicator * len(task.modalities)
        stacked = Modality('stack', (channels, *task.modalities[0].shape[1:]))
        self.encoder: nn.Module
        if vectors:
            self.encoder = VectorEncoder(stacked, fused_channels(task)[0] // 2)
        elif task.kind == 'segmentation':
            self.encoder = PyramidEncoder(stacked, task)
        else:
            self.encoder = ImageEncoder(stacked, task)
        self.decoder = decoder(task, channels=fused_channels(task)[0])

    def stacked(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns all modalities along the channels, (B, C_1 + .. + C_M, ..), zero where missing.

        With an indicator, M more channels follow. Arguments as in `predict`.
        """
        some = next(iter(inputs.values()))
        parts = []
        for (name, shape), there in zip(self.shapes.items(), mask.T, strict=True):
            x = inputs[name] if name in inputs else some.new_zeros(len(some), *shape)
            # A selection, not a product: missing modalities may hold NaN, and 0 times NaN is NaN.
            parts.append(torch.where(there.view(-1, *[1] * len(shape)), x, x.new_zeros(())))
        if self.indicator:
            told = mask.to(some.dtype).view(*mask.shape, *[1] * (some.ndim - 2))
            parts.append(told.expand(-1, -1, *some.shape[2:]))
        return torch.cat(parts, 1)

    def predict(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the logits from the stacked inputs."""
        return self.decoder(self.encoder(self.stacked(inputs, mask)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the task's loss under the samples' masks."""
        return {'loss_task': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}
