"""A user's folders of images: layouts, splits, gaps, and what is said of mistakes."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets.folders import Folders

discover()
SPLITS = ('train', 'val', 'test')


def save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == '.npy':
        np.save(file, values)
    else:
        Image.fromarray(values).save(file)


def scene(seed, side=32):
    """A colour image, a 16-bit depth map with the same box, and its labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.uint8)
    x, y = rng.integers(0, side // 2, 2)
    labels[y : y + side // 2, x : x + side // 2] = 1
    rgb = (60 + 120 * labels[..., None] + rng.integers(20, size=(side, side, 3))).astype(np.uint8)
    depth = (3000 - 1500 * labels.astype(int) + rng.integers(50, size=(side, side))).astype(
        np.uint16
    )
    labels[0] = 255
    return rgb, depth, labels


def rooms(root, count=6, flat=False):
    """Segmentation in mmsegmentation's way, or flat with lists."""
    for k, split in enumerate(SPLITS):
        names = [f'{split[:2]}{i}' for i in range(count)]
        for i, name in enumerate(names):
            where = name if flat else f'{split}/{name}'
            rgb, depth, labels = scene(10 * k + i)
            save(root / 'rgb' / f'{where}.jpg', rgb)
            save(root / 'depth' / f'{where}.png', depth)
            save(root / 'labels' / f'{where}.png', labels)
        if flat:
            (root / f'{split}.txt').write_text('\n'.join(names))
    return root


def table(root, rows):
    with (root / 'labels.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def animals(root, count=18, with_split=True):
    """Classification from images and arrays of different sizes and channels."""
    rows = []
    for i in range(count):
        rng = np.random.default_rng(i)
        kind = ('cat', 'dog')[i % 2]
        grey = (80 * (i % 2) + rng.integers(60, size=(20, 24))).astype(np.uint8)
        heat = (rng.standard_normal((2, 16, 16)) + i % 2).astype(np.float32)
        save(root / 'photo' / f'{i}.tif', grey)
        save(root / 'heat' / f'{i}.npy', heat)
        split = SPLITS[i * 3 // count]
        rows.append({'sample': i, 'label': kind, **({'split': split} if with_split else {})})
    table(root, rows)
    return root


@pytest.mark.parametrize('flat', [False, True])
def test_label_maps_beside_images(flat, tmp_path):
    data = Folders(root=str(rooms(tmp_path / 'flat', flat=flat)), augment=False)
    assert data.task.kind == 'segmentation'
    assert [(m.name, m.shape) for m in data.task.modalities] == [
        ('depth', (1, 32, 32)),
        ('rgb', (3, 32, 32)),
    ]
    assert len(data.task.classes) == 2
    ids = [i for name in SPLITS for i in data.split(name).ids]
    assert len(set(ids)) == 18
    train = data.split('train')
    values = np.stack([scene(i)[1] for i in range(6)]).astype(float)
    expected = (values - values.mean()) / values.std()
    assert train.inputs['depth'][np.arange(6)][:, 0] == pytest.approx(expected, abs=1e-4)
    assert (train.target[np.arange(6)] == [scene(i)[2] for i in range(6)]).all()


def test_a_table_of_labels(tmp_path):
    data = Folders(root=str(animals(tmp_path)))
    assert data.task.classes == ('cat', 'dog')
    assert [m.shape for m in data.task.modalities] == [(2, 16, 16), (1, 20, 24)]
    test = data.split('test')
    assert test.target.tolist() == [0, 1] * 3
    assert test.ids.tolist() == ['12', '13', '14', '15', '16', '17']
    assert data.split('train').augment is None  # no common size to crop


@pytest.mark.parametrize(('make', 'metric'), [(rooms, 'mIoU'), (animals, 'accuracy')])
def test_the_whole_way_to_a_table(make, metric, tmp_path, capsys):
    root = make(tmp_path / 'mine')
    arguments = ['--methods', 'modality_dropout', '--datasets', 'folders', '--workers', '0']
    arguments += ['--data-root', str(root), '--results', str(tmp_path / 'results')]
    assert run.main([*arguments, '--cfg-options', 'epochs=2', 'width=4']) == 0
    assert re.search(f'^mine .*: {metric}', capsys.readouterr().out, re.M)


def test_without_a_validation_split_one_is_cut_from_train_by_name(tmp_path):
    root = rooms(tmp_path, 30, flat=True)
    (root / 'val.txt').unlink()
    data = Folders(root=str(root))
    held = data.split('val').ids.tolist()
    assert 0 < len(held) < 15
    assert set(held) | set(data.split('train').ids) == {f'tr{i}' for i in range(30)}
    names = (root / 'train.txt').read_text().split()
    (root / 'train.txt').write_text('\n'.join(n for n in reversed(names) if n != held[0]))
    assert set(Folders(root=str(root)).split('val').ids) == set(held[1:])


def test_a_lost_file_is_an_error_or_a_gap(tmp_path):
    root = animals(tmp_path)
    (root / 'heat' / '3.npy').unlink()
    with pytest.raises(UserError, match=r'heat/3: expected an image .*gaps=true'):
        Folders(root=str(root))
    split = Folders(root=str(root), gaps=True).split('train')
    assert split.available[:, 0].tolist() == [True, True, True, False, True, True]
    assert split.available[:, 1].all()


def test_images_are_resized_on_request_and_depth_is_never_mixed(tmp_path):
    root = rooms(tmp_path)
    data = Folders(root=str(root), size='16x8', nearest='depth')
    assert data.task.modalities[1].shape == (3, 16, 8)
    train = data.split('train')
    mean, std = (getattr(train.inputs['depth'].normalise, k) for k in ('mean', 'std'))
    found = train.inputs['depth'][np.array([0])] * std + mean
    assert np.isin(np.rint(found), scene(0)[1]).all()
    assert set(np.unique(train.target[np.array([0])])) <= {0, 1, 255}


def test_palette_labels_are_indices(tmp_path):
    root = rooms(tmp_path, flat=True)
    for file in (root / 'labels').glob('*.png'):
        image = Image.fromarray(np.asarray(Image.open(file)), 'P')
        image.putpalette(list(range(255, -1, -1)) * 3)
        image.save(file)
    data = Folders(root=str(root))
    assert (data.split('test').target[np.array([0])][0] == scene(20)[2]).all()


def test_fingerprint_tells_what_changes_scores(tmp_path):
    root = animals(tmp_path)

    def found(**options):
        return Folders(root=str(root), **options).fingerprint

    first = found()
    assert first == found(cache='ram') == found(name='other')
    assert len({first, found(size='8x8'), found(width=4), found(augment=False)}) == 4
    text = (root / 'labels.csv').read_text()
    (root / 'labels.csv').write_text(text.replace('0,cat', '0,dog', 1))
    assert found() != first


def test_test_images_do_not_touch_the_training_split(tmp_path):
    root = rooms(tmp_path, flat=True)
    before = Folders(root=str(root)).split('train')
    for k, file in enumerate(sorted((root / 'depth').glob('te*'))):
        save(file, scene(50 + k)[1] + np.uint16(9000))
    after = Folders(root=str(root)).split('train')
    every = np.arange(len(before))
    for name, rows in before.inputs.items():
        assert (rows[every] == after.inputs[name][every]).all()


@pytest.mark.parametrize('file', ['rgb/test/te3.jpg', 'depth/val/va1.png', 'labels/test/te5.png'])
def test_a_broken_file_of_any_split_is_told_when_the_data_are_opened(file, tmp_path):
    root = rooms(tmp_path)
    whole = (root / file).read_bytes()
    for content in (whole[: len(whole) // 2], b'', b'poison'):
        (root / file).write_bytes(content)
        with pytest.raises(UserError, match=f'{file}: cannot be read') as caught:
            Folders(root=str(root))
        assert '\n' not in str(caught.value)


def test_bad_roots_are_told(tmp_path):
    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            Folders(**{'root': str(tmp_path / 'x'), **options})
        assert '\n' not in str(caught.value)

    told('expected --data-root FOLDER, or root=', root='')
    told('x: expected a folder, found nothing')
    root = tmp_path / 'x'
    root.mkdir()
    told('expected a folder per modality, found none')
    save(root / 'rgb' / 'a.png', scene(0)[0])
    told(r'expected labels/ with label maps or labels\.csv, found neither$')
    for near in ('label.csv', 'Lables.csv', 'labels.tsv'):
        (root / near).write_text('sample,label')
        told(f"found neither; rename '{near}' to 'labels.csv'$")
        (root / near).unlink()
    table(root, [{'name': 'a', 'label': 'b'}])
    told(r'labels\.csv: expected the columns sample,label; found name, label')
    table(root, [{'sample': 'a', 'label': 'b'}] * 2)
    told("labels.csv: sample 'a' is listed twice")
    table(root, [{'sample': 'a', 'label': 'b'}])
    told('expected splits: sub-folders train, val and test, lists')
    table(root, [{'sample': 'a', 'label': 'b', 'split': 'tran'}])
    told(r"labels\.csv: sample 'a': unknown split 'tran'; did you mean 'train'")
    (root / 'rgb' / 'notes.md').write_text('hi')
    told(r'notes\.md: expected one of \.png')
    (root / 'rgb' / 'notes.md').unlink()
    save(root / 'rgb' / 'a.tif', scene(0)[0])
    told("a second file of sample 'a'")


def test_bad_content_is_told(tmp_path):
    root = rooms(tmp_path / 'x', flat=True)

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            Folders(root=str(root), **options)
        assert '\n' not in str(caught.value)

    told('folders:size: expected HxW', size='32')
    for size in ('9999999x9999999', '32x9999999', '9999999x32'):
        told('folders:size: expected 1 to 8192 pixels a side, found 9999999$', size=size)
    told('folders:size: expected 1 to 8192 pixels a side, found 0$', size='0x32')
    told("unknown modality in folders:nearest 'dept'; did you mean 'depth'", nearest='dept')
    lists = (root / 'train.txt').read_text()
    (root / 'train.txt').write_text(f'{lists}\ntr99')
    told("x: expected a label of sample 'tr99', found none")
    (root / 'train.txt').write_text(f'{lists}\nva0')
    told("sample 'va0' is in train and val")
    (root / 'train.txt').write_text(lists)
    (root / 'classes.txt').write_text('only')
    told(r"classes\.txt: classes: expected at least 2, found 1 \('only'\)")
    (root / 'classes.txt').unlink()
    save(root / 'rgb' / 'te3.png', np.zeros((8, 8, 3), np.uint8))
    (root / 'rgb' / 'te3.jpg').unlink()
    told(r'te3\.png: expected \(3, 32, 32\) like tr0\.jpg, found \(3, 8, 8\); use size=HxW')
