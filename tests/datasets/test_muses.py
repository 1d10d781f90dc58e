"""MUSES as its packages and its development kit lay it out, and what goes wrong."""

import json
import re

import cv2
import numpy as np
import pytest
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets import muses
from datasets.common.io.sensor_images import Projection
from datasets.common.io.splits import held_out
from datasets.muses import Muses

discover()
SIZE = (54, 96)
SUFFIX = {'lidar': '.bin', 'radar': '.png', 'event_camera': '.h5'}
"""Sensor -> suffix of its raw files, which the data set does not read."""

HELD = next(f'REC{k:04d}' for k in range(99) if held_out(f'REC{k:04d}', muses.HELD_OUT))
KEPT = [f'REC{k:04d}' for k in range(99) if not held_out(f'REC{k:04d}', muses.HELD_OUT)][:3]


def stored(path, values, suffix, sensor):
    """Writes a projection as the development kit does."""
    path = path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == '.npz':
        np.savez_compressed(path, values)
    elif suffix == '.npy':
        np.save(path, values)
    else:
        coded = values if sensor == 'event_camera' else ((values + 100) * 150).astype(np.uint16)
        assert cv2.imwrite(str(path), coded)


def projection(rng, sensor):
    """Distance, intensity and height at some pixels, or counts of events."""
    if sensor == 'event_camera':
        counts = rng.integers(4, size=(*SIZE, 3))
        counts[..., 2] = 0
        return counts.astype(np.uint8)
    values = rng.integers(1, 60, size=(*SIZE, 3)) / 2
    values[..., 2] *= 0 if sensor == 'radar' else -0.1
    return np.where(rng.random((*SIZE, 1)) < 0.3, values, 0).astype(np.float32)


def tree(root, suffix='.npz', each=2):
    """The unpacked packages, projected; returns the root and scene -> sensor -> values."""
    rng, meta, made = np.random.default_rng(0), {}, {}
    recordings = {'train': [HELD, *KEPT[:2]], 'val': [KEPT[2]], 'test': ['REC0500']}
    for split, names in recordings.items():
        for place, recording in enumerate(names):
            for number in range(each):
                name = f'{recording}_frame_{number:06d}'
                weather, time = muses.WEATHER[(place + number) % 4], muses.TIMES[number % 2]
                within = f'{split}/{weather}/{time}'
                camera = f'frame_camera/{within}/{name}_frame_camera.png'
                meta[name] = {'split': split, 'weather': weather, 'time_of_day': time}
                meta[name] |= {'path_to_frame_camera': camera, 'tunnel': False}
                colours = rng.integers(256, size=(*SIZE, 3)).astype(np.uint8)
                labels = rng.integers(19, size=SIZE).astype(np.uint8)
                labels[0, 0] = 255
                images = {camera: colours}
                if split != 'test':
                    images[f'gt_semantic/{within}/{name}_gt_labelTrainIds.png'] = labels
                for path, values in images.items():
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(values).save(root / path, compress_level=1)
                made[name] = {'camera': colours, 'labels': labels}
                for sensor, raw in SUFFIX.items():
                    path = f'{sensor}/{within}/{name}_{sensor}'
                    meta[name][f'path_to_{sensor}'] = f'{path}{raw}'
                    made[name][sensor] = projection(rng, sensor)
                    stored(root / 'projected_to_rgb' / path, made[name][sensor], suffix, sensor)
    (root / 'meta.json').write_text(json.dumps(meta))
    return root, made


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(muses, 'SOURCE', SIZE)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return tree(tmp_path_factory.mktemp('muses'))


def opened(root, **options):
    return Muses(root=str(root), **{'pretrained': 'none', 'size': '32x32', **options})


