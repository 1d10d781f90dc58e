"""A small segmentation dataset of PNG files in one archive, for the tests of preparing."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.method import Modality, Task
from benchmark.registry import DATASETS
from datasets.common.io.files import Files, lines

SIZE = (6, 8)
KINDS = ('rgb', 'depth', 'label')
COUNTS = {'train': 4, 'val': 2, 'test': 3}


class Raw:
    """Decodes a PNG into channels first, without any check of its own."""

    dtype = np.dtype(np.uint8)

    def __call__(self, path):
        """Returns (C, H, W), or (H, W) of a grey image."""
        values = np.asarray(Image.open(path))
        return values.transpose(2, 0, 1) if values.ndim == 3 else values


def _grey(path):
    return Raw()(path)[None]


_grey.dtype = Raw.dtype


def _floats(rows):
    return rows.astype(np.float32) / 255


@DATASETS.register_module('toy', force=True)
class Toy(Dataset):
    """Rooms of three classes."""

    name = 'toy'
    published_sizes = COUNTS
    how_to_get = 'download toy.zip'
    prepared = 0

    def __init__(self, *, root: str = '', size: int = 6) -> None:
        self.root = Path(root)
        self.rows = [line.split() for line in lines(self.root / 'list.txt')]
        if any(len(row) != 2 for row in self.rows):
            raise UserError(f'{self.root}/list.txt: expected two words')
        images = (Modality('rgb', (3, *SIZE)), Modality('depth', (1, *SIZE)))
        self.task = Task('toy', 'segmentation', images, ('wall', 'floor', 'bed'), 'mIoU')

    @classmethod
    def prepare(cls, work) -> None:
        """Unpacks the archive."""
        cls.prepared += 1
        members = work.members(work.find('toy.zip', 'rooms.zip'))
        work.need(sum(member.size for member in members))
        with work.steps(len(members), 'members') as step:
            for member in members:
                work.write(member.name, member.copy)
                step()
        work.finish(COUNTS)

    def split(self, name: str) -> Split:
        """Returns a split."""
        ids = np.array([i for i, split in self.rows if split == name])
        paths = {kind: [self.root / kind / f'{i}.png' for i in ids] for kind in KINDS}
        inputs = {
            'rgb': Files(paths['rgb'], Raw(), (3, *SIZE), _floats),
            'depth': Files(paths['depth'], _grey, (1, *SIZE), _floats),
        }
        target = Files(paths['label'], Raw(), SIZE)
        return Split(inputs, target, np.ones((len(ids), 2), bool), ids)


def contents() -> dict[str, bytes]:
    """Returns what the archive holds: path -> bytes."""
    rng = np.random.default_rng(0)
    names = [(f'{split}{i}', split) for split, n in COUNTS.items() for i in range(n)]
    files = {'list.txt': '\n'.join(f'{name} {split}' for name, split in names).encode()}
    for name, _ in names:
        label = rng.integers(3, size=SIZE)
        label[0, 0] = 255
        arrays = {
            'rgb': rng.integers(256, size=(*SIZE, 3)),
            'depth': rng.integers(256, size=SIZE),
            'label': label,
        }
        files |= {f'{kind}/{name}.png': png(x) for kind, x in arrays.items()}
    return files


def png(values) -> bytes:
    """Returns an array (H, W) or (H, W, 3) as a PNG."""
    out = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(out, 'PNG')
    return out.getvalue()


def archive(path, files=None):
    """Writes files (path -> bytes) into a zip archive; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as out:
        for name, data in (files or contents()).items():
            out.writestr(name, data)
    return path
