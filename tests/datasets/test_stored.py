"""Arrays in a folder: read from disk when needed, and nothing else."""

import re
import tracemalloc

import numpy as np
import pytest

from benchmark.engine.building import Machine
from benchmark.engine.execution import run
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.plan import open_datasets, protocol_for
from benchmark.errors import UserError
from benchmark.options import Spec
from benchmark.registry import discover
from datasets.arrays import Arrays
from datasets.common.io import stored
from datasets.common.io.rows import Chosen

discover()
N = 40
SPLIT = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [24, 8, 8]))


def content(**changes):
    rng = np.random.default_rng(0)
    target = np.arange(N) % 2
    lengths = rng.integers(1, 5, N)
    gait = rng.standard_normal((N, 4, 2)) + target[:, None, None]
    gait[np.arange(4) >= lengths[:, None]] = np.nan
    keys = {
        'inputs/face': rng.integers(255, size=(N, 20, 18, 3)).astype(np.uint8),
        'inputs/gait': gait,
        'kind/gait': np.array('sequence'),
        'length/gait': lengths,
        'available': np.stack([np.arange(N) % 5 > 0, np.ones(N, bool)], 1),
        'classes': np.array(['no', 'yes']),
        'target': target,
        'split': SPLIT,
    }
    return keys | changes


def write(folder, keys):
    for key, x in keys.items():
        file = folder / f'{key}.npy'
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, x)
    return folder


def dense(**changes):
    rng = np.random.default_rng(0)
    maps = rng.integers(3, size=(N, 20, 18)).astype(np.uint8)
    maps[:, :3] = 255
    keys = {
        'inputs/rgb': rng.standard_normal((N, 3, 20, 18)).astype(np.float32),
        'inputs/depth': rng.integers(60000, size=(N, 20, 18)).astype(np.uint16),
        'target': maps,
        'split': SPLIT,
    }
    return keys | changes


@pytest.mark.parametrize('keys', [content(), dense()], ids=['classes', 'maps'])
def test_a_folder_holds_what_the_file_of_the_same_keys_does(keys, tmp_path):
    # Modalities of a folder are in the order of their names.
    np.savez(tmp_path / 'mine.npz', **dict(sorted(keys.items())))
    file = Arrays(root=str(tmp_path / 'mine.npz'))
    folder = Arrays(root=str(write(tmp_path / 'mine', keys)))
    assert (folder.task, folder.recipe) == (file.task, file.recipe)
    assert folder.streams
    assert not file.streams
    for name in ('train', 'val', 'test'):
        memory, disk = file.split(name), folder.split(name)
        every = np.arange(len(memory))
        assert (memory.target == disk.target[every]).all()
        # Label maps are as large as the inputs and stay on disk as well.
        assert isinstance(disk.target, Chosen) == (folder.task.kind == 'segmentation')
        assert (memory.available == disk.available).all()
        assert (memory.ids == disk.ids).all()
        for column, (m, x) in enumerate(memory.inputs.items()):
            rows = np.flatnonzero(memory.available[:, column])[::-1]
            assert disk.inputs[m].shape == x.shape
            assert (disk.inputs[m][rows] == x[rows]).all()


def test_training_from_disk_gives_the_scores_of_training_from_memory(tmp_path):
    np.savez(tmp_path / 'file.npz', **content())
    scores = []
    for root in (tmp_path / 'file.npz', write(tmp_path / 'folder', content())):
        (data,) = open_datasets(['arrays:width=4'], [root], {})
        protocol = protocol_for(data, {'epochs': 1}, 'cpu')
        experiment = experiment_of(
            Spec('modality_dropout'), data, protocol, 0, tmp_path / 'results'
        )
        record = run(experiment, Machine('cpu', workers=0), lambda *_: None)
        scores.append(record['scores'])
    assert scores[0] == scores[1]


def test_a_large_folder_opens_and_is_read_in_little_memory(tmp_path):
    n, side = 300, 1024
    split = np.repeat([0, 1, 2], [40, 1, n - 41])
    folder = write(tmp_path / 'huge', {'target': np.arange(n) % 2, 'split': split})
    (folder / 'inputs').mkdir()
    file = folder / 'inputs' / 'scan.npy'
    # Written nowhere, the file takes its 300 MB in name only.
    scan = np.lib.format.open_memmap(file, 'w+', np.uint8, (n, side, side))
    scan[0, :8], scan[-1] = 200, 7
    del scan
    assert file.stat().st_size > 3e8
    tracemalloc.start()
    data = Arrays(root=str(folder))
    split = data.split('test')
    last = split.inputs['scan'][np.array([len(split) - 1])]
    data.split('train')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.shape == (1, 1, side, side)
    assert peak < 150e6


