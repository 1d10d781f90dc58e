"""CMU-MOSEI's pickle as MMSA releases it: safely read, padded frames known, mistakes told."""

import codecs
import os
import pickle
import re

import numpy as np
import pytest
from corrections import check_fingerprint

from benchmark import run
from benchmark.errors import UserError
from benchmark.records import store
from datasets.cmu_mosei import CMUMOSEI
from datasets.common.io.pickles import load_npy, load_pickle

WIDTHS = {'audio': 74, 'vision': 35, 'text': 768}
SIZES = {'train': 9, 'valid': 4, 'test': 6}
T = 5


def part(name, count):
    rng = np.random.default_rng(len(name))
    lengths = 2 + np.arange(count) % 4
    labels = np.arange(count) % 3
    real = np.arange(T) < lengths[:, None]
    found = {
        'raw_text': np.array([f'word {i}' for i in range(count)], object),
        'id': [f'{name}{i}$_$0' for i in range(count)],
        'classification_labels': labels.astype(float),
        'regression_labels': rng.standard_normal(count),
        'annotations': ['Neutral'] * count,
        'text_bert': np.stack([rng.integers(9, size=(count, T)), real, 0 * real], 1),
    }
    for m, width in WIDTHS.items():
        x = rng.standard_normal((count, T, width)) + labels[:, None, None]
        found[m] = np.where(real[..., None], x, 0).astype(np.float32)
    return found


def content():
    return {name: part(name, count) for name, count in SIZES.items()}


def write(folder, found, protocol=4):
    file = folder / 'aligned_50.pkl'
    file.write_bytes(pickle.dumps(found, protocol))
    return file


def opened(root, **options):
    return CMUMOSEI(root=str(root), **options)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_splits_labels_and_real_frames_are_those_of_the_file(protocol, tmp_path):
    keys = content()
    keys['train']['audio'][1, 0, 7] = -np.inf
    keys['train']['vision'][2, 1, 3] = np.nan
    data = opened(write(tmp_path, keys, protocol))
    assert [(m.name, m.shape, m.padded) for m in data.task.modalities] == [
        ('audio', (T, 75), True),
        ('vision', (T, 36), True),
        ('text', (T, 769), True),
    ]
    assert data.task.classes == ('negative', 'neutral', 'positive')
    for name, key in zip(('train', 'val', 'test'), keys, strict=True):
        split, expected = data.split(name), keys[key]
        assert split.ids.tolist() == expected['id']
        assert split.clusters.tolist() == [i.removesuffix('$_$0') for i in expected['id']]
        assert split.target.tolist() == expected['classification_labels'].tolist()
        for m, x in split.inputs.items():
            read = x[np.arange(len(split))]
            assert (read[..., -1] == expected['text_bert'][:, 1]).all()
            assert (read[..., :-1] == np.nan_to_num(expected[m], nan=0, neginf=0)).all()


def test_the_folder_may_be_named_instead_of_the_file(tmp_path):
    file = write(tmp_path, content())
    assert opened(tmp_path).fingerprint == opened(file).fingerprint


def test_without_the_mask_every_frame_counts(tmp_path):
    keys = content()
    for found in keys.values():
        del found['text_bert']
    file = write(tmp_path, keys)
    split = opened(file, padding='none').split('val')
    assert all((x[np.arange(4)][..., -1] == 1).all() for x in split.inputs.values())
    with pytest.raises(UserError, match=r"train: expected 'text_bert'.*padding=none"):
        opened(file)


def test_standardising_uses_real_training_frames_of_sound_and_faces(tmp_path):
    keys = content()
    split = opened(write(tmp_path, keys), standardise=True).split('test')
    for m in WIDTHS:
        real = keys['train']['text_bert'][:, 1] == 1
        frames = keys['train'][m][real].astype(float)
        expected = keys['test'][m][0, :2]
        if m != 'text':
            expected = (expected - frames.mean(0)) / frames.std(0)
        found = split.inputs[m][np.array([0])][0, :2, :-1]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_training_split_does_not_depend_on_the_others(tmp_path):
    keys = content()
    before = opened(write(tmp_path, keys), standardise=True).split('train')
    for name in ('valid', 'test'):
        for m in WIDTHS:
            keys[name][m][:] = np.nan
    after = opened(write(tmp_path, keys), standardise=True).split('train')
    for m, x in before.inputs.items():
        assert (after.inputs[m][np.arange(9)] == x[np.arange(9)]).all()


