"""The contract of a method: the task, the batch, and the base class.

A method is one class in one file of `methods/`. It encodes each modality on its own, decodes the
features under a mask, and returns named losses. The benchmark does everything else: it trains,
simulates missing modalities, tests every subset, and writes the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from benchmark.errors import UserError, unknown
from benchmark.names import check_classes, check_dataset_name, check_modalities
from benchmark.options import Range
from benchmark.registry import name_of
from benchmark.search import Distribution
from benchmark.task_losses import IGNORE as IGNORE  # methods import it from here
from benchmark.task_losses import KINDS as KINDS
from benchmark.task_losses import LOSSES, column_errors, cross_entropy, dice_loss
from benchmark.task_losses import one_hot as one_hot

NETWORKS = ('pyramid', 'esanet', 'unet3d')
"""Values of the option `network`, which chooses the architecture in segmentation."""


@dataclass(frozen=True)
class Modality:
    """One input of the network.

    Attributes:
        name: The modality's name; the id of a subset joins such names with '+'.
        shape: Shape of one sample: (D,) for a vector, (T, D) for a sequence of T frames,
            (C, H, W) for an image, (C, D, H, W) for a volume, or rather the patch of it that a
            network sees at a time.
        padded: Whether the last feature of a sequence marks padding: it is 1 for a real frame and
            0 for a frame that was appended to reach the length T. Encoders ignore appended frames,
            whatever values they hold.
    """

    name: str
    shape: tuple[int, ...]
    padded: bool = False

    @property
    def kind(self) -> str:
        """'vector', 'sequence', 'image' or 'volume', by the number of dimensions."""
        return {1: 'vector', 2: 'sequence', 3: 'image', 4: 'volume'}[len(self.shape)]


@dataclass(frozen=True)
class Task:
    """What a data set requires of a method.

    Attributes:
        dataset: Name of the data set; it selects a method's `settings`.
        kind: 'classification', with targets (B,), or 'segmentation', with targets (B, H, W), in
            volumes (B, D, H, W). Where texts say (B, C, H, W) of maps, those of volumes have the
            axis D before H. 'multilabel', with targets (B, K) of 0 and 1, and 'regression', with
            targets (B, K) of real numbers, are for methods that say so (`Method.task_kinds`).
        modalities: The inputs in the data set's order; columns of a mask have the same order.
        classes: The names of the K classes, labels or values.
        metric: The metric of the tables: 'ACER', 'accuracy', 'mIoU' or 'Dice', of several labels
            'F1', of a regression 'MAE'.
        width: Number of channels of the shared encoders' first stage; the papers use 64.
        live: For ACER, the index of the bona fide (live) class; all other classes are attacks.
        regions: For Dice, one pair (name, indices of the classes that form the region) per region.
        class_weights: K weights of the classes in the task's loss, or of the positive samples of
            several labels; empty means equal weights.
        network: Segmentation network, 'pyramid' or 'esanet', or 'unet3d', which is that of volumes;
            classification has only 'pyramid'.
        depth: Number of layers of the shared ResNet encoders: 18, 34 or 50.
        pretrained: Checkpoint with ImageNet weights for the encoders, a file or any address that
            mmengine can load; if empty, encoders are trained from scratch.
        loss: One of the kind's `LOSSES`, which the protocol chooses; empty for the default.
        scale: For regression (mean, standard deviation) of each of the K values in the training
            split: a network predicts (y - mean) / std. Empty where it predicts y itself.
        sentiment: Whether the one value of a regression is a sentiment from -3 to 3, which papers
            also count as classes (Acc-2, Acc-7, F1).
        backbone: Model of timm that encodes images in the place of the ResNet, which the protocol
            chooses; empty for the ResNet. `pretrained` is then the file of its weights.
        frozen: Whether the backbone keeps the weights that it starts with.
        share_encoders: Whether modalities of like kind and size share one encoder, which the
            protocol chooses.
        fewest: For Dice, empty or (class, N, other class): where fewer than N voxels of a volume
            are predicted as the class, validation and test take them for the other class.
        extents: Of volumes the sides (D, H, W) of a box that holds every training volume and a
            patch, for what is learned of each voxel; empty where volumes have the size of a patch.

    Raises:
        UserError: A name cannot be used in tables and files, there are too few classes or too many
            modalities (`benchmark.names`), the width is below 1, or this kind of task lacks the
            loss.
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
    loss: str = ''
    backbone: str = ''
    frozen: bool = False
    share_encoders: bool = False
    fewest: tuple[int, ...] = ()
    scale: tuple[tuple[float, float], ...] = ()
    sentiment: bool = False
    extents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f'width on {self.dataset}: expected 1 or more, found {self.width}')
        losses = LOSSES[self.kind]
        if self.loss and self.loss not in losses:
            raise unknown(f'loss in {self.kind}', self.loss, losses)
        check_dataset_name(self.dataset)
        check_modalities(self.dataset, self.names)
        least = 1 if self.kind in ('multilabel', 'regression') else 2
        check_classes(self.dataset, self.classes, least)

    @property
    def encoder(self) -> str:
        """The shared encoders in words, as captions of tables state them."""
        images = any(m.kind == 'image' for m in self.modalities)
        # The encoders of volumes are part of their network, and no ResNet.
        network = f', network {self.network}' if self.kind == 'segmentation' else ''
        start = ', pretrained' if self.pretrained else ''
        start += ', frozen' if self.frozen else ''
        kind = self.backbone or f'ResNet-{self.depth}'
        return f'{f"{kind}, " if images else ""}width {self.width}{network}{start}'

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the M modalities, in the order of mask columns."""
        return tuple(m.name for m in self.modalities)

    @property
    def volumes(self) -> bool:
        """Whether samples are volumes, of which the network sees patches."""
        return all(m.kind == 'volume' for m in self.modalities)


class Batch(NamedTuple):
    """The data of one training or test step.

    Attributes:
        inputs: Modality name -> (B, *shape) float. The row of a sample that lacks the modality
            holds zeros.
        available: (B, M) bool, the modalities that exist in the data.
        mask: (B, M) bool, the modalities that the deployed network may use; never true where
            `available` is false.
        target: (B,) or (B, H, W) int64; (B, K) int64 of several labels, float32 of a regression.
        ids: (B,) int64, the samples' positions in their split.
        places: Where patches lie in their volumes, (B, 3, 2) int64: along each axis the voxel of
            the volume at which the patch begins, and the step to the next one, 1, or -1 where the
            patch is mirrored. None of samples that are no patches.
    """

    inputs: dict[str, Tensor]
    available: Tensor
    mask: Tensor
    target: Tensor
    ids: Tensor
    places: Tensor | None = None


@dataclass(frozen=True)
class SubsetScore:
    """Score of a method on one subset of the modalities.

    Attributes:
        metrics: Metric name -> value, as a fraction from 0 to 1.
        predicted: Share of each of the K classes among the predictions, summing to 1.
        n: Number of samples that were tested.
    """

    metrics: dict[str, float]
    predicted: tuple[float, ...]
    n: int


def late_start(given: int, epochs: int) -> int:
    """Returns after how many epochs a late term of a loss starts.

    Papers state absolute numbers of epochs. A training that ends before such a start would never
    use the term; it then starts after a third of the epochs, but not before two have passed. In
    fewer than three epochs there is no place for it.

    Args:
        given: The number of epochs that the method's options state.
        epochs: Number of epochs of the training.
    """
    return given if given < epochs or epochs < 3 else max(2, epochs // 3)


def late_term(term: str, given: int, epochs: int) -> list[str]:
    """Returns the note on a late term for `Method.schedule_notes`; none where it starts as given.

    Args:
        term: The term of the loss.
        given: After how many epochs it starts by the method's options.
        epochs: Number of epochs of the training.
    """
    start = late_start(given, epochs)
    # Options name epochs by their numbers, which begin with 0.
    after = f'{given} epochs (numbers 0 to {given - 1})' if given > 1 else f'{given} epoch'
    if start >= epochs:
        count = f'{epochs} epoch{"s" if epochs > 1 else ""}'
        return [
            f'{term} is never used: it starts after {after}, and the training has only '
            f'{count}; the scores are those of the method without it'
        ]
    if start != given:
        return [
            f'{term} starts after {start} of {epochs} epochs, because its start after {after} '
            'would lie behind the end of the training'
        ]
    return []


class Preprocessor(BaseDataPreprocessor):
    """Moves batches to the device and augments training batches there.

    Attributes:
        augment: The data set's augmentation of a training batch, or None. It draws random numbers
            from torch's default CPU generator, which is seeded anew in every epoch.
    """

    def __init__(self) -> None:
        # The processor does not wait for a copy from pinned memory and starts operations behind it.
        super().__init__(non_blocking=True)
        self.augment: Callable[[Batch], Batch] | None = None

    def forward(self, data: Batch, training: bool = False) -> Batch:
        """Returns the batch on the device; modalities that are not available stay zero."""
        batch: Batch = super().forward(data, training)
        if not training or self.augment is None:
            return batch
        batch = self.augment(batch)
        # Augmentation may shift values (brightness, noise): absent inputs become zero again. A
        # selection instead of a product, because 0 times NaN is NaN.
        zeroed = {}
        for column, (name, x) in enumerate(batch.inputs.items()):
            there = batch.available[:, column].reshape(-1, *[1] * (x.ndim - 1))
            zeroed[name] = torch.where(there, x, x.new_zeros(()))
        return batch._replace(inputs=zeroed)


class Method(BaseModel):
    """Base class of every method.

    A method implements `encode`, `decode` and `loss`. Every constructor parameter after `task` has
    a default and is an option of the command line: its annotation (int, float, str, bool, Literal
    or a tuple) is the type of its values, and its default is the paper's value. A method whose
    encoders mix modalities overrides `predict` instead of `decode`; it is then tested by one full
    pass per subset.

    Args:
        task: What the data set requires.

    Attributes:
        version: Raise this number when a change alters the method's scores; it is part of a
            record's identity. A change of one variant that nobody has recorded needs none: the hash
            of the code, which is part of it as well, tells.
        teacher: Name of the method that is trained first and passed to `set_teacher`, or None.
        sampler: Training sampler that belongs to the method and replaces the protocol's, or None.
        dedicated: Whether a network of its own is trained for every subset of the modalities.
        needs_complete: Whether the method cannot train on samples that lack a modality; data with
            training gaps are then refused.
        from_complete: What is learned from complete training samples alone, in words in the plural;
            a note tells where no training sample is complete. Empty by default.
        separate_encoders: Whether the method treats the gradients of each modality's encoder by
            themselves, so that encoders cannot be shared.
        pretrains: Whether the field `pretrain` of the protocol may name the method. Its attribute
            `encoders` is then what the encoders of other methods start from.
        supported_networks: Values of `Task.network` that the method can use. A subclass does not
            inherit it, because a subclass may add parts that need encoders which keep the
            modalities apart, and ESANet's encoders mix them.
        task_kinds: Kinds of task that the method can train on. A subclass does not inherit it,
            because it may add formulas that need probabilities of classes.
        settings: Data set name -> the options that the paper uses there, over the defaults. What
            was chosen for a data set otherwise is in `results/settings.json`.
        search: Option -> the distribution from which `--tune` draws it (`benchmark.search`); empty
            by default. The range of a loss weight extends from a tenth of the smallest value known
            from papers and their code to ten times the largest. Schedules, variants and network
            sizes are not tuned.
        official_loss: The loss, one of `LOSSES`, with which the released code of variant='official'
            trains in segmentation; empty if it is not known. A note tells where a protocol has
            another one.
        later: Options that the method got after its first records -> the value with which it does
            what it did before. Records leave an option of this value out, so that older ones stay
            those of the same experiment.
        mines: Values of options with which `on_validation` compares the subsets that lack one
            modality, so that a protocol that does not validate them is refused; empty if it never
            does.
        shares_convolution: Whether `decode` sets the maps of absent modalities to zero, joins all
            maps and convolves them, and changes no features in place; a test of all subsets then
            convolves each modality once (`benchmark.engine.first_layers`). A subclass
            does not inherit it, because it may add parts that do more.
        only_with: Option -> the values of another option without which it changes nothing; a note
            tells where it is given in vain.
        ranges: Option -> the numbers that it may be (`benchmark.options.Range`). Without an entry
            numbers are from 0, and whole numbers any.
        contract_exceptions: Contract test ('paper', 'gradient', 'unplugged', 'twin') or task of
            tests/helpers/tasks.py -> the reason why the method is exempt from it.
        epoch: Index of the running epoch, from 0; set before every epoch.
        epochs: Number of epochs of the training; set before the training.
    """

    version: ClassVar[int] = 1
    teacher: ClassVar[str | None] = None
    sampler: ClassVar[str | None] = None
    dedicated: ClassVar[bool] = False
    needs_complete: ClassVar[bool] = False
    from_complete: ClassVar[str] = ''
    separate_encoders: ClassVar[bool] = False
    pretrains: ClassVar[bool] = False
    supported_networks: ClassVar[tuple[str, ...]] = ('pyramid',)
    task_kinds: ClassVar[tuple[str, ...]] = ('classification', 'segmentation')
    settings: ClassVar[dict[str, dict[str, Any]]] = {}
    search: ClassVar[dict[str, Distribution]] = {}
    official_loss: ClassVar[str] = ''
    only_with: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {}
    ranges: ClassVar[dict[str, Range]] = {}
    later: ClassVar[dict[str, Any]] = {}
    mines: ClassVar[dict[str, Any]] = {}
    shares_convolution: ClassVar[bool] = False
    contract_exceptions: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.supported_networks = vars(cls).get('supported_networks', ('pyramid',))
        cls.task_kinds = vars(cls).get('task_kinds', ('classification', 'segmentation'))
        cls.shares_convolution = vars(cls).get('shares_convolution', False)

    def __init__(self, task: Task) -> None:
        super().__init__(Preprocessor())
        self.check_network(task)
        self.task = task
        weights = torch.tensor(task.class_weights or [1.0] * len(task.classes))
        self.register_buffer('class_weights', weights, persistent=False)
        scale = torch.tensor(task.scale) if task.scale else None
        self.register_buffer('target_scale', scale, persistent=False)
        self.target_scale: Tensor | None
        self.epoch = 0
        self.epochs = 1
        # A tuple is not registered as a module, so that the teacher's weights are neither
        # optimised nor saved with this network, and train() does not reach its BatchNorm.
        self._teacher: tuple[Method, ...] = ()

    @classmethod
    def check_network(cls, task: Task) -> None:
        """Checks that the method can train on this kind of task, and use the network that it names.

        Raises:
            UserError: The kind is not among `task_kinds`; the network does not exist, does not
                exist for this kind of task, or is not among `supported_networks`; or its encoders
                cannot be shared.
        """
        name = name_of(cls)
        if task.kind not in cls.task_kinds:
            able = ' or '.join(cls.task_kinds)
            raise UserError(
                f'{name} on {task.dataset}: expected a task of {able}, '
                f'on which its formulas are defined, found {task.kind}'
            )
        if task.network not in NETWORKS:
            raise unknown(f'network on {task.dataset}:', task.network, NETWORKS)
        if task.kind != 'segmentation' and task.network != 'pyramid':
            raise UserError(
                f'network={task.network} on {task.dataset}: expected a segmentation task, '
                f'found {task.kind}, which has only network=pyramid'
            )
        if task.volumes != (task.network == 'unet3d'):
            expected, found = ('', 'no ') if task.volumes else ('no ', '')
            raise UserError(
                f'network={task.network} on {task.dataset}: expected {found}volumes, '
                f'found {expected}volumes; volumes have network=unet3d, which no other data have'
            )
        if task.network == 'unet3d' and 'unet3d' not in cls.supported_networks:
            raise UserError(
                f'{name} on {task.dataset}: has no form for volumes (network=unet3d); '
                'use network=pyramid, which works on their slices'
            )
        if task.share_encoders and cls.separate_encoders:
            raise UserError(
                f'share_encoders on {task.dataset}: {name} changes the gradients of each '
                "modality's encoder by themselves, which a shared encoder does not have"
            )
        if task.network not in cls.supported_networks:
            raise UserError(
                f'{name} on {task.dataset}: needs encoders that keep the modalities apart, '
                f'and those of network={task.network} mix them; use network=pyramid'
            )

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Encodes each modality on its own.

        Args:
            inputs: Modality name -> (B, *shape). Modalities whose sensor is off may be left out.

        Returns:
            Modality name -> features, for exactly the modalities given. The features of one
            modality must not depend on another one: testing encodes each modality once and
            decodes every subset from the same features.
        """
        raise self._lacks('encode(inputs)')

    def decode(self, features: dict[str, Any], mask: Tensor) -> Tensor:
        """Decodes the features of the modalities that a mask allows.

        Args:
            features: Modality name -> features, as `encode` returns them. Features that the mask
                excludes may hold any value, NaN among them.
            mask: (B, M) bool.

        Returns:
            Logits (B, K) or (B, K, H, W).
        """
        raise self._lacks('decode(features, mask) or predict(inputs, mask)')

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Computes the training losses of one batch.

        Returns:
            Name -> scalar tensor. Terms with 'loss' in their name are summed and minimised; the
            others are only logged.
        """
        raise self._lacks('loss(batch)')

    def predict(self, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the deployed network's logits.

        Args:
            inputs: Modality name -> (B, *shape).
            mask: (B, M) bool, the modalities that may be used.

        Returns:
            (B, K) or (B, K, H, W).

        Raises:
            UserError: `decode` returned something else than a tensor.
        """
        return self._logits('decode', self.decode(self.encode(inputs), mask))

    def predict_at(
        self, inputs: dict[str, Tensor], mask: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Returns what `predict` does, for patches that lie at known places in their volumes.

        A method whose answer depends on the places overrides this beside `predict`, which then
        takes every patch for the beginning of its volume.

        Args:
            inputs: As in `predict`.
            mask: As in `predict`.
            places: As `Batch.places`.
        """
        return self.predict(inputs, mask)

    def _lacks(self, function: str) -> UserError:
        """Returns the error on a function that a method has to have and has not."""
        name = name_of(type(self))
        whole = f'the class {type(self).__name__} to have {function}'
        return UserError(f'{name}: expected {whole}, found none')

    def _logits(self, function: str, found: Any) -> Tensor:
        """Returns what a function of the method gave as logits.

        Raises:
            UserError: It is no tensor.
        """
        if isinstance(found, Tensor):
            return found
        shape = '(B, K, H, W)' if self.task.kind == 'segmentation' else '(B, K)'
        raise UserError(
            f'{function} of {type(self).__name__}: expected logits {shape} as a tensor, '
            f'found {type(found).__name__}'
        )

    def _fitting(self, function: str, found: Any, target: Tensor) -> Tensor:
        """Returns what a function of the method gave as logits of the targets.

        Raises:
            UserError: It is no tensor, or of another number of samples, classes or pixels.
        """
        logits = self._logits(function, found)
        classes = len(self.task.classes)
        columns = self.task.kind in ('multilabel', 'regression')
        expected = (len(target), classes, *([] if columns else target.shape[1:]))
        if logits.shape == expected:
            return logits
        raise UserError(
            f'{function} of {type(self).__name__}: expected logits {tuple(expected)}, '
            f'found {tuple(logits.shape)}'
        )

    @classmethod
    def search_space(cls, options: dict[str, Any]) -> dict[str, Distribution]:
        """Returns `search`; a method overrides this if the distributions depend on its options.

        Args:
            options: The value of every option.
        """
        return cls.search

    @classmethod
    def idle(cls, options: dict[str, Any]) -> list[str]:
        """Returns the options that change nothing beside the others, as of `only_with`.

        Args:
            options: The value of every option.
        """
        needed = cls.only_with.items()
        return [k for k, (other, values) in needed if options.get(other, values[0]) not in values]

    @classmethod
    def recorded(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the options that records hold: all but those of `later` that change nothing."""
        old = cls.later.items()
        return {key: value for key, value in options.items() if (key, value) not in old}

    @classmethod
    def schedule_notes(cls, options: dict[str, Any], epochs: int) -> list[str]:
        """Returns one sentence for each term of the loss that a training is too short for.

        The terminal shows the sentences before the training, and the table beneath the scores. A
        method whose terms start late overrides this and may use `late_term`.

        Args:
            options: The value of every option.
            epochs: Number of epochs of the training.
        """
        return []

    def fit(self, train: Batch, val: Batch) -> None:
        """Fits the method to whole splits; a method that overrides this is not trained in steps.

        For closed-form and classical models. The parameters and buffers that it sets must keep
        their shapes. Of the protocol, `rates` alone has an effect on it.

        Args:
            train: The training split, not augmented; its mask is all that may be read.
            val: The validation split, to choose hyper-parameters by.
        """
        raise self._lacks('fit(train, val)')

    def on_validation(self, scores: dict[str, SubsetScore]) -> None:
        """Called after each validation; does nothing by default.

        Args:
            scores: Id of a subset, such as 'rgb+ir' -> its score on the validation split.
        """

    @property
    def teacher_network(self) -> Method:
        """The trained network of the method that `teacher` names, frozen and in eval mode.

        Raises:
            AttributeError: `set_teacher` was not called. By this kind of error `hasattr` is false,
                and TorchScript, which reads every property, goes on.
        """
        if not self._teacher:
            raise AttributeError
        return self._teacher[0]

    def __getattr__(self, name: str) -> Any:
        """Returns what `torch.nn.Module` keeps under a name.

        Python comes here after the AttributeError of a property, too, and the message of
        `torch.nn.Module` would be that there is no such attribute.
        """
        if name == 'teacher_network':
            expected = 'expected set_teacher to be called first'
            raise AttributeError(f'{type(self).__name__}.teacher_network: {expected}')
        return super().__getattr__(name)

    def set_teacher(self, teacher: Method) -> None:
        """Freezes a trained teacher and stores it outside the module tree.

        Args:
            teacher: The trained network, on the device of this one.
        """
        self._teacher = (teacher.eval().requires_grad_(False),)

    def task_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of one prediction that the protocol has chosen for all methods.

        'ce' is `cross_entropy`. 'ce_dice' adds `dice_loss`, whose classes have equal weights; where
        Dice is measured, class 0 is background and has no Dice term. 'own' is `own_loss`. 'bce',
        'mse' and 'l1' are means of `column_errors`.

        Args:
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W), of several labels or a regression (B, K); elements labelled
                IGNORE, in a regression NaN, are left out.

        Returns:
            A scalar in float32; 0 if everything is labelled IGNORE, as in a batch of unlabelled
            frames.

        Raises:
            UserError: The logits are no tensor, or of another shape.
        """
        logits = self._fitting('decode or predict', logits, target)
        name = self.task.loss or LOSSES[self.task.kind][0]
        if self.task.kind in ('multilabel', 'regression'):
            errors, there = self.column_errors(logits, target)
            return errors.sum() / there.sum().clamp(min=1)
        if name == 'own':
            return self.own_loss(logits, target)
        loss = self.cross_entropy(logits, target)
        if name == 'ce':
            return loss
        return loss + dice_loss(logits, target, int(self.task.metric == 'Dice'))

    def column_errors(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the task's error of each label or value (B, K), and which are not left out."""
        weights = self.class_weights if self.task.class_weights else None
        name = self.task.loss or LOSSES[self.task.kind][0]
        return column_errors(name, logits, target, weights, self.target_scale)

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the task loss of the method's paper or released code in segmentation.

        It is `cross_entropy` unless a method overrides this. Arguments and result are those of
        `task_loss`.
        """
        return self.cross_entropy(logits, target)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the cross-entropy, averaged over samples or labelled pixels by class weight.

        Arguments and result are those of `task_loss`.
        """
        return cross_entropy(logits, target, self.class_weights, bool(self.task.class_weights))

    def forward(self, *fields: Any, mode: str = 'tensor') -> Any:
        """Entry point of mmengine, which unpacks a batch into its fields.

        Args:
            *fields: The fields of a `Batch`, in the order in which that class declares them.
            mode: 'loss' in training, anything else for a prediction.

        Returns:
            The named losses if mode is 'loss', else the logits under the batch's mask.
        """
        batch = Batch(*fields)
        if mode == 'loss':
            return self.loss(batch)
        return self.predict_at(batch.inputs, batch.mask, batch.places)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums the terms with 'loss' in their name, without waiting for the device.

        mmengine's own version converts each term to a number, for which the host has to wait.

        Returns:
            The sum, and all terms with the sum as 'loss', detached, for the log.

        Raises:
            UserError: `loss` returned something else, or no term to minimise.
        """
        told = f'loss of {type(self).__name__}: expected name -> scalar tensor'
        if not isinstance(losses, dict):
            raise UserError(f'{told}, found {type(losses).__name__}')
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.ndim:
                shape = f' {tuple(value.shape)}' if isinstance(value, Tensor) else ''
                raise UserError(f'{told}, found {type(value).__name__}{shape} as {name!r}')
        if not any('loss' in name for name in losses):
            found = ', '.join(map(repr, losses)) or 'no term'
            raise UserError(f"{told} with 'loss' in one name or more, found {found}")
        total = torch.stack([v for k, v in losses.items() if 'loss' in k]).sum()
        return total, {**{k: v.detach() for k, v in losses.items()}, 'loss': total.detach()}
