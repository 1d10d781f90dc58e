"""The training and selection rules that make two scores comparable; every record holds them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmark.engine import mask_schedules
from benchmark.errors import UserError, unknown
from benchmark.method import LOSSES
from benchmark.options import read
from benchmark.records.identity import protocol_id

CHOICES = {
    'selection': ('last', 'mean', 'worst', 'full'),
    'optimizer': ('SGD', 'Adam', 'AdamW'),
    'schedule': ('constant', 'cosine', 'step', 'poly', 'onecycle', 'hold_linear'),
    'precision': ('auto', 'float32', 'bfloat16', 'float16'),
    'sampling': ('shuffled', 'balanced'),
}

BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(('epochs', 'val_interval'), ('at least 1', lambda x: x >= 1)),
    'pretrain_epochs': ('1 or more', lambda x: x >= 0),  # 0: as many as epochs
    # Batch normalisation cannot train on one value, which a single small map or vector is.
    'batch_size': ('at least 2', lambda x: x >= 2),
    'lr': ('a positive number', lambda x: 0 < x < math.inf),
    'weight_decay': ('0 or more', lambda x: 0 <= x < math.inf),
    'momentum': ('0 to below 1', lambda x: 0 <= x < 1),
    'warmup': ('0 epochs or more', lambda x: 0 <= x < math.inf),
    'clip': ('0 (off) or a positive norm', lambda x: 0 <= x < math.inf),
    'ema': ('0 (off) to below 1', lambda x: 0 <= x < 1),
    'vector_noise': ('0 (off) or a positive number', lambda x: 0 <= x < math.inf),
}

LATER = (
    *('clip', 'loss', 'ema', 'nesterov', 'mechanism', 'mask', 'subsets', 'sampling'),
    *('pretrain', 'pretrain_epochs', 'encoder', 'encoder_weights', 'encoder_frozen'),
    *('mask_schedule', 'share_encoders', 'vector_noise'),
)
"""Fields younger than the first records: at their defaults they are left out of records and ids,
so that older records keep their identity."""


def _loss(kind: str, given: str) -> str:
    """Returns the field `loss` of a task of some kind; empty where there is no choice."""
    default, *others = LOSSES[kind]
    if given and given not in LOSSES[kind]:
        raise unknown(f'loss in {kind}', given, LOSSES[kind])
    return (given or default) if others else ''


def _pretrain_epochs(made: Protocol, typed: bool) -> int:
    """Returns the number of epochs of the pre-training, 0 where there is none.

    Args:
        made: The protocol, in which 0 stands for as many as those of the training.
        typed: Whether the number was typed.
    """
    if typed and not made.pretrain_epochs:
        raise UserError(
            'pretrain_epochs: expected 1 or more, or no such field for as many as epochs, found 0'
        )
    if made.pretrain:
        return made.pretrain_epochs or made.epochs
    if made.pretrain_epochs:
        raise UserError(
            'pretrain_epochs: expected pretrain beside it, such as pretrain=masked, found none'
        )
    return 0


@dataclass(frozen=True)
class Protocol:
    """The training and selection rules that every method of a table shares.

    Attributes:
        sampler: Distribution of the training masks (`benchmark.missing.SAMPLERS`).
        rates: Missing rates that simulate training gaps, e.g. 'rgb=0.2,depth=0.5': the same 20 %
            of the training samples lack rgb in every epoch. Empty for complete training data.
        mechanism: What it depends on which training samples these are: 'mcar' (nothing),
            'mar:rgb' (the mean intensity of rgb, which is always there), 'mar:class' (the label) or
            'mnar' (the mean intensity of the modality that is missing), each but the first also
            with a strength, e.g. 'mnar:2' (`benchmark.engine.gaps`).
        mask: Hash of the file that says instead which modalities each training sample has
            (`--mask`); empty without one.
        selection: Which epoch is tested: the 'last' one, or the one with the best validation
            score: its 'mean' over the subsets, the 'worst' subset, or the 'full' set of modalities.
        epochs: Number of epochs.
        batch_size: Samples in a step; the last incomplete batch of an epoch is dropped.
        optimizer: 'SGD', 'Adam' or 'AdamW'.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        momentum: Momentum of SGD.
        schedule: 'constant', 'cosine', 'step' (times 0.1 at 1/6, 2/6, 3/6 of the epochs, as
            MMANet's classification code; 'step:0.7' at that share of them, 'step:0.5/0.8' at
            both), 'poly' (power 0.9) or 'hold_linear' (constant, then linearly to 0 from half of
            the epochs on, as MMIN and RedCore), after the warm-up; or 'onecycle' (from lr / 25
            up in a tenth of the epochs, then down by a cosine, as ESANet, but in every iteration,
            where the scripts of MMANet and DMRNet move once per epoch), which warms up itself.
        warmup: Epochs of linear warm-up.
        val_interval: Epochs between validations; the last epoch is always validated.
        precision: Arithmetic of training; 'auto' is bfloat16 on CUDA and float32 elsewhere.
        clip: Largest norm of a step's gradient; 0 leaves it as it is.
        loss: Task loss of all methods in segmentation: 'ce' (cross-entropy by class weight),
            'ce_dice' (the same plus a Dice loss; the default there) or 'own' (that of each method's
            paper or released code). In regression 'mse' (the default) or 'l1'. In classification,
            which has only the cross-entropy, and for several labels the field is empty.
        ema: Decay per step of the moving average of the weights, which is then what is validated,
            selected and tested (`benchmark.engine.averaging.Averaging`); 0 is off.
        nesterov: Whether SGD's momentum is Nesterov's; False is plain momentum.
        subsets: The subsets that are validated and tested: empty for all, 'sampled:K' for a sample
            of K, or 'list:' and what `benchmark.tested` makes of a file.
        sampling: Which training samples an epoch has: 'shuffled' (each once) or, in classification,
            'balanced' (as many draws, with replacement, all classes being equally likely).
        pretrain: Name of a method that trains the encoders first (`Method.pretrains`), such as
            'masked' or 'contrastive'; every network then starts from these encoders. Empty for
            weights that are drawn.
        pretrain_epochs: Number of epochs of that training; as many as `epochs` if none is typed.
        encoder: Model of timm that encodes images in all methods; empty for the suite's ResNet.
        encoder_weights: Hash of the file of weights that it starts from, which is typed as a path;
            empty for weights that are drawn.
        encoder_frozen: Whether it keeps these weights.
        mask_schedule: How the distribution of the training masks changes: 'constant',
            'curriculum:S' (from complete samples to the sampler over the share S of the epochs) or
            'learned:T' (subsets that score worse on the validation split are drawn more often, the
            more so the smaller T; `benchmark.engine.mask_schedules`).
        share_encoders: Whether modalities of like kind and size share one encoder, in which each
            has normalisation layers of its own, and a stem if its channels are other ones.
        vector_noise: Variance of the normal noise that training adds to the features of vectors, as
            a multiple of D / n for D features and n training samples that have the modality; at
            most 1 (`benchmark.engine.noise`). 0 is off.
    """

    sampler: str = 'uniform'
    rates: str = ''
    selection: str = 'last'
    epochs: int = 30
    batch_size: int = 64
    optimizer: str = 'AdamW'
    lr: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    schedule: str = 'cosine'
    warmup: float = 1.0
    val_interval: int = 1
    precision: str = 'auto'
    clip: float = 0.0
    loss: str = ''
    ema: float = 0.0
    nesterov: bool = True
    mechanism: str = 'mcar'
    mask: str = ''
    subsets: str = ''
    sampling: str = 'shuffled'
    pretrain: str = ''
    pretrain_epochs: int = 0
    encoder: str = ''
    encoder_weights: str = ''
    encoder_frozen: bool = False
    mask_schedule: str = 'constant'
    share_encoders: bool = False
    vector_noise: float = 0.0

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed and not (key == 'schedule' and self.milestones):
                raise unknown(key, getattr(self, key), allowed)
        for key, (expected, holds) in BOUNDS.items():
            if not holds(getattr(self, key)):
                raise UserError(f'{key}: expected {expected}, found {getattr(self, key)}')
        mask_schedules.parse(self.mask_schedule)

    @property
    def validates(self) -> bool:
        """Whether every epoch that may be validated has to be, whatever the method is."""
        learned = mask_schedules.parse(self.mask_schedule)[0] == mask_schedules.LEARNED
        return self.selection != 'last' or learned

    @property
    def milestones(self) -> tuple[float, ...]:
        """Shares of the training after which schedule='step' divides the rate by 10.

        Raises:
            UserError: They are no fractions in ascending order.
        """
        name, colon, given = self.schedule.partition(':')
        if name != 'step':
            return ()
        try:
            found = tuple(map(float, given.split('/'))) if colon else (1 / 6, 2 / 6, 3 / 6)
        except ValueError:
            found = ()
        rising = all(a < b for a, b in itertools.pairwise((0.0, *found, 1.0)))
        if not found or not rising:
            expected = 'ascending fractions such as step:0.5/0.8'
            raise UserError(f'schedule: expected {expected}, found {self.schedule!r}')
        return found

    @property
    def first(self) -> Protocol:
        """The rules of the pre-training: its own epochs, of which the last one counts.

        It draws its samples without labels, so that none has a part in what it learns.
        """
        return dataclasses.replace(
            self,
            pretrain='',
            pretrain_epochs=0,
            epochs=self.pretrain_epochs,
            selection='last',
            sampling='shuffled',
            mask_schedule='constant',  # its scores are no deficits
        )

    @property
    def gaps(self) -> str:
        """The training gaps as they are typed; empty for none."""
        parts = [f'rates={self.rates}'] if self.rates else []
        parts += [f'mechanism={self.mechanism}'] if self.mechanism != 'mcar' else []
        parts += [f'mask={self.mask}'] if self.mask else []
        return ' '.join(parts)

    def recorded(self) -> dict[str, Any]:
        """Returns the fields as records and ids hold them."""
        fields = self.fields()
        return {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in LATER or value != fields[key]
        }

    @classmethod
    def build(
        cls,
        recipe: dict[str, Any],
        overrides: dict[str, Any],
        device: str,
        kind: str = 'classification',
    ) -> Protocol:
        """Returns the protocol of a dataset's recipe with the user's overrides.

        Args:
            recipe: The dataset's fields.
            overrides: Fields from the command line, as text or already typed.
            device: 'cpu' or 'cuda', which settles precision='auto'.
            kind: Kind of the task, which settles the loss.

        Raises:
            UserError: A field does not exist or its value does not fit.
        """
        fields = cls.fields()
        for key in overrides:
            if key not in fields:
                raise unknown('option', key, fields)
        typed = {key: read(key, value, type(fields[key])) for key, value in overrides.items()}
        merged = {**recipe, **typed}
        merged['loss'] = _loss(kind, merged.get('loss', ''))
        if 'mask_schedule' in merged:
            merged['mask_schedule'] = mask_schedules.canonical(merged['mask_schedule'])
        if merged.get('precision', 'auto') == 'auto':
            merged['precision'] = 'bfloat16' if device == 'cuda' else 'float32'
        made = cls(**merged)
        if device == 'cpu' and made.precision != 'float32':
            raise UserError(
                f'precision: expected float32 or auto on a CPU, found {made.precision}, which is '
                'for GPUs'
            )
        first = _pretrain_epochs(made, 'pretrain_epochs' in typed)
        made = dataclasses.replace(made, pretrain_epochs=first)
        if ':' in made.schedule:
            usual = dataclasses.replace(made, schedule='step').milestones
            shares = '/'.join(f'{share:.10g}' for share in made.milestones)
            same = shares == '/'.join(f'{share:.10g}' for share in usual)
            made = dataclasses.replace(made, schedule='step' if same else f'step:{shares}')
        return made

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Returns the fields with their defaults."""
        return {field.name: field.default for field in dataclasses.fields(cls)}

    def id(self, fingerprint: str) -> str:
        """Returns the id of the protocol on data of this fingerprint, as records state it."""
        return protocol_id(self.recorded(), fingerprint)
