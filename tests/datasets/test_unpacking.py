"""Volumes are prepared from zip and tar archives as from the folders that they hold."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from preparing import told_by_prepare

nibabel = pytest.importorskip('nibabel')

from datasets import prepare  # noqa: E402

SHAPE = (5, 6, 3)


def source(root):
    """Five cases, and what a file manager left beside them."""
    for k in range(5):
        rng = np.random.default_rng(k)
        for kind in ('flair', 'seg'):
            labels = np.zeros(SHAPE, np.uint8)
            labels[1:3, 2:4, 1] = 1
            values = labels if kind == 'seg' else rng.integers(1, 99, SHAPE).astype(np.int16)
            file = root / f'p{k}' / f'{kind}.nii.gz'
            file.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)
    (root / '__MACOSX' / 'p0').mkdir(parents=True)
    (root / '__MACOSX' / 'p0' / '._seg.nii.gz').write_bytes(b'x')
    return root


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """The cases, and the root that their folder gives."""
    folder = tmp_path_factory.mktemp('volumes')
    source(folder / 'in')
    shutil.rmtree(folder / 'in' / '__MACOSX', ignore_errors=True)
    assert prepare.main(['volumes', str(folder / 'in'), str(folder / 'root')]) == 0
    return folder


@pytest.fixture
def prepared(tmp_path, capsys):
    def run(path):
        (tmp_path / 'out').mkdir(exist_ok=True)
        told = told_by_prepare(['volumes', str(path), str(tmp_path / 'out' / 'root')], capsys)
        # Whatever happened, nothing but the root is left.
        assert os.listdir(tmp_path / 'out') in ([], ['root'])
        return told

    return run


def arrays(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*.npy')}


@pytest.mark.parametrize('form', ['zip', 'tar', 'gztar'])
@pytest.mark.parametrize('inner', ['', 'Training/Data'])
def test_archives_give_what_their_content_gives(form, inner, sound, prepared, tmp_path):
    source(tmp_path / 'a' / inner)
    archive = shutil.make_archive(str(tmp_path / 'downloads' / 'data'), form, tmp_path / 'a')
    given = archive if inner else tmp_path / 'downloads'
    out, error = prepared(given)
    assert not error
    assert 'members of archives left out, for they are no volumes' in out
    assert '._seg.nii.gz' in out
    assert arrays(tmp_path / 'out' / 'root') == arrays(sound / 'root')


def test_the_layout_of_the_decathlon_is_unpacked(prepared, tmp_path):
    root = source(tmp_path / 'a')
    task = tmp_path / 'b' / 'Task01'
    for k in range(5):
        for kind, folder in (('flair', 'imagesTr'), ('seg', 'labelsTr')):
            (task / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(root / f'p{k}' / f'{kind}.nii.gz', task / folder / f'p{k}.nii.gz')
    (task / 'dataset.json').write_text('{"modality": {"0": "FLAIR"}, "labels": {"1": "lesion"}}')
    archive = shutil.make_archive(str(tmp_path / 'Task01'), 'tar', tmp_path / 'b')
    assert not prepared(archive)[1]
    assert (tmp_path / 'out' / 'root' / 'regions.txt').read_text() == 'lesion 1\n'


def test_messages_name_the_archive_and_no_folder_that_is_gone(prepared, tmp_path):
    source(tmp_path / 'a')
    (tmp_path / 'a' / 'p1' / 'flair.nii.gz').write_bytes(b'no')
    archive = shutil.make_archive(str(tmp_path / 'data'), 'zip', tmp_path / 'a')
    assert f'{archive}/p1/flair.nii.gz: cannot be read' in prepared(archive)[1]


def test_broken_archives_are_told(prepared, tmp_path):
    source(tmp_path / 'a')
    for form, ending in (('zip', 'zip'), ('tar', 'tar'), ('gztar', 'tar.gz')):
        file = tmp_path / f'{form}.{ending}'
        whole = shutil.make_archive(str(tmp_path / form), form, tmp_path / 'a')
        content = Path(whole).read_bytes()
        for part in (content[: len(content) // 2], b'', b'no'):
            file.write_bytes(part)
            assert prepared(file)[1].startswith(f'error: {file}: ')
    (tmp_path / 'x.nii.gz').write_bytes(b'x')
    assert 'expected a folder or a .zip, .tar' in prepared(tmp_path / 'x.nii.gz')[1]


@pytest.mark.parametrize('name', ['../out/p0/seg.nii.gz', '/tmp/seg.nii.gz'])
def test_members_that_lead_outside_are_refused(name, prepared, tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert f'refused: member {name!r}' in prepared(tmp_path / 'a.tar')[1]
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr(name, b'')
    assert f'refused: member {name!r}' in prepared(tmp_path / 'a.zip')[1]


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_in_an_archive_are_refused(kind, prepared, tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        member = tarfile.TarInfo('p0/seg.nii.gz')
        member.type, member.linkname = kind, '/etc/passwd'
        tar.addfile(member)
    assert "'p0/seg.nii.gz' is no regular file" in prepared(tmp_path / 'a.tar')[1]


def test_a_member_that_is_there_twice_is_refused(prepared, tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo('p0/seg.nii.gz'), io.BytesIO())
    assert "'p0/seg.nii.gz' is there twice" in prepared(tmp_path / 'a.tar')[1]
