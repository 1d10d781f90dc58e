"""Draws a contact sheet of a data set: its first samples, one in each row.

python datasets/preview.py synth_faces faces.png
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

if __name__ == '__main__':
    # A script starts with its own folder there, in which the packages of the project are not found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np

from benchmark.dataset import SPLITS, Dataset, Split
from benchmark.errors import UserError
from benchmark.files import user_path, writing
from benchmark.method import Task
from benchmark.narrowed import open_data
from benchmark.options import resolve
from benchmark.registry import DATASETS, discover, lookup, parse_spec
from benchmark.streams import Parser, command

TILE, MARGIN, TEXT = 144, 6, 22
"""Side of a picture, width of its margin, and height of a line of text, in pixels."""

PALETTE = np.random.default_rng(3).integers(40, 256, (256, 3), dtype=np.uint8)
"""Colour of each label in a label map, BGR."""

GAP = (225, 225, 225)
"""Colour of the tile of a modality that a sample lacks, BGR."""


EXAMPLES = """examples:
  python datasets/preview.py synth_faces faces.png
  python datasets/preview.py synth_rooms rooms.png --split val
  python datasets/preview.py folders:root=PHOTOS photos.png --count 4
"""


def picture(values: np.ndarray, outside: tuple[int, ...] = (0, 0)) -> np.ndarray:
    """Returns an image as a BGR picture, uint8 (TILE, TILE, 3), of full contrast.

    Args:
        values: The image (C, H, W) in any range; of other than three channels, the first is shown.
            Values that are not finite are drawn black.
        outside: Pixels (above and below, left and right) of black around the image.
    """
    finite = np.isfinite(values)
    low, high = values.min(where=finite, initial=np.inf), values.max(where=finite, initial=-np.inf)
    scaled = np.where(finite, 255 * (values - low) / (high - low + 1e-6), 0).astype(np.uint8)
    scaled = scaled[::-1] if len(scaled) == 3 else np.repeat(scaled[:1], 3, 0)
    (high, wide), whole = outside, scaled.transpose(1, 2, 0)
    return enlarge(np.pad(whole, ((high, high), (wide, wide), (0, 0))))


def enlarge(image: np.ndarray) -> np.ndarray:
    """Returns a picture (H, W, 3) at size (TILE, TILE, 3) without interpolating its pixels."""
    return cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_NEAREST)


def gap() -> np.ndarray:
    """Returns the tile of a modality that a sample lacks: grey with a diagonal line."""
    tile = np.full((TILE, TILE, 3), GAP, np.uint8)
    return cv2.line(tile, (0, TILE - 1), (TILE - 1, 0), (160, 160, 160), 1)


def labelled(tile: np.ndarray, text: str) -> np.ndarray:
    """Returns a picture with a line of text above it and a white margin around it."""
    framed = cv2.copyMakeBorder(
        tile, TEXT, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    return write(framed, text)


def write(image: np.ndarray, text: str) -> np.ndarray:
    """Writes a line of text at the upper left of a picture, and returns it."""
    place = (MARGIN, 16)
    return cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)


def title(task: Task, name: str, label: np.ndarray) -> str:
    """Returns the name of a sample and, but for a label map, its label in parentheses.

    Args:
        task: The task.
        name: The name of the sample.
        label: A class, K labels of 0 and 1, K values, or a label map.
    """
    if task.kind == 'segmentation':
        return name
    if task.kind == 'multilabel':
        found = [text for text, there in zip(task.classes, label, strict=True) if there]
    elif task.kind == 'regression':
        found = [f'{value:.6g}' for value in label]
    else:
        found = [task.classes[int(label)]]
    return f'{name} ({", ".join(found) or "none"})'


def row(dataset: Dataset, split: Split, index: int) -> np.ndarray:
    """Returns a picture of a sample: its images from left to right, and its label map if any.

    Its title stands above. An image that the sample lacks is not read; a grey tile says that it is
    missing.

    Args:
        dataset: The data set.
        split: One of its splits.
        index: Position of the sample in the split.

    Raises:
        UserError: The data set has neither images nor label maps.
    """
    at = np.array([index])
    label = split.target[at][0]
    tiles, outside = [], (0, 0)
    if dataset.task.metric == 'Dice':
        # The network sees a window of the labelled slice; the rest of it is drawn black.
        outside = tuple(np.subtract(label.shape, dataset.task.modalities[0].shape[1:]) // 2)
    for m, there in zip(dataset.task.modalities, split.available[index], strict=True):
        if m.kind == 'image' and there:
            drawn = picture(split.inputs[m.name][at][0], outside)
            tiles.append(labelled(drawn, m.name))
        elif m.kind == 'image':
            tiles.append(labelled(gap(), f'no {m.name}'))
    if not tiles:
        kinds = ', '.join(f'{m.name} ({m.kind})' for m in dataset.task.modalities)
        raise UserError(f'{dataset.name}: expected a modality of images, found {kinds}')
    if dataset.task.kind == 'segmentation':
        tiles.append(labelled(enlarge(PALETTE[label.astype(int) % len(PALETTE)]), 'label'))
    tile = np.concatenate(tiles, 1)
    above = np.full((TEXT, tile.shape[1], 3), 255, np.uint8)
    return np.concatenate([write(above, title(dataset.task, str(split.ids[index]), label)), tile])


def legend(classes: tuple[str, ...], width: int) -> np.ndarray:
    """Returns a picture (H, width, 3) that shows the colour of each class in the label maps."""
    strip = np.full((TEXT * -(-len(classes) // 4), width, 3), 255, np.uint8)
    for i, text in enumerate(classes):
        x, y = MARGIN + (i % 4) * width // 4, TEXT * (i // 4)
        cv2.rectangle(strip, (x, y + 4), (x + 14, y + 18), PALETTE[i % len(PALETTE)].tolist(), -1)
        cv2.putText(strip, text, (x + 20, y + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)
    return strip


def sheet(dataset: Dataset, name: str, count: int) -> np.ndarray:
    """Returns the contact sheet of a split as a BGR picture.

    Args:
        dataset: The data set.
        name: Name of the split.
        count: How many samples to draw, the first ones of the split.

    Raises:
        UserError: The count is not positive, or there is nothing to draw.
    """
    if count < 1:
        raise UserError(f'--count: expected a positive number, found {count}')
    split = dataset.split(name)
    rows = [row(dataset, split, i) for i in range(min(count, len(split)))]
    if dataset.task.kind == 'segmentation':
        rows.insert(0, legend(dataset.task.classes, rows[0].shape[1]))
    return np.concatenate(rows)


def main() -> int:
    """Writes the contact sheet that the command line asks for, and returns 0.

    Raises:
        UserError: The arguments or the data are wrong.
    """
    arguments = _parser().parse_args()
    if arguments.out.suffix.lower() != '.png':
        raise UserError(f'{arguments.out}: expected the name of a PNG file, e.g. sheet.png')
    discover()
    name, options = parse_spec(arguments.dataset, DATASETS)
    cls = lookup(DATASETS, name)
    dataset = open_data(cls, resolve(cls, name, options, {}))
    for note in dataset.notes:
        print(f'{dataset.name}: {note}')
    drawn = sheet(dataset, arguments.split, arguments.count)
    with writing(arguments.out) as file:
        file.write(cv2.imencode('.png', drawn)[1].tobytes())
    print(f'written: {arguments.out}')
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='datasets/preview.py',
        description='Draws a contact sheet of a data set: the first samples of a split, one in '
        'each row, with class or label map.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'dataset',
        metavar='DATASET',
        help='the data set, with options after a colon: NAME or NAME:KEY=VALUE,KEY=VALUE',
    )
    parser.add_argument(
        'out', metavar='OUT', type=partial(user_path, what='OUT'), help='the PNG file to write'
    )
    parser.add_argument(
        '--split', choices=SPLITS, default='train', help='the split to draw; default: train'
    )
    parser.add_argument(
        '--count',
        type=int,
        default=8,
        metavar='N',
        help='how many samples to draw, e.g. 4; default: 8',
    )
    return parser


if __name__ == '__main__':
    command(main)
