"""A bit that a disk loses, or a value that somebody edits, in what a run leaves.

It is noticed, and what it spoils is made again, or it changes nothing; it never enters a table.
"""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from repetitions import scientific
from tasks import TASKS, Toy

from benchmark import deploy
from benchmark.engine import grid, hooks, state
from benchmark.engine.building import Machine, build
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.options import Spec
from benchmark.records import store
from benchmark.registry import discover
from benchmark.report import writer
from tests.records.test_hostile import mutated

discover()
FLIPS, MUTATIONS, REPEATED = 20, 60, 10
SUFFIXES = ('.pth', '.json', '.npz')


class Stopped(Exception):
    """Stands for the end of a process."""


def run_of(results):
    data = Toy(TASKS['vectors'], (24, 8, 8))
    protocol = Protocol.build(data.recipe, {'epochs': 3, 'selection': 'worst'}, 'cpu')
    return experiment(Spec('distilled'), data, protocol, 0, results)


def again(e):
    """Repeats the command of a run; returns its record and its outcomes."""
    assert grid.execute([e], Machine('cpu'), False, writer.brief)
    files = [e.folder / name for name in (store.OUTCOMES, store.VALIDATION)]
    return scientific(store.read(e.folder / store.RECORD)), [f.read_bytes() for f in files]


def table(results):
    """What the table says of each run, but for what it cost in time and memory."""
    made = writer.write_tables(results, 'toy')
    # As text, since no NaN equals another.
    return [repr((r.label, r.cells, r.extra)) for block in made.blocks for r in block.rows]


def texts(results):
    """The files of the tables."""
    table(results)
    return [(results / f'tables/toy.{suffix}').read_text() for suffix in ('md', 'tex', 'csv')]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    results = tmp_path_factory.mktemp('finished')
    return results, again(run_of(results))


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
    """The results of a run that was stopped after two of three epochs, its teacher finished."""
    results = tmp_path_factory.mktemp('interrupted')
    e, real = run_of(results), hooks.Checkpoint._save

    def save(self, runner):
        real(self, runner)
        if self.file.parent == e.folder and runner.epoch == 2:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.Checkpoint, '_save', save)
        assert not grid.execute([e], Machine('cpu'), False, writer.brief)
    return results


def flips(results, count, seed):
    """Yields copies of results, in each of which one bit of one file differs, and the file."""
    dice = random.Random(seed)
    files = sorted(f for f in (results / 'runs').rglob('*.*') if f.suffix in SUFFIXES)
    for number in range(count):
        copy = shutil.copytree(results, results.with_name(f'{results.name}-{number}'))
        file = copy / files[number % len(files)].relative_to(results)
        content = bytearray(file.read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content)
        yield copy, file
        shutil.rmtree(copy)


def predicted(e):
    """What the networks of a run predict, None where they are refused."""
    try:
        model = deploy.load(e.folder)
    except UserError:
        return None
    rng = np.random.default_rng(0)
    shapes = {m.name: (4, *m.shape) for m in model.task.modalities}
    inputs = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    return model(inputs).tolist()


def weights(e, own):
    """The weights of the teacher of a run, None where they are refused."""
    found = state.read_trained(e.teacher.folder, e.teacher.identity, own)
    return None if found is None else torch.cat([x.flatten() for x in found[0].values()]).tolist()


def test_a_flipped_bit_of_a_finished_run_is_noticed_or_changes_nothing(finished):
    results, whole = finished
    first = run_of(results)
    own = build(first.teacher, 'cpu').state_dict()
    rows, files, values, teacher = (
        table(results), texts(results), predicted(first), weights(first, own)
    )  # fmt: skip
    noticed = 0
    for copy, file in flips(results, FLIPS, 0):
        e, harmed = run_of(copy), file.read_bytes()
        found, mentor, counts = predicted(e), weights(e, own), table(copy) != []
        assert found is None or found == values, file
        assert mentor is None or mentor == teacher, file
        assert not counts or texts(copy) == files, file
        assert again(e) == whole, file
        assert table(copy) == rows, file
        noticed += None in (found, mentor) or not counts or file.read_bytes() != harmed
    assert noticed > FLIPS / 2


def test_a_flipped_bit_of_an_interrupted_run_is_noticed_or_changes_nothing(finished, interrupted):
    results, whole = finished
    for copy, file in flips(interrupted, FLIPS // 2, 1):
        assert again(run_of(copy)) == whole, file
        assert table(copy) == table(results), file


def test_a_mutated_record_is_made_again_or_changes_nothing(finished, tmp_path):
    results, whole = finished
    files, dice = texts(results), random.Random(2)
    copy = shutil.copytree(results, tmp_path / 'results')
    e = run_of(copy)
    file = e.folder / store.RECORD
    text = file.read_text()
    noticed = 0
    for number in range(MUTATIONS):
        changed = mutated(json.loads(text), dice)
        file.write_text(json.dumps(changed))
        made = writer.write_tables(copy, 'toy')
        assert bool(made.blocks) != bool(made.problems), changed
        assert not made.blocks or texts(copy) == files, changed
        if number < REPEATED:
            assert again(e) == whole, changed
        noticed += not made.blocks
        file.write_text(text)
    assert noticed > MUTATIONS / 2
