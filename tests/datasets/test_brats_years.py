"""BraTS of 2021 and later: other names, another label of the enhancing tumour, several scans."""

import numpy as np
import pytest
from preparing import told_by_prepare

nibabel = pytest.importorskip('nibabel')

from benchmark.dataset import Intake  # noqa: E402
from benchmark.engine.description import described  # noqa: E402
from benchmark.engine.plan import open_datasets  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.missing import derive  # noqa: E402
from benchmark.registry import DATASETS, discover  # noqa: E402
from datasets import prepare  # noqa: E402
from datasets.common.families.volume_index import cut  # noqa: E402

discover()
SHAPE = (6, 7, 4)
SINCE_2023 = {'flair': 't2f', 't1ce': 't1c', 't1': 't1n', 't2': 't2w', 'seg': 'seg'}
PATIENTS = [f'BraTS-GLI-{k // 2:05d}-00{k % 2}' for k in range(12)]


def tumour(seed, enhancing):
    """Four sequences (right, anterior, superior), and labels of which one says enhancing."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 1:6, 1:3] = 2
    labels[2:4, 2:5, 1:3] = 1
    labels[2, 2:4, 1] = enhancing
    kinds = ('flair', 't1ce', 't1', 't2')
    return {k: rng.integers(50, 150, SHAPE).astype(np.int16) for k in kinds} | {'seg': labels}


def save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)


def official(root, cases, year):
    """Writes cases with the names and labels of a year."""
    for seed, case in enumerate(cases):
        for kind, values in tumour(seed, 4 if year < 2023 else 3).items():
            word = f'-{SINCE_2023[kind]}' if year >= 2023 else f'_{kind}'
            save(root / case / f'{case}{word}.nii.gz', values)
    return root


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """The same volumes as BraTS 2021 and as BraTS 2023, prepared."""
    folder, out = tmp_path_factory.mktemp('brats'), {}
    for year, cases in ((2021, [f'BraTS2021_{k:05d}' for k in range(12)]), (2023, PATIENTS)):
        name = f'brats{year}'
        source = official(folder / f'in{year}', cases, year)
        cls = DATASETS.module_dict[name]
        assert prepare.main([name, str(source), str(folder / name)]) == 0
        out[year] = (cls, folder / name)
    return out


def test_both_years_give_the_same_voxels_and_labels(prepared):
    roots = [root for _, root in prepared.values()]
    for k in (0, 7):
        folders = [roots[0] / f'BraTS2021_{k:05d}', roots[1] / PATIENTS[k]]
        for kind in SINCE_2023:
            old, new = ((folder / f'{kind}.npy').read_bytes() for folder in folders)
            assert old == new
        expected = tumour(k, 3)['seg'].transpose(2, 0, 1)
        assert (np.load(folders[1] / 'seg.npy') == expected).all()
    for cls, root in prepared.values():
        task = cls(root=str(root), size='32x32').task
        assert task.names == ('flair', 't1ce', 't1', 't2')
        assert dict(task.regions) == {'WT': (1, 2, 3), 'TC': (1, 3), 'ET': (3,)}


def test_no_patient_is_in_two_splits_and_patients_are_the_clusters(prepared):
    cls, root = prepared[2023]
    for fold in (1, 2, 3):
        data = cls(root=str(root), size='32x32', fold=fold)
        found = {name: {case[:-4] for case in cases} for name, cases in data.splits.items()}
        assert sum(map(len, found.values())) == 6
        assert sum(map(len, data.splits.values())) == 12
    split = data.split('test')
    assert (split.clusters == [group[:-4] for group in split.groups]).all()
    cls, root = prepared[2021]
    assert cls(root=str(root), size='32x32').split('test').clusters is None


def test_lists_that_divide_a_patient_are_told_or_refused(prepared, tmp_path):
    cls, root = prepared[2023]
    lists = {'train': PATIENTS[:5], 'val': PATIENTS[5:7], 'test': PATIENTS[8:]}
    try:
        for name, cases in lists.items():
            (root / f'{name}1.txt').write_text('\n'.join(cases))
        told = 'in two splits: 1 of 2 of val in train'
        assert any(told in note for note in cls(root=str(root), size='32x32').notes)
        with pytest.raises(UserError, match=f'duplicates=refuse: expected none, found .*{told}'):
            cls(root=str(root), size='32x32', duplicates='refuse')
    finally:
        for name in lists:
            (root / f'{name}1.txt').unlink()


def test_cases_are_divided_by_the_hash_of_their_patients():
    cases = [f'p{k % 40}-{k // 40}' for k in range(90)]
    found = cut(cases, 2, (70, 10, 20), lambda case: case.split('-')[0])
    ranked = sorted({c.split('-')[0] for c in cases}, key=lambda p: derive(2, 'split', p))
    assert found['val'] == [c for p in ranked[28:32] for c in sorted(cases) if c[:-2] == p]
    assert sorted(c for part in found.values() for c in part) == sorted(cases)
    # Where every case is its own patient, the division is that of the cases.
    plain = sorted(cases, key=lambda c: derive(2, 'split', c))
    assert cut(cases, 2, (70, 10, 20))['test'] == plain[90 - 18 :]


def test_the_rule_on_small_predictions_is_recorded_and_off_by_default(prepared):
    cls, root = prepared[2023]
    (plain,), (ruled,) = (
        open_datasets(['brats2023'], [root], {'size': '32x32', **options})
        for options in ({}, {'et_rule': '500'})
    )
    assert (plain.task.fewest, ruled.task.fewest) == ((), (3, 500, 1))
    assert cls.classes[3] == 'enhancing'
    assert cls.classes[1] == 'necrosis'
    assert ruled.options == {**plain.options, 'et_rule': 500}
    assert ruled.fingerprint != plain.fingerprint
    assert described(ruled)['changed'] == ['size', 'et_rule']
    with pytest.raises(UserError, match='brats2023:et_rule: expected 0 .* found -1'):
        cls(root=str(root), et_rule=-1)


@pytest.mark.parametrize(
    ('name', 'year', 'told'),
    [
        ('brats2023', 2021, 'expected <case>/<case>-KIND.nii.gz with KIND t2f, t1c, t1n, t2w, seg'),
        ('brats2021', 2023, 'expected <case>/<case>_KIND.nii.gz with KIND flair, t1ce, t1, t2'),
        ('brats2020', 2023, 'found BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz'),
    ],
)
def test_files_of_another_year_are_told(name, year, told, tmp_path, capsys):
    official(tmp_path / 'in', PATIENTS[:1], year)
    error = told_by_prepare([name, str(tmp_path / 'in'), str(tmp_path / 'root')], capsys)[1]
    assert told in error, error


def test_the_resection_cavity_is_a_region_of_2024_alone(tmp_path, capsys):
    source = official(tmp_path / 'in', PATIENTS[:6], 2024)
    for case in PATIENTS[:6]:
        labels = tumour(0, 3)['seg']
        labels[4, 5, 2] = 4
        save(source / case / f'{case}-seg.nii.gz', labels)
    error = told_by_prepare(['brats2023', str(source), str(tmp_path / 'a')], capsys)[1]
    assert 'expected labels 0, 1, 2, 3, found 4' in error
    assert not told_by_prepare(['brats2024', str(source), str(tmp_path / 'b')], capsys)[1]
    data = DATASETS.module_dict['brats2024'](root=str(tmp_path / 'b'), size='32x32')
    assert dict(data.task.regions)['RC'] == (4,)
    assert dict(data.task.regions)['WT'] == (1, 2, 3)
    assert len(data.task.classes) == 5


def test_official_folders_are_predicted_by_their_own_names(prepared, tmp_path):
    cls, root = prepared[2023]
    data = cls(root=str(root), size='32x32')
    source = official(tmp_path / 'new', ['BraTS-GLI-00100-000'], 2023)
    found = cls.unseen(source, Intake(data.task, {}, {}), True, '')
    assert found.split.available.all()
    values = tumour(0, 3)
    assert (found.split.target[np.array([1])][0] == 3).sum() == (values['seg'][..., 1] == 3).sum()
    shown = found.split.inputs['t1ce'][np.array([2])][0, 0]
    brain = values['t1ce'][..., 2].astype(float)
    whole = values['t1ce'].astype(float)
    assert shown.max() == pytest.approx((brain.max() - whole.mean()) / whole.std(), rel=1e-2)
