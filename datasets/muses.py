"""MUSES: real street scenes in colour, lidar, radar and events, 19 classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from benchmark.dataset import VOID
from benchmark.errors import UserError, unknown
from benchmark.registry import DATASETS
from datasets.cityscapes import CLASSES as CITYSCAPES
from datasets.common.families.segmented import (
    COLOURS,
    Frame,
    Plan,
    Segmented,
    Sensor,
    Size,
)
from datasets.common.io.files import data_root, text
from datasets.common.io.images import ImageFile8, LabelFile, image_size
from datasets.common.io.paths import has_file
from datasets.common.io.sensor_images import Projection, scaled_by
from datasets.common.io.splits import held_out, set_apart

SOURCE: Size = (1080, 1920)
CLASSES = tuple(CITYSCAPES)
TABLE = [*range(len(CLASSES)), *[-1] * (255 - len(CLASSES)), VOID]
"""Value in a label file -> class."""

META, PROJECTED = 'meta.json', 'projected_to_rgb'
CAMERA = 'path_to_frame_camera'
KEYS = {
    'lidar': 'path_to_lidar',
    'radar': 'path_to_radar',
    'event': 'path_to_event_camera',
}
"""Modality -> key of its raw file in `meta.json`, beside that of the camera."""

CODING = {'lidar': (100.0, 150.0), 'radar': (100.0, 150.0), 'event': (0.0, 1.0)}
"""Modality -> shift and factor of the values in PNG files (`Projection`)."""

SUFFIXES = ('.npz', '.npy', '.png')
WEATHER = ('clear', 'fog', 'rain', 'snow')
TIMES = ('day', 'night')
Condition = Literal['all', 'clear', 'fog', 'rain', 'snow', 'day', 'night']

HELD_OUT = 0.1
"""Share of the recordings of the official training split that validates."""


@DATASETS.register_module('muses')
class Muses(Segmented):
    """MUSES (Broedermann et al., ECCV 2024), semantic segmentation with four sensors.

    The labels of the official test split are withheld, so that the official validation split of
    250 images is the test split here. The validation split consists of about a tenth of the
    recordings of the official training split of 1,500 images, chosen by the hash of their names.

    The root is the folder into which the packages of the data set are unpacked. `meta.json` maps
    the name of each scene, such as `REC0006_frame_043369`, to its split, weather, time of day, and
    the paths of its files. Colour images are
    `frame_camera/<split>/<weather>/<time>/<name>_frame_camera.png`, and labels
    `gt_semantic/<split>/<weather>/<time>/<name>_gt_labelTrainIds.png` with 0 to 18 for the classes
    of Cityscapes and 255 for what is ignored. Lidar, radar and events are what the development kit
    of the data set projects into the colour image, `scripts/project_sensors_to_rgb.py` of
    github.com/timbroed/MUSES with the options --lidar --radar --event_camera: arrays of 1080 x 1920
    pixels and three channels, `projected_to_rgb/lidar/<split>/.../<name>_lidar` and likewise
    `radar` and `event_camera`, with the suffix .npz (its default), .npy or .png. The channels of
    lidar and radar are distance, intensity and height (0 of radar), those of events the numbers of
    brighter and darker ones. Whether the kit compensates motion and enlarges points is the user's
    choice; the content of the files, and so the fingerprint, differs.

    Values of the projected sensors are normalised by mean and standard deviation of each channel
    over all pixels of the training images, as the kit computes them, but of the training split
    alone. Pixels without a measurement are 0 before. Names of samples are
    `<weather>/<time>/<name>`, so that the outcomes of a run can be told apart by condition;
    `condition` tests one alone. The clusters of tests of significance are the recordings, such as
    `REC0006`.

    The recipe follows the released code of CAFuser, by the data set's authors: AdamW at 1e-4 with a
    weight decay of .05 and batches of 8 for 90,000 steps, which are 480 epochs of 1,500 images, a
    rate that falls with power 0.9, and zoom from half to twice the image. Departures: crops and
    test images have 544 x 960 pixels, half of the image's sides, which training images have twice
    (CAFuser crops 512 x 1024 and tests whole images); ResNet encoders with one rate for all layers
    and a pyramid instead of OneFormer, and with it the benchmark's loss and its clipping.

    Layout, keys, file names and codings were taken from the development kit and CAFuser's code, the
    numbers of images from the kit's and other code that reads the data. No copy of the data was at
    hand: whether the official splits share recordings could not be verified; they are reported.

    Args:
        root: The folder that holds meta.json.
        size: Height and width of the network's input in pixels, 'HxW'; training crops are cut from
            images with twice these sides.
        condition: The test images: all, or those of one weather or time of day.
        duplicates: Whether images of two splits whose content is equal, and recordings with images
            in two splits, are reported or refused.
        **shared: The other options of `Segmented`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'muses'
    licence = 'non-commercial, by the agreement that comes with the data'
    how_to_get = (
        'Download the packages of frame camera, lidar, radar, event camera, GNSS, semantic '
        'annotations, calibration and meta data from muses.ethz.ch, unpack all into one folder, '
        'and run scripts/project_sensors_to_rgb.py of github.com/timbroed/MUSES on it with '
        '--lidar --radar --event_camera.'
    )
    published_sizes = {'test': 250}
    recipe = {
        'epochs': 480,
        'batch_size': 8,
        'optimizer': 'AdamW',
        'lr': 1e-4,
        'weight_decay': 0.05,
        'schedule': 'poly',
        'warmup': 0.0,
    }

    def __init__(
        self,
        *,
        root: str = '',
        size: str = '544x960',
        condition: Condition = 'all',
        **shared: Any,
    ) -> None:
        folder = data_root('muses', root, self.how_to_get)
        if condition not in get_args(Condition):
            raise unknown('condition of muses', condition, get_args(Condition))
        side = image_size('muses', size)
        published = _published(folder)
        train, val = set_apart(published['train'], lambda f: held_out(f.cluster, HELD_OUT))
        test = [f for f in published['val'] if condition in ('all', *f.id.split('/')[:2])]
        if not train:  # the sensors are scaled by them
            raise UserError(f'{folder / META}: expected scenes of the split train, found none')
        splits = {'train': train, 'val': val, 'test': test}
        super().__init__(splits, folder, _plan(side, train), **shared)
        counts = Counter(name for frame in test for name in frame.id.split('/')[:2])
        told = ', '.join(f'{name} {counts[name]}' for name in (*WEATHER, *TIMES) if counts[name])
        self.notes = (*self.notes, f'conditions of test: {told}')


