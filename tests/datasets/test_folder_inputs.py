"""What lies in real folders of images: the right numbers, or one line that says what is wrong."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from datasets.common.io import remembered
from datasets.common.io.any_image import AnyImage
from datasets.common.io.pictures import labels
from datasets.folders import Folders

SPLITS = {'train': 6, 'val': 3, 'test': 3}


def save(file, values, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == '.npy':
        np.save(file, values)
    else:
        image = values if isinstance(values, Image.Image) else Image.fromarray(values)
        image.save(file, **options)
    return file


def scene(seed, shape=(24, 16)):
    """A mask of 0 and 1, and a colour image that shows it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    y, x = rng.integers(1, 6, 2)
    mask[y : y + 8, x : x + 8] = 1
    colour = rng.integers(60, size=(*shape, 3)) + 120 * mask[..., None]
    return mask, colour.astype(np.uint8)


def samples():
    """(Name, number) of every sample, in sub-folders by split."""
    names = [f'{split}/{i}' for split, count in SPLITS.items() for i in range(count)]
    return [(name, k) for k, name in enumerate(names)]


def dense(root, labels=lambda mask, name: mask):
    """A segmentation data set of colour and near infrared."""
    for name, k in samples():
        mask, colour = scene(k)
        save(root / 'rgb' / f'{name}.png', colour)
        save(root / 'nir' / f'{name}.png', colour[..., 0])
        save(root / 'labels' / f'{name}.png', labels(mask, name))
    return root


def table(root, suffix='', mark=',', encoding='utf-8', count=12):
    """A classification data set with a table of labels."""
    rows = [f'sample{mark}label{mark}split']
    for i in range(count):
        rng = np.random.default_rng(i)
        for m in ('rgb', 'ir'):
            values = rng.integers(99, size=(8, 8, 3)) + 60 * (i % 2)
            save(root / m / f'{i:03d}.png', values.astype(np.uint8))
        split = 'train' if i < 6 else 'val' if i < 9 else 'test'
        rows.append(f'{i:03d}{suffix}{mark}{("cat", "dog")[i % 2]}{mark}{split}')
    (root / 'labels.csv').write_text('\n'.join(rows), encoding=encoding)
    return root


def told(match, root, **options):
    """Checks that the data are refused in one line."""
    with pytest.raises(UserError, match=match) as caught:
        Folders(root=str(root), **options)
    assert '\n' not in str(caught.value)


def test_masks_of_0_and_255_are_refused_unless_they_are_said_to_be_binary(tmp_path):
    root = dense(tmp_path / 'x', lambda mask, _: mask * 255)
    told(r'labels: expected training labels of 2 classes.*0 and 255.*binary=true', root)
    data = Folders(root=str(root), binary=True)
    assert data.task.classes == ('0', '1')
    for k in range(SPLITS['train']):
        assert (data.split('train').target[np.array([k])][0] == scene(k)[0]).all()
    save(root / 'labels/test/1.png', scene(9)[0] * 7)
    told(r'labels/test/1\.png: expected labels 0, 255, found 7', root, binary=True)


def test_one_class_alone_is_refused(tmp_path):
    told('2 classes or more, found 0 alone', dense(tmp_path / 'x', lambda mask, _: mask * 0))
    root = table(tmp_path / 'y')
    (root / 'labels.csv').write_text((root / 'labels.csv').read_text().replace('cat', 'dog'))
    told(r"labels\.csv: expected training labels of 2 classes or more, found 'dog' alone", root)


def test_unlabelled_images_train_but_an_unlabelled_split_is_refused(tmp_path):
    def hidden(*names):
        return lambda mask, name: np.where(name.startswith(names), 255, mask).astype(np.uint8)

    Folders(root=str(dense(tmp_path / 'some', hidden('train/0', 'train/1', 'test/0'))))
    for split in ('val', 'test'):
        root = dense(tmp_path / split, hidden(split))
        told(f'expected some labelled pixel in {split}, found 255 alone', root)


def test_a_label_of_no_class_is_told_with_its_file(tmp_path):
    root = dense(tmp_path / 'x')
    save(root / 'labels/test/2.png', scene(1)[0] * 3)
    told(r'labels/test/2\.png: expected labels 0 to 1, 255, found 3', root)


