"""Paths that no file can have, and paths of the wrong kind, are told in one line."""

import os
import sys

import numpy as np
import pytest

from benchmark import run, tables
from benchmark.errors import UserError
from benchmark.files import user_path
from benchmark.registry import DATASETS, discover
from datasets import prepare, preview
from datasets.arrays import Arrays
from datasets.cmu_mosei import CMUMOSEI
from datasets.common.families.volume_index import read_index
from datasets.common.io.files import lines
from datasets.common.io.folders import walk_all
from datasets.common.io.paths import has_file, has_folder
from datasets.folders import Folders

discover()
ROOTED = sorted(name for name, cls in DATASETS.module_dict.items() if not cls.embedded)
LONG = 'a' * 300


@pytest.mark.parametrize(
    ('words', 'what'),
    [
        (
            (run, '--methods', 'majority', '--datasets', 'arrays', '--data-root', LONG),
            '--data-root',
        ),
        ((run, '--list', '--data-root', LONG), '--data-root'),
        ((run, '--methods', 'majority', '--results', LONG), '--results'),
        ((run, '--methods', f'{LONG}.py:majority', '--jobs', '1'), 'path'),
        ((tables, LONG), 'RESULTS'),
        ((tables, '.', '--runs', LONG), '--runs'),
        ((prepare, 'nyuv2', LONG, 'target'), 'SOURCE'),
        ((prepare, 'nyuv2', '.', LONG), 'TARGET'),
        ((prepare, 'check', 'nyuv2', LONG), 'ROOT'),
        ((preview, 'synth_faces', f'{LONG}.png'), 'OUT'),
    ],
)
def test_a_name_that_no_file_can_have_is_told_by_every_command(words, what, capsys, monkeypatch):
    command, *words = words
    monkeypatch.setattr(sys, 'argv', ['command', *words])
    try:
        told = command.main() and capsys.readouterr().err
    except UserError as error:  # `streams.command` prints it
        told = f'error: {error}\n'
    assert told.startswith(f"error: {what}: expected a path, found '{'a' * 100}...': File name too")
    assert told.count('\n') == 1


@pytest.mark.parametrize('name', ROOTED)
@pytest.mark.parametrize(('root', 'why'), [(LONG, 'File name too long'), ('a\0b', 'null byte')])
def test_a_root_that_no_file_can_have_is_told_by_every_data_set(name, root, why):
    with pytest.raises(UserError, match=f'expected a path, found .*{why}') as caught:
        DATASETS.module_dict[name](root=root)
    assert '\n' not in str(caught.value)
    assert '\0' not in str(caught.value)


@pytest.mark.parametrize('name', ['', 'a\x1b[31m' + LONG, 'self/x'])
def test_paths_are_checked_once(name, tmp_path):
    (tmp_path / 'self').symlink_to(tmp_path / 'self')
    with pytest.raises(UserError, match='path: expected a path, found') as caught:
        user_path(name and f'{tmp_path}/{name}')
    assert str(caught.value).isprintable()
    assert user_path(str(tmp_path / 'new')) == tmp_path / 'new'


def test_a_mark_of_the_byte_order_is_no_part_of_a_list(tmp_path):
    file = tmp_path / 'list.txt'
    for encoding in ('utf-8', 'utf-8-sig'):
        file.write_text('wall\r\n\n floor ', encoding=encoding)
        assert lines(file) == ['wall', 'floor']
    file.write_text('wall\nfloor', encoding='utf-16')
    with pytest.raises(UserError, match=r'list\.txt: expected a list file in UTF-8'):
        lines(file)
    for odd in ('a\0b', 'a\x1b[31m', '\ufeffwall'):
        file.write_text(f'floor\n{odd}')
        with pytest.raises(UserError, match=r'list\.txt: expected printable characters, found'):
            lines(file)


