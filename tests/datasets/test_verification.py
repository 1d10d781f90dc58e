"""Verifying a data root: whatever is wrong is found, all of it, and a sound root has nothing."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from toy_dataset import COUNTS, SIZE, Toy, archive, png

from benchmark.dataset import Dataset, Split
from benchmark.method import Modality, Task
from datasets.common.prepare.findings import Findings
from datasets.common.prepare.preparation import Preparation
from datasets.common.prepare.row_checks import threads
from datasets.common.prepare.verification import verify_splits
from datasets.prepare import main


@pytest.fixture
def root(tmp_path):
    Preparation('toy', archive(tmp_path / 'toy.zip'), tmp_path / 'root').run(Toy)
    return tmp_path / 'root'


def check(root, capsys, *words):
    """Returns the exit status and what was printed."""
    status = main(['check', 'toy', str(root), *words])
    return status, capsys.readouterr().out


def label(value):
    values = np.zeros(SIZE, int)
    values[1, :3] = 1, 2, value
    return png(values)


def test_a_sound_root_has_no_problems(root, capsys):
    status, told = check(root, capsys)
    assert (status, told.splitlines()[-1]) == (0, f'toy in {root}: no problems found')
    cells = [line.split() for line in told.splitlines()[:5]]
    assert cells[0] == ['split', 'samples', 'published', 'rgb', 'depth', 'classes']
    for row, (name, count) in zip(cells[2:], COUNTS.items(), strict=True):
        assert row == [name, *[str(count)] * 4, '3', 'of', '3']
    (root / 'manifest.json').unlink()
    status, told = check(root, capsys)
    assert status == 0
    assert 'note: no manifest.json' in told


def test_every_problem_is_told_at_once(root, capsys):
    (root / 'rgb/train1.png').unlink()
    (root / 'depth/test0.png').unlink()
    whole = (root / 'rgb/test2.png').read_bytes()
    (root / 'rgb/test2.png').write_bytes(whole[: len(whole) // 2])
    (root / 'label/train0.png').write_bytes(label(7))
    (root / 'depth/train3.png').write_bytes(png(np.zeros((9, 9))))
    lines = (root / 'list.txt').read_text().splitlines()
    (root / 'list.txt').write_text('\n'.join([*lines, 'train2 test']))
    status, told = check(root, capsys)
    assert status == 1
    assert f'missing files (2):\n  {root}/depth/test0.png\n  {root}/rgb/train1.png\n' in told
    assert re.search(rf'unreadable rows \(2\):(\n  .*)*{root}/rgb/test2.png: cannot be read', told)
    assert re.search(rf'unreadable rows \(2\):(\n  .*)*{root}/depth/train3.png: expected', told)
    assert 'train: target of train0: expected 0 to 2 or 255, found 7' in told
    assert 'test: expected 3 samples, found 4' in told
    assert 'sample train2 is in train and in test' in told
    assert f'file {root}/rgb/train2.png is in train and in test' in told
    assert f'{root}/rgb/test2.png: expected {len(whole)} bytes, found {len(whole) // 2}' in told
    assert told.endswith(f'toy in {root}: 13 problems found\n')


@pytest.mark.parametrize('quick', [False, True])
def test_a_changed_byte_is_found_by_its_checksum(root, capsys, quick):
    path = root / 'depth/val1.png'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    status, told = check(root, capsys, *['--quick'] * quick)
    if quick:
        assert (status, told.count('not read')) == (0, 3)
    else:
        assert status == 1
        assert f'changed files (1):\n  {path}: its SHA-256 is not the one in' in told


def test_a_quick_check_finds_missing_and_shorter_files(root, capsys):
    (root / 'rgb/val0.png').unlink()
    (root / 'label/val0.png').write_bytes(b'')
    status, told = check(root, capsys, '--quick')
    assert status == 1
    assert f'missing files (1):\n  {root}/rgb/val0.png\n' in told
    assert 'label/val0.png: expected' in told


def test_missing_files_are_found_without_a_manifest(root, capsys):
    (root / 'manifest.json').unlink()
    (root / 'rgb/val0.png').unlink()
    status, told = check(root, capsys)
    assert status == 1
    assert f'missing files (1):\n  {root}/rgb/val0.png\n' in told
    assert told.endswith('1 problem found\n')


@pytest.mark.parametrize(('split', 'status'), [('train', 1), ('val', 0), ('test', 1)])
def test_classes_without_samples(root, capsys, split, status):
    (root / 'manifest.json').unlink()
    for path in (root / 'label').glob(f'{split}*'):
        path.write_bytes(png(np.full(SIZE, 1)))
    found, told = check(root, capsys)
    assert found == status
    assert f'{split}: 2 of 3: wall, bed' in told


def test_of_many_problems_the_first_are_told_and_the_others_counted():
    findings = Findings()
    for i in range(37):
        findings.add('missing files', f'file {i}')
        findings.add('missing files', f'file {i}')
    findings.add('labels', 'one')
    lines = findings.lines()
    assert findings.count == 38
    assert lines[0] == 'missing files (37):'
    assert lines[1:21] == [f'  file {i}' for i in range(20)]
    assert lines[21:] == ['  ... and 17 more', 'labels (1):', '  one']


def test_what_stops_the_dataset_from_opening_is_a_problem(root, capsys):
    (root / 'list.txt').write_text('train0 train now')
    status, told = check(root, capsys)
    assert status == 1
    assert 'dataset (1):\n' in told
    assert 'list.txt: expected two words' in told
    assert f'changed files (1):\n  {root}/list.txt: expected ' in told
    manifest = json.loads((root / 'manifest.json').read_text())
    (root / 'manifest.json').write_text(json.dumps({**manifest, 'format': 0}))
    assert 'manifest.json: expected format 2, found 0' in check(root, capsys)[1]
    (root / 'manifest.json').rename(root / '.preparing')
    assert 'its preparation has not ended' in check(root, capsys)[1]


def test_messages_of_the_check(root, tmp_path, capsys):
    def told(*words):
        assert main(['check', *words]) == 2
        return capsys.readouterr().err

    assert "unknown data set 'to'; did you mean 'toy'?" in told('to', str(root))
    assert "unknown option of toy 'sze'; did you mean 'size'?" in told('toy', str(root), 'sze=3')
    assert 'toy:size: expected a whole number' in told('toy', str(root), 'size=large')
    assert "expected KEY=VALUE, found 'size'" in told('toy', str(root), 'size')
    assert 'expected check toy ROOT; how to get it: download toy.zip' in told('toy')
    assert 'nowhere: no such data root; how to get toy' in told('toy', str(tmp_path / 'nowhere'))


def test_generated_data_need_no_root(capsys):
    assert main(['check', 'synth_faces', 'train=100', 'val=40', 'test=50']) == 0
    assert 'synth_faces: no problems found' in capsys.readouterr().out


N = 20


class Made(Dataset):
    """Splits as given, in memory; two vectors and two classes, or images and their labels."""

    name = 'made'

    def __init__(self, dense=False):
        shapes = [(2, 4, 5), (1, 4, 5)] if dense else [(3,), (5,)]
        modalities = tuple(map(Modality, ('a', 'b'), shapes))
        kind = 'segmentation' if dense else 'classification'
        self.task = Task('made', kind, modalities, ('no', 'yes'), 'mIoU' if dense else 'accuracy')
        self.splits = {
            name: Split(
                {m.name: np.zeros((N, *m.shape), np.float32) for m in modalities},
                np.arange(N * 20).reshape(N, 4, 5) % 2 if dense else np.arange(N) % 2,
                np.ones((N, 2), bool),
                np.array([f'{name}{i}' for i in range(N)]),
            )
            for name in ('train', 'val', 'test')
        }

    def split(self, name):
        return self.splits[name]

    def change(self, name, **fields):
        """Replaces a split's fields; inputs are updated."""
        old = self.splits[name]
        if 'inputs' in fields:
            fields['inputs'] = {**old.inputs, **fields['inputs']}
        self.splits[name] = replace(old, **fields)
        return self


