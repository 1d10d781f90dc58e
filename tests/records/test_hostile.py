"""Files that are damaged or made to do harm: each is refused in one line, and nothing is allocated.

A changed record is refused, or it says what it said before.
"""

import errno
import io
import json
import os
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_records import SUBSETS, make_outcomes, make_record, save

from benchmark import files
from benchmark.records import archive, store
from benchmark.report import writer

OUTCOMES = make_outcomes(dict.fromkeys(SUBSETS, 20))
RECORD = make_record('mmanet', 0, OUTCOMES)


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path, RECORD, OUTCOMES)


VALUES = [
    None, True, 0, -1, 1.5, 2**70, 10**400, float('nan'), float('inf'), '', 'x', '\x1b[2J',
    '\ud800', 'a\nb', '<script>', '=cmd()', 'x' * 20_000, [], {}, [[]], {'x': 1}, ['rgb'] * 50,
]  # fmt: skip


def places(value, above=()):
    """Yields the path to every value in a parsed record."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*above, key))


def mutated(record, rng):
    """A copy of a record with one value changed, removed, added or put under another name."""
    copy = json.loads(json.dumps(record))
    *above, last = rng.choice(list(places(copy)))
    part = copy
    for key in above:
        part = part[key]
    kind = rng.choice(['change', 'change', 'remove', 'rename', 'add', 'nudge'])
    if kind == 'remove' or (kind == 'rename' and isinstance(part, list)):
        del part[last]
    elif kind == 'rename':
        part[f'{last}x'] = part.pop(last)
    elif kind == 'add':
        place = part if isinstance(part, dict) else copy
        place[rng.choice(['extra', 'val', 'rgb', '../x', '\x1b'])] = rng.choice(VALUES)
    elif kind == 'nudge' and isinstance(part[last], int | float):
        part[last] = part[last] + rng.choice([1e-7, 1, -1])
    else:
        part[last] = rng.choice(VALUES)
    return copy


def test_a_mutated_record_is_refused_or_equal_in_content(saved):
    rng, whole = random.Random(0), store.read(saved)
    accepted, told = [], []
    for _ in range(300):
        saved.write_text(json.dumps(mutated(whole, rng)))
        try:
            accepted.append(store.read(saved))
        except store.RecordError as error:
            told.append(str(error))
    assert all({**found, 'content': ''} == {**whole, 'content': ''} for found in accepted)
    assert len(told) > 270
    for line in told:
        assert line.startswith(f'{saved}: ')
        assert line.isprintable()
        assert len(line) < 1000


def test_a_mutated_record_of_an_older_version_never_takes_a_table_down(saved):
    """Without a hash of the content a record may be changed, but not into what nobody can read."""
    rng = random.Random(1)
    old = {k: v for k, v in store.read(saved).items() if k != 'content'}
    accepted, other = [], make_outcomes(dict.fromkeys(SUBSETS, 30), seed=1)
    runs = saved.parents[4]
    for seed in (0, 1):  # what most runs say of the data counts
        save(runs, make_record('whole', seed, other), other)
    for _ in range(300):
        saved.write_text(json.dumps(mutated(old, rng)))
        found = store.scan(saved.parents[3])
        assert len(found.complete) + len(found.unscored) + len(found.problems) == 3
        accepted += found.complete.values()
        if saved in found.complete:
            made = writer.write_tables(runs.parent, 'faces', runs)
            rows = [row.label for block in made.blocks for row in block.rows]
            assert 'whole' in rows
    for record in accepted:
        assert set(record['scores']['test']) <= set(record['n']['test']) <= set(SUBSETS)
        for scores in record['scores']['test'].values():
            assert all(v is None or 0 <= v <= 1 for v in scores.values())


def test_flipped_bits_are_noticed(saved):
    rng, whole = random.Random(2), saved.read_bytes()
    before = store.read(saved)
    for _ in range(100):
        place = rng.randrange(len(whole))
        flipped = bytes([whole[place] ^ (1 << rng.randrange(8))])
        saved.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            assert store.read(saved) == before
        except store.RecordError:
            continue


@pytest.mark.parametrize(
    'text',
    [
        '', 'null', '[]', '{}', '3', '"x"', '[' * 200_000, '{"a":' * 200_000, '\ufeff{}', '\0',
        '{"schema": 1, "schema": 1}', '{"seed": NaN}', '1' * 5000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_record_is_refused_in_one_line(saved, text):
    saved.write_text(text)
    with pytest.raises(store.RecordError) as error:
        store.read(saved)
    assert str(error.value).isprintable()


def test_a_field_that_stands_there_twice_is_refused(saved):
    text = saved.read_text()
    saved.write_text(text.replace('"seed": 0', '"seed": 9, "seed": 0'))
    with pytest.raises(store.RecordError, match='twice'):
        store.read(saved)


def test_bytes_that_are_no_text_folders_and_huge_files_are_refused(saved):
    saved.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(store.RecordError):
        store.read(saved)
    with saved.open('wb') as file:
        file.truncate(files.LARGEST + 1)
    with pytest.raises(store.RecordError, match='at most'):
        store.read(saved)
    saved.unlink()
    saved.mkdir()
    assert len(store.scan(saved.parents[3]).problems) == 1


def test_many_modalities_are_refused_before_their_subsets_are_listed(saved):
    record = make_record('m', 0, OUTCOMES, dataset={'modalities': [f'm{k}' for k in range(60)]})
    with pytest.raises(store.RecordError, match='1 to 32 names, found 60'):
        store.validate(record)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'modalities': ['rgb', 'rgb', 'ir']}, 'modalities: expected different names'),
        ({'modalities': ['rgb', 'a+b', 'ir']}, 'modalities: expected different names'),
        ({'live': 2}, 'live: expected one of 2 classes, found 2'),
        ({'classes': []}, 'expected one of 0 classes'),
        ({'higher_is_better': True}, 'higher_is_better: expected False'),
        ({'ceiling': {'sonar': 0.1}}, "ceiling: 'sonar' is none of"),
        ({'ceiling': {'rgb': 1.5}}, 'expected fractions, found 1.5'),
        ({'chance': -0.5}, 'expected fractions, found -0.5'),
    ],
)
def test_what_does_not_fit_together_is_named(change, told):
    with pytest.raises(store.RecordError, match=told):
        store.validate(make_record('m', 0, OUTCOMES, dataset=change))


@pytest.mark.parametrize(
    ('part', 'change', 'told'),
    [
        ('predicted', {'rgb': [0.5, 0.6]}, 'expected 2 shares with sum 1'),
        ('predicted', {'rgb': [1.0]}, 'expected 2 shares'),
        ('predicted', {'sonar': [0.5, 0.5]}, "'sonar' is none of"),
        ('collapsed', ['sonar'], "'sonar' is none of"),
        ('gaps', {'rates': {'rgb': 2}}, 'expected fractions'),
        ('gaps', {'rates': {'rgb': 0.1}}, "each modality, 'depth' is missing"),
        ('gaps', {'rates': {'sonar': 0.1}}, "'sonar' is none of"),
        ('cost', {'flops': {'sonar': 1}}, "'sonar' is none of"),
        ('cost', {'test_seconds': -1.0}, 'test_seconds: expected at least 0'),
        ('n', {'val': {'rgb': 3}}, "n.val: 'rgb' is none of"),
        ('selected_epoch', 2**63, 'selected_epoch: expected a number below 2'),
        ('extra', 1, "'extra': this version knows no such field"),
        ('commit', 'a\x1b[2Jb', 'commit: expected no control characters'),
        ('commit', 'x' * 10_001, 'commit: expected at most 10000 characters'),
        ('environment', {'a\nb': 'c'}, 'a name in environment: expected no control'),
    ],
)
def test_a_field_that_contradicts_others_or_its_bounds_is_named(part, change, told):
    with pytest.raises(store.RecordError, match=told):
        store.validate(make_record('m', 0, OUTCOMES, **{part: change}))


@pytest.mark.parametrize('name', ['a/b', '/etc/passwd', '../x', '..', '.', ''])
def test_outcomes_lie_beside_the_record(name):
    record = {**make_record('m', 0, OUTCOMES), 'outcomes': {name: '0' * 64}}
    with pytest.raises(store.RecordError, match='outcomes: expected names of files, found'):
        store.validate(record)


def test_deep_nesting_within_the_limits_of_json_is_refused():
    options = {}
    inner = options
    for _ in range(30):
        inner['a'] = inner = {}
    with pytest.raises(store.RecordError, match='at most 12 levels'):
        store.validate(make_record('m', 0, OUTCOMES, method={'options': options}))


def test_outcomes_torn_or_flipped_anywhere_are_refused_or_equal(tmp_path):
    path, rng = tmp_path / 'outcomes.npz', random.Random(3)
    store.write_outcomes(path, OUTCOMES)
    whole, before, told = path.read_bytes(), store.read_outcomes(path), []
    for cut in (0, 1, 30, *rng.sample(range(len(whole)), 40), len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(store.RecordError, match=r'outcomes\.npz: cannot be read'):
            store.read_outcomes(path)
    for _ in range(100):
        place = rng.randrange(len(whole))
        flipped = bytes([whole[place] ^ (1 << rng.randrange(8))])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            found = store.read_outcomes(path, RECORD)
        except store.RecordError as error:
            told.append(str(error))
        else:
            assert found.keys() == before.keys()
            assert all(np.array_equal(found[k], before[k]) for k in before)
    assert len(told) > 50
    assert all(line.isprintable() for line in told)


def npy(shape, data=b'', dtype='<f4'):
    """Bytes of a .npy file that declares a shape."""
    file = io.BytesIO()
    header = {'descr': dtype, 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def zipped(path, *members, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, 'w', packing) as made:
        for name, data in members:
            made.writestr(name, data)


def encrypted(path):
    zipped(path, ('a.npy', npy((0,))))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


def lying(path):
    """Declares 8 GB in the directory of the archive, for an array of as many bytes."""
    zipped(path, ('a.npy', npy((2**31,))))
    data = bytearray(path.read_bytes())
    start = data.index(b'PK\x01\x02') + 24
    data[start : start + 4] = struct.pack('<I', 2**32 - 2)
    path.write_bytes(data)


HARM = {
    'a shape of 5e12 numbers': lambda p: zipped(p, ('a.npy', npy((5 * 10**12,)))),
    'a negative shape': lambda p: zipped(p, ('a.npy', npy((-1, -1), bytes(4)))),
    'less data than its shape': lambda p: zipped(p, ('a.npy', npy((4,), bytes(8)))),
    'more data than its shape': lambda p: zipped(p, ('a.npy', npy((1,), bytes(8)))),
    'a size that it cannot hold': lying,
    'encrypted members': encrypted,
    'LZMA': lambda p: zipped(p, ('a.npy', npy((0,))), packing=zipfile.ZIP_LZMA),
    'bzip2': lambda p: zipped(p, ('a.npy', npy((0,))), packing=zipfile.ZIP_BZIP2),
    'objects': lambda p: np.savez(p, a=np.array([{}], dtype=object)),
    'another file': lambda p: zipped(p, ('a.txt', b'hello')),
    'an array that is none': lambda p: zipped(p, ('a.npy', b'hello')),
    'a header that is deep': lambda p: zipped(
        p, ('a.npy', b'\x93NUMPY\x01\x00' + struct.pack('<H', 9000) + b'(' * 9000)
    ),
}


@pytest.mark.parametrize('harm', HARM)
def test_archives_that_do_harm_are_refused_and_allocate_nothing(harm, tmp_path):
    path = tmp_path / 'outcomes.npz'
    HARM[harm](path)
    tracemalloc.start()
    try:
        with pytest.raises(store.RecordError, match=r'outcomes\.npz: cannot be read'):
            store.read_outcomes(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = tmp_path / 'outcomes.npz'
    with pytest.warns(UserWarning, match='Duplicate'):
        zipped(path, ('a.npy', npy((0,))), ('a.npy', npy((0,))))
    with pytest.raises(store.RecordError, match='two of one name'):
        store.read_outcomes(path)


def test_more_than_the_largest_outcomes_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'outcomes.npz'
    store.write_outcomes(path, {'a': np.zeros(10_000)})
    assert store.read_outcomes(path)['a'].shape == (10_000,)
    monkeypatch.setattr(archive, 'MAX_BYTES', 80_000)
    with pytest.raises(store.RecordError, match='at most 80000 bytes'):
        store.read_outcomes(path)


def link_to_itself(path):
    path.symlink_to(path)


def dangling_link(path):
    path.symlink_to(path.with_name('nothing'))


def pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize('make', [link_to_itself, dangling_link, pipe, Path.mkdir])
def test_whatever_stands_in_the_place_of_a_record_is_named_and_the_others_count(make, tmp_path):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    whole = save(tmp_path, make_record('whole', 0, outcomes), outcomes)
    odd = save(tmp_path, make_record('odd', 0, outcomes), outcomes)
    odd.unlink()
    make(odd)
    found = store.scan(tmp_path)
    assert list(found.complete) == [whole]
    (problem,) = found.problems
    assert problem.startswith(f'{odd}: cannot be read as a record')


def test_a_folder_that_cannot_be_read_is_named_and_the_others_count(tmp_path, monkeypatch):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    whole = save(tmp_path, make_record('whole', 0, outcomes), outcomes)
    closed = save(tmp_path, make_record('odd', 0, outcomes), outcomes).parent.parent
    real = os.scandir

    def scandir(path):  # the superuser, who may run the tests, can read every folder
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    found = store.scan(tmp_path)
    assert list(found.complete) == [whole]
    assert found.problems == [f'{closed}: cannot be read: Permission denied']
