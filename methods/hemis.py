"""HeMIS: fusion by the mean and the variance of the present modalities."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from benchmark.errors import unknown
from benchmark.method import KINDS, Task
from benchmark.registry import METHODS
from methods.common.losses import squared_dice
from methods.common.moments import MomentFusion
from methods.common.networks import decoder, fused_channels
from methods.modality_dropout import ModalityDropout


@METHODS.register_module('hemis')
class HeMIS(ModalityDropout):
    """Hetero-modal image segmentation.

    Havaei, Guizard, Chapados & Bengio, HeMIS: Hetero-Modal Image Segmentation, MICCAI 2016 (arXiv
    1607.05194). Each modality is embedded in a common space, in which embeddings can be averaged.
    The decoder receives mean and variance of the embeddings that are present (`moments`), so that
    an absent modality is left out of the statistics and need not be imputed. L = L_task.

    The moments are taken at every scale, as in U-HeMIS, the U-Net form that later papers compare
    with (Dorent et al., MICCAI 2019), and with its population variance. The original network has a
    single scale and is believed to use the sample variance (not verified). In segmentation a 1x1
    convolution reduces [E; V] to the channels of the decoder.

    Departures: the original drops modalities more and more often during the training; here the
    training sampler decides, as in U-HeMIS. With loss=own the loss is that of official U-HeMIS,
    cross-entropy plus `squared_dice`, without its L2 term of all weights (1e-5): the protocol's
    optimiser decays weights.

    variant='official' follows the classification code that MMANet's authors (CVPR 2023) released.
    Its variance counts an absent modality as an embedding of zero, which adds (M - |K|) E^2 / |K|
    to V if more than one modality is present.

    Agreement with released code: the moments of both variants are those of the code that they
    follow. On faces, a step of the official variant is tested against figures of that code: the
    loss and the gradient of every weight. The value of the loss, which has one term, differs from
    official U-HeMIS, a TensorFlow program for volumes, because encoders and decoder are other
    networks; in its decoder the moments also enter without a convolution that reduces them.

    Args:
        task: What the data set requires.
        estimator: 'population' or 'sample' variance.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The estimator or the variant is unknown.
    """

    task_kinds = KINDS

    def __init__(
        self,
        task: Task,
        *,
        estimator: Literal['population', 'sample'] = 'population',
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if estimator not in ('population', 'sample'):
            raise unknown('estimator of hemis', estimator, ('population', 'sample'))
        if variant not in ('paper', 'official'):
            raise unknown('variant of hemis', variant, ('paper', 'official'))
        # They replace the parts of modality dropout, which fuses by concatenation.
        self.fusion = MomentFusion(task, estimator, variant == 'official')
        self.decoder = decoder(task, channels=2 * fused_channels(task)[0])

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns cross-entropy plus `squared_dice`; arguments as in `task_loss`."""
        return self.cross_entropy(logits, target) + squared_dice(logits, target)
