"""Pickles of strangers, read without running what they ask for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmark.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """Does what old pickles need of `codecs.encode` for bytes, and nothing else."""
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
    # NumPy 2 has moved what older pickles, and pickles of itself, name.
    for core in ('numpy.core', 'numpy._core'):
        names[core + '.multiarray', '_reconstruct'] = array.__reduce__()[0]
        names[core + '.multiarray', 'scalar'] = number.__reduce__()[0]
        names[core + '.numeric', '_frombuffer'] = array.__reduce_ex__(5)[0]
    return names


ADMITTED = _admitted()
"""Module and name -> what a pickle gets for it."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, dicts, lists, tuples, strings, bytes and numbers alone."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what is admitted under this name.

        Raises:
            UserError: Nothing is.
        """
        if (module, name) not in ADMITTED:
            raise UserError(f'expected arrays, dicts, lists, strings and numbers alone, found '
                            f'{module}.{name}')  # fmt: skip
        return ADMITTED[module, name]


def load_pickle(path: Path) -> Any:
    """Returns what a pickle holds.

    Raises:
        UserError: It is missing or broken, or would load anything but arrays and plain values.
    """
    try:
        with path.open('rb') as file:
            return _load(path, file)
    except FileNotFoundError:
        raise UserError(f'{path}: expected a file, found nothing there') from None
    except IsADirectoryError:
        raise UserError(f'{path}: expected a file, found a folder') from None


def load_npy(path: Path) -> np.ndarray:
    """Returns the array of an .npy file, also one of objects.

    Raises:
        UserError: As `load_pickle`.
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
        # What Python 2 wrote has its strings as bytes.
        return ArrayUnpickler(file, encoding='latin1').load()
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except MemoryError:
        raise UserError(f'{path}: does not fit into memory') from None
    # A broken stream of opcodes raises whatever its opcodes raise.
    except Exception as error:
        told = str(error).partition('\n')[0]
        raise UserError(f'{path}: cannot be read, broken or no pickle: {told}') from None