@pytest.mark.parametrize('options', [{}, {'size': '24x16'}])
def test_label_maps_are_as_large_as_the_images(options, tmp_path):
    root = dense(tmp_path / 'x', lambda mask, _: mask.T)
    told(r'labels/\w+/0\.png: expected a label map as large as.*\(16, 24\)', root, **options)


@pytest.mark.parametrize('orientation', range(2, 9))
def test_photos_are_turned_as_their_orientation_says(orientation, tmp_path):
    upright = dense(tmp_path / 'upright')
    stored = dense(tmp_path / 'stored')
    turns = {
        2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE',
        6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270',
    }  # fmt: skip
    for file in (stored / 'rgb').rglob('*.png'):
        exif = Image.Exif()
        exif[0x0112] = orientation
        # What is stored is turned back by the orientation.
        turn = getattr(Image.Transpose, turns[orientation])
        save(file, Image.open(file).transpose(turn), exif=exif)
    first, second = (Folders(root=str(r)).split('test').inputs['rgb'] for r in (upright, stored))
    assert (first[np.arange(3)] == second[np.arange(3)]).all()


def test_tables_as_spreadsheets_write_them(tmp_path):
    plain = Folders(root=str(table(tmp_path / 'plain')))
    for k, how in enumerate(
        ({'encoding': 'utf-8-sig'}, {'suffix': '.png'}, {'mark': ';'}, {'mark': '\t'})
    ):
        data = Folders(root=str(table(tmp_path / str(k), **how)))
        assert data.split('test').ids.tolist() == plain.split('test').ids.tolist()
        assert data.split('test').target.tolist() == plain.split('test').target.tolist()
    root = table(tmp_path / 'wrong')
    text = (root / 'labels.csv').read_text()
    (root / 'labels.csv').write_text(text.replace('000,cat,train', '000,cat'))
    told(r"labels\.csv: expected 3 values in every row, found '000', 'cat'", root)
    (root / 'labels.csv').write_bytes(b'\xff\xfe\x00')
    told(r'labels\.csv: expected a table in UTF-8', root)


def test_a_column_names_the_clusters(tmp_path):
    root = table(tmp_path / 'x')
    lines = (root / 'labels.csv').read_text().splitlines()
    rows = [f'{lines[0]},cluster', *(f'{line},p{k // 2}' for k, line in enumerate(lines[1:]))]
    (root / 'labels.csv').write_text('\n'.join(rows))
    assert Folders(root=str(root)).split('test').clusters.tolist() == ['p4', 'p5', 'p5']


def test_what_programs_leave_behind_is_no_data(tmp_path):
    root = table(tmp_path / 'x')
    before = Folders(root=str(root))
    save(root / 'rgb/.ipynb_checkpoints/000-checkpoint.png', np.zeros((8, 8, 3), np.uint8))
    save(root / '.thumbnails/000.png', np.zeros((8, 8, 3), np.uint8))
    for name in ('Thumbs.db', 'desktop.ini', '._000.png', '.DS_Store'):
        (root / 'ir' / name).write_bytes(b'x')
    (root / 'README.md').write_text('x')
    after = Folders(root=str(root))
    assert (after.task, after.fingerprint) == (before.task, before.fingerprint)
    assert after.notes[-1] == (
        'left aside: .thumbnails, README.md, ir/.DS_Store, ir/._000.png, ir/Thumbs.db and 2 more'
    )


def test_what_programs_leave_behind_beside_label_maps_is_no_data(tmp_path):
    root = dense(tmp_path / 'x')
    before = Folders(root=str(root))
    for name in ('labels', 'rgb'):
        save(
            root / name / 'train/.ipynb_checkpoints/0-checkpoint.png', np.full((9, 9), 7, np.uint8)
        )
        (root / name / 'test/Thumbs.db').write_bytes(b'x')
    after = Folders(root=str(root))
    assert (after.task, after.fingerprint) == (before.task, before.fingerprint)


def test_symbolic_links_are_followed(tmp_path):
    root = dense(tmp_path / 'x')
    before = Folders(root=str(root))
    shutil.move(root / 'rgb/train', tmp_path / 'elsewhere')
    os.symlink(tmp_path / 'elsewhere', root / 'rgb/train')
    assert Folders(root=str(root)).fingerprint == before.fingerprint
    os.symlink(root / 'rgb', root / 'rgb/train/again')
    told('found a link to a folder that holds it', root)


