"""A user's own images for a trained network: inputs alone, or with labels to score it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.dataset import SPLITS, Intake, Rows, Split, Unseen, no_target
from benchmark.errors import UserError, unknown
from benchmark.files import writing
from benchmark.method import Modality
from datasets.common.families.image_folders import FILES, LABELS, MAPS, TABLE, listed
from datasets.common.families.image_labels import Sizes, map_values, number
from datasets.common.families.unneeded import check_spelling
from datasets.common.io import inspection, notes
from datasets.common.io.any_image import AnyImage
from datasets.common.io.files import Files, lines
from datasets.common.io.folders import entries, is_litter
from datasets.common.io.images import LabelFile, Scaled, encoded
from datasets.common.io.paths import check_folder, has_file, has_folder
from datasets.common.io.pictures import resized
from datasets.common.io.splits import check_disjoint
from datasets.common.io.tables import read_table, stem
from datasets.common.meaning import Meaning, meaning_of

Images = Mapping[str, Mapping[str, Path]]
"""Modality -> sample -> image."""


def unseen_images(root: Path, intake: Intake, labelled: bool, part: str) -> Unseen:
    """Opens images in the layout of `datasets.folders.Folders`; labels and splits may lack.

    The arguments and errors are those of `benchmark.dataset.Dataset.unseen`.
    """
    task = intake.task
    check_folder(root)
    images = {m: listed(root / m) if has_folder(root / m) else {} for m in task.names}
    every = sorted(set().union(*images.values()))
    aside = [path for path in entries(root) if path.name not in (*task.names, LABELS, *FILES)]
    aside = [path for path in aside if not is_litter(path.name)]
    lacking = {m for m, files in images.items() if not files}
    check_spelling(str(root), [path.name for path in aside if path.is_dir()], lacking)
    if not every:
        raise UserError(f'{root}: expected images in some of {", ".join(task.names)}/, found none')
    samples = _of_part(root, every, part)
    sizes, told = _looked_at(images, samples, intake)
    decoders = {m.name: _decoder(m, intake) for m in task.modalities}
    scales = {m: Scaled.of(facts) for m, facts in intake.preparation.items()}
    split = Split(
        inputs={
            m.name: Files(
                # The path of a missing file is never read; it only keeps the place.
                [images[m.name].get(s, root / m.name / s) for s in samples],
                decoders[m.name],
                m.shape,
                scales[m.name],
            )
            for m in task.modalities
        },
        target=_target(root, intake, samples, sizes) if labelled else no_target(task, len(samples)),
        available=np.array([[s in images[m] for m in task.names] for s in samples]),
        ids=np.array(samples),
    )
    told += notes.lacking({m: sum(s not in images[m] for s in samples) for m in images}, samples)
    told += notes.part(part or 'test', len(samples), len(every))
    told += notes.aside(path.name for path in aside)
    save = functools.partial(_save, images, decoders, meaning_of(intake))
    return Unseen(split, save if task.kind == 'segmentation' else None, told)


def _looked_at(images: Images, samples: Sequence[str], intake: Intake) -> tuple[Sizes, list[str]]:
    """Decodes all images once and checks that their numbers are of the type of the training's.

    Returns:
        Sample -> modality -> (H, W) of its image, and what the user ought to know, in lines.

    Raises:
        UserError: An image is broken or has numbers of another type.
    """
    sizes: dict[str, dict[str, tuple[int, int]]] = {s: {} for s in samples}
    numbers: dict[str, str] = {}
    for name, files in images.items():
        there = [s for s in samples if s in files]
        paths = [files[s] for s in there]
        pictures = inspection.pictures_of(paths, intake.options.get('layout', ''))
        for sample, picture in zip(there, pictures, strict=True):
            sizes[sample][name] = picture.shape[1:]
        trained = intake.preparation[name].get('numbers')
        if trained:
            inspection.check_numbers(paths, pictures, trained, f'as {name} had in the training')
        elif paths:
            inspection.check_numbers(paths, pictures, pictures[0].numbers, f'like {paths[0].name}')
            numbers[name] = pictures[0].numbers
    return sizes, notes.unchecked(numbers)


def _decoder(modality: Modality, intake: Intake) -> AnyImage:
    """Returns the decoder of the training."""
    options, given = intake.options, intake.options.get('size')
    size = (modality.shape[1], modality.shape[2]) if given else None
    nearest = modality.name in str(options.get('nearest', '')).split('+')
    dtype = intake.preparation[modality.name]['dtype']
    return AnyImage(size, nearest, options.get('layout', ''), dtype)


def _of_part(root: Path, samples: list[str], part: str) -> list[str]:
    """Returns the samples that are asked for."""
    if part == 'all':
        return samples
    wanted = part or 'test'
    file, where = root / f'{wanted}.txt', root / TABLE
    folders = {s.partition('/')[0] if '/' in s else '' for s in samples}
    if folders <= set(SPLITS):
        found = [s for s in samples if s.startswith(f'{wanted}/')]
    elif has_file(file):
        found = [stem(s) for s in lines(file)]
    elif has_file(where) and 'split' in (rows := read_table(where))[0]:
        found = [row['sample'] for row in rows if row['split'] == wanted]
    elif part or folders & set(SPLITS) or any(has_file(root / f'{s}.txt') for s in SPLITS):
        # Without a part, all samples would be those of the training as well.
        raise UserError(
            f'{root}: expected all samples in sub-folders train, val and test, a list '
            f'{wanted}.txt or a column split in {TABLE}, found none; --split all takes all samples'
        )
    else:
        return samples
    check_disjoint(root, {wanted: found})
    for sample in found:
        if sample not in samples:
            raise UserError(f'{root}: expected some image of sample {sample!r}, found none')
    return found


def _target(root: Path, intake: Intake, samples: Sequence[str], sizes: Sizes) -> Rows:
    """Returns the labels of samples, whose images have these sizes."""
    task = intake.task
    found: Mapping[str, Any]
    if task.kind == 'segmentation':
        found = listed(root / LABELS, MAPS)
    else:
        found = {row['sample']: row['label'] for row in read_table(root / TABLE)}
    for sample in samples:
        if sample not in found:
            raise UserError(f'{root}: expected a label of sample {sample!r} to score, found none')
    if task.kind == 'segmentation':
        map_values({s: found[s] for s in samples}, sizes)
        size = (task.modalities[0].shape[1], task.modalities[0].shape[2])
        decode = LabelFile(size, len(task.classes), meaning_of(intake).table(len(task.classes)))
        return Files([found[s] for s in samples], decode, size)
    if task.kind == 'regression':
        return np.array([[number(root, s, str(found[s]))] for s in samples])
    if task.kind == 'multilabel':
        each = [{*str(found[s]).split('|')} - {'-', ''} for s in samples]
        for word in sorted(set().union(*each) - {*task.classes})[:1]:
            raise unknown(f'label in {root / TABLE}', word, task.classes)
        return np.array([[name in words for name in task.classes] for words in each], np.uint8)
    for sample in samples:
        if found[sample] not in task.classes:
            raise unknown(f'label in {root / TABLE}', str(found[sample]), task.classes)
    return np.array([task.classes.index(found[s]) for s in samples])


def _save(
    images: Images,
    decoders: Mapping[str, AnyImage],
    meaning: Meaning,
    folder: Path,
    name: str,
    labels: np.ndarray,
) -> Path:
    """Writes a label map (H, W) as large as the image of its sample.

    Args:
        images: Those of all samples.
        decoders: Modality -> its decoder.
        meaning: What the numbers in label maps mean, which are written.
        folder: Takes the file.
        name: The sample.
        labels: Its labels at the size of the network.
    """
    modality, file = next((m, files[name]) for m, files in images.items() if name in files)
    size = labels.shape
    if decoders[modality].size is not None:
        size = decoders[modality].stored(file).shape[1:]
    values = meaning.numbers(labels)
    # Pillow resizes 32 bits and 8, but not 16.
    image = Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.int32))
    shown = np.asarray(resized(image, (size[0], size[1]), nearest=True)).astype(values.dtype)
    path = folder / f'{name}.png'
    with writing(path) as out:
        out.write(encoded(shown))
    return path
