"""NYU Depth v2: indoor scenes in colour and depth, 40 or 13 classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.errors import UserError
from benchmark.missing import derive
from benchmark.names import check_classes
from benchmark.registry import DATASETS
from datasets.common.families.rgbd import Layout, Scene, Scenes
from datasets.common.io.files import data_root, lines
from datasets.common.io.images import DepthFile16, Scaled, encoded, image_size
from datasets.common.io.optional import package
from datasets.common.io.paths import has_file
from datasets.common.io.splits import set_apart
from datasets.common.prepare.preparation import Preparation

SOURCE = (480, 640)
DEPTHS = ('depth', 'depth_raw')
PLACES = 'scenes.txt'
BLOCK, HELD_OUT = 20, 0.1
"""Blocks of 20 frame numbers are held out for validation, since neighbours often show one room."""


@DATASETS.register_module('nyuv2')
class NYUv2(Scenes):
    """NYU Depth v2 (Silberman et al., ECCV 2012), the 795 / 654 labelled frames.

    The recipe is ESANet's, which MMANet and DMRNet follow: ResNet-50 encoders with ImageNet
    weights, 300 epochs of SGD with a one-cycle schedule, zoom by 1 to 1.4, colour jitter, class
    weights by median frequency, and mIoU at 480 x 640 pixels. The papers have no validation split
    and select the epoch on the test split. Here about a tenth of the training frames validates:
    the blocks of 20 frame numbers whose hash is below 0.1. Classes that neither occur nor are
    predicted are left out of mIoU, as in mmsegmentation.

    The root is what ESANet's preparation and `datasets/prepare.py nyuv2` write: the lists
    `train.txt` and `test.txt`, and the images
    `{train,test}/{rgb,depth,depth_raw,labels_40,labels_13}/<frame>.png`. Depth is stored in
    millimetres as 16-bit images, labels as 8-bit images with 0 for void. A file `scenes.txt`, which
    `datasets/prepare.py` adds where the archive names the scenes, has lines `FRAME SCENE`; the
    clusters of tests of significance are the scenes, such as `kitchen_0004`. Without the file no
    clusters are known, and a test takes every frame for a sample of its own.

    Args:
        root: The prepared folder.
        classes: Number of classes.
        depth: Whether holes in the depth images are filled in by the data set's authors (`depth`)
            or left (`depth_raw`).
        size: Height and width of the network's input in pixels, 'HxW'.
        duplicates: What becomes of equal images in two splits, and of scenes such as `kitchen_0004`
            with images in two splits: 'report' names them, 'refuse' ends the command.
        **shared: The other options of `Scenes`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'nyuv2'
    licence = "research; see the data set's page at New York University"
    how_to_get = (
        'Put nyu_depth_v2_labeled.mat, splits.mat, classMapping40.mat and class13Mapping.mat into '
        'one folder, and run python datasets/prepare.py nyuv2 on it.'
    )
    published_sizes = {'test': 654}
    weighted = True
    recipe = {
        'epochs': 300,
        'batch_size': 8,
        'optimizer': 'SGD',
        'lr': 0.01,
        'weight_decay': 1e-4,
        'momentum': 0.9,
        'schedule': 'onecycle',
    }

    def __init__(
        self,
        *,
        root: str = '',
        classes: Literal[40, 13] = 40,
        depth: Literal['depth', 'depth_raw'] = 'depth',
        size: str = '480x640',
        **shared: Any,
    ) -> None:
        folder = data_root('nyuv2', root, self.how_to_get)
        if classes not in (40, 13):
            raise UserError(f'nyuv2:classes: expected 40 or 13, found {classes}')
        if depth not in DEPTHS:
            raise UserError(f'nyuv2:depth: expected {" or ".join(DEPTHS)}, found {depth!r}')
        side = image_size('nyuv2', size)
        names = tuple(f'class {k}' for k in range(1, classes + 1))
        layout = Layout(
            source=SOURCE,
            size=side,
            train=side,
            scale=(1.0, 1.4),
            classes=_names(folder / f'class_names_1+{classes}.txt', names),
            depth=lambda s: DepthFile16(s, SOURCE),
            scaled=Scaled(2841.949, 1417.259, hole=0),
        )
        splits = _splits(folder, depth, f'labels_{classes}')
        super().__init__(splits, folder, layout, **shared)

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the root from the official MATLAB files."""
        h5py, scipy_io = package('h5py', 'nyuv2'), package('scipy.io', 'nyuv2')
        mat = work.find('nyu_depth_v2_labeled.mat')
        maps = _mappings(work, scipy_io)
        work.need(3 * 10**9)
        try:
            with h5py.File(mat, 'r') as file:
                _write_frames(work, file, *maps)
        except (OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            text = f'{mat}: expected the labelled data set, broken or other: {error}'
            raise UserError(text) from None


def _names(file: Path, default: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of the classes without void, from the file where the root has one."""
    if not has_file(file):
        return default
    found = tuple(lines(file))[1:]
    if len(found) != len(default):
        raise UserError(f'{file}: expected void and {len(default)} names, found {len(found) + 1}')
    check_classes(str(file), found)
    return found


