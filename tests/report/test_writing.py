"""All tables are written before one is printed, and from all records that there are."""

import csv
import sys
import threading

import pytest
from made_records import SUBSETS, make_outcomes, make_record, save

from benchmark import files, running, tables
from benchmark.engine.plan import protocol_for
from benchmark.records import store
from benchmark.report import settings, writer
from tests.helpers.tasks import TASKS, Toy


def add(folder, label, seed=0, dataset='faces'):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 40), [seed, *label.encode()])
    save(folder / 'runs', make_record(label, seed, outcomes, dataset={'name': dataset}), outcomes)


@pytest.fixture
def two(tmp_path):
    """Results of two methods on two data sets."""
    for dataset in ('faces', 'other'):
        for label in ('a', 'b'):
            for seed in range(3):
                add(tmp_path, label, seed, dataset)
    return tmp_path


WRITTEN = [
    *(
        'faces.md',
        'faces.tex',
        'faces.csv',
        'faces-baseline.md',
        'faces-baseline.tex',
        'faces-baseline.csv',
    ),
    *(
        'other.md',
        'other.tex',
        'other.csv',
        'other-baseline.md',
        'other-baseline.tex',
        'other-baseline.csv',
    ),
]


class Screen:
    """Standard output that notes when something is printed."""

    def __init__(self, done):
        self.done = done

    def write(self, text):
        self.done.append('printed')

    def isatty(self):
        return False


def test_every_file_of_every_data_set_is_written_before_anything_is_printed(two, monkeypatch):
    done, real = [], files._commit

    def commit(part, path):
        done.append(path.name)
        real(part, path)

    monkeypatch.setattr(files, '_commit', commit)
    monkeypatch.setattr(sys, 'stdout', Screen(done))
    assert tables.main([str(two), '--baseline', 'a']) == 0
    assert done[: len(WRITTEN)] == WRITTEN
    assert {*done[len(WRITTEN) :]} == {'printed'}


@pytest.mark.parametrize('words', [[], ['--baseline', 'a']])
def test_a_table_that_cannot_be_written_leaves_the_others(words, two, capsys):
    (two / 'tables' / 'faces.md').mkdir(parents=True)
    assert tables.main([str(two), *words]) == 2
    told = capsys.readouterr()
    assert told.err == f'error: {two}/tables/faces.md: cannot be written: Is a directory\n'
    assert told.out.startswith('\nother: ')
    assert {path.name for path in (two / 'tables').glob('other*')} >= {'other.md', 'other.csv'}


def test_what_has_a_table_and_no_comparison_is_shown(two, capsys):
    for seed in range(3):
        add(two, 'only', seed, dataset='other')
    assert tables.main([str(two), '--baseline', 'only']) == 0
    told = capsys.readouterr().out
    assert '\nfaces: ' in told
    assert "left out: unknown method of faces 'only'" in told


def rows(folder):
    with open(folder / 'tables' / 'faces.csv') as file:
        return {row['method'] for row in csv.DictReader(file)}


COMMANDS = {
    'tables': lambda folder: tables.main([str(folder), '--datasets', 'faces']),
    'run': lambda folder: store.up_to_date(
        folder / 'runs' / 'faces', lambda: writer.write_tables(folder, 'faces')
    ),
}


@pytest.mark.parametrize('command', COMMANDS)
def test_a_slower_process_leaves_no_older_table_behind(command, tmp_path, monkeypatch):
    """The slower one has read its records; before it writes, another one ends and writes all."""
    add(tmp_path, 'first')
    has_read, may_write, real = threading.Event(), threading.Event(), writer._write

    def write(stem, made):
        if threading.current_thread() is slower and not may_write.is_set():
            has_read.set()
            assert may_write.wait(60)
        real(stem, made)

    monkeypatch.setattr(writer, '_write', write)
    slower = threading.Thread(target=COMMANDS[command], args=(tmp_path,))
    slower.start()
    assert has_read.wait(60)
    add(tmp_path, 'second')
    COMMANDS[command](tmp_path)
    assert rows(tmp_path) == {'first', 'second'}
    may_write.set()
    slower.join()
    assert rows(tmp_path) == {'first', 'second'}


def test_the_end_of_a_run_writes_tables_again_when_records_have_come(tmp_path, monkeypatch):
    add(tmp_path, 'first')
    real, tables_made = writer._write, []

    def write(stem, made):
        real(stem, made)
        tables_made.append(len(made.blocks[0].rows))
        if len(tables_made) == 1:
            add(tmp_path, 'second')

    monkeypatch.setattr(writer, '_write', write)
    data = type('Data', (), {'name': 'faces'})
    monkeypatch.setattr(running.plan, 'flat', lambda grid: grid)
    monkeypatch.setattr(running.writer, 'show', lambda *_: None)
    experiment = type('Experiment', (), {'data': data, 'protocol_id': ''})
    assert running.show_tables([experiment], tmp_path)
    assert tables_made == [1, 2]


def test_two_that_write_one_file_at_a_time_have_temporary_files_of_their_own(tmp_path):
    path = tmp_path / 'faces.md'
    with files.writing(path) as first:
        first.write(b'first, which is longer')
        with files.writing(path) as second:
            second.write(b'second')
        assert path.read_bytes() == b'second'
    assert path.read_bytes() == b'first, which is longer'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('undefined', [None, float('nan')])
def test_the_line_of_a_run_leaves_out_subsets_without_a_score(undefined):
    record = make_record('a', 0, make_outcomes(dict.fromkeys(SUBSETS, 40)))
    others = list(SUBSETS)[1:]
    for subset, score in zip(others, (0.25, 0.75), strict=False):
        record['scores']['test'][subset]['ACER'] = score
    for subset in SUBSETS:
        if subset not in others[:2]:
            record['scores']['test'][subset]['ACER'] = undefined
    assert writer.brief(record) == f'ACER 50.00 % mean, 75.00 % worst ({others[1]})'


def test_one_epoch_is_no_plural():
    told = settings.words(
        {'epochs': 1, 'batch_size': 8, 'pretrain': 'masked', 'pretrain_epochs': 1}
    )
    assert '1 epoch with batches of 8' in told
    assert 'encoders pre-trained (masked, 1 epoch)' in told
    assert '3 epochs with batches of 8' in settings.words({'epochs': 3, 'batch_size': 8})


def test_what_changes_every_step_is_told_where_it_is_on(tmp_path):
    data = Toy(TASKS['vectors'], (16, 8, 8))
    fields = {'clip': '0.5', 'ema': '0.98', 'vector_noise': '2'}
    told = [settings.words(protocol_for(data, given, 'cpu').recorded()) for given in ({}, fields)]
    wanted = (
        'gradients clipped to the norm 0.5', 'weights averaged with the decay 0.98',
        'noise on vectors (2 D / n)',
    )  # fmt: skip
    assert [[word in text for word in wanted] for text in told] == [[False] * 3, [True] * 3]
