"""Draws the pictures of these pages and of the README again: python docs/pictures/make.py.

`data.png` shows samples of the embedded data sets, `table.svg` a command and what it prints,
and `scores.svg` a figure of `benchmark/plot.py`, both made from the reference records. The same
records and versions give the same files.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmark.dataset import Dataset  # noqa: E402
from benchmark.registry import DATASETS, discover, lookup  # noqa: E402
from datasets.preview import legend, row  # noqa: E402

SHOWN = ('synth_faces', 'synth_rooms')
SAMPLES = 4
WIDTH = 800
"""Pixels of the picture of the data."""

COLOURS = 256
"""Colours of that picture: noise makes a PNG of all colours twice as large."""

METHODS = ('complete', 'modality_dropout', 'rfnet', 'mmanet', 'redcore')
"""Rows of the table; all of them would not be readable in a picture."""

REFERENCE = 'results/reference'
COMMAND = f'python benchmark/tables.py {REFERENCE} --only {" ".join(METHODS)}'
"""Title of the picture of the table: a reader can type it in a fresh clone."""


def chosen(data: Dataset) -> list[int]:
    """Returns SAMPLES training samples: of a classification the first ones of every class."""
    split, classes = data.split('train'), len(data.task.classes)
    if data.task.kind == 'segmentation':
        return list(range(SAMPLES))
    target = np.asarray(split.target)
    return [i for k in range(classes) for i in np.flatnonzero(target == k)[: SAMPLES // classes]]


def samples(data: Dataset) -> np.ndarray:
    """Returns a contact sheet (H, W, 3) in BGR."""
    split = data.split('train')
    rows = [row(data, split, int(i)) for i in chosen(data)]
    if data.task.kind == 'segmentation':
        rows.insert(0, legend(data.task.classes, rows[0].shape[1]))
    return np.concatenate(rows)


def data_picture() -> Image.Image:
    """Returns the contact sheets of the embedded data sets side by side."""
    discover()
    sheets = [samples(lookup(DATASETS, name)()) for name in SHOWN]
    height = max(map(len, sheets))
    white = (255, 255, 255)
    padded = [
        # The legend of the label maps stands above the samples, so the samples are aligned below.
        cv2.copyMakeBorder(p, height - len(p), 0, 12, 12, cv2.BORDER_CONSTANT, value=white)
        for p in sheets
    ]
    joined = np.concatenate(padded, 1)
    size = (WIDTH, round(len(joined) * WIDTH / joined.shape[1]))
    smaller = cv2.resize(joined, size, interpolation=cv2.INTER_AREA)
    return Image.fromarray(cv2.cvtColor(smaller, cv2.COLOR_BGR2RGB)).quantize(COLOURS)


def table_text() -> str:
    """Returns what COMMAND prints.

    Raises:
        CalledProcessError: The command fails.
    """
    script, *words = shlex.split(COMMAND)[1:]
    with tempfile.TemporaryDirectory() as folder:
        # The committed folder stays as it is: its runs are read, and another one is written.
        written = [folder if word == REFERENCE else word for word in words]
        runs = ['--runs', f'{REFERENCE}/runs']
        command = [sys.executable, script, *written, *runs]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.replace(folder, REFERENCE).strip()


def table_picture(text: str) -> str:
    """Returns the text as a terminal window in SVG."""
    console = Console(
        record=True,
        width=max(map(len, text.splitlines())),
        file=io.StringIO(),
        force_terminal=True,
        highlight=False,
    )
    # The window cuts off what hangs below its last line, such as an underscore.
    console.print(f'{text}\n', markup=False, no_wrap=True)
    svg = console.export_svg(title=COMMAND, unique_id='table')
    # Rich names a font on another host; every reader has some monospaced font.
    return re.sub(r'@font-face \{.*?\}\s*', '', svg, flags=re.S)


def figure() -> bytes:
    """Returns the heatmap that `benchmark/plot.py` draws of METHODS in the reference records.

    Raises:
        CalledProcessError: The command fails.
    """
    chosen = ['--datasets', SHOWN[0], '--chart', 'scores', '--only', *METHODS]
    with tempfile.TemporaryDirectory() as folder:
        reference = str(ROOT / 'results' / 'reference')
        how = ['--format', 'svg', '--width', 'text', '--out', folder]
        command = [sys.executable, str(ROOT / 'benchmark' / 'plot.py'), reference, *chosen, *how]
        subprocess.run(command, capture_output=True, check=True)
        return (Path(folder) / f'{SHOWN[0]}-scores-only.svg').read_bytes()


def main() -> None:
    """Writes the pictures beside this file."""
    (HERE / 'scores.svg').write_bytes(figure())
    data_picture().save(HERE / 'data.png', optimize=True)
    (HERE / 'table.svg').write_text(table_picture(table_text()), encoding='utf-8')


if __name__ == '__main__':
    main()
