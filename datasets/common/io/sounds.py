"""Sounds from wav files, whole or refused."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from datasets.common.io.files import decoded
from datasets.common.io.folders import entries
from datasets.common.io.optional import package
from datasets.common.io.paths import has_folder
from datasets.common.io.remembered import remembered

VERSION = 1
"""Raised when `check_sounds` accepts or refuses other files."""

FASTEST = 1_000_000
"""Greatest number of samples per second that is taken for the rate of a sound."""

LOCK = threading.Lock()
"""Held while warnings are caught, which Python can do for a whole process alone."""


def read_sound(path: Path) -> tuple[int, np.ndarray]:
    """Returns the samples per second of a wav file, and the mean of its channels, in [-1, 1].

    Raises:
        UserError: The file ends too early, holds no sample, holds a number that is not finite, or
            declares a rate that no sound has.
        ValueError: It is no wav file that scipy can read. Other files raise other errors, too.
    """
    wavfile = package('scipy.io.wavfile', 'sound')
    with LOCK, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        rate, found = wavfile.read(path)
    # Of a file that ends too early scipy only warns, as it does of chunks that are no sound.
    for warning in told:
        if 'EOF' in str(warning.message):
            raise UserError(f'{path}: expected a whole sound, found a file that ends too early')
    if not found.size:
        raise UserError(f'{path}: expected a sound, found none in the file')
    # The filter that resamples is as long as the rate.
    if not 1 <= rate <= FASTEST:
        raise UserError(f'{path}: expected 1 to {FASTEST} samples per second, found {rate}')
    if found.dtype.kind in 'iu':
        half = 128 if found.dtype == np.uint8 else 0
        found = (found.astype(np.float64) - half) / (128 if half else -np.iinfo(found.dtype).min)
    if not np.isfinite(found).all():
        raise UserError(f'{path}: expected finite numbers, found others')
    return rate, found.mean(1) if found.ndim == 2 else found


def sounds_in(folder: Path, aside: list[Path]) -> dict[str, Path]:
    """Returns name without suffix -> wav file, in a folder that need not exist.

    Args:
        folder: The folder.
        aside: Takes the other files, and the first of two whose names differ in the suffix alone.
    """
    files = [f for f in entries(folder) if not f.is_dir()] if has_folder(folder) else []
    heard = {f.stem: f for f in files if f.suffix.lower() == '.wav'}
    kept = set(heard.values())
    aside += [f for f in files if f not in kept]
    return heard


def check_sounds(paths: Sequence[Path]) -> None:
    """Reads all wav files once; unchanged files are not read again.

    Raises:
        UserError: A file is missing, is no wav file, or `read_sound` refuses it.
    """

    def look(path: Path) -> str:
        return json.dumps(decoded(path, lambda file: read_sound(file)[1]).shape)

    remembered(f'sound {VERSION}', paths, look)
