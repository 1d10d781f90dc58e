"""Encoders of timm that the protocol asks for: the file of their weights, and who can use them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

from benchmark.engine import untrained
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError, nearest
from benchmark.files import check_file, digest, user_path
from benchmark.method import Method, Task
from benchmark.registry import METHODS, lookup

GIVEN: dict[str, Path] = {}
"""Hash of a file of weights, as the protocol holds it -> the file."""


def applied(protocol: Protocol) -> Protocol:
    """Returns the protocol with the hash of the file of weights in the place of its path.

    Raises:
        UserError: The file cannot be read, or fields do not go together.
    """
    for field in ('encoder_weights', 'encoder_frozen'):
        if getattr(protocol, field) and not protocol.encoder:
            raise UserError(
                f'{field}: expected encoder=NAME beside it, a model of timm, found none'
            )
    _check_known(protocol.encoder)
    given = protocol.encoder_weights
    if not given or given in GIVEN:
        if protocol.encoder_frozen and not given:
            raise UserError(
                'encoder_frozen: expected encoder_weights=FILE beside it, since drawn weights that '
                'never train encode nothing, found none'
            )
        return protocol
    file = user_path(given, 'encoder_weights').absolute()
    try:
        check_file(file)
        found = digest(file).sha256[:16]
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or str(error)
        raise UserError(f'encoder_weights={given}: expected a file of weights: {why}') from None
    GIVEN[found] = file
    return dataclasses.replace(protocol, encoder_weights=found)


def _check_known(name: str) -> None:
    """Checks that timm has a model of a name; without timm, whoever builds the model tells.

    Raises:
        UserError: It has none, or is installed and cannot be imported. More than a thousand names
            would hide what is wrong.
    """
    try:
        timm = importlib.import_module('timm') if name else None
    except ModuleNotFoundError as error:
        if error.name == 'timm':
            return
        raise _not_imported(error) from None
    except (ImportError, RuntimeError) as error:  # the latter: torchvision for another PyTorch
        raise _not_imported(error) from None
    if timm is not None and not timm.is_model(name):
        known = [n for n in timm.list_models() if not n.startswith('test_')]  # toys of its tests
        raise UserError(f'unknown encoder {name!r}{nearest(name, known)} (all: timm.list_models())')


def _not_imported(error: Exception) -> UserError:
    why = f'{type(error).__name__}: {error}'.splitlines()[0]
    return UserError(f'encoder: the package timm is installed, but cannot be imported: {why}')


def task_of(task: Task, protocol: Protocol) -> Task:
    """Returns a task with what the protocol chooses for all methods: the loss and the encoders.

    Weights of the data set's ResNet do not fit another encoder.
    """
    shared = protocol.share_encoders
    task = dataclasses.replace(task, loss=protocol.loss, share_encoders=shared)
    if not protocol.encoder:
        return task
    file = GIVEN[protocol.encoder_weights] if protocol.encoder_weights else ''
    return dataclasses.replace(
        task, backbone=protocol.encoder, frozen=protocol.encoder_frozen, pretrained=str(file)
    )


def check(label: str, name: str, options: dict[str, Any], task: Task) -> None:
    """Checks that a method encodes images, and with encoders that can be others.

    Raises:
        UserError: It does not, or the encoder or its weights do not fit the images.
    """
    if not task.backbone or lookup(METHODS, name).fit is not Method.fit:
        return  # the ResNet serves all, and what is fitted has no network
    if task.share_encoders:
        raise UserError(
            f'share_encoders on {task.dataset}: expected no encoder={task.backbone} beside it, '
            'whose normalisation is not told apart by modality'
        )
    if not _encodes(name, untrained.frozen(options), task):
        images = [m.name for m in task.modalities if m.kind == 'image']
        why = 'encodes images otherwise' if images else 'has no images'
        whose = label if images else task.dataset
        raise UserError(
            f'{label} on {task.dataset}: expected the encoders of images that all methods share, '
            f'which encoder={task.backbone} takes the place of: {whose} {why}'
        )


@functools.cache
def _encodes(name: str, options: untrained.Options, task: Task) -> bool:
    """Returns whether a method has such an encoder; it is built for it."""
    method = untrained.built(name, options, task)
    return any(getattr(m, 'backbone', '') == task.backbone for m in method.modules())
