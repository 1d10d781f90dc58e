"""CREMA-D and Kinetics-Sounds from wav files and frames to a table."""

import re

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
import torch
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.engine.protocol import Protocol
from benchmark.engine.schedules import schedulers
from benchmark.engine.training import optim_wrapper
from benchmark.errors import UserError
from benchmark.method import Batch
from benchmark.registry import discover
from datasets.common.families.audiovisual import Spectrogram
from datasets.common.io.folders import middle_frame
from datasets.crema_d import CLASSES, SOUND, CremaD
from datasets.kinetics_sounds import KineticsSounds

discover()
ACTIONS = ('playing drums', 'tap dancing')


def wav(file, seconds, rate=16000, pitch=440.0, dtype=np.int16):
    file.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate)) / rate
    sound = 0.5 * np.sin(2 * np.pi * pitch * t)
    values = {np.int16: sound * 32767, np.uint8: 128 + 127 * sound}.get(dtype, sound).astype(dtype)
    scipy.io.wavfile.write(file, rate, values)
    # What the file holds, after rounding.
    return {np.int16: values / 32768, np.uint8: (values - 128.0) / 128}.get(dtype, values)


def frame(file, level):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), level, np.uint8)).save(file)


def crema_d(root, each=7):
    for split, count in (('train', each), ('test', 1)):
        rows = []
        for label, emotion in enumerate(CLASSES):
            for i in range(count):
                clip = f'10{i:02d}_{split}_{emotion}_XX'
                wav(root / 'AudioWAV' / f'{clip}.wav', 1.5, pitch=200 + 150 * label)
                for k in range(3):
                    frame(root / 'Image-01-FPS' / clip / f'frame_{k}.jpg', 20 * label + 50 * k)
                rows.append(f'{clip},{emotion}')
        (root / f'{split}.csv').write_text('\n'.join(rows))
    return root


def kinetics(root, each=12):
    root.mkdir(parents=True, exist_ok=True)
    (root / 'class.txt').write_text('\n'.join(ACTIONS))
    for split, images, count in (('train', 'train_img', each), ('test', 'val_img', 3)):
        for label, action in enumerate(ACTIONS):
            folder = action.replace(' ', '_')
            for i in range(count):
                wav(root / f'audio/{split}/{folder}/{split}{i}.wav', 4.0, pitch=300 + 200 * label)
                visual = root / f'visual/{images}/Image-01-FPS/{folder}/{split}{i}'
                frame(visual / 'a.jpg', 100 * label + i)
    return root


