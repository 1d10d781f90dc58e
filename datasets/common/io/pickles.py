"""Reads pickle files from other people without executing what they contain.

Unpickling may call any function that the file names. The reader here admits only what numpy arrays
and plain Python values are made of.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmark.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """Encodes text as latin1: all that pickles of bytes by Python 2 need of `codecs.encode`."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'expected bytes as latin1, found {encoding!r}')
    return text.encode('latin1')


def _admitted() -> dict[tuple[str, str], Any]:
    array, number = np.empty(0), np.float64(0)
    names: dict[tuple[str, str], Any] = {
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
        ('_codecs', 'encode'): _encode,
    }
    # NumPy 2 has renamed numpy.core to numpy._core; pickles of either version name their own.
    for core in ('numpy.core', 'numpy._core'):
        names[core + '.multiarray', '_reconstruct'] = array.__reduce__()[0]
        names[core + '.multiarray', 'scalar'] = number.__reduce__()[0]
        names[core + '.numeric', '_frombuffer'] = array.__reduce_ex__(5)[0]
    return names


ADMITTED = _admitted()
"""(Module, name) in a pickle -> the object that takes its place."""


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of numpy arrays, dicts, lists, tuples, strings, bytes and numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the admitted object of this name.

        Raises:
            UserError: No object of this name is admitted.
        """
        if (module, name) not in ADMITTED:
            raise UserError(f'expected arrays, dicts, lists, strings and numbers alone, found '
                            f'{module}.{name}')  # fmt: skip
        return ADMITTED[module, name]


def load_pickle(path: Path) -> Any:
    """Returns the content of a pickle file.

    Raises:
        UserError: The file is missing, is broken, or names anything but arrays and plain values.
    """
    try:
        with path.open('rb') as file:
            return _load(path, file)
    except FileNotFoundError:
        raise UserError(f'{path}: expected a file, found nothing there') from None
    except IsADirectoryError:
        raise UserError(f'{path}: expected a file, found a folder') from None


def load_npy(path: Path) -> np.ndarray:
    """Returns the array of an .npy file; an array of objects is unpickled as by `load_pickle`.

    Raises:
        UserError: The file is missing, is broken, or names anything but arrays and plain values.
    """
    try:
        with path.open('rb') as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            _, _, dtype = read(file)
            if dtype.hasobject:
                return np.asarray(_load(path, file))
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f'{path}: expected a file, found nothing there') from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f'{path}: expected an .npy file: {error}') from None


def _load(path: Path, file: BinaryIO) -> Any:
    try:
        # Pickles of Python 2 hold their strings as bytes, which latin1 maps one to one.
        return ArrayUnpickler(file, encoding='latin1').load()
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except MemoryError:
        raise UserError(f'{path}: does not fit into memory') from None
    # The unpickler raises exceptions of many types on a broken file.
    except Exception as error:
        told = str(error).partition('\n')[0]
        raise UserError(f'{path}: cannot be read, broken or no pickle: {told}') from None