def _splits(root: Path, depth: str, labels: str) -> dict[str, list[Scene]]:
    published = _scenes(root, 'train', depth, labels)
    train, val = set_apart(published, lambda scene: _held_out(scene.id))
    return {'train': train, 'val': val, 'test': _scenes(root, 'test', depth, labels)}


def _held_out(frame: str) -> bool:
    # This is not `splits.held_out`: another hash would give other splits than earlier records have.
    return derive(0, 'nyuv2 validation', int(frame) // BLOCK) % 1000 < 1000 * HELD_OUT


def _places(file: Path) -> dict[str, str]:
    """Returns frame -> the scene that it shows, empty where the root does not tell it."""
    rows = [line.split() for line in lines(file)] if has_file(file) else []
    for row in rows:
        if len(row) != 2:
            raise UserError(f'{file}: expected FRAME SCENE in every line, found {" ".join(row)!r}')
    return {frame: scene for frame, scene in rows}


def _scenes(root: Path, split: str, depth: str, labels: str) -> list[Scene]:
    file = root / f'{split}.txt'
    places = _places(root / PLACES)
    scenes = []
    for stem in lines(file):
        if not stem.isdigit():
            raise UserError(f'{file}: expected frame numbers, found {stem!r}')
        rgb, depths, label = (
            root / split / kind / f'{stem}.png' for kind in ('rgb', depth, labels)
        )
        scenes.append(Scene(stem, rgb, depths, label, places.get(stem, '')))
    return scenes


def _mappings(
    work: Preparation, scipy_io: Any
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Returns split -> frame numbers from 1, and the tables 894 -> 40 and 40 -> 13 classes."""
    found = []
    for name, key in (
        ('splits.mat', 'trainNdxs'),
        ('classMapping40.mat', 'mapClass'),
        ('class13Mapping.mat', 'classMapping13'),
    ):
        path = work.find(name)
        try:
            content = scipy_io.loadmat(path)
        except Exception as error:  # scipy raises many kinds of errors on other files
            raise UserError(f'{path}: expected a MATLAB file: {error}') from None
        if key not in content:
            raise UserError(f'{path}: expected a variable {key!r}')
        found.append(content)
    splits = {s: found[0][f'{s}Ndxs'].ravel() for s in ('train', 'test')}
    to_40 = np.concatenate([[0], found[1]['mapClass'].ravel()]).astype(np.uint8)
    to_13 = np.concatenate([[0], found[2]['classMapping13'][0, 0][0].ravel()]).astype(np.uint8)
    return splits, to_40, to_13


def _write_frames(
    work: Preparation,
    file: Any,
    splits: dict[str, np.ndarray],
    to_40: np.ndarray,
    to_13: np.ndarray,
) -> None:
    """Writes every frame; the axes of MATLAB's arrays are reversed in HDF5."""
    images: dict[str, Callable[[int], np.ndarray]] = {
        'rgb': lambda k: file['images'][k].transpose(2, 1, 0),
        'depth': lambda k: _millimetres(file['depths'][k]),
        'depth_raw': lambda k: _millimetres(file['rawDepths'][k]),
        'labels_40': lambda k: to_40[file['labels'][k].T],
        'labels_13': lambda k: to_13[to_40[file['labels'][k].T]],
    }

    def write(image: Callable[[int], np.ndarray], number: int, path: Path) -> None:
        # Reading and encoding wait until here, so that files of an earlier run cost no time.
        path.write_bytes(encoded(image(number - 1)))

    with work.steps(sum(map(len, splits.values())), 'frames') as step:
        for split, numbers in splits.items():
            for number in map(int, numbers):
                for kind, image in images.items():
                    name = f'{split}/{kind}/{number:04d}.png'
                    work.write(name, functools.partial(write, image, number))
                step()
            listed = ''.join(f'{int(n):04d}\n' for n in numbers)
            work.write(f'{split}.txt', listed.encode())
    if 'scenes' in file:
        places = _named_scenes(file)
        every = sorted(int(n) for numbers in splits.values() for n in numbers)
        named = ''.join(f'{n:04d} {places[n - 1]}\n' for n in every)
        work.write(PLACES, named.encode())
    work.finish({split: len(numbers) for split, numbers in splits.items()})


def _named_scenes(file: Any) -> list[str]:
    """Returns the scene of each frame; a cell of MATLAB is a reference to its characters."""
    cells = file['scenes'][()].ravel()
    return [''.join(map(chr, file[cell][()].ravel())) for cell in cells]


def _millimetres(metres: np.ndarray) -> np.ndarray:
    return (metres.T * 1000).astype(np.uint16)
