"""CASIA-SURF CeFA: attacks across ethnicities, in colour, depth and infrared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import UserError, unknown
from benchmark.registry import DATASETS
from datasets.common.families.antispoofing import MODALITIES, Face, FaceImages
from datasets.common.io.files import data_root
from datasets.common.io.folders import entries, frames_in
from datasets.common.io.paths import has_folder

FOLDERS = {'rgb': 'profile', 'depth': 'depth', 'ir': 'ir'}
LIVE, CLOTH, SCREEN = 1, 2, 4
"""Kinds of presentation: the last number in the name of a video."""

Part = tuple[tuple[str, ...], range, tuple[int, ...]]
"""The ethnicities, subjects and kinds of presentation of a split."""


def _parts(trained: str, tested: tuple[str, ...]) -> dict[str, Part]:
    return {
        'train': ((trained,), range(0, 200), (LIVE, SCREEN)),
        'val': ((trained,), range(200, 300), (LIVE, SCREEN)),
        'test': (tested, range(300, 500), (LIVE, CLOTH)),
    }


PROTOCOLS = {
    '4@1': _parts('AF', ('CA', 'EA')),
    '4@2': _parts('CA', ('AF', 'EA')),
    '4@3': _parts('EA', ('AF', 'CA')),
    '4@5': _parts('EA', ('AF',)),
}


@DATASETS.register_module('cefa')
class Cefa(FaceImages):
    """CASIA-SURF CeFA (Liu et al., WACV 2021), protocol 4: other ethnicities and other attacks.

    The training and validation samples are the live faces and screen attacks of one ethnicity
    (subjects 0 to 199 and 200 to 299). The test samples are the live faces and cloth attacks of
    other ethnicities (subjects 300 to 499). Protocol '4@5' is that of MMANet's released code: the
    training faces are East Asian, the test faces African. '4@1', '4@2' and '4@3' train on AF, CA
    and EA and test on the two others; they were written from memory of the data set's paper and
    have not been verified against it. The 3-D masks that the data set adds to some tests are left
    out. A teacher is trained with all modalities here, and with modality dropout in MMANet's
    released code.

    The root holds folders `{AF,CA,EA}/<subject>/<race_id_acquisition_session_kind>/`, each with
    the sub-folders `profile` (colour), `depth` and `ir`, in which the images of one frame have the
    same name. Every frame is a sample.

    Args:
        root: The folder that holds AF, CA and EA.
        protocol: Which ethnicities train and which are tested, as above.
        **shared: The options of `FaceImages`.

    Raises:
        UserError: A folder is missing or named otherwise, or a frame lacks a modality.
    """

    name = 'cefa'
    licence = 'research only, by signed agreement with the authors'
    how_to_get = (
        'Ask the authors of CASIA-SURF CeFA for the data. The root holds AF, CA and EA, each with '
        '<subject>/<video>/{profile,depth,ir}/<frames>.'
    )

    def __init__(
        self,
        *,
        root: str = '',
        protocol: Literal['4@1', '4@2', '4@3', '4@5'] = '4@5',
        **shared: Any,
    ) -> None:
        folder = data_root('cefa', root, self.how_to_get)
        if protocol not in PROTOCOLS:
            raise unknown('protocol of cefa', protocol, PROTOCOLS)
        parts = PROTOCOLS[protocol]
        aside: list[Path] = []
        splits = {name: list(_faces(folder, *part, aside)) for name, part in parts.items()}
        super().__init__(splits, folder, aside, **shared)


def _faces(
    root: Path,
    races: tuple[str, ...],
    subjects: range,
    kinds: tuple[int, ...],
    aside: list[Path],
) -> Iterator[Face]:
    for race in races:
        folder = root / race
        if not has_folder(folder):
            raise UserError(f'{folder}: expected a folder of subjects, found nothing there')
        people = [person for person in entries(folder) if person.is_dir()]
        for video in (video for person in people for video in entries(person)):
            if not video.is_dir():
                continue
            found = re.fullmatch(r'(\d+)_(\d+)_(\d+)_(\d+)_(\d+)', video.name)
            if not found:
                raise UserError(f'{video}: expected a name RACE_ID_ACQUISITION_SESSION_KIND')
            subject, kind = int(found[2]), int(found[5])
            # A folder holds persons of all splits; the number says which split is theirs.
            if subject in subjects and kind in kinds:
                yield from _frames(root, video, kind == LIVE, aside)


def _frames(root: Path, video: Path, live: bool, aside: list[Path]) -> Iterator[Face]:
    """Yields the frames of a video, paired by name; pairing by position would hide a lost frame."""
    frames = {m: _images(video / folder, aside) for m, folder in FOLDERS.items()}
    names = sorted(set().union(*frames.values()))
    for name in names:
        for m in MODALITIES:
            if name not in frames[m]:
                others = '/'.join(FOLDERS[o] for o in MODALITIES if name in frames[o])
                raise UserError(
                    f'{video / FOLDERS[m]}: expected frame {name!r}, which {others} has, '
                    'found nothing there'
                )
        files = {m: frames[m][name] for m in MODALITIES}
        person = f'{video.parent.relative_to(root)}'
        yield Face(f'{video.relative_to(root)}/{name}', files, live, person)


def _images(folder: Path, aside: list[Path]) -> dict[str, Path]:
    if not has_folder(folder):
        raise UserError(f'{folder}: expected a folder of frames, found nothing there')
    return {frame.stem: frame for frame in frames_in(folder, aside)}