@pytest.mark.parametrize('kind', [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize(('seconds', 'rate'), [(1.5, 22050), (4.0, 22050), (2.0, 44100)])
def test_spectrograms_are_log_magnitudes_of_the_repeated_sound(kind, seconds, rate, tmp_path):
    sound = wav(tmp_path / 'a.wav', seconds, rate, dtype=kind)
    found = SOUND(tmp_path / 'a.wav')
    assert found.shape == SOUND.shape == (1, 257, 188)
    if rate == 44100:
        sound = scipy.signal.resample_poly(sound, 1, 2)
    length = 3 * 22050
    sound = np.tile(sound, 3)[:length]
    _, _, frames = scipy.signal.stft(
        sound, window='hann', nperseg=512, noverlap=512 - 353, boundary='zeros', padded=True
    )
    # scipy divides by the window's sum.
    magnitude = np.abs(frames[:, :188]) * 256
    expected = np.log(magnitude + 1e-7)
    expected = (expected - expected.mean()) / expected.std(ddof=1)
    # Where all but nothing sounds, the arithmetic's rounding is heard.
    assert np.abs(found[0] - expected)[magnitude > 1e-3].max() < 0.05


def test_stereo_is_mixed_and_lengths_are_the_papers(tmp_path):
    left = np.random.default_rng(0).normal(size=(16000, 2)).astype(np.float32) / 9
    scipy.io.wavfile.write(tmp_path / 's.wav', 16000, left)
    scipy.io.wavfile.write(tmp_path / 'm.wav', 16000, left.mean(1))
    sound = Spectrogram(16000, 5.0, 256, 128, standardised=False)
    assert sound.shape == (1, 129, 626)
    assert sound(tmp_path / 's.wav') == pytest.approx(sound(tmp_path / 'm.wav'), abs=1e-4)


def test_the_middle_frame_by_name_whatever_the_file_system_lists_first(tmp_path):
    for k in (3, 1, 2):
        frame(tmp_path / f'{k}.jpg', k)
    (tmp_path / 'notes.txt').write_text('x')
    aside = []
    assert middle_frame(tmp_path, aside).name == '2.jpg'
    assert middle_frame(tmp_path / 'none', aside) is None
    assert [file.name for file in aside] == ['notes.txt']


def test_crema_d_reads_the_lists(tmp_path):
    data = CremaD(root=str(crema_d(tmp_path)), size=28)
    ids = {name: data.split(name).ids.tolist() for name in ('train', 'val', 'test')}
    assert len(ids['train'] + ids['val']) == 42
    assert ids['val']
    assert all('_test_' in i for i in ids['test'])
    test = data.split('test')
    assert test.target.tolist() == list(range(6))
    rgb = test.inputs['visual'][np.array([4])][0]
    assert rgb.shape == (3, 28, 28)
    assert rgb[0].mean() == pytest.approx(((20 * 4 + 50) / 255 - 0.485) / 0.229, abs=0.02)
    assert data.split('train').inputs['visual'].shape[2:] == (32, 32)
    assert np.array_equal(
        test.inputs['audio'][np.array([1])][0], SOUND(tmp_path / f'AudioWAV/{ids["test"][1]}.wav')
    )


def test_kinetics_is_paired_by_name_and_cut_in_training(tmp_path):
    root = kinetics(tmp_path)
    data = KineticsSounds(root=str(root), size=28)
    train, test = data.split('train'), data.split('test')
    assert test.ids.tolist() == [
        f'{a.replace(" ", "_")}/test{i}' for a in ACTIONS for i in range(3)
    ]
    assert train.inputs['audio'].shape[2:] == (129, 1251)
    rows = np.arange(2)
    audio, visual = (torch.from_numpy(train.inputs[k][rows]) for k in ('audio', 'visual'))
    there = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch({'audio': audio, 'visual': visual}, there, there, torch.zeros(2), torch.arange(2))
    torch.manual_seed(0)
    cropped = train.augment(batch).inputs
    assert cropped['audio'].shape == (2, 1, 129, 626)
    assert cropped['visual'].shape == (2, 3, 28, 28)
    windows = audio[0, 0].unfold(1, 626, 1).permute(1, 0, 2)
    assert (windows - cropped['audio'][0, 0]).abs().amax((1, 2)).min() < 1e-5


@pytest.mark.parametrize(('name', 'make'), [('crema_d', crema_d), ('kinetics_sounds', kinetics)])
def test_the_whole_way_to_a_table(name, make, tmp_path, capsys):
    arguments = ['--methods', 'modality_dropout', '--datasets', name, '--workers', '0']
    arguments += ['--data-root', str(make(tmp_path / 'data')), '--device', 'cpu']
    arguments += ['--results', str(tmp_path / 'results')]
    options = ['epochs=1', 'batch_size=8', 'width=4', 'size=28', 'cache=ram']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert re.search(rf'^{name} .*: accuracy', out, re.M)
    assert 'audio+visual' in out


def test_lost_files_are_errors_or_gaps(tmp_path):
    root = crema_d(tmp_path)
    lost = root / 'AudioWAV' / '1000_test_HAP_XX.wav'
    lost.unlink()
    with pytest.raises(UserError, match=r"expected audio of clip '1000_test_HAP_XX', .*gaps=true"):
        CremaD(root=str(root))
    test = CremaD(root=str(root), gaps=True).split('test')
    assert test.available[:, 0].tolist() == [True, False, True, True, True, True]
    root = kinetics(tmp_path / 'k')
    next((root / 'visual/val_img/Image-01-FPS/tap_dancing/test1').glob('*')).unlink()
    with pytest.raises(UserError, match="expected visual of clip 'tap_dancing/test1'"):
        KineticsSounds(root=str(root))


def test_bad_trees_are_told(tmp_path):
    root = crema_d(tmp_path)

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            CremaD(root=str(root), **options)
        assert '\n' not in str(caught.value)

    told('crema_d:size: expected 1 to 8192 pixels a side, found 9999999$', size=9999999)
    train = (root / 'train.csv').read_text()
    (root / 'train.csv').write_text(f'{train}\n1000_test_HAP_XX,HAPPY')
    told(r"unknown emotion in .*train\.csv, entry 43: 'HAPPY'; did you mean 'HAP'")
    (root / 'train.csv').write_text(f'{train}\n1000_test_HAP_XX,HAP')
    told("clip '1000_test_HAP_XX' is in (train|val) and test")
    (root / 'train.csv').write_text('\n'.join(r for r in train.split('\n') if 'FEA' not in r))
    told("expected some training clip of 'FEA', found none")
    (root / 'train.csv').unlink()
    told(r'train\.csv: expected a list file')
    with pytest.raises(UserError, match=r'audio/train: expected a folder per class|class\.txt'):
        KineticsSounds(root=str(root))


def test_bad_sounds_are_told_when_read(tmp_path):
    root = crema_d(tmp_path)
    rows = CremaD(root=str(root)).split('test').inputs['audio']
    file = rows.paths[0]
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b'RIFF', b'no sound at all', whole[:44]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf'{file.name}: ') as caught:
            rows[np.array([0])]
        assert '\n' not in str(caught.value)


def test_training_reads_no_test_file(tmp_path):
    root = crema_d(tmp_path)
    data = CremaD(root=str(root), size=28)
    for file in [*root.glob('*/*_test_*.wav'), *root.glob('*/*_test_*/*.jpg')]:
        file.write_bytes(b'poison')
    for name in ('train', 'val'):
        split = data.split(name)
        for rows in split.inputs.values():
            rows[np.arange(len(split))]


@pytest.mark.parametrize('name', ['crema_d', 'kinetics_sounds'])
@pytest.mark.parametrize('modality', ['audio', 'visual'])
def test_a_corrected_file_changes_the_fingerprint(name, modality, tmp_path, monkeypatch):
    kind, make = {'crema_d': (CremaD, crema_d), 'kinetics_sounds': (KineticsSounds, kinetics)}[name]
    root = make(tmp_path)
    file = getattr(kind(root=str(root)).clips['test'][0], modality)
    check_fingerprint(lambda: kind(root=str(root)), file, monkeypatch)


def test_copies_of_training_clips_are_told_or_refused(tmp_path):
    root = crema_d(tmp_path)
    for emotion in CLASSES:
        # In the made tree, every clip of an emotion sounds alike.
        wav(root / f'AudioWAV/1000_test_{emotion}_XX.wav', 1.0, pitch=99 + len(emotion))
    wav(root / 'AudioWAV/1000_test_ANG_XX.wav', 1.5, pitch=200 + 150 * CLASSES.index('ANG'))
    told = '1 of 6 clips of test are copies of training clips: 1000_test_ANG_XX (train: '
    assert any(note.startswith(told) for note in CremaD(root=str(root)).notes)
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found'):
        CremaD(root=str(root), duplicates='refuse')
    with pytest.raises(UserError, match="value of duplicates 'no'"):
        KineticsSounds(root=str(kinetics(tmp_path / 'k')), duplicates='no')


BROKEN = {
    'half of it': lambda whole: whole[: len(whole) // 2],
    'a header alone': lambda whole: whole[:44],
    'an mp3': lambda whole: b'ID3' + whole[3:],
    'nothing': lambda whole: b'',
}


@pytest.mark.parametrize('how', BROKEN)
def test_a_broken_sound_is_told_before_anything_is_trained(how, tmp_path, capsys):
    root = kinetics(tmp_path / 'data')
    file = root / 'audio/test/tap_dancing/test1.wav'
    file.write_bytes(BROKEN[how](file.read_bytes()))
    arguments = ['--methods', 'modality_dropout', '--datasets', 'kinetics_sounds']
    arguments += ['--data-root', str(root), '--results', str(tmp_path / 'results')]
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {file}: ')
    assert error.count('\n') == 1
    assert not (tmp_path / 'results' / 'runs').exists()


def test_a_truncated_frame_is_told_before_anything_is_trained(tmp_path):
    data = CremaD(root=str(crema_d(tmp_path)))
    data.check()
    file = data.clips['test'][0].visual
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=f'{file.name}: cannot be read'):
        data.check()


def test_sounds_that_are_not_finite_are_told_and_strange_chunks_are_no_matter(tmp_path):
    root = crema_d(tmp_path)
    file = root / 'AudioWAV/1000_test_SAD_XX.wav'
    sound = wav(file, 1.0)
    whole = file.read_bytes()
    # A chunk that some recorders write behind the sound.
    tail = b'bext' + (4).to_bytes(4, 'little') + b'abcd'
    file.write_bytes(
        b'RIFF' + (len(whole) - 8 + len(tail)).to_bytes(4, 'little') + whole[8:] + tail
    )
    data = CremaD(root=str(root))
    data.check()
    assert np.isfinite(data.split('test').inputs['audio'][np.arange(6)]).all()
    sound[7] = np.nan
    scipy.io.wavfile.write(file, 16000, sound.astype(np.float32))
    with pytest.raises(UserError, match=f'{file.name}: expected finite numbers, found others'):
        CremaD(root=str(root)).check()


def test_clips_without_any_file_are_counted_and_left_out(tmp_path):
    root = crema_d(tmp_path)
    clip = '1000_test_HAP_XX'
    (root / f'AudioWAV/{clip}.wav').unlink()
    for file in (root / f'Image-01-FPS/{clip}').iterdir():
        file.unlink()
    with pytest.raises(
        UserError, match=f"audio and visual of clip '{clip}', .*leaves such clips out"
    ):
        CremaD(root=str(root))
    data = CremaD(root=str(root), gaps=True)
    assert f'1 clips have no modality at all and are left out: {clip}' in data.notes
    assert len(data.split('test')) == 5
    data.check()


def test_clips_of_kinetics_are_clustered_by_video(tmp_path):
    root = kinetics(tmp_path)
    for k, name in enumerate(('ab_c-1_000003_000013', 'ab_c-1_000020_000030')):
        for folder, suffix in (('audio/test', '.wav'), ('visual/val_img/Image-01-FPS', '')):
            there = root / folder / 'tap_dancing'
            (there / f'test{k}{suffix}').rename(there / f'{name}{suffix}')
    clusters = KineticsSounds(root=str(root)).split('test').clusters.tolist()
    assert clusters == [
        *(f'playing_drums/test{k}' for k in range(3)),
        *('ab_c-1', 'ab_c-1', 'tap_dancing/test2'),
    ]


def test_a_rate_that_no_sound_has_is_told(tmp_path):
    root = crema_d(tmp_path)
    file = root / 'AudioWAV/1000_test_SAD_XX.wav'
    whole = bytearray(file.read_bytes())
    for rate in (0, 2**31 - 1):
        # The header also holds the number of bytes per second.
        whole[24:32] = rate.to_bytes(4, 'little') + (2 * rate).to_bytes(4, 'little')
        file.write_bytes(whole)
        with pytest.raises(UserError, match=f'expected 1 to 1000000 samples per second, .*{rate}'):
            CremaD(root=str(root)).check()


def test_sounds_are_found_whatever_the_case_of_their_suffix(tmp_path):
    for kind, file in (
        (CremaD(root=str(crema_d(tmp_path / 'c'))), 'AudioWAV/1000_test_SAD_XX'),
        (KineticsSounds(root=str(kinetics(tmp_path / 'k'))), 'audio/test/tap_dancing/test1'),
    ):
        (kind.root / f'{file}.wav').rename(kind.root / f'{file}.WAV')
        data = type(kind)(root=str(kind.root), gaps=True)
        assert data.split('test').available.all()
        (kind.root / f'{file}.WAV').rename(kind.root / f'{file}.mp3')
        data = type(kind)(root=str(kind.root), gaps=True)
        count = sum(map(len, data.clips.values()))
        assert data.notes[0].startswith('found modalities audio (image 1x')
        assert f'of {count} clips, 1 lack audio' in data.notes
        assert f'left aside: {file}.mp3' in data.notes


def test_a_test_split_of_one_class_is_told(tmp_path):
    root = crema_d(tmp_path)
    (root / 'test.csv').write_text('1000_test_HAP_XX,HAP')
    told = 'all labels of test are of class HAP: whoever always answers this class gets the best'
    assert [note for note in CremaD(root=str(root)).notes if note.startswith(told)]


@pytest.mark.parametrize('data', [CremaD, KineticsSounds])
def test_the_recipe_is_that_of_dmrnet_s_main_program(data):
    # SGD with plain momentum, and a tenth of the learning rate from epoch 70 of 100 on.
    protocol = Protocol.build(data.recipe, {}, 'cpu', 'classification')
    assert (protocol.epochs, protocol.batch_size) == (100, 64)
    optimizer = optim_wrapper(protocol)['optimizer']
    expected = {
        'type': 'SGD', 'lr': 1e-3, 'weight_decay': 1e-4, 'momentum': 0.9, 'nesterov': False
    }  # fmt: skip
    assert expected.items() <= optimizer.items()
    assert [plan['milestones'] for plan in schedulers(protocol, 10)] == [[700]]
