"""Verification of a data root: its files, its splits, and every row of every modality."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmark.dataset import SPLITS, Dataset, Rows, Split
from benchmark.errors import UserError
from benchmark.files import Entry, digest
from datasets.common.io.files import Files
from datasets.common.prepare.findings import LIMIT, Findings
from datasets.common.prepare.journal import JOURNAL
from datasets.common.prepare.manifest import MANIFEST, read_manifest
from datasets.common.prepare.row_checks import Chunk, Problem, read, threads


def verify_files(root: Path, dataset: str, quick: bool, findings: Findings) -> None:
    """Compares the files of a prepared data root with its manifest.

    Args:
        root: The data root.
        dataset: Registered name of the data set.
        quick: Compares the sizes of the files but not their hashes.
        findings: The problems are added to it.
    """
    try:
        manifest = read_manifest(root)
    except UserError as error:
        findings.add('manifest', str(error))
        return
    if manifest is None:
        if (root / JOURNAL).is_file():
            findings.add(
                'manifest', f'{root}: its preparation has not ended; run its command again'
            )
        findings.note(f'no {MANIFEST} in {root}: no checksums to compare with')
        return
    if manifest.dataset != dataset:
        where = root / MANIFEST
        findings.add('manifest', f'{where}: expected {dataset}, found {manifest.dataset}')

    def compare(item: tuple[str, Entry]) -> Problem | None:
        return _compare(root / item[0], item[1], quick)

    for problem in threads(compare, list(manifest.files.items()), 'files'):
        if problem:
            findings.add(*problem)


def _compare(path: Path, entry: Entry, quick: bool) -> Problem | None:
    try:
        size = path.stat().st_size
        if size != entry.size:
            return 'changed files', f'{path}: expected {entry.size} bytes, found {size}'
        if not quick and digest(path) != entry:
            return 'changed files', f'{path}: its SHA-256 is not the one in {MANIFEST}'
    except FileNotFoundError:
        return 'missing files', str(path)
    except OSError as error:
        return 'unreadable files', f'{path}: {error.strerror}'
    return None


def verify_splits(data: Dataset, quick: bool, findings: Findings) -> str:
    """Verifies the splits of an open data set: counts, pairing, overlap, and every row.

    Args:
        data: The data set.
        quick: Checks that files exist but does not read them; reads only arrays in memory.
        findings: The problems are added to it.

    Returns:
        A table with a row for each split: the number of samples, the published number if it is
        known, how many samples each modality is available for, and how many classes occur.
    """
    for note in data.notes:
        findings.note(note)
    splits = {}
    for name in SPLITS:
        try:
            splits[name] = data.split(name)
        except UserError as error:
            findings.add('splits', str(error))
    sound = {name: s for name, s in splits.items() if _paired(data, name, s, findings)}
    for name, split in sound.items():
        _sizes(data, name, split, findings)
        _gaps(data, name, split, findings)
    _overlaps(sound, findings)
    present = _content(data, sound, quick, findings)
    for name, classes in present.items():
        _absent_classes(data, name, classes, findings)
    return _table(data, sound, present)


def _paired(data: Dataset, name: str, split: Split, findings: Findings) -> bool:
    """Checks the number of samples; returns whether inputs, target and availability agree on it."""
    count, names = len(split.ids), data.task.names
    lengths = {m: len(x) for m, x in split.inputs.items()} | {'target': len(split.target)}
    expected = {**dict.fromkeys(names, count), 'target': count}
    if lengths != expected:
        findings.add('unpaired modalities', f'{name}: expected {expected}, found {lengths}')
    shape = (count, len(names))
    fits = split.available.shape == shape and split.available.dtype == bool
    if not fits:
        findings.add(
            'unpaired modalities',
            f'{name}: available: expected bool {shape}, '
            f'found {split.available.dtype} {split.available.shape}',
        )
    published = data.published_sizes.get(name, count)
    if count != published or not count:
        findings.add('counts', f'{name}: expected {published or "some"} samples, found {count}')
    return lengths == expected and fits


def _sizes(data: Dataset, name: str, split: Split, findings: Findings) -> None:
    """Compares the shapes of inputs with the task's, and heights and widths with each other."""
    larger = name == 'train' and split.augment is not None
    extents = {}
    for modality in data.task.modalities:
        found, expected = tuple(split.inputs[modality.name].shape[1:]), modality.shape
        if modality.kind == 'volume' and name != 'train':  # of any size, for windows
            expected = (expected[0], *split.target.shape[1:])
        holds = found[:-2] == expected[:-2] and min(np.subtract(found, expected)[-2:]) >= 0
        if found != expected and not (larger and modality.kind == 'image' and holds):
            findings.add('shapes', f'{name}: {modality.name}: expected {expected}, found {found}')
        if modality.kind == 'image':
            extents[modality.name] = found[-2:]
    if data.task.kind == 'segmentation' and name == 'train':
        extents['target'] = tuple(split.target.shape[1:])
    if len(set(extents.values())) > 1:
        findings.add('shapes', f'{name}: expected one height and width, found {extents}')


