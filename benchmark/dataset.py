"""The contract of a data set: a task, three disjoint splits, and a recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Task
from benchmark.options import Option, options_of


class Rows(Protocol):
    """Samples of one modality that can be read by position: an array, or a decoder of files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a sample)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray) -> np.ndarray: ...


class Geometry(NamedTuple):
    """Where the voxels of volumes lie.

    Attributes:
        spacing: (N, 3) distance in millimetres of neighbouring slices, rows and columns, of the
            volume of each sample.
        diagonal: (N,) diagonal of the volume of each sample in millimetres.
    """

    spacing: np.ndarray
    diagonal: np.ndarray


@dataclass(frozen=True)
class Split:
    """One split, in memory or read on demand.

    Attributes:
        inputs: Modality name -> (N, *shape), normalised float; only rows that are available and
            not hidden are read. Training rows may exceed the task's shape where `augment` crops.
        target: (N,) or (N, H, W) integer labels; in dense ones `VOID` is left out, or `IGNORE` of
            more than 255 classes. Of several labels (N, K) of 0 and 1, of a regression (N,) or
            (N, K) of real numbers (`Task.kind`). Validation and test labels may be of another size
            than the inputs: logits are resized to them, bilinearly; where the metric is Dice, the
            inputs are the central window of the labels. Labels of patches of volumes have a method
            `corners(rows)`, which returns the first voxels (n, 3) of rows in their volumes.
        available: (N, M) bool, what exists in the data.
        ids: (N,) names of the samples, unique over all splits.
        groups: (N,) names of the volumes that slices belong to, for Dice per volume; by default
            every sample is its own.
        clusters: (N,) names of the persons or recordings that samples belong to, where these are
            known; tests of significance resample whole clusters. By default every sample, and for
            Dice every volume, is its own.
        geometry: Where the voxels lie, of a test split of volumes in which the distance of surfaces
            (HD95) is measured beside Dice; the slices of a volume are then in order.
        augment: What training does to a batch, on the device; random numbers come from torch's
            default CPU generator, so that a resumed run draws the same. Where it treats modalities
            by name, `among(names)` of it returns what it does to some of them.
    """

    inputs: dict[str, Rows]
    target: Rows
    available: np.ndarray
    ids: np.ndarray
    groups: np.ndarray | None = None
    clusters: np.ndarray | None = None
    augment: Callable[[Batch], Batch] | None = None
    geometry: Geometry | None = None

    def __len__(self) -> int:
        return len(self.available)

    def drawn(self, number: int) -> Split:
        """Returns the split with the parts of its samples that a number draws.

        Rows that are parts of larger samples have a method `drawn(number)`; all others stay. The
        rows of all modalities and of the labels draw the same parts.
        """
        rows: dict[str, Any] = {**self.inputs, '': self.target}
        if not any(hasattr(x, 'drawn') for x in rows.values()):
            return self
        new = {m: x.drawn(number) if hasattr(x, 'drawn') else x for m, x in rows.items()}
        return replace(self, target=new.pop(''), inputs=new)

    def among(self, names: Sequence[str], every: Sequence[str]) -> Split:
        """Returns the split with some of all modalities `every`, in the order given."""
        augment: Any = self.augment
        columns = [*map(every.index, names)]
        return replace(
            self,
            inputs={name: self.inputs[name] for name in names},
            available=np.asarray(self.available)[:, columns],
            augment=augment.among(names) if hasattr(augment, 'among') else augment,
        )


VOID = 255
"""Label, in a split, of pixels that are left out, where there are at most 255 classes."""

SPLITS = ('train', 'val', 'test')
"""Names of the splits of every data set."""

Preparation = Mapping[str, Mapping[str, Any]]
"""Modality -> what turns the values of a sample into the network's input, as JSON can hold it.

'mean' and 'std' are nested lists that broadcast to a sample; the input is (x - mean) / std, and 0
where std is 0, for what does not vary in the training samples. 'hole', if there is one, is the
value of pixels at which nothing was measured, which become 0. 'dtype' is the type in which files
are decoded. 'numbers' says in words which numbers the files hold, such as 'whole numbers of 8
bits': those of new samples must be the same. 'layout' is that of an array of images in the
training, which settles what the shape of a new one leaves open. A modality that is not listed
enters the network as its reader gives it.
"""


class Intake(NamedTuple):
    """What a trained network takes in.

    Attributes:
        task: Its task.
        options: The options of the data set that it was trained on.
        preparation: What its inputs undergo.
    """

    task: Task
    options: Mapping[str, Any]
    preparation: Preparation


class Unseen(NamedTuple):
    """Samples that a trained network predicts.

    Attributes:
        split: The samples, prepared as those of the training were. Without labels the targets are
            0 and have the size in which label maps are wanted.
        save: Called with (folder, name, labels) to write the label map (H, W) of a sample or, where
            the split has groups, that of a volume (S, H, W), in the geometry of the input; returns
            the file. None: the label map of a sample is written as it is.
        notes: What was found, each in one line.
    """

    split: Split
    save: Callable[[Path, str, np.ndarray], Path] | None = None
    notes: Sequence[str] = ()


def label_maps(labels: np.ndarray, task: Task) -> np.ndarray:
    """Returns label maps of a split as a batch has them: int64, with `IGNORE` for what is left out.

    Args:
        labels: As `Split.target` gives them.
        task: The task.
    """
    found = np.asarray(labels).astype(np.int64)
    return np.where(found == VOID, IGNORE, found) if len(task.classes) <= VOID else found


