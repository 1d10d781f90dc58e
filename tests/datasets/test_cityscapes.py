"""Cityscapes from the official archives to a table, and what is said of broken roots."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets import cityscapes, prepare
from datasets.cityscapes import CLASSES, Cityscapes
from datasets.common.io.images import DepthArray

discover()
CITIES = {'train': ('aachen', 'ulm'), 'val': ('munster',)}
BASELINE, FOCAL = 0.22, 2262.0


def official(folder, frames=2, part=1):
    """The four unpacked archives: a road below, sky above, and a car.

    Of all images only every row and column that is a multiple of `part` is written.
    """
    for split, cities in CITIES.items():
        for city in cities:
            for i in range(frames):
                name = f'{city}_{i:06d}_000019'
                labels = np.full((1024, 2048), 23, np.uint8)
                labels[600:] = 7
                labels[500:700, 400 : 600 + 100 * i] = 26
                labels[:50] = 0
                rgb = np.stack([labels * 9, labels * 3, 255 - labels], 2)
                disparity = np.where(labels == 23, 0, 1 + 256 * labels.astype(int))
                camera = {'extrinsic': {'baseline': BASELINE}, 'intrinsic': {'fx': FOCAL}}
                files = {
                    'leftImg8bit': (f'{name}_leftImg8bit.png', rgb),
                    'gtFine': (f'{name}_gtFine_labelIds.png', labels),
                    'disparity': (f'{name}_disparity.png', disparity.astype(np.uint16)),
                }
                for kind, (file, values) in files.items():
                    path = folder / kind / split / city / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    values = np.ascontiguousarray(values[::part, ::part])
                    Image.fromarray(values).save(path, compress_level=1)
                path = folder / 'camera' / split / city / f'{name}_camera.json'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(camera))
                (folder / 'gtFine' / split / city / f'{name}_gtFine_polygons.json').write_text('{}')
    return folder


def zipped(folder, target):
    target.mkdir()
    for kind in ('leftImg8bit', 'gtFine', 'disparity', 'camera'):
        with zipfile.ZipFile(target / f'{kind}_trainvaltest.zip', 'w') as archive:
            archive.writestr('README', 'terms of use')
            for file in sorted((folder / kind).rglob('*.*')):
                archive.write(file, file.relative_to(folder))
    return target


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return official(tmp_path_factory.mktemp('cityscapes') / 'official')


@pytest.fixture(scope='module')
def prepared(source):
    root = source.parent / 'root'
    assert prepare.main(['cityscapes', str(source), str(root)]) == 0
    return root


def opened(root, **options):
    return Cityscapes(root=str(root), **{'pretrained': 'none', 'size': '64x128', **options})


def test_archives_and_folders_give_the_same_root(source, prepared, tmp_path):
    archives = zipped(source, tmp_path / 'zips')
    assert prepare.main(['cityscapes', str(archives), str(tmp_path / 'root')]) == 0
    files = sorted(f.relative_to(prepared) for f in prepared.rglob('*.*'))
    assert files == sorted(f.relative_to(tmp_path / 'root') for f in tmp_path.rglob('root/**/*.*'))
    for file in files:
        if file.name != 'manifest.json':
            assert (prepared / file).read_bytes() == (tmp_path / 'root' / file).read_bytes()


def test_depth_is_baseline_times_focal_length_over_disparity(prepared):
    depth = np.load(prepared / 'train/depth_raw/aachen/aachen_000000_000019_depth.npy')
    assert depth.dtype == np.float16
    assert not depth[100:400].any()  # sky: nothing was matched
    assert depth[900] == pytest.approx(np.full(2048, BASELINE * FOCAL / 7), rel=1e-3)
    labels = np.asarray(
        Image.open(prepared / 'train/labels_19/aachen/aachen_000000_000019_gtFine_labelIds.png')
    )
    order = list(CLASSES)
    assert labels[0, 0] == 0
    assert labels[100, 0] == order.index('sky') + 1
    assert labels[900, 0] == order.index('road') + 1
    assert labels[550, 450] == order.index('car') + 1


def test_official_validation_is_the_test_and_whole_cities_validate(prepared):
    data = opened(prepared)
    ids = {name: data.split(name).ids.tolist() for name in ('train', 'val', 'test')}
    assert [i.split('_')[0] for i in ids['train']] == ['aachen'] * 2
    assert [i.split('_')[0] for i in ids['val']] == ['ulm'] * 2
    assert [i.split('_')[0] for i in ids['test']] == ['munster'] * 2
    assert data.split('test').clusters.tolist() == ['munster_000000', 'munster_000001']


@pytest.mark.parametrize('depth', ['depth', 'disparity'])
def test_rows_are_normalised_and_holes_are_zero(depth, prepared):
    test = opened(prepared, depth=depth).split('test')
    found = test.inputs['depth'][np.array([0])][0, 0]
    assert found.shape == (64, 128)
    assert not found[10:25].any()
    road = BASELINE * FOCAL / 7 if depth == 'depth' else 1 + 256 * 7
    mean, std = (31.7156, 38.7028) if depth == 'depth' else (9069.706, 7178.336)
    assert found[60] == pytest.approx(np.full(128, (road - mean) / std), rel=1e-3)
    assert test.target[np.array([0])].shape == (1, 1024, 2048)


def test_training_images_are_read_twice_as_large_as_the_crop(prepared):
    train = opened(prepared).split('train')
    assert train.inputs['rgb'].shape == (2, 3, 128, 256)
    assert train.target.shape == (2, 128, 256)
    assert train.augment is not None


def test_the_whole_way_to_a_table(tmp_path, monkeypatch, capsys):
    # Scoring in the true size would take most of the time.
    monkeypatch.setattr(cityscapes, 'SOURCE', (128, 256))
    source, root = official(tmp_path / 'official', part=8), tmp_path / 'root'
    assert prepare.main(['cityscapes', str(source), str(root)]) == 0
    arguments = ['--methods', 'modality_dropout', '--datasets', 'cityscapes', '--workers', '0']
    arguments += ['--data-root', str(root), '--results', str(tmp_path), '--device', 'cpu']
    options = ['epochs=1', 'batch_size=2', 'width=4', 'size=32x64', 'layers=18', 'pretrained=none']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    assert re.search('^cityscapes .*: mIoU', capsys.readouterr().out, re.M)


def test_bad_roots_are_told(prepared, tmp_path):
    root = tmp_path / 'root'
    shutil.copytree(prepared, root)

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            opened(root, **options)
        assert '\n' not in str(caught.value)

    told("cityscapes:depth: expected depth or disparity, found 'stereo'", depth='stereo')
    told('expected pretrained=FILE', pretrained='')
    file = root / 'train_labels_19.txt'
    whole = file.read_text().splitlines()
    file.write_text('\n'.join(whole[:-1]))
    told(r'train_labels_19\.txt: expected 4 lines as train_rgb\.txt, found 3')
    file.write_text('\n'.join([whole[1], whole[0], *whole[2:]]))
    told(r'train_labels_19\.txt: entry 1: expected a file of aachen_000000\S+, found aachen_000001')
    file.write_text('\n'.join(whole))
    array = root / 'valid/depth_raw/munster/munster_000000_000019_depth.npy'
    np.save(array, np.zeros((4, 4), np.float16))
    with pytest.raises(UserError, match=r'depth\.npy: expected float .* found float16 \(4, 4\)'):
        opened(root).split('test').inputs['depth'][np.array([0])]
    array.write_bytes(array.read_bytes()[:20])
    with pytest.raises(UserError, match=r'depth\.npy: cannot be read'):
        opened(root).split('test').inputs['depth'][np.array([0])]
    array.unlink()
    told('depth.npy: expected a file, found nothing there')


def test_an_archive_that_lacks_an_image_is_told(source, tmp_path, capsys):
    copy = tmp_path / 'official'
    shutil.copytree(source, copy)
    (copy / 'disparity/val/munster/munster_000001_000019_disparity.png').unlink()
    assert prepare.main(['cityscapes', str(copy), str(tmp_path / 'root')]) == 2
    assert 'expected munster_000001_000019 of val in disparity' in capsys.readouterr().err
    assert not (tmp_path / 'root').exists()
    shutil.rmtree(copy / 'camera')
    assert prepare.main(['cityscapes', str(copy), str(tmp_path / 'root')]) == 2
    error = capsys.readouterr().err
    assert 'expected camera or camera_trainvaltest.zip' in error


@pytest.mark.parametrize(
    'kind', ['rgb/munster/{}_leftImg8bit.png', 'depth_raw/munster/{}_depth.npy']
)
def test_a_corrected_file_changes_the_fingerprint(kind, prepared, tmp_path, monkeypatch):
    root = shutil.copytree(prepared, tmp_path / 'root')
    file = root / 'valid' / kind.format('munster_000001_000019')
    check_fingerprint(lambda: opened(root), file, monkeypatch)


def test_copies_of_training_scenes_are_refused_where_they_shall_be(prepared):
    # The first scenes of all cities are equal in the made tree, and so are the second.
    assert '2 of 2 samples of test are copies of training samples' in str(opened(prepared).notes)
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 2 of 2'):
        opened(prepared, duplicates='refuse')


def test_linked_cities_are_read(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / 'official')
    elsewhere = (copy / 'leftImg8bit/train/ulm').rename(tmp_path / 'ulm')
    (copy / 'leftImg8bit/train/ulm').symlink_to(elsewhere)
    assert prepare.main(['cityscapes', str(copy), str(tmp_path / 'root')]) == 0
    listed = (tmp_path / 'root/train_rgb.txt').read_text()
    assert [line.partition('/')[0] for line in listed.split()] == ['aachen'] * 2 + ['ulm'] * 2


CAMERA = 'camera/train/aachen/aachen_000000_000019_camera.json'
DISPARITY = 'disparity/train/aachen/aachen_000000_000019_disparity.png'
DAMAGED = {
    'half of the JSON': (CAMERA, '{"extrinsic": {"base', 'JSONDecodeError'),
    'no focal length': (CAMERA, '{"extrinsic": {"baseline": 1}}', "KeyError: 'intrinsic'"),
    'a list': (CAMERA, '[]', 'TypeError'),
    'no baseline': (
        CAMERA,
        '{"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 1}}',
        'ValueError: expected baseline x fx above 0, found 0',
    ),
    'no image': (DISPARITY, 'text', 'UnidentifiedImageError'),
}


@pytest.mark.parametrize('how', DAMAGED)
def test_a_damaged_official_file_is_named(how, source, tmp_path, capsys):
    file, content, told = DAMAGED[how]
    copy = shutil.copytree(source, tmp_path / 'official')
    (copy / file).write_text(content)
    assert prepare.main(['cityscapes', str(copy), str(tmp_path / 'root')]) == 2
    error = capsys.readouterr().err
    assert f'{copy / file}: broken or of another format: {told}' in error
    assert 'Traceback' not in error


def test_depths_that_are_not_finite_are_counted(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / 'root')
    data = opened(root)
    data.check()
    assert not any('not finite' in note for note in data.notes)
    file = data.samples['test'][0].depth
    metres = np.load(file)
    metres[0, :3] = np.nan, np.inf, -np.inf
    np.save(file, metres)
    data = opened(root)
    data.check()
    told = 'pixels that are not finite, which become 0: 3 in depth of test'
    assert data.notes.count(told) == 1
    decode = DepthArray((1024, 2048), (1024, 2048), 300)
    assert not decode(file)[0, 0, :3].any()


def test_what_was_found_is_told(prepared):
    told = 'found modalities rgb (image 3x64x128), depth (image 1x64x128); samples: '
    assert opened(prepared).notes[0] == f'{told}train 2, val 2, test 2'
