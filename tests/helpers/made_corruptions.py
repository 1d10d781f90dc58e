"""Tests under corruptions made by hand, for the tests of what reads them."""

import numpy as np

from benchmark.missing import subset_ids
from benchmark.records import corruptions, store
from benchmark.records.corruptions import cell_of, subsets_of


def cell(record, subset, share):
    """A cell of two classes in which so large a share of each class is wrong."""
    data, n = record['dataset'], record['n']['test'][subset]
    wrong = round(n / 2 * share)
    right = n // 2 - wrong
    totals = np.array([right, wrong, wrong, right], float)
    return cell_of(n, totals, data['metric'])


def clean_of(record):
    """The cells of the clean input: the scores of a record of faces, as far as counts hold them."""
    scores = record['scores']['test']
    return {
        s: cell(record, s, scores[s]['ACER']) for s in subset_ids(record['dataset']['modalities'])
    }


def make_tests(path, errors, kinds=('gaussian', 'blur'), severities=(1, 3, 5)):
    """Writes tests beside the record of faces at `path`, and returns them.

    `errors` is called with (modality, kind, severity, subset) and returns the share of errors.
    """
    record = store.read(path)
    names = record['dataset']['modalities']
    tests = {
        'format': corruptions.FORMAT,
        'version': 1,
        'identity': record['identity'],
        'record': record['content'],
        'device': 'cpu',
        'seconds': 1.0,
        'clean': clean_of(record),
        'tests': {
            m: {
                k: {
                    str(s): {x: cell(record, x, errors(m, k, s, x)) for x in subsets_of(names, m)}
                    for s in severities
                }
                for k in kinds
            }
            for m in names
        },
    }
    corruptions.write(path.parent, tests)
    return tests