def _gaps(data: Dataset, name: str, split: Split, findings: Findings) -> None:
    for row in np.flatnonzero(~split.available.any(1)):
        findings.add('samples without any modality', f'{name}: {split.ids[row]}')
    for column, modality in enumerate(data.task.names):
        gaps = int((~split.available[:, column]).sum())
        if gaps:
            findings.note(f'{name}: {gaps} of {len(split)} samples have no {modality}')


def _overlaps(splits: dict[str, Split], findings: Findings) -> None:
    """Finds ids that are not unique, and samples, groups or files that are in two splits."""
    for name, split in splits.items():
        ids, times = np.unique(split.ids, return_counts=True)
        for one, count in zip(ids[times > 1], times[times > 1], strict=True):
            findings.add('ids that are not unique', f'{name}: {one} is there {count} times')
    for a, b in itertools.combinations(splits, 2):
        for what, members in {'sample': _ids, 'group': _groups, 'file': _files}.items():
            for one in sorted(members(splits[a]) & members(splits[b])):
                findings.add('overlap of splits', f'{what} {one} is in {a} and in {b}')


def _ids(split: Split) -> set[str]:
    return set(map(str, split.ids))


def _groups(split: Split) -> set[str]:
    return set() if split.groups is None else set(map(str, split.groups))


def _files(split: Split) -> set[str]:
    return {str(path) for source in split.inputs.values() for path in _paths(source)}


def _paths(source: Rows) -> list[Path]:
    return source.paths if isinstance(source, Files) else []


def _content(
    data: Dataset, splits: dict[str, Split], quick: bool, findings: Findings
) -> dict[str, np.ndarray]:
    """Reads all rows; returns split -> (K,) bool, the classes that occur, if labels were read."""
    jobs: list[Chunk] = []
    for name, split in splits.items():
        for column, modality in enumerate(data.task.names):
            rows = np.flatnonzero(split.available[:, column])
            source = split.inputs[modality]
            jobs += _jobs(Chunk(name, modality, source, rows, split.ids[rows], 0), findings)
        everything = np.arange(len(split))
        labels = len(data.task.classes)
        target = Chunk(name, 'target', split.target, everything, split.ids, labels)
        jobs += _jobs(target, findings)
    if quick:
        jobs = [job for job in jobs if isinstance(job.source, np.ndarray)]
    present: dict[str, np.ndarray] = {}
    for job, content in zip(
        jobs, threads(read, jobs, 'rows', [len(j.rows) for j in jobs]), strict=True
    ):
        for problem in content.problems:
            findings.add(*problem)
        if job.classes:
            present[job.split] = present.get(job.split, False) | content.present
    return present


def _jobs(chunk: Chunk, findings: Findings) -> list[Chunk]:
    """Returns the rows of a chunk whose files exist, in smaller chunks."""
    paths = _paths(chunk.source)
    if paths:
        there = np.array([paths[row].is_file() for row in chunk.rows], dtype=bool)
        for row in chunk.rows[~there]:
            findings.add('missing files', str(paths[row]))
        chunk = chunk._replace(rows=chunk.rows[there], ids=chunk.ids[there])
    return chunk.cut()


def _absent_classes(data: Dataset, name: str, present: np.ndarray, findings: Findings) -> None:
    absent = [c for c, there in zip(data.task.classes, present, strict=True) if not there]
    if not absent:
        return
    more = ', ...' if absent[LIMIT:] else ''
    text = f'{name}: {len(absent)} of {len(present)}: {", ".join(absent[:LIMIT])}{more}'
    if name == 'val':
        # Where it is a part of the published training samples, a rare class may be absent from it.
        findings.note(f'classes without samples: {text}')
    else:
        findings.add('classes without samples', text)


def _table(data: Dataset, splits: dict[str, Split], present: dict[str, np.ndarray]) -> str:
    rows = []
    for name, split in splits.items():
        row: list[object] = [name, len(split)]
        row += [data.published_sizes.get(name, '')] if data.published_sizes else []
        row += split.available.sum(0).tolist()
        found = present.get(name)
        row.append('not read' if found is None else f'{found.sum()} of {found.size}')
        rows.append(row)
    published = ['published'] if data.published_sizes else []
    headers = ['split', 'samples', *published, *data.task.names, 'classes']
    align = ['left'] + ['right'] * (len(headers) - 1)
    return tabulate(rows, headers, disable_numparse=True, colalign=align) if rows else ''
