"""Data sets with a test split made by hand, for the tests of what is compared with their labels."""

from pathlib import Path

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.method import Modality, Task
from benchmark.records.predictions import Predictions

REGIONS = (('whole', (1, 2)), ('core', (2,)))


class Made(Dataset):
    """Some classes or label maps of some samples, which may lack modalities.

    Args:
        metric: 'ACER', 'accuracy', 'mIoU' or 'Dice'.
        target: (N,) or (N, H, W).
        available: (N, 2) bool.
        groups: (N,) names of the volumes.
    """

    spec = 'made'
    options = {}  # noqa: RUF012
    fingerprint = 'abc'

    def __init__(self, metric, target, available=None, groups=None, name='made'):
        self.name, self.target, self.groups = name, np.asarray(target), groups
        count = len(self.target)
        self.available = np.ones((count, 2), bool) if available is None else available
        dense = self.target.ndim == 3
        classes = ('attack', 'live') if metric == 'ACER' else ('cat', 'dog', 'hen')
        shape = (1, *self.target.shape[1:]) if dense else (3,)
        self.task = Task(
            name,
            'segmentation' if dense else 'classification',
            (Modality('rgb', shape), Modality('ir', shape)),
            classes,
            metric,
            regions=REGIONS if metric == 'Dice' else (),
        )
        self.ids = np.array([f's{k}' for k in range(count)])

    def split(self, name):
        """Returns the test split, whose inputs are never read."""
        assert name == 'test'
        return Split({}, self.target, self.available, self.ids, self.groups)


def predictions(ids, subsets, **changes):
    """What a file says."""
    about = {'file': Path('x.npz'), 'method': 'net', 'dataset': 'made', 'seed': 0}
    return Predictions(ids=np.asarray(ids), subsets=subsets, **{**about, **changes})
