"""The file of tests under corruptions: what is written is read, and nothing else is."""

import copy
import json

import numpy as np
import pytest
from made_corruptions import make_tests
from made_records import SUBSETS, make_outcomes, make_record, save

from benchmark.records import corruptions, store
from benchmark.records.identity import content
from benchmark.records.schema import RecordError


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    runs = tmp_path_factory.mktemp('runs')
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40))
    path = save(runs, make_record('hemis', 0, outcomes), outcomes)
    tests = make_tests(path, lambda m, k, s, x: 0.1 + 0.05 * s)
    return path, tests


def test_what_is_written_is_read(made):
    path, tests = made
    assert corruptions.read(path.parent, store.read(path)) == tests
    found = corruptions.scan(path.parents[3])
    assert found.tests == {tests['identity']: tests}
    assert found.problems == []


def test_a_score_is_that_of_its_counts():
    # 8 attacks with 2 taken for live, 10 live faces with 1 taken for an attack.
    cell = corruptions.cell_of(18, np.array([6, 2, 1, 9]), 'ACER')
    assert cell['score'] == pytest.approx((2 / 8 + 1 / 10) / 2)
    assert corruptions.cell_of(2, np.array([2, 0, 0, 0]), 'ACER')['score'] is None
    assert corruptions.cell_of(4, np.array([1, 3]), 'accuracy')['score'] == 0.75


def test_make_tests_another_record_do_not_count(made, tmp_path):
    path, tests = made
    record = store.read(path)
    assert corruptions.read(tmp_path, record) is None
    for change in ({'identity': '0' * 16}, {'record': '0' * 64}):
        corruptions.write(tmp_path, {**tests, **change})
        assert corruptions.read(tmp_path, record) is None


def at(value, *keys):
    """Sets what lies at the keys, or removes it if the value is None."""

    def change(tests):
        inner = tests
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


CELL = ('tests', 'rgb', 'blur', '3', 'rgb+ir')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (at(2, 'format'), 'expected format 1'),
        (at('x', 'seconds'), 'seconds: expected float'),
        (at({}, 'tests', 'lidar'), "no modality 'lidar'"),
        (at({}, 'tests', 'rgb', 'fog'), "tests.rgb: no corruption 'fog'"),
        (at({}, 'tests', 'rgb', 'blur', '6'), 'expected a severity from 1 to 5'),
        (at({}, 'tests', 'rgb', 'blur', '01'), 'expected a severity from 1 to 5'),
        (
            lambda t: t['tests']['rgb']['blur']['3'].update({'ir': t['clean']['ir']}),
            "'ir' is none of",
        ),
        (lambda t: t['clean'].pop('rgb+ir'), 'expected subsets that have a clean score'),
        (at(399, *CELL, 'n'), 'n: expected 400, found 399'),
        (at([150, 50, 50], *CELL, 'totals'), 'totals: expected 4 numbers from 0'),
        (at([250, -50, 50, 150], *CELL, 'totals'), 'totals: expected 4 numbers from 0'),
        (at([150, 50, 50, 151], *CELL, 'totals'), 'totals: expected the sum 400'),
        (at(0.3, *CELL, 'score'), r'score 0.3, but 0.250000 by its counts'),
        (at(None, *CELL, 'score'), r'score None, but 0.250000 by its counts'),
        (at(float('nan'), *CELL, 'score'), 'score'),
        (
            lambda t: t['clean'].update({'rgb': t['tests']['rgb']['blur']['5']['rgb']}),
            r'clean.rgb: 0.35, but 0.1 in the record',
        ),
        (at(1, 'tests', 'rgb', 'blur', '3', 'rgb+ir', 'more'), 'this version knows no such field'),
    ],
)
def test_what_contradicts_itself_or_the_record_is_refused_in_one_line(
    made, tmp_path, change, message
):
    path, tests = made
    changed = copy.deepcopy(tests)
    change(changed)
    corruptions.write(tmp_path, changed)
    with pytest.raises(RecordError, match=message) as caught:
        corruptions.read(tmp_path, store.read(path))
    assert '\n' not in str(caught.value)
    assert str(tmp_path / corruptions.FILE) in str(caught.value)


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"format": 1', 'null', '{"format": 1}'])
def test_a_damaged_file_is_told_and_stops_nothing(made, tmp_path, text):
    path, _ = made
    record = store.read(path)
    (tmp_path / corruptions.FILE).write_text(text)
    with pytest.raises(RecordError, match='cannot be read as tests under corruptions'):
        corruptions.read(tmp_path, record)
    folder = tmp_path / 'faces/hemis/uniform-last-0/seed0'
    folder.mkdir(parents=True)
    (folder / store.RECORD).write_bytes(path.read_bytes())
    (folder / corruptions.FILE).write_text(text)
    found = corruptions.scan(tmp_path / 'faces')
    assert found.tests == {}
    assert len(found.problems) == 1
    (folder / store.RECORD).unlink()
    assert corruptions.scan(tmp_path / 'faces') == ({}, [])


def test_an_edited_file_is_refused(made, tmp_path):
    path, tests = made
    corruptions.write(tmp_path, tests)
    file = tmp_path / corruptions.FILE
    told = json.loads(file.read_text())
    assert told.pop('content') == content(told)
    file.write_text(file.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    with pytest.raises(RecordError, match='its content does not fit its hash'):
        corruptions.read(tmp_path, store.read(path))
