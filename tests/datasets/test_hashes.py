"""Hashes of contents: what is read again, what is remembered, and what is no memory."""

import os
import time

import pytest

from benchmark.errors import UserError
from datasets.common.io import hashes


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three old files, a list of those that were read, and a cache folder of their own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'data').mkdir()
    paths = [tmp_path / 'data' / f'{k}.png' for k in range(3)]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k]) * 10)
        os.utime(path, (1e9, 1e9))
    read, real = [], hashes.digest

    def watched(path):
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(hashes, 'digest', watched)
    return paths, read


def test_a_content_is_read_once_and_again_only_after_a_change(files):
    paths, read = files
    first = hashes.contents(paths)
    assert len(set(first)) == 3
    assert sorted(read) == ['0.png', '1.png', '2.png']
    assert hashes.contents(paths) == first
    assert len(read) == 3
    paths[1].write_bytes(b'x' * 10)  # of the same name and size
    second = hashes.contents(paths)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
    assert read[3:] == ['1.png']


def test_a_file_that_replaces_another_of_the_same_size_and_time_is_read(files):
    paths, read = files
    first = hashes.contents(paths)
    new = paths[0].with_name('new.png')
    new.write_bytes(b'y' * 10)
    os.utime(new, (1e9, 1e9))
    new.replace(paths[0])
    assert hashes.contents(paths)[0] != first[0]
    assert read[3:] == ['0.png']


def test_a_file_that_has_just_been_written_is_not_remembered(files):
    paths, read = files
    os.utime(paths[2], (time.time(), time.time()))
    hashes.contents(paths)
    hashes.contents(paths)
    assert read.count('2.png') == 2
    assert read.count('0.png') == 1


@pytest.mark.parametrize(
    'torn', ['', 'null', '[]', '{"a": 1}', '[' * 100000, '{"%s": [10, 1, 1, 2]}']
)
def test_a_damaged_memory_is_no_memory(files, torn, tmp_path):
    paths, read = files
    first = hashes.contents(paths)
    (memory,) = (tmp_path / 'cache').rglob('*.json')
    memory.write_text(torn % paths[0] if '%s' in torn else torn)
    assert hashes.contents(paths) == first
    assert read.count('0.png') == 2


def test_without_a_place_to_remember_everything_works(files, monkeypatch):
    paths, _ = files
    first = hashes.contents(paths)
    monkeypatch.setenv('XDG_CACHE_HOME', str(paths[0]))  # a file where a folder ought to be
    assert hashes.contents(paths) == first
    assert hashes.contents([]) == []


def test_missing_files_are_named_and_counted(files):
    paths, _ = files
    lacking = [paths[0], paths[0].with_name('a'), paths[0].with_name('b')]
    with pytest.raises(UserError, match=r'/a: expected a file, found nothing there \(nor for 1'):
        hashes.contents(lacking)
