"""SMIL: a missing feature is a weighted mean of prototypes, learned by a step within a step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.encoders import fused_channels
from methods.common.losses import labels_of, total
from methods.common.networks import ConcatFusion, Encoders, Maps, decoder, masked
from methods.common.prototypes import Replacement

DECAYS = 8
"""In how many equal parts of the training the inner step is divided by ten, part after part."""


class Answer(NamedTuple):
    """What the network behind the encoders says.

    Attributes:
        logits: (B, K) or (B, K, H, W).
        features: The maps whose distance between incomplete and complete samples is minimised:
            the fused ones, and in classification the deepest ones.
    """

    logits: Tensor
    features: list[Tensor]


class Regulariser(nn.Module):
    """Random changes of features, learned so that incomplete samples look like complete ones.

    Official: h + softplus(r) with r = A h + e; paper: h o softplus(r) with r = A h + s o e and
    s = min(exp(B h / 2), 1). e is standard normal in training and 0 at test.

    Args:
        channels: Of h.
        official: The variant.
    """

    def __init__(self, channels: int, official: bool) -> None:
        super().__init__()
        self.official = official
        self.mean = nn.Conv2d(channels, channels, 1)
        self.deviation = None if official else nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor, noisy: bool = True) -> Tensor:
        """Returns h (B, C, H, W) after the change; e is 0 unless it is `noisy`."""
        r = self.mean(h).float()
        if self.training and noisy:
            noise = torch.randn_like(r)
            if self.deviation is not None:
                noise = noise * (self.deviation(h).float() / 2).exp().clamp(max=1)
            r = r + noise
        change = F.softplus(r).to(h)
        return h + change if self.official else h * change


class Behind(nn.Module):
    """The network behind the encoders: fusion, regularisation of incomplete samples, decoder.

    Args:
        task: What the data set requires.
        official: The variant.
    """

    def __init__(self, task: Task, official: bool) -> None:
        super().__init__()
        self.fusion, self.decoder = ConcatFusion(task), decoder(task)
        channels = fused_channels(task)
        if task.kind == 'classification':  # there maps are joined and not reduced
            channels = (channels[0] * len(task.names), self.decoder.channels)
        self.regularise = nn.ModuleList(Regulariser(c, official) for c in channels)
        self.deep = task.kind == 'classification'

    def forward(self, maps: dict[str, Maps], incomplete: Tensor, noisy: bool = True) -> Answer:
        """Answers for completed maps; incomplete, (B,) bool, says which samples were completed.

        Their changes are random in training if `noisy`.
        """
        there = incomplete.new_ones(len(incomplete), len(maps))
        fused = self._changed(self.fusion(maps, there), incomplete, noisy)
        maps_of_decoder = self.decoder.maps(tuple(fused))
        if not self.deep:
            return Answer(self.decoder.logits(maps_of_decoder), fused)
        deep = self._changed(maps_of_decoder, incomplete, noisy, len(fused))
        return Answer(self.decoder.logits(tuple(deep)), [*fused, *deep])

    def _changed(
        self, maps: Sequence[Tensor], incomplete: Tensor, noisy: bool, first: int = 0
    ) -> list[Tensor]:
        chosen = incomplete[:, None, None, None]
        changed = (self.regularise[first + k](h, noisy) for k, h in enumerate(maps))
        return [torch.where(chosen, new, h) for new, h in zip(changed, maps, strict=True)]


@contextlib.contextmanager
def plain(module: nn.Module) -> Iterator[None]:
    """Runs a module's own code, which has second derivatives, in every process as a whole.

    Compiled modules have none, nor have those whose rows several processes share; both hide a
    module's own code by attributes of the object.
    """
    hidden = ('forward', '_compiled_call_impl')
    places = [(vars(m), key) for m in module.modules() for key in hidden if key in vars(m)]
    kept = [place.pop(key) for place, key in places]
    try:
        yield
    finally:
        for (place, key), value in zip(places, kept, strict=True):
            place[key] = value


@METHODS.register_module('smil')
class SMIL(Method):
    """Meta-learned completion of missing features (SMIL).

    Ma, Ren, Zhao, Tulyakov, Wu & Peng, SMIL: Multimodal Learning with Severely Missing Modality,
    AAAI 2021 (arXiv 2103.05677). The maps of a missing modality are replaced by a weighted mean of
    K prototypes M_k, the k-means of it in complete samples; the weights follow from the modalities
    that are there (`Replacement`). Where something was replaced, features are changed at random, as
    is learned (`Regulariser`). With t the weights of fusion and decoder and p those of
    `Replacement` and `Regulariser`, a step minimises over encoders, t and p

        L_in(t, p) + L_out(t', p) + alpha sum_l |h_l - g_l|^2,  t' = t - eta dL_in/dt

    Second derivatives included, as in MAML (Finn et al., ICML 2017). L_in is the task's loss of
    half of the batch and L_out that of the other half, both under the samples' masks; h_l are the
    features of complete samples of the second half under their masks, and g_l those with all
    modalities, averaged over elements, both with t'. As released, each eighth divides eta by ten.

    Adaptations of this project. The paper has two modalities of which one always is the missing
    one; here any may be, each has prototypes and weights of its own, and absent ones among the
    others count as zeros. In the paper the halves are two sets, of incomplete and of complete
    samples; here masks and training gaps make both. The inner step changes fusion and decoder; in
    the released code the encoder of the modality that is there, too, and both are pretrained. Here
    encoders learn from the start, so that prototypes follow them (`methods/common/prototypes.py`)
    instead of one k-means of a trained network. Features are the vectors at each position of all
    maps; the paper has one vector of features for a modality. A change of features
    is predicted from them; in that code from the layer before.

    The variants. 'official' is the released code: weights are softplus(A x), normalised, without
    noise, and softplus(r) is added to features; the noise of r has the variance 1 and belongs to
    L_in alone. A step from given features and prototypes on, with that code's perceptron and its
    change of hidden units, has its losses and gradients (tests/methods/test_released_newest.py);
    its encoders are not the suite's, so that no whole step is compared. 'paper' is the text as far
    as it is known, which could not be verified: weights are normal with mean 1 and a predicted
    deviation, here divided by K, at test their mean; features are multiplied by softplus(r); all
    passes have noise. That code chooses the epoch by the test split and draws the initial weights
    of its two trained networks as PyTorch does; here the protocol chooses, and initial weights are
    the suite's. The paper's prior of the weights is in neither.

    Args:
        task: What the data set requires.
        prototypes: K for each modality and scale; 10 in the released code.
        alpha: Weight of the distances of features; 0.01 in the released code.
        inner: eta in the first eighth of the training; 0.001 in the released code.
        memory: Share of the former features that prototypes keep in each step.
        variant: 'official' or 'paper'.

    Raises:
        UserError: An option is out of range, or the task has a single modality.
    """

    version = 2
    from_complete = 'the prototypes that replace missing features'
    search = {'alpha': LogUniform(1e-3, 1), 'inner': LogUniform(1e-4, 0.1)}

    def __init__(
        self,
        task: Task,
        *,
        prototypes: int = 10,
        alpha: float = 0.01,
        inner: float = 1e-3,
        memory: float = 0.9,
        variant: Literal['official', 'paper'] = 'official',
    ) -> None:
        super().__init__(task)
        if variant not in ('official', 'paper'):
            raise unknown('variant of smil', variant, ('official', 'paper'))
        if prototypes < 1:
            raise UserError(f'smil:prototypes: expected at least 1, found {prototypes}')
        if not 0 <= memory < 1:
            raise UserError(f'smil:memory: expected 0 to below 1, found {memory}')
        names = task.names
        if len(names) < 2:
            raise UserError(f'smil: expected at least 2 modalities, found {names[0]!r} alone')
        self.alpha, self.inner, self.official = alpha, inner, variant == 'official'
        self.encoders = Encoders(task)
        self.replace = nn.ModuleDict()
        for name, (scale, c) in itertools.product(names, enumerate(fused_channels(task))):
            others = (len(names) - 1) * c
            given = others, c, prototypes, memory, self.official
            self.replace[f'{name} {scale}'] = Replacement(*given)
        self.behind = Behind(task, self.official)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def completed(self, features: dict[str, Maps], mask: Tensor) -> dict[str, Maps]:
        """Returns the maps of all modalities, replaced where the mask (B, M) excludes them."""
        names = self.task.names
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for scale, maps in enumerate(masked(features, mask, names)):
            for m, name in enumerate(names):
                others = torch.cat([x for k, x in enumerate(maps) if k != m], 1)
                instead = self.replace[f'{name} {scale}'](others)
                there = mask[:, m, None, None, None]
                found[name].append(torch.where(there, maps[m], instead.to(maps[m])))
        return {name: tuple(maps) for name, maps in found.items()}

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of the completed maps."""
        return self.behind(self.completed(features, mask), ~mask.all(1)).logits

    def learn_prototypes(self, features: dict[str, Maps], complete: Tensor) -> None:
        """Takes the maps of the complete samples, (B,) bool, into the prototypes."""
        for name, maps in features.items():
            for scale, x in enumerate(maps):
                made = cast(Replacement, self.replace[f'{name} {scale}'])
                made.prototypes.update(x.detach(), complete)

    def adapted(self, loss: Tensor) -> dict[str, Tensor]:
        """Returns t', by the name in `behind`, of all weights that the inner step changes."""
        fixed = 'regularise.'
        own = {n: p for n, p in self.behind.named_parameters() if not n.startswith(fixed)}
        gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        eta = self.inner * 0.1 ** (DECAYS * self.epoch // max(self.epochs, 1))
        return {n: p - eta * g for (n, p), g in zip(own.items(), gradients, strict=True)}

    @torch.enable_grad()  # they are needed inside, whether or not the caller wants them
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the inner loss, the outer one, and the distance of the features."""
        features, complete = self.encode(batch.inputs), batch.available.all(1)
        self.learn_prototypes(features, complete)
        second = torch.arange(len(complete), device=complete.device) % 2 == 1
        maps, incomplete = self.completed(features, batch.mask), ~batch.mask.all(1)
        whole = self.completed(features, batch.available)
        with plain(self.behind):
            first = self.behind(maps, incomplete).logits
            inner = self.task_loss(first, labels_of(batch.target, ~second))
            moved = self.adapted(inner)
            # The released code draws noise in the pass of the inner loss alone.
            noisy = not self.official
            found: Answer = functional_call(self.behind, moved, (maps, incomplete, noisy))
            aim: Answer = functional_call(self.behind, moved, (whole, ~complete, noisy))
        outer = self.task_loss(found.logits, labels_of(batch.target, second))
        counted = second & complete
        pairs = zip(found.features, aim.features, strict=True)
        far = total(distance(h, g, counted) for h, g in pairs)
        return {'loss_inner': inner, 'loss_task': outer, 'loss_features': self.alpha * far}


def distance(h: Tensor, g: Tensor, counted: Tensor) -> Tensor:
    """Returns the mean squared difference of the samples that count, 0 without one.

    Args:
        h: (B, C, H, W).
        g: (B, C, H, W).
        counted: (B,) bool.
    """
    each = (h.float() - g.float()).square().flatten(1).mean(1)
    return torch.where(counted, each, 0.0).sum() / counted.sum().clamp_min(1)
