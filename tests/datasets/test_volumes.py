"""BraTS from the official NIfTI files, and a user's volumes, to a table of Dice."""

import re
import shutil

import numpy as np
import pytest

nibabel = pytest.importorskip('nibabel')

from corrections import check_fingerprint  # noqa: E402

from benchmark import run  # noqa: E402
from benchmark.engine.experiment import experiment  # noqa: E402
from benchmark.engine.protocol import Protocol  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.options import Spec  # noqa: E402
from benchmark.records import store  # noqa: E402
from benchmark.registry import DATASETS, discover  # noqa: E402
from datasets import prepare  # noqa: E402
from datasets.brats import Brats2018  # noqa: E402
from datasets.common.families.volume_index import cut  # noqa: E402
from datasets.common.families.volume_rows import Slices, window  # noqa: E402
from datasets.volumes import OwnVolumes  # noqa: E402

discover()
KINDS = ('flair', 't1', 't1ce', 't2')
SHAPE = (40, 36, 7)


def brain(seed):
    """Four sequences (H, W, S) with a tumour that they show differently, and its labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.int16)
    labels[10:25, 8:20, 2:6] = 2
    labels[14:20, 10:16, 3:5] = 1
    labels[15:17, 10:16, 3:5] = 4
    inside = np.zeros(SHAPE, bool)
    inside[4:36, 4:32, 1:6] = True
    bright = {'flair': labels > 0, 't1': labels < 0, 't1ce': labels == 4, 't2': labels == 2}
    noise = {k: rng.integers(1, 40, SHAPE) for k in KINDS}
    return {
        k: ((400 + 300 * bright[k] + noise[k]) * inside).astype(np.int16) for k in KINDS
    }, labels


def save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)


def official(root, count=8, suffix='.nii.gz', year=2018):
    for i in range(count):
        case = f'Brats18_X_{i}_1' if year == 2018 else f'BraTS20_Training_{i + 1:03d}'
        folder = root / ('HGG' if i % 2 else 'LGG') / case if year == 2018 else root / case
        volumes, labels = brain(i)
        for kind, values in {**volumes, 'seg': labels}.items():
            save(folder / f'{case}_{kind}{suffix}', values)
    (root / 'survival_data.csv').write_text('case,days')
    return root


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('brats')
    assert prepare.main(['brats2018', str(official(folder / 'in')), str(folder / 'root')]) == 0
    return folder / 'root'


def test_slices_hold_what_the_volumes_hold(prepared):
    data = Brats2018(root=str(prepared), size='64x32')
    test = data.split('test')
    case, number = test.ids[3].split('/')
    volumes, labels = brain(int(case.split('_')[2]))
    k = int(number)
    # 40 rows lie in the middle of 64. The network sees 32 of the 36 columns; labels are whole.
    there = labels[:, :, k]
    expected = np.choose(np.where(there == 4, 3, there), [0, 1, 2, 3])
    found = test.target[np.array([3])][0]
    assert (found[12:52] == expected).all()
    assert not found[:12].any()
    assert not found[52:].any()
    for kind in KINDS:
        volume = volumes[kind].astype(float)
        brain_voxels = volume[volume != 0]
        z = np.where(volume != 0, (volume - brain_voxels.mean()) / brain_voxels.std(), 0)
        row = test.inputs[kind][np.array([3])][0, 0]
        assert row[12:52] == pytest.approx(z[:, 2:34, k], abs=3e-3, rel=1e-3)


@pytest.mark.parametrize(('source', 'size'), [(7, 7), (7, 4), (8, 3), (3, 8), (4, 7), (1, 32)])
def test_windows_are_central(source, size):
    inside, outside = window(source, size)
    assert inside.stop - inside.start == outside.stop - outside.start == min(source, size)
    assert abs((source - inside.stop) - inside.start) <= 1
    assert abs((size - outside.stop) - outside.start) <= 1


def test_training_leaves_out_empty_ends_and_the_test_nothing(prepared):
    data = Brats2018(root=str(prepared), size='64x64')
    assert {i.split('/')[1] for i in data.split('train').ids} == {f'00{k}' for k in range(1, 6)}
    assert {i.split('/')[1] for i in data.split('test').ids} == {f'00{k}' for k in range(7)}
    assert (data.split('test').groups == [i.split('/')[0] for i in data.split('test').ids]).all()


def test_what_one_sequence_shows_changes_nothing_of_another(tmp_path):
    """The published preparation crops and standardises by all four together."""
    for name, dark in (('a', False), ('b', True)):
        root = official(tmp_path / name / 'in', 2)
        for file in root.rglob('*_flair.nii.gz') if dark else ():
            save(file, np.zeros(SHAPE, np.int16))
        assert prepare.main(['brats2018', str(root), str(tmp_path / name / 'root')]) == 0
    for kind in ('t1', 't1ce', 't2'):
        files = [tmp_path / n / f'root/Brats18_X_0_1/{kind}.npy' for n in 'ab']
        assert files[0].read_bytes() == files[1].read_bytes()


def test_cuts_have_the_published_sizes_and_do_not_depend_on_order():
    cases = [f'case{k}' for k in range(285)]
    first = cut(cases, 1, (199, 29, 57))
    assert [len(v) for v in first.values()] == [199, 29, 57]
    assert sorted(c for v in first.values() for c in v) == sorted(cases)
    assert cut(cases[::-1], 1, (199, 29, 57)) == first
    assert cut(cases, 2, (199, 29, 57)) != first


def copy(prepared, root):
    for file in prepared.rglob('*.*'):
        target = root / file.relative_to(prepared)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return root


def test_lists_in_the_root_are_the_split(prepared, tmp_path):
    root = copy(prepared, tmp_path / 'root')
    names = [f'Brats18_X_{i}_1' for i in range(8)]
    (root / 'train2.txt').write_text('\n'.join(names[:5]))
    (root / 'val2.txt').write_text(names[5])
    (root / 'test2.txt').write_text('\n'.join(names[6:]))
    assert Brats2018(root=str(root), fold=2).splits['test'] == names[6:]
    assert Brats2018(root=str(root), fold=1).splits['test'] != names[6:]
    (root / 'test2.txt').write_text('\n'.join(names[5:]))
    with pytest.raises(UserError, match="case 'Brats18_X_5_1' is in val and test"):
        Brats2018(root=str(root), fold=2)
    (root / 'test2.txt').write_text('other')
    with pytest.raises(UserError, match="cases.txt: expected case 'other' of test"):
        Brats2018(root=str(root), fold=2)


def trained(name, root, results, *options):
    arguments = ['--methods', 'modality_dropout', '--datasets', name, '--workers', '0']
    arguments += ['--data-root', str(root), '--results', str(results), '--device', 'cpu']
    more = ['epochs=2', 'width=4', 'size=32x32', *options]
    return run.main([*arguments, '--cfg-options', *more])


def test_the_whole_way_to_a_table(prepared, tmp_path, capsys):
    assert trained('brats2018', prepared, tmp_path, 'batch_size=8', 'lr=0.01') == 0
    out = capsys.readouterr().out
    assert re.search('^brats2018 .*: Dice', out, re.M)
    file = next(tmp_path.rglob('record.json'))
    record = store.read(file)
    scores = record['scores']['test']
    assert len(scores) == 15
    outcomes = store.read_outcomes(file.with_name('outcomes.npz'))
    volumes = len(Brats2018(root=str(prepared)).splits['test'])
    for subset, found in scores.items():
        assert found['Dice'] == pytest.approx(
            np.mean([found[f'Dice_{r}'] for r in ('WT', 'TC', 'ET')])
        )
        assert outcomes[f'areas/{subset}'].shape == (volumes, 3, 3)
        assert record['n']['test'][subset] == volumes


def test_brats2020_and_its_odd_mask(tmp_path):
    root = official(tmp_path / 'in', 4, '.nii', 2020)
    odd = root / 'BraTS20_Training_003'
    (odd / 'BraTS20_Training_003_seg.nii').rename(odd / 'W39_1998.09.19_Segm.nii')
    validation = root.parent / 'in' / 'BraTS20_Validation_001'
    save(validation / 'BraTS20_Validation_001_t1.nii', brain(0)[0]['t1'])
    assert prepare.main(['brats2020', str(root), str(tmp_path / 'root')]) == 0
    data = DATASETS.module_dict['brats2020'](root=str(tmp_path / 'root'))
    assert set(data.cases) == {f'BraTS20_Training_{k:03d}' for k in range(1, 5)}
    assert data.cases['BraTS20_Training_003'].labels == (0, 1, 2, 3)


def test_bad_sources_are_told(tmp_path, capsys):
    root = official(tmp_path / 'in', 2)
    folder = root / 'HGG' / 'Brats18_X_1_1'

    def told(*texts):
        shutil.rmtree(tmp_path / 'root', ignore_errors=True)
        assert prepare.main(['brats2018', str(root), str(tmp_path / 'root')]) == 2
        error = capsys.readouterr().err
        assert all(text in error for text in texts), error
        assert 'Traceback' not in error

    file = folder / 'Brats18_X_1_1_t2.nii.gz'
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    told('Brats18_X_1_1_t2.nii.gz: cannot be read')
    save(file, np.zeros((40, 36, 6), np.int16))
    told('case Brats18_X_1_1: expected one grid', 't2.nii.gz differ: their shapes are')
    file.unlink()
    told('expected t2 of case Brats18_X_1_1, found none')
    file.write_bytes(whole)
    save(folder / 'Brats18_X_1_1_seg.nii.gz', np.full(SHAPE, 3, np.int16))
    told('seg.nii.gz: expected labels 0, 1, 2, 4, found 3')
    with pytest.raises(UserError, match='expected a prepared root'):
        Brats2018(root=str(root))
    with pytest.raises(UserError, match='brats2018:fold: expected 1, 2 or 3, found 4'):
        Brats2018(root=str(root), fold=4)


def test_broken_roots_are_told(prepared, tmp_path):
    root = copy(prepared, tmp_path / 'root')
    file = next(root.glob('*/seg.npy'))
    file.unlink()
    with pytest.raises(UserError, match=r'seg\.npy: expected a file'):
        Brats2018(root=str(root))
    (root / 'cases.txt').write_text('a 1 2')
    with pytest.raises(UserError, match=r'cases\.txt, entry 1: expected CASE SLICES'):
        Brats2018(root=str(root))
    broken = tmp_path / 'broken.npy'
    broken.write_bytes(b'x' * 200)
    with pytest.raises(UserError, match=r'broken\.npy: cannot be read'):
        Slices([broken], [0], (4, 4), True)[np.array([0])]


def test_training_reads_no_test_volume(prepared, tmp_path):
    root = copy(prepared, tmp_path / 'root')
    data = Brats2018(root=str(root))
    for case in data.splits['test']:
        for file in (root / case).glob('*.npy'):
            file.write_bytes(b'poison')
    for name in ('train', 'val'):
        split = data.split(name)
        for rows in (*split.inputs.values(), split.target):
            rows[np.arange(len(split))]


def own(root, count=10):
    """Two sequences as arrays, one of which some cases lack."""
    for i in range(count):
        volumes, labels = brain(i)
        for kind in ('flair', 't1') if i % 3 else ('flair',):
            file = root / f'p{i}' / f'{kind}.npy'
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, volumes[kind].transpose(2, 0, 1))
        np.save(root / f'p{i}' / 'seg.npy', np.where(labels == 4, 3, labels).transpose(2, 0, 1))
    return root


def test_training_gaps_hide_whole_volumes(prepared, tmp_path):
    data = Brats2018(root=str(prepared), size='32x32')
    data.spec, data.options = 'brats2018', {}
    protocol = Protocol.build(data.recipe, {'rates': 't1=0.5,t2=1'}, 'cpu')
    kept = experiment(Spec('modality_dropout', ()), data, protocol, 0, tmp_path).readable
    volumes = data.split('train').groups
    hidden = {v: set((~kept[volumes == v, data.task.names.index('t1')]).tolist()) for v in volumes}
    assert all(len(found) == 1 for found in hidden.values())
    assert sum(True in found for found in hidden.values()) == len(hidden) // 2
    assert not kept[:, data.task.names.index('t2')].any()


def test_a_user_s_volumes_with_gaps(tmp_path, capsys):
    assert prepare.main(['volumes', str(own(tmp_path / 'in')), str(tmp_path / 'mine')]) == 0
    data = OwnVolumes(root=str(tmp_path / 'mine'))
    assert data.task.names == ('flair', 't1')
    assert [name for name, _ in data.task.regions] == ['1', '2', '3']
    for name in ('train', 'val', 'test'):
        split = data.split(name)
        lacking = [int(case[1:]) % 3 == 0 for case in split.groups]
        assert (~split.available[:, 1]).tolist() == lacking
        assert split.available[:, 0].all()
    (tmp_path / 'mine' / 'regions.txt').write_text('lesion 1 2 3\ncore 1 3')
    assert OwnVolumes(root=str(tmp_path / 'mine')).task.regions == (
        ('lesion', (1, 2, 3)),
        ('core', (1, 3)),
    )
    assert trained('volumes', tmp_path / 'mine', tmp_path / 'results', 'batch_size=8') == 0
    assert re.search('^mine .*: Dice', capsys.readouterr().out, re.M)
    (tmp_path / 'mine' / 'regions.txt').write_text('lesion 9')
    with pytest.raises(UserError, match='expected NAME and some of the labels 1, 2, 3'):
        OwnVolumes(root=str(tmp_path / 'mine'))


@pytest.mark.parametrize('kind', ['t1ce', 'seg'])
def test_a_corrected_volume_changes_the_fingerprint(kind, prepared, tmp_path, monkeypatch):
    root = shutil.copytree(prepared, tmp_path / 'root')
    case = Brats2018(root=str(root), size='64x32').splits['test'][0]

    def correct(file):
        values = np.load(file)
        # Labels keep their set of values, which the list of cases holds.
        np.save(file, values[::-1].copy())

    check_fingerprint(
        lambda: Brats2018(root=str(root), size='64x32'),
        root / case / f'{kind}.npy',
        monkeypatch,
        correct,
    )


def test_copies_of_training_cases_are_refused_where_they_shall_be(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / 'root')
    splits = Brats2018(root=str(root)).splits
    first, other = splits['train'][0], splits['test'][0]
    assert not [note for note in Brats2018(root=str(root)).notes if 'copies' in note]
    for kind in KINDS:
        shutil.copyfile(root / first / f'{kind}.npy', root / other / f'{kind}.npy')
    told = f'copies of training cases: {other} (train: {first})'
    assert Brats2018(root=str(root)).notes[-1].endswith(told)
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 1 of'):
        Brats2018(root=str(root), duplicates='refuse')
