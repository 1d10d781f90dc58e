"""CMU-MOSI's pickles as MMSA releases them: scores as classes, aligned frames and others."""

import pickle
import re

import numpy as np
import pytest
from corrections import check_fingerprint

from benchmark import run
from benchmark.errors import UserError
from benchmark.narrowed import recorded
from benchmark.registry import discover
from datasets.cmu_mosei import CMUMOSEI
from datasets.cmu_mosi import CMUMOSI

discover()
WIDTHS = {'audio': 5, 'vision': 20, 'text': 768}
SCORES = np.array([-3, -2.4, -0.4, 0, 0.6, 1.8, 2.6, -1.2, 1.0], np.float32)
T = {'text': 4, 'audio': 7, 'vision': 6}


def part(name, count, frames):
    rng = np.random.default_rng(len(name))
    lengths = {m: 1 + (np.arange(count) + k) % 4 for k, m in enumerate(WIDTHS)}
    real = np.arange(T['text']) < lengths['text'][:, None]
    scores = np.resize(SCORES, count)
    found = {
        'raw_text': np.array([f'word {i}' for i in range(count)], object),
        'id': [f'{name}{i}$_$0' for i in range(count)],
        'regression_labels': scores,
        'annotations': ['Neutral'] * count,
        'text_bert': np.stack([rng.integers(9, size=real.shape), real, 0 * real], 1),
    }
    for m, width in WIDTHS.items():
        length = T[m] if frames == 'unaligned' else T['text']
        kept = lengths[m] if frames == 'unaligned' else lengths['text']
        shown = np.arange(length) < kept[:, None]
        x = rng.standard_normal((count, length, width)) + scores[:, None, None]
        found[m] = np.where(shown[..., None], x, 0).astype(np.float32)
    if frames == 'unaligned':
        found['audio_lengths'], found['vision_lengths'] = lengths['audio'], lengths['vision']
    return found


def content(frames='aligned'):
    return {n: part(n, c, frames) for n, c in (('train', 18), ('valid', 9), ('test', 9))}


def write(folder, found, frames='aligned'):
    file = folder / f'{frames}_50.pkl'
    file.write_bytes(pickle.dumps(found))
    return file


def opened(root, **options):
    return CMUMOSI(root=str(root), **{'target': 'three', **options})


EXPECTED = {
    'three': [0, 0, 0, 1, 2, 2, 2, 0, 2],
    'binary': [0, 0, 0, 1, 1, 1, 1, 0, 1],
    'seven': [0, 1, 3, 3, 4, 5, 6, 2, 4],
}
"""Class of each of `SCORES`."""


@pytest.mark.parametrize('target', EXPECTED)
def test_scores_become_classes(target, tmp_path):
    write(tmp_path, content())
    data = opened(tmp_path, target=target)
    assert data.split('test').target.tolist() == EXPECTED[target]
    assert len(data.task.classes) == max(EXPECTED[target]) + 1
    assert data.split('test').clusters.tolist() == [f'test{i}' for i in range(9)]
    if target == 'seven':
        assert data.task.classes == ('-3', '-2', '-1', '0', '+1', '+2', '+3')


@pytest.mark.parametrize('kind', [CMUMOSI, CMUMOSEI])
def test_scores_are_predicted_as_they_are(kind, tmp_path):
    keys = content()
    if kind is CMUMOSEI:
        for found in keys.values():
            found |= {'audio': np.tile(found['audio'], 15)[..., :74]}
            found |= {'vision': np.tile(found['vision'], 2)[..., :35]}
    data = kind(root=str(write(tmp_path, keys)), target='score')
    assert (data.task.kind, data.task.metric, data.task.sentiment) == ('regression', 'MAE', True)
    assert data.task.classes == ('sentiment',)
    for name, key in (('train', 'train'), ('val', 'valid'), ('test', 'test')):
        target = data.split(name).target
        assert (target.shape, target.dtype) == ((len(keys[key]['id']), 1), np.float32)
        assert target[:, 0].tolist() == keys[key]['regression_labels'].tolist()
    scores = keys['train']['regression_labels'].astype(float)
    assert data.task.scale[0] == pytest.approx((scores.mean(), scores.std()), rel=1e-6)


def test_records_of_cmu_mosei_keep_the_identity_that_they_had_without_the_option():
    options = {'target': 'three', 'width': 48}
    assert recorded(CMUMOSEI.__new__(CMUMOSEI), CMUMOSEI, options) == {'width': 48}
    scored = {**options, 'target': 'score'}
    assert recorded(CMUMOSEI.__new__(CMUMOSEI), CMUMOSEI, scored) == scored


def test_aligned_frames_share_the_mask_of_the_words(tmp_path):
    keys = content()
    data = opened(write(tmp_path, keys))
    assert [(m.name, m.shape) for m in data.task.modalities] == [
        ('audio', (4, 6)),
        ('vision', (4, 21)),
        ('text', (4, 769)),
    ]
    split = data.split('val')
    for m, x in split.inputs.items():
        rows = x[np.arange(9)]
        assert (rows[..., -1] == keys['valid']['text_bert'][:, 1]).all()
        assert (rows[..., :-1] == keys['valid'][m]).all()


