"""Cityscapes: street scenes in colour and stereo depth, 19 classes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from benchmark.errors import UserError
from benchmark.registry import DATASETS
from datasets.common.families.rgbd import Layout, Scene, Scenes
from datasets.common.io import notes
from datasets.common.io.files import data_root, lines
from datasets.common.io.folders import walk
from datasets.common.io.images import DepthArray, DepthFile16, Scaled, encoded, image_size
from datasets.common.io.inspection import not_finite
from datasets.common.io.splits import set_apart
from datasets.common.prepare.archives import Official
from datasets.common.prepare.preparation import Preparation

SOURCE = (1024, 2048)
CLASSES = {
    'road': 7,
    'sidewalk': 8,
    'building': 11,
    'wall': 12,
    'fence': 13,
    'pole': 17,
    'traffic light': 19,
    'traffic sign': 20,
    'vegetation': 21,
    'terrain': 22,
    'sky': 23,
    'person': 24,
    'rider': 25,
    'car': 26,
    'truck': 27,
    'bus': 28,
    'train': 31,
    'motorcycle': 32,
    'bicycle': 33,
}
"""The classes that are evaluated, with their values in the official label files."""

HELD_OUT = ('tubingen', 'ulm', 'weimar', 'zurich')
"""Cities of the official training split that are the validation split here."""

DEPTHS = {'depth': 'depth_raw', 'disparity': 'disparity_raw'}
"""Option `depth` -> folder of the files."""

FARTHEST = 300
"""Greater depths, in metres, are taken for errors of the stereo matching."""


@DATASETS.register_module('cityscapes')
class Cityscapes(Scenes):
    """Cityscapes (Cordts et al., CVPR 2016) with depth from its disparity maps.

    The recipe is ESANet's, which MMANet follows: ResNet-50 encoders with ImageNet weights, 300
    epochs of Adam with a one-cycle schedule, zoom by 0.5 to 2 and crops of 512 x 1024 pixels. The
    test split is the official validation split of 500 images, whose labels are public. The
    validation split consists of the cities Tubingen, Ulm, Weimar and Zurich of the official
    training split. At test the network's input has 512 x 1024 pixels, and its logits are resized
    to the labels' 1024 x 2048; MMANet's released code tests at the full resolution. The context
    module pools to grids of 1 and 5, as on NYUv2; in the papers it pools to 1, 2, 4 and 8 on this
    data set. Disparity is computed from the colour image and the second image of a stereo pair, so
    that it is no independent sensor. Files are named <city>_<sequence>_<frame>; the clusters of
    tests of significance are the sequences.

    The root is what ESANet's preparation and `datasets/prepare.py cityscapes` write: the lists
    `{train,valid}_{rgb,depth_raw,disparity_raw,labels_19}.txt` name files `<city>/<file>` below
    `{train,valid}/{rgb,depth_raw,disparity_raw,labels_19}/`. Depth is stored in metres as .npy,
    disparity as the official 16-bit images, and labels as 8-bit images with 0 for void.

    Args:
        root: The prepared folder.
        depth: Whether the second modality is depth in metres or disparity.
        size: Height and width of the network's input in pixels, 'HxW'; training crops are cut from
            images with twice these sides.
        duplicates: Whether scenes of two splits whose images are equal, and sequences with
            scenes in two splits, are reported or refused.
        **shared: The other options of `Scenes`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'cityscapes'
    licence = 'non-commercial research, after registration'
    how_to_get = (
        'Download the archives leftImg8bit, gtFine, disparity and camera from the official site '
        'into one folder, zipped or unpacked, and run python datasets/prepare.py cityscapes on it.'
    )
    published_sizes = {'test': 500}
    recipe = {
        'epochs': 300,
        'batch_size': 8,
        'optimizer': 'Adam',
        'lr': 1e-4,
        'weight_decay': 1e-4,
        'schedule': 'onecycle',
    }

    def __init__(
        self,
        *,
        root: str = '',
        depth: Literal['depth', 'disparity'] = 'depth',
        size: str = '512x1024',
        **shared: Any,
    ) -> None:
        folder = data_root('cityscapes', root, self.how_to_get)
        if depth not in DEPTHS:
            raise UserError(f'cityscapes:depth: expected {" or ".join(DEPTHS)}, found {depth!r}')
        metres = depth == 'depth'
        side = image_size('cityscapes', size)
        layout = Layout(
            source=SOURCE,
            size=side,
            train=(2 * side[0], 2 * side[1]),
            scale=(0.5, 2.0),
            classes=tuple(CLASSES),
            depth=lambda s: DepthArray(s, SOURCE, FARTHEST) if metres else DepthFile16(s, SOURCE),
            scaled=Scaled(31.7156, 38.7028, 0) if metres else Scaled(9069.706, 7178.336, 0),
        )
        published = _scenes(folder, 'train', DEPTHS[depth])
        train, val = set_apart(published, lambda scene: _city(scene) in HELD_OUT)
        splits = {'train': train, 'val': val, 'test': _scenes(folder, 'valid', DEPTHS[depth])}
        super().__init__(splits, folder, layout, **shared)

    def check(self) -> None:
        """Decodes all images and label maps once, and counts depths that are not finite.

        Raises:
            UserError: See `Scenes.check`.
        """
        super().check()
        bad = {
            f'depth of {name}': sum(
                not_finite([s.depth for s in scenes if s.depth.suffix == '.npy'])
            )
            for name, scenes in self.samples.items()
        }
        self.notes = tuple(dict.fromkeys((*self.notes, *notes.replaced(bad, 'pixels'))))

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the root from the official archives or the folders unpacked from them."""
        kinds = ('leftImg8bit', 'gtFine', 'disparity', 'camera')
        found = {kind: dict(_official(work, kind)) for kind in kinds}
        scenes = {s: sorted(k for k in found['leftImg8bit'] if k[0] == s) for s in ('train', 'val')}
        for kind, files in found.items():
            for split, name in [k for s in scenes.values() for k in s if k not in files]:
                raise UserError(
                    f'{work.source}: expected {name} of {split} in {kind}, as leftImg8bit has it'
                )
        work.need(12 * 10**9 if sum(map(len, scenes.values())) > 100 else 0)
        with work.steps(sum(map(len, scenes.values())), 'images') as step:
            for split, keys in scenes.items():
                target = 'valid' if split == 'val' else split
                for key in keys:
                    _write_scene(work, target, key[1], {k: f[key] for k, f in found.items()})
                    step()
                _write_lists(work, target, [name for _, name in keys])
        work.finish({'train': len(scenes['train']), 'valid': len(scenes['val'])})


def _city(scene: Scene) -> str:
    return scene.id.partition('_')[0]


def _scenes(root: Path, split: str, depth: str) -> list[Scene]:
    kinds = ('rgb', depth, 'labels_19')
    listed = {kind: lines(root / f'{split}_{kind}.txt') for kind in kinds}
    names = {kind: [_frame(file) for file in files] for kind, files in listed.items()}
    for kind in kinds[1:]:
        file = root / f'{split}_{kind}.txt'
        if len(names[kind]) != len(names['rgb']):
            expected = f'{len(names["rgb"])} lines as {split}_rgb.txt'
            raise UserError(f'{file}: expected {expected}, found {len(names[kind])}')
        for k, (first, other) in enumerate(zip(names['rgb'], names[kind], strict=True), 1):
            if first != other:
                raise UserError(f'{file}: entry {k}: expected a file of {first}, found {other}')
    rows = zip(*listed.values(), strict=True)
    folders = [root / split / kind for kind in kinds]
    return [
        Scene(
            name, folders[0] / rgb, folders[1] / depth, folders[2] / label, name.rpartition('_')[0]
        )
        for name, (rgb, depth, label) in zip(names['rgb'], rows, strict=True)
    ]


def _frame(file: str) -> str:
    """Returns city_sequence_frame of a file's name."""
    return '_'.join(Path(file).name.split('_')[:3])


