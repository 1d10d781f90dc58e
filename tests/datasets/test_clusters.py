"""Persons and recordings that have samples in two splits are told, and refused where asked for."""

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.registry import discover
from datasets import prepare
from datasets.arrays import Arrays
from datasets.casia_surf import LISTS, CasiaSurf
from datasets.cmu_mosei import CMUMOSEI
from datasets.common.io.copies import shared
from datasets.crema_d import CremaD
from datasets.folders import Folders
from tests.datasets import test_audiovisual as clips
from tests.datasets import test_casia_surf as faces
from tests.datasets import test_cmu_mosei as mosei
from tests.datasets.test_folder_inputs import table

discover()
TOLD = 'clusters (persons, recordings or the like) in two splits: '


def test_what_is_said():
    train, val, test = ['a', 'b', 'b', 'c'], ['d', ''], ['b', 'e', 'c', '', 'd', 'a']
    splits = {'train': train, 'val': val, 'test': test}
    told = f'{TOLD}3 of 5 of test in train, 1 of 5 of test in val: a, b, c, ...'
    assert shared('x', splits) == [told]
    with pytest.raises(UserError) as caught:
        shared('x', splits, 'refuse')
    assert str(caught.value) == f'x: duplicates=refuse: expected none, found {told}'
    assert not shared('x', {'train': ['', 'a'], 'val': ['', 'b'], 'test': ['', 'c']}, 'refuse')
    (escaped,) = shared('x', {'train': ['\x1b[31m'], 'val': [], 'test': ['\x1b[31m']})
    assert escaped.isprintable()


def arrays(root):
    rng = np.random.default_rng(0)
    split, person = np.repeat([0, 1, 2], 8), np.array([f'p{k // 3}' for k in range(24)])
    np.savez(root / 'x.npz', **{'inputs/a': rng.random((24, 3)), 'target': np.arange(24) % 2,
                                'split': split, 'cluster': person})  # fmt: skip
    return lambda **options: Arrays(root=str(root / 'x.npz'), **options)


def folders(root):
    table(root / 'x')
    file = root / 'x/labels.csv'
    head, *rows = file.read_text().splitlines()
    lines = [f'{head},cluster', *(f'{row},p{k % 2}' for k, row in enumerate(rows))]
    file.write_text('\n'.join(lines))
    return lambda **options: Folders(root=str(root / 'x'), **options)


def crema_d(root):
    """As in the published split, the actors of the test clips speak in training clips."""
    clips.crema_d(root)
    return lambda **options: CremaD(root=str(root), size=32, **options)


def casia_surf(root):
    faces.casia_surf(root)
    for name in LISTS:
        file = root / LISTS[name]
        rows = [line.split() for line in file.read_text().splitlines()]
        for k, row in enumerate(rows):
            for m in range(3):
                new = f'Training/real_part/P{k // 2}/{name}/{m}/{k}.jpg'
                (root / new).parent.mkdir(parents=True, exist_ok=True)
                (root / row[m]).rename(root / new)
                row[m] = new
        file.write_text('\n'.join(map(' '.join, rows)))
    return lambda **options: CasiaSurf(root=str(root), size=14, **options)


def cmu_mosei(root):
    found = mosei.content()
    found['test']['id'][0] = found['train']['id'][0].replace('$_$0', '$_$1')
    mosei.write(root, found)
    return lambda **options: CMUMOSEI(root=str(root), **options)


def check(opened):
    """Compares what is told with the clusters of the splits."""
    data = opened()
    members = {name: set(data.split(name).clusters.tolist()) for name in ('train', 'val', 'test')}
    (line,) = [note for note in data.notes if note.startswith(TOLD)]
    for earlier, later in (('train', 'val'), ('train', 'test'), ('val', 'test')):
        both = len(members[earlier] & members[later])
        told = f'{both} of {len(members[later])} of {later} in {earlier}'
        assert (told in line) == (both > 0)
    with pytest.raises(UserError, match='duplicates=refuse: expected'):
        opened(duplicates='refuse')


@pytest.mark.parametrize('make', [arrays, folders, crema_d, casia_surf, cmu_mosei])
def test_every_data_set_tells_what_its_splits_share(make, tmp_path):
    check(make(tmp_path))


def test_the_check_of_a_root_tells_them(tmp_path, capsys):
    arrays(tmp_path)
    assert prepare.main(['check', 'arrays', str(tmp_path / 'x.npz')]) == 0
    assert f'note: {TOLD}1 of 4 of val in train' in capsys.readouterr().out
