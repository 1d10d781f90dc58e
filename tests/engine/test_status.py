"""What `--status` tells of a results folder."""

import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from made_records import ID, make_failure, make_outcomes, make_record, make_refusal, save
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import execution, hooks, locks, state, trials, tuning
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.engine.tuning import announce
from benchmark.files import ROOT
from benchmark.options import Spec
from benchmark.records import store
from benchmark.registry import discover

discover()
BLOCK = f'faces {ID}'


def told(results, capsys):
    assert run.main(['--status', str(results)]) == 0
    out, err = capsys.readouterr()
    assert err == ''
    return out.splitlines()


def row(lines, name):
    """What the line of a row says after its name."""
    (line,) = [line for line in lines if line.startswith(f'  {name} ')]
    return line.removeprefix(f'  {name} ').strip()


def done(results, label, *seeds):
    for seed in seeds:
        outcomes = make_outcomes({'rgb': 3, 'depth': 2, 'rgb+depth': 1})
        save(results / 'runs', make_record(label, seed, outcomes), outcomes)


def begun(results, method, seed, epoch=None, epochs=30):
    """The folder of a training that was stopped after some epochs."""
    folder = results / 'runs' / 'faces' / method / ID / f'seed{seed}'
    folder.mkdir(parents=True)
    state.begin(folder, 'some', epochs)
    if epoch is not None:
        content = {
            'identity': 'some',
            'epoch': epoch,
            'iter': 7,
            'state_dict': {'w': torch.ones(9)},
        }
        state.save(content, folder / state.RESUME)
    return folder


def test_seeds_are_told_by_what_became_of_them(tmp_path, capsys):
    done(tmp_path, 'mmanet:alpha=4', 0, 1, 2, 5)
    begun(tmp_path, 'mmanet-alpha=4', 3, epoch=7)
    running = begun(tmp_path, 'mmanet-alpha=4', 4, epoch=255)
    save(tmp_path / 'runs', make_failure('rfnet', 0, 'loss is not finite at step 3'))
    save(tmp_path / 'runs', make_failure('rfnet', 2, 'loss is not finite at step 3'))
    save(tmp_path / 'runs', make_refusal('rfnet', 1, 'it has gaps'))
    begun(tmp_path, 'hemis', 0)
    with locks.holding(running):
        lines = told(tmp_path, capsys)
    assert lines[0] == BLOCK
    assert row(lines, 'mmanet:alpha=4') == (
        'seeds 0-2 5 done; seed 4 running (epoch 30 of 30); seed 3 resumable (at epoch 8 of 30)'
    )
    assert row(lines, 'rfnet') == (
        'seeds 0 2 failed (loss is not finite at step 3); seed 1 refused (it has gaps)'
    )
    assert row(lines, 'hemis') == 'seed 0 begun'
    assert lines[-1] == ('10 runs: 4 done, 1 running, 1 resumable, 1 begun, 2 failed, 1 refused')
    assert len(lines) == 5
    # The lock of a process that has ended is none, and looking takes none away.
    (running / locks.FILE).touch()
    assert 'seed 4 resumable (at epoch 30 of 30)' in row(told(tmp_path, capsys), 'mmanet:alpha=4')


def test_a_lock_that_is_a_folder_holds_for_as_long_as_it_is_renewed(tmp_path):
    holder = tmp_path / locks.FOLDER / 'someone'
    holder.parent.mkdir()
    holder.touch()
    assert locks.is_held(tmp_path)
    os.utime(holder, (0, 0))
    assert not locks.is_held(tmp_path)


def test_data_sets_and_protocols_are_told_apart(tmp_path, capsys):
    done(tmp_path, 'mmanet', 0)
    outcomes = make_outcomes({'rgb': 3})
    other = make_record('mmanet', 0, outcomes, dataset={'name': 'rooms'}, protocol={'epochs': 9})
    save(tmp_path / 'runs', other, outcomes)
    assert told(tmp_path, capsys) == [
        BLOCK,
        '  mmanet  seed 0 done',
        f'rooms {other["protocol_id"]}',
        '  mmanet  seed 0 done',
        '2 runs: 2 done',
    ]


