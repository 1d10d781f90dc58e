"""NYUv2 from the official MATLAB files to a table, and what is said of broken roots."""

import re

import h5py
import numpy as np
import pytest
import scipy.io
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets import nyuv2, prepare
from datasets.nyuv2 import NYUv2

discover()
NAMES = ('nyu_depth_v2_labeled.mat', 'splits.mat', 'classMapping40.mat', 'class13Mapping.mat')
TRAIN, TEST = [*range(1, 3), *range(41, 47), *range(61, 64)], [100, 101]
COUNT = 101
TO_13 = (np.arange(40) % 13 + 1).astype(np.uint8)


def codes(text):
    """Characters as MATLAB's files hold them."""
    return np.array([[ord(c)] for c in text], np.uint16)


def archive(folder, seed=0, part=1):
    """The four official files, with empty frames but for those in the splits.

    Of all images only every row and column that is a multiple of `part` is written.
    """
    wide, high = 640 // part, 480 // part
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with h5py.File(folder / NAMES[0], 'w') as file:
        shape = (COUNT, wide, high)
        options = {'compression': 'gzip', 'fillvalue': 0}
        images = file.create_dataset(
            'images', (COUNT, 3, wide, high), np.uint8, chunks=(1, 3, wide, high), **options
        )
        rows = {
            name: file.create_dataset(name, shape, kind, chunks=(1, wide, high), **options)
            for name, kind in (('labels', 'u2'), ('depths', 'f4'), ('rawDepths', 'f4'))
        }
        for k in [*TRAIN, *TEST]:
            x = np.arange(0, 640, part)[:, None] + np.zeros(high)
            images[k - 1] = np.stack([x / 3, x / 4, x * 0 + k])
            labels = np.full((wide, high), k % 4)
            labels[: wide // 2] = 894
            rows['labels'][k - 1] = labels
            rows['depths'][k - 1] = 1 + x / 1000
            rows['rawDepths'][k - 1] = np.where(x > 600, 0, 1 + x / 1000)
        scenes = file.create_dataset('scenes', (1, COUNT), h5py.ref_dtype)
        for k in range(COUNT):
            cell = file.create_dataset(f'#refs#/{k}', data=codes(f'kitchen_{k // 5:04d}'))
            scenes[0, k] = cell.ref
    to_40 = (np.arange(894) % 40 + 1).astype(np.uint8)
    scipy.io.savemat(
        folder / NAMES[1],
        {'trainNdxs': np.array(TRAIN)[:, None], 'testNdxs': np.array(TEST)[:, None]},
    )
    scipy.io.savemat(folder / NAMES[2], {'mapClass': to_40[None]})
    names = np.array([f'c{rng.integers(9)}' for _ in range(13)], object)
    mapping = {'labels13': TO_13[None], 'className': names}
    scipy.io.savemat(folder / NAMES[3], {'classMapping13': mapping})
    return folder


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('nyuv2')
    assert prepare.main(['nyuv2', str(archive(folder / 'official')), str(folder / 'root')]) == 0
    return folder / 'root'


@pytest.fixture
def root(prepared, tmp_path):
    """A copy of the prepared root whose files may be broken."""
    for file in prepared.rglob('*'):
        target = tmp_path / 'root' / file.relative_to(prepared)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path / 'root'


def opened(root, **options):
    options = {'pretrained': 'none', 'size': '96x128', **options}
    return NYUv2(root=str(root), **options)


def test_preparation_turns_matlab_s_arrays_round(prepared):
    k = TRAIN[3]
    rgb = np.asarray(Image.open(prepared / f'train/rgb/{k:04d}.png'))
    assert rgb.shape == (480, 640, 3)
    assert (rgb[0, :, 0] == np.arange(640) // 3).all()
    assert (rgb[..., 2] == k).all()
    depth = np.asarray(Image.open(prepared / f'train/depth/{k:04d}.png'))
    assert depth[7] == pytest.approx(1000 + np.arange(640), abs=1)
    raw = np.asarray(Image.open(prepared / f'train/depth_raw/{k:04d}.png'))
    assert not raw[:, 601:].any()
    labels = np.asarray(Image.open(prepared / f'train/labels_40/{k:04d}.png'))
    expected = 0 if k % 4 == 0 else (k % 4 - 1) % 40 + 1
    assert (labels[:, 320:] == expected).all()
    assert (labels[:, :320] == 893 % 40 + 1).all()
    small = np.asarray(Image.open(prepared / f'train/labels_13/{k:04d}.png'))
    assert (small == np.concatenate([[0], TO_13])[labels]).all()
    assert (prepared / 'test.txt').read_text() == '0100\n0101\n'


def test_preparing_again_writes_nothing(prepared, capsys):
    before = {f: f.stat().st_mtime_ns for f in prepared.rglob('*')}
    assert prepare.main(['nyuv2', str(prepared.parent / 'official'), str(prepared)]) == 0
    assert {f: f.stat().st_mtime_ns for f in prepared.rglob('*')} == before


def test_splits_are_the_published_ones_less_blocks_for_validation(prepared):
    data = opened(prepared)
    ids = {name: [int(i) for i in data.split(name).ids] for name in ('train', 'val', 'test')}
    assert ids['test'] == TEST
    assert sorted(ids['train'] + ids['val']) == TRAIN
    assert ids['val']
    assert not {k // 20 for k in ids['train']} & {k // 20 for k in ids['val']}


def test_rows_are_normalised_as_in_the_papers(prepared):
    data = opened(prepared, size='480x640', depth='depth_raw')
    k = int(data.split('test').ids[0])
    test = data.split('test')
    rgb = test.inputs['rgb'][np.array([0])][0]
    assert rgb[2] == pytest.approx((k / 255 - 0.406) / 0.225, abs=1e-4)
    depth = test.inputs['depth'][np.array([0])][0, 0]
    expected = (1000 + np.arange(601) - 2841.949) / 1417.259
    assert depth[0, :601] == pytest.approx(expected, abs=1e-3)
    assert not depth[:, 601:].any()
    assert data.split('train').augment is not None
    assert test.augment is None
    assert test.target[np.array([0])].max() == 255  # frame 100 has void


def test_labels_keep_their_resolution_where_scores_are_taken(prepared):
    data = opened(prepared)
    assert data.split('train').target.shape[1:] == (96, 128)
    assert data.split('val').target.shape[1:] == data.split('test').target.shape[1:] == (480, 640)


def test_class_weights_are_median_frequency_over_frequency(prepared):
    data = opened(prepared, classes=13)
    labels = data.split('train')
    seen = np.stack(
        [
            np.asarray(Image.open(prepared / f'train/labels_13/{i}.png')).astype(int) - 1
            for i in labels.ids
        ]
    )
    frequency = {}
    for k in range(13):
        shows = (seen == k).any((1, 2))
        if shows.any():
            frequency[k] = (seen == k).sum() / (seen[shows] >= 0).sum()
    median = np.median(list(frequency.values()))
    expected = [median / frequency[k] if k in frequency else 0 for k in range(13)]
    assert data.task.class_weights == pytest.approx(expected)


def test_the_whole_way_to_a_table(tmp_path, monkeypatch, capsys):
    # Scoring in the true size would take most of the time.
    monkeypatch.setattr(nyuv2, 'SOURCE', (120, 160))
    root = tmp_path / 'root'
    assert prepare.main(['nyuv2', str(archive(tmp_path / 'official', part=4)), str(root)]) == 0
    arguments = ['--methods', 'modality_dropout', '--datasets', 'nyuv2', '--workers', '0']
    arguments += ['--data-root', str(root), '--results', str(tmp_path), '--device', 'cpu']
    options = ['epochs=1', 'batch_size=4', 'width=4', 'size=32x64', 'layers=18', 'pretrained=none']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    assert re.search('^nyuv2 .*: mIoU', capsys.readouterr().out, re.M)


def test_verification_finds_what_is_broken(root, capsys):
    assert prepare.main(['check', 'nyuv2', str(root), 'pretrained=none', 'size=96x128']) == 1
    assert 'expected 654' in capsys.readouterr().out  # the published test split is larger
    (root / 'test/rgb/0100.png').write_bytes(b'broken')
    prepare.main(['check', 'nyuv2', str(root), 'pretrained=none', 'size=96x128'])
    assert 'test/rgb/0100.png' in capsys.readouterr().out


def test_training_reads_no_test_file(root):
    for file in root.glob('test/*/*.png'):
        file.write_bytes(b'poison')
    data = opened(root)
    for name in ('train', 'val'):
        split = data.split(name)
        for rows in (*split.inputs.values(), split.target):
            rows[np.arange(len(split))]


def test_fingerprint_tells_what_changes_scores(root):
    first = opened(root).fingerprint
    others = [{'classes': 13}, {'depth': 'depth_raw'}, {'size': '64x64'}, {'network': 'pyramid'}]
    found = {first, *(opened(root, **o).fingerprint for o in [*others, {'layers': 18}])}
    assert len(found) == 6
    assert opened(root, cache='ram').fingerprint == first
    weights = []
    for name, content in (('a.pth', b'1'), ('b.pth', b'2'), ('c.pth', b'2')):
        (root / name).write_bytes(content)
        weights.append(opened(root, pretrained=str(root / name)).fingerprint)
    assert len({first, *weights}) == 3
    assert weights[1] == weights[2]


def test_bad_roots_are_told(root):
    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            opened(root, **options)
        assert '\n' not in str(caught.value)

    told('nyuv2: expected pretrained=FILE, ImageNet weights of a ResNet-50', pretrained='')
    told('nyuv2:classes: expected 40 or 13, found 14', classes=14)
    told('nyuv2:size: expected HxW in multiples of 32', size='100x128')
    told("nyuv2:depth: expected depth or depth_raw, found 'raw'", depth='raw')
    k = TRAIN[0]
    Image.fromarray(np.full((480, 640), 41, np.uint8)).save(root / f'train/labels_40/{k:04d}.png')
    told(r'labels_40/0001\.png: expected labels 0 to 40, found 41')
    (root / 'train/depth/0041.png').unlink()
    told(r'train/depth/0041\.png: expected a file, found nothing there')
    (root / 'test.txt').write_text('0100\nabc')
    told(r"test\.txt: expected frame numbers, found 'abc'")
    (root / 'test.txt').write_text('0100\n0001')
    for kind in ('rgb', 'depth', 'labels_40'):
        (root / f'test/{kind}/0001.png').write_bytes(b'x')
    told("sample '0001' is in (train|val) and test")
    (root / 'test.txt').write_text('')
    told(r'test\.txt: expected some lines')
    with pytest.raises(UserError, match='expected --data-root'):
        NYUv2()


def test_bad_files_are_told_when_read(root):
    data = opened(root)
    test = data.split('test')

    def told(kind, match):
        with pytest.raises(UserError, match=match):
            test.inputs[kind][np.array([0])]

    Image.fromarray(np.zeros((480, 640), np.uint8)).save(root / 'test/depth/0100.png')
    told('depth', "0100.png: expected 16-bit depth in one channel, found mode 'L'")
    Image.fromarray(np.zeros((480, 641), np.uint16)).save(root / 'test/depth/0100.png')
    told('depth', '0100.png: expected 480x640 pixels, found 480x641')
    whole = (root / 'test/rgb/0100.png').read_bytes()
    (root / 'test/rgb/0100.png').write_bytes(whole[:-200])
    told('rgb', '0100.png: cannot be read')


BROKEN = {
    'rgb of another size': ('rgb', np.zeros((480, 641, 3), np.uint8), 'expected 480x640 pixels'),
    'rgb with opacity': ('rgb', np.zeros((480, 640, 4), np.uint8), "found mode 'RGBA'"),
    'depth of 8 bits': ('depth', np.zeros((480, 640), np.uint8), 'expected 16-bit depth'),
    'labels of another size': ('labels_40', np.ones((240, 640), np.uint8), '480x640 pixels'),
    'a label of no class': ('labels_40', np.full((480, 640), 99, np.uint8), 'labels 0 to 40'),
    'a truncated image': ('rgb', None, 'cannot be read'),
}


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('how', BROKEN)
def test_a_broken_file_is_told_before_anything_is_trained(how, split, root):
    kind, content, match = BROKEN[how]
    data = opened(root)
    scene = data.samples[split][0]
    file = {**scene.files, 'labels_40': scene.label}[kind]
    if content is None:
        file.write_bytes(file.read_bytes()[:-200])
    else:
        Image.fromarray(content).save(file)
    with pytest.raises(UserError, match=f'{file.name}: .*{match}'):
        data.check()


@pytest.mark.parametrize('split', ['val', 'test'])
def test_a_split_without_a_labelled_pixel_is_told_before_anything_is_trained(split, root):
    for scene in opened(root).samples[split]:
        Image.fromarray(np.zeros((480, 640), np.uint8)).save(scene.label)
    with pytest.raises(UserError, match=f'expected some labelled pixel in {split}, found void'):
        opened(root).check()


def test_bad_archives_are_told(tmp_path, capsys):
    source = archive(tmp_path / 'official')

    def told(text):
        assert prepare.main(['nyuv2', str(source), str(tmp_path / 'root')]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert 'Traceback' not in error

    (source / NAMES[1]).write_bytes(b'x')
    told('splits.mat: expected a MATLAB file')
    scipy.io.savemat(source / NAMES[1], {'other': 1})
    told("splits.mat: expected a variable 'trainNdxs'")
    archive(tmp_path / 'official')
    (source / NAMES[0]).write_bytes((source / NAMES[0]).read_bytes()[:5000])
    told('nyu_depth_v2_labeled.mat: expected the labelled data set')
    (source / NAMES[0]).unlink()
    told('expected nyu_depth_v2_labeled.mat, found')


@pytest.mark.parametrize('kind', ['rgb', 'depth', 'labels_40'])
def test_a_corrected_image_changes_the_fingerprint(kind, root, monkeypatch):
    check_fingerprint(lambda: opened(root), root / f'test/{kind}/0101.png', monkeypatch)


def test_copies_of_training_frames_are_told_or_refused(root):
    assert not [note for note in opened(root).notes if 'copies' in note]
    frame = opened(root).split('train').ids[0]
    for kind in ('rgb', 'depth'):
        source = root / f'train/{kind}/{frame}.png'
        (root / f'test/{kind}/0101.png').write_bytes(source.read_bytes())
    told = f'1 of 2 samples of test are copies of training samples: 0101 (train: {frame})'
    assert opened(root).notes[-1] == told
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 1 of 2'):
        opened(root, duplicates='refuse')


def test_scenes_are_the_clusters_where_the_root_names_them(root):
    for name in ('train', 'val', 'test'):
        split = opened(root).split(name)
        expected = [f'kitchen_{(int(frame) - 1) // 5:04d}' for frame in split.ids]
        assert split.clusters.tolist() == expected
    assert not [note for note in opened(root).notes if note.startswith('clusters')]
    places = (root / 'scenes.txt').read_text()
    (root / 'scenes.txt').write_text(places.replace('0100 kitchen_0019', '0100 kitchen_0000'))
    with pytest.raises(UserError, match='refuse: expected none, found .* of test in train'):
        opened(root, duplicates='refuse')
    (root / 'scenes.txt').write_text('0100 a b')
    with pytest.raises(
        UserError, match=r"scenes\.txt: expected FRAME SCENE in every line, found '01"
    ):
        opened(root)
    (root / 'scenes.txt').unlink()
    assert opened(root).split('test').clusters is None