def test_the_official_validation_is_the_test_and_whole_recordings_validate(made):
    data = opened(made[0])
    recordings = {'train': KEPT[:2], 'val': [HELD], 'test': [KEPT[2]]}
    for name, expected in recordings.items():
        split = data.split(name)
        assert split.clusters.tolist() == [i.split('/')[2].split('_')[0] for i in split.ids]
        assert {*split.clusters.tolist()} == {*expected}
    assert data.split('test').ids.tolist() == [
        f'clear/day/{KEPT[2]}_frame_000000',
        f'fog/night/{KEPT[2]}_frame_000001',
    ]
    assert [m.name for m in data.task.modalities] == ['rgb', 'lidar', 'radar', 'event']
    assert len(data.task.classes) == 19
    assert data.notes[-1] == 'conditions of test: clear 1, fog 1, day 1, night 1'
    night = opened(made[0], condition='night').split('test')
    assert night.ids.tolist() == [f'fog/night/{KEPT[2]}_frame_000001']


@pytest.mark.parametrize('suffix', ['.npz', '.npy', '.png'])
def test_values_are_normalised_by_the_training_images(suffix, tmp_path):
    root, values = tree(tmp_path, suffix)
    data = opened(root)
    train, test = data.split('train'), data.split('test')
    known = [i.split('/')[2] for i in train.ids.tolist()]
    name = test.ids.tolist()[1].split('/')[2]
    # The nearest pixels of an image of 54 x 96 pixels to those of one of 32 x 32.
    rows, columns = (((np.arange(32) + 0.5) * side / 32).astype(int) for side in SIZE)
    for modality, sensor in (('lidar', 'lidar'), ('radar', 'radar'), ('event', 'event_camera')):
        pixels = np.concatenate([values[n][sensor].reshape(-1, 3) for n in known]).astype(float)
        spread = pixels.std(0)
        expected = values[name][sensor] - pixels.mean(0)
        expected = np.where(spread > 0, expected / np.where(spread > 0, spread, 1), 0)
        found = test.inputs[modality][np.array([1])][0].transpose(1, 2, 0)
        # A PNG file holds steps of 1/150.
        exact = 2 / 150 / min(spread[spread > 0]) if suffix == '.png' else 1e-4
        assert found == pytest.approx(expected[np.ix_(rows, columns)], abs=exact)
    colours = test.inputs['rgb'][np.array([1])][0]
    assert colours.shape == (3, 32, 32)
    assert test.target[np.array([1])][0].tolist() == values[name]['labels'].tolist()
    assert train.inputs['lidar'].shape == (4, 3, 64, 64)
    (geometric, _) = train.augment.steps
    assert (geometric.size, geometric.nearest) == ((32, 32), ('lidar', 'radar', 'event'))


def test_a_png_of_distances_is_read_with_all_bits_and_in_the_order_of_its_channels(tmp_path):
    values = np.zeros((*SIZE, 3), np.float32)
    values[3, 5] = 149.98, 255, -7.5
    stored(tmp_path / 'x', values, '.png', 'lidar')
    found = Projection(SIZE, SIZE, 100.0, 150.0)(tmp_path / 'x.png')
    assert found[:, 3, 5] == pytest.approx([149.98, 255, -7.5], abs=1 / 150)
    assert np.count_nonzero(found) == 3  # where nothing was measured there is exactly 0


def test_the_whole_way_to_a_table(made, tmp_path, capsys):
    arguments = ['--methods', 'modality_dropout', '--datasets', 'muses', '--workers', '0']
    arguments += ['--data-root', str(made[0]), '--results', str(tmp_path), '--device', 'cpu']
    options = ['epochs=1', 'batch_size=2', 'width=4', 'size=32x32', 'layers=18', 'pretrained=none']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    assert re.search('^muses .*: mIoU', capsys.readouterr().out, re.M)
    assert 'rgb+lidar+radar+event' in (tmp_path / 'tables/muses.md').read_text()


