"""DeLiVER: simulated street scenes in colour, depth, events and lidar, 25 classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from benchmark.dataset import VOID
from benchmark.errors import UserError, unknown
from benchmark.registry import DATASETS
from datasets.common.families.segmented import (
    COLOURS,
    Frame,
    Plan,
    Segmented,
    Sensor,
    Size,
)
from datasets.common.io import notes
from datasets.common.io.files import data_root
from datasets.common.io.folders import entries, is_litter
from datasets.common.io.images import Scaled, image_size
from datasets.common.io.paths import has_file, has_folder
from datasets.common.io.sensor_images import Colours8, FirstChannel

SOURCE: Size = (1042, 1042)
LOW: Size = (512, 512)
"""Size of the event images of scenes whose event camera has a low resolution."""

CLASSES = (
    *('Building', 'Fence', 'Other', 'Pedestrian', 'Pole', 'RoadLine', 'Road', 'SideWalk'),
    *('Vegetation', 'Cars', 'Wall', 'TrafficSign', 'Sky', 'Ground', 'Bridge', 'RailTrack'),
    *('GroundRail', 'TrafficLight', 'Static', 'Dynamic', 'Water', 'Terrain', 'TwoWheeler', 'Bus'),
    'Truck',
)
TABLE = [VOID, *range(len(CLASSES)), *[-1] * (254 - len(CLASSES)), VOID]
"""Value in a label file -> class."""

FOLDERS = {
    'rgb': ('img', 'rgb'),
    'depth': ('hha', 'depth'),
    'event': ('event', 'event'),
    'lidar': ('lidar', 'lidar'),
}
"""Modality -> its folder, and the word in the names of its files."""

WEATHER = ('cloud', 'fog', 'night', 'rain', 'sun')
FAULTS = ('motionblur', 'overexposure', 'underexposure', 'lidarjitter', 'eventlowres')
Condition = Literal[
    'all',
    'cloud',
    'fog',
    'night',
    'rain',
    'sun',
    'motionblur',
    'overexposure',
    'underexposure',
    'lidarjitter',
    'eventlowres',
]


@DATASETS.register_module('deliver')
class Deliver(Segmented):
    """DeLiVER (Zhang et al., CVPR 2023), the front views, 3,983 / 2,005 / 1,897 images.

    The root is the folder DELIVER of the archive that the authors release: colour images
    `img/<weather>/<split>/<scene>/<frame>_rgb_front.png` with the weather cloud, fog, night, rain
    or sun, the splits train, val and test, and scenes such as `MAP_10_point102`, and in the same
    places `hha/.../<frame>_depth_front.png`, `event/.../<frame>_event_front.png`,
    `lidar/.../<frame>_lidar_front.png` and `semantic/.../<frame>_semantic_front.png`. Depth is read
    from `hha`, a coding of depth in three channels, as the authors' code does; `depth` is not read.
    All images have 1042 x 1042 pixels and 8 bits a channel, but for event images of 512 x 512
    pixels in scenes of low event resolution, which are enlarged by nearest pixels. The first
    channel of a label image holds 1 to 25 for the classes; 0 and 255 are ignored.

    Names of samples are `<weather>/<scene>/<frame>`. The names of scenes in which a sensor fails
    hold the failure, motionblur, overexposure, underexposure, lidarjitter or eventlowres, so that
    the outcomes of a run can be told apart by weather and failure; `condition` tests one alone. The
    clusters of tests of significance are the places, such as `MAP_10_point102`, under any weather
    and with or without a failure.

    The recipe is that of the paper's CMNeXt: 200 epochs of AdamW in batches of 8 (2 on each of four
    GPUs), a rate of 6e-5 that rises for 10 epochs and then falls with power 0.9, zoom by 0.5 to 2,
    crops of 1024 x 1024 pixels, colours normalised as in ImageNet and other values divided by 255.
    Departures: ResNet encoders instead of MiT-B2, the benchmark's loss instead of one that mines
    hard pixels, other changes of colour (`ColourJitter`) and no blur, and scores at the labels' own
    1042 x 1042 pixels instead of 1024 x 1024.

    Layout, classes and recipe were taken from the authors' released code, the sizes of images from
    other code that reads the data. No copy of the data was at hand: how failures are written in the
    names of scenes beside these words, and that other sensors' images are whole, could not be
    verified.

    Args:
        root: The folder that holds img, hha, event, lidar and semantic.
        size: Height and width of the network's input in pixels, 'HxW'.
        condition: The test images: all, or those of one weather or failure.
        duplicates: Whether images of two splits whose content is equal, and places with images in
            two splits, are reported or refused.
        **shared: The other options of `Segmented`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'deliver'
    licence = "that of the authors' repository, Apache-2.0; commercial use on request"
    how_to_get = (
        'Download the archive DELIVER, which the README of github.com/jamycheung/DELIVER links, '
        'and unpack it; the root holds the folders img, hha, event, lidar and semantic.'
    )
    published_sizes = {'train': 3983, 'val': 2005, 'test': 1897}
    recipe = {
        'epochs': 200,
        'batch_size': 8,
        'optimizer': 'AdamW',
        'lr': 6e-5,
        'weight_decay': 0.01,
        'schedule': 'poly',
        'warmup': 10.0,
    }

    def __init__(
        self,
        *,
        root: str = '',
        size: str = '1024x1024',
        condition: Condition = 'all',
        **shared: Any,
    ) -> None:
        folder = data_root('deliver', root, self.how_to_get)
        if condition not in get_args(Condition):
            raise unknown('condition of deliver', condition, get_args(Condition))
        side = image_size('deliver', size)
        empty: list[str] = []
        splits = {name: list(_frames(folder, name, empty)) for name in ('train', 'val', 'test')}
        if condition != 'all':
            splits['test'] = [f for f in splits['test'] if condition in _conditions(f)]
        super().__init__(splits, folder, _plan(side), **shared)
        self.notes = (*self.notes, *_counted(splits), *notes.told('scenes without an image', empty))


