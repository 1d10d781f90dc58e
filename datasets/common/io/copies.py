"""Samples of validation and test whose content is in the training split as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from benchmark.errors import UserError, unknown
from datasets.common.io.remembered import combined, hashes

Duplicates = Literal['report', 'refuse']
"""The option `duplicates` of data sets; see `copies`."""

NAMED = 3
"""How many of the copies are named."""


def copies(
    where: Path | str, contents: Mapping[str, Mapping[str, str]], duplicates: Duplicates = 'report'
) -> list[str]:
    """Returns what to say of samples that are in the training split under another name, too.

    Args:
        where: The data root, for messages.
        contents: 'train', 'val', 'test' -> sample -> hash of the content of all its modalities.
        duplicates: 'report' returns the lines; 'refuse' takes a copy for an error.

    Raises:
        UserError: `duplicates` is 'refuse' and there are copies, or it is neither of both.
    """
    if duplicates not in ('report', 'refuse'):
        raise unknown('value of duplicates', duplicates, ('report', 'refuse'))
    trained = {content: sample for sample, content in contents['train'].items()}
    told = []
    for name in ('val', 'test'):
        found = [(s, trained[c]) for s, c in contents[name].items() if c in trained]
        if not found:
            continue
        pairs = ', '.join(f'{sample} (train: {twin})' for sample, twin in found[:NAMED])
        more = ', ...' if found[NAMED:] else ''
        count = f'{len(found)} of {len(contents[name])} samples of {name}'
        told.append(f'{count} are copies of training samples: {pairs}{more}')
    if told and duplicates == 'refuse':
        raise UserError(f'{where}: expected no duplicates, found {"; ".join(told)}')
    return told


def copied_files(
    where: Path | str,
    files: Mapping[str, Mapping[str, Sequence[Path | None]]],
    duplicates: Duplicates = 'report',
) -> list[str]:
    """Returns `copies` of samples that are made of files.

    Args:
        where: The data root, for messages.
        files: 'train', 'val', 'test' -> sample -> its file of every modality, None if it has none.
        duplicates: See `copies`.

    Raises:
        UserError: A file is missing, or see `copies`.
    """
    paths = [p for samples in files.values() for one in samples.values() for p in one if p]
    known = dict(zip(paths, hashes(paths), strict=True))
    contents = {
        name: {s: combined(known[p] if p else '' for p in one) for s, one in samples.items()}
        for name, samples in files.items()
    }
    return copies(where, contents, duplicates)
