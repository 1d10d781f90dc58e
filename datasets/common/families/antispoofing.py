"""Face presentation attack detection from aligned colour, depth and infrared images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.dataset import SPLITS, Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.augment.transforms import Geometric
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copied_files, shared
from datasets.common.io.files import Cache, Files, fingerprint
from datasets.common.io.images import ImageFile8, Scaled, image_side
from datasets.common.io.inspection import check_decoded
from datasets.common.io.splits import check_disjoint

MODALITIES = ('rgb', 'depth', 'ir')
SIZE = 112
"""Side of the network's input in pixels; training cuts it from images of 9/7 the side, 144."""


class Face(NamedTuple):
    """One sample.

    Attributes:
        id: Name, unique in the data set.
        files: Modality -> image.
        live: Whether it shows a live person rather than an attack.
        person: Name of the person, '' where the data do not tell it.
    """

    id: str
    files: dict[str, Path]
    live: bool
    person: str = ''


class FaceImages(Dataset):
    """Base of the data sets on which MMANet and DMRNet detect presentation attacks.

    The recipe is that of the released code of MMANet and DMRNet. Every modality is read as three
    channels and normalised as (x - 127.5) / 128. Training images are resized to 144 pixels, rotated
    by up to 30 degrees and cropped to 112, all modalities of a sample alike. SGD trains ResNet-18
    encoders (`Task.width` 64) from random initial weights for 100 epochs.

    Args:
        splits: 'train', 'val', 'test' -> samples.
        root: The data root.
        aside: Files below the root that are no frames.
        size: Side of the network's input in pixels.
        width: Channels of the encoders' first stage.
        cache: Where decoded images are kept: nowhere, in memory or in files below the root.
        duplicates: Whether samples of two splits whose files are equal, and persons with
            samples in two splits, are reported or refused.

    Raises:
        UserError: A file is missing, a sample is listed twice, a split lacks live faces or attacks,
            `size` is no side of an image, or copies are refused.
    """

    recipe = {
        'epochs': 100,
        'batch_size': 64,
        'optimizer': 'SGD',
        'lr': 1e-3,
        'weight_decay': 5e-4,
        'momentum': 0.9,
        'schedule': 'step',
        'warmup': 5.0,
    }
    streams = True

    def __init__(
        self,
        splits: Mapping[str, Sequence[Face]],
        root: Path,
        aside: Sequence[Path],
        *,
        size: int = SIZE,
        width: int = 64,
        cache: Cache = 'none',
        duplicates: Duplicates = 'report',
    ) -> None:
        self.root, self.samples, self.cache = root, splits, cache
        self.size = image_side(self.name, size)
        self._check()
        everything = [face for name in SPLITS for face in splits[name]]
        self.fingerprint = fingerprint(
            [face.files[m] for m in MODALITIES for face in everything],
            [(face.id, face.live) for face in everything],
            {name: len(faces) for name, faces in splits.items()},
            (size, width),
        )
        files = {name: {face.id: face.files for face in faces} for name, faces in splits.items()}
        persons = {name: [face.person for face in faces] for name, faces in splits.items()}
        copied = copied_files(root, files, duplicates)
        shape = (3, size, size)
        modalities = tuple(Modality(m, shape) for m in MODALITIES)
        classes = ('attack', 'live')
        self.task = Task(self.name, 'classification', modalities, classes, 'ACER', width)
        found = notes.found(modalities, splits)
        left = notes.aside(str(file.relative_to(root)) for file in aside)
        self.notes = (found, *left, *copied, *shared(root, persons, duplicates))

    def _check(self) -> None:
        check_disjoint(self.root, {k: [f.id for f in v] for k, v in self.samples.items()})
        for name, faces in self.samples.items():
            for live, kind in ((True, 'live face'), (False, 'attack')):
                if not any(face.live == live for face in faces):
                    raise UserError(f'{self.root}: expected some {kind} in {name}, found none')

    def check(self) -> None:
        """Decodes all images once.

        Raises:
            UserError: A file is broken, or no image that can be read in full.
        """
        everything = [face for faces in self.samples.values() for face in faces]
        # One size for every `size`, which therefore does not make the files be read again.
        check_decoded(
            [face.files[m] for face in everything for m in MODALITIES], ImageFile8((SIZE, SIZE))
        )

    def split(self, name: str) -> Split:
        """Returns a split; no file of another split is read."""
        if name not in self.samples:
            raise unknown(f'split of {self.name}', name, self.samples)
        faces = self.samples[name]
        train = name == 'train'
        side = self.size * 9 // 7 if train else self.size
        return Split(
            inputs={m: self._images([f.files[m] for f in faces], side) for m in MODALITIES},
            target=np.array([face.live for face in faces], np.int64),
            available=np.ones((len(faces), len(MODALITIES)), bool),
            ids=np.array([face.id for face in faces]),
            clusters=np.array([f.person for f in faces]) if all(f.person for f in faces) else None,
            augment=Geometric((self.size, self.size), rotate=30, canvas=0.8) if train else None,
        )

    def _images(self, paths: list[Path], side: int) -> Files:
        decode, scale = ImageFile8((side, side)), Scaled(127.5, 128)
        folder = self.root / '.cache'
        return Files(paths, decode, (3, side, side), scale, self.cache, folder)