def test_a_network_for_each_subset_is_told_by_its_subset(tmp_path, capsys):
    folder = begun(tmp_path, 'customized', 0)
    (folder / state.OWNER).unlink()
    (folder / 'rgb').mkdir()
    (folder / 'rgb' / state.TRAINED).write_text('{}')
    (folder / 'depth').mkdir()
    state.begin(folder / 'depth', 'some', 9)
    state.save({'identity': 'some', 'epoch': 4}, folder / 'depth' / state.RESUME)
    assert row(told(tmp_path, capsys), 'customized') == (
        'seed 0 resumable (1 networks trained, depth at epoch 5 of 9)'
    )


def test_foreign_and_damaged_files_are_one_line_each(tmp_path, capsys):
    done(tmp_path, 'mmanet', 0, 1)
    seed = tmp_path / 'runs' / 'faces' / 'mmanet' / ID / 'seed1'
    (seed / store.RECORD).write_text('{"torn')
    (seed.parent / 'seedling').mkdir()
    (tmp_path / 'runs' / 'notes\x1b[31m.txt').touch()
    (tmp_path / 'runs' / '.DS_Store').touch()
    torn = begun(tmp_path, 'hemis', 0, epoch=3)
    content = (torn / state.RESUME).read_bytes()
    (torn / state.RESUME).write_bytes(content[: len(content) // 2])
    listed = begun(tmp_path, 'hemis', 1, epoch=3)
    (listed / state.OWNER).write_text('[]')
    lines = told(tmp_path, capsys)
    assert row(lines, 'mmanet') == 'seed 0 done; seed 1 begun'
    assert row(lines, 'hemis') == 'seeds 0-1 begun'
    for words in (
        'seed1/record.json: cannot be read as a record',
        'seedling: expected seed<number>; this belongs to no run',
        'notes\ufffd[31m.txt: expected a folder; this belongs to no run',
        'seed0/resume.pth: cannot be read: ',
        'seed1/resume.json: cannot be read: expected an object, found list',
    ):
        assert sum(words in line for line in lines) == 1, words
    assert len(lines) == 3 + 5 + 1


def test_text_of_files_cannot_command_the_terminal(tmp_path, capsys):
    evil = begun(tmp_path, 'ev\x1b]0;il\x07', 0, epoch=1)
    (evil.parent / 'seed1').mkdir()
    save(tmp_path / 'runs', make_failure('rfnet', 0, 'a' * 3000 + 'b'))
    lines = told(tmp_path, capsys)
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 250


@pytest.mark.parametrize('words', ['a pipe', 'a folder', 'code'])
def test_what_stands_in_the_place_of_a_resume_file_is_not_obeyed(words, tmp_path, capsys):
    folder = begun(tmp_path, 'hemis', 0, epoch=3)
    file = folder / state.RESUME
    file.unlink()
    if words == 'a pipe':
        os.mkfifo(file)
    elif words == 'a folder':
        file.mkdir()
    else:

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / 'obeyed'),)

        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('archive/data.pkl', pickle.dumps({'a': Evil(), 'epoch': Evil()}))
    lines = told(tmp_path, capsys)
    assert row(lines, 'hemis') == 'seed 0 begun'
    assert sum('resume.pth: cannot be read' in line for line in lines) == 1
    assert not (tmp_path / 'obeyed').exists()


class Stopped(Exception):
    """Stands for the death of the process."""


