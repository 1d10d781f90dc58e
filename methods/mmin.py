"""MMIN: predicts the features of missing modalities, and from them the features of present ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.clipping import clip_networks
from methods.common.networks import (
    ClassificationDecoder,
    Encoders,
    Maps,
    SegmentationDecoder,
    decoder,
    fused_channels,
    masked,
)
from methods.common.reconstruction import CascadeAutoencoder


def distance(found: Iterable[Tensor], target: Iterable[Tensor], counted: Tensor) -> Tensor:
    """Returns the mean squared difference over elements, counted samples and scales.

    Args:
        found: Maps (B, C, H, W), one per scale.
        target: Maps of the same shapes.
        counted: (B,) bool; if no sample counts, the distance is 0.

    Returns:
        A scalar in float32.
    """
    errors = [
        (a.float() - b.float()).square().mean((1, 2, 3)) for a, b in zip(found, target, strict=True)
    ]
    mean = torch.stack(errors).mean(0)
    return torch.where(counted, mean, 0.0).sum() / counted.sum().clamp_min(1)


def add_dropout(classifier: nn.Module, share: float) -> None:
    """Adds dropout of channels to a decoder of the suite.

    Args:
        classifier: The decoder: in classification dropout follows each stage of its trunk, in
            segmentation it precedes the last layer.
        share: Share of the channels.
    """
    if isinstance(classifier, ClassificationDecoder):
        stages = [(stage, nn.Dropout(share)) for stage in classifier.trunk]
        classifier.trunk = nn.Sequential(*(module for pair in stages for module in pair))
    elif isinstance(classifier, SegmentationDecoder):
        classifier.head.dropout = nn.Dropout(share)


@METHODS.register_module('mmin')
class MMIN(Method):
    """Missing modality imagination network.

    Zhao, Li & Jin, Missing Modality Imagination Network for Emotion Recognition with Uncertain
    Missing Modalities, ACL 2021. The features of all modalities, zero where missing, form the joint
    vector h. A cascade of auto-encoders predicts from it ("imagines") the joint vector h' of the
    complement: the features of missing modalities, zero where a modality is present. A second
    cascade predicts h from h'. The codes z of all blocks of the first cascade are classified:

        L = CE(z) + imagination MSE(h', h_T) + cycle MSE(cascade'(h'), sg(h))

    where sg stops the gradient and h_T are the features of a frozen teacher that was trained on
    complete samples. The student's encoders start from the teacher's. Weights and sizes are those
    of the released script for IEMOCAP, where C = 128 with three modalities; the script for
    MSP-IMPROV has weights 2 and 0.5 and one cascade for both directions.

    Adaptations of this project: the suite's encoders and decoders. Joint vectors are maps, and 1x1
    convolutions treat every position alike. In segmentation each of the four scales has its own
    cascades, z is reduced to the channels that the decoder takes, and distances are averaged over
    scales. As in the released code, layers of the cascades start from Kaiming-normal weights, the
    gradient of each network (each modality's encoder, each cascade, the classifier) is clipped to
    the norm 1, and the classifier drops hidden channels: after each of its two stages in
    classification, before its last layer in segmentation.

    Departures from the released code: a missing modality has zero features, where the code encodes
    a zero input, which gives constants; the protocol's sampler also draws complete samples, where
    the paper trains on incomplete ones only - they have no complement and count in CE(z) alone;
    complete samples take the same path at test; the classifier is the suite's decoder instead of a
    perceptron with two hidden layers. The paper's text was not available: the formulas are those of
    the code.

    Args:
        task: What the data set requires.
        imagination: Weight of the first distance.
        cycle: Weight of the second distance.
        blocks: Number of auto-encoders in a cascade.
        dropout: Share of the classifier's hidden channels that are dropped in training.

    Raises:
        UserError: `blocks` is below 1, `dropout` is no share, or the task has a single modality,
            which has no complement.
    """

    task_kinds = KINDS
    version = 2
    search = {'imagination': LogUniform(0.1, 40), 'cycle': LogUniform(0.05, 20)}
    teacher = 'complete'
    needs_complete = True

    def __init__(
        self,
        task: Task,
        *,
        imagination: float = 4.0,
        cycle: float = 2.0,
        blocks: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(task)
        names, channels = task.names, fused_channels(task)
        if len(names) < 2:
            raise UserError(f'mmin: expected at least 2 modalities, found {names[0]!r} alone')
        if blocks < 1:
            raise UserError(f'mmin:blocks: expected at least 1, found {blocks}')
        if not 0 <= dropout < 1:
            raise UserError(f'mmin:dropout: expected 0 to below 1, found {dropout}')
        self.imagination, self.cycle = imagination, cycle
        self.encoders = Encoders(task)
        sizes = [(len(names) * c, c, blocks) for c in channels]
        self.imagine = nn.ModuleList(CascadeAutoencoder(*size) for size in sizes)
        self.recall = nn.ModuleList(CascadeAutoencoder(*size) for size in sizes)
        codes = [blocks * (c // 2) for c in channels]
        self.reduce = nn.ModuleList(
            ConvModule(width, c, 1, norm_cfg={'type': 'BN'})
            for width, c in zip(codes, channels, strict=True)
            if task.kind == 'segmentation'
        )
        self.decoder = decoder(task, codes[0])
        add_dropout(self.decoder, dropout)

    def set_teacher(self, teacher: Method) -> None:
        """Stores a trained teacher and copies the weights of its encoders into this network."""
        super().set_teacher(teacher)
        self.encoders.load_state_dict(teacher.get_submodule('encoders').state_dict())

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def joint(self, features: dict[str, Maps], mask: Tensor) -> list[Tensor]:
        """Returns the joint vectors (B, M C, H, W), one per scale, zero where the mask excludes."""
        return [torch.cat(maps, 1) for maps in masked(features, mask, self.task.names)]

    def imagined(self, joint: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns h' and the codes z of joint vectors, as two lists with one map per scale."""
        both = [imagine(h) for imagine, h in zip(self.imagine, joint, strict=True)]
        return [h for h, _ in both], [z for _, z in both]

    def classify(self, codes: list[Tensor]) -> Tensor:
        """Returns the logits (B, K) or (B, K, H, W) of the codes of all scales."""
        if self.reduce:
            codes = [reduce(z) for reduce, z in zip(self.reduce, codes, strict=True)]
        return self.decoder(tuple(codes))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of the joint vectors' codes; mask (B, M) bool."""
        return self.classify(self.imagined(self.joint(features, mask))[1])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and the weighted loss_imagination and loss_cycle."""
        joint = self.joint(self.encode(batch.inputs), batch.mask)
        imagined, codes = self.imagined(joint)
        recalled = [recall(h)[0] for recall, h in zip(self.recall, imagined, strict=True)]
        complement = batch.available & ~batch.mask
        with torch.no_grad():
            target = self.joint(self.teacher_network.encode(batch.inputs), complement)
        # sg(h): otherwise the encoders could lower the distance by constant features.
        start, incomplete = [h.detach() for h in joint], complement.any(1)
        return {
            'loss_task': self.task_loss(self.classify(codes), batch.target),
            'loss_imagination': self.imagination * distance(imagined, target, incomplete),
            'loss_cycle': self.cycle * distance(recalled, start, incomplete),
        }

    def networks(self) -> list[list[nn.Module]]:
        """Returns the modules of each network whose gradient is clipped by itself."""
        classifier: list[nn.Module] = [self.reduce, self.decoder]
        return [[e] for e in self.encoders.values()] + [[self.imagine], [self.recall], classifier]

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Does mmengine's training step with the gradient of each network clipped to the norm 1."""
        with clip_networks(optim_wrapper.optimizer, self.networks(), 1.0):
            return super().train_step(data, optim_wrapper)
