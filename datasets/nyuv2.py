"""NYU Depth v2: indoor scenes in colour and depth, 40 or 13 classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.missing import derive
from benchmark.registry import DATASETS
from datasets.common.families.rgbd import Layout, Scene, Scenes
from datasets.common.io.files import data_root, lines
from datasets.common.io.images import DepthFile16, Scaled, encoded, image_size
from datasets.common.io.optional import package
from datasets.common.prepare.preparation import Preparation

SOURCE = (480, 640)
DEPTHS = ('depth', 'depth_raw')
BLOCK, HELD_OUT = 20, 0.1
"""Frames are held out for validation in blocks of neighbours, which often show one room."""


@DATASETS.register_module('nyuv2')
class NYUv2(Scenes):
    """NYU Depth v2 (Silberman et al., ECCV 2012), the 795 / 654 labelled frames.

    The recipe is ESANet's, which MMANet and DMRNet follow: ResNet-50 encoders with ImageNet
    weights, 300 epochs of SGD under a one-cycle schedule, zoom of 1 to 1.4, colour jitter, classes
    weighed by median frequency, mIoU at 480 x 640. The papers have no validation split and select
    on the test; here about a tenth of train, in blocks of 20 frame numbers that hash below 0.1,
    validates. mmsegmentation's mIoU leaves out classes that neither occur nor are predicted.

    The root is what ESANet's preparation and `datasets/prepare.py nyuv2` write: `train.txt`,
    `test.txt`, and `{train,test}/{rgb,depth,depth_raw,labels_40,labels_13}/<frame>.png`; depth in
    mm as 16 bits, labels as 8 bits with 0 for void.

    Args:
        root: The folder.
        classes: 40 or 13.
        depth: 'depth', which the data set's authors filled in, or 'depth_raw' with its holes.
        size: 'HxW' of the network's input.
        network: 'esanet' or 'pyramid'.
        layers: Layers of the ResNet encoders: 18, 34 or 50.
        pretrained: Their ImageNet weights, or 'none'.
        width: Channels of the encoders' first stage.
        cache: 'none', 'ram' or 'disk': whether decoded images are kept.

    Raises:
        UserError: The root is not as above.
    """

    name = 'nyuv2'
    licence = "research; see the data set's page at New York University"
    how_to_get = (
        'python datasets/prepare.py nyuv2 FOLDER TARGET, FOLDER holding nyu_depth_v2_labeled.mat, '
        'splits.mat, classMapping40.mat and class13Mapping.mat'
    )
    counts = {'test': 654}
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
        classes: int = 40,
        depth: str = 'depth',
        size: str = '480x640',
        network: str = 'esanet',
        layers: int = 50,
        pretrained: str = '',
        width: int = 64,
        cache: str = 'none',
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
        options = {'network': network, 'layers': layers, 'pretrained': pretrained}
        options |= {'width': width, 'cache': cache}
        splits = _splits(folder, depth, f'labels_{classes}')
        super().__init__(splits, folder, layout, options, weighted=True)

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
    """Returns the classes' names without void, where the preparation left them."""
    if not file.is_file():
        return default
    found = tuple(lines(file))[1:]
    if len(found) != len(default):
        raise UserError(f'{file}: expected void and {len(default)} names, found {len(found) + 1}')
    return found


def _splits(root: Path, depth: str, labels: str) -> dict[str, list[Scene]]:
    listed = {name: _scenes(root, name, depth, labels) for name in ('train', 'test')}
    held = [s for s in listed['train'] if _held_out(s.id)]
    return {
        'train': [s for s in listed['train'] if not _held_out(s.id)],
        'val': held,
        'test': listed['test'],
    }


def _held_out(frame: str) -> bool:
    return derive(0, 'nyuv2 validation', int(frame) // BLOCK) % 1000 < 1000 * HELD_OUT


def _scenes(root: Path, split: str, depth: str, labels: str) -> list[Scene]:
    file = root / f'{split}.txt'
    scenes = []
    for stem in lines(file):
        if not stem.isdigit():
            raise UserError(f'{file}: expected frame numbers, found {stem!r}')
        folders = (root / split / kind / f'{stem}.png' for kind in ('rgb', depth, labels))
        scenes.append(Scene(stem, *folders))
    return scenes


def _mappings(work: Preparation, scipy_io: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
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
        except Exception as error:  # whatever the reader raises on a file of another kind
            raise UserError(f'{path}: expected a MATLAB file: {error}') from None
        if key not in content:
            raise UserError(f'{path}: expected a variable {key!r}')
        found.append(content)
    splits = {s: found[0][f'{s}Ndxs'].ravel() for s in ('train', 'test')}
    to_40 = np.concatenate([[0], found[1]['mapClass'].ravel()]).astype(np.uint8)
    to_13 = np.concatenate([[0], found[2]['classMapping13'][0, 0][0].ravel()]).astype(np.uint8)
    return splits, to_40, to_13


def _write_frames(
    work: Preparation, file: Any, splits: dict[str, Any], to_40: np.ndarray, to_13: np.ndarray
) -> None:
    """Writes every frame; MATLAB's arrays come with their axes reversed."""
    images: dict[str, Callable[[int], np.ndarray]] = {
        'rgb': lambda k: file['images'][k].transpose(2, 1, 0),
        'depth': lambda k: _millimetres(file['depths'][k]),
        'depth_raw': lambda k: _millimetres(file['rawDepths'][k]),
        'labels_40': lambda k: to_40[file['labels'][k].T],
        'labels_13': lambda k: to_13[to_40[file['labels'][k].T]],
    }

    def write(image: Callable[[int], np.ndarray], number: int, path: Path) -> None:
        # Read and encoded here, so that what an earlier run has written costs nothing.
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
    work.finish({split: len(numbers) for split, numbers in splits.items()})


def _millimetres(metres: np.ndarray) -> np.ndarray:
    return (metres.T * 1000).astype(np.uint16)
