"""Measures what the caches save, as ratios within one run.

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


def main(argv: list[str] | None = None) -> int:
    """Times an epoch over decoded images after the first, by cache, in turns."""
    parser = argparse.ArgumentParser(prog='tools/data_speed.py', description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, default=64)
    parser.add_argument('--turns', type=int, default=5)
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
    """Writes noisy gradients, which compress about as photographs do."""
    paths = []
    for k in range(count):
        rng = np.random.default_rng(k)
        ramp = np.linspace(0, 200, SIZE[1])[None, :, None] + np.zeros((*SIZE, 3))
        path = folder / f'{k}.png'
        Image.fromarray((ramp + rng.integers(30, size=ramp.shape)).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def _epoch(rows: Files) -> float:
    start = time.perf_counter()
    for batch in np.array_split(np.arange(len(rows)), max(1, len(rows) // 8)):
        rows[batch]
    return time.perf_counter() - start


if __name__ == '__main__':
    sys.exit(main())
