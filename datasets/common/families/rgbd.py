"""Segmentation of colour images with depth, in the recipe of ESANet and MMANet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmark.dataset import VOID
from datasets.common.families.segmented import (
    COLOURS,
    Plan,
    Segmented,
    Sensor,
    Size,
)
from datasets.common.io.files import Decoder
from datasets.common.io.images import ImageFile8, LabelFile, Scaled


class Scene(NamedTuple):
    """One sample: its name, its files, and the place or recording that it is from, if known."""

    id: str
    rgb: Path
    depth: Path
    label: Path
    cluster: str = ''

    @property
    def files(self) -> dict[str, Path]:
        """Modality -> image."""
        return {'rgb': self.rgb, 'depth': self.depth}


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

    def plan(self) -> Plan:
        """Returns the layout of two sensors and of labels from 1."""
        return Plan(
            source=self.source,
            size=self.size,
            train=self.train,
            scale=self.scale,
            classes=self.classes,
            sensors=(
                Sensor('rgb', 3, lambda size: ImageFile8(size, source=self.source), COLOURS),
                Sensor('depth', 1, self.depth, self.scaled, nearest=True),
            ),
            labels=self._labels,
        )

    def _labels(self, size: Size) -> LabelFile:
        count = len(self.classes)
        table = [VOID, *range(count), *[-1] * (255 - count)]
        return LabelFile(size, count, table, self.source)


class Scenes(Segmented):
    """Base of NYUv2 and Cityscapes.

    Args:
        splits: 'train', 'val', 'test' -> scenes.
        root: The data root.
        layout: Sizes, classes and depth.
        network: Architecture of the segmentation network.
        **shared: The other options of `Segmented`.

    Raises:
        UserError: A file is missing, a scene is in two splits, `pretrained` is not given, or copies
            are refused.
    """

    samples: Mapping[str, Sequence[Scene]]

    def __init__(
        self,
        splits: Mapping[str, Sequence[Scene]],
        root: Path,
        layout: Layout,
        *,
        network: Literal['esanet', 'pyramid'] = 'esanet',
        **shared: Any,
    ) -> None:
        super().__init__(splits, root, layout.plan(), network=network, **shared)
