"""Committed records of the methods of today are those that the command line plans."""

import shutil

import pytest

from benchmark.engine import plan
from benchmark.files import ROOT
from benchmark.records import store
from benchmark.registry import discover

discover()
FOLDERS = [ROOT / 'results' / name / 'runs' for name in ('gpu', 'reference', 'extra', 'gaps')]


@pytest.fixture(scope='module')
def opened():
    words = ['synth_faces', 'synth_rooms:val=100,test=400']  # the sizes of the committed records
    return {d.name: d for d in plan.open_datasets(words, [], {})}


def planned(record, data, results):
    """The experiment that a record is of, from the words that were typed for it."""
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
def test_every_committed_record_is_found_again(runs, opened, tmp_path):
    found = store.scan(runs)
    assert found.complete
    assert not found.problems
    found_again = 0
    for path, record in found.complete.items():
        if 'tuning' in record:
            continue  # its options come from trials, which are not committed
        e = planned(record, opened[record['dataset']['name']], tmp_path)
        assert e.label == record['method']['label']
        if is_earlier(record, e.header):
            continue
        found_again += 1
        # The code may have changed since, and the first records say nothing of it.
        method = {k: v for k, v in e.header['method'].items() if k in record['method']}
        method |= {k: v for k, v in record['method'].items() if k == 'code'}
        assert store.identity({**e.header, 'method': method}) == record['identity'], path
        assert e.folder.relative_to(tmp_path / 'runs') == path.parent.relative_to(runs)
    assert found_again or runs.parent.name != 'gpu'


def test_a_record_of_other_code_is_none_of_the_experiment_and_is_recognised(opened, tmp_path):
    path, record = next(iter(store.scan(FOLDERS[0]).complete.items()))
    e = planned(record, opened[record['dataset']['name']], tmp_path)
    assert not e.has_other_code
    e.folder.mkdir(parents=True)
    shutil.copy(path, e.folder)
    assert e.recorded() is None
    assert e.has_other_code
    other = planned({**record, 'seed': 7}, opened[record['dataset']['name']], tmp_path)
    other.folder.mkdir(parents=True)
    shutil.copy(path, other.folder)
    assert not other.has_other_code