def test_training_reads_no_test_file(tmp_path):
    root, _ = tree(tmp_path)
    before = opened(root).split('train')
    for file in root.rglob(f'{KEPT[2]}_*'):
        file.write_bytes(b'poison')
    # Neither the normalisation nor the rows of training and validation depend on it.
    data = opened(root)
    for name in ('train', 'val'):
        split = data.split(name)
        for modality, rows in (*split.inputs.items(), ('', split.target)):
            found = rows[np.arange(len(split))]
            if name == 'train' and modality:
                assert np.array_equal(found, before.inputs[modality][np.arange(len(split))])
    with pytest.raises(UserError, match='cannot be read'):
        data.check()


def test_bad_roots_are_told(tmp_path):
    root, _ = tree(tmp_path, each=1)

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            opened(root, **options).check()
        assert '\n' not in str(caught.value)

    told("condition of muses 'dusk'", condition='dusk')
    told('muses: expected pretrained=FILE', pretrained='')
    lidar = root / 'projected_to_rgb/lidar/val/clear/day' / f'{KEPT[2]}_frame_000000_lidar.npz'
    whole = lidar.read_bytes()
    np.savez(lidar, np.zeros((3, 3), np.float32))
    told(r'_lidar\.npz: expected numbers \(54, 96, 3\), found float32 \(3, 3\)')
    np.savez(lidar, np.full((*SIZE, 3), np.nan))
    told(r'_lidar\.npz: expected finite numbers, found others')
    np.savez(lidar, a=np.zeros(1), b=np.zeros(1))
    told(r'_lidar\.npz: expected one array, found 2')
    stored(lidar, np.zeros((*SIZE, 3), np.uint8), '.png', 'event_camera')
    told('expected one projection of lidar with the suffix .npz, .npy, .png, found .*npz, .*png')
    lidar.unlink()
    told(r'_lidar\.png: expected numbers of type uint16, found uint8')
    lidar.with_suffix('.png').write_bytes(b'x')
    told(r'_lidar\.png: cannot be read, broken or no PNG file')
    lidar.with_suffix('.png').unlink()
    told('found none; scripts/project_sensors_to_rgb.py of the development kit writes it')
    lidar.write_bytes(whole)
    label = root / 'gt_semantic/val/clear/day' / f'{KEPT[2]}_frame_000000_gt_labelTrainIds.png'
    Image.fromarray(np.full(SIZE, 19, np.uint8)).save(label)
    told('_gt_labelTrainIds.png: expected labels 0 to 18, 255, found 19')
    label.unlink()
    told('_gt_labelTrainIds.png: expected a file, found nothing there')
    file = root / 'meta.json'
    meta = json.loads(file.read_text())
    file.write_text(json.dumps({'a': {**meta[f'{HELD}_frame_000000'], 'weather': 'hail'}}))
    told("meta.json: a: weather: expected one of clear, fog, rain, snow, found 'hail'")
    file.write_text(json.dumps({'a': {'split': 'train'}}))
    told('meta.json: a: weather: expected one of clear, fog, rain, snow, found None')
    file.write_text('[1]')
    told('meta.json: expected a map from scenes to what is known of them')
    file.write_text('{')
    told('meta.json: expected JSON, found: Expecting')
    file.unlink()
    told('meta.json: expected the list of all scenes, found nothing there')


def test_a_corrected_file_changes_the_fingerprint(tmp_path, monkeypatch):
    root, _ = tree(tmp_path, '.npy', each=1)
    file = next(root.glob('projected_to_rgb/event_camera/val/*/*/*.npy'))
    check_fingerprint(lambda: opened(root), file, monkeypatch)


def test_recordings_in_two_splits_are_told_or_refused(tmp_path):
    root, _ = tree(tmp_path)
    file = root / 'meta.json'
    file.write_text(file.read_text().replace(f'"{KEPT[2]}_frame', f'"{KEPT[0]}_frame_1'))
    assert f'1 of 1 of test in train: {KEPT[0]}' in '\n'.join(opened(root).notes)
    with pytest.raises(UserError, match='duplicates=refuse: expected none, found clusters'):
        opened(root, duplicates='refuse')