def test_unaligned_frames_have_lengths_of_their_own(tmp_path):
    keys = content('unaligned')
    keys['test']['audio_lengths'][2] = 0
    write(tmp_path, keys, 'unaligned')
    data = opened(tmp_path, frames='unaligned')
    assert [m.shape for m in data.task.modalities] == [(7, 6), (6, 21), (4, 769)]
    split = data.split('test')
    for m in ('audio', 'vision'):
        marks = split.inputs[m][np.arange(9)][..., -1]
        lengths = keys['test'][f'{m}_lengths']
        assert marks.sum(1).tolist() == lengths.tolist()
        assert (np.diff(marks) <= 0).all()
    assert split.available[:, 0].tolist() == [True] * 2 + [False] + [True] * 6
    assert split.available[:, 1:].all()
    assert 'of 36 clips, 1 lack audio' in data.notes
    whole = opened(tmp_path, frames='unaligned', padding='none').split('test')
    assert (whole.inputs['audio'][np.arange(9)][..., -1] == 1).all()


def test_standardising_uses_real_training_frames(tmp_path):
    keys = content('unaligned')
    write(tmp_path, keys, 'unaligned')
    split = opened(tmp_path, frames='unaligned', standardise=True).split('test')
    real = np.arange(T['audio']) < keys['train']['audio_lengths'][:, None]
    frames = keys['train']['audio'][real].astype(float)
    expected = (keys['test']['audio'][:, 0] - frames.mean(0)) / frames.std(0)
    assert split.inputs['audio'][np.arange(9)][:, 0, :-1] == pytest.approx(expected, abs=1e-4)


def test_the_training_split_does_not_depend_on_the_others(tmp_path):
    keys = content()
    before = opened(write(tmp_path, keys), standardise=True).split('train')
    for name in ('valid', 'test'):
        for m in WIDTHS:
            keys[name][m][:] = np.nan
    after = opened(write(tmp_path, keys), standardise=True).split('train')
    for m, x in before.inputs.items():
        assert (after.inputs[m][np.arange(18)] == x[np.arange(18)]).all()


def put(key, change):
    def spoil(found):
        found['valid'][key] = change(found['valid'][key])

    return spoil


BAD = {
    'CMU-MOSEI': (
        put('audio', lambda x: np.repeat(x, 2, 2)),
        r'valid/audio: expected floats \(9, 7, 5\), found float32 \(9, 7, 10\)',
    ),
    'no lengths': (
        lambda x: x['valid'].pop('audio_lengths'),
        "valid: expected 'audio_lengths': .*padding=none counts all frames",
    ),
    'long lengths': (
        put('audio_lengths', lambda x: x + 7),
        r'valid/audio_lengths: expected \(9,\) whole numbers from 0 to 7, found int64 \(9,\)',
    ),
    'fewer frames of faces': (
        put('vision', lambda x: x[:4]),
        r'valid/vision: expected floats \(9, 6, 20\), found float32 \(4, 6, 20\)',
    ),
    'scores of another range': (
        put('regression_labels', lambda x: 2 * x),
        r'valid/regression_labels: expected \(N,\) scores from -3 to 3, found float32 \(9,\)',
    ),
    'no score': (put('regression_labels', lambda x: x * np.nan), 'expected .* scores from -3 to 3'),
    'words as scores': (put('regression_labels', lambda x: x.astype(str)), 'expected .* scores'),
    'a clip twice': (
        put('id', lambda x: ['train0$_$0', *x[1:]]),
        r"valid: sample 'train0\$_\$0' in row 0 is there and in .*train",
    ),
}


@pytest.mark.parametrize('how', BAD)
def test_bad_files_are_told(how, tmp_path):
    spoil, match = BAD[how]
    found = content('unaligned')
    spoil(found)
    write(tmp_path, found, 'unaligned')
    with pytest.raises(UserError, match=match) as caught:
        opened(tmp_path, frames='unaligned')
    assert '\n' not in str(caught.value)


def test_bad_options_are_told(tmp_path):
    write(tmp_path, content())
    for match, options in (
        (r'unaligned_50\.pkl: expected a file, found nothing there', {'frames': 'unaligned'}),
        ("frames of cmu_mosi 'words'", {'frames': 'words'}),
        ("target of cmu_mosi 'sevn'; did you mean 'seven'", {'target': 'sevn'}),
        ("padding of cmu_mosi 'maks'; did you mean 'mask'", {'padding': 'maks'}),
    ):
        with pytest.raises(UserError, match=match):
            opened(tmp_path, **options)
    with pytest.raises(
        UserError,
        match='cmu_mosi: expected --data-root FILE, or root=FILE after the colon: Download MOSI/',
    ):
        CMUMOSI()
    with pytest.raises(UserError, match="target of cmu_mosei 'scores'; did you mean 'score'"):
        CMUMOSEI(root=str(tmp_path), target='scores')


def test_the_fingerprint_follows_the_file_and_the_target(tmp_path, monkeypatch):
    file = write(tmp_path, content())
    assert opened(file).fingerprint != opened(file, target='binary').fingerprint

    def change(path):
        keys = pickle.loads(path.read_bytes())
        keys['test']['audio'] *= -1
        path.write_bytes(pickle.dumps(keys))

    check_fingerprint(lambda: opened(file), file, monkeypatch, change)


def test_the_whole_way_to_a_table(tmp_path, capsys):
    write(tmp_path, content('unaligned'), 'unaligned')
    arguments = ['--methods', 'modality_dropout', '--datasets', 'cmu_mosi:frames=unaligned']
    arguments += ['--data-root', str(tmp_path), '--device', 'cpu', '--workers', '0']
    arguments += ['--results', str(tmp_path / 'results')]
    assert run.main([*arguments, '--cfg-options', 'epochs=1', 'batch_size=8', 'width=4']) == 0
    out = capsys.readouterr().out
    assert re.search('^cmu_mosi.*: MAE', out, re.M)
    assert 'audio+vision+text' in out
