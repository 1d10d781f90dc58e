"""A user's own arrays: what is read from them, and what is said when they are wrong."""

import re
import zipfile

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from benchmark.dataset import Split
from benchmark.engine.building import Machine
from benchmark.engine.execution import run
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.plan import open_datasets, protocol_for
from benchmark.errors import UserError
from benchmark.options import Spec
from benchmark.registry import discover
from datasets.arrays import Arrays
from datasets.common.io import rows

discover()
N = 40
SPLIT = np.repeat([0, 1, 2], [24, 8, 8])


def content(**changes):
    """A file's keys: two vectors, two classes; a change of None leaves a key out."""
    rng = np.random.default_rng(0)
    target = np.arange(N) % 2
    keys = {
        'inputs/sound': rng.standard_normal((N, 6)) * 5 + 3 * target[:, None],
        'inputs/text': rng.integers(9, size=(N, 3)) + 9 * target[:, None],
        'target': target,
        'split': SPLIT,
    }
    keys |= {k.replace('__', '/'): v for k, v in changes.items()}
    return {k: v for k, v in keys.items() if v is not None}


def write(path, keys):
    np.savez(path, **keys)
    return path


def opened(tmp_path, **changes):
    return Arrays(root=str(write(tmp_path / 'mine.npz', content(**changes))))


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=(N, *shape)).astype(np.uint8)


