"""Records: identity, atomic writing, and what is wrong told by name."""

import json
import os
import re
import shutil
from typing import get_type_hints

import numpy as np
import pytest
from made_records import ID, SUBSETS, make_failure, make_outcomes, make_record, make_refusal, save
from repetitions import scientific

from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.files import sweep, writing
from benchmark.records import identity, store
from benchmark.records.schema import Rules
from benchmark.report import settings

OUTCOMES = make_outcomes(dict.fromkeys(SUBSETS, 20))

FORMER = ('noise',)
"""Fields of the protocol that older records have, and new ones have not."""


@pytest.fixture
def record():
    return make_record('mmanet', 0, OUTCOMES)


def _changed(record, part, change):
    return {**record, part: {**record[part], **change} if isinstance(change, dict) else change}


def test_what_is_written_is_read_back(tmp_path, record):
    path = save(tmp_path, record)
    assert store.read(path) == {**record, 'content': store.content(record)}
    assert os.listdir(path.parent) == ['record.json']


@pytest.mark.parametrize(
    ('part', 'change'),
    [
        ('method', {'options': {'alpha': 2.0}}),
        ('method', {'version': 2}),
        ('method', {'name': 'rfnet'}),
        ('dataset', {'fingerprint': 'other'}),
        ('dataset', {'options': {'n': 5}}),
        ('protocol', {'epochs': 4}),
        ('seed', 1),
    ],
)
def test_identity_changes_with_what_can_change_a_score(record, part, change):
    assert store.identity(_changed(record, part, change)) != record['identity']


@pytest.mark.parametrize(
    ('part', 'change'),
    [
        ('environment', {'device': 'cuda'}),
        ('commit', 'other'),
        ('finished', 'later'),
        ('method', {'source': 'tuned', 'label': 'mine'}),
        ('cost', {'train_seconds': 1.0}),
    ],
)
def test_identity_ignores_what_cannot_change_a_score(record, part, change):
    changed = _changed(record, part, change)
    assert changed[part] != record[part]
    assert store.identity(changed) == record['identity']


def test_identity_is_the_same_before_and_after_json(record):
    options = {'sizes': (1, 2), 'rate': np.float64(0.1), 'b': 1, 'a': 2}
    changed = make_record('mmanet', 0, OUTCOMES, method={'options': options})
    again = json.loads(json.dumps(changed, default=lambda value: value.tolist()))
    assert store.identity(again) == changed['identity']


def test_a_repetition_may_differ_in_times_and_place_but_in_no_score(record):
    later = {**record, 'commit': 'x', 'finished': 'y', 'environment': {'device': 'cuda'}}
    later['cost'] = {**record['cost'], 'train_seconds': 1.0, 'peak_memory_mb': 7.0}
    assert scientific(record) == scientific(later)
    for part in ('selected_epoch', 'predicted', 'collapsed', 'gaps'):
        assert scientific(record) != scientific({**record, part: 'other'})
    scores = {'val': {}, 'test': {**record['scores']['test'], 'rgb': {'ACER': 0.0}}}
    assert scientific(record) != scientific({**record, 'scores': scores})
    cost = {**record['cost'], 'parameters': 1}
    assert scientific(record) != scientific({**record, 'cost': cost})


def test_undefined_score_is_stored_as_null(tmp_path, record):
    record['scores']['test']['rgb']['ACER'] = float('nan')
    path = save(tmp_path, record)
    assert 'NaN' not in path.read_text()
    assert store.read(path)['scores']['test']['rgb']['ACER'] is None


