"""What a training goes on from: damaged, foreign and hostile files count as not there."""

import json
import os
import pickle
import random
import shutil
import zipfile

import pytest
import torch
from repetitions import scientific
from tasks import TASKS, Toy

from benchmark.engine import execution, hooks, state
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.records import store
from benchmark.registry import METHODS, discover, lookup

discover()
MACHINE = Machine('cpu')
METHOD = 'distilled'


class Stopped(Exception):
    """Stands for the death of the process."""


def experiment(results, method=METHOD, **fields):
    data = Toy(TASKS['vectors'])
    fields = {'epochs': 3, 'batch_size': 8, **fields}
    protocol = Protocol.build(data.recipe, fields, 'cpu')
    return experiment_of(Spec(method), data, protocol, 0, results)


def finished(e):
    """Runs an experiment; returns its record and the epochs of the training steps of `METHOD`."""
    cls, epochs = lookup(METHODS, e.name), set()
    real = cls.loss

    def loss(self, batch):
        epochs.add(self.epoch)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, 'loss', loss)
        record = execution.run(e, MACHINE, lambda *_: None)
    return scientific(record), epochs


def stopped(e, monkeypatch, at=2):
    """Runs an experiment until it has saved its own state after `at` epochs."""
    real = hooks.Checkpoint._save

    def save(self, runner):
        real(self, runner)
        if self.file.parent == e.folder and runner.epoch == at:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Checkpoint, '_save', save)
        with pytest.raises(Stopped):
            execution.run(e, MACHINE, lambda *_: None)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The record of a run that nothing disturbed."""
    e = experiment(tmp_path_factory.mktemp('whole'), selection='worst')
    return finished(e)[0]


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    """The results of a run that was stopped after two of three epochs, its teacher finished."""
    results = tmp_path_factory.mktemp('begun')
    with pytest.MonkeyPatch.context() as patch:
        stopped(experiment(results, selection='worst'), patch)
    return results


def tear(path):
    path.write_bytes(path.read_bytes()[:-50])


def flip(path):
    """Flips a bit of the numbers; the padding between them matters to nobody."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        numbers = archive.read(max(archive.infolist(), key=lambda m: m.file_size))
    content[content.index(numbers) + len(numbers) // 2] ^= 4
    path.write_bytes(content)


def fold(path):
    path.unlink()
    path.mkdir()
    (path / 'inside').touch()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    'torn': tear,
    'empty': lambda path: path.write_bytes(b''),
    'null': lambda path: path.write_text('null'),
    'a list': lambda path: path.write_text('[]'),
    'nested': lambda path: path.write_text('[' * 200_000),
    'no text': lambda path: path.write_bytes(b'\xff\xfe\x00'),
    'a folder': fold,
    'a pipe': pipe,
}
FILES = ['resume.pth', 'resume.json', 'best.pth', 'teacher/checkpoint.pth', 'teacher/trained.json']


def place(e, name):
    folder, _, file = name.rpartition('/')
    return (e.teacher.folder if folder else e.folder) / file


def readable(e, name):
    """What the reader of a file finds."""
    if name.startswith('teacher'):
        own = execution.build(e.teacher, 'cpu').state_dict()
        return state.read_trained(e.teacher.folder, e.teacher.identity, own)
    return state.read_resume(e.folder, e.identity, execution.build(e, 'cpu').state_dict())


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_named_once_and_counts_as_not_there(name, begun, tmp_path, capsys):
    damages = DAMAGES if name.endswith('json') else {**DAMAGES, 'flipped': flip}
    for damage, harm in damages.items():
        shutil.copytree(begun, tmp_path / damage)
        e = experiment(tmp_path / damage, selection='worst')
        assert readable(e, name) is not None
        harm(place(e, name))
        assert readable(e, name) is readable(e, name) is None, damage
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f'{place(e, name)}: cannot be used ('), damage


