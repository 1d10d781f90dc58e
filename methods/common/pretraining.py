"""What pre-trainings share: the suite's encoders, and a linear probe of what they have learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.method import Batch, Method, Task
from methods.common.encoders import Maps, fused_channels
from methods.common.networks import Encoders, masked
from methods.common.resize import bilinear


class Probe(nn.Module):
    """Logits that are linear in the maps of the modalities; an absent one adds nothing.

    In classification all positions of a map are averaged first. In segmentation each pixel has its
    own logits, and those of the four scales are resized and summed.

    Args:
        task: Gives modalities, classes and channels.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names = task.names
        self.size = task.modalities[0].shape[1:] if task.kind == 'segmentation' else None
        self.layers = nn.ModuleList(
            nn.Conv2d(len(task.names) * channels, len(task.classes), 1)
            for channels in fused_channels(task)
        )

    def forward(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns logits (B, K) or (B, K, H, W) from the maps that the mask (B, M) allows."""
        scales = [torch.cat(maps, 1) for maps in masked(features, mask, self.names)]
        if self.size is None:
            return self.layers[0](scales[0].mean((2, 3), keepdim=True)).flatten(1)
        logits = [layer(x) for layer, x in zip(self.layers, scales, strict=True)]
        return torch.stack([bilinear(x, self.size) for x in logits]).sum(0)


class Pretraining(Method):
    """A training of the encoders without labels, and a probe that is trained beside it.

    The probe reads features through which no gradient passes, so that labels do not reach the
    encoders. Its scores show how well the classes can be told apart by a linear layer.

    Args:
        task: What the data set requires.
    """

    pretrains = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.encoders, self.probe = Encoders(task), Probe(task)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of the probe."""
        return self.probe(features, mask)

    def probe_loss(self, features: dict[str, Maps], batch: Batch) -> Tensor:
        """Returns the task's loss of the probe under the batch's masks.

        Args:
            features: Modality name -> maps of the batch's inputs; they get no gradient.
            batch: The batch.
        """
        fixed = {name: tuple(x.detach() for x in maps) for name, maps in features.items()}
        return self.task_loss(self.decode(fixed, batch.mask), batch.target)
