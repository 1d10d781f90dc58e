"""Preparing a data root: killed, repeated, on a full disk, from broken and hostile archives."""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import stat
import sys
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import toy_dataset
from scripts import run_script
from toy_dataset import COUNTS, Toy, archive, contents

from benchmark.errors import UserError
from datasets.common.prepare import archives, steps
from datasets.common.prepare.preparation import Preparation, SourceError
from datasets.prepare import main

ROOT = Path(__file__).resolve().parents[2]
FILES = contents()


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Nobody pulls the plug here, and a real sync takes longer than the rest of a test."""
    monkeypatch.setattr(os, 'fsync', lambda handle: None)


@pytest.fixture
def source(tmp_path):
    return archive(tmp_path / 'archives' / 'toy.zip')


@pytest.fixture
def target(tmp_path):
    return tmp_path / 'deep' / 'target'


def prepare(source, target):
    return Preparation('toy', source, target).run(Toy)


def state(folder):
    """Everything below a folder that rewriting a file would change."""
    found = {p: p.stat() for p in sorted(folder.rglob('*')) if p.is_file()}
    return {p: (p.read_bytes(), s.st_mtime_ns, s.st_ino) for p, s in found.items()}


def assert_whole(target):
    """Compares a target with the archive, file by file, and its manifest with both."""
    there = {p.relative_to(target).as_posix() for p in target.rglob('*') if p.is_file()}
    assert there == {*FILES, 'manifest.json'}
    manifest = json.loads((target / 'manifest.json').read_text())
    for name, data in FILES.items():
        assert (target / name).read_bytes() == data
        expected = {'size': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
        assert manifest['files'][name] == expected
    assert manifest['files'].keys() == FILES.keys()


def test_the_manifest_tells_files_sources_and_counts_the_same_each_time(source, tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    assert prepare(source, one)
    assert prepare(source.parent, two)
    assert_whole(one)
    assert (one / 'manifest.json').read_bytes() == (two / 'manifest.json').read_bytes()
    manifest = json.loads((one / 'manifest.json').read_text())
    assert (manifest['dataset'], manifest['format'], manifest['counts']) == ('toy', 2, COUNTS)
    found = manifest['sources']['toy.zip']
    assert (found['files'], found['size'], len(found['sha256'])) == (1, source.stat().st_size, 64)
    assert list(manifest['files']) == sorted(FILES)


def test_files_are_on_the_disk_before_the_manifest_that_promises_them(source, target, disk):
    prepare(source, target)
    manifest = target / 'manifest.json'
    assert {p.relative_to(target).as_posix() for p in disk.renamed} == {*FILES, 'manifest.json'}
    assert disk.unsynced == []
    assert disk.loose[manifest] == set()
    assert manifest in disk.settled


def test_a_whole_target_is_left_alone(source, target):
    prepare(source, target)
    before, calls = state(target), Toy.prepared
    assert not prepare(source, target)
    (source.parent / 'unrelated.part').write_text('a download beside it')
    assert not prepare(source.parent, target)
    assert (state(target), Toy.prepared) == (before, calls)


def test_after_an_error_in_the_middle_finished_files_are_not_written_again(
    source, target, monkeypatch
):
    copy, count = archives.Member.copy, itertools.count()

    def failing(self, path):
        if next(count) == 10:
            path.write_bytes(b'half')
            raise ZeroDivisionError
        copy(self, path)

    monkeypatch.setattr(archives.Member, 'copy', failing)
    with pytest.raises(ZeroDivisionError):
        prepare(source, target)
    assert not (target / 'manifest.json').exists()
    before = {p: s for p, s in state(target).items() if p.name != '.preparing'}
    assert len(before) == 10
    assert prepare(source, target)
    assert next(count) == 1 + len(FILES)
    assert before.items() <= state(target).items()
    assert_whole(target)


@pytest.mark.parametrize('call', ['fsync', 'replace', 'unlink', 'open'])
def test_killed_at_any_moment_it_goes_on(source, target, call):
    # There are 28 files, then the names in their folders, the manifest, and the end of the journal.
    for moment in (0, 1, 13, *range(27, 34)):
        shutil.rmtree(target, ignore_errors=True)
        child = os.fork()
        if not child:
            _die_at(call, moment, source, target)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        prepare(source, target)
        assert_whole(target)
        assert not prepare(source, target)


def _die_at(call, moment, source, target):
    """In a child process: prepares, and is killed at one of the calls to the system."""
    original, count = getattr(os, call), itertools.count()

    def deadly(*args, **kwargs):
        if next(count) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, call, deadly)
    try:
        prepare(source, target)
        os._exit(0)
    finally:
        os._exit(1)


def interrupted(source, target, monkeypatch, after=5):
    """Leaves a begun target behind."""
    copy, count = archives.Member.copy, itertools.count()

    def failing(self, path):
        if next(count) == after:
            raise KeyboardInterrupt
        copy(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(archives.Member, 'copy', failing)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, target)


def test_a_torn_last_line_of_the_journal_is_ignored(source, target, monkeypatch):
    interrupted(source, target, monkeypatch)
    journal = target / '.preparing'
    text = journal.read_bytes()
    last = text.rstrip(b'\n').rfind(b'\n') + 1
    kept = target.rename(target.with_name('kept'))
    for size in {0, 5, last, last + 1, (last + len(text)) // 2, len(text) - 1}:
        shutil.copytree(kept, target)
        journal.write_bytes(text[:size])
        interrupted(source, target, monkeypatch, after=2)
        prepare(source, target)
        assert_whole(target)
        shutil.rmtree(target)


def test_a_finished_file_that_has_changed_its_size_is_written_again(source, target, monkeypatch):
    interrupted(source, target, monkeypatch)
    (target / 'list.txt').write_text('torn')
    prepare(source, target)
    assert_whole(target)


def test_what_is_missing_from_a_whole_target_is_made_again(source, target):
    prepare(source, target)
    before = state(target)
    victim = target / 'rgb/val1.png'
    victim.unlink()
    assert prepare(source, target)
    assert_whole(target)
    changed = {p.name for p, s in state(target).items() if before[p] != s}
    assert changed == {'val1.png', 'manifest.json'}


@pytest.mark.parametrize('whole', [True, False])
def test_another_source_is_refused(source, target, monkeypatch, whole):
    if whole:
        prepare(source, target)
    else:
        interrupted(source, target, monkeypatch)
    archive(source, {**FILES, 'more.txt': b'another'})
    before = state(target)
    with pytest.raises(UserError, match=r'target: was prepared from another source: expected toy'):
        prepare(source, target)
    assert state(target) == before


@pytest.mark.parametrize('whole', [True, False])
def test_a_corrected_source_of_the_same_size_is_refused(source, target, monkeypatch, whole):
    if whole:
        prepare(source, target)
    else:
        interrupted(source, target, monkeypatch)
    content, times = source.read_bytes(), source.stat()
    source.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = state(target)
    expected = 'target: was prepared from another source: expected the content that toy.zip had'
    with pytest.raises(UserError, match=expected):
        prepare(source, target)
    assert state(target) == before
    source.write_bytes(content)
    prepare(source, target)
    assert_whole(target)


def test_targets_of_earlier_versions_that_lack_hashes_of_sources_are_whole(source, target):
    prepare(source, target)
    file = target / 'manifest.json'
    manifest = json.loads(file.read_text())
    del manifest['sources']['toy.zip']['sha256']
    file.write_text(json.dumps(manifest))
    assert not prepare(source, target)
    archive(source, {**FILES, 'more.txt': b'another'})
    with pytest.raises(UserError, match='was prepared from another source: expected toy.zip of'):
        prepare(source, target)


def test_a_folder_that_is_no_target_is_refused(source, target, monkeypatch):
    target.mkdir(parents=True)
    (target / 'thesis.tex').write_text('mine')
    with pytest.raises(UserError, match=r'expected a new or empty folder.* found thesis.tex'):
        prepare(source, target)
    with pytest.raises(UserError, match='expected a folder, found a file'):
        prepare(source, target / 'thesis.tex')
    (target / 'thesis.tex').unlink()
    interrupted(source, target, monkeypatch)
    with pytest.raises(UserError, match=r'begun preparation of other .*found one of toy'):
        Preparation('other', source, target)
    prepare(source, target)
    with pytest.raises(UserError, match='expected other or nothing, found toy'):
        Preparation('other', source, target).run(Toy)
    (target / 'manifest.json').write_text('{"format": 1')
    with pytest.raises(UserError, match=r'manifest.json: cannot be read as a manifest'):
        prepare(source, target)


def test_a_target_inside_a_source_folder_is_refused(source):
    class Folder:
        @classmethod
        def prepare(cls, work):
            work.find('archives')
            raise AssertionError

    with pytest.raises(UserError, match='expected a folder outside the source'):
        Preparation('toy', source.parent.parent, source.parent / 'new').run(Folder)


def test_two_processes_do_not_prepare_one_target(source, target, monkeypatch):
    interrupted(source, target, monkeypatch)
    with (target / '.preparing').open('a') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='another process is preparing it'):
            prepare(source, target)
    prepare(source, target)
    assert_whole(target)


def test_a_full_disk_is_noticed_before_anything_is_written(source, target, monkeypatch):
    size = sum(map(len, FILES.values()))
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(size - 1))
    with pytest.raises(UserError, match=r'target: expected 0.0 GB of free disk space, found 0.0'):
        prepare(source, target)
    assert not target.parent.exists()
    with pytest.raises(UserError, match=r'expected 2.5 GB .* found 0.0 GB'):
        Preparation('toy', source, target).need(2_500_000_000)
    monkeypatch.undo()
    interrupted(source, target, monkeypatch)
    # What is written already needs no room again.
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(size - 1))
    prepare(source, target)
    assert_whole(target)


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_fails_is_told_in_one_line(source, target, monkeypatch, call, code):
    original, count = getattr(os, call), itertools.count()

    def failing(*args):
        if next(count) == 7:
            raise OSError(code, os.strerror(code))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(UserError) as told:
            prepare(source, target)
    expected = f'{target}: {os.strerror(code)}; 7 finished files are kept in {target}, '
    assert str(told.value) == f'{expected}and the same command goes on from there'
    assert not list(target.rglob('.part-*'))
    prepare(source, target)
    assert_whole(target)


def test_a_target_that_cannot_be_made_is_told_in_one_line(source, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main(['toy', str(source), str(tmp_path / 'file' / 'below')]) == 2
    told = capsys.readouterr().err
    assert told.count('\n') == 1
    assert told.startswith(f'error: {tmp_path}/file/below: Not a directory; 0 finished files')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_target_without_permission_is_told_in_one_line(source, target):
    target.mkdir(parents=True, mode=0o500)
    with pytest.raises(UserError, match='Permission denied'):
        prepare(source, target)


def test_a_source_that_cannot_be_read_is_told_in_one_line(source, target):
    class Reading:
        @classmethod
        def prepare(cls, work):
            work.write('a.txt', b'a')
            raise OSError(errno.EIO, 'Input/output error')

    with pytest.raises(UserError, match=rf'^{source}: Input/output error; 1 finished files'):
        Preparation('toy', source, target).run(Reading)


SLIPS = ['../x', 'a/../../x', '/etc/x', '..', 'a/..', '\\x', 'a\\..\\..\\x', 'C:\\x', 'c:x', 'a\nb']


@pytest.mark.parametrize('name', SLIPS)
def test_an_archive_that_leaves_the_target_is_refused_whole(source, target, name):
    assert archives.escapes(name)
    archive(source, {**FILES, name: b'evil'})
    with pytest.raises(UserError) as told:
        prepare(source, target)
    assert str(told.value).startswith(f'{source}: refused: member {name!r} ')
    assert '\n' not in str(told.value)
    assert not target.exists()
    with pytest.raises(UserError, match='refused'):
        Preparation('toy', source, target).write(name, b'evil')
    assert not target.exists()


def test_a_name_may_not_be_empty():
    assert archives.escapes('') == 'has no name'


@pytest.mark.parametrize('name', ['a..b', 'a/...', 'with space/ä.png', '.hidden', 'ab:c'])
def test_odd_names_that_stay_inside_are_no_reason_to_refuse(name):
    assert not archives.escapes(name)


def test_an_archive_with_a_link_is_refused_whole(source, target):
    link = zipfile.ZipInfo('rgb/link')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, 'a') as out:
        out.writestr(link, '/etc/passwd')
    with pytest.raises(UserError, match=r"toy.zip: refused: member 'rgb/link' is a symbolic link"):
        prepare(source, target)
    assert not target.exists()


def test_a_torn_archive_is_told_in_one_line(source, target):
    whole = source.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        source.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r'toy.zip: expected a zip archive.*get it again'):
            prepare(source, target)
        assert not target.exists()


def test_a_member_with_a_wrong_checksum_is_told_in_one_line(source, target):
    with zipfile.ZipFile(source, 'w', zipfile.ZIP_STORED) as out:
        for name, data in FILES.items():
            out.writestr(name, data)
    content = bytearray(source.read_bytes())
    content[content.index(FILES['depth/val0.png']) + 20] ^= 1
    source.write_bytes(content)
    with pytest.raises(UserError, match=r'toy.zip: depth/val0.png: cannot be unpacked.*CRC'):
        prepare(source, target)
    assert not (target / 'depth/val0.png').exists()
    assert (target / 'label/train0.png').read_bytes() == FILES['label/train0.png']


def test_no_broken_archive_raises_anything_but_one_line(tmp_path):
    whole = archive(tmp_path / 'whole.zip', dict(list(FILES.items())[:3])).read_bytes()
    rng = np.random.default_rng(5)
    refused = []
    for place in rng.permutation(len(whole))[:80]:
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        path = tmp_path / 'broken.zip'
        path.write_bytes(broken)
        try:
            for member in archives.members(path):
                member.read()
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert not [text for text in refused if '\n' in text]


def test_a_member_that_lies_outside_the_archive_is_told_in_one_line(source):
    member = archives.members(source)[0]
    member.info.header_offset = -1
    with pytest.raises(UserError, match=r'toy.zip: list.txt: cannot be unpacked'):
        member.read()


def test_two_files_of_one_name_are_refused(source, target):
    with pytest.warns(UserWarning, match='Duplicate name'), zipfile.ZipFile(source, 'a') as out:
        out.writestr('rgb/val0.png', b'again')
    with pytest.raises(UserError, match=r"toy.zip: refused: member 'rgb/val0.png' is there twice"):
        prepare(source, target)
    assert not target.exists()


def test_an_archive_larger_than_the_disk_or_the_memory_is_refused(source, target, monkeypatch):
    whole = sum(map(len, FILES.values()))
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(0, 0, whole - 1))
    with pytest.raises(UserError, match='GB of free disk space'):
        Preparation('toy', source, target).members(source)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(0, 0, whole))
    member = Preparation('toy', source, target).members(source)[0]
    monkeypatch.setattr(archives, 'memory', lambda: 2 * member.size - 1)
    with pytest.raises(UserError, match=r'toy.zip: list.txt: expected less than half'):
        member.read()


@pytest.mark.parametrize('change', [-1, 1])
def test_a_member_of_another_size_than_declared_is_told_in_one_line(source, change):
    member = archives.members(source)[0]
    member.info.file_size += change
    with pytest.raises(UserError, match=r'toy.zip: list.txt: cannot be unpacked'):
        member.read()


def test_a_source_that_lacks_something_is_told_with_how_to_get_it(source, target, capsys):
    work = Preparation('toy', source.parent, target)
    with pytest.raises(SourceError, match=r'expected a.zip or b/c, found toy.zip$'):
        work.find('a.zip', 'b/c')
    assert work.find('a.zip', 'toy.zip') == source
    source.rename(source.with_name('other.zip'))
    for given in (source.parent, source, source.with_name('other.zip')):
        assert main(['toy', str(given), str(target)]) == 2
        assert 'how to get toy: download toy.zip' in capsys.readouterr().err
    assert not target.exists()


def test_a_preparation_without_an_end_is_a_fault_of_the_dataset(source, target):
    class Endless:
        @classmethod
        def prepare(cls, work):
            work.write('a.txt', b'a')

    with pytest.raises(RuntimeError, match='finish'):
        Preparation('toy', source, target).run(Endless)


def test_the_command_finds_the_project_and_prepares(source, target, tmp_path):
    decoy = tmp_path / 'decoy' / 'datasets'
    decoy.mkdir(parents=True)
    (decoy / '__init__.py').write_text('raise SystemExit("the wrong package")')
    spec = f'{toy_dataset.__file__}:toy'
    status, out, err = run_script(
        'datasets/prepare.py', [spec, source, target], ROOT, searched=[decoy.parent]
    )
    assert status == 0, err
    assert out.startswith(f'toy: prepared in {target}: 4 train, 2 val, 3 test (28 files')
    assert 'members 28/28' in err
    assert_whole(target)


def test_messages_of_the_command(source, target, capsys):
    assert main(['toy', str(source), str(target)]) == 0
    assert main(['toy', str(source), str(target)]) == 0
    assert f'toy: already prepared in {target}' in capsys.readouterr().out
    assert main(['synth_fces', str(source), str(target)]) == 2
    assert "unknown data set 'synth_fces'; did you mean 'synth_faces'?" in capsys.readouterr().err
    assert main(['chekc', 'toy', str(target)]) == 2
    assert "unknown data set 'chekc'; did you mean the command check?" in capsys.readouterr().err
    assert main(['synth_faces', str(source), str(target)]) == 2
    assert (
        'synth_faces needs no preparation; its layout: The samples are generated'
        in capsys.readouterr().err
    )
    assert main(['toy:size=3', str(source), str(target)]) == 2
    assert 'expected no options' in capsys.readouterr().err


def test_progress_is_ten_lines_where_there_is_no_terminal(capsys):
    with steps.Steps(1449, 'frames') as step:
        for _ in range(1449):
            step()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith('frames 145/1449, about ')
    assert lines[-1] == 'frames 1449/1449, about 0 s left'


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setenv('TERM', 'xterm')
    with steps.Steps(3, 'frames') as step:
        step(2)
        step()
    shown = capsys.readouterr().err
    assert '3/3' in shown
    assert 'frames' in shown


def test_progress_counts_the_steps_of_all_threads(capsys):
    count, each = 8, 500
    with steps.Steps(count * each, 'frames') as step, ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: [step() for _ in range(each)], range(count)))
    done = [line.split()[1].partition('/')[0] for line in capsys.readouterr().err.splitlines()]
    assert done == [str(tenth * count * each // 10) for tenth in range(1, 11)]
