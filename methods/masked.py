"""Masked multimodal pre-training: hidden patches and modalities are rebuilt from the others."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import KINDS, Batch, Modality, Task
from benchmark.registry import METHODS
from methods.common.encoders import Maps
from methods.common.hiding import Rebuilding, draw_shown, fused, real_tokens, spread
from methods.common.networks import ConcatFusion
from methods.common.pretraining import Pretraining


@METHODS.register_module('masked')
class Masked(Pretraining):
    """Rebuilds what is hidden of the inputs, patches and whole modalities; read by a probe.

    Bachmann et al., MultiMAE: Multi-modal Multi-task Masked Autoencoders, ECCV 2022
    (arXiv 2204.01678). Each sample shows a few of its tokens; how they are spread over its
    modalities is drawn from a Dirichlet distribution (`methods.common.hiding.draw_shown`), so that
    often nearly all of one modality has to be rebuilt from another one. With x the inputs,
    standardised over the batch, and H_m the elements of modality m that a sample has and that are
    hidden:

        L = mean_m 1/|H_m| sum_{H_m} (rebuilt_m - x_m)^2 + L_probe

    Tokens are patches of an image (16 pixels wide, or a sixth of the shorter side of a small one),
    frames of a sequence, and the single values of a vector (as VIME, Yoon et al., NeurIPS 2020).
    Modalities that a sample lacks are neither shown nor asked for. Labels train the probe alone
    (`methods.common.pretraining`). With `pretrain=masked` every method starts from these encoders.

    Adaptations of this project: the suite's encoders are convolutional, so that hidden patches are
    zeros in place, as in SimMIM (Xie et al., CVPR 2022) and M3AE (Liu et al., AAAI 2023), where a
    transformer leaves them out; they are rebuilt by `methods.common.hiding.Rebuilding` from the
    suite's fusion by concatenation, where the paper has a small transformer per modality; a sample
    shows at least one token. All modalities have the squared error, where the paper has the
    absolute error for depth and the cross-entropy for label maps. Values are standardised over the
    batch, which the paper does within each patch of colour. If vectors or sequences are among the
    modalities, an image is rebuilt coarsely, because all maps are pooled before they are fused.

    What could not be verified: the paper has three aligned images and no missing ones; tokens of
    other kinds, and counting N without absent modalities, are this project's.

    Args:
        task: What the data set requires.
        shown: Share of a sample's tokens that is shown; 98 of 588 in the paper.

    Raises:
        UserError: The share is not between 0 and 1.
    """

    task_kinds = KINDS

    def __init__(self, task: Task, *, shown: float = 1 / 6) -> None:
        super().__init__(task)
        if not 0 < shown < 1:
            raise UserError(f'masked:shown: expected a share between 0 and 1, found {shown}')
        self.shown = shown
        self.fusion = ConcatFusion(task)
        self.rebuild = nn.ModuleDict(
            {m.name: Rebuilding(m, task, fused(task)) for m in task.modalities}
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the mean squared error of what is hidden, and the loss of the probe."""
        columns = list(zip(self.task.modalities, batch.available.T, strict=True))
        real = {m.name: real_tokens(m, batch.inputs[m.name]) & on[:, None] for m, on in columns}
        shown = dict(zip(real, draw_shown(list(real.values()), self.shown), strict=True))
        visible = {m.name: spread(m, shown[m.name]) for m in self.task.modalities}
        features = self.encode({m.name: self._shown(m, batch, visible[m.name]) for m, _ in columns})
        present = torch.stack([tokens.any(1) for tokens in shown.values()], 1)
        maps = self.fusion(features, present)
        errors = []
        for m, on in columns:
            there = spread(m, real[m.name]) & on.view(-1, *[1] * len(m.shape))
            rebuild = cast(Rebuilding, self.rebuild[m.name])
            given = batch.inputs[m.name], there, ~visible[m.name], maps[0].shape[2:]
            errors.append(rebuild.wanted(*given).error(rebuild(maps, real[m.name])))
        return {
            'loss_masked': torch.stack(errors).mean(),
            'loss_probe': self.probe_loss(self._frozen(batch.inputs), batch),
        }

    @staticmethod
    def _shown(modality: Modality, batch: Batch, visible: Tensor) -> Tensor:
        """Returns the inputs with zeros where they are hidden; the mark of padding stays."""
        x = batch.inputs[modality.name]
        kept = x.where(visible, 0.0)
        return torch.cat([kept[..., :-1], x[..., -1:]], -1) if modality.padded else kept

    @torch.no_grad()
    def _frozen(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Encodes whole inputs as a test does, which leaves the statistics as they are."""
        self.encoders.eval()
        features = self.encode(inputs)
        self.encoders.train(self.training)
        return features
