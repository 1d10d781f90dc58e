"""Committed records of the methods of today are those that the command line plans."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmark.engine import plan
from benchmark.files import ROOT
from benchmark.records import store
from benchmark.registry import discover
from tools.digits import cut

discover()
EARLIER = {'reference': set(), 'gpu': {('synth_faces', 'distilled')}}
"""Rows after which a search found other values: none of the reference."""

FOLDERS = sorted((ROOT / 'results').glob('*/runs'))


@functools.cache
def digits():
    """The file that `python tools/digits.py --columns 1 digits.npz` writes."""
    file = Path(tempfile.mkdtemp()) / 'digits.npz'
    np.savez(file, **cut(2, 1, 0))
    atexit.register(shutil.rmtree, file.parent)
    return file


@functools.cache
def opened(name, options):
    """The data set that records with these options, as pairs, were trained on."""
    if name == 'digits':
        options = (*((k, v) for k, v in options if v != ''), ('root', digits()))
        name = 'arrays'
    (data,) = plan.open_datasets([f'{name}:' + ','.join(f'{k}={v}' for k, v in options)], [], {})
    return data


def planned(record, results):
    """The experiment that a record is of, from the words that were typed for it."""
    data = opened(record['dataset']['name'], tuple(record['dataset']['options'].items()))
    protocol = {key: str(value) for key, value in record['protocol'].items()}
    device = 'cpu' if protocol['precision'] == 'float32' else 'cuda'
    request = plan.Request([record['method']['label']], [record['seed']], protocol, results, device)
    (e,) = plan.experiments(request, [data])
    return e


def is_earlier(record, header):
    """Whether a record is of an earlier version or other values, or older than the task's loss."""
    older = record['method']['version'] < header['method']['version']
    older |= record['method']['options'] != header['method']['options']
    return older or ('loss' in header['protocol'] and 'loss' not in record['protocol'])


@pytest.mark.parametrize('runs', FOLDERS, ids=[f.parent.name for f in FOLDERS])
def test_every_committed_record_is_found_again(runs, tmp_path):
    found = store.scan(runs)
    assert found.complete
    assert not found.problems
    found_again, earlier = 0, set()
    for path, record in found.complete.items():
        if 'tuning' in record:
            continue  # its options come from trials, which are not committed
        e = planned(record, tmp_path)
        assert e.label == record['method']['label']
        if is_earlier(record, e.header):
            earlier.add((record['dataset']['name'], e.label))
            continue
        found_again += 1
        # The code may have changed since, and the first records say nothing of it.
        method = {k: v for k, v in e.header['method'].items() if k in record['method']}
        method |= {k: v for k, v in record['method'].items() if k == 'code'}
        assert store.identity({**e.header, 'method': method}) == record['identity'], path
        assert e.folder.relative_to(tmp_path / 'runs') == path.parent.relative_to(runs)
    assert found_again
    assert earlier == EARLIER.get(runs.parent.name, earlier)


def test_a_record_of_other_code_is_none_of_the_experiment_and_is_recognised(tmp_path):
    older = ROOT / 'results/extra/runs'  # which other code has made
    path, record = next(iter(store.scan(older).complete.items()))
    e = planned(record, tmp_path)
    assert not e.has_other_code
    e.folder.mkdir(parents=True)
    shutil.copy(path, e.folder)
    assert e.recorded() is None
    assert e.has_other_code
    other = planned({**record, 'seed': 7}, tmp_path)
    other.folder.mkdir(parents=True)
    shutil.copy(path, other.folder)
    assert not other.has_other_code