def test_vectors_are_standardised_by_the_training_samples_that_have_them(tmp_path):
    keys = content()
    available = np.random.default_rng(1).random((N, 2)) < 0.7
    keys['inputs/sound'][~available[:, 0]] = np.nan
    data = opened(tmp_path, inputs__sound=keys['inputs/sound'], available=available)
    assert (data.name, data.task.kind, data.task.metric) == ('mine', 'classification', 'accuracy')
    assert [(m.name, m.shape) for m in data.task.modalities] == [('sound', (6,)), ('text', (3,))]
    assert data.task.classes == ('0', '1')
    for column, name in enumerate(data.task.names):
        x = keys[f'inputs/{name}'].astype(float)
        scaler = StandardScaler().fit(x[(SPLIT == 0) & available[:, column]])
        for code, part in enumerate(('train', 'val', 'test')):
            split = data.split(part)
            rows = np.flatnonzero(code == SPLIT)
            there = available[rows, column]
            assert (split.available[:, column] == there).all()
            assert (split.target == keys['target'][rows]).all()
            expected = scaler.transform(x[rows[there]])
            np.testing.assert_allclose(split.inputs[name][there], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('to', [lambda x: x, lambda x: x.transpose(0, 2, 3, 1)])
def test_images_are_found_channels_first_or_last(tmp_path, to):
    colour, grey = images(3, 20, 24), images(20, 24, seed=1)
    data = opened(tmp_path, inputs__sound=to(colour), inputs__text=grey)
    assert [m.shape for m in data.task.modalities] == [(3, 20, 24), (1, 20, 24)]
    split = data.split('val')
    for name, x in (('sound', colour), ('text', grey[:, None])):
        for channel in range(x.shape[1]):
            train = x[SPLIT == 0, channel].astype(float)
            expected = (x[SPLIT == 1, channel] - train.mean()) / train.std()
            np.testing.assert_allclose(split.inputs[name][:, channel], expected, atol=1e-5)


LENGTHS = np.random.default_rng(2).integers(1, 6, N)


def sequences(**changes):
    """Keys with a padded and a plain sequence beside a vector; beyond its end a sample is NaN."""
    rng = np.random.default_rng(3)
    gait = rng.standard_normal((N, 5, 4)) * [1, 9, 3, 1] + [0, 5, -2, 8]
    gait[np.arange(5) >= LENGTHS[:, None]] = np.nan
    steps = rng.integers(9, size=(N, 3, 2))
    keys = {
        'inputs__gait': gait,
        'inputs__steps': steps,
        'inputs__sound': None,
        'kind__gait': 'sequence',
        'kind__steps': 'sequence',
        'length__gait': LENGTHS,
    }
    return keys | changes


def test_sequences_are_standardised_over_real_frames_and_marked(tmp_path):
    keys = sequences()
    data = opened(tmp_path, **keys)
    found = {m.name: (m.kind, m.shape, m.padded) for m in data.task.modalities}
    assert found == {
        'text': ('vector', (3,), False),
        'gait': ('sequence', (5, 5), True),
        'steps': ('sequence', (3, 2), False),
    }
    gait, steps = keys['inputs__gait'], keys['inputs__steps']
    train = [gait[i, : LENGTHS[i]] for i in np.flatnonzero(SPLIT == 0)]
    scaler = StandardScaler().fit(np.concatenate(train))
    split = data.split('test')
    for i, row in enumerate(np.flatnonzero(SPLIT == 2)):
        frames, mark = np.split(split.inputs['gait'][i], [4], axis=1)
        n = LENGTHS[row]
        assert mark[:, 0].tolist() == [1] * n + [0] * (5 - n)
        assert not frames[n:].any()
        np.testing.assert_allclose(frames[:n], scaler.transform(gait[row, :n]), atol=1e-5)
    scaler.fit(steps[SPLIT == 0].reshape(-1, 2))
    expected = scaler.transform(steps[SPLIT == 2].reshape(-1, 2)).reshape(-1, 3, 2)
    np.testing.assert_allclose(split.inputs['steps'], expected, atol=1e-5)


def test_what_padded_frames_hold_changes_nothing(tmp_path):
    before = opened(tmp_path, **sequences()).split('train')
    gait = sequences()['inputs__gait']
    gait[np.isnan(gait)] = 1e6
    after = opened(tmp_path, **sequences(inputs__gait=gait)).split('train')
    assert (before.inputs['gait'] == after.inputs['gait']).all()


def test_moments_read_in_parts_are_those_of_the_whole(tmp_path, monkeypatch):
    keys = sequences(inputs__text=images(3, 20, 24))
    whole = opened(tmp_path, **keys).split('val')
    monkeypatch.setattr(rows, 'CHUNK', 100)
    in_parts = opened(tmp_path, **keys).split('val')
    for name, x in whole.inputs.items():
        np.testing.assert_allclose(in_parts.inputs[name], x, rtol=1e-5, atol=1e-6)


def test_a_sequence_trains_beside_an_image_and_a_vector(tmp_path):
    keys = sequences(inputs__steps=images(16, 16), kind__steps=None)
    file = write(tmp_path / 'walk.npz', content(**keys))
    (data,) = open_datasets(['arrays:width=4'], [file], {})
    protocol = protocol_for(data, {'epochs': 2}, 'cpu')
    experiment = experiment_of(Spec('modality_dropout'), data, protocol, 0, tmp_path / 'results')
    record = run(experiment, Machine('cpu'), lambda *_: None)
    assert set(record['scores']['test']) >= {'text', 'gait', 'steps', 'text+gait+steps'}


def test_label_maps_make_a_segmentation_task(tmp_path):
    maps = np.random.default_rng(0).integers(3, size=(N, 20, 24))
    maps[:, :4] = 255
    data = opened(
        tmp_path,
        inputs__sound=images(3, 20, 24),
        inputs__text=images(20, 24),
        target=maps,
        classes=np.array(['wall', 'floor', 'door', 'window']),
    )
    assert (data.task.kind, data.task.metric) == ('segmentation', 'mIoU')
    assert data.task.classes == ('wall', 'floor', 'door', 'window')
    assert (data.split('test').target == maps[SPLIT == 2]).all()


def test_a_constant_feature_stays_finite(tmp_path):
    split = opened(tmp_path, inputs__text=np.full((N, 2), 7)).split('train')
    assert (split.inputs['text'] == 0).all()


@pytest.mark.parametrize('poison', [1e9, np.nan])
def test_validation_and_test_rows_do_not_touch_the_training_split(tmp_path, poison):
    before = opened(tmp_path).split('train')
    keys, available = content(), np.ones((N, 2), bool)
    keys['inputs/sound'][SPLIT > 0] = poison
    available[SPLIT > 0, 0] = np.isfinite(poison)
    after = opened(tmp_path, inputs__sound=keys['inputs/sound'], available=available).split('train')
    for name in before.inputs:
        assert (after.inputs[name] == before.inputs[name]).all()


def test_splits_are_disjoint_and_together_everything(tmp_path):
    data = opened(tmp_path, split=np.random.default_rng(0).permutation(SPLIT))
    splits = [data.split(name) for name in ('train', 'val', 'test')]
    assert all(isinstance(s, Split) for s in splits)
    assert [len(s) for s in splits] == [24, 8, 8]
    assert len({i for s in splits for i in s.ids}) == N


def test_the_fingerprint_follows_content_and_options_not_the_path(tmp_path):
    here = write(tmp_path / 'here.npz', content())
    there = write(tmp_path / 'there.npz', content())
    prints = [Arrays(root=str(f)).fingerprint for f in (here, there)]
    assert prints[0] == prints[1]
    other = write(tmp_path / 'other.npz', content(target=1 - content()['target']))
    assert Arrays(root=str(other)).fingerprint != prints[0]
    assert Arrays(root=str(here), width=8).fingerprint != prints[0]


def with_nan(row):
    x = content()['inputs/sound']
    x[row, 2] = np.nan
    return x


FLAT = np.zeros((N, 20, 24), int)
BAD = {
    'no target': ({'target': None}, "the key 'target', found inputs/sound, inputs/text, split$"),
    'misspelt target': ({'target': None, 'targets': SPLIT}, "; rename 'targets' to 'target'$"),
    'misspelt inputs': (
        {'inputs__sound': None, 'inputs__text': None, 'input/sound': np.zeros((N, 2))},
        "keys inputs/<modality>, found .*; rename 'input/sound' to 'inputs/sound'$",
    ),
    'misspelt input': (
        {'input/sound': np.zeros((N, 2))},
        "unknown key 'input'; did you mean 'inputs'.* length, split, target\\)$",
    ),
    'no split': ({'split': None}, "key 'split'"),
    'no inputs': (
        {'inputs__sound': None, 'inputs__text': None},
        'inputs/<modality>, found split, target$',
    ),
    'pickles': (
        {'target': np.array([0, None] * 20)},
        'target: expected numbers or text in an array of one shape, found an array of objects',
    ),
    'unequal inputs': ({'inputs__text': np.zeros((N - 1, 3))}, 'inputs/text: .*40 .*39'),
    'unequal target': (
        {'target': np.arange(N - 1) % 2},
        'target: expected 40 rows, as the inputs have, found 39',
    ),
    'split values': (
        {'split': SPLIT + 1},
        r'split: expected numbers \(N,\): 0 for training, .*, found 3 in row 32$',
    ),
    'split names': (
        {'split': np.array(['train'] * N)},
        "split: .*1 for validation, 2 for test, found 'train' in row 0$",
    ),
    'split of two axes': ({'split': SPLIT[:, None] + 7}, r'split: .*found int64 \(40, 1\)'),
    'split of no axis': ({'split': np.array(0)}, r'split: .*\(N,\)'),
    'no test samples': ({'split': np.arange(N) % 2}, r'split: .*test \(2\).*none'),
    'negative label': (
        {'target': np.arange(N) % 2 - 1},
        'target: expected labels from 0 up, found -1',
    ),
    'label too large': (
        {'classes': np.array(['only'])},
        'target: expected labels below 1, .* found 1',
    ),
    'label that is an id': (
        {'target': np.arange(N) * 7000},
        'target: expected at most 65535 classes, found 273001',
    ),
    'float target': ({'target': np.zeros(N)}, 'target: .*integers.*float64'),
    'regression': ({'target': np.linspace(-3, 3, N)}, 'target: .*integers.*float64'),
    'words as target': (
        {'target': np.array(['a', 'b'] * 20)},
        'target: .*integers.*<U1.* text; give class numbers from 0, and the names in classes$',
    ),
    'splits': (
        {'split': None, 'splits': SPLIT},
        "expected the key 'split', found inputs/.*, splits, target; rename 'splits' to 'split'$",
    ),
    'several labels': ({'target': np.eye(N, 5, dtype=int)}, r'target: .*\(40,\).*\(40, 5\)'),
    'one-hot target': (
        {'target': np.eye(2, dtype=int)[SPLIT % 2]},
        r'target: .*integers.*\(40, 2\)',
    ),
    'target of one column': ({'target': SPLIT[:, None]}, r'target: .*integers.*\(40, 1\)'),
    'classes of two axes': ({'classes': np.zeros((2, 2))}, r'classes: .*\(K,\)'),
    'unlabelled maps': (
        {'inputs__sound': FLAT, 'inputs__text': FLAT, 'target': FLAT + 255},
        'target: .*255 everywhere',
    ),
    'maps beside vectors': ({'target': FLAT}, r'inputs/sound: .*\(20, 24\)'),
    'maps of another size': (
        {'inputs__sound': FLAT, 'inputs__text': FLAT[:, 1:], 'target': FLAT},
        r'inputs/text: .*\(20, 24\)',
    ),
    'nan': (
        {'inputs__sound': with_nan(30)},
        'inputs/sound: expected finite numbers of float32, found others in row 30; where a sample '
        'lacks a modality, the key available',
    ),
    'nan where available is true': (
        {'inputs__sound': with_nan(30), 'available': np.ones((N, 2), bool)},
        'inputs/sound: .*finite.* where available is true, found others in row 30$',
    ),
    'words': ({'inputs__text': np.array([['a']] * N)}, 'inputs/text: .*numbers.*<U1'),
    'five axes': ({'inputs__text': np.zeros((N, 1, 1, 1, 1))}, 'inputs/text: .*2 to 4 axes'),
    'no features': ({'inputs__text': np.zeros((N, 0))}, 'inputs/text: .*numbers'),
    'available shape': ({'available': np.ones((N, 3), bool)}, r'available: .*\(40, 2\).*\(40, 3\)'),
    'available values': (
        {'available': np.full((N, 2), 0.5)},
        'available: .*0.5 in row 0, column 0$',
    ),
    'never available in training': (
        {'available': np.stack([SPLIT > 0, SPLIT < 3], 1)},
        'inputs/sound: .*training sample',
    ),
    'kind of nothing': ({'kind__gate': 'image'}, "kind/gate: unknown modality 'gate'"),
    'unknown kind': ({'kind__sound': 'sequences'}, "kind/sound: .*one of vector.*'?sequences"),
    'kind of two words': ({'kind__sound': np.array(['a', 'b'])}, r'kind/sound: .*<U1 \(2,\)'),
    'kind of other axes': (
        {'kind__sound': 'sequence'},
        r'inputs/sound: .*3 axes for the kind sequence',
    ),
    'length without kind': (
        {'length__sound': SPLIT},
        "length/sound: .*kind/sound with the value 'sequence' .*taken as 'vector'",
    ),
    'lengths of another shape': (sequences(length__gait=LENGTHS[1:]), r'length/gait: .*\(40,\)'),
    'fractional lengths': (sequences(length__gait=LENGTHS * 0.5), 'length/gait: .*integers.*float'),
    'empty sequence': (
        sequences(length__gait=LENGTHS - 1),
        'length/gait: .*1 to 5, found 0 in row',
    ),
    'overlong sequence': (sequences(length__gait=LENGTHS + 9), 'length/gait: .*1 to 5, found 1'),
    'nan in a real frame': (sequences(length__gait=LENGTHS * 0 + 5), 'inputs/gait: .*finite.*row'),
    'maps beside sequences': (
        {'inputs__sound': FLAT, 'inputs__text': FLAT, 'kind__text': 'sequence', 'target': FLAT},
        r'inputs/text: .*images of \(20, 24\)',
    ),
    'misspelt option': ({'availble': np.ones((N, 2), bool)}, "did you mean 'available'"),
    'misspelt lengths': ({'lengths__sound': SPLIT}, "did you mean 'length'"),
    'plus': ({'inputs__a+b': np.zeros((N, 2))}, r"modality: .*'a\+b'"),
    'dot': ({'inputs__a.b': np.zeros((N, 2))}, r"modality: .*'a\.b'"),
    'name of a method': ({'inputs__values': np.zeros((N, 2))}, "torch method.*'values'"),
}


@pytest.mark.parametrize('mistake', BAD)
def test_a_mistake_is_told_in_one_line_with_file_and_key(mistake, tmp_path):
    changes, told = BAD[mistake]
    with pytest.raises(UserError) as error:
        opened(tmp_path, **changes)
    message = str(error.value)
    assert message.startswith(f'{tmp_path / "mine.npz"}: ')
    assert re.search(told, message)
    assert '\n' not in message


def test_a_file_that_is_no_npz_is_told(tmp_path):
    file = tmp_path / 'mine.npz'
    for make in (None, lambda: file.write_text('a,b'), lambda: file.write_bytes(b'')):
        if make:
            make()
        with pytest.raises(UserError, match=re.escape(f'{file}: expected an .npz file')):
            Arrays(root=str(file))
    with file.open('wb') as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(UserError, match='another format'):
        Arrays(root=str(file))
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('target', 'text')
    with pytest.raises(UserError, match='target: expected an array'):
        Arrays(root=str(file))
    with pytest.raises(UserError, match='--data-root'):
        Arrays()


def test_a_modality_that_no_test_sample_has_is_scored_only_where_it_exists(tmp_path):
    available = np.ones((N, 2), bool)
    available[SPLIT == 2, 0] = False
    available[:6, 1] = False
    file = write(tmp_path / 'gone.npz', content(available=available))
    (data,) = open_datasets(['arrays:width=4'], [file], {})
    protocol = protocol_for(data, {'epochs': 2}, 'cpu')
    experiment = experiment_of(Spec('modality_dropout'), data, protocol, 0, tmp_path / 'results')
    record = run(experiment, Machine('cpu'), lambda *_: None)
    assert record['n'] == {'val': {'sound': 8, 'text': 8, 'sound+text': 8}, 'test': {'text': 8}}
    assert set(record['scores']['test']) == {'text'}
    assert record['gaps']['rates'] == {'sound': 0, 'text': 6 / 24}
    outcomes = np.load(experiment.folder / 'outcomes.npz')
    correct = (outcomes['pred/text'] == content()['target'][SPLIT == 2]).mean()
    assert record['scores']['test']['text']['accuracy'] == correct


def test_samples_that_lack_a_modality_are_counted(tmp_path):
    available = np.ones((N, 2), bool)
    available[[1, 5, 30], 1] = False
    assert '3 of 40 samples lack text' in opened(tmp_path, available=available).notes
    available[7] = False
    available[30, 1] = True
    told = opened(tmp_path, available=available).notes
    assert told[1:3] == (
        '2 of 39 samples lack text',
        '1 sample has no modality at all and is neither trained nor tested',
    )
    assert not any('lack' in note for note in opened(tmp_path).notes)


def trained(file, folder):
    """The data of a file, the record of a short training on them, and its outcomes."""
    (data,) = open_datasets(['arrays:width=4'], [file], {})
    protocol = protocol_for(data, {'epochs': 1}, 'cpu')
    experiment = experiment_of(Spec('modality_dropout'), data, protocol, 0, folder / 'results')
    record = run(experiment, Machine('cpu'), lambda *_: None)
    return data, record, np.load(experiment.folder / 'outcomes.npz')


def check_accuracies(record, outcomes):
    """Counts the right predictions of every subset."""
    for subset, scores in record['scores']['test'].items():
        correct = (outcomes[f'pred/{subset}'] == outcomes['target']).mean()
        assert scores['accuracy'] == pytest.approx(correct)


@pytest.mark.parametrize('labels', [[False, True], [1, 2], [3, 70, 200], [*range(255)]])
def test_labels_of_any_values_are_classes_of_their_own(labels, tmp_path):
    count = len(labels)
    place = np.tile(np.arange(count), 3 * 8)
    split = np.repeat([0, 1, 2], 8 * count)
    code = np.stack([np.sin(place), np.cos(place)], 1) * 9
    file = tmp_path / 'mine.npz'
    keys = {'target': np.array(labels)[place], 'split': split}
    np.savez(file, **keys, **{'inputs/sound': code, 'inputs/text': code[:, ::-1]})
    data, record, outcomes = trained(file, tmp_path)
    assert len(data.task.classes) == max(labels) + 1
    assert (outcomes['target'] == keys['target'][split == 2]).all()
    check_accuracies(record, outcomes)


def test_every_subset_of_many_modalities_is_scored(tmp_path):
    inputs = {f'inputs__m{k}': np.random.default_rng(k).normal(size=(N, 4)) for k in range(8)}
    inputs |= {'inputs__sound': None, 'inputs__text': None}
    _, record, outcomes = trained(write(tmp_path / 'mine.npz', content(**inputs)), tmp_path)
    assert len(record['scores']['test']) == 2**8 - 1
    check_accuracies(record, outcomes)
