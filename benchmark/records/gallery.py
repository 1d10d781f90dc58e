"""The file of pictures that a run may leave: some test samples under every subset.

A page is made of records alone and never loads a network, so that the pictures must be kept. The
file lies beside the record and names it; it counts only as long as both belong together.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from benchmark.files import read_json, writing
from benchmark.records.checks import check_form
from benchmark.records.identity import content, dumps
from benchmark.records.schema import Record, RecordError

FILE = 'gallery.json'
FORMAT = 1
"""Raised when older versions of this project cannot read the file any more."""

MAX_BYTES = 8 * 2**20
"""Size of the largest file that is read."""

PNG = b'\x89PNG\r\n\x1a\n'
COLOUR = re.compile('#[0-9a-f]{6}')


Rule = Literal['drop', 'disagreement', 'random']
RULES: tuple[Rule, ...] = get_args(Rule)
"""How samples are chosen: the largest drop from all modalities to the worst subset, the largest
disagreement between subsets, and at random."""


class Picture(TypedDict):
    """A picture: its name in `Gallery.pictures`, and what it shows in words."""

    key: str
    text: str


class _Answer(TypedDict):
    error: float


class Answer(_Answer, total=False):
    """What a network answered to a sample under one subset.

    `error` is a fraction (`benchmark.engine.choice.errors`). Classification: `shares` holds the
    probability of each class. Segmentation: `map` shows the labels and `mistakes` the pixels that
    are wrong, whose share is `wrong`.
    """

    shares: list[float]
    map: Picture
    mistakes: Picture
    wrong: float


class _Shown(TypedDict):
    rule: Rule
    value: float
    name: str
    place: str
    inputs: dict[str, Picture]
    answers: dict[str, Answer]


class Shown(_Shown, total=False):
    """A sample, and what became of it.

    `rule` chose it, by the value `value`; `name` is its id and `place`, for volumes, the slice.
    `inputs` lacks the modalities that were not recorded. The truth is `label`, the index of a
    class, or `truth`, a label map.
    """

    label: int
    truth: Picture


class Gallery(TypedDict):
    """The content of the file.

    `identity` is that of the record and `outcomes` the hash of the outcomes that it names. `chosen`
    tells by how many runs the samples were chosen, and `of` among how many. `differs` is the
    largest difference of an error that is shown from the one by the outcomes. `colours` are those
    of the classes in label maps, '#rrggbb', none in classification. `pictures` maps keys to PNG
    files in base64; equal pictures are kept once.
    """

    format: int
    identity: str
    outcomes: str
    chosen: int
    of: int
    differs: float
    colours: list[str]
    samples: list[Shown]
    pictures: dict[str, str]


def key_of(png: bytes) -> str:
    """Returns the name of a picture, which follows from its content."""
    return hashlib.sha256(png).hexdigest()[:16]


def write(folder: Path, gallery: Gallery) -> None:
    """Writes the file into the folder of a run, whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    plain = json.loads(dumps(gallery))
    plain['content'] = content(plain)
    with writing(folder / FILE) as file:
        file.write(f'{dumps(plain)}\n'.encode())


def read(folder: Path, record: Record) -> Gallery | None:
    """Returns the pictures of a run, None if there are none of this very run.

    Args:
        folder: The folder of the run.
        record: Its record.

    Raises:
        RecordError: There is a file that cannot be read, is too large, or holds something else.
    """
    path = folder / FILE
    try:
        if not path.exists():
            return None
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f'expected at most {MAX_BYTES} bytes')
        found = read_json(path)
        if not isinstance(found, dict) or found.get('format') != FORMAT:
            raise ValueError(f'expected an object of format {FORMAT}')
        if found.pop('content', None) != content(found):
            raise ValueError('its content does not fit its hash')
        checked = _checked(found, record)
    except (OSError, ValueError) as error:
        raise RecordError(f'{path}: cannot be used as pictures of samples: {error}') from None
    outcomes = record.get('outcomes', {}).get('outcomes.npz')
    fits = checked['identity'] == record['identity'] and checked['outcomes'] == outcomes
    return checked if fits else None


def _checked(found: dict[str, Any], record: Record) -> Gallery:
    """Checks the form of a gallery, that its pictures are PNG files, and that they are there."""
    pictures = found.get('pictures')
    # Pictures are longer than any text of a record, and are checked on their own.
    check_form({**found, 'pictures': {}}, Gallery)
    if not isinstance(pictures, dict):
        raise RecordError('pictures: expected names and PNG files')
    for key, text in pictures.items():
        if not _is_png(key, text):
            raise RecordError(f'pictures: expected PNG files in base64, found another at {key!r}')
    classes = len(record['dataset']['classes'])
    if any(not COLOUR.fullmatch(colour) for colour in found['colours']):
        raise RecordError('colours: expected #rrggbb')
    if len(found['colours']) not in (0, classes):
        raise RecordError(f'colours: expected {classes}, found {len(found["colours"])}')
    for shown in found['samples']:
        for picture in _pictures(shown):
            if picture['key'] not in pictures:
                raise RecordError(f'pictures: {picture["key"]!r} is missing')
        told = [shown.get('label', 0), *(len(a.get('shares', ())) for a in _answers(shown))]
        if not 0 <= told[0] < classes or not {*told[1:]} <= {0, classes}:
            raise RecordError(f'samples: expected {classes} classes')
    gallery: Gallery = found  # type: ignore[assignment]
    return gallery


def _answers(shown: Mapping[str, Any]) -> list[Answer]:
    return list(shown['answers'].values())


def _pictures(shown: Mapping[str, Any]) -> list[Picture]:
    """Returns all pictures of a sample."""
    answers = [a[k] for a in _answers(shown) for k in ('map', 'mistakes') if k in a]
    return [*shown['inputs'].values(), *answers, *([shown['truth']] if 'truth' in shown else [])]


def _is_png(key: str, text: Any) -> bool:
    try:
        png = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return False
    return png.startswith(PNG) and key_of(png) == key
