"""Segmentation of images of several sensors that see one scene, such as cameras and a lidar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from benchmark.dataset import VOID, Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.augment.transforms import ColourJitter, Compose, Geometric
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copied_files, shared
from datasets.common.io.files import Cache, Decoder, Files, content, fingerprint
from datasets.common.io.images import IMAGENET, LabelFile, Scaled
from datasets.common.io.inspection import check_decoded, classes_in
from datasets.common.io.splits import check_disjoint

Size = tuple[int, int]
COLOURS = Scaled([255 * m for m in IMAGENET[0]], [255 * s for s in IMAGENET[1]])
"""Normalises red, green and blue of 8 bits."""


class Sample(Protocol):
    """A sample of a data set of this kind."""

    @property
    def id(self) -> str:
        """Its name, unique in the data set."""

    @property
    def files(self) -> Mapping[str, Path]:
        """Modality -> image."""

    @property
    def label(self) -> Path:
        """Its label map."""

    @property
    def cluster(self) -> str:
        """The place or recording that it is from, '' if that is not known."""


class Frame(NamedTuple):
    """One sample; the attributes are those of `Sample`."""

    id: str
    files: Mapping[str, Path]
    label: Path
    cluster: str = ''


@dataclass(frozen=True)
class Sensor:
    """One modality.

    Attributes:
        name: Its name.
        channels: Channels of its images.
        decode: Returns the decoder of its files for a size.
        scaled: Normalises its values.
        nearest: Whether its images are not interpolated when they are zoomed in training, because
            they have holes.
    """

    name: str
    channels: int
    decode: Callable[[Size], Decoder]
    scaled: Scaled
    nearest: bool = False


@dataclass(frozen=True)
class Plan:
    """What differs between data sets of this kind.

    Attributes:
        source: (H, W) of the label maps, at which validation and test are scored.
        size: (H, W) of the network's input.
        train: (H, W) to which training images are resized before a crop of `size` is cut.
        scale: Smallest and greatest zoom factor in training.
        classes: Names of the K classes.
        sensors: The modalities; the one that is called rgb has its colours changed in training.
        labels: Returns the decoder of label maps for a size.
    """

    source: Size
    size: Size
    train: Size
    scale: tuple[float, float]
    classes: tuple[str, ...]
    sensors: tuple[Sensor, ...]
    labels: Callable[[Size], LabelFile]


class Segmented(Dataset):
    """Base of the data sets of which every sample has an image of each sensor and a label map.

    Args:
        splits: 'train', 'val', 'test' -> samples.
        root: The data root.
        plan: Sizes, classes and sensors.
        network: Architecture of the segmentation network.
        layers: Number of layers of the ResNet encoders.
        pretrained: File of their ImageNet weights, or 'none' for random initial weights.
        width: Channels of the encoders' first stage.
        cache: Where decoded images are kept: nowhere, in memory or in files below the root.
        duplicates: Whether copies and clusters in two splits are reported or refused.

    Raises:
        UserError: A file is missing, a sample is in two splits, `pretrained` is not given, or
            copies are refused.
    """

    streams = True
    weighted: ClassVar[bool] = False
    """Whether the loss weighs classes by median frequency."""

    def __init__(
        self,
        splits: Mapping[str, Sequence[Sample]],
        root: Path,
        plan: Plan,
        *,
        network: Literal['pyramid', 'esanet'] = 'pyramid',
        layers: Literal[18, 34, 50] = 50,
        pretrained: str = '',
        width: int = 64,
        cache: Cache = 'none',
        duplicates: Duplicates = 'report',
    ) -> None:
        self.root, self.plan, self.cache = root, plan, cache
        self.samples: Mapping[str, Sequence[Sample]] = splits
        if not pretrained:
            raise UserError(
                f'{self.name}: expected pretrained=FILE, ImageNet weights of a ResNet-{layers} '
                'as the papers start from, or pretrained=none'
            )
        check_disjoint(root, {k: [s.id for s in v] for k, v in splits.items()})
        everything = [s for samples in splits.values() for s in samples]
        self.fingerprint = fingerprint(
            [path for s in everything for path in (*s.files.values(), s.label)],
            [s.id for s in everything],
            {name: len(samples) for name, samples in splits.items()},
            (plan.size, plan.train, plan.classes),
            {'network': network, 'layers': layers, 'width': width},
            content(Path(pretrained)),
        )
        files = {name: {s.id: s.files for s in samples} for name, samples in splits.items()}
        clusters = {name: [s.cluster for s in samples] for name, samples in splits.items()}
        copied = copied_files(root, files, duplicates)
        self.task = Task(
            self.name,
            'segmentation',
            tuple(Modality(s.name, (s.channels, *plan.size)) for s in plan.sensors),
            plan.classes,
            'mIoU',
            width,
            class_weights=self._class_weights() if self.weighted else (),
            network=network,
            depth=layers,
            pretrained='' if pretrained == 'none' else pretrained,
        )
        self.notes = (
            notes.found(self.task.modalities, splits),
            *copied,
            *shared(root, clusters, duplicates),
        )

    def _files(
        self,
        paths: list[Path],
        decode: Decoder,
        shape: tuple[int, ...],
        scale: Scaled | None = None,
    ) -> Files:
        return Files(paths, decode, shape, scale, self.cache, self.root / '.cache')

    def _labels(self, samples: Sequence[Sample], size: Size) -> Files:
        return self._files([s.label for s in samples], self.plan.labels(size), size)

    def _class_weights(self) -> tuple[float, ...]:
        """Returns median frequency / frequency of each class, over the training labels.

        The frequency of a class is its share of the labelled pixels of the images that show it
        (Eigen & Fergus, ICCV 2015, as in ESANet's code). A class that no image shows has weight 0.
        """
        # Counted whenever the data set is opened: a stored count could belong to other labels.
        count = len(self.plan.classes)
        samples = self.samples['train']
        labels = self._labels(samples, self.plan.source)
        pixels, shown = np.zeros(count), np.zeros(count)
        for k in range(len(samples)):
            found = labels[np.array([k])]
            here = np.bincount(found[found != 255], minlength=count)
            pixels += here
            shown += (here > 0) * here.sum()
        frequency = np.divide(pixels, shown, out=np.zeros(count), where=shown > 0)
        known = frequency > 0
        median = float(np.median(frequency[known]))
        weights = np.divide(median, frequency, out=np.zeros(count), where=known)
        return tuple(weights.tolist())

    def check(self) -> None:
        """Decodes all images and label maps once.

        Raises:
            UserError: A file is broken, of another size or of another kind; a label is no class; or
                a split has no labelled pixel.
        """
        plan = self.plan
        everything = [s for samples in self.samples.values() for s in samples]
        # At their own size, so that the option `size` does not make the files be read again.
        for sensor in plan.sensors:
            paths = [s.files[sensor.name] for s in everything]
            check_decoded(paths, sensor.decode(plan.source))
        shown = {}
        for name, samples in self.samples.items():
            maps = [s.label for s in samples]
            found = frozenset().union(*classes_in(maps, plan.labels(plan.source)))
            shown[name] = found - {VOID}
            if not shown[name]:
                raise UserError(
                    f'{self.root}: expected some labelled pixel in {name}, found void alone, e.g. '
                    f'in {maps[0]}'
                )
        self.notes = tuple(dict.fromkeys((*self.notes, *notes.labels(plan.classes, shown))))

    def split(self, name: str) -> Split:
        """Returns a split; no file of another split is read."""
        if name not in self.samples:
            raise unknown(f'split of {self.name}', name, self.samples)
        samples, plan = self.samples[name], self.plan
        train, clusters = name == 'train', [s.cluster for s in samples]
        size = plan.train if train else plan.size
        # Validation and test are scored at the labels' own resolution.
        labels = self._labels(samples, size if train else plan.source)
        return Split(
            inputs={s.name: self._images(s, samples, size) for s in plan.sensors},
            target=labels,
            available=np.ones((len(samples), len(plan.sensors)), bool),
            ids=np.array([s.id for s in samples]),
            clusters=np.array(clusters) if all(clusters) else None,
            augment=self._augmentation() if train else None,
        )

    def _images(self, sensor: Sensor, samples: Sequence[Sample], size: Size) -> Rows:
        paths, shape = [s.files[sensor.name] for s in samples], (sensor.channels, *size)
        return self._files(paths, sensor.decode(size), shape, sensor.scaled)

    def _augmentation(self) -> Compose:
        nearest = tuple(s.name for s in self.plan.sensors if s.nearest)
        geometric = Geometric(self.plan.size, scale=self.plan.scale, nearest=nearest)
        return Compose(geometric, ColourJitter('rgb', *IMAGENET))
