"""What the files in the folder of a run or a trial are called, and what shows without PyTorch."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

from benchmark import files

RESUME, OWNER, BEST = 'resume.pth', 'resume.json', 'best.pth'
"""The state of a training that goes on, whose it is, and the weights selected so far."""

NEWEST = 'newest.pth'
"""Weights that were selected just now, until the state that names them is written."""

WEIGHTS = 'checkpoint.pth'
"""The weights of a finished training; `store.TRAINED` says how it went."""

LEFTOVERS = (RESUME, BEST, NEWEST, OWNER)
"""What a finished training does not need, in the order in which it is removed."""

TRIAL, SEARCH = 'trial.json', 'search.json'
"""What became of a trial, in its folder; and how many trials there are, in the folder above."""

EARLIER = ('teacher', 'pretraining')
"""Folders beside the trials of searches: what is trained before them, and that they share."""

HEAD = 2**16
"""Bytes at the start of a pickle in which the epoch must stand."""

ANEW = '.part-anew'
"""Folder, inside that of a finished run, of the files that are to replace those of the run."""

FAILED = 'failed.json'
"""Why a finished run or trial was not done again; what it left before has stayed."""


def home(path: Path) -> Path:
    """Returns where a file or a folder of a run that is done again belongs in the end."""
    return Path(*(name for name in path.parts if name != ANEW))


def saved_epochs(path: Path) -> int:
    """Returns after how many epochs a training would go on, as its resume file says.

    The pickle in the file is read word by word, and nothing of it is carried out.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read.
        ValueError: It is no file, is damaged, or holds no epoch.
    """
    files.check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith('/data.pkl'))
            with archive.open(name) as file:
                words = _words(file.read(HEAD))
        epoch = words[words.index('epoch') + 1]
    except OSError:
        raise
    except Exception as error:  # damaged bytes make every part of the reader raise what it likes
        raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(epoch, int):
        raise ValueError('it holds no epoch')
    return epoch


def _words(pickle: bytes) -> list[str | int | None]:
    """Returns the texts and numbers at the start of a pickle, and None for whatever else it says.

    A pickle is a program for a small machine. What puts a value aside for later is left out.
    """
    found: list[str | int | None] = []
    try:
        for code, value, _ in pickletools.genops(pickle):
            if 'PUT' not in code.name and code.name != 'MEMOIZE':
                plain = 'UNICODE' in code.name or 'INT' in code.name
                found.append(value if plain and isinstance(value, str | int) else None)
    except ValueError:
        pass  # the head ends within a word
    return found
