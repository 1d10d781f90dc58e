"""The inputs of a user's own arrays: which there are, of what kind, and how they are laid out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.errors import UserError, unknown
from benchmark.names import check_modalities
from datasets.common.io.inspection import numbers_of
from datasets.common.io.layouts import LAYOUTS, layout_of
from datasets.common.io.rows import real_frames

KINDS = {'vector': (2,), 'sequence': (3,), 'image': (3, 4)}
"""Kind of an input -> the numbers of axes that its array may have, the samples' axis included."""
NARROW = 4
"""If A and B differ by this factor, (N, A, B) may as well be sequences as images."""
OF_INPUTS = ('kind', 'length', 'layout')
"""First parts of keys that say something of one input."""
NEEDED = ('target', 'split')
"""Keys beside the inputs without which nothing can be trained."""
OPTIONAL = ('inputs', 'available', 'classes', 'cluster', *OF_INPUTS)
"""Keys, or their first parts, beside `target` and `split`; similar keys are taken for misspelt."""


class Input(NamedTuple):
    """One modality.

    Attributes:
        values: (N, D), (N, T, D) or (N, C, H, W).
        kind: 'vector', 'sequence' or 'image'.
        real: (N, T) bool, which frames of a sequence are no padding; None if it has no lengths.
        layout: Which axis of an array of four axes held the channels; '' for other arrays.
    """

    values: np.ndarray
    kind: str
    real: np.ndarray | None
    layout: str = ''

    @property
    def facts(self) -> dict[str, str]:
        """What new images are checked by (`benchmark.dataset.Preparation`); nothing for others."""
        if self.kind != 'image':
            return {}
        layout = {'layout': self.layout} if self.layout else {}
        return {'numbers': numbers_of(self.values.dtype), **layout}


def read_inputs(
    root: Path, raw: Mapping[str, np.ndarray], chosen: Sequence[str] = ()
) -> dict[str, Input]:
    """Returns modality -> input.

    Args:
        root: The file or folder, for messages.
        raw: Key -> array.
        chosen: The modalities to read, in this order; all of them by default.

    Raises:
        UserError: There are no inputs, a key is not as `datasets.arrays.Arrays` says, or a key
            looks like a misspelt one, which would have no effect.
    """
    named = {k.partition('/')[2]: v for k, v in raw.items() if k.startswith('inputs/')}
    if not named:
        raise lacks(root, 'keys inputs/<modality>', 'inputs', raw)
    _check_keys(root, raw, named)
    for name in chosen:
        if name not in named:
            raise unknown(f'modality in {root}', name, named)
    named = {name: named[name] for name in chosen or named}
    check_modalities(str(root), tuple(named))
    return {name: _input(root, raw, name) for name in named}


def is_read(key: str, inputs: Iterable[str]) -> bool:
    """Returns whether a key is read, if these are the modalities that are."""
    head, slash, name = key.partition('/')
    if slash:
        return head in ('inputs', *OF_INPUTS) and name in inputs
    return head in ('target', 'split', 'available', 'classes', 'cluster')


def fail(root: Path, key: str, expected: str, found: Any) -> UserError:
    """Returns the error for the content of a key."""
    return UserError(f'{root}: {key}: expected {expected}, found {found}')


def lacks(root: Path, expected: str, key: str, raw: Iterable[str]) -> UserError:
    """Returns the error for a key that is not there.

    Args:
        root: The file or folder.
        expected: What is expected, in words.
        key: The key.
        raw: The keys that are there.
    """
    found = sorted(raw)
    near = difflib.get_close_matches(key, [k.partition('/')[0].lower() for k in found], 1, 0.75)
    meant = [k for k in found if near and k.partition('/')[0].lower() == near[0]]
    hint = f'; rename {meant[0]!r} to {_renamed(meant[0], key)!r}' if meant else ''
    return UserError(f'{root}: expected {expected}, found {", ".join(found) or "none"}{hint}')


def _renamed(found: str, key: str) -> str:
    """Returns a key whose first part was misspelt as it should be."""
    return key + ''.join(found.partition('/')[1:])


def texts(root: Path, key: str, given: np.ndarray) -> tuple[str, ...]:
    """Returns the names (n,) that a key holds, as text or as bytes.

    Raises:
        UserError: Bytes are no text in UTF-8.
    """
    try:
        return tuple(c.decode() if isinstance(c, bytes) else str(c) for c in given.tolist())
    except UnicodeDecodeError as error:
        raise fail(root, key, 'text in UTF-8', f'{error.object!r}') from None