def test_a_rendering_of_the_labels_becomes_no_modality_unseen(tmp_path):
    root = dense(tmp_path / 'x')
    shutil.copytree(root / 'labels', root / 'labels_color')
    told('labels_color: expected a modality, .* modalities=nir[+]rgb', root)
    data = Folders(root=str(root), modalities='rgb+nir')
    assert data.task.names == ('rgb', 'nir')
    assert data.notes == (
        'found modalities rgb (image 3x24x16), nir (image 1x24x16); '
        'samples: train 6, val 3, test 3',
        'left aside: labels_color',
    )
    told("unknown modality in .*'nri'; did you mean 'nir'", root, modalities='nri')


@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_depth_that_is_not_finite_is_named_when_the_data_are_opened(split, value, tmp_path):
    root = dense(tmp_path / 'x')
    shutil.rmtree(root / 'nir')
    for name, k in samples():
        depth = scene(k)[1][..., 0].astype(np.float32)
        depth[3, 3] = value if name == f'{split}/1' else 0
        save(root / 'depth' / f'{name}.npy', depth)
    told(rf'depth/{split}/1\.npy: expected finite numbers of float32, found NaN, .* in 1 of', root)


def test_all_channels_and_bits_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    deep = rng.integers(60000, size=(6, 8)).astype(np.uint16)
    colours = rng.integers(256, size=(6, 8, 4)).astype(np.uint8)
    palette = Image.fromarray(colours[..., :3]).quantize(7)
    clear = palette.copy()
    clear.info['transparency'] = 2
    whole = {
        'deep.png': (deep, deep[None]),
        'deep.tif': (deep, deep[None]),
        'float.tif': (deep / np.float32(7), deep[None] / np.float32(7)),
        'int.tif': (deep.astype(np.int32) * 99, deep[None].astype(np.int32) * 99),
        'alpha.png': (colours, colours.transpose(2, 0, 1)),
        'two.png': (Image.fromarray(colours[..., :2], 'LA'), colours[..., :2].transpose(2, 0, 1)),
        'ink.tif': (Image.fromarray(colours, 'CMYK'), colours.transpose(2, 0, 1)),
        'bits.png': (Image.fromarray(deep > 9000), deep[None] > 9000),
        'palette.png': (palette, np.asarray(palette.convert('RGB')).transpose(2, 0, 1)),
        'clear.png': (clear, np.asarray(clear.convert('RGBA')).transpose(2, 0, 1)),
    }  # fmt: skip
    for name, (values, expected) in whole.items():
        found = AnyImage(None)(save(tmp_path / name, values))
        assert found.dtype == (np.float64 if name == 'int.tif' else np.float32)
        assert np.array_equal(found, np.asarray(expected, found.dtype)), name


def test_what_would_be_cut_is_refused(tmp_path):
    def refused(file, match):
        with pytest.raises(UserError, match=f'{file.name}: {match}'):
            AnyImage(None)(file)

    pages = [Image.fromarray(np.full((4, 4), k, np.uint8)) for k in range(3)]
    file = tmp_path / 'pages.tif'
    pages[0].save(file, save_all=True, append_images=pages[1:])
    refused(file, 'expected one page, found 3')
    file = tmp_path / 'deep.png'
    file.write_bytes(png48(np.arange(48, dtype='>u2').reshape(4, 4, 3) * 999))
    refused(file, 'expected at most 8 bits per channel of colours, found 16')
    large = np.full((4, 4), 2**53 + 1)
    refused(save(tmp_path / 'large.npy', large), 'expected whole numbers up to 9007199254740992')
    refused(save(tmp_path / 'double.npy', np.full((4, 4), 1e300)), 'expected finite numbers')
    refused(save(tmp_path / 'none.npy', np.zeros((0, 4))), 'expected an image')


def png48(values):
    """A PNG file of colours of 16 bits, which Pillow cannot write."""

    def chunk(kind, data):
        sum_ = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', sum_)

    height, width, _ = values.shape
    rows = b''.join(b'\0' + row.tobytes() for row in values)
    head = struct.pack('>IIBBBBB', width, height, 16, 2, 0, 0, 0)
    body = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + body