@pytest.mark.parametrize('field', ['seconds', 'scores', 'content'])
def test_a_changed_field_is_noticed(field, begun, tmp_path, capsys):
    shutil.copytree(begun, tmp_path / 'results')
    e = experiment(tmp_path / 'results', selection='worst')
    file = place(e, 'teacher/trained.json')
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, field: 1}))
    assert readable(e, 'teacher/trained.json') is None
    told = capsys.readouterr().out
    assert told == f'{file}: cannot be used (its content does not fit its hash); it is made again\n'


@pytest.mark.parametrize(
    ('name', 'damage'),
    list(zip(FILES, [tear, fold, flip, fold, tear], strict=True)),
)
def test_what_was_damaged_is_made_again(name, damage, begun, whole, tmp_path):
    results = tmp_path / 'results'
    shutil.copytree(begun, results)
    e = experiment(results, selection='worst')
    damage(place(e, name))
    assert finished(e)[0] == whole
    assert e.recorded() is not None
    assert sorted(p.name for p in e.folder.iterdir()) == [
        'checkpoint.pth', 'curves.json', 'gallery.json', 'model.json', 'outcomes.npz',
        'record.json', 'train.log', 'trained.json', 'validation.npz',
    ]  # fmt: skip


def test_any_flipped_bit_of_the_weights_is_noticed(begun):
    e = experiment(begun, selection='worst')
    file = e.teacher.folder / 'checkpoint.pth'
    content, dice = file.read_bytes(), random.Random(0)
    own = torch.load(file, weights_only=True)
    assert state.read_trained(e.teacher.folder, e.teacher.identity, own) is not None
    try:
        for _ in range(100):
            harmed = bytearray(content)
            harmed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            file.write_bytes(harmed)
            assert state.read_trained(e.teacher.folder, e.teacher.identity, own) is None
    finally:
        file.write_bytes(content)


def test_weights_of_another_network_are_not_there(tmp_path):
    e = experiment(tmp_path)
    own = {'a': torch.ones(2), 'b': torch.ones(3)}
    state.keep_trained(tmp_path, e.identity, own, {})
    assert state.read_trained(tmp_path, e.identity, own) is not None
    assert state.read_trained(tmp_path, 'another', own) is None
    for other in ({'a': own['a']}, {**own, 'b': torch.ones(4)}, {**own, 'c': own['a']}):
        assert state.read_trained(tmp_path, e.identity, other) is None


@pytest.mark.parametrize('killed', ['before the state was written', 'after it was'])
def test_what_was_selected_is_what_the_state_names_whenever_a_process_was_killed(
    killed, begun, whole, tmp_path
):
    shutil.copytree(begun, tmp_path / 'results')
    e = experiment(tmp_path / 'results', selection='worst')
    best, newest = e.folder / state.BEST, e.folder / state.NEWEST
    named, other = best.read_bytes(), execution.build(e, 'cpu').state_dict()
    state.save(other, newest)
    if killed == 'after it was':
        newest.replace(best)
        newest.write_bytes(named)
    assert readable(e, state.BEST) is not None
    assert best.read_bytes() == named
    assert not newest.exists()
    assert finished(e)[0] == whole


