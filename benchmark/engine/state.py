"""The files that a training goes on from or leaves: read whole and safely, or made again.

A results folder may come from somebody else, and a disk may lose bits. So every file is checked
before its content is used: weights are unpickled as tensors and plain values alone, sums and hashes
must agree, and whatever cannot be read counts as not there. It is named once on the terminal.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import files
from benchmark.engine import locks
from benchmark.engine.contents import BEST, LEFTOVERS, NEWEST, OWNER, RESUME, WEIGHTS
from benchmark.records import identity as hashes
from benchmark.records.archive import matches
from benchmark.records.store import TRAINED

_NAMED: set[Path] = set()


class Unusable(Exception):
    """A file is there, but its content cannot be used; the message says why."""


def name(path: Path, why: object) -> None:
    """Says once on the terminal that a file cannot be used."""
    if path not in _NAMED:
        _NAMED.add(path)
        print(f'{path}: cannot be used ({why}); it is made again', flush=True)


def discard(folder: Path, *names: str) -> None:
    """Removes files of a folder, and folders that stand in the place of one.

    Raises:
        OSError: One of them cannot be removed.
    """
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def make_room(folder: Path, *names: str) -> None:
    """Removes what stands in the place of files that are about to be written and is no file.

    A folder would be an error; a link would lead the writer elsewhere, and a pipe would stop it.

    Raises:
        Busy: Another process has taken a folder that this one held.
    """
    locks.check_held()
    for path in (folder / name for name in names):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            discard(folder, path.name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file with the hash of its content, whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    make_room(path.parent, path.name)
    whole = {**content, 'content': hashes.content(content)}
    with files.writing(path) as file:
        file.write(f'{json.dumps(whole, indent=1, sort_keys=True)}\n'.encode())


def read_json(path: Path, identity: str) -> dict[str, Any] | None:
    """Returns the object in a JSON file of `write_json` that belongs to an experiment.

    Args:
        path: The file.
        identity: Identity of the experiment, which the object holds as 'identity'.

    Returns:
        None if there is no such file, if it cannot be read, which is then said on the terminal, or
        if it belongs to another experiment.
    """
    try:
        found = files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f'expected an object, found {type(found).__name__}')
        if found.get('identity') != identity:
            return None
        if found.pop('content', None) != hashes.content(found):
            raise ValueError('its content does not fit its hash')
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        name(path, _line(error))
        return None
    return found


def save(content: Any, path: Path) -> str:
    """Saves tensors and plain values so that the file is there whole or not at all.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: The file cannot be written.
    """
    # Written by torch itself, a full disk would be a RuntimeError without the file's name.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    make_room(path.parent, path.name)
    with files.writing(path) as file:
        file.write(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def load(path: Path, sha256: str | None = None) -> Any:
    """Returns what `save` saved, on the CPU; no code that the file may hold is run.

    Args:
        path: The file.
        sha256: What the file's hash must be; by default only its own sums are checked.

    Raises:
        Unusable: The file is missing or damaged, or holds anything but tensors and plain values.
    """
    try:
        files.check_file(path)
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise Unusable('its hash is another one')
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # PyTorch compresses nothing; what is compressed could grow without bounds.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise Unusable('a compressed member')
            if archive.testzip() is not None:
                raise Unusable('a checksum does not agree')
        return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    except Unusable:
        raise
    except Exception as error:  # damaged bytes make every part of the reader raise what it likes
        raise Unusable(_line(error)) from error


def _line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).strip().splitlines()[0][:100]


def fits(weights: Any, own: Mapping[str, Tensor]) -> bool:
    """Returns whether loaded weights have the names and shapes of a network's own."""
    if not isinstance(weights, dict) or weights.keys() != own.keys():
        return False
    return all(isinstance(x, Tensor) and x.shape == own[k].shape for k, x in weights.items())