def found(data):
    findings = Findings()
    verify_splits(data, False, findings)
    return {kind: list(texts) for kind, texts in findings.kinds.items()}, findings.notes


@pytest.mark.parametrize('dense', [False, True])
def test_sound_splits_in_memory_have_no_problems(dense):
    assert found(Made(dense)) == ({}, [])


def test_a_class_counts_wherever_in_the_split_it_is():
    data = Made().change('test', target=np.repeat([0, 1], [1, N - 1]))
    assert found(data.change('train', target=np.repeat([0, 1], [N - 1, 1]))) == ({}, [])


def test_values_that_are_not_finite_are_found_only_where_something_is_available():
    data = Made()
    values, available = np.zeros((N, 3)), np.ones((N, 2), bool)
    values[[4, 11], 1:] = np.nan, np.inf
    available[4, 0] = False
    data.change('val', inputs={'a': values}, available=available)
    problems, notes = found(data)
    assert problems == {'values': ['val: a of val11: 2 of 3 are not finite']}
    assert notes == ['val: 1 of 20 samples have no a']


def test_a_sample_without_any_modality_is_found():
    available = np.ones((N, 2), bool)
    available[7] = False
    problems, _ = found(Made().change('test', available=available))
    assert problems == {'samples without any modality': ['test: test7']}


