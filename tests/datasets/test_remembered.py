"""Hashes of contents: what is read again, what is remembered, and what is no memory."""

import os

import pytest

from benchmark.errors import UserError
from datasets.common.io import remembered


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three old files, a list of those that were read, and a cache folder of their own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'data').mkdir()
    paths = [tmp_path / 'data' / f'{k}.png' for k in range(3)]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k]) * 10)
        os.utime(path, (1e9, 1e9))
    read, real = [], remembered.digest

    def watched(path):
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(remembered, 'digest', watched)
    monkeypatch.setattr(remembered, 'SETTLED', 0)  # the files have just been written
    return paths, read


def test_a_content_is_read_once_and_again_only_after_a_change(files):
    paths, read = files
    first = remembered.hashes(paths)
    assert len(set(first)) == 3
    assert sorted(read) == ['0.png', '1.png', '2.png']
    assert remembered.hashes(paths) == first
    assert len(read) == 3
    paths[1].write_bytes(b'x' * 10)  # of the same name and size
    second = remembered.hashes(paths)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
    assert read[3:] == ['1.png']


def test_a_file_that_replaces_another_of_the_same_size_and_time_is_read(files):
    paths, read = files
    first = remembered.hashes(paths)
    new = paths[0].with_name('new.png')
    new.write_bytes(b'y' * 10)
    os.utime(new, (1e9, 1e9))
    new.replace(paths[0])
    assert remembered.hashes(paths)[0] != first[0]
    assert read[3:] == ['0.png']


def test_a_file_that_has_just_been_written_is_not_remembered(files, monkeypatch):
    paths, read = files
    monkeypatch.setattr(remembered, 'SETTLED', 60)
    for _ in range(2):
        remembered.hashes(paths)
    assert read.count('0.png') == 2


@pytest.mark.parametrize('torn', [b'', b'null', bytes(5000), b'SQLite format 3\0' + bytes(90)])
def test_a_damaged_memory_is_no_memory(files, torn, tmp_path):
    paths, _ = files
    first = remembered.hashes(paths)
    (memory,) = (tmp_path / 'cache').rglob('*.sqlite')
    memory.write_bytes(torn)
    assert remembered.hashes(paths) == first


def test_without_a_place_to_remember_everything_works(files, monkeypatch):
    paths, _ = files
    first = remembered.hashes(paths)
    monkeypatch.setenv('XDG_CACHE_HOME', str(paths[0]))  # a file where a folder ought to be
    assert remembered.hashes(paths) == first
    assert remembered.hashes([]) == []


def test_missing_files_are_named_and_counted(files):
    paths, _ = files
    lacking = [paths[0], paths[0].with_name('a'), paths[0].with_name('b')]
    with pytest.raises(UserError, match=r'/a: expected a file, found nothing there \(nor for 1'):
        remembered.hashes(lacking)