def _without(record, part, key):
    return {**record, part: {k: v for k, v in record[part].items() if k != key}}


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (lambda r: [r], 'expected an object, found list'),
        (lambda r: {**r, 'schema': 7}, 'schema: expected 1, found 7'),
        (
            lambda r: {**r, 'status': 'done'},
            "status: expected one of complete, failed, refused, found 'd",
        ),
        (lambda r: {k: v for k, v in r.items() if k != 'gaps'}, 'gaps: missing'),
        (lambda r: _without(r, 'cost', 'teacher_seconds'), 'cost.teacher_seconds: missing'),
        (lambda r: {**r, 'seed': '0'}, "seed: expected int, found '0'"),
        (lambda r: {**r, 'seed': True}, 'seed: expected int, found True'),
        (lambda r: {**r, 'seed': 5}, 'the record was edited'),
        (lambda r: {**r, 'identity': 'f' * 16}, 'the record was edited'),
        (lambda r: {**r, 'n': {'val': {}, 'test': {}}}, 'n.test.rgb: expected at least 1'),
        (lambda r: {**r, 'collapsed': [3]}, r'collapsed\[0\]: expected str, found 3'),
        (
            lambda r: {**r, 'scores': {'val': {}, 'test': {'rgb': {'ACER': 11.5}}}},
            'scores.test.rgb.ACER: expected a fraction, found 11.5',
        ),
        (
            lambda r: {**r, 'scores': {'val': {}, 'test': {'rgb': {'accuracy': 0.5}}}},
            "scores.test.rgb.ACER: expected a fraction, found 'nothing'",
        ),
        (
            lambda r: {**r, 'scores': {'val': {}, 'test': {'sonar': {'ACER': 0.5}}}},
            "scores.test: 'sonar' is none of rgb, depth",
        ),
        (lambda r: {**r, 'scores': {'val': {}, 'test': {}}}, 'no subset was tested'),
    ],
)
def test_what_is_wrong_is_told_in_one_line_naming_the_file(tmp_path, record, spoil, told):
    path = tmp_path / 'record.json'
    path.write_text(json.dumps(spoil(record)))
    with pytest.raises(store.RecordError, match=told) as error:
        store.read(path)
    assert str(error.value).startswith(f'{path}: ')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['mean', 'worst', 'missing_1', 'expected', 'Ceiling'])
def test_a_modality_with_the_name_of_a_column_is_refused(name):
    made = make_record('m', 0, OUTCOMES, dataset={'modalities': [*SUBSETS[:2], name]})
    told = f"dataset.modalities: expected no names of columns of tables, found '{name}'"
    with pytest.raises(store.RecordError, match=re.escape(told)):
        store.validate(made)


def test_an_invalid_record_is_never_written(tmp_path, record):
    with pytest.raises(store.RecordError, match='seed'):
        save(tmp_path, {**record, 'seed': 'zero'})
    assert not list(tmp_path.rglob('*.json'))


def test_a_folder_that_another_process_removes_ends_no_search(tmp_path, record, monkeypatch):
    """A finished training removes its scratch folders while others look for records."""
    path = save(tmp_path, record)
    left, gone = path.with_name('.part-left'), path.with_name('a_folder')
    left.touch()
    gone.mkdir()
    real = os.scandir

    def removed_meanwhile(folder='.'):
        if str(folder).endswith('a_folder'):
            raise FileNotFoundError(2, 'No such file or directory', str(folder))
        return real(folder)

    monkeypatch.setattr(os, 'scandir', removed_meanwhile)
    assert store.files(tmp_path) == [path]
    assert list(store.scan(tmp_path).complete) == [path]
    assert store.scan(tmp_path).problems == []
    sweep(tmp_path)
    assert not left.exists()


def test_what_is_no_finished_run_is_told_apart_and_not_counted(tmp_path, record):
    good = save(tmp_path, record)
    torn = save(tmp_path, make_record('mmanet', 1, OUTCOMES))
    torn.write_bytes(torn.read_bytes()[:-40])
    edited = save(tmp_path, make_record('mmanet', 2, OUTCOMES))
    edited.write_text(edited.read_text().replace('"alpha": 1.0', '"alpha": 2.0'))
    moved = good.parent.with_name('seed9') / 'record.json'
    moved.parent.mkdir()
    shutil.copy(good, moved)
    twin = tmp_path / 'faces' / 'zzz' / record['protocol_id'] / 'seed0' / 'record.json'
    twin.parent.mkdir(parents=True)
    shutil.copy(good, twin)
    failed = save(tmp_path, make_failure('rfnet', 0, 'out of memory'))

    refused = save(tmp_path, make_refusal('zeta', 0, 'complete data only'))

    found = store.scan(tmp_path)

    assert list(found.complete) == [good]
    assert list(found.unscored) == [failed, refused]
    assert found.unscored[failed]['error'] == 'out of memory'
    assert [r['status'] for r in found.unscored.values()] == ['failed', 'refused']
    assert len(found.problems) == 4
    for path, word in [
        (torn, 'cannot be read'),
        (edited, 'edited'),
        (moved, 'seed0'),
        (twin, 'same'),
    ]:
        assert any(p.startswith(f'{path}: ') and word in p for p in found.problems)


