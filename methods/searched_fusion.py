"""Searched fusion: which features of each modality meet, and how, is chosen by the search."""

from __future__ import annotations

import itertools
from typing import Literal, cast

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import Choice
from methods.common.cells import ACTIVATIONS, OPERATORS, Gene, Step
from methods.common.encoders import Maps, fused_channels
from methods.common.networks import ClassificationDecoder, Encoders, decoder

STEPS, LEVELS = 3, '123'
"""Steps of a cell, and the levels of features of which each step takes one from each modality."""

ANY_LEVELS = Choice(*map(''.join, itertools.product(LEVELS, repeat=3)))
ANY_OPERATOR, ANY_ACTIVATION = Choice(*OPERATORS), Choice(*ACTIVATIONS)

OperatorName = Literal[
    'concat', 'sum', 'mean', 'product', 'multiplicative', 'bilinear', 'low_rank', 'gated',
    'attention', 'mixture',
]  # fmt: skip
ActivationName = Literal['relu', 'sigmoid', 'leaky_relu']


@METHODS.register_module('searched_fusion')
class SearchedFusion(Method):
    """A cell of fusion steps, each with chosen features, operator and nonlinearity. L = L_task.

    Perez-Rua, Vielzeuf, Pateux, Baccouche & Jurie, MFAS: Multimodal Fusion Architecture Search,
    CVPR 2019 (arXiv 1903.06496). Step l takes from each modality m the features of one level
    g_l(m), and the result of the step before:

        h_l = s_l( W_l [x_1^{g_l(1)}; ..; x_M^{g_l(M)}; h_{l-1}] )

    Here W_l is one of ten operators, of which 'concat' is the paper's (`Step`). `levels_l` spells
    g_l: the i-th digit is that of the i-th modality of the data set, 1 the earliest. Which cell is
    used is what `--tune N` chooses: it tries as many cells as any method has trials, with full
    trainings that are compared on the validation split; the record holds all of them and the chosen
    one, whose options are the cell. In the search space ANY_LEVELS stands for the 27 triples of
    digits, ANY_OPERATOR for the ten operators, ANY_ACTIVATION for the paper's three nonlinearities.
    Without a search there is the cell that concatenates equal levels, which is none of the paper's.

    In classification the levels are the encoder's map and the two residual stages of a trunk that
    each modality has for itself (the stages that the suite's decoder has for all together), up to
    the deepest level that the cell uses; a linear layer classifies the mean of h_3. In segmentation
    they are the three coarser maps of the encoder. There step l makes the fused map of scale l + 1,
    the finest scale is fused like the first step from its own maps, and the suite's pyramid decodes
    the four maps.

    Adaptations of this project: the cell's steps are at the size of level l and keep their maps,
    where the paper pools each feature to a vector; encoders, trunks and cell are trained together
    from the start, where the paper fuses networks that were trained alone; cells are drawn
    uniformly, where the paper trains cells briefly with shared weights and samples the next ones by
    a surrogate that predicts their accuracy: a trial here costs what that of any method costs. The
    operators and the treatment of absent modalities are this project's.

    What could not be verified: the paper's figures, which are of other data, and its code.

    Args:
        task: What the data set requires.
        levels_1: Levels of the modalities in the first step, digits from 1 to 3; they are repeated
            for more modalities than digits.
        operator_1: Operator of the first step.
        activation_1: Nonlinearity of the first step.
        levels_2: Levels in the second step.
        operator_2: Operator of the second step.
        activation_2: Nonlinearity of the second step.
        levels_3: Levels in the third step.
        operator_3: Operator of the third step.
        activation_3: Nonlinearity of the third step.

    Raises:
        UserError: An option has an unknown value.
    """

    task_kinds = KINDS
    search = {
        'levels_1': ANY_LEVELS,
        'operator_1': ANY_OPERATOR,
        'activation_1': ANY_ACTIVATION,
        'levels_2': ANY_LEVELS,
        'operator_2': ANY_OPERATOR,
        'activation_2': ANY_ACTIVATION,
        'levels_3': ANY_LEVELS,
        'operator_3': ANY_OPERATOR,
        'activation_3': ANY_ACTIVATION,
    }

    def __init__(
        self,
        task: Task,
        *,
        levels_1: str = '111',
        operator_1: OperatorName = 'concat',
        activation_1: ActivationName = 'relu',
        levels_2: str = '222',
        operator_2: OperatorName = 'concat',
        activation_2: ActivationName = 'relu',
        levels_3: str = '333',
        operator_3: OperatorName = 'concat',
        activation_3: ActivationName = 'relu',
    ) -> None:
        super().__init__(task)
        genes = (
            checked(Gene(levels_1, operator_1, activation_1), 1),
            checked(Gene(levels_2, operator_2, activation_2), 2),
            checked(Gene(levels_3, operator_3, activation_3), 3),
        )
        self.genes = genes
        self.encoders = Encoders(task)
        self.maps = task.kind == 'segmentation'
        if self.maps:
            # Scale 1 comes first, which no step takes: level d is at position d.
            channels, sizes, self.first = fused_channels(task), fused_channels(task)[1:], 0
            count = len(task.names)
            self.finest = Step(genes[0], [channels[0]] * count, channels[0], None)
            self.decoder: nn.Module = decoder(task)
        else:
            channels = (fused_channels(task)[0], 4 * task.width, 8 * task.width)
            sizes, self.first = (4 * task.width,) * STEPS, 1
            self.trunks = nn.ModuleDict(
                {name: self._trunk(m, task) for m, name in enumerate(task.names)}
            )
            self.head = nn.Linear(sizes[-1], len(task.classes))
        self.steps = nn.ModuleList()
        before = None
        for gene, size in zip(genes, sizes, strict=True):
            given = [channels[gene.level(m) - self.first] for m in range(len(task.names))]
            self.steps.append(Step(gene, given, size, before))
            before = size

    def _trunk(self, modality: int, task: Task) -> nn.Sequential:
        """Returns the stages of a modality's trunk that the cell uses: none to two."""
        deepest = max(gene.level(modality) for gene in self.genes)
        trunk = ClassificationDecoder(task, fused_channels(task)[0]).trunk
        return cast(nn.Sequential, cast(nn.Sequential, trunk)[: deepest - 1])

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality's encoder, then those of its trunk."""
        found = self.encoders(inputs)
        if self.maps:
            return found
        for name in found:
            for stage in cast(nn.Sequential, self.trunks[name]):
                found[name] = (*found[name], stage(found[name][-1]))
        return found

    def _given(self, features: dict[str, Maps], step: Step, gene: Gene) -> list[Tensor]:
        """Returns the features that each modality gives to a step; zeros for those switched off."""
        like = next(iter(features.values()))[0]
        found = []
        for m, name in enumerate(self.task.names):
            if name in features:
                found.append(features[name][gene.level(m) - self.first])
            else:
                channels = cast(nn.Conv2d, step.project[m]).in_channels
                found.append(like.new_zeros((len(like), channels, 1, 1)))
        return found

    def fused(self, features: dict[str, Maps], mask: Tensor) -> list[Tensor]:
        """Returns h of every step under a mask (B, M)."""
        maps = next(iter(features.values()))
        size = list(maps[0].shape[2:])
        found: list[Tensor] = []
        before = None
        for number, (part, gene) in enumerate(zip(self.steps, self.genes, strict=True)):
            step = cast(Step, part)
            if number or self.maps:
                size = [-(-side // 2) for side in size]
            before = step(self._given(features, step, gene), mask, size, before)
            found.append(before)
        return found

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits from what the mask (B, M) allows."""
        fused = self.fused(features, mask)
        if not self.maps:
            return self.head(fused[-1].mean((2, 3)))
        like = next(iter(features.values()))[0]
        own = [
            features[name][0] if name in features else torch.zeros_like(like)
            for name in self.task.names
        ]
        finest = self.finest(own, mask, like.shape[2:], None)
        return self.decoder((finest, *fused))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the task's loss under the masks of the batch."""
        return {'loss_task': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}


def checked(gene: Gene, step: int) -> Gene:
    """Returns what was chosen for a step.

    Raises:
        UserError: A value is unknown.
    """
    if not gene.levels or set(gene.levels) - set(LEVELS):
        raise UserError(
            f'searched_fusion:levels_{step}: expected digits from 1 to 3, one for each modality, '
            f'found {gene.levels!r}'
        )
    for name, known in (('operator', OPERATORS), ('activation', ACTIVATIONS)):
        if getattr(gene, name) not in known:
            raise unknown(f'{name}_{step} of searched_fusion', getattr(gene, name), known)
    return gene
