"""IEMOCAP's features as MMIN lays them out: folds, padding, statistics, and what may be wrong."""

import re
import shutil
import sys

import h5py
import numpy as np
import pytest
from corrections import check_fingerprint

from benchmark import run
from benchmark.errors import UserError
from benchmark.records import store
from datasets.iemocap import IEMOCAP

WIDTHS = {'A/comparE': 130, 'V/denseface': 342, 'L/bert_large': 1024}
SIZES = {'trn': 12, 'val': 4, 'tst': 6}
UTTERANCES = [f'Ses01F_impro{i:02d}_F{i:03d}' for i in range(sum(SIZES.values()))]
LABELS = np.arange(len(UTTERANCES)) % 4


def features(file, row):
    """What the file holds of an utterance: sound of its own length, the others of a common one."""
    rng = np.random.default_rng([len(file), row])
    frames = {'A/comparE': 1 + row % 7, 'V/denseface': 5, 'L/bert_large': 3}[file]
    scale = 50 if file.startswith('A') else 1
    return scale * rng.standard_normal((frames, WIDTHS[file])) + LABELS[row]


def parts(fold):
    """Split -> rows, other ones in every fold."""
    order = np.roll(np.arange(len(UTTERANCES)), fold - 1)
    return dict(zip(SIZES, np.split(order, np.cumsum(list(SIZES.values()))[:-1]), strict=True))


def statistics(fold):
    frames = np.concatenate([features('A/comparE', row) for row in parts(fold)['trn']])
    return frames.mean(0), frames.std(0)


def write_target(root, fold, name, rows, kind='S'):
    folder = root / 'target' / str(fold)
    folder.mkdir(parents=True, exist_ok=True)
    names = np.array([[UTTERANCES[row].encode()] for row in rows], 'S19').reshape(-1, 1)
    if kind == 'O':
        names = names.astype(object)
    elif kind == 'U':
        names = names.astype(str)[:, 0]
    np.save(folder / f'{name}_int2name.npy', names, allow_pickle=True)
    np.save(folder / f'{name}_label.npy', np.eye(4)[LABELS[rows]])


@pytest.fixture(scope='session')
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp('original') / 'IEMOCAP_features_2021'
    for file in WIDTHS:
        (root / file).parent.mkdir(parents=True)
        with h5py.File(root / f'{file}.h5', 'w') as h5:
            for row, utterance in enumerate(UTTERANCES):
                h5[utterance] = features(file, row)
    with h5py.File(root / 'A' / 'comparE_mean_std.h5', 'w') as h5:
        for fold in (1, 2):
            h5[f'{fold}/mean'], h5[f'{fold}/std'] = statistics(fold)
            for name, rows in parts(fold).items():
                write_target(root, fold, name, rows)
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'IEMOCAP_features_2021')


def opened(root, **options):
    return IEMOCAP(root=str(root), **options)


@pytest.mark.parametrize('fold', [1, 2])
def test_splits_labels_and_features_are_those_of_the_fold(original, fold):
    data = opened(original, fold=fold)
    assert [(m.name, m.shape, m.padded) for m in data.task.modalities] == [
        ('audio', (7, 131), True),
        ('vision', (5, 343), True),
        ('text', (3, 1025), True),
    ]
    mean, std = statistics(fold)
    for name, part in zip(('train', 'val', 'test'), parts(fold).values(), strict=True):
        split = data.split(name)
        assert split.ids.tolist() == [UTTERANCES[row] for row in part]
        assert set(split.clusters) == {'Ses01F'}
        assert split.target.tolist() == LABELS[part].tolist()
        assert split.available.all()
        for m, file in zip(data.task.modalities, WIDTHS, strict=True):
            read = split.inputs[m.name][np.arange(len(part))]
            assert read.shape == split.inputs[m.name].shape == (len(part), *m.shape)
            for found, row in zip(read, part, strict=True):
                expected = features(file, row)
                if m.name == 'audio':
                    expected = (expected - mean) / std
                n = len(expected)
                np.testing.assert_allclose(found[:n, :-1], expected, rtol=1e-4, atol=1e-5)
                assert not found[n:].any()
                assert (found[:n, -1] == 1).all()