def clusters_of(root: Path, given: np.ndarray | None, count: int) -> np.ndarray | None:
    """Returns the names (count,) that the key `cluster` holds; None where there is no such key.

    Raises:
        UserError: There is not one printable name for each sample.
    """
    if given is None:
        return None
    if given.shape != (count,) or given.dtype.kind not in 'iuSU':
        raise fail(root, 'cluster', f'names or whole numbers ({count},)', about(given))
    names = texts(root, 'cluster', given)
    for row, name in enumerate(names):
        if not name.strip() or not name.isprintable():
            raise fail(root, 'cluster', 'printable names', f'{ascii(name)} in row {row}')
    return np.array(names)


def about(x: np.ndarray) -> str:
    """Returns type and shape of an array, for messages."""
    return f'{x.dtype} {x.shape}'


def _check_keys(root: Path, raw: Mapping[str, np.ndarray], named: Iterable[str]) -> None:
    for key in raw:
        head, _, name = key.partition('/')
        if head in OF_INPUTS and name not in named:
            raise UserError(f'{root}: {key}: {unknown("modality", name, named)}')
        near = difflib.get_close_matches(head, OPTIONAL, 1, 0.75)
        if near and head not in OPTIONAL:
            raise UserError(f'{root}: {unknown("key", head, (*OPTIONAL, *NEEDED))}')


def _input(root: Path, raw: Mapping[str, np.ndarray], name: str) -> Input:
    x = raw[f'inputs/{name}']
    if x.dtype.kind not in 'fiub' or x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise fail(root, f'inputs/{name}', 'numbers (N, ...) of 2 to 4 axes', about(x))
    kind = _word(root, raw, f'kind/{name}', KINDS)
    # Beside label maps, all inputs are images.
    dense = np.ndim(raw['target']) == 3
    if not (kind or dense) and x.ndim == 3 and max(x.shape[1:]) >= NARROW * min(x.shape[1:]):
        expected = f'a key kind/{name} that says sequence or image'
        raise fail(root, f'inputs/{name}', expected, f'{x.shape}, which leaves it open')
    kind = kind or ('vector' if x.ndim == 2 else 'image')
    if x.ndim not in KINDS[kind]:
        axes = ' or '.join(map(str, KINDS[kind]))
        raise fail(root, f'inputs/{name}', f'{axes} axes for the kind {kind}', about(x))
    layout = _word(root, raw, f'layout/{name}', LAYOUTS)
    if layout and x.ndim != 4:
        raise fail(root, f'layout/{name}', 'an image of 4 axes with it', about(x))
    if x.ndim == 3 and kind == 'image':
        x = x[:, None]
    elif x.ndim == 4:
        layout = layout or layout_of(x.shape[1:])
        if not layout:
            expected = f'a key layout/{name} that says channels_first or channels_last'
            raise fail(root, f'inputs/{name}', expected, f'{x.shape}, which leaves it open')
        x = x.transpose(0, 3, 1, 2) if layout == 'channels_last' else x
    return Input(x, kind, _real(root, raw.get(f'length/{name}'), name, x, kind), layout)


def _word(root: Path, raw: Mapping[str, np.ndarray], key: str, choices: Iterable[str]) -> str:
    """Returns the word that a key holds; '' if there is no such key."""
    if key not in raw:
        return ''
    given = np.asarray(raw[key])
    word = str(given.ravel()[0]) if given.size == 1 else ''
    if word not in choices:
        raise fail(root, key, f'one of {", ".join(choices)}', word or about(given))
    return word


def _real(
    root: Path, given: np.ndarray | None, name: str, x: np.ndarray, kind: str
) -> np.ndarray | None:
    if given is None:
        return None
    key = f'length/{name}'
    if kind != 'sequence':
        expected = f"the key kind/{name} with the value 'sequence' beside it"
        raise fail(root, key, expected, f'an input that is taken as {kind!r}')
    if given.shape != (len(x),) or given.dtype.kind not in 'iu':
        raise fail(root, key, f'integers ({len(x)},)', about(given))
    bad = np.flatnonzero((given < 1) | (given > x.shape[1]))
    if len(bad):
        raise fail(root, key, f'1 to {x.shape[1]}', f'{given[bad[0]]} in row {bad[0]}')
    return real_frames(given, x.shape[1])
