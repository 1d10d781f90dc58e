"""Runs of one epoch on small arrays, for the tests of what is done with a trained network."""

import numpy as np

from benchmark import run

SAMPLES = 36


def arrays(seed=0):
    """Keys of an `arrays` data set with an image, a sequence with padding and a vector."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, SAMPLES)
    y[:9] = np.arange(9) % 3
    return {
        'inputs/rgb': (rng.normal(size=(SAMPLES, 3, 32, 32)) * 5 + 20 + y[:, None, None, None]),
        'inputs/gait': rng.normal(size=(SAMPLES, 6, 5)) * 3 + y[:, None, None],
        'inputs/scan': rng.normal(size=(SAMPLES, 4)) * 100 + 7,
        'kind/gait': np.array('sequence'),
        'length/gait': rng.integers(2, 7, SAMPLES),
        'target': y,
        'split': np.arange(SAMPLES) % 3,
        'classes': np.array(['cat', 'dog', 'hen']),
    }


def trained(folder, data, dataset, *methods, options=()):
    """Trains each method for an epoch on data in a folder; returns method -> folder of its run."""
    words = ['--methods', *methods, '--datasets', dataset, '--results', str(folder / 'results')]
    words += ['--data-root', str(folder / data)] if data else []
    words += ['--device', 'cpu', '--cfg-options', 'epochs=1', 'width=4', *options]
    assert run.main(words) == 0
    found = folder.glob(f'results/runs/{data.partition(".")[0] or dataset}/*/*/*/record.json')
    return {f.parts[-4]: f.parent for f in found}
