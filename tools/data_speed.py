"""Measures how much time the caches of decoded samples save, as ratios within one run.

python tools/data_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

if __name__ == '__main__':
    # A script starts with its own folder there, in which the packages of the project are not found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from PIL import Image

from datasets.common.io.files import CACHES, Files
from datasets.common.io.images import ImageFile8, Scaled

SIZE = (480, 640)
"""Height and width of the images in pixels."""


def main(argv: list[str] | None = None) -> int:
    """Times epochs of reading images with each cache in turn, after a first one that fills it.

    Args:
        argv: Words of the command line; by default those that were typed.

    Returns:
        The exit status, 0.
    """
    parser = argparse.ArgumentParser(prog='tools/data_speed.py', description=__doc__.split('\n')[0])
    parser.add_argument(
        '--images', type=int, default=64, help='how many images an epoch reads; default: 64'
    )
    parser.add_argument(
        '--turns', type=int, default=5, help='how many epochs are timed for each cache; default: 5'
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(Path(folder), args.images)
        shape = (3, *SIZE)
        decode, scale = ImageFile8(SIZE), Scaled(127.5, 128)
        rows = {c: Files(paths, decode, shape, scale, c, Path(folder)) for c in CACHES}
        for kept in rows.values():
            _epoch(kept)
        turns = [{cache: _epoch(kept) for cache, kept in rows.items()} for _ in range(args.turns)]
    each = statistics.median(t['none'] for t in turns) / args.images
    print(f'decoding an image of {SIZE[0]} x {SIZE[1]} takes {1000 * each:.1f} ms')
    for cache in CACHES[1:]:
        ratio = statistics.median(t[cache] / t['none'] for t in turns)
        print(f'cache={cache}: later epochs take {ratio:.2f} of the time without')
    return 0


def _write(folder: Path, count: int) -> list[Path]:
    """Writes PNG files of noisy gradients, which compress about as well as photographs."""
    paths = []
    for k in range(count):
        rng = np.random.default_rng(k)
        ramp = np.linspace(0, 200, SIZE[1])[None, :, None] + np.zeros((*SIZE, 3))
        path = folder / f'{k}.png'
        Image.fromarray((ramp + rng.integers(30, size=ramp.shape)).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def _epoch(rows: Files) -> float:
    """Reads all images in batches of eight; returns the seconds."""
    start = time.perf_counter()
    for batch in np.array_split(np.arange(len(rows)), max(1, len(rows) // 8)):
        rows[batch]
    return time.perf_counter() - start


if __name__ == '__main__':
    sys.exit(main())