def _official(work: Preparation, kind: str) -> Iterator[tuple[tuple[str, str], Official]]:
    """Yields ((split, frame), file) from an archive or the folder unpacked from it."""
    path = work.find(kind, f'{kind}_trainvaltest.zip')
    wanted = 'gtFine_labelIds.png' if kind == 'gtFine' else ''
    if path.is_dir():
        files = [(f.relative_to(path).as_posix(), f) for f in walk(path)]
        every = [(name, Official(str(f), f.read_bytes)) for name, f in files]
    else:
        members = [(m.name.removeprefix(f'{kind}/'), m) for m in work.members(path)]
        every = [(name, Official(f'{path}: {m.name}', m.read)) for name, m in members]
    for name, file in every:
        split = name.partition('/')[0]
        if split in ('train', 'val') and name.endswith(wanted or ('.png', '.json')):
            yield (split, _frame(name)), file


def _write_scene(work: Preparation, split: str, name: str, official: dict[str, Official]) -> None:
    """Writes one scene's colour image, disparity, depth and labels."""
    files = {
        'rgb': (f'{name}_leftImg8bit.png', official['leftImg8bit'].read),
        'disparity_raw': (f'{name}_disparity.png', official['disparity'].read),
        'depth_raw': (f'{name}_depth.npy', lambda: _depth(official)),
        'labels_19': (f'{name}_gtFine_labelIds.png', lambda: official['gtFine'].decoded(_labels)),
    }
    city = name.partition('_')[0]
    for kind, (file, content) in files.items():

        def copy(path: Path, content: Callable[[], bytes] = content) -> None:
            path.write_bytes(content())

        work.write(f'{split}/{kind}/{city}/{file}', copy)


def _write_lists(work: Preparation, split: str, names: list[str]) -> None:
    endings = {
        'rgb': 'leftImg8bit.png',
        'disparity_raw': 'disparity.png',
        'depth_raw': 'depth.npy',
        'labels_19': 'gtFine_labelIds.png',
    }
    for kind, ending in endings.items():
        listed = ''.join(f'{name.partition("_")[0]}/{name}_{ending}\n' for name in names)
        work.write(f'{split}_{kind}.txt', listed.encode())


def _factor(camera: bytes) -> float:
    """Returns baseline x focal length, in metres x pixels."""
    parameters = json.loads(camera)
    factor = float(parameters['extrinsic']['baseline']) * float(parameters['intrinsic']['fx'])
    if not 0 < factor < math.inf:
        raise ValueError(f'expected baseline x fx above 0, found {factor}')
    return factor


def _depth(official: dict[str, Official]) -> bytes:
    """Returns depth in metres as a .npy file: baseline x focal length / disparity in pixels."""
    factor = official['camera'].decoded(_factor)
    raw = official['disparity'].decoded(_pixels).astype(np.float32)
    # Files store 256 d + 1, and 0 where the matching found nothing.
    pixels = (raw - 1) / 256
    metres = np.divide(factor, pixels, out=np.zeros_like(pixels), where=pixels > 0)
    # Half precision ends at 65504, far beyond `FARTHEST`.
    buffer = io.BytesIO()
    np.save(buffer, np.minimum(metres, 60000).astype(np.float16))
    return buffer.getvalue()


def _labels(official: bytes) -> bytes:
    """Returns the label image with 0 for void and 1 to 19."""
    table = np.zeros(256, np.uint8)
    table[list(CLASSES.values())] = np.arange(1, len(CLASSES) + 1)
    return encoded(table[_pixels(official)])


def _pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)))
