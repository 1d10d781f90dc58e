"""Contact sheet of a dataset: python datasets/preview.py synth_faces OUT.png."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == '__main__':
    # A script starts with its own folder there, in which the packages of the project are not found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import mmcv
import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.options import resolve
from benchmark.registry import DATASETS, discover, lookup, parse_spec

TILE, MARGIN, TEXT = 144, 6, 22
PALETTE = np.random.default_rng(3).integers(40, 256, (256, 3), dtype=np.uint8)


def picture(values: np.ndarray) -> np.ndarray:
    """Returns a normalised (C, H, W) sample as a (TILE, TILE, 3) BGR picture."""
    span = values.max() - values.min() + 1e-6
    scaled = (255 * (values - values.min()) / span).astype(np.uint8)
    scaled = scaled[::-1] if len(scaled) == 3 else np.repeat(scaled[:1], 3, 0)
    return enlarge(scaled.transpose(1, 2, 0))


def enlarge(image: np.ndarray) -> np.ndarray:
    """Returns an (H, W, 3) picture at the tile's size, with its pixels kept."""
    return cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_NEAREST)


def labelled(tile: np.ndarray, text: str) -> np.ndarray:
    """Returns a tile with a line of text above and a margin around."""
    framed = cv2.copyMakeBorder(
        tile, TEXT, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    cv2.putText(framed, text, (MARGIN, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)
    return framed


def row(dataset: Dataset, split: Split, index: int) -> np.ndarray:
    """Returns one sample: its modalities from left to right, then its label map if it has one."""
    at = np.array([index])
    label = split.target[at][0]
    dense = np.ndim(label) > 0
    title = str(split.ids[index]) if dense else dataset.task.classes[int(label)]
    images = [m.name for m in dataset.task.modalities if m.kind == 'image']
    tiles = [labelled(picture(split.inputs[m][at][0]), f'{title} {m}') for m in images]
    if dense:
        tiles.append(labelled(enlarge(PALETTE[label.astype(np.uint8)]), 'label'))
    return np.concatenate(tiles, 1)


def legend(classes: tuple[str, ...], width: int) -> np.ndarray:
    """Returns a strip (H, width, 3) of the class names in the colours of the label maps."""
    strip = np.full((TEXT * -(-len(classes) // 4), width, 3), 255, np.uint8)
    for i, text in enumerate(classes):
        x, y = MARGIN + (i % 4) * width // 4, TEXT * (i // 4)
        cv2.rectangle(strip, (x, y + 4), (x + 14, y + 18), PALETTE[i].tolist(), -1)
        cv2.putText(strip, text, (x + 20, y + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)
    return strip


def sheet(dataset: Dataset, name: str, count: int) -> np.ndarray:
    """Returns the contact sheet of a split's first `count` samples as a BGR picture."""
    split = dataset.split(name)
    rows = [row(dataset, split, i) for i in range(min(count, len(split)))]
    if dataset.task.kind == 'segmentation':
        rows.insert(0, legend(dataset.task.classes, rows[0].shape[1]))
    return np.concatenate(rows)


def main() -> None:
    """Writes the contact sheet that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dataset', help='name or name:key=value,key=value')
    parser.add_argument('out', type=Path, help='PNG file to write')
    parser.add_argument('--split', default='train')
    parser.add_argument('--count', type=int, default=8)
    arguments = parser.parse_args()
    discover()
    name, options = parse_spec(arguments.dataset)
    cls = lookup(DATASETS, name)
    dataset = cls(**resolve(cls, name, options, {}))
    mmcv.imwrite(sheet(dataset, arguments.split, arguments.count), str(arguments.out))


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
