"""Samples decoded from files: what they hold, what is kept, and what is said of broken ones."""

import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image
from tasks import TASKS
from torch.utils.data import DataLoader

from benchmark.dataset import Split
from benchmark.engine import loading
from benchmark.errors import UserError
from datasets.common.io.files import Files, decoded, fingerprint, lines
from datasets.common.io.images import DepthFile16, ImageFile8, LabelFile, Scaled, image_size
from datasets.synth_faces import SynthFaces
from datasets.synth_rooms import SynthRooms


def written(folder, count=4, shape=(6, 8, 3), dtype=np.uint8):
    rng = np.random.default_rng(0)
    values = rng.integers(np.iinfo(dtype).max, size=(count, *shape), dtype=dtype)
    paths = [folder / f'{i}.png' for i in range(count)]
    for path, value in zip(paths, values, strict=True):
        Image.fromarray(value).save(path)
    return paths, values


def test_images_come_as_channels_first_rows(tmp_path):
    paths, values = written(tmp_path)
    rows = Files(paths, ImageFile8((6, 8)), (3, 6, 8))
    assert rows.shape == (4, 3, 6, 8)
    assert (rows[np.array([2, 0])] == values[[2, 0]].transpose(0, 3, 1, 2)).all()
    grey = Files(paths, ImageFile8((6, 8), grey=True), (1, 6, 8))[np.array([1])]
    expected = np.asarray(Image.open(paths[1]).convert('L'))
    assert (grey[0, 0] == expected).all()


def test_depth_keeps_16_bits_and_never_mixes_them(tmp_path):
    paths, values = written(tmp_path, shape=(6, 8), dtype=np.uint16)
    assert (Files(paths, DepthFile16((6, 8)), (1, 6, 8))[np.arange(4)][:, 0] == values).all()
    small = Files(paths, DepthFile16((3, 4)), (1, 3, 4))[np.arange(4)]
    assert np.isin(small, values).all()


def test_labels_go_through_the_table(tmp_path):
    values = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)
    Image.fromarray(values).save(tmp_path / 'a.png')
    table = [255, 0, 1, 2] + [255] * 252
    found = Files([tmp_path / 'a.png'], LabelFile((2, 3), 3, table), (2, 3))[np.array([0])]
    assert found.tolist() == [[[255, 0, 1], [2, 0, 255]]]
    with pytest.raises(UserError, match=r'a\.png: expected labels 0 to 2, 255, found 3'):
        Files([tmp_path / 'a.png'], LabelFile((2, 3), 3), (2, 3))[np.array([0])]


def test_normalisation_is_per_channel_and_leaves_holes_at_zero():
    rows = np.random.default_rng(0).integers(5, size=(2, 2, 3, 3)).astype(np.uint16)
    found = Scaled([1, 2], [2, 4], hole=0)(rows)
    expected = np.stack([(rows[:, 0] - 1.0) / 2, (rows[:, 1] - 2.0) / 4], 1)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.where(rows == 0, 0, expected))


class Counted:
    """A decoder that leaves a mark beside each file it decodes."""

    dtype = np.uint8

    def __repr__(self):
        return 'Counted'

    def __call__(self, path):
        with path.with_suffix('.log').open('a') as log:
            log.write('x')
        return np.asarray(Image.open(path))


def readings(paths):
    logs = [p.with_suffix('.log') for p in paths]
    return [len(log.read_text()) if log.exists() else 0 for log in logs]


def read(rows, index, out):
    out.put(rows[np.array(index)].tolist())


@pytest.mark.parametrize('cache', ['ram', 'disk'])
def test_what_one_process_decoded_others_have(cache, tmp_path):
    paths, values = written(tmp_path, shape=(2, 2))
    rows = Files(paths, Counted(), (2, 2), cache=cache)
    context, out = multiprocessing.get_context('fork'), multiprocessing.SimpleQueue()
    process = context.Process(target=read, args=(rows, [0, 2], out))
    process.start()
    assert out.get() == values[[0, 2]].tolist()
    process.join()
    assert readings(paths) == [1, 0, 1, 0]
    for _ in range(2):
        assert (rows[np.arange(4)] == values).all()
    assert readings(paths) == [1, 1, 1, 1]


def test_the_disk_cache_outlives_the_process_and_notices_other_files(tmp_path):
    paths, values = written(tmp_path, shape=(2, 2))
    for _ in range(2):
        assert (Files(paths, Counted(), (2, 2), cache='disk')[np.arange(4)] == values).all()
    assert readings(paths) == [1, 1, 1, 1]
    Image.fromarray(values[1]).save(paths[0], compress_level=0)
    assert (Files(paths, Counted(), (2, 2), cache='disk')[np.array([0])] == values[1]).all()
    assert readings(paths)[0] == 2


def test_without_a_cache_every_reading_decodes(tmp_path):
    paths, _ = written(tmp_path, shape=(2, 2))
    rows = Files(paths, Counted(), (2, 2))
    for _ in range(3):
        rows[np.array([1])]
    assert readings(paths) == [0, 3, 0, 0]