def test_a_training_that_was_stopped_is_told_with_its_epoch_and_teacher(
    tmp_path, monkeypatch, capsys
):
    data = Toy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, {'epochs': 3, 'batch_size': 8}, 'cpu')
    e = experiment(Spec('distilled'), data, protocol, 0, tmp_path)
    real, seen = hooks.Checkpoint._save, []

    def save_state(self, runner):
        real(self, runner)
        if self.file.parent == e.folder and runner.epoch == 2:
            with locks.holding(e.folder):
                seen.extend(told(tmp_path, capsys))
            raise Stopped

    monkeypatch.setattr(hooks.Checkpoint, '_save', save_state)
    with pytest.raises(Stopped):
        execution.run(e, Machine('cpu'), lambda *_: None)
    assert row(seen, 'distilled') == 'seed 0 running (epoch 3 of 3)'
    lines = told(tmp_path, capsys)
    assert lines[0] == f'{data.name} {e.protocol_id}'
    assert row(lines, 'complete') == 'seed 0 trained'
    assert row(lines, 'distilled') == 'seed 0 resumable (at epoch 3 of 3)'


def test_searches_are_told_with_their_trials(tmp_path, capsys):
    data = Toy(TASKS['vectors'], sizes=(16, 8, 8))
    protocol = Protocol.build(data.recipe, {'epochs': 1, 'batch_size': 8}, 'cpu')
    search = tuning.search(Spec('mmanet'), data, protocol, (0,), tmp_path, 8)
    announce(search)
    for trial in search.experiments[:2]:
        trials.attempt(trial, Machine('cpu'), lambda *_: None)
    failed = search.experiments[2].folder
    state.write_json(failed / trials.TRIAL, {'status': 'failed', 'error': 'no memory'})
    with locks.holding(search.experiments[3].folder):
        lines = told(tmp_path, capsys)
    assert row(lines, 'search mmanet') == '2 of 8 trials; 1 running; 1 failed (no memory)'
    assert row(lines, 'teacher complete of searches') == 'trained'
    assert lines[-1] == '4 trials of searches'
    (search.experiments[0].folder / trials.TRIAL).write_text('{"status": "odd"}')
    lines = told(tmp_path, capsys)
    assert row(lines, 'search mmanet').startswith('1 of 8 trials; ')
    assert any('trial0/trial.json: it is no result of a trial' in line for line in lines)


def test_folders_without_runs_and_no_folders(tmp_path, capsys):
    assert told(tmp_path, capsys) == ['nothing has been run here']
    done(tmp_path / 'first', 'mmanet', 0)
    assert told(tmp_path, capsys) == [
        "nothing has been run here; results lie in its folders 'first'"
    ]
    assert run.main(['--status', str(tmp_path / 'frist')]) == 2
    assert 'expected a results folder, found none at ' in capsys.readouterr().err
    assert run.main(['--results', str(tmp_path / 'first'), '--status']) == 0
    assert capsys.readouterr().out.splitlines()[-1] == '1 run: 1 done'


def test_the_status_is_told_without_torch(tmp_path):
    done(tmp_path, 'mmanet', 0)
    begun(tmp_path, 'hemis', 0, epoch=3)
    code = (
        'import sys; from benchmark import run; run.main(); '
        "print({'torch', 'mmengine'} & {*sys.modules}, file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, '-c', code, '--status', str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stderr == 'set()\n'
    assert '2 runs: 1 done, 1 resumable' in shown.stdout


def test_data_sets_that_differ_in_an_option_have_headings_that_tell_it(tmp_path, capsys):
    expected = set()
    for train in (32, 64):
        about = {
            'options': {'train': train, 'size': 24, 'name': ''},
            'changed': ['train', 'name'],
            'fingerprint': f'of{train}',
        }
        record = make_record('m', 0, outcomes := make_outcomes({'rgb': 3}), dataset=about)
        save(tmp_path / 'runs', record, outcomes)
        expected.add(f'faces (train={train}) {record["protocol_id"]}')
    lines = told(tmp_path, capsys)
    assert {line for line in lines if line.startswith('faces')} == expected
    assert len(expected) == 2