def test_a_training_whose_selected_weights_are_others_begins_anew_at_once(
    begun, whole, tmp_path, capsys
):
    shutil.copytree(begun, tmp_path / 'results')
    e = experiment(tmp_path / 'results', selection='worst')
    state.save(execution.build(e, 'cpu').state_dict(), e.folder / state.BEST)
    again, epochs = finished(e)
    assert again == whole
    assert min(epochs) == 0
    assert 'best.pth: cannot be used (its hash is another one)' in capsys.readouterr().out


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('name', ['resume.pth', 'best.pth', 'teacher/checkpoint.pth'])
def test_no_file_of_a_results_folder_runs_code(name, begun, whole, tmp_path, capsys):
    results, trap = tmp_path / 'results', tmp_path / 'trap'
    shutil.copytree(begun, results)
    e = experiment(results, selection='worst')
    file = place(e, name)
    torch.save({'state_dict': Hostile(trap), 'weights': Hostile(trap)}, file)
    if name == 'teacher/checkpoint.pth':  # whoever writes the file can write its hash as well
        summary = state.read_json(file.with_name('trained.json'), e.teacher.identity)
        summary['sha256'] = state.hashlib.sha256(file.read_bytes()).hexdigest()
        state.write_json(file.with_name('trained.json'), summary)
    assert finished(e)[0] == whole
    assert not trap.exists()
    assert 'cannot be used' in capsys.readouterr().out
    # The trap is a real one.
    torch.save(Hostile(trap), tmp_path / 'trap.pth')
    torch.load(tmp_path / 'trap.pth', weights_only=False)
    assert trap.is_dir()


def test_a_bare_pickle_and_a_compressed_archive_are_refused(tmp_path):
    file = tmp_path / 'x.pth'
    file.write_bytes(pickle.dumps({'a': 1}))
    with pytest.raises(state.Unusable):
        state.load(file)
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', bytes(10_000_000))
    with pytest.raises(state.Unusable, match='compressed'):
        state.load(file)


RULES = [
    {'schedule': schedule, 'optimizer': optimizer, 'selection': selection}
    for schedule, optimizer, selection in (
        ('constant', 'SGD', 'last'),
        ('cosine', 'AdamW', 'mean'),
        ('poly', 'Adam', 'full'),
        ('step', 'SGD', 'worst'),
        ('hold_linear', 'AdamW', 'last'),
        ('onecycle', 'SGD', 'last'),
    )
]


@pytest.mark.parametrize('rules', RULES, ids=lambda rules: rules['schedule'])
def test_a_stopped_training_goes_on_under_every_schedule(rules, tmp_path, monkeypatch):
    first, _ = finished(experiment(tmp_path / 'whole', 'modality_dropout', **rules))
    e = experiment(tmp_path / 'parts', 'modality_dropout', **rules)
    stopped(e, monkeypatch)
    again, epochs = finished(e)
    assert epochs == {2}
    assert again == first


def test_force_clears_what_is_broken(begun, whole, tmp_path):
    shutil.copytree(begun, tmp_path / 'results')
    e = experiment(tmp_path / 'results', selection='worst')
    weights = ('resume.pth', 'resume.json', 'trained.json', 'best.pth', 'checkpoint.pth')
    for name in (*weights, store.RECORD, store.OUTCOMES, store.VALIDATION):
        (e.folder / name).unlink(missing_ok=True)
        (e.folder / name).mkdir()
    record = execution.run(e, MACHINE, lambda *_: None, force=True)
    assert scientific(record) == whole
    assert scientific(store.read(e.folder / store.RECORD)) == whole


def test_the_log_holds_curves_alone_and_no_teacher_costs_nothing(tmp_path):
    e = experiment(tmp_path, 'modality_dropout')
    finished(e)
    assert store.read(e.folder / store.RECORD)['cost']['teacher_seconds'] == 0
    lines = (e.folder / 'train.log').read_text().splitlines()
    assert len(lines) == 4  # three epochs and the validation after the last one
    assert all(' epoch ' in line for line in lines)


@pytest.mark.parametrize('whose', ['own', 'teacher'])
def test_what_a_process_left_that_was_killed_between_two_files_is_swept(whose, whole, tmp_path):
    e = experiment(tmp_path, selection='worst')
    execution.train(e, MACHINE, lambda *_: None)
    folder = e.folder if whose == 'own' else e.teacher.folder
    for left in state.LEFTOVERS:
        (folder / left).write_text('{}')
    assert finished(e) == (whole, set())
    assert not {path.name for path in folder.iterdir()} & set(state.LEFTOVERS)
