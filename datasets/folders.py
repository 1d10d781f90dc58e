"""A user's own images: a folder per modality with files of the same names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from benchmark.dataset import VOID, Dataset, Intake, Preparation, Rows, Split, Unseen
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.missing import derive
from benchmark.narrowed import named
from benchmark.registry import DATASETS
from datasets.common.augment.transforms import Geometric
from datasets.common.class_weights import ClassWeights, weights_of
from datasets.common.families.array_targets import scale_of
from datasets.common.families.image_folders import TABLE, common_size, read_folder, size_of, some_of
from datasets.common.families.image_labels import map_classes, shown, table_classes, table_targets
from datasets.common.families.unseen_images import unseen_images
from datasets.common.io import inspection, notes
from datasets.common.io.any_image import AnyImage
from datasets.common.io.copies import Duplicates, copied_files, shared
from datasets.common.io.files import Cache, Files, data_root, fingerprint
from datasets.common.io.images import LabelFile, Scaled
from datasets.common.io.layouts import Layout
from datasets.common.io.rows import moments, spread
from datasets.common.meaning import Meaning
from datasets.common.recipe import recipe

MEASURED = 200
"""Number of training samples whose pixels give each modality's mean and standard deviation."""


@DATASETS.register_module('folders')
class Folders(Dataset):
    """Images in a folder per modality, with label maps or a table of labels.

    The root holds `<modality>/<sample>.png` (png, jpg, tif, bmp or npy, with any number of
    channels): each modality has a folder of its own name, and the images of one sample have the
    same name in all of them. An image that cannot be read in full, such as one of several pages or
    with colours of 16 bits, is an error; an .npy file can hold it. The EXIF orientation of a photo
    is applied. The root also holds either `labels/<sample>.png`, label maps in which 255 is ignored
    (segmentation) and which are as large as an image of their sample, or `labels.csv` with the
    columns `sample,label` (classification). A column `cluster` may name the person or video that a
    sample comes from.

    The splits are sub-folders `train`, `val` and `test` in every folder, as in mmsegmentation, or
    lists `train.txt`, `val.txt` and `test.txt` of samples, or a column `split` in `labels.csv`.
    Without a validation split, the training samples whose names have a hash below 0.15 validate.
    `classes.txt`, with one name per line, names the classes of label maps; without it they are the
    numbers from 0 to the greatest label of the training split.

    Inputs are standardised per channel, by the pixels of 200 training samples, before they are
    rounded to float32. A channel that does not vary in the training samples becomes 0.

    All files are decoded once when the data are opened, so that a broken one is found before the
    training; hidden files and folders are left out, and symbolic links are followed.

    Args:
        root: The folder.
        name: Name of the data set in tables and folders; the name of the root by default.
        size: Height and width to which all images and label maps are resized, 'HxW', at most
            8192 pixels each. By default nothing is resized, and all images must have one size.
        gaps: Whether the missing file of a modality is taken as a gap in the data; if not, it is an
            error. Samples without any image are then counted and left out.
        nearest: Modalities, joined by '+', that are resized to the nearest pixel, such as depth.
        modalities: The modalities to read, joined by '+'; by default every folder but `labels`.
        layout: Which axis of an .npy file of three axes holds the channels, where its shape leaves
            it open: 'channels_first' or 'channels_last'.
        binary: Whether label maps are binary masks, in which 255 is the foreground, class 1.
        duplicates: Whether samples, and clusters, that are in two splits are only reported
            ('report') or are an error ('refuse').
        augment: Whether training mirrors images at random.
        width: Channels of the encoders' first stage.
        cache: Where decoded images are kept: nowhere, in memory or in files below the root.
        class_weights: As in `arrays`: 'balanced', or a positive number for each class.
        ignore_label: As in `arrays`: the number in label maps that is left out, or 'none'.
        reduce_zero_label: As in `arrays`: whether 0 is left out, too, and k + 1 is class k.
        target: What the column `label` of `labels.csv` holds where it is no class: 'multilabel' for
            any number of labels, joined by '|', with '-' for none; or 'regression' for a number.

    Raises:
        UserError: The root is not laid out as above, or a file in it cannot be used.
    """

    licence = "whatever applies to the user's own data"
    how_to_get = (
        'Put the images of each modality into a folder of its own, with the same name for the same '
        'sample, and add labels/ with label maps or the table labels.csv.'
    )
    streams = True
    younger = ('class_weights', 'ignore_label', 'reduce_zero_label', 'target')

    def __init__(
        self,
        *,
        root: str = '',
        name: str = '',
        size: str = '',
        gaps: bool = False,
        nearest: str = '',
        modalities: str = '',
        layout: Layout = '',
        binary: bool = False,
        duplicates: Duplicates = 'report',
        augment: bool = True,
        width: int = 16,
        cache: Cache = 'none',
        class_weights: ClassWeights = '',
        ignore_label: int | None = VOID,
        reduce_zero_label: bool = False,
        target: Literal['', 'multilabel', 'regression'] = '',
    ) -> None:
        self.root = data_root('folders', root, self.how_to_get)
        self.name = name or self.root.resolve().name
        self.cache, self.augment, self.size = cache, augment, size_of(size)
        self.layout, self.meaning = layout, Meaning(ignore_label, reduce_zero_label, binary)
        self.found = read_folder(self.root, gaps, named(modalities, 'modalities'))
        self.nearest = some_of(nearest, self.found.images)
        self._measured: dict[str, Scaled] = {}
        self.types: dict[str, str] = {}
        self.numbers: dict[str, str] = {}
        self.spans: dict[str, np.ndarray] = {}
        self.constant: list[str] = []
        self.columns: dict[str, np.ndarray] = {}
        self.task = self._task(width, target)
        train = self.found.splits['train']
        given = class_weights, self.task, self._target(train), np.arange(len(train))
        self.task = dataclasses.replace(self.task, class_weights=weights_of(*given, str(self.root)))
        weighted = [x for x in (class_weights, target) if x]
        self.fingerprint = fingerprint(
            self.found.files(),
            (self.found.splits, self.task.classes, width, self.size, self.nearest, augment),
            (tuple(self.found.images), layout, binary, *self.meaning.options, *weighted),
            None if self.found.dense else self.found.names,
        )
        copied = copied_files(self.root, self._files(), duplicates)
        splits, of = self.found.splits.items(), self.found.clusters
        clusters = {name: [of.get(s, '') for s in samples] for name, samples in splits}
        copied += shared(self.root, clusters, duplicates)
        found = notes.found(self.task.modalities, self.found.splits)
        labels = []
        if not target:
            known = shown(self.found, self.task.classes, self.meaning)
            labels = notes.labels(self.task.classes, known)
        elif target == 'multilabel':
            labels = notes.several(self.task.classes, np.asarray(self._target(train)))
        samples = len(self.found.splits['train'])
        self.recipe, self.recipe_note = recipe(samples, 16 if self.found.dense else 64)
        self.notes = (found, *labels, *self.constant, *self.found.summary(), *copied)

    def _task(self, width: int, target: str) -> Task:
        sizes: dict[str, dict[str, tuple[int, int]]] = {}
        shapes = tuple(self._modality(name, sizes) for name in self.found.images)
        dense = self.found.dense
        if dense and common_size(shapes) is None:
            found = ', '.join(f'{m.name} {m.shape[1:]}' for m in shapes)
            raise UserError(
                f'{self.root}: expected images of one size, found {found}; use size=HxW'
            )
        if target or not dense:
            self.meaning.check_unused(str(self.root), f'target={target}' if target else TABLE)
        if target:
            return self._columns(target, shapes, width)
        if dense:
            classes = map_classes(self.root, self.found, sizes, self.meaning)
        else:
            classes = table_classes(self.root, self.found)
        kind, metric = ('segmentation', 'mIoU') if dense else ('classification', 'accuracy')
        return Task(self.name, kind, shapes, classes, metric, width)

    def _columns(self, kind: str, shapes: tuple[Modality, ...], width: int) -> Task:
        """Reads several labels or a number of each sample, and returns the task."""
        names, self.columns = table_targets(self.root, self.found, kind)
        if kind == 'multilabel':
            return Task(self.name, kind, shapes, names, 'F1', width)
        train = np.stack([self.columns[s] for s in self.found.splits['train']])
        return Task(self.name, kind, shapes, names, 'MAE', width, scale=scale_of(train))

    def _modality(self, name: str, sizes: dict[str, dict[str, tuple[int, int]]]) -> Modality:
        """Decodes all images of a modality once; fills in the (H, W) of each sample's image."""
        files, splits = self.found.images[name], self.found.splits
        known = [s for split in splits.values() for s in split if s in files]
        paths = [files[s] for s in known]
        pictures = inspection.pictures_of(paths, self.layout)
        first = pictures[0]
        inspection.check_numbers(paths, pictures, first.numbers, f'like {paths[0].name}')
        expected = (first.shape[0], *(self.size or first.shape[1:]))
        for sample, (shape, *_) in zip(known, pictures, strict=True):
            found = (shape[0], *(self.size or shape[1:]))
            if found != expected:
                hint = '' if self.size or found[0] != expected[0] else '; use size=HxW'
                raise UserError(
                    f'{files[sample]}: expected {expected} like {files[known[0]].name}, '
                    f'found {shape}{hint}'
                )
            sizes.setdefault(sample, {})[name] = shape[1:]
        self.types[name] = max(picture.dtype for picture in pictures)
        self.numbers[name] = first.numbers
        self._look_for_constants(name, dict(zip(known, pictures, strict=True)))
        return Modality(name, expected)

    def _look_for_constants(self, name: str, pictures: Mapping[str, inspection.Picture]) -> None:
        """Finds the channels that do not vary in the training samples."""
        train = set(self.found.splits['train'])
        chosen = [one for sample, one in pictures.items() if sample in train]
        spans = [_span(some, self.types[name]) for some in (chosen, list(pictures.values()))]
        constant, everywhere = (np.flatnonzero(np.isinf(span)).tolist() for span in spans)
        self.spans[name] = spans[0]
        varying = sorted(set(constant) - set(everywhere))
        self.constant += notes.constant(name, constant, varying, 'channel')

    def _decoder(self, modality: str) -> AnyImage:
        kind = self.types[modality]
        return AnyImage(self.size, modality in self.nearest, self.layout, kind)

    def _files(self) -> dict[str, dict[str, dict[str, Path]]]:
        """Returns split -> sample -> modality -> image, of those that a sample has."""
        images = self.found.images.items()
        return {
            name: {s: {m: files[s] for m, files in images if s in files} for s in samples}
            for name, samples in self.found.splits.items()
        }

    def split(self, name: str) -> Split:
        """Returns a split; of other splits only training images are read, for their statistics."""
        if name not in self.found.splits:
            raise unknown(f'split of {self.name}', name, self.found.splits)
        samples, images = self.found.splits[name], self.found.images
        size = common_size(self.task.modalities)
        mirrors = name == 'train' and self.augment
        return Split(
            inputs={m.name: self._rows(m, samples) for m in self.task.modalities},
            target=self._target(samples),
            available=np.array([[s in files for files in images.values()] for s in samples]),
            ids=np.array(samples),
            clusters=self._clusters(samples),
            augment=Geometric(size) if mirrors and size else None,
        )

    def _clusters(self, samples: Sequence[str]) -> np.ndarray | None:
        known = self.found.clusters
        return np.array([known[s] for s in samples]) if known else None

    def _target(self, samples: Sequence[str]) -> Rows:
        names, size = self.found.names, common_size(self.task.modalities)
        if self.found.dense and size:
            count = len(self.task.classes)
            decode = LabelFile(size, count, self.meaning.table(count))
            paths = [self.found.maps[s] for s in samples]
            return Files(paths, decode, size, cache=self.cache, cache_folder=self.root / '.cache')
        if self.columns:
            return np.stack([self.columns[s] for s in samples])
        index = {label: k for k, label in enumerate(self.task.classes)}
        return np.array([index[names[s]] for s in samples], np.int64)

    def preparation(self, split: Split) -> Preparation:
        """Returns the normalisation of the images, and the type of their numbers."""
        found = super().preparation(split)
        return {m: {**facts, 'numbers': self.numbers[m]} for m, facts in found.items()}

    @classmethod
    def unseen(cls, root: Path | None, intake: Intake, labelled: bool, part: str) -> Unseen:
        """Opens new images; labels, lists of splits and files of a modality need not exist."""
        return unseen_images(Path(root or ''), intake, labelled, part)

    def _rows(self, modality: Modality, samples: Sequence[str]) -> Files:
        files = self.found.images[modality.name]
        # The path of a missing file is never read; it only keeps the place.
        paths = [files.get(s, self.root / modality.name / s) for s in samples]
        decode, scale = self._decoder(modality.name), self._statistics(modality)
        return Files(paths, decode, modality.shape, scale, self.cache, self.root / '.cache')

    def _statistics(self, modality: Modality) -> Scaled:
        name = modality.name
        if name in self._measured:
            return self._measured[name]
        files = self.found.images[name]
        known = [s for s in self.found.splits['train'] if s in files]
        # The hash draws the samples, so that neither their order nor other data change the choice.
        chosen = sorted(known, key=lambda s: derive(0, 'measured', s))[:MEASURED]
        read = Files([files[s] for s in chosen], self._decoder(name), modality.shape)
        mean, std = (found.ravel() for found in moments(read, np.arange(len(read))))
        std = spread(mean, std, read.dtype)
        # A channel that varies in other training samples alone is divided by its range.
        std = np.where(np.isinf(std), self.spans[name], std)
        return self._measured.setdefault(name, Scaled(mean, std))


def _span(pictures: Sequence[inspection.Picture], dtype: str) -> np.ndarray:
    """Returns the range of each channel; infinity where it does not vary (`spread`)."""
    low = np.min([picture.low for picture in pictures], 0)
    high = np.max([picture.high for picture in pictures], 0)
    return spread(np.maximum(np.abs(low), np.abs(high)), high - low, dtype)