def test_validation_and_test_rows_do_not_touch_the_training_split(tmp_path):
    keys = content()
    before = Arrays(root=str(write(tmp_path / 'a', keys))).split('train')
    keys['inputs/gait'][SPLIT > 0] = 1e9
    keys['inputs/face'][SPLIT > 0] = 255
    after = Arrays(root=str(write(tmp_path / 'b', keys))).split('train')
    for m in before.inputs:
        rows = np.flatnonzero(before.available[:, list(before.inputs).index(m)])
        assert (before.inputs[m][rows] == after.inputs[m][rows]).all()


@pytest.mark.parametrize('part', [0, 1, 2])
def test_values_that_are_not_finite_are_told_when_the_data_are_opened(part, tmp_path):
    keys = content()
    row = np.flatnonzero(part == SPLIT)[1]
    keys['inputs/gait'][row, 0] = np.inf
    expected = f'{tmp_path}/a: inputs/gait: expected finite numbers .*found others in row {row}'
    with pytest.raises(UserError, match=expected):
        Arrays(root=str(write(tmp_path / 'a', keys)))


def test_the_fingerprint_follows_content_and_options_not_the_path(tmp_path):
    def fingerprint(folder, keys=None, **options):
        if keys:
            write(tmp_path / folder, keys)
        return Arrays(root=str(tmp_path / folder), **options).fingerprint

    first = fingerprint('a', content())
    assert fingerprint('b', content()) == first
    assert fingerprint('b', width=8) != first
    assert fingerprint('c', content(target=1 - content()['target'])) != first
    assert fingerprint('d', content(classes=np.array(['no', 'yet']))) != first
    face = content()['inputs/face']
    face[7, 3, 3, 0] ^= 1
    assert fingerprint('e', content(**{'inputs/face': face})) != first


def test_a_folder_s_mistakes_are_told_in_one_line(tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    with pytest.raises(UserError, match='expected inputs/<modality>.npy.*found no .npy file'):
        Arrays(root=str(empty))
    broken = write(tmp_path / 'broken', content())
    face = broken / 'inputs' / 'face.npy'
    header = b'\x93NUMPY\x01\x00\x76\x00'
    nested = header + b'(' * 117 + b'\n'
    huge = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {2**70}), }}"
    spoils = (
        face.read_bytes()[:-100],
        b'',
        b'not numpy',
        nested,
        header + huge.ljust(117).encode() + b'\n',
    )
    for spoil in spoils:
        face.write_bytes(spoil)
        with pytest.raises(UserError, match=re.escape(f'{face}: cannot be read')) as error:
            Arrays(root=str(broken))
        assert '\n' not in str(error.value)
    with face.open('wb') as file:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(UserError, match='face.npy: expected an array, found an .npz file'):
        Arrays(root=str(broken))
    pickled = write(tmp_path / 'pickled', content())
    np.save(pickled / 'target.npy', np.array([None] * N), allow_pickle=True)
    with pytest.raises(
        UserError, match=r'target.npy: expected numbers or text .* array of objects'
    ):
        Arrays(root=str(pickled))
    (tmp_path / 'pickled' / 'target.npy').unlink()
    with pytest.raises(UserError, match="expected the key 'target', found available, classes"):
        Arrays(root=str(pickled))


def test_a_file_too_large_for_memory_is_told_to_become_a_folder(tmp_path, monkeypatch):
    file = tmp_path / 'mine.npz'
    np.savez_compressed(file, **content())
    unpacked = sum(x.nbytes for x in content().values())
    monkeypatch.setattr(stored, 'memory', lambda: 2 * unpacked - 1)
    with pytest.raises(
        UserError, match=r'less than half of the memory.*mine/inputs/<modality>.npy'
    ):
        Arrays(root=str(file))
    monkeypatch.setattr(stored, 'memory', lambda: 4 * unpacked)
    Arrays(root=str(file))
    monkeypatch.undo()
    assert 1e8 < stored.memory() < 1e14
