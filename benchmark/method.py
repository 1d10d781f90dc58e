"""All that a method may know: the task, the batch, and the base class it fills in.

A method is one class in one file of `methods/`. It encodes each modality on its own, decodes the
features under a mask, and names its losses; training, missing modalities, testing and records are
the harness's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.search import Distribution

NETWORKS = ('pyramid', 'esanet')
"""What segmentation can be done with."""
IGNORE = 255
"""Label of pixels that count neither in a loss nor in a metric."""


@dataclass(frozen=True)
class Modality:
    """One input of the network.

    Attributes:
        name: How the modality is called everywhere; subset ids are made of these names.
        shape: Shape of one sample: (D,) a vector, (T, D) a sequence, (C, H, W) an image.
        padded: A sequence whose last feature says of each of its T frames whether it is real (1)
            or was appended to fill up to T (0); encoders leave the latter out, whatever they hold.
    """

    name: str
    shape: tuple[int, ...]
    padded: bool = False

    @property
    def kind(self) -> str:
        """'vector', 'sequence' or 'image', by the number of dimensions."""
        return {1: 'vector', 2: 'sequence', 3: 'image'}[len(self.shape)]


@dataclass(frozen=True)
class Task:
    """What a dataset asks of a method.

    Attributes:
        dataset: Name of the dataset, for a method's per-dataset `settings`.
        kind: 'classification' (target (B,)) or 'segmentation' (target (B, H, W)).
        modalities: The inputs in the dataset's order, which is the order of mask columns.
        classes: Class names; their number is K.
        metric: The metric of the tables: 'ACER', 'accuracy', 'mIoU' or 'Dice'.
        width: Channels of the first stage of the shared encoders.
        live: For ACER, the index of the bona fide (live) class; the others are attacks.
        regions: For Dice, (name, classes that make it up) of each region.
        class_weights: Weights of the classes in the task's loss, K of them; none if empty.
        network: Segmentation network, 'pyramid' or 'esanet'; classification has one alone.
        depth: Layers of the shared ResNet encoders: 18, 34 or 50.
        pretrained: Checkpoint of ImageNet weights for them, a file or what mmengine can load;
            from scratch if empty.
    """

    dataset: str
    kind: str
    modalities: tuple[Modality, ...]
    classes: tuple[str, ...]
    metric: str
    width: int = 64
    live: int = 1
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    class_weights: tuple[float, ...] = ()
    network: str = 'pyramid'
    depth: int = 18
    pretrained: str = ''

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities in order."""
        return tuple(m.name for m in self.modalities)


class Batch(NamedTuple):
    """What a method sees of the data in one step.

    Attributes:
        inputs: Modality name -> (B, *shape) float. Rows of what is not available are zeros.
        available: (B, M) bool, what exists in the data.
        mask: (B, M) bool, a part of `available`: what the deployed network may use.
        target: (B,) or (B, H, W) int64.
        ids: (B,) int64, the samples' positions in their split.
    """

    inputs: dict[str, Tensor]
    available: Tensor
    mask: Tensor
    target: Tensor
    ids: Tensor