def test_parts_of_different_lengths_are_found_and_not_read():
    problems, _ = found(Made().change('train', inputs={'b': np.full((N - 1, 5), np.nan)}))
    assert problems == {
        'unpaired modalities': [
            "train: expected {'a': 20, 'b': 20, 'target': 20}, "
            "found {'a': 20, 'b': 19, 'target': 20}"
        ]
    }
    problems, _ = found(Made().change('val', available=np.ones((N, 3), bool)))
    assert problems == {
        'unpaired modalities': ['val: available: expected bool (20, 2), found bool (20, 3)']
    }


def test_an_empty_split_is_found():
    none = {'a': np.zeros((0, 3)), 'b': np.zeros((0, 5))}
    data = Made().change(
        'test', inputs=none, target=np.zeros(0, int), available=np.ones((0, 2), bool), ids=none['a']
    )
    problems, _ = found(data)
    assert problems['counts'] == ['test: expected some samples, found 0']


@pytest.mark.parametrize('value', [2, -1, 255])
def test_a_label_that_no_class_has_is_found(value):
    target = np.arange(N) % 2
    target[3] = value
    problems, _ = found(Made().change('test', target=target))
    assert problems == {'labels': [f'test: target of test3: expected 0 to 1, found {value}']}


def test_ids_and_groups_are_unique_within_and_between_splits():
    data = Made()
    ids = data.splits['val'].ids.copy()
    ids[:3] = 'val9', 'test5', 'val2'
    groups = np.repeat(['p', 'q', 'r', 's'], 5)
    data.change('val', ids=ids).change('train', groups=groups).change('test', groups=groups[::-1])
    data.change('test', groups=np.repeat(['r', 't'], 10))
    problems, _ = found(data)
    assert problems == {
        'ids that are not unique': ['val: val9 is there 2 times'],
        'overlap of splits': [
            'group r is in train and in test',
            'sample test5 is in val and in test',
        ],
    }


def test_sizes_agree_between_modalities_labels_and_the_task():
    larger = {'a': np.zeros((N, 2, 8, 9)), 'b': np.zeros((N, 1, 8, 9))}
    labels = np.arange(N * 72).reshape(N, 8, 9) % 2
    data = Made(dense=True).change('train', inputs=larger, target=labels)
    problems, _ = found(data)
    assert len(problems['shapes']) == 2
    cropped = data.change('train', augment=lambda batch: batch)
    assert found(cropped)[0] == {}
    assert found(cropped.change('test', target=labels))[0] == {}
    problems, _ = found(cropped.change('train', target=labels[:, 1:]))
    extents = {'a': (8, 9), 'b': (8, 9), 'target': (7, 9)}
    assert problems == {'shapes': [f'train: expected one height and width, found {extents}']}
    for shape in [(2, 3, 9), (3, 8, 9), (2, 8, 4)]:
        problems, _ = found(cropped.change('train', inputs={'a': np.zeros((N, *shape))}))
        assert f'train: a: expected (2, 4, 5), found {shape}' in problems['shapes']


class Moody:
    """Rows that fail in ways of their own."""

    shape = (N, 3)

    def __len__(self):
        return N

    def __getitem__(self, index):
        if 5 in index:
            raise ZeroDivisionError('by five')
        return np.zeros((len(index), 4 if 12 in index else 3))


def test_rows_that_cannot_be_read_are_found_one_by_one():
    problems, _ = found(Made().change('val', inputs={'a': Moody()}))
    assert problems['unreadable rows'] == ['val: a of val5: ZeroDivisionError: by five']
    assert 'val: a of val12: expected (3,), found (4,)' in problems['shapes']


def test_threads_keep_the_order_and_pass_errors_on():
    assert list(threads(lambda x: x * x, range(50), 'numbers')) == [x * x for x in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(threads(lambda x: 1 // x, [1, 0, 1], 'numbers'))
