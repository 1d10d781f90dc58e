"""The layouts of nnU-Net and of the Medical Segmentation Decathlon, which number channels.

Both keep images in `imagesTr`, labels in `labelsTr`, and the names of channels and labels in
`dataset.json`. nnU-Net has one file for each channel, `imagesTr/CASE_0000.nii.gz`; the Decathlon
has one file with four axes for each case, `imagesTr/CASE.nii.gz`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.names import check_modalities
from datasets.common.families.volume_files import prepare_cases
from datasets.common.families.volumes import SEGMENTATION, Regions
from datasets.common.io.folders import is_litter, walk_all
from datasets.common.io.nifti import Channel, Volume, channels, suffix
from datasets.common.io.paths import has_file, has_folder
from datasets.common.prepare.preparation import Preparation

IMAGES, LABELS, UNLABELLED = 'imagesTr', 'labelsTr', 'imagesTs'
CONTENT = 'dataset.json'
FORMATS = ('.nii.gz', '.nii')

Cases = dict[str, dict[str, Volume]]
"""Case -> modality or 'seg' -> where it is."""


class Content(NamedTuple):
    """What `dataset.json` tells.

    Attributes:
        names: The modalities, in the order of the channels.
        regions: (name, labels) of each region, without the background.
    """

    names: tuple[str, ...]
    regions: Regions


def is_numbered(source: Path) -> bool:
    """Returns whether a folder has the layout of nnU-Net or of the Decathlon."""
    if not source.is_dir():
        return False
    known = {IMAGES.lower(), LABELS.lower(), UNLABELLED.lower()}
    return any(path.name.lower() in known for path in source.iterdir() if path.is_dir())


def prepare_numbered(work: Preparation, source: Path) -> None:
    """Writes the root of volumes from one of the two layouts, in a folder.

    Raises:
        UserError: A file is missing, broken or does not fit `dataset.json`.
    """
    for folder in (IMAGES, LABELS):
        if not has_folder(source / folder):
            there = sorted(p.name for p in source.iterdir())
            raise UserError(f'{source}: expected {folder}, found {", ".join(there)[:200]}')
    content = read_content(source / CONTENT)
    cases: Cases = {}
    for case, file in _volumes(work, source, LABELS).items():
        cases[case] = {SEGMENTATION: file}
    for stem, file in _volumes(work, source, IMAGES).items():
        case, found = _channels(stem, file, content, cases)
        if case in cases:
            _add(file, cases[case], found)
        else:
            work.remarks.add(f'cases left out, for they have no file in {LABELS}', case)
    if not cases:
        raise UserError(f'{source / LABELS}: expected CASE.nii.gz, found none')
    if has_folder(source / UNLABELLED):
        kind = f'files of {UNLABELLED} left out, for only {IMAGES} has labels here'
        for name in _volumes(work, source, UNLABELLED):
            work.remarks.add(kind, name)
    known = {label for _, members in content.regions for label in members}
    prepare_cases(work, cases, {k: k for k in sorted({0} | known)}, (), content.regions)


def _add(file: Path, case: dict[str, Volume], found: dict[str, Volume]) -> None:
    """Adds the volumes of a file to those of its case.

    Raises:
        UserError: The case has one of these modalities already.
    """
    for name, volume in found.items():
        if name in case:
            raise UserError(f'{file}: expected one file of {name}, found two')
        case[name] = volume


def _volumes(work: Preparation, source: Path, folder: str) -> dict[str, Path]:
    """Returns name without suffix -> file, of the volumes in a folder of the source.

    Raises:
        UserError: Two files differ in nothing but their suffix.
    """
    found: dict[str, Path] = {}
    for file in walk_all(source / folder):
        end, path = suffix(file.name), str(file.relative_to(source))
        if end not in FORMATS or is_litter(file.name) or file.parent.name != folder:
            work.remarks.add('files left out, for they are no NIfTI files of the layout', path)
            continue
        stem = file.name[: -len(end)]
        if stem in found:
            raise UserError(f'{file}: expected one file of this name, found {found[stem].name} too')
        found[stem] = file
    return found


def _channels(
    stem: str, file: Path, content: Content, labelled: Cases
) -> tuple[str, dict[str, Volume]]:
    """Returns the case of an image, and its volumes by modality.

    Raises:
        UserError: The channels of the file are not those of `dataset.json`.
    """
    numbered = re.fullmatch(r'(.+)_(\d{4})', stem)
    if stem in labelled or numbered is None:
        count = channels(file)
        if count != len(content.names):
            raise UserError(
                f'{file}: expected {len(content.names)} channels, {", ".join(content.names)}, as '
                f'in {CONTENT}, found {count}'
            )
        if count == 1:
            return stem, {content.names[0]: file}
        return stem, {name: Channel(file, k) for k, name in enumerate(content.names)}
    case, number = numbered[1], int(numbered[2])
    if number >= len(content.names):
        raise UserError(
            f'{file}: expected a channel from 0000 to {len(content.names) - 1:04d}, as in '
            f'{CONTENT}, found {numbered[2]}'
        )
    return case, {content.names[number]: file}


def read_content(file: Path) -> Content:
    """Reads `dataset.json` of nnU-Net (version 1 or 2) or of the Decathlon.

    Raises:
        UserError: It is missing, broken, or does not name channels and labels.
    """
    if not has_file(file):
        raise UserError(f'{file}: expected the names of channels and labels, found no file')
    try:
        found = read_json(file)
    except ValueError as error:
        raise UserError(f'{file}: cannot be read: {error}') from None
    given = found if isinstance(found, dict) else {}
    end = given.get('file_ending', FORMATS[0])
    if end not in FORMATS:
        raise UserError(f'{file}: file_ending: expected {" or ".join(FORMATS)}, found {end!r}')
    key = 'channel_names' if 'channel_names' in given else 'modality'
    names = _names(file, key, given.get(key))
    return Content(names, _regions(file, given.get('labels')))


def _names(file: Path, key: str, given: Any) -> tuple[str, ...]:
    """Returns the modalities of {'0': 'FLAIR', '1': 'T1w'}, as words."""
    numbers = [str(k) for k in range(len(given))] if isinstance(given, dict) else []
    if not numbers or sorted(given, key=str) != sorted(numbers):
        raise UserError(
            f'{file}: {key}: expected the names of the channels, {{"0": "FLAIR", ...}}, '
            f'found {given!r:.80}'
        )
    names = tuple(_word(f'{file}: {key}', given[k], r'[^\w-]+') for k in numbers)
    low = [name.lower() for name in names]
    for name in names:
        if low.count(name.lower()) > 1 or name.lower() == SEGMENTATION:
            raise UserError(
                f'{file}: {key}: expected different names, none of them {SEGMENTATION}, '
                f'found {", ".join(names)}'
            )
    check_modalities(str(file), names)
    return names


def _regions(file: Path, given: Any) -> Regions:
    """Returns the regions of {'tumour': 1} or {'whole tumour': [1, 2]}, or of {'1': 'tumour'}."""
    where = f'{file}: labels'
    if not isinstance(given, dict) or not given:
        raise UserError(f'{where}: expected {{"background": 0, ...}}, found {given!r:.80}')
    older = all(k.isdecimal() and isinstance(v, str) for k, v in given.items())
    pairs = [(v, int(k)) for k, v in given.items()] if older else list(given.items())
    regions: dict[str, tuple[int, ...]] = {}
    for name, value in pairs:
        members = value if isinstance(value, list) else [value]
        if not members or not all(type(k) is int and 0 <= k < 255 for k in members):
            raise UserError(f'{where}: expected whole numbers from 0 to 254, found {value!r:.80}')
        if name.lower() == 'ignore':
            raise UserError(
                f'{where}: expected no label that is ignored, because every voxel is trained and '
                f'scored here, found {name} {value}; give its voxels a label, or remove them'
            )
        word = _word(where, name, r'[^\w.+-]+')
        if word in regions:
            raise UserError(f'{where}: expected different names, found {word} twice')
        if members != [0]:
            regions[word] = tuple(sorted({*members} - {0}))
    if not regions:
        raise UserError(f'{where}: expected a label above 0, found {given!r:.80}')
    return tuple(regions.items())


def _word(where: str, given: Any, others: str) -> str:
    """Returns a name as one word of the characters that tables can bear."""
    word = re.sub(others, '_', given).strip('_-.+') if isinstance(given, str) else ''
    if not word:
        raise UserError(f'{where}: expected names with letters or digits, found {given!r:.80}')
    return word
