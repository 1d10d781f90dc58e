"""Segmentation of colour images with depth, in the recipe of ESANet and MMANet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from benchmark.dataset import VOID, Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.augment.transforms import ColourJitter, Compose, Geometric
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copied_files, shared
from datasets.common.io.files import Cache, Decoder, Files, content, fingerprint
from datasets.common.io.images import IMAGENET, ImageFile8, LabelFile, Scaled
from datasets.common.io.inspection import check_decoded, classes_in
from datasets.common.io.splits import check_disjoint

Size = tuple[int, int]


class Scene(NamedTuple):
    """One sample: its name, its files, and the place or recording that it is from, if known."""

    id: str
    rgb: Path
    depth: Path
    label: Path
    cluster: str = ''

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """Colour, depth and labels."""
        return self.rgb, self.depth, self.label


@dataclass(frozen=True)
class Layout:
    """What differs between the data sets of scenes.

    Attributes:
        source: (H, W) of the files.
        size: (H, W) of the network's input.
        train: (H, W) to which training images are resized before a crop of `size` is cut.
        scale: Smallest and greatest zoom factor in training.
        classes: Names of the K classes; label files hold 0 for void and 1 to K.
        depth: Returns the decoder of depth files for a size.
        scaled: Normalises depth.
    """

    source: Size
    size: Size
    train: Size
    scale: tuple[float, float]
    classes: tuple[str, ...]
    depth: Callable[[Size], Decoder]
    scaled: Scaled


class SceneOptions(TypedDict):
    """Options of the constructors of data sets of scenes.

    Attributes:
        network: Architecture of the segmentation network.
        layers: Number of layers of the ResNet encoders.
        pretrained: File of their ImageNet weights, 'none', or '' if the user named neither.
        width: Channels of the encoders' first stage.
        cache: Where decoded images are kept.
        duplicates: Whether copies and clusters in two splits are reported or refused.
    """

    network: str
    layers: int
    pretrained: str
    width: int
    cache: Cache
    duplicates: Duplicates


class Scenes(Dataset):
    """Base of NYUv2 and Cityscapes.

    Args:
        splits: 'train', 'val', 'test' -> scenes.
        root: The data root.
        layout: Sizes, classes and depth.
        options: The options of the subclass's constructor.
        weighted: Whether the loss weighs classes by median frequency.

    Raises:
        UserError: A file is missing, a scene is in two splits, `pretrained` is not given, or copies
            are refused.
    """

    streams = True

    def __init__(
        self,
        splits: Mapping[str, Sequence[Scene]],
        root: Path,
        layout: Layout,
        options: SceneOptions,
        weighted: bool,
    ) -> None:
        self.root, self.samples, self.layout = root, splits, layout
        self.cache = options['cache']
        pretrained = options['pretrained']
        if not pretrained:
            raise UserError(
                f'{self.name}: expected pretrained=FILE, ImageNet weights of a ResNet-'
                f'{options["layers"]} as the papers start from, or pretrained=none'
            )
        check_disjoint(root, {k: [s.id for s in v] for k, v in splits.items()})
        everything = [s for scenes in splits.values() for s in scenes]
        self.fingerprint = fingerprint(
            [path for s in everything for path in s.files],
            [s.id for s in everything],
            {name: len(scenes) for name, scenes in splits.items()},
            (layout.size, layout.train, layout.classes),
            {
                'network': options['network'],
                'layers': options['layers'],
                'width': options['width'],
            },
            content(Path(pretrained)),
        )
        files = {
            name: {scene.id: {'rgb': scene.rgb, 'depth': scene.depth} for scene in scenes}
            for name, scenes in splits.items()
        }
        clusters = {name: [scene.cluster for scene in scenes] for name, scenes in splits.items()}
        copied = copied_files(root, files, options['duplicates'])
        self.task = Task(
            self.name,
            'segmentation',
            (Modality('rgb', (3, *layout.size)), Modality('depth', (1, *layout.size))),
            layout.classes,
            'mIoU',
            options['width'],
            class_weights=self._class_weights() if weighted else (),
            network=options['network'],
            depth=options['layers'],
            pretrained='' if pretrained == 'none' else pretrained,
        )
        self.notes = (
            notes.found(self.task.modalities, splits),
            *copied,
            *shared(root, clusters, options['duplicates']),
        )

    def _labels(self, scenes: Sequence[Scene], size: Size) -> Files:
        return self._files([s.label for s in scenes], self._label_decoder(size), size)

    def _label_decoder(self, size: Size) -> LabelFile:
        count = len(self.layout.classes)
        table = [VOID, *range(count), *[-1] * (255 - count)]
        return LabelFile(size, count, table, self.layout.source)

    def _files(
        self,
        paths: list[Path],
        decode: Decoder,
        shape: tuple[int, ...],
        scale: Scaled | None = None,
    ) -> Files:
        return Files(paths, decode, shape, scale, self.cache, self.root / '.cache')

    def _class_weights(self) -> tuple[float, ...]:
        """Returns median frequency / frequency of each class, over the training labels.

        The frequency of a class is its share of the labelled pixels of the images that show it
        (Eigen & Fergus, ICCV 2015, as in ESANet's code). A class that no image shows has weight 0.
        """
        # Counted whenever the data set is opened: a stored count could belong to other labels.
        count = len(self.layout.classes)
        scenes = self.samples['train']
        labels = self._labels(scenes, self.layout.source)
        pixels, shown = np.zeros(count), np.zeros(count)
        for k in range(len(scenes)):
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
        layout = self.layout
        everything = [scene for scenes in self.samples.values() for scene in scenes]
        # At their own size, so that the option `size` does not make the files be read again.
        check_decoded([s.rgb for s in everything], ImageFile8(layout.source, source=layout.source))
        check_decoded([s.depth for s in everything], layout.depth(layout.source))
        shown = {}
        for name, scenes in self.samples.items():
            maps = [scene.label for scene in scenes]
            found = frozenset().union(*classes_in(maps, self._label_decoder(layout.source)))
            shown[name] = found - {VOID}
            if not shown[name]:
                raise UserError(
                    f'{self.root}: expected some labelled pixel in {name}, found void alone, e.g. '
                    f'in {maps[0]}'
                )
        self.notes = tuple(dict.fromkeys((*self.notes, *notes.labels(layout.classes, shown))))

    def split(self, name: str) -> Split:
        """Returns a split; no file of another split is read."""
        if name not in self.samples:
            raise unknown(f'split of {self.name}', name, self.samples)
        scenes, layout = self.samples[name], self.layout
        train, clusters = name == 'train', [s.cluster for s in scenes]
        size = layout.train if train else layout.size
        # Validation and test are scored at the labels' own resolution.
        labels = self._labels(scenes, size if train else layout.source)
        return Split(
            inputs={'rgb': self._rgb(scenes, size), 'depth': self._depth(scenes, size)},
            target=labels,
            available=np.ones((len(scenes), 2), bool),
            ids=np.array([s.id for s in scenes]),
            clusters=np.array(clusters) if all(clusters) else None,
            augment=self._augmentation() if train else None,
        )

    def _rgb(self, scenes: Sequence[Scene], size: Size) -> Rows:
        mean, std = IMAGENET
        scale = Scaled([255 * m for m in mean], [255 * s for s in std])
        decode = ImageFile8(size, source=self.layout.source)
        return self._files([s.rgb for s in scenes], decode, (3, *size), scale)

    def _depth(self, scenes: Sequence[Scene], size: Size) -> Rows:
        paths = [s.depth for s in scenes]
        return self._files(paths, self.layout.depth(size), (1, *size), self.layout.scaled)

    def _augmentation(self) -> Compose:
        geometric = Geometric(self.layout.size, scale=self.layout.scale, nearest=('depth',))
        return Compose(geometric, ColourJitter('rgb', *IMAGENET))