def _plan(side: Size, train: Sequence[Frame]) -> Plan:
    def sensor(name: str) -> Sensor:
        def decode(size: Size) -> Projection:
            return Projection(size, SOURCE, *CODING[name])

        scaled = scaled_by([frame.files[name] for frame in train], decode(SOURCE))
        return Sensor(name, 3, decode, scaled, nearest=True)

    return Plan(
        source=SOURCE,
        size=side,
        train=(2 * side[0], 2 * side[1]),
        scale=(0.5, 2.0),
        classes=CLASSES,
        sensors=(
            Sensor('rgb', 3, lambda size: ImageFile8(size, source=SOURCE), COLOURS),
            *map(sensor, KEYS),
        ),
        labels=lambda size: LabelFile(size, len(CLASSES), TABLE, SOURCE),
    )


def _published(root: Path) -> dict[str, list[Frame]]:
    """Returns 'train' and 'val' -> the frames of the official split, in the order of their ids."""
    file = root / META
    try:
        scenes = json.loads(text(file, 'the list of all scenes'))
    except ValueError as error:
        raise UserError(f'{file}: expected JSON, found: {error}') from None
    if not isinstance(scenes, dict) or not all(isinstance(s, dict) for s in scenes.values()):
        raise UserError(f'{file}: expected a map from scenes to what is known of them')
    found: dict[str, list[Frame]] = {'train': [], 'val': []}
    for name, scene in scenes.items():
        split = _told(file, name, scene, 'split', ('train', 'val', 'test'))
        # The labels of the official test split are withheld.
        if split in found:
            found[split].append(_frame(root, name, scene))
    return {split: sorted(frames, key=lambda f: f.id) for split, frames in found.items()}


def _told(
    file: Path, name: str, scene: Mapping[str, Any], key: str, known: Sequence[str] = ()
) -> str:
    """Returns what `meta.json` says of a scene."""
    value = scene.get(key)
    if not isinstance(value, str) or (known and value not in known):
        expected = f'one of {", ".join(known)}' if known else 'text'
        raise UserError(f'{file}: {name}: {key}: expected {expected}, found {value!r}')
    return value


def _frame(root: Path, name: str, scene: Mapping[str, Any]) -> Frame:
    file = root / META
    weather = _told(file, name, scene, 'weather', WEATHER)
    time = _told(file, name, scene, 'time_of_day', TIMES)
    camera = PurePosixPath(_told(file, name, scene, CAMERA))
    files = {'rgb': root / camera}
    for modality, key in KEYS.items():
        raw = PurePosixPath(_told(file, name, scene, key))
        files[modality] = _projected(root / PROJECTED / raw, modality)
    label = f'{camera.name.removesuffix("_frame_camera.png")}_gt_labelTrainIds.png'
    labels = root.joinpath('gt_semantic', *camera.parts[1:-1], label)
    return Frame(f'{weather}/{time}/{name}', files, labels, name.partition('_')[0])


def _projected(raw: Path, modality: str) -> Path:
    """Returns the projection of a raw file, whose suffix is that of one of its formats."""
    found = [path for path in (raw.with_suffix(s) for s in SUFFIXES) if has_file(path)]
    if len(found) != 1:
        expected = f'one projection of {modality} with the suffix {", ".join(SUFFIXES)}'
        names = ', '.join(path.name for path in found) or 'none'
        hint = '; scripts/project_sensors_to_rgb.py of the development kit writes it'
        raise UserError(f'{raw.with_suffix("")}: expected {expected}, found {names}{hint}')
    return found[0]