def test_one_grey_image_among_colours_is_named(tmp_path):
    root = table(tmp_path / 'x')
    save(root / 'rgb/011.png', np.zeros((8, 8), np.uint8))
    told(r'rgb/011\.png: expected \(3, 8, 8\) like 000\.png, found \(1, 8, 8\)$', root)


def test_the_layout_of_arrays_is_asked_for_where_it_is_open(tmp_path):
    cube = np.random.default_rng(0).random((5, 5, 9)).astype(np.float32)
    file = save(tmp_path / 'cube.npy', cube)
    with pytest.raises(UserError, match='use layout=channels_first or layout=channels_last'):
        AnyImage(None)(file)
    assert (AnyImage(None, layout='channels_last')(file) == cube.transpose(2, 0, 1)).all()
    assert (AnyImage(None, layout='channels_first')(file) == cube).all()


@pytest.mark.parametrize('as_labels', ['bool', 'uint16'])
def test_labels_of_other_types_are_the_same_labels(as_labels, tmp_path):
    before = Folders(root=str(dense(tmp_path / 'a'))).split('test').target
    root = dense(tmp_path / 'b')
    for file in (root / 'labels').rglob('*.png'):
        values = np.asarray(Image.open(file)).astype(as_labels)
        save(file, values)
    after = Folders(root=str(root)).split('test').target
    assert (before[np.arange(3)] == after[np.arange(3)]).all()


def grey_png(values, bits, transparent=None):
    """Returns a grey PNG of few bits a pixel, which Pillow reads but does not write.

    Args:
        values: (H, W).
        bits: Bits of a pixel.
        transparent: The grey value that is transparent; no one by default.
    """
    height, width = values.shape
    pixels = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., -bits:]
    rows = np.packbits(pixels.reshape(height, -1), axis=1)
    head = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    body = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
    key = [] if transparent is None else [(b'tRNS', struct.pack('>H', transparent))]
    chunks = ((b'IHDR', head), *key, (b'IDAT', body), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(x)) + kind + x + struct.pack('>I', zlib.crc32(kind + x))
        for kind, x in chunks
    )


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_labels_of_few_bits_are_the_same_labels(bits, tmp_path):
    values = np.arange(48).reshape(4, 12) % 2**bits
    (tmp_path / 'map.png').write_bytes(grey_png(values, bits))
    assert (np.asarray(labels(tmp_path / 'map.png')) == values).all()


def test_colours_are_no_labels(tmp_path):
    root = dense(tmp_path / 'x', lambda mask, _: np.stack([mask * 9] * 3, -1))
    told('expected one channel of whole numbers, the labels, found mode .RGB.', root)


def test_corrected_data_have_another_fingerprint(tmp_path, monkeypatch):
    root = table(tmp_path / 'x')
    file = root / 'ir/003.png'
    for kept in (True, False):
        # At once, and when the file is so old that its hash is remembered.
        monkeypatch.setattr(remembered, 'SETTLED', 0 if kept else 2)
        before = Folders(root=str(root)).fingerprint
        assert Folders(root=str(root)).fingerprint == before
        times, content = file.stat(), file.read_bytes()
        values = np.asarray(Image.open(file)).copy()
        values[0, 0, 0] ^= 1
        save(file, values)
        assert file.read_bytes() != content
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert Folders(root=str(root)).fingerprint != before


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    root = dense(tmp_path / 'x')
    monkeypatch.setattr(remembered, 'SETTLED', 0)
    before = Folders(root=str(root))

    def read(*_):
        raise AssertionError('a file was read')

    monkeypatch.setattr(remembered, 'digest', read)
    monkeypatch.setattr(AnyImage, '__call__', read)
    looked = remembered.remembered('sha256', before.found.files(), read)
    assert len(looked) == 36


def test_without_a_cache_folder_the_data_open_all_the_same(tmp_path, monkeypatch):
    root = dense(tmp_path / 'x')
    before = Folders(root=str(root)).fingerprint
    (tmp_path / 'file').write_text('no folder')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert Folders(root=str(root)).fingerprint == before