def _fail_half_way(path):
    with writing(path) as file:
        file.write(b'half')
        raise RuntimeError


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, record):
    path = save(tmp_path, record)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        _fail_half_way(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ['record.json']


def test_what_is_written_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path, record, disk
):
    path = save(tmp_path, record, OUTCOMES)
    assert disk.renamed == [path.with_name('outcomes.npz'), path]
    assert disk.unsynced == []
    assert disk.settled == set(disk.renamed)


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_mixture(tmp_path, record):
    path = save(tmp_path, record)
    before = path.read_bytes()
    with path.open('rb') as reader:
        save(tmp_path, {**record, 'commit': 'later'})
        assert reader.read() == before
    assert store.read(path)['commit'] == 'later'


def test_a_place_that_cannot_be_written_is_a_users_mistake_naming_it(tmp_path, record):
    (tmp_path / 'faces').write_text('a file where a folder should be')
    with pytest.raises(
        UserError, match='record.json: cannot be written: expected a folder, .*/faces$'
    ):
        save(tmp_path, record)


def test_outcomes_come_back_and_the_same_arrays_give_the_same_bytes(tmp_path):
    store.write_outcomes(tmp_path / 'a.npz', OUTCOMES)
    store.write_outcomes(tmp_path / 'b.npz', dict(reversed(OUTCOMES.items())))
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    found = store.read_outcomes(tmp_path / 'a.npz')
    assert found.keys() == OUTCOMES.keys()
    for key, array in OUTCOMES.items():
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.98])
def test_torn_outcomes_are_named(tmp_path, keep):
    path = tmp_path / 'outcomes.npz'
    store.write_outcomes(path, OUTCOMES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(store.RecordError, match='outcomes.npz: cannot be read'):
        store.read_outcomes(path)
    with pytest.raises(store.RecordError, match='absent.npz'):
        store.read_outcomes(tmp_path / 'absent.npz')


@pytest.mark.parametrize(
    ('field', 'value'),
    [('lr', 'xxx'), ('epochs', [[[]]]), ('epochs', 1.5), ('nesterov', 1), ('rates', None)],
)
def test_a_field_of_the_protocol_of_another_type_is_refused(record, field, value):
    edited = _changed(record, 'protocol', {field: value})
    edited['identity'] = store.identity(edited)
    with pytest.raises(store.RecordError, match=f'protocol.{field}: expected '):
        store.validate(edited)


def test_a_protocol_id_that_is_not_that_of_the_protocol_is_refused(record):
    for found in ('uniform-last-0', ''):
        expected = f'protocol_id: expected {ID}, .* found {found}$'
        with pytest.raises(store.RecordError, match=expected):
            store.validate({**record, 'protocol_id': found})


def test_the_rules_of_a_record_are_those_of_the_protocol():
    types = {key: type(value) for key, value in Protocol.fields().items()}
    assert get_type_hints(Rules) == {**types, **dict.fromkeys(FORMER, float)}


def test_a_record_with_a_field_that_the_protocol_has_no_longer_is_read_and_told(tmp_path, record):
    older = make_record('mmanet', 0, OUTCOMES)
    older['protocol'] = {**older['protocol'], 'noise': 0.5}
    older['protocol_id'] = identity.protocol_id(older['protocol'], older['dataset']['fingerprint'])
    older['identity'] = store.identity(older)
    assert store.read(save(tmp_path, older))['protocol']['noise'] == 0.5
    told = 'noise on vectors (0.5 (D / n)^2)'
    assert [told in settings.words(each['protocol']) for each in (record, older)] == [False, True]


@pytest.mark.parametrize('name', ['rooms', '../../evil', ''])
def test_a_record_in_the_folder_of_another_data_set_is_named_and_left_out(tmp_path, name):
    kept = save(tmp_path, make_record('rfnet', 0, OUTCOMES), OUTCOMES)
    path = save(tmp_path, make_record('mmanet', 0, OUTCOMES), OUTCOMES)
    store.write(path, make_record('mmanet', 0, OUTCOMES, dataset={'name': name}))
    found = store.scan(tmp_path)
    assert list(found.complete) == [kept]
    assert len(found.problems) == 1
    assert f'a record of {name}/{ID}/seed0 in the folder faces/' in found.problems[0]
