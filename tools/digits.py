"""Writes scikit-learn's pictures of digits as a user's own arrays, each picture cut into parts.

    python tools/digits.py --columns 1 digits.npz
    python benchmark/run.py --grid results/digits/digits.yaml --data-root digits.npz --results MINE

The parts are the modalities: the upper and the lower half here, four quarters by default. Of the
1,797 pictures 900 train, 200 validate and the others test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

Arrays = dict[str, np.ndarray]


def cut(rows: int, columns: int, seed: int) -> Arrays:
    """Returns the arrays.

    Args:
        rows: Into how many rows of vectors a picture of 8 x 8 pixels is cut, 1, 2, 4 or 8.
        columns: Into how many columns of them, likewise.
        seed: Of the order, which decides what trains, validates and tests.

    Returns:
        What `datasets.arrays.Arrays` reads: a vector for each part, the targets and the splits.
    """
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = digits.images[order].reshape(-1, rows, 8 // rows, columns, 8 // columns)
    found = {
        f'inputs/part{i}{j}': images[:, i, :, j].reshape(len(images), -1).astype(np.float32)
        for i in range(rows)
        for j in range(columns)
    }
    split = np.repeat([0, 1, 2], (900, 200, len(order) - 1100))
    return {**found, 'target': digits.target[order], 'split': split}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('file', type=Path, help='the .npz file that is written')
    whole = {'type': int, 'choices': (1, 2, 4, 8), 'default': 2}
    parser.add_argument('--rows', help='rows of parts (%(default)s)', **whole)
    parser.add_argument('--columns', help='columns of parts (%(default)s)', **whole)
    parser.add_argument('--seed', type=int, default=0, help='of the splits (%(default)s)')
    words = parser.parse_args()
    np.savez(words.file, **cut(words.rows, words.columns, words.seed))


if __name__ == '__main__':
    main()