def test_copies_of_training_samples_are_reported_or_refused(tmp_path):
    root = table(tmp_path / 'x')
    for m in ('rgb', 'ir'):
        shutil.copy(root / m / '001.png', root / m / '010.png')
    shutil.copy(root / 'rgb/002.png', root / 'rgb/011.png')  # one modality is no copy
    notes = Folders(root=str(root)).notes
    expected = '1 of 3 samples of test are copies of training samples: 010 (train: 001)'
    assert notes[1:] == (expected,)
    match = f'duplicates=refuse: expected no copies, found {expected.split(" (")[0]}'
    told(match, root, duplicates='refuse')
    told("unknown value of duplicates 'refus'; did you mean 'refuse'", root, duplicates='refus')


def test_samples_without_any_image_are_counted_and_left_out(tmp_path):
    root = table(tmp_path / 'x')
    for m, k in (('rgb', 1), ('ir', 1), ('rgb', 10), ('ir', 10), ('ir', 4)):
        (root / m / f'{k:03d}.png').unlink()
    told("expected an image of sample '001', found none in ir, rgb; gaps=true leaves such", root)
    data = Folders(root=str(root), gaps=True)
    assert data.notes[0].endswith('samples: train 5, val 3, test 2')
    assert data.notes[2] == '2 samples have no modality at all and are left out: 001, 010'
    assert data.notes[3] == '1 of 10 samples lacks ir'
    assert data.split('test').ids.tolist() == ['009', '011']
    for k in (9, 11):
        for m in ('rgb', 'ir'):
            (root / m / f'{k:03d}.png').unlink()
    told('expected some samples of test, found none', root, gaps=True)


def test_files_of_no_sample_are_counted_and_named(tmp_path):
    root = table(tmp_path / 'x')
    for k in (50, 41):
        shutil.copy(root / 'ir' / '001.png', root / 'ir' / f'{k:03d}.png')
    shutil.copy(root / 'rgb' / '001.png', root / 'rgb' / '041.png')
    told = Folders(root=str(root)).notes
    assert '2 files of ir belong to no sample of a split: 041.png, 050.png' in told
    assert '1 file of rgb belongs to no sample of a split: 041.png' in told


def test_columns_and_lists_that_are_not_used_are_named(tmp_path):
    root = table(tmp_path / 'x')
    lines = (root / 'labels.csv').read_text().splitlines()
    rows = [f'{lines[0]},age', *(f'{line},7' for line in lines[1:])]
    (root / 'labels.csv').write_text('\n'.join(rows))
    assert Folders(root=str(root)).notes[-1] == 'left aside: column age of labels.csv'
    for name, numbers in {'train': range(6), 'val': range(6, 9), 'test': range(9, 12)}.items():
        (root / f'{name}.txt').write_text('\n'.join(f'{k:03d}' for k in numbers))
    expected = 'left aside: column age of labels.csv, column split of labels.csv'
    assert Folders(root=str(root)).notes[-1] == expected
    root = dense(tmp_path / 'y')
    (root / 'train.txt').write_text('0')
    assert Folders(root=str(root)).notes[-1] == 'left aside: train.txt'


def test_names_pipes_and_dangling_links_among_the_images_are_refused(tmp_path):
    root = table(tmp_path / 'x')
    for name in ('a\nb.png', 'a\x1b[31m.png', b'\xff.png'.decode(errors='surrogateescape')):
        file = root / 'rgb' / name
        shutil.copy(root / 'rgb/000.png', file)
        told('rgb: expected names of printable characters, found', root)
        file.unlink()
    os.mkfifo(root / 'rgb/new.png')
    told('new.png: expected a file or a folder, found a pipe', root)
    (root / 'rgb/new.png').unlink()
    os.symlink(tmp_path / 'gone.png', root / 'rgb/new.png')
    told('new.png: expected a file or a folder, found a link to nothing', root)
    (root / 'rgb/new.png').unlink()
    (root / 'labels.csv').unlink()
    os.mkfifo(root / 'labels.csv')
    told('labels.csv: expected a file, found a pipe', root)


@pytest.mark.parametrize(
    ('values', 'found'),
    [
        (np.full((8, 8, 3), 40000, np.uint16), 'whole numbers of 16 bits'),
        (np.zeros((8, 8, 3), bool), 'whole numbers of 1 bit'),
        (np.zeros((8, 8, 3), np.float32), 'floating-point numbers'),
    ],
)
def test_images_of_one_modality_have_one_type_of_numbers(values, found, tmp_path):
    root = table(tmp_path / 'x')
    (root / 'rgb/010.png').unlink()
    save(root / 'rgb/010.npy', values)
    told(rf'010\.npy: expected whole numbers of 8 bits like 000\.png, found {found}$', root)
    for k in range(12):
        (root / f'rgb/{k:03d}.png').unlink(missing_ok=True)
        save(root / f'rgb/{k:03d}.npy', values)
    Folders(root=str(root))