def _plan(side: Size) -> Plan:
    whole, plain = [SOURCE], Scaled(0, 255)
    events = [SOURCE, LOW]
    return Plan(
        source=SOURCE,
        size=side,
        train=side,
        scale=(0.5, 2.0),
        classes=CLASSES,
        sensors=(
            Sensor('rgb', 3, lambda size: Colours8(size, whole), COLOURS),
            Sensor('depth', 3, lambda size: Colours8(size, whole), plain),
            Sensor('event', 3, lambda size: Colours8(size, events), plain),
            Sensor('lidar', 3, lambda size: Colours8(size, whole), plain),
        ),
        labels=lambda size: FirstChannel(size, len(CLASSES), TABLE, SOURCE),
    )


def _frames(root: Path, split: str, empty: list[str]) -> Iterator[Frame]:
    """Yields the frames of a split in the order of weather, scene and frame.

    Args:
        root: The data root.
        split: The split.
        empty: Takes the folders of scenes without an image, below the root.
    """
    for weather in WEATHER:
        within = root / 'img' / weather / split
        if not has_folder(within):
            raise UserError(f'{within}: expected a folder per scene, found nothing there')
        for scene in (path for path in entries(within) if not is_litter(path.name)):
            if not scene.is_dir():
                raise UserError(f'{scene}: expected a folder of images, found a file')
            images = list(_images(scene))
            if not images:
                empty.append(scene.relative_to(root).as_posix())
            yield from (_frame(root, weather, image) for image in images)


def _images(scene: Path) -> Iterator[Path]:
    ending = '_rgb_front.png'
    for path in (path for path in entries(scene) if not is_litter(path.name)):
        if not path.name.endswith(ending):
            raise UserError(f'{path}: expected a file <frame>{ending}')
        yield path


def _frame(root: Path, weather: str, image: Path) -> Frame:
    split, scene, name = *image.parts[-3:-1], image.name.partition('_')[0]

    def of(folder: str, word: str) -> Path:
        path = root / folder / weather / split / scene / f'{name}_{word}_front.png'
        if not has_file(path):
            raise UserError(f'{path}: expected a file, as {image} is there, found nothing there')
        return path

    files = {modality: of(*where) for modality, where in FOLDERS.items()}
    return Frame(f'{weather}/{scene}/{name}', files, of('semantic', 'semantic'), _place(scene))


def _place(scene: str) -> str:
    """Returns the place of a scene: the first three parts of its name, e.g. MAP_10_point102."""
    return '_'.join(scene.split('_')[:3])


def _conditions(frame: Frame) -> list[str]:
    """Returns the weather of a frame and the failures that the name of its scene holds."""
    weather, scene, _ = frame.id.split('/')
    return [weather, *(fault for fault in FAULTS if fault in scene.lower())]


def _counted(splits: Mapping[str, Sequence[Frame]]) -> list[str]:
    """Returns a line that counts the conditions of the test images."""
    found = Counter(condition for frame in splits['test'] for condition in _conditions(frame))
    told = ', '.join(f'{name} {found[name]}' for name in (*WEATHER, *FAULTS) if found[name])
    return [f'conditions of test: {told}']
