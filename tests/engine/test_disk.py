"""A full disk, a results folder that vanishes, a terminal that cannot show a table."""

import errno
import os
import shutil

import pytest
from tasks import TASKS, Toy

from benchmark import files, running
from benchmark.engine import grid
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment
from benchmark.engine.hooks import LossWatch
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.options import Spec
from benchmark.registry import discover
from benchmark.report import writer

discover()


def experiments(results, *methods):
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': 2, 'selection': 'mean'}, 'cpu')
    return [experiment(Spec(m), data, protocol, 0, results) for m in methods]


def execute(*experiments):
    return grid.execute(list(experiments), Machine('cpu'), False, writer.brief)


@pytest.fixture
def full(monkeypatch):
    """Makes the disk too full for the files of a name; returns the names."""
    names = set()
    real = files._commit

    def commit(part, path):
        if path.name in names and 'hemis' in str(path):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(part, path)

    monkeypatch.setattr(files, '_commit', commit)
    return names


WRITTEN = ['resume.json', 'resume.pth', 'newest.pth', 'checkpoint.pth', 'trained.json',
           'model.json', 'validation.npz', 'outcomes.npz', 'gallery.json',
           'record.json']  # fmt: skip


@pytest.mark.parametrize('name', WRITTEN)
def test_a_full_disk_is_one_line_and_the_others_go_on(name, full, tmp_path, capsys):
    first, second = experiments(tmp_path, 'hemis', 'modality_dropout')
    full.add(name)
    assert not execute(first, second)
    told = capsys.readouterr()
    assert told.err == ''
    line, _ = told.out.splitlines()
    assert f'{first.folder / name}: cannot be written: No space left on device' in line
    assert list(tmp_path.rglob('.*')) == []
    assert second.recorded() is not None
    # With room on the disk the same command goes on.
    full.clear()
    assert execute(first, second)
    assert capsys.readouterr().out.count('\n') == 2


def test_a_results_folder_that_vanishes_ends_no_command(tmp_path, monkeypatch, capsys):
    results = tmp_path / 'results'
    first, second = experiments(results, 'hemis', 'modality_dropout')
    real = LossWatch.after_train_epoch

    def vanish(self, hook):
        real(self, hook)
        if results.is_dir() and 'hemis' in hook.work_dir:
            shutil.rmtree(results)
            results.touch()

    monkeypatch.setattr(LossWatch, 'after_train_epoch', vanish)
    assert not execute(first, second)
    told = capsys.readouterr()
    assert told.err == ''
    assert all('cannot be written: ' in line for line in told.out.splitlines())
    assert len(told.out.splitlines()) == 2


def test_a_table_that_cannot_be_written_is_one_line_and_the_others_are_shown(
    tmp_path, monkeypatch, capsys
):
    (e,) = experiments(tmp_path, 'hemis')
    assert execute(e)
    (tmp_path / 'tables').write_text('in the way')
    assert not running.show_tables([e], tmp_path)
    told = capsys.readouterr()
    assert told.err.count('\n') == 1
    assert 'tables/toy.md: cannot be written: expected a folder' in told.err


def test_every_table_is_written_before_one_is_printed(tmp_path, monkeypatch):
    (e,) = experiments(tmp_path, 'hemis')
    other = experiment(Spec('hemis'), Toy(TASKS['faces']), e.protocol, 0, tmp_path)
    other.data.name = 'other'
    done = []
    monkeypatch.setattr(running.writer, 'write_tables', lambda _, name, **__: done.append(name))
    monkeypatch.setattr(running.writer, 'show', lambda *_: done.append('shown'))
    monkeypatch.setattr(running.document, 'show', lambda _: not done.append('page'))
    assert running.show_tables([e, other], tmp_path)
    assert done == ['toy', 'other', 'shown', 'shown', 'page']


def test_half_written_tables_and_pages_of_killed_processes_are_swept(tmp_path, monkeypatch):
    (e,) = experiments(tmp_path, 'hemis')
    monkeypatch.setattr(running.writer, 'write_tables', lambda *_, **__: None)
    monkeypatch.setattr(running.writer, 'show', lambda *_: None)
    monkeypatch.setattr(running.document, 'show', lambda _: True)
    old, new, elsewhere = '.part-1-index.html', '.part-2-index.html', 'runs/toy/.part-3-record.json'
    for name in (old, new, elsewhere, f'tables/{old}', f'tables/{new}'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if '-2-' not in name:
            os.utime(path, (0, 0))
    running.show_tables([e], tmp_path)
    # Somebody may write the young ones now, and those of runs go with the lock of the run.
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('.part-*')}
    assert left == {new, f'tables/{new}', elsewhere}


def test_an_error_of_the_data_is_not_taken_for_one_of_the_disk(tmp_path):
    (e,) = experiments(tmp_path, 'hemis')
    lost = FileNotFoundError(errno.ENOENT, 'No such file or directory', '/data/x.png')
    line, trace = grid.describe(e, lost)
    assert trace
    assert '/data/x.png' in line
    assert grid.describe(e, UserError('no'))[1] is None


def link(path):
    path.symlink_to(path.parents[4] / 'elsewhere')


@pytest.mark.parametrize('make', [link, os.mkfifo, os.mkdir])
@pytest.mark.parametrize('trained', [False, True])
def test_what_stands_in_the_place_of_the_log_is_neither_followed_nor_waited_for(
    make, trained, tmp_path
):
    (e,) = experiments(tmp_path / 'results', 'hemis')
    e.folder.mkdir(parents=True)
    elsewhere = e.folder.parents[3] / 'elsewhere'
    elsewhere.write_text('mine')
    if trained:
        assert execute(e)
        (e.folder / 'record.json').unlink()
        (e.folder / 'train.log').unlink()
    make(e.folder / 'train.log')
    assert execute(e)
    assert elsewhere.read_text() == 'mine'
    assert (e.folder / 'train.log').is_file()
    assert not (e.folder / 'train.log').is_symlink()


def test_leftovers_that_are_links_are_removed_without_what_they_lead_to(tmp_path):
    (tmp_path / 'mine').mkdir()
    for name, target in (('a', 'mine'), ('b', 'nowhere'), ('c', '.part-c')):
        (tmp_path / f'.part-{name}').symlink_to(tmp_path / target)
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['mine']