def test_bad_files_are_named_in_one_line(tmp_path):
    paths, _ = written(tmp_path)
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) // 2])
    paths[1].write_bytes(b'no image')
    paths[2].unlink()
    rows = Files(paths, ImageFile8((6, 8)), (3, 6, 8))
    for k, said in enumerate(['cannot be read, broken', 'cannot be read, broken', 'found nothing']):
        with pytest.raises(UserError, match=rf'{k}\.png: .*{said}') as caught:
            rows[np.array([k])]
        assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match=r'3\.png: expected 16-bit depth .* found mode .RGB'):
        Files(paths, DepthFile16((6, 8)), (1, 6, 8))[np.array([3])]
    with pytest.raises(
        UserError, match=r'3\.png: expected uint8 \(3, 5, 5\), found uint8 \(3, 6, 8\)'
    ):
        Files(paths, ImageFile8((6, 8)), (3, 5, 5))[np.array([3])]
    with pytest.raises(UserError, match=r"unknown cache 'rom'; did you mean 'ram'"):
        Files(paths, ImageFile8((6, 8)), (3, 6, 8), cache='rom')


def test_16_bits_are_not_taken_for_8(tmp_path):
    paths, _ = written(tmp_path, shape=(6, 8), dtype=np.uint16)
    with pytest.raises(UserError, match='expected 8 bits a channel'):
        Files(paths, ImageFile8((6, 8)), (3, 6, 8))[np.array([0])]


def test_a_cache_that_cannot_be_written(tmp_path):
    paths, _ = written(tmp_path)
    with pytest.raises(UserError, match=r'0\.png: the cache cannot be written.*cache=ram'):
        Files(paths, ImageFile8((6, 8)), (3, 6, 8), cache='disk', cache_folder=paths[0])


def test_a_mistake_in_a_loader_process_is_told_in_one_line(tmp_path):
    task = TASKS['rooms']
    paths, _ = written(tmp_path, 4, (32, 32, 3))
    paths[2].write_bytes(b'no image')
    rows = Files(paths, ImageFile8((32, 32)), (3, 32, 32))
    depth = np.zeros((4, 1, 32, 32), np.float32)
    there = np.ones((4, 2), bool)
    split = Split({'rgb': rows, 'depth': depth}, np.zeros((4, 32, 32)), there, np.arange(4))
    loader = loading.test_loader(loading.Samples(split, task, there), 2, 1, False)
    assert isinstance(loader, DataLoader)
    with pytest.raises(UserError, match=r'2\.png: cannot be read') as caught:
        list(loader)
    assert '\n' not in str(caught.value)


def test_unavailable_rows_are_not_decoded(tmp_path):
    task = TASKS['rooms']
    paths, values = written(tmp_path, 4, (32, 32, 3))
    paths[1].unlink()
    rows = Files(paths, ImageFile8((32, 32)), (3, 32, 32))
    there = np.array([[True, True], [False, True], [True, False], [True, True]])
    depth = np.ones((4, 1, 32, 32), np.float32)
    split = Split({'rgb': rows, 'depth': depth}, np.zeros((4, 32, 32)), there, np.arange(4))
    batch = loading.Samples(split, task, there).__getitems__([0, 1, 2])
    assert not batch.inputs['rgb'][1].any()
    assert not batch.inputs['depth'][2].any()
    assert torch.equal(batch.inputs['rgb'][2].byte(), torch.from_numpy(values[2]).permute(2, 0, 1))


def test_fingerprints_tell_files_contents_and_options_apart(tmp_path):
    paths, _ = written(tmp_path)
    first = fingerprint(paths, 'size', 3)
    assert fingerprint(paths, 'size', 3) == first
    moved = tmp_path / 'elsewhere'
    moved.mkdir()
    assert fingerprint(written(moved)[0], 'size', 3) == first
    assert fingerprint(paths[::-1], 'size', 3) != first
    assert fingerprint(paths, 'size', 4) != first
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b'x')  # of the same size
    assert fingerprint(paths, 'size', 3) != first
    paths[1].unlink()
    with pytest.raises(UserError, match=r'1\.png: expected a file'):
        fingerprint(paths)


def test_list_files_need_no_last_newline(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_text('a 1\n\n b 2')
    assert lines(file) == ['a 1', 'b 2']
    file.write_text('\n')
    with pytest.raises(UserError, match=r'list\.txt: expected some lines'):
        lines(file)
    file.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(UserError, match=r'list\.txt: expected a list file in UTF-8'):
        lines(file)
    with pytest.raises(UserError, match=r'none\.txt: expected a list file'):
        lines(tmp_path / 'none.txt')


@pytest.mark.parametrize('given', ['9999968x32', '32x9999968', f'{"9" * 5000}x32', '²x32', '0x32'])
def test_a_size_that_no_memory_holds_is_told(given):
    with pytest.raises(UserError, match='toy:size: expected') as caught:
        image_size('toy', given)
    assert '\n' not in str(caught.value)
    assert image_size('toy', '8192x32') == (8192, 32)


@pytest.mark.parametrize('kind', [SynthFaces, SynthRooms])
@pytest.mark.parametrize('side', [-1, 0, 9999999])
def test_a_side_that_no_memory_holds_is_told_before_anything_is_drawn(kind, side):
    told = f'{kind.name}:size: expected 1 to 8192 pixels a side, found {side}$'
    with pytest.raises(UserError, match=told):
        kind(size=side)


def test_a_file_is_decoded_again_where_python_has_mistaken_itself(tmp_path):
    path = tmp_path / 'row.npy'
    np.save(path, np.arange(3))
    mistaken = iter([True, True, False])

    def decode(file):
        if next(mistaken):
            raise SystemError('AST constructor recursion depth mismatch (before=51, after=47)')
        return np.load(file)

    assert decoded(path, decode).tolist() == [0, 1, 2]

    def broken(file):
        raise SystemError('again and again')

    with pytest.raises(UserError, match=r'row\.npy: cannot be read.*again and again'):
        decoded(path, broken)
