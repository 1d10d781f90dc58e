"""The curves of a run: losses, learning rate and validation by epoch, in a file beside its record.

They lie outside the record, which every table reads as a whole: the curves of 300 epochs on 255
subsets are megabytes. The record holds the hash of the file. No score depends on the curves, so
that a run whose file is missing or damaged counts nevertheless, and only its curves do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import TypedDict

from benchmark import files
from benchmark.files import digest, writing
from benchmark.records import archive
from benchmark.records.checks import check_form
from benchmark.records.identity import dumps
from benchmark.records.schema import Record, RecordError

CURVES = 'curves.json'
"""Name of the file."""


class _Curve(TypedDict):
    epochs: list[int]
    lr: list[float]
    losses: dict[str, list[float | None]]
    validated: list[int]
    validation: dict[str, list[float | None]]


class Curve(_Curve, total=False):
    """The curves of one network.

    `epochs` are counted from 0. For each of them there is a value in `lr`, the learning rate of the
    first step, and in each list of `losses`, the mean of a loss term over the steps; null where the
    method had no such term. `validated` are the epochs after which the validation split was
    evaluated; for each of them there is a value of the data set's metric, a fraction, in the list
    of each subset in `validation`; null where it is undefined. Numbers have six significant digits.

    With `--curves` there is more, by modality: for each of `epochs` in `gradient_norms` the mean
    over the steps of the norm of the gradient of its encoder, if the method has one for each
    modality; for each of `validated` in `modality_losses` the task's loss of the modality alone on
    the validation split. Where a schedule learns the training masks, `mask_rates` holds for each of
    `epochs` the probability of each subset.
    """

    mask_rates: dict[str, list[float | None]]
    gradient_norms: dict[str, list[float | None]]
    modality_losses: dict[str, list[float | None]]


class Curves(TypedDict):
    """The file: the identity of the run, and the curves of its networks.

    The name of a network is empty, or its subset where each subset has a network of its own.
    """

    identity: str
    networks: dict[str, Curve]


def write(path: Path, identity: str, networks: Mapping[str, Curve]) -> str:
    """Writes the curves of a run, whole or not at all.

    Args:
        path: The file.
        identity: Identity of the run.
        networks: Name of each network -> its curves.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: The file cannot be written.
    """
    with writing(path) as file:
        file.write(f'{dumps({"identity": identity, "networks": networks})}\n'.encode())
    return digest(path).sha256


def read(path: Path, record: Record) -> dict[str, Curve]:
    """Reads the curves of a run.

    Args:
        path: The file.
        record: The record of the run, which must hold the hash of the file.

    Returns:
        Name of each network -> its curves; nothing if the record names no curves.

    Raises:
        RecordError: The file is missing, damaged, of another run or of another form.
    """
    sha256 = record.get('curves')
    if sha256 is None:
        return {}
    try:
        if not archive.matches(path, sha256):
            raise ValueError('the file is missing, damaged or of another run')
        found = files.read_json(path)
        check_form(found, Curves)
        for curve in found['networks'].values():
            _check(curve)
    except (OSError, ValueError) as error:  # a RecordError is a ValueError
        raise RecordError(f'{path}: cannot be read as curves: {error}') from error
    return found['networks']


def _check(curve: Curve) -> None:
    """Checks that every list has a value for each epoch, and that the epochs ascend."""
    trained: dict[str, Sized] = {'lr': curve['lr'], **curve['losses']}
    norms: Mapping[str, Sized] = {**curve.get('gradient_norms', {})}
    rates: Mapping[str, Sized] = {**curve.get('mask_rates', {})}
    alone: Mapping[str, Sized] = curve.get('modality_losses', {})
    for epochs, series in (
        (curve['epochs'], trained),
        (curve['epochs'], norms),
        (curve['epochs'], rates),
        (curve['validated'], curve['validation']),
        (curve['validated'], alone),
    ):
        if any(a >= b for a, b in itertools.pairwise([-1, *epochs])):
            raise RecordError('expected epochs in ascending order')
        for name, values in series.items():
            if len(values) != len(epochs):
                raise RecordError(
                    f'{name!r}: expected {len(epochs)} values, one for each epoch, '
                    f'found {len(values)}'
                )
