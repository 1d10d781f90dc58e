"""MMIN: imagines the joint representation of what is missing, and recalls from it what is there."""

import torch
from mmcv.cnn import ConvModule
from torch import nn

from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import Encoders, decoder, fused_channels, masked
from methods.common.reconstruction import layers


class CascadeAutoencoder(nn.Module):
    """A cascade of residual auto-encoders (Tran et al., CVPR 2017) and what its blocks know.

        x_0 = h,  z_b = enc_b(x_{b-1}),  x_b = x_{b-1} + dec_b(z_b)

    The output is a perceptron of the last x. The codes z are linear outputs of their encoders.
    All layers are 1x1 convolutions, so that every position is a vector of its own.

    Args:
        inputs: Channels of h.
        channels: C; the layers of an encoder are 2C, C and C/2 wide.
        blocks: Number of auto-encoders.
    """

    def __init__(self, inputs, channels, blocks):
        super().__init__()
        widths = (2 * channels, channels, channels // 2)
        self.encoders = nn.ModuleList(
            nn.Sequential(*layers((inputs, *widths), nn.LeakyReLU)) for _ in range(blocks)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(*layers((*widths[::-1], inputs), nn.ReLU)) for _ in range(blocks)
        )
        self.transition = nn.Sequential(*layers((inputs, inputs, inputs), nn.ReLU))

    def forward(self, x):
        """Returns the output (B, inputs, H, W) and all codes (B, blocks C/2, H, W)."""
        codes = []
        for encode, decode in zip(self.encoders, self.decoders, strict=True):
            codes.append(encode(x))
            x = x + decode(codes[-1])
        return self.transition(x), torch.cat(codes, 1)


def distance(found, target, counted):
    """Returns the mean squared difference over elements, counted samples and scales.

    Args:
        found: Maps (B, C, H, W), one per scale.
        target: Maps of the same shapes.
        counted: (B,) bool; without any the distance is 0.
    """
    errors = [
        (a.float() - b.float()).square().mean((1, 2, 3)) for a, b in zip(found, target, strict=True)
    ]
    mean = torch.stack(errors).mean(0)
    return torch.where(counted, mean, 0.0).sum() / counted.sum().clamp_min(1)


@METHODS.register_module('mmin')
class MMIN(Method):
    """Missing modality imagination network.

    Zhao, Li & Jin, Missing Modality Imagination Network for Emotion Recognition with Uncertain
    Missing Modalities, ACL 2021. The features of all modalities, zero where missing, are the joint
    vector h. A cascade of auto-encoders imagines from it h', the joint vector of the complement:
    the features of what is missing, zero where something is there. A second cascade goes back
    from h' to h. The codes z of the first, of all its blocks, are what is classified:

        L = CE(z) + imagination MSE(h', h_T) + cycle MSE(cascade'(h'), sg(h))

    h_T are a frozen teacher's features, trained on complete samples, and its encoders are the
    student's to start from. Weights and sizes are those of the released script for IEMOCAP (that
    for MSP-IMPROV has 2, 0.5 and one cascade for both ways); there C = 128 and three modalities.

    Adaptations of this project: the suite's encoders and decoders. Joint vectors are maps,
    imagined position by position by 1x1 convolutions; segmentation imagines at each of its four
    scales, reduces z there to the channels that its decoder takes, and averages the distances over
    scales. A missing modality has zero features; there a zero input was encoded, to a constant. The
    paper trains on incomplete samples alone. Here the table's sampler rules, and a complete sample,
    which has no complement, counts in CE(z) only. With all modalities at test it takes the same
    path. The paper's text was not available; the formulas are those of the released code.

    Args:
        task: What the dataset asks.
        imagination: Weight of the imagination.
        cycle: Weight of the way back.
        blocks: Auto-encoders in a cascade.

    Raises:
        UserError: No block, or a single modality, which has no complement.
    """

    search = {'imagination': LogUniform(0.1, 40), 'cycle': LogUniform(0.05, 20)}
    teacher = 'complete'
    needs_complete = True

    def __init__(self, task, *, imagination=4.0, cycle=2.0, blocks=5):
        super().__init__(task)
        names, channels = task.names, fused_channels(task)
        if len(names) < 2:
            raise UserError(f'mmin: expected at least 2 modalities, found {names[0]!r} alone')
        if blocks < 1:
            raise UserError(f'mmin:blocks: expected at least 1, found {blocks}')
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

    def set_teacher(self, teacher):
        """Takes over a trained teacher; its encoders are also where this network starts."""
        super().set_teacher(teacher)
        self.encoders.load_state_dict(teacher.encoders.state_dict())

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return self.encoders(inputs)

    def joint(self, features, mask):
        """Returns the joint vectors, one map per scale, zero where mask (B, M) is not set."""
        return [torch.cat(maps, 1) for maps in masked(features, mask, self.task.names)]

    def imagined(self, joint):
        """Returns h' and the codes z of joint vectors, two lists with one map per scale."""
        both = [imagine(h) for imagine, h in zip(self.imagine, joint, strict=True)]
        return [h for h, _ in both], [z for _, z in both]

    def classify(self, codes):
        """Returns the logits of the codes of all scales."""
        if self.reduce:
            codes = [reduce(z) for reduce, z in zip(self.reduce, codes, strict=True)]
        return self.decoder(tuple(codes))

    def decode(self, features, mask):
        """Decodes the codes of the joint vectors; mask (B, M) bool."""
        return self.classify(self.imagined(self.joint(features, mask))[1])

    def loss(self, batch):
        """Returns loss_task and the weighted loss_imagination and loss_cycle."""
        joint = self.joint(self.encode(batch.inputs), batch.mask)
        imagined, codes = self.imagined(joint)
        recalled = [recall(h)[0] for recall, h in zip(self.recall, imagined, strict=True)]
        complement = batch.available & ~batch.mask
        with torch.no_grad():
            target = self.joint(self.teacher_network.encode(batch.inputs), complement)
        start, incomplete = [h.detach() for h in joint], complement.any(1)
        return {
            'loss_task': self.task_loss(self.classify(codes), batch.target),
            'loss_imagination': self.imagination * distance(imagined, target, incomplete),
            'loss_cycle': self.cycle * distance(recalled, start, incomplete),
        }