def test_what_is_no_file_never_counts_as_nothing(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'nothing')
    (tmp_path / 'file').write_text('x')
    os.mkfifo(tmp_path / 'pipe')
    assert has_file(tmp_path / 'file')
    assert has_folder(tmp_path / 'folder')
    assert not has_file(tmp_path / 'no')
    assert not has_folder(tmp_path / 'no')
    for name, found in (('folder', 'a folder'), ('link', 'a link'), ('pipe', 'a pipe')):
        with pytest.raises(UserError, match=f'{name}: expected a file, found {found}'):
            has_file(tmp_path / name)
    for name in ('file', 'link', 'pipe'):
        with pytest.raises(UserError, match=f'{name}: expected a folder, found'):
            has_folder(tmp_path / name)


def images(root):
    rows = ['sample,label,split']
    for k in range(9):
        for name in ('a', 'b'):
            (root / name).mkdir(parents=True, exist_ok=True)
            np.save(root / name / f'{k}.npy', np.full((8, 8), k, np.uint8))
        rows.append(f'{k},{"no" if k % 2 else "yes"},{("train", "val", "test")[k // 3]}')
    (root / 'labels.csv').write_text('\n'.join(rows))
    return root


@pytest.mark.parametrize(
    'name', ['classes.txt', 'labels.csv', 'train.txt', 'val.txt', 'test.txt', 'a/9.npy', 'a/9.png']
)
def test_a_folder_in_the_place_of_a_file_is_told_by_folders(name, tmp_path):
    root = images(tmp_path / 'x')
    (root / name).unlink(missing_ok=True)
    (root / name).mkdir()
    for options in ({}, {'modalities': 'a+b'}):
        with pytest.raises(UserError, match=f'{root / name}: expected a file, found a folder'):
            Folders(root=str(root), **options)


def test_a_file_in_the_place_of_the_label_maps_is_told(tmp_path):
    root = images(tmp_path / 'x')
    (root / 'labels').write_text('x')
    with pytest.raises(UserError, match='labels: expected a folder, found something else'):
        Folders(root=str(root))


def test_a_folder_in_the_place_of_an_array_or_a_list_is_told(tmp_path):
    for name in ('target.npy', 'inputs/a.npy', 'classes.npy'):
        (tmp_path / 'x' / name).mkdir(parents=True)
        with pytest.raises(UserError, match=f'{name}: expected a file, found a folder'):
            Arrays(root=str(tmp_path / 'x'))
        (tmp_path / 'x' / name).rmdir()
    told = r'prepare one by python datasets/prepare\.py volumes .*/its scans. PREPARED$'
    with pytest.raises(UserError, match=told):
        read_index(tmp_path / 'its scans', 'volumes')
    (tmp_path / 'cases.txt').mkdir()
    with pytest.raises(UserError, match=r'cases\.txt: expected a file, found a folder'):
        read_index(tmp_path)
    (tmp_path / 'y' / 't1.nii').mkdir(parents=True)
    with pytest.raises(UserError, match=r't1\.nii: expected a file, found a folder'):
        list(walk_all(tmp_path))
    (tmp_path / 'z' / 'aligned_50.pkl').mkdir(parents=True)
    with pytest.raises(UserError, match=r'aligned_50\.pkl: expected a file, found a folder'):
        CMUMOSEI(root=str(tmp_path / 'z'))


@pytest.mark.parametrize('file', ['classes.txt', 'labels.csv'])
@pytest.mark.parametrize('name', ['<b>', '=cmd()', 'a' * 70])
def test_names_of_classes_are_refused_with_their_file(file, name, tmp_path):
    root = images(tmp_path / 'x')
    if file == 'classes.txt':
        (root / file).write_text(f'no\nyes\n{name}')
    else:
        (root / file).write_text((root / file).read_text().replace('yes', name))
    with pytest.raises(UserError, match=f'{root / file}: class: expected'):
        Folders(root=str(root))


@pytest.mark.parametrize('name', ['<b>', '=cmd()', '', 'a\x1b[31m'])
def test_names_of_classes_are_refused_with_their_key(name, tmp_path):
    keys = {'inputs/a': np.eye(9, 4), 'target': np.arange(9) % 2, 'split': np.arange(9) // 3}
    np.savez(tmp_path / 'x.npz', classes=np.array(['no', name]), **keys)
    with pytest.raises(UserError, match=r'x\.npz: classes: class: expected'):
        Arrays(root=str(tmp_path / 'x.npz'))