@dataclass(frozen=True)
class SubsetScore:
    """How a method does on one subset of the modalities.

    Attributes:
        metrics: Metric name -> value, as fractions.
        predicted: Share of each class among the predictions, summing to 1.
        n: Number of samples it was measured on.
    """

    metrics: dict[str, float]
    predicted: tuple[float, ...]
    n: int


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns 1 - the mean over classes 1 to K - 1 of soft Dice, pooled over the batch.

    One is added to both sides of the ratio, so that a class that nothing shows costs next to
    nothing unless it is predicted.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W); pixels labelled IGNORE do not count.
    """
    # Sums over all pixels do not fit half precision.
    with torch.autocast(target.device.type, enabled=False):
        known = (target != IGNORE)[:, None]
        p = logits.float().softmax(1)[:, 1:] * known
        classes = torch.arange(1, logits.shape[1], device=target.device)
        label = (target[:, None] == classes[:, None, None]).float()
        both, sizes = (p * label).sum((0, 2, 3)), (p + label).sum((0, 2, 3))
        return 1 - ((2 * both + 1) / (sizes + 1)).mean()


class Preprocessor(BaseDataPreprocessor):
    """Moves batches to the device and, in training, augments them there.

    Attributes:
        augment: What a dataset does to a training batch; draws from torch's default generator, on
            the CPU, which the harness seeds for every epoch.
    """

    def __init__(self) -> None:
        # Pinned batches travel while the device still computes.
        super().__init__(non_blocking=True)
        self.augment: Callable[[Batch], Batch] | None = None

    def forward(self, data: Batch, training: bool = False) -> Batch:
        """Returns the batch on the device; what is not available stays zero."""
        batch: Batch = super().forward(data, training)
        if not training or self.augment is None:
            return batch
        batch = self.augment(batch)
        zeroed = {}
        for column, (name, x) in enumerate(batch.inputs.items()):
            there = batch.available[:, column].reshape(-1, *[1] * (x.ndim - 1))
            zeroed[name] = torch.where(there, x, x.new_zeros(()))
        return batch._replace(inputs=zeroed)


class Method(BaseModel):
    """Base class of every method.

    A method defines `encode`, `decode` and `loss`; its constructor's keywords are its
    hyper-parameters and their defaults the paper's. A method whose encoders mix modalities
    overrides `predict` alone and is then tested subset by subset.

    Args:
        task: What the dataset asks.

    Attributes:
        version: Raised when a change alters the method's numbers; part of a record's identity.
        teacher: Method trained first and handed over frozen, or None.
        sampler: Training sampler that defines the method, overriding the protocol's, or None.
        dedicated: One model per subset of the modalities, assembled into one row.
        needs_complete: The method cannot train on data with real gaps.
        supported_networks: What the method can use of `Task.network`. Not inherited: what a class
            adds may need encoders that keep the modalities apart, and ESANet's mix them.
        settings: Dataset name -> the paper's hyper-parameters there.
        search: Hyper-parameter -> what `--tune` draws it from (`benchmark.search`); none by
            default. A loss weight's range goes from a tenth of the smallest value known from
            papers and their code to ten times the largest; schedule, variant and network size are
            not tuned.
        contract_exceptions: Contract test -> why the method is exempt from it.
        epoch: Index of the running epoch, from 0; set by the harness.
        epochs: Number of epochs of the training; set by the harness.
    """

    version: ClassVar[int] = 1
    teacher: ClassVar[str | None] = None
    sampler: ClassVar[str | None] = None
    dedicated: ClassVar[bool] = False
    needs_complete: ClassVar[bool] = False
    supported_networks: ClassVar[tuple[str, ...]] = ('pyramid',)
    settings: ClassVar[dict[str, dict[str, Any]]] = {}
    search: ClassVar[dict[str, Distribution]] = {}
    contract_exceptions: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.supported_networks = vars(cls).get('supported_networks', ('pyramid',))

    def __init__(self, task: Task) -> None:
        super().__init__(Preprocessor())
        self.check_network(task)
        self.task = task
        weights = torch.tensor(task.class_weights or [1.0] * len(task.classes))
        self.register_buffer('class_weights', weights, persistent=False)
        self.epoch = 0
        self.epochs = 1
        # A tuple is no module: the teacher stays out of parameters, checkpoints and train().
        self._teacher: tuple[Method, ...] = ()

    @classmethod
    def check_network(cls, task: Task) -> None:
        """Checks that the method can use the task's network.

        Raises:
            UserError: It cannot, or there is no such network for this kind of task.
        """
        if task.network not in NETWORKS:
            raise unknown(f'network on {task.dataset}:', task.network, NETWORKS)
        if task.kind == 'classification' and task.network != 'pyramid':
            raise UserError(
                f'network={task.network} on {task.dataset}: expected a segmentation task, '
                'found classification, which has one network alone'
            )
        if task.network not in cls.supported_networks:
            raise UserError(
                f'{cls.__name__} on {task.dataset}: needs encoders that keep the modalities apart, '
                f'and those of network={task.network} mix them; use network=pyramid'
            )

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Encodes each modality on its own.

        Args:
            inputs: Modality name -> (B, *shape). Modalities whose sensor is off may be left out.

        Returns:
            Modality name -> features, for the modalities given; never mixes them.
        """
        raise NotImplementedError

    def decode(self, features: dict[str, Any], mask: Tensor) -> Tensor:
        """Turns features into logits (B, K) or (B, K, H, W), using only what mask (B, M) allows."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns named scalar terms; those with 'loss' in the name are summed."""
        raise NotImplementedError

    def predict(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the deployed network's logits (B, K) or (B, K, H, W)."""
        return self.decode(self.encode(inputs), mask)

    @classmethod
    def search_space(cls, options: dict[str, Any]) -> dict[str, Distribution]:
        """Returns `search`; overridden where it depends on the options, of which all are given."""
        return cls.search

    def on_validation(self, scores: dict[str, SubsetScore]) -> None:
        """Called after each validation with its score of every subset id."""

    @property
    def teacher_network(self) -> Method:
        """The frozen teacher, in eval mode."""
        return self._teacher[0]

    def set_teacher(self, teacher: Method) -> None:
        """Takes over a trained teacher, which is frozen here and kept out of the module tree."""
        self._teacher = (teacher.eval().requires_grad_(False),)

    def task_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in float32, averaged over samples or labelled pixels by class weight.

        Where Dice is measured, `dice_loss` is added, as RFNet adds one: a lesion is so small a
        part of the pixels that cross-entropy alone is content with background everywhere.
        """
        weights = self.class_weights if self.task.class_weights else None
        loss = F.cross_entropy(logits.float(), target, weights, ignore_index=IGNORE)
        return loss + dice_loss(logits, target) if self.task.metric == 'Dice' else loss

    def forward(
        self,
        inputs: dict[str, Tensor],
        available: Tensor,
        mask: Tensor,
        target: Tensor,
        ids: Tensor,
        mode: str = 'tensor',
    ) -> Any:
        """Mmengine's entry: the losses for mode 'loss', else the logits under the batch's mask."""
        if mode == 'loss':
            return self.loss(Batch(inputs, available, mask, target, ids))
        return self.predict(inputs, mask)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums the terms with 'loss' in their name, without waiting for the device."""
        total = torch.stack([v for k, v in losses.items() if 'loss' in k]).sum()
        return total, {**{k: v.detach() for k, v in losses.items()}, 'loss': total.detach()}