def no_target(task: Task, count: int) -> np.ndarray:
    """Returns the targets (N,) or (N, H, W) of samples without labels, all 0."""
    if task.kind == 'regression':
        return np.broadcast_to(np.float32(0), (count, len(task.classes)))
    size = task.modalities[0].shape[1:] if task.kind == 'segmentation' else ()
    size = (len(task.classes),) if task.kind == 'multilabel' else size
    return np.broadcast_to(np.uint8(0), (count, *size))


class Dataset:
    """Base class of every data set; the constructor's keywords are its options.

    Attributes:
        shared_options: The options that every data set has beside those of its constructor:
            `modalities`, those to use, joined by '+', in their order (`benchmark.narrowed`).
        younger: Options that are younger than the first records of a data set: where their defaults
            apply they are left out of records, so that older ones keep their identity.
        name: Name in tables and folders; the registered name unless the data decide (`arrays`).
        task: What is asked of a method.
        spec: Registered name; the command line sets it when it opens the data set.
        options: The constructor's options that can change a score; set at the same time.
        fingerprint: Short hash of all that can change a score: generator version and options, or
            the files' content.
        recipe: Fields of `benchmark.engine.protocol.Protocol` that differ from its defaults here.
        recipe_note: How long a training by this recipe is, and why, where the data decide it; in
            one line, which commands print after `notes`.
        licence: Terms of use.
        how_to_get: Where the data come from and how to lay them out.
        embedded: The data are generated by this code, so that no data root is needed.
        streams: Whether samples are read from files on demand, so that loader processes help; a
            data set may decide it by its root.
        notes: What was found in the data that the user ought to know, each in one line; commands
            print it when they open the data.
        surfaces: Whether the test split has a `geometry`, so that HD95 is measured.
        published_sizes: Split -> number of samples of the published split; `datasets/prepare.py`
            checks a data root against it.
    """

    shared_options: ClassVar[dict[str, Option]] = {'modalities': Option(str, '')}
    younger: ClassVar[tuple[str, ...]] = ()
    name: str
    task: Task
    spec: str = ''
    options: dict[str, Any]
    fingerprint: str
    recipe: dict[str, Any] = {}
    recipe_note: str = ''
    licence: ClassVar[str] = ''
    how_to_get: ClassVar[str] = ''
    embedded: ClassVar[bool] = False
    streams: bool = False
    notes: Sequence[str] = ()
    surfaces: bool = False
    published_sizes: ClassVar[dict[str, int]] = {}

    @classmethod
    def shared(cls) -> set[str]:
        """Returns the shared options that the constructor does not take itself."""
        own = options_of(cls)
        return {k for k, option in cls.shared_options.items() if own[k] is option}

    @property
    def declared(self) -> dict[str, Option]:
        """The options that the data set has, with their defaults."""
        return options_of(type(self))

    @functools.cached_property
    def bounds(self) -> tuple[dict[str, float], float | None]:
        """The ceiling and chance, computed once."""
        return self.ceiling(), self.chance()

    def split(self, name: str) -> Split:
        """Returns the split 'train', 'val' or 'test'; nothing of another split is read."""
        raise UserError(f'{type(self).__name__}: expected a function split(name), found none')

    def check(self) -> None:
        """Checks of all splits what the constructor has not; called before any training.

        Files are decoded once, so that it takes minutes for the largest data sets.

        Raises:
            UserError: A file is broken or of another kind, or could not be read in full.
        """

    def preparation(self, split: Split) -> Preparation:
        """Returns what the samples of one of its splits have undergone."""
        found = {m: getattr(rows, 'preparation', None) for m, rows in split.inputs.items()}
        return {m: facts for m, facts in found.items() if facts is not None}

    @classmethod
    def unseen(cls, root: Path | None, intake: Intake, labelled: bool, part: str) -> Unseen:
        """Opens samples for a trained network; a data set of the user's own files overrides this.

        By default the data set is opened as for training, and its part `part` is used.

        Args:
            root: Where the samples lie; None for data that are embedded.
            intake: What the network takes in.
            labelled: Whether labels are read, to score the network. If not, none need exist.
            part: 'train', 'val' or 'test'; 'all' for every sample that is found; '' for 'test'
                where the data name splits, and 'all' otherwise.

        Raises:
            UserError: The samples do not fit the network, or cannot be read.
        """
        if part == 'all':
            raise UserError(f'--split: expected train, val or test of {cls.__name__}, found all')
        options = {**intake.options, **({} if root is None else {'root': str(root)})}
        if 'pretrained' in options:  # the weights of the run replace them
            options['pretrained'] = 'none'
        data = cls(**{k: v for k, v in options.items() if k not in cls.shared()})
        found, wanted = data.task, intake.task
        names = wanted.names if cls.shared() & options.keys() else found.names
        modalities = tuple(m for n in names for m in found.modalities if m.name == n)
        if (modalities, found.classes) != (wanted.modalities, wanted.classes):
            raise UserError(
                f'{root or data.name}: expected the modalities and classes of the training, '
                f'{", ".join(wanted.names)} and {", ".join(wanted.classes)}, found '
                f'{", ".join(found.names)} and {", ".join(found.classes)}'
            )
        split = data.split(part or 'test')
        split = split if names == found.names else split.among(names, found.names)
        inputs = dict(split.inputs)
        for name, facts in intake.preparation.items():
            inputs[name] = inputs[name].prepared_by(facts)  # type: ignore[attr-defined]
        return Unseen(replace(split, inputs=inputs), notes=data.notes)

    def ceiling(self) -> dict[str, float]:
        """Returns subset id -> the best possible metric, where it can be computed."""
        return {}

    def chance(self) -> float | None:
        """Returns the metric of guessing, where it is known."""
        return None