def test_the_fingerprint_follows_what_changes_scores_and_not_the_path(tmp_path):
    for folder in 'ab':
        (tmp_path / folder).mkdir()
    file = write(tmp_path / 'a', content())
    first = opened(file).fingerprint
    assert opened(write(tmp_path / 'b', content())).fingerprint == first
    for options in ({'padding': 'none'}, {'standardise': True}, {'width': 8}):
        assert opened(file, **options).fingerprint != first
    keys = content()
    keys['test']['classification_labels'][0] = 2
    assert opened(write(tmp_path / 'b', keys)).fingerprint != first


class Malicious:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


ATTACKS = {
    'a command': ((os.system, 'touch broken_into'), r'found (posix|nt)\.system'),
    'code': ((eval, '1 + 1'), r'found builtins\.eval'),
    'an attribute': ((getattr, np, 'load'), r'found builtins\.getattr'),
    'a function of numpy': ((np.load, 'any.npy'), r'found numpy.*load'),
    'another pickle': ((pickle.loads, b''), r'found _pickle\.loads'),
    'a codec': ((codecs.encode, 'x', 'rot13'), "found 'rot13'"),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_a_pickle_that_wants_more_than_arrays_is_refused_unrun(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, told = ATTACKS[attack]
    # A module cannot be pickled, so that getattr is given a name; it is refused before.
    call = tuple('numpy' if x is np else x for x in call)
    file = write(tmp_path, content() | {'extra': Malicious(*call)})
    with pytest.raises(UserError, match=told) as error:
        opened(file)
    assert str(error.value).startswith(str(file))
    assert '\n' not in str(error.value)
    objects = tmp_path / 'names.npy'
    np.save(objects, np.array([Malicious(*call)], object), allow_pickle=True)
    with pytest.raises(UserError, match=told):
        load_npy(objects)
    assert not (tmp_path / 'broken_into').exists()


@pytest.mark.parametrize(
    ('module', 'name'), [('numpy', 'ndarray.__class__'), ('numpy.core', 'multiarray.scalar')]
)
def test_dotted_names_do_not_lead_out_of_what_is_admitted(module, name, tmp_path):
    file = tmp_path / 'dotted.pkl'
    pieces = [b'\x8c' + bytes([len(word)]) + word.encode() for word in (module, name)]
    file.write_bytes(b'\x80\x04' + b''.join(pieces) + b'\x93.')
    with pytest.raises(UserError, match=re.escape(f'found {module}.{name}')):
        load_pickle(file)


def test_plain_values_and_arrays_come_back(tmp_path):
    values = {
        'text': 'é',
        'bytes': b'\xff',
        'numbers': [1, 2.5, True, None, 10**30],
        'scalar': np.float32(2),
        'rows': (np.arange(6, dtype='>i2').reshape(2, 3).T, np.array(['a'], object)),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file = write(tmp_path, values, protocol)
        found = load_pickle(file)
        assert repr(found) == repr(pickle.loads(file.read_bytes()))
        assert (found['rows'][0] == values['rows'][0]).all()
        assert type(found['scalar']) is np.float32


def without(key):
    return lambda found: found['valid'].pop(key)


def put(name, key, change):
    def spoil(found):
        found[name][key] = change(found[name][key])

    return spoil


BAD = {
    'no validation': (lambda x: x.pop('valid'), "expected a dict with 'valid', found .*'test'"),
    'a part of another kind': (lambda x: x.update(valid=[]), "expected a dict with 'valid'"),
    'no faces': (without('vision'), "valid: expected 'vision': unknown key 'vision'"),
    'no ids': (without('id'), "valid: expected 'id'"),
    'CMU-MOSI': (
        put('train', 'audio', lambda x: x[..., :5]),
        r'train/audio: expected floats \(9, 5, 74\), found float32 \(9, 5, 5\)',
    ),
    'text as indices': (
        put('train', 'text', lambda x: x[..., 0].astype(int)),
        r'train/\w+: expected floats \(.*\), found int64 \(9, 5\)',
    ),
    'lists': (
        put('test', 'vision', list),
        r'test/vision: expected floats \(N, T, 35\), found list',
    ),
    'unaligned': (
        put('test', 'vision', lambda x: x[:, :4]),
        r'test/vision: expected floats \(6, 5, 35\), found float32 \(6, 4, 35\)',
    ),
    'fewer labels': (
        put('valid', 'classification_labels', lambda x: x[1:]),
        'valid: expected 4 labels, found 3',
    ),
    'fewer ids': (put('valid', 'id', lambda x: x[1:]), 'valid/id: expected .* found 3 of 4'),
    'seven classes': (
        put('train', 'classification_labels', lambda x: x + 1),
        'train: expected labels 0 to 2, found 3 in row 2',
    ),
    'scores': (
        put('train', 'classification_labels', lambda x: x + 0.5),
        r'train/classification_labels: expected \(N,\) integers',
    ),
    'words': (
        put('train', 'classification_labels', lambda x: ['Neutral'] * 9),
        r'train/classification_labels: expected \(N,\) integers, found <U7',
    ),
    'two classes in train': (
        put('train', 'classification_labels', lambda x: x.clip(0, 1)),
        'train: expected samples of every class, found none of 2',
    ),
    'a clip in two splits': (
        put('test', 'id', lambda x: ['train3$_$0', *x[1:]]),
        r"test: sample 'train3\$_\$0' in row 0 is there and in .*: train",
    ),
    'a mask of another size': (
        put('test', 'text_bert', lambda x: x[:, :, 1:]),
        r'test/text_bert: expected \(6, 3, 5\).* found int64 \(6, 3, 4\)',
    ),
    'a mask of other values': (
        put('test', 'text_bert', lambda x: x + 1),
        'test/text_bert: .*0 or 1',
    ),
    'a clip without words': (put('test', 'text_bert', lambda x: 0 * x), 'found none in row 0'),
    'no clips': (
        lambda x: x.update(valid={k: v[:0] for k, v in x['valid'].items()}),
        'valid: expected some samples, found none',
    ),
}


@pytest.mark.parametrize('mistake', BAD)
def test_a_mistake_is_told_in_one_line_with_file_and_key(mistake, tmp_path):
    spoil, told = BAD[mistake]
    keys = content()
    spoil(keys)
    file = write(tmp_path, keys)
    with pytest.raises(UserError, match=told) as error:
        opened(file)
    assert str(error.value).startswith(str(file))
    assert '\n' not in str(error.value)


def test_a_text_that_is_not_finite_is_told_when_it_is_read(tmp_path):
    keys = content()
    keys['test']['text'][4, 0, 0] = np.nan
    split = opened(write(tmp_path, keys)).split('test')
    with pytest.raises(UserError, match=r'test/text: expected finite numbers.*row 4'):
        split.inputs['text'][np.arange(6)]


def test_files_that_are_no_such_pickle_are_told(tmp_path):
    file = write(tmp_path, content())
    whole = file.read_bytes()
    for spoilt in (whole[:-2000], b'', b'text', b'PK\x03\x04'):
        file.write_bytes(spoilt)
        with pytest.raises(UserError, match=re.escape(f'{file}: cannot be read')) as error:
            opened(file)
        assert '\n' not in str(error.value)
    file.write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="expected a dict with 'train', found list"):
        opened(file)
    with pytest.raises(UserError, match=r'gone.pkl: expected a file, found nothing there'):
        opened(tmp_path / 'gone.pkl')
    with pytest.raises(UserError, match='expected --data-root FILE'):
        opened('')
    with pytest.raises(UserError, match="unknown padding of cmu_mosei 'masks'"):
        opened(file, padding='masks')


def test_it_trains_from_the_command_line_to_a_table(tmp_path, capsys):
    file = write(tmp_path, content())
    arguments = ['--methods', 'modality_dropout', '--datasets', 'cmu_mosei:width=4']
    places = ['--device', 'cpu', '--data-root', str(file), '--results', str(tmp_path / 'results')]
    options = ['--cfg-options', 'epochs=2', 'batch_size=4', 'cmu_mosei.standardise=true']
    assert run.main([*arguments, *places, *options]) == 0
    assert 'audio+vision+text' in capsys.readouterr().out
    (found,) = (tmp_path / 'results' / 'runs').rglob('record.json')
    scores = store.read(found)['scores']['test']['vision']
    assert {'accuracy', 'UAR', 'F1'} <= set(scores)


def test_a_corrected_feature_changes_the_fingerprint(tmp_path, monkeypatch):
    keys = content()
    file = write(tmp_path, keys)

    def correct(_):
        keys['test']['vision'][0, 0, 0] += 1
        write(tmp_path, keys)

    check_fingerprint(lambda: opened(file), file, monkeypatch, correct)


def test_copies_of_training_clips_are_told_or_refused(tmp_path):
    keys = content()
    assert not opened(write(tmp_path, keys)).notes[1:]
    for key in (*WIDTHS, 'text_bert'):
        keys['test'][key][2] = keys['train'][key][5]
    file = write(tmp_path, keys)
    told = '1 of 6 clips of test are copies of training clips: test2$_$0 (train: train5$_$0)'
    assert opened(file).notes[1:] == (told,)
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 1 of 6'):
        opened(file, duplicates='refuse')
    # What is padding does not count, unless padded frames are taken in.
    keys['test']['audio'][2, -1] = 7
    assert not keys['test']['text_bert'][2, 1, -1]
    assert opened(write(tmp_path, keys)).notes[1:] == (told,)
    assert not opened(file, padding='none').notes[1:]


def test_a_text_that_is_not_finite_is_told_before_anything_is_trained(tmp_path):
    keys = content()
    keys['test']['text'][4, 0, 0] = np.nan
    data = opened(write(tmp_path, keys))
    with pytest.raises(UserError, match=r'test/text: expected finite numbers, .*row 4'):
        data.check()


def test_features_that_are_constant_in_the_training_clips_are_told(tmp_path):
    keys = content()
    keys['train']['audio'][..., [3, 9]] = 2
    for name in ('valid', 'test'):
        keys[name]['audio'][..., 9] = 2
    data = opened(write(tmp_path, keys), standardise=True, padding='none')
    _, told = data.notes
    assert told.startswith('audio: features that do not vary in the training samples')
    assert told.endswith('become 0: 3, 9; of these, 3 vary in other splits')
    assert (data.split('test').inputs['audio'][np.arange(6)][..., [3, 9]] == 0).all()


def test_small_differences_of_large_features_are_kept(tmp_path):
    keys, large = content(), content()
    for name, part in large.items():
        part['audio'] = keys[name]['audio'].astype(np.float64) + 1e9
    before, after = (
        opened(write(tmp_path, x), standardise=True, padding='none').split('test')
        for x in (keys, large)
    )
    rows = np.arange(6)
    assert after.inputs['audio'][rows] == pytest.approx(before.inputs['audio'][rows], abs=1e-4)


def test_what_was_found_and_what_is_not_finite_is_told(tmp_path):
    keys = content()
    keys['test']['audio'][4, 0, :2] = np.nan, np.inf
    found, told = opened(write(tmp_path, keys)).notes
    assert found.startswith('found modalities audio (sequence ')
    assert found.endswith('test 6')
    assert told == 'features that are not finite, which become 0: 2 in audio of test'
