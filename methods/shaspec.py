"""ShaSpec: one encoder shared by the modalities stands in for those that are missing."""

import itertools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmark.errors import unknown
from benchmark.method import Method, Modality
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import (
    ConcatFusion,
    Encoders,
    ImageEncoder,
    PyramidEncoder,
    VectorEncoder,
    decoder,
    fused_channels,
    masked,
)


class SharedEncoder(nn.Module):
    """One encoder for every modality, behind an adapter of each modality's own.

    Images differ in channels and size: they are averaged down to the smallest height and width,
    and a 1x1 convolution brings them to the largest number of channels. Where vectors or sequences
    take part no layer can act on all inputs: each modality gets an encoder of its own, and what is
    shared is the perceptron that follows.

    Args:
        task: Gives modalities, kind and width.
    """

    def __init__(self, task):
        super().__init__()
        if any(m.kind != 'image' for m in task.modalities):
            self.size = None
            self.adapters, channels = Encoders(task), fused_channels(task)[0]
            self.encoder = VectorEncoder(Modality('shared', (channels,)), channels // 2)
            return
        channels = max(m.shape[0] for m in task.modalities)
        self.size = tuple(min(m.shape[axis] for m in task.modalities) for axis in (1, 2))
        self.adapters = nn.ModuleDict(
            {m.name: nn.Conv2d(m.shape[0], channels, 1) for m in task.modalities}
        )
        common = Modality('shared', (channels, *self.size))
        if task.kind == 'segmentation':
            self.encoder = PyramidEncoder(common, task)
        else:
            self.encoder = ImageEncoder(common, task)

    def adapt(self, name, x):
        """Returns modality `name`'s inputs (B, *shape) in the common shape."""
        if self.size is None:
            return self.adapters[name](x)[0].flatten(1)
        return self.adapters[name](F.adaptive_avg_pool2d(x, self.size))

    def forward(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: maps}.

        One pass over all modalities, stacked along the batch, so that BatchNorm learns the
        statistics of their mixture, which is what it applies to each of them in testing.
        """
        stacked = torch.cat([self.adapt(name, x) for name, x in inputs.items()])
        scales = [maps.chunk(len(inputs)) for maps in self.encoder(stacked)]
        return dict(zip(inputs, zip(*scales, strict=True), strict=True))


@METHODS.register_module('shaspec')
class ShaSpec(Method):
    """Shared-specific feature modelling.

    Wang et al., Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling,
    CVPR 2023 (arXiv 2307.14126). Each modality i goes through the shared encoder, r_i, and one of
    its own, s_i. Present modalities are fused by a residual, f_i = proj([r_i; s_i]) + r_i with one
    linear proj for all; a missing one is replaced by the mean of the present r. The decoder sees
    all f. The distribution alignment objective (DAO) pulls the present r together, the domain
    classification objective (DCO) must tell from s_i alone which modality it is:

        L = L_task + alpha sum_{i<j} mean|r_i - r_j| + beta mean_i CE(classifier(s_i), i)

    Terms of missing modalities are left out; in training, missing is what the mask leaves out.

    This project's adaptations: the suite's encoders, fusion by concatenation and decoders, hence
    batch normalisation; adapters in front of the shared encoder (`SharedEncoder`). In
    segmentation f, DAO and DCO are at the coarsest scale and the finer ones get shared features
    alone, as in the released code, with the present modalities' mean for missing ones.
    Classification has one scale. Masks come from the table's sampler (the paper draws the number
    of modalities first, 'by_size') and training has no first stage on complete data.

    variant='official' does as the released code: the first present r, instead of the mean, stands
    in; DAO compares neighbours in a ring, (1, 2), (2, 3), .., (M, 1); proj is a 3x3 convolution.
    Not reproduced: there both objectives also take in the zero images of missing modalities.

    Args:
        task: What the dataset asks.
        alpha: Weight of DAO.
        beta: Weight of DCO.
        variant: 'paper' or 'official'.

    Raises:
        UserError: An unknown variant.
    """

    search = {'alpha': LogUniform(0.01, 10), 'beta': LogUniform(0.002, 0.2)}

    def __init__(self, task, *, alpha=0.1, beta=0.02, variant='paper'):
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of shaspec', variant, ('paper', 'official'))
        self.alpha, self.beta = alpha, beta
        self.official = variant == 'official'
        channels, kernel = fused_channels(task)[-1], 3 if self.official else 1
        self.shared = SharedEncoder(task)
        self.specific = Encoders(task)
        self.project = nn.Conv2d(2 * channels, channels, kernel, padding=kernel // 2, bias=False)
        self.classifier = nn.Linear(channels, len(task.names))
        self.fusion = ConcatFusion(task)
        self.decoder = decoder(task)

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: (*shared maps, last specific map)}."""
        shared, specific = self.shared(inputs), self.specific(inputs)
        return {name: (*shared[name], specific[name][-1]) for name in inputs}

    def stand_ins(self, maps, mask):
        """Returns what replaces missing modalities at one scale, (B, C, H, W).

        Args:
            maps: The M shared maps r, zero where missing.
            mask: (B, M) bool.
        """
        if self.official:
            weights = (mask & (mask.cumsum(1) == 1)).to(maps[0].dtype)
        else:
            weights = mask / mask.sum(1, keepdim=True).clamp_min(1)
        return sum(
            w[:, None, None, None].to(r.dtype) * r for w, r in zip(weights.T, maps, strict=True)
        )

    def fuse(self, features, mask):
        """Returns {modality: maps} under a mask (B, M), the missing ones replaced."""
        *shared, specific = masked(features, mask, self.task.names)
        scales = []
        for depth, maps in enumerate(shared, 1):
            missing, filled = self.stand_ins(maps, mask), []
            for r, s, there in zip(maps, specific, mask.T, strict=True):
                if depth == len(shared):
                    r = r + self.project(torch.cat([r, s], 1))
                filled.append(torch.where(there[:, None, None, None], r, missing))
            scales.append(filled)
        return dict(zip(self.task.names, zip(*scales, strict=True), strict=True))

    def decode(self, features, mask):
        """Returns the logits; mask (B, M) bool."""
        return self.decoder(self.fusion(self.fuse(features, mask), torch.ones_like(mask)))

    def alignment(self, shared, mask):
        """DAO: the L1 distance of present shared maps, mean over elements, summed over pairs.

        Args:
            shared: The M deepest shared maps (B, C, H, W).
            mask: (B, M) bool.
        """
        count = len(shared)
        pairs = itertools.combinations(range(count), 2)
        if self.official:
            pairs = [(i, (i + 1) % count) for i in range(count)]
        total = shared[0].new_zeros((), dtype=torch.float32)
        for i, j in pairs:
            apart = (shared[i].float() - shared[j].float()).abs().mean((1, 2, 3))
            total = total + torch.where(mask[:, i] & mask[:, j], apart, 0).mean()
        return total

    def classification(self, specific, mask):
        """DCO: cross-entropy of telling the present modalities by their specific maps, averaged.

        Args:
            specific: The M deepest specific maps (B, C, H, W).
            mask: (B, M) bool.
        """
        pooled = torch.stack(specific, 1).mean((3, 4))
        log_p = self.classifier(pooled).float().log_softmax(2)
        own = torch.diagonal(log_p, dim1=1, dim2=2)
        return -torch.where(mask, own, 0).sum() / mask.sum().clamp_min(1)

    def loss(self, batch):
        """Returns loss_task and the weighted loss_dao and loss_dco."""
        features = self.encode(batch.inputs)
        *_, shared, specific = masked(features, batch.mask, self.task.names)
        return {
            'loss_task': self.task_loss(self.decode(features, batch.mask), batch.target),
            'loss_dao': self.alpha * self.alignment(shared, batch.mask),
            'loss_dco': self.beta * self.classification(specific, batch.mask),
        }