def load_weights(path: Path, own: Mapping[str, Tensor], sha256: str | None = None) -> Any:
    """Returns the weights in a file.

    Args:
        path: The file.
        own: The network's state, whose names and shapes the weights must have.
        sha256: As in `load`.

    Raises:
        Unusable: The file is missing or damaged, or belongs to another network.
    """
    weights = load(path, sha256)
    if not fits(weights, own):
        raise Unusable('its weights are those of another network')
    return weights


def keep_trained(
    folder: Path, identity: str, weights: Mapping[str, Tensor], summary: dict[str, Any]
) -> None:
    """Writes the weights of a finished training, then how it went, and removes its leftovers.

    Raises:
        UserError: The files cannot be written.
    """
    sha256 = save(weights, folder / WEIGHTS)
    write_json(folder / TRAINED, {**summary, 'identity': identity, 'sha256': sha256})
    discard(folder, *LEFTOVERS)


def is_trained(folder: Path, identity: str) -> bool:
    """Returns whether a finished training of this very experiment lies in a folder.

    The weights are not read: this serves to count what is left to do.
    """
    return read_json(folder / TRAINED, identity) is not None and (folder / WEIGHTS).is_file()


def read_trained(
    folder: Path, identity: str, own: Mapping[str, Tensor]
) -> tuple[Any, dict[str, Any]] | None:
    """Returns the weights of a finished training and how it went, None if it must be done again.

    Args:
        folder: Where they lie.
        identity: Identity of the experiment.
        own: The network's state, whose names and shapes the weights must have.
    """
    summary = read_json(folder / TRAINED, identity)
    if summary is None:
        return None
    try:
        return load_weights(folder / WEIGHTS, own, str(summary.get('sha256'))), summary
    except Unusable as error:
        name(folder / WEIGHTS, error)
        return None


def epochs_done(folder: Path, identity: str) -> int:
    """Returns after how many epochs a stopped training of this very experiment would go on.

    0 where none can go on; the weights are not compared with a network.
    """
    if read_json(folder / OWNER, identity) is None or not (folder / RESUME).exists():
        return 0
    try:
        found = load(folder / RESUME)
    except Unusable as error:
        name(folder / RESUME, error)
        return 0
    if not isinstance(found, dict) or found.get('identity') != identity:
        return 0
    epoch = found.get('epoch')
    return epoch if isinstance(epoch, int) else 0


def begin(folder: Path, identity: str, epochs: int) -> None:
    """Says whose state a folder will hold; what another experiment left there is removed.

    Args:
        folder: The folder of the network.
        identity: Identity of the network.
        epochs: How many epochs its training has, for who looks at the folder meanwhile.

    Raises:
        UserError: The file cannot be written.
    """
    discard(folder, RESUME, BEST, NEWEST)
    write_json(folder / OWNER, {'identity': identity, 'epochs': epochs})


def read_resume(folder: Path, identity: str, own: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Returns the state that a stopped training goes on from, None if it must begin anew.

    The identity lies beside the state, so that nothing of another experiment is unpickled.
    """
    path = folder / RESUME
    if read_json(folder / OWNER, identity) is None or not path.exists():
        return None
    try:
        found = load(path)
        if not isinstance(found, dict) or found.get('identity') != identity:
            raise Unusable('it is of another training')
        if not fits(found.get('state_dict'), own):
            raise Unusable('its weights are those of another network')
        path, sha256 = folder / BEST, _selected(found)
        if sha256 is not None and matches(folder / NEWEST, sha256):
            promote(folder)
        discard(folder, NEWEST)
        if sha256 is not None or path.exists():
            load_weights(path, own, sha256)  # else the last epoch would find out
        return found
    except Unusable as error:
        name(path, error)
        return None


def promote(folder: Path) -> None:
    """Puts weights that were just selected in the place of those before; the state names them.

    Whoever goes on from an older state may select others when it trains the epoch again.
    """
    if (folder / NEWEST).exists():
        make_room(folder, BEST)
        os.replace(folder / NEWEST, folder / BEST)


def _selected(found: Mapping[str, Any]) -> str | None:
    """Returns the hash of the weights that a stopped training had selected, if it had."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return str(json.loads(found['selection'])['best'])
    return None