def test_classes_beyond_255_and_those_that_are_not_trained_are_told(tmp_path):
    root = table(tmp_path / 'x')
    text = (root / 'labels.csv').read_text()
    (root / 'labels.csv').write_text(text.replace('011,dog', '011,cow'))
    assert Folders(root=str(root)).notes[1] == 'no training sample is of class cow'
    (root / 'classes.txt').write_text('\n'.join(['cat', 'dog', 'cow', *map(str, range(253))]))
    assert len(Folders(root=str(root)).task.classes) == 256
    root = dense(tmp_path / 'y', lambda mask, _: mask * 3)
    assert Folders(root=str(root)).notes[1] == 'no training sample is of class 1, 2'
    (root / 'classes.txt').write_text('\n'.join(map(str, range(300))))
    told('expected at most 255 classes, because label 255 is ignored, found 300', root)


def test_a_quote_that_is_not_closed_is_told(tmp_path):
    root = table(tmp_path / 'x')
    text = (root / 'labels.csv').read_text()
    (root / 'labels.csv').write_text(text.replace('003,dog', '003,"dog'))
    told(r'labels\.csv: expected a table, found in line 13: unexpected end of data', root)


def test_what_lies_behind_an_array_in_its_file_is_not_lost(tmp_path):
    file = save(tmp_path / 'a.npy', np.zeros((4, 4)))
    with file.open('ab') as more:
        np.save(more, np.ones((4, 4)))
    with pytest.raises(UserError, match='a.npy: expected one array, found more behind it'):
        AnyImage(None)(file)


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    root = table(tmp_path / 'x')
    real = os.access
    for locked in (root, root / 'ir'):
        # The superuser, as whom tests may run, may read everything.
        monkeypatch.setattr(os, 'access', lambda path, how, x=locked: path != x and real(path, how))
        told(f'{locked}: cannot be read: permission denied', root)


def tiff(file, values, kind):
    """Writes numbers (H, W) as TIFF with the sample format 1, unsigned, or 2, signed."""
    high, wide = values.shape
    content = values.tobytes()
    tags = {256: wide, 257: high, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1}
    tags |= {278: high, 279: len(content), 339: kind}
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags.items())
    table = struct.pack('<H', len(tags)) + entries + bytes(4)
    file.write_bytes(b'II*\0' + struct.pack('<I', 8 + len(content)) + content + table)
    return file


@pytest.mark.parametrize(
    ('dtype', 'kind', 'value'), [('<u4', 1, 3_000_000_000), ('<i4', 2, -5), ('i1', 2, -5)]
)
def test_tiff_files_keep_the_sign_of_their_numbers(tmp_path, dtype, kind, value):
    numbers = np.arange(12).reshape(4, 3).astype(dtype)
    numbers[1, 2] = value
    file = tiff(tmp_path / 'a.tif', numbers, kind)
    assert np.array_equal(AnyImage(None)(file)[0], numbers)
    with pytest.raises(UserError, match=f'a.tif: expected labels 0 to 65535, found {value}$'):
        labels(file)


@pytest.mark.parametrize(
    'name', ['annots', 'ground_truth', 'gtFine', 'SegmentationClass', 'color_labels', 'target']
)
def test_folders_that_are_named_like_labels_become_no_modality_unseen(tmp_path, name):
    root = dense(tmp_path / 'x')
    shutil.copytree(root / 'labels', root / name)
    told(f'{name}: expected a modality, .* modalities=nir[+]rgb', root)


def test_other_folders_are_modalities(tmp_path):
    root = dense(tmp_path / 'x')
    (root / 'nir').rename(root / 'segway_targeting')
    assert Folders(root=str(root)).task.names == ('rgb', 'segway_targeting')


