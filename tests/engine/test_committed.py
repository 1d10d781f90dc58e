"""The committed records are those of the experiments that the command line plans today."""

import pytest

from benchmark.engine import plan
from benchmark.files import ROOT
from benchmark.records import store
from benchmark.registry import discover

discover()
FOLDERS = [ROOT / 'results' / name / 'runs' for name in ('reference', 'extra', 'gaps')]
DEVICE = 'cpu'


@pytest.fixture(scope='module')
def opened():
    return {d.name: d for d in plan.open_datasets(['synth_faces', 'synth_rooms'], [], {})}


def planned(record, data, results):
    """The experiment that a record is of, from the words that were typed for it."""
    protocol = {key: str(value) for key, value in record['protocol'].items()}
    request = plan.Request([record['method']['label']], [record['seed']], protocol, results, DEVICE)
    (e,) = plan.experiments(request, [data])
    return e


@pytest.mark.parametrize('runs', FOLDERS, ids=[f.parent.name for f in FOLDERS])
def test_every_committed_record_is_found_again(runs, opened, tmp_path):
    found = store.scan(runs)
    assert found.complete
    assert not found.problems
    for path, record in found.complete.items():
        if 'tuning' in record:
            continue  # its options come from trials, which are not committed
        e = planned(record, opened[record['dataset']['name']], tmp_path)
        assert e.identity == record['identity'], path
        assert e.label == record['method']['label']
        assert e.folder.relative_to(tmp_path / 'runs') == path.parent.relative_to(runs)
