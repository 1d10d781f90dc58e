"""CASIA-SURF: live faces and print attacks in colour, depth and infrared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.registry import DATASETS
from datasets.common.families.antispoofing import MODALITIES, Face, FaceImages
from datasets.common.io.files import data_root, lines

LISTS = {
    'train': 'train_list.txt',
    'val': 'val_private_list.txt',
    'test': 'test_private_list.txt',
}


@DATASETS.register_module('casia_surf')
class CasiaSurf(FaceImages):
    """CASIA-SURF (Zhang et al., CVPR 2019), in the split of its 2019 challenge.

    The root holds the challenge's lists `train_list.txt`, `val_private_list.txt` and
    `test_private_list.txt`. Each line is `RGB DEPTH IR LABEL`: three paths relative to the root,
    and 1 for a live face or 0 for an attack. Every frame is classified on its own, by the larger
    logit, as in MMANet.

    The paths of training frames, `Training/real_part/<person>/...` and
    `Training/fake_part/<person>/...`, name the person, who is the sample's cluster. The paths of
    validation and test frames, `Val/0000/000000-color.jpg`, name nobody: tests of significance must
    take each of these frames for a sample of its own. Since frames of one video resemble each
    other, p-values on this data set are too small, and intervals too narrow.

    Args:
        root: The folder that holds the lists.
        **shared: The options of `FaceImages`.

    Raises:
        UserError: A list or an image is missing, or a line is not as above.
    """

    name = 'casia_surf'
    licence = 'research only, by signed agreement with the authors'
    how_to_get = (
        'Ask the organisers of the CASIA-SURF challenge for the data. The root holds '
        'train_list.txt, val_private_list.txt and test_private_list.txt beside the images that '
        'they name.'
    )
    published_sizes = {'train': 29266, 'val': 9608, 'test': 57710}

    def __init__(
        self,
        *,
        root: str = '',
        **shared: Any,
    ) -> None:
        folder = data_root('casia_surf', root, self.how_to_get)
        splits = {name: _read(folder, file) for name, file in LISTS.items()}
        super().__init__(splits, folder, (), **shared)


def _read(root: Path, name: str) -> list[Face]:
    file = root / name
    return [_face(root, line, f'{file}, entry {k}') for k, line in enumerate(lines(file), 1)]


def _face(root: Path, line: str, where: str) -> Face:
    words = line.split()
    if len(words) != 4 or words[3] not in ('0', '1'):
        raise UserError(f'{where}: expected RGB DEPTH IR and 0 or 1, found {line!r}')
    files = {m: root / path for m, path in zip(MODALITIES, words[:3], strict=True)}
    found = re.search(r'/(?:real|fake)_part/([^/]+)/', f'/{words[0]}')
    return Face(words[0], files, words[3] == '1', found[1] if found else '')