@pytest.mark.parametrize(
    ('name', 'options', 'found'),
    [
        ('png', {'format': 'JPEG'}, 'JPEG'),
        ('png', {'format': 'WEBP'}, 'WEBP'),
        ('bmp', {'format': 'GIF'}, 'GIF'),
        ('tif', {'format': 'TIFF', 'compression': 'jpeg'}, 'TIFF with the compression jpeg'),
    ],
)
def test_labels_that_a_compression_may_have_changed_are_refused(name, options, found, tmp_path):
    root = dense(tmp_path / 'x')
    (file,) = (root / 'labels' / 'test').glob('1.*')
    mask = np.array(Image.open(file))
    file.unlink()
    Image.fromarray(mask).save(file.with_suffix(f'.{name}'), **options)
    told(
        rf'1\.{name}: expected labels in the format PNG, TIFF, BMP.*found the content {found},',
        root,
    )


@pytest.mark.parametrize(('name', 'options'), [('tif', {'compression': 'tiff_lzw'}), ('bmp', {})])
def test_labels_are_the_same_in_every_format_without_loss(name, options, tmp_path):
    mask = scene(0)[0]
    file = save(tmp_path / f'a.{name}', mask, **options)
    np.testing.assert_array_equal(np.asarray(labels(file)), mask)


def test_a_transparent_grey_value_becomes_a_channel_or_is_refused(tmp_path):
    values = np.arange(48).reshape(4, 12) % 4
    (tmp_path / 'eight.png').write_bytes(grey_png(values, 8, 3))
    found = AnyImage(None)(tmp_path / 'eight.png')
    np.testing.assert_array_equal(found, [values, np.where(values == 3, 0, 255)])
    for bits in (1, 2, 4):
        (tmp_path / 'few.png').write_bytes(grey_png(values, bits, 1))
        with pytest.raises(UserError, match='few.png: expected a transparent grey value in pixels'):
            AnyImage(None)(tmp_path / 'few.png')
        (tmp_path / 'few.png').write_bytes(grey_png(values, bits))
        assert AnyImage(None)(tmp_path / 'few.png').shape == (1, 4, 12)
    file = save(tmp_path / 'deep.png', (values * 999).astype(np.uint16), transparency=999)
    with pytest.raises(UserError, match=r'deep.png: .* found I;16B; an .npy file'):
        AnyImage(None)(file)


def test_a_folder_that_is_no_modality_is_told_with_the_option_that_leaves_it_out(tmp_path):
    root = table(tmp_path / 'x')
    save(root / 'backup' / 'rgb' / '000.png', np.zeros((8, 8, 3), np.uint8))
    for gaps in (False, True):
        told(
            'x/backup: expected an image of some .* modalities=ir\\+rgb leaves it out$',
            root,
            gaps=gaps,
        )
    assert Folders(root=str(root), modalities='ir+rgb').task.names == ('ir', 'rgb')
    shutil.rmtree(root / 'backup')
    for file in (root / 'labels.csv', root / 'classes.txt'):
        told('labels.csv: expected a folder, found a file' if file.exists() else 'nothing th', file)


def test_a_broken_image_is_named_once(tmp_path):
    root = table(tmp_path / 'x')
    (root / 'ir' / '003.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'ir/003\.png: cannot be read, .* identify') as error:
        Folders(root=str(root))
    assert str(error.value).count('003.png') == 1


def test_an_empty_folder_of_label_maps_is_told_with_the_table_beside_it(tmp_path):
    root = table(tmp_path / 'x')
    (root / 'labels').mkdir()
    told('labels: expected label maps, found an empty folder beside labels.csv', root)
    (root / 'labels.csv').unlink()
    told('labels: expected label maps, found none', root)


def test_labelled_samples_of_no_split_are_counted_and_named(tmp_path):
    root = table(tmp_path / 'x')
    lines = (root / 'labels.csv').read_text().splitlines()
    folder = Folders(root=str(root))
    assert not any('no split' in note for note in folder.notes)
    column = lines[0].split(',').index('split')
    cells = [line.split(',') for line in lines]
    names = {split: [c[0] for c in cells[1:] if c[column] == split] for split in SPLITS}
    left = names['test'].pop()
    (root / 'labels.csv').write_text('\n'.join(','.join(c[:column]) for c in cells))
    for split, samples in names.items():
        (root / f'{split}.txt').write_text('\n'.join(samples))
    told = Folders(root=str(root)).notes
    assert f'1 labelled sample belongs to no split: {left}' in told