def test_long_utterances_are_cut(original):
    data = opened(original, frames=4)
    assert [m.shape[0] for m in data.task.modalities] == [4, 4, 3]
    split = data.split('train')
    longest = parts(1)['trn'].tolist().index(6)
    mean, std = statistics(1)
    expected = (features('A/comparE', 6)[:4] - mean) / std
    found = split.inputs['audio'][np.array([longest])][0, :, :-1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('kind', ['O', 'U'])
def test_names_may_be_objects_or_text(root, kind):
    for name, rows in parts(1).items():
        write_target(root, 1, name, rows, kind)
    assert opened(root).split('val').ids.tolist() == [UTTERANCES[row] for row in parts(1)['val']]


def test_an_utterance_without_frames_lacks_that_modality(root):
    edit('V/denseface.h5', UTTERANCES[3], np.zeros((0, 342)))(root)
    split = opened(root).split('train')
    assert split.available[3].tolist() == [True, False, True]
    assert split.available.sum() == 3 * 12 - 1


def test_the_training_split_reads_nothing_of_the_others(root):
    before = opened(root).split('train')
    for file in WIDTHS:
        with h5py.File(root / f'{file}.h5', 'a') as h5:
            for row in np.concatenate([parts(1)['val'], parts(1)['tst']]):
                h5[UTTERANCES[row]][...] = np.nan
    data = opened(root)
    after = data.split('train')
    for m, x in before.inputs.items():
        assert (after.inputs[m][np.arange(12)] == x[np.arange(12)]).all()
    told = f'expected finite features of {UTTERANCES[parts(1)["val"][0]]!r}'
    with pytest.raises(UserError, match=told):
        data.split('val')


def test_the_fingerprint_follows_what_changes_scores_and_not_the_path(original, root):
    first = opened(original).fingerprint
    assert opened(root).fingerprint == first
    assert opened(root, fold=2).fingerprint != first
    assert opened(root, frames=4).fingerprint != first
    assert opened(root, width=8).fingerprint != first
    save('target/1/tst_label.npy', lambda x: np.roll(x, 1, 0))(root)
    assert opened(root).fingerprint != first


def edit(file, utterance, value):
    def change(root):
        with h5py.File(root / file, 'a') as h5:
            if utterance in h5:
                del h5[utterance]
            if value is not None:
                h5[utterance] = value

    return change


def save(file, change):
    return lambda root: np.save(root / file, change(np.load(root / file)))


def swap(root):
    first, second = parts(1)['trn'], parts(1)['tst'].copy()
    second[2] = first[5]
    write_target(root, 1, 'tst', second)


def only_three(root):
    rows = parts(1)['trn']
    write_target(root, 1, 'trn', rows[LABELS[rows] != 2])


def regroup(root):
    edit('V/denseface.h5', UTTERANCES[2], None)(root)
    edit('V/denseface.h5', f'{UTTERANCES[2]}/feat', np.zeros(3))(root)


def cut(file, size):
    return lambda root: (root / file).write_bytes((root / file).read_bytes()[:size])


BAD = {
    'no face features': (lambda r: (r / 'V/denseface.h5').unlink(), 'V/denseface.h5: expected a f'),
    'no statistics': (lambda r: (r / 'A/comparE_mean_std.h5').unlink(), 'comparE_mean_std.h5: exp'),
    'no labels': (lambda r: (r / 'target/1/val_label.npy').unlink(), 'val_label.npy: expected a f'),
    'no fold': (lambda r: shutil.rmtree(r / 'target/1'), 'target/1/trn_label.npy: expected a file'),
    'truncated features': (cut('L/bert_large.h5', 5000), 'L/bert_large.h5: cannot be read, broken'),
    'no HDF5': (lambda r: (r / 'A/comparE.h5').write_text('x'), 'comparE.h5: cannot be read'),
    'truncated labels': (cut('target/1/trn_label.npy', 6), 'trn_label.npy: expected an .npy file'),
    'utterance without features': (
        edit('L/bert_large.h5', UTTERANCES[14], None),
        f"L/bert_large.h5: expected features of '{UTTERANCES[14]}', of .*val_label.npy, found none",
    ),
    'features of another width': (
        edit('V/denseface.h5', UTTERANCES[2], np.zeros((5, 341))),
        rf"V/denseface.h5: expected features \(T, 342\) of '{UTTERANCES[2]}', found \(5, 341\)",
    ),
    'a group instead of features': (regroup, 'V/denseface.h5: expected features .*found a group'),
    'features that are not finite': (
        edit('A/comparE.h5', UTTERANCES[1], np.full((3, 130), np.inf)),
        f"A/comparE.h5: expected finite features of '{UTTERANCES[1]}'",
    ),
    'statistics of another width': (
        edit('A/comparE_mean_std.h5', '1/std', np.ones(129)),
        r'1/std: expected \(130,\) numbers, found \(129,\)',
    ),
    'no statistics of the fold': (
        edit('A/comparE_mean_std.h5', '1', None),
        'comparE_mean_std.h5: expected 1/mean, found 2',
    ),
    'labels that are no one-hot': (
        save('target/1/trn_label.npy', lambda x: np.where(np.arange(12)[:, None] == 7, 1, x)),
        r'trn_label.npy: expected one-hot labels, found \[1. 1. 1. 1.\] in row 7',
    ),
    'class indices': (
        save('target/1/trn_label.npy', lambda x: x.argmax(1)),
        r'trn_label.npy: expected one-hot labels \(N, 4\), found int64 \(12,\)',
    ),
    'fewer labels': (
        save('target/1/val_label.npy', lambda x: x[1:]),
        'val_label.npy: expected 4 labels, found 3',
    ),
    'no names': (
        save('target/1/val_int2name.npy', lambda x: np.arange(4)),
        r'val_int2name.npy: expected names \(N,\) or \(N, 1\), found int64',
    ),
    'an utterance in two splits': (swap, f"'{UTTERANCES[5]}' in row 2 is there and in .*trn_label"),
    'an utterance twice': (
        save('target/1/trn_int2name.npy', lambda x: x[[0, 0, *range(2, 12)]]),
        f"trn_label.npy: sample '{UTTERANCES[0]}' in row 1 is there twice",
    ),
    'an empty split': (
        lambda r: write_target(r, 1, 'val', np.array([], int)),
        'val_label.npy: expected some samples, found none',
    ),
    'a class without training samples': (
        only_three,
        'trn_label.npy: .*every class, found none of 2',
    ),
}


@pytest.mark.parametrize('mistake', BAD)
def test_a_mistake_is_told_in_one_line_with_its_file(mistake, root):
    spoil, told = BAD[mistake]
    spoil(root)
    with pytest.raises(UserError, match=told) as error:
        opened(root).split('train')
    assert str(error.value).startswith(str(root))
    assert '\n' not in str(error.value)


def test_bad_options_and_roots_are_told(original, tmp_path, monkeypatch):
    for options, told in (
        ({'root': ''}, 'after the colon: Request IEMOCAP'),
        ({'fold': 11}, 'iemocap: fold: expected 1 to 10, found 11'),
        ({'frames': 0}, 'iemocap: frames: expected at least 1'),
        ({'root': str(tmp_path)}, re.escape(f'{tmp_path}/target/1/trn_label.npy: expected a file')),
    ):
        with pytest.raises(UserError, match=told):
            IEMOCAP(**{'root': str(original)} | options)
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(
        UserError, match=r'iemocap: expected the package h5py.*pip install .\[data\]'
    ):
        opened(original)


def test_it_trains_from_the_command_line_to_a_table(original, tmp_path, capsys):
    arguments = [
        '--methods',
        'modality_dropout',
        '--datasets',
        'iemocap:width=4',
        '--device',
        'cpu',
    ]
    places = ['--data-root', str(original), '--results', str(tmp_path)]
    options = ['--cfg-options', 'epochs=2', 'batch_size=4', 'iemocap.frames=4']
    assert run.main([*arguments, *places, *options]) == 0
    assert 'audio+vision+text' in capsys.readouterr().out
    (file,) = (tmp_path / 'runs').rglob('record.json')
    scores = store.read(file)['scores']['test']['audio+text']
    assert {'accuracy', 'UAR', 'F1'} <= set(scores)


@pytest.mark.parametrize('file', [*WIDTHS, 'A/comparE_mean_std'])
def test_a_corrected_feature_changes_the_fingerprint(file, root, monkeypatch):
    def correct(path):
        with h5py.File(path, 'a') as h5:
            h5[UTTERANCES[20] if file in WIDTHS else '1/mean'][0] += 1

    check_fingerprint(lambda: opened(root), root / f'{file}.h5', monkeypatch, correct)


def test_copies_of_training_utterances_are_told_or_refused(root):
    head, speaker = opened(root).notes
    assert speaker.endswith('in two splits: 1 of 1 of val in train, 1 of 1 of test in train, '
                            '1 of 1 of test in val: Ses01F')  # fmt: skip
    first, other = (UTTERANCES[parts(1)[name][0]] for name in ('trn', 'tst'))
    for file in WIDTHS:
        with h5py.File(root / f'{file}.h5', 'r') as h5:
            found = h5[first][()]
        edit(f'{file}.h5', other, found)(root)
    told = f'1 of 6 utterances of test are copies of training utterances: {other} (train: {first})'
    assert opened(root).notes == (head, told, speaker)
    # An utterance without frames of a modality is compared in the others.
    edit('V/denseface.h5', other, np.zeros((0, 342)))(root)
    assert opened(root).notes[2:] == (told, speaker)
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 1 of 6'):
        opened(root, duplicates='refuse')


def test_features_that_are_not_finite_are_told_before_anything_is_trained(root):
    utterance = UTTERANCES[parts(1)['tst'][3]]
    edit('L/bert_large.h5', utterance, np.full((3, 1024), np.nan))(root)
    data = opened(root)
    with pytest.raises(
        UserError, match=f"bert_large.h5: expected finite features of '{utterance}'"
    ):
        data.check()


def test_more_declared_numbers_than_memory_holds_are_told(root):
    with h5py.File(root / 'V/denseface.h5', 'a') as h5:
        del h5[UTTERANCES[2]]
        h5.create_dataset(UTTERANCES[2], (10**10, 342), 'f8', chunks=(100, 342))
    expected = f"denseface.h5: expected features of '{UTTERANCES[2]}' that fit into memory, found"
    with pytest.raises(UserError, match=expected):
        opened(root)


def test_features_without_a_deviation_become_0_and_are_told(root):
    with h5py.File(root / 'A/comparE_mean_std.h5', 'a') as h5:
        h5['1/std'][5] = 0
    data = opened(root)
    assert data.notes[1].startswith('audio: features that do not vary in the training samples')
    assert data.notes[1].endswith('become 0: 5')
    assert (data.split('test').inputs['audio'][np.arange(6)][..., 5] == 0).all()


def test_small_differences_of_large_features_are_kept(root):
    rows = np.arange(6)
    before = opened(root).split('test').inputs['audio'][rows]
    with h5py.File(root / 'A/comparE.h5', 'a') as h5:
        for utterance in UTTERANCES:
            h5[utterance][...] += 1e9
    with h5py.File(root / 'A/comparE_mean_std.h5', 'a') as h5:
        h5['1/mean'][...] += 1e9
    assert opened(root).split('test').inputs['audio'][rows] == pytest.approx(before, abs=1e-4)


def test_what_was_found_and_utterances_without_any_modality_are_told(root):
    utterance = UTTERANCES[parts(1)['tst'][3]]
    for file, width in WIDTHS.items():
        edit(f'{file}.h5', utterance, np.zeros((0, width)))(root)
    found, gaps, *_ = opened(root).notes
    assert found.startswith('found modalities audio (sequence ')
    assert re.search('; utterances: train [0-9]+, val [0-9]+, test 6$', found)
    lacking = 'of [0-9]+ utterances, 1 lack audio, 1 lack vision, 1 lack text'
    told = f'{lacking}, 1 have no modality at all and are neither trained nor tested'
    assert re.fullmatch(told, gaps)
