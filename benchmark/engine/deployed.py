"""Trained networks in use: probabilities of new samples, with whatever modalities they have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.engine import card as cards
from benchmark.engine import state, untrained
from benchmark.engine.building import exact, placed, quiet
from benchmark.engine.card import Card
from benchmark.engine.outputs import answers
from benchmark.engine.pretraining import needed
from benchmark.engine.windows import logits_of
from benchmark.errors import UserError, unknown
from benchmark.method import Method, Modality
from benchmark.missing import subset_id
from benchmark.options import resolve
from benchmark.registry import METHODS, check_registers, discover, load_file, lookup
from benchmark.source import code_of

Values = Tensor | np.ndarray | list[Any] | None


class Model:
    """The networks of a run, ready to predict; `load` makes it.

    Args:
        card: What the run says of its networks.
        networks: The subset that a network is for, '' for all -> the network.
        device: 'cpu' or 'cuda'.

    Attributes:
        notes: What the user ought to know of the run, each in one line.
    """

    def __init__(self, card: Card, networks: dict[str, Method], device: str = 'cpu') -> None:
        self.card, self.networks, self.device = card, networks, device
        self.task = card.intake.task
        self.notes: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the M modalities, in the order of mask columns."""
        return self.task.names

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the probabilities."""
        return self.task.classes

    def __call__(
        self, inputs: Mapping[str, Values], mask: Values = None, *, prepared: bool = False
    ) -> Any:
        """Returns the probabilities of the classes.

        Args:
            inputs: Modality -> a sample (*shape) or a batch (B, *shape), as an array or a tensor;
                None, or no entry, where the modality is missing. Values are those of the training
                data before normalisation. Data sets whose samples are prepared one by one
                (volumes, sounds) and generated ones have no common normalisation: their values are
                given as their readers return them.
            mask: (B, M) bool, the modalities that each sample of a batch may use; by default all
                that are given. What it leaves out may hold any value.
            prepared: The values are normalised already.

        Returns:
            (K,) or (K, H, W) for a sample, (B, K) or (B, K, H, W) for a batch: float32, a tensor
            on the CPU if some input is a tensor, otherwise an array.

        Raises:
            UserError: Nothing is given, a modality is unknown, or an input has another shape or
                values that are not finite or not in the range of the training's images.
        """
        given = self._given(inputs)
        batches = {name: x.ndim > len(self._modality(name).shape) for name, x in given.items()}
        if len(set(batches.values())) > 1:
            raise UserError(f'inputs: expected samples or batches alone, found both: {batches}')
        batch = next(iter(batches.values()))
        rows = {name: x if batch else x[None] for name, x in given.items()}
        sizes = {name: len(x) for name, x in rows.items()}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            raise UserError(f'inputs: expected batches of one size above 0, found {sizes}')
        count = next(iter(sizes.values()))
        allowed = self._mask(mask, rows, count)
        ready = {
            name: self._ready(name, x, allowed[:, self.names.index(name)], prepared)
            for name, x in rows.items()
        }
        logits = self.logits(ready, torch.from_numpy(allowed))
        found = answers(self.task, logits).cpu()
        found = found if batch else found[0]
        tensors = any(isinstance(x, Tensor) for x in inputs.values())
        return found if tensors else found.numpy()

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Returns the logits (B, K) or (B, K, H, W) of prepared inputs.

        Args:
            inputs: Modality -> (B, *shape) float32; a modality may be left out where the mask
                allows it to no sample.
            mask: (B, M) bool, the modalities that each sample may use; at least one.
        """
        mask = mask.to(self.device)
        full = {m.name: self._full(m, inputs, len(mask)) for m in self.task.modalities}
        if '' in self.networks:
            return logits_of(self.networks[''], full, mask)
        # A network of its own for every subset.
        found: Tensor | None = None
        for row in mask.unique(dim=0):
            rows = (mask == row).all(1).nonzero().flatten()
            subset = subset_id(self.names, row.tolist())
            if subset not in self.networks:
                raise UserError(
                    f'mask: expected one of the {len(self.networks)} subsets that have a network '
                    f'of their own, found {subset}'
                )
            network = self.networks[subset]
            part = logits_of(network, {m: x[rows] for m, x in full.items()}, mask[rows])
            found = part.new_zeros(len(mask), *part.shape[1:]) if found is None else found
            found[rows] = part
        if found is None:
            raise UserError('mask: expected at least one sample, found none')
        return found

    def _full(self, modality: Modality, inputs: Mapping[str, Tensor], count: int) -> Tensor:
        """Returns a modality on the device; zeros where it is missing."""
        if modality.name in inputs:
            return inputs[modality.name].to(self.device)
        shape = modality.shape
        if self.task.volumes:  # they may be larger than the patches that a network sees
            shape = (shape[0], *next(iter(inputs.values())).shape[2:])
        return torch.zeros(count, *shape, device=self.device)

    def _modality(self, name: str) -> Modality:
        return self.task.modalities[self.names.index(name)]

    def _given(self, inputs: Mapping[str, Values]) -> dict[str, np.ndarray]:
        """Returns the inputs that are there as arrays of the right shapes."""
        if not isinstance(inputs, Mapping):
            expected = ', '.join(f'{name!r}: ...' for name in self.names)
            raise UserError(f'inputs: expected {{{expected}}}, found {type(inputs).__name__}')
        found = {}
        for name, values in inputs.items():
            if name not in self.names:
                raise unknown('modality', str(name), self.names)
            if values is not None:
                found[name] = self._array(name, values)
        if not found:
            raise UserError(f'inputs: expected some of {", ".join(self.names)}, found nothing')
        return found

    def _array(self, name: str, values: Values) -> np.ndarray:
        x = values.detach().cpu().numpy() if isinstance(values, Tensor) else _numbers(values)
        shape = self._modality(name).shape
        if self._modality(name).padded and x.shape[-1:] == (shape[1] - 1,):
            x = _marked(x, shape[0])
        if self.task.volumes and x.ndim in (4, 5):  # of any size, for windows
            shape = (shape[0], *x.shape[-3:])
        if x.dtype.kind not in 'fiub' or x.shape not in (shape, (*x.shape[:1], *shape)):
            batch = ', '.join(map(str, ('B', *shape)))
            raise UserError(
                f'{name}: expected numbers of shape {shape} or ({batch}), found {x.dtype} {x.shape}'
            )
        return x

    def _mask(self, mask: Values, rows: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Returns which modalities each sample may use, (B, M) bool."""
        there = np.tile([name in rows for name in self.names], (count, 1))
        if mask is None:
            return there
        given = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        if given.shape != there.shape or not np.isin(given, (0, 1)).all():
            expected = f'bool {there.shape}, a column for each of {", ".join(self.names)}'
            raise UserError(f'mask: expected {expected}, found {given.dtype} {given.shape}')
        allowed: np.ndarray = given.astype(bool) & there
        if not allowed.any(1).all():
            row = int(np.flatnonzero(~allowed.any(1))[0])
            raise UserError(
                f'mask: expected some modality of every sample, found none in row {row}'
            )
        return allowed

    def _ready(self, name: str, x: np.ndarray, allowed: np.ndarray, prepared: bool) -> Tensor:
        """Returns rows normalised, and 0 where a sample lacks the modality."""
        bad = allowed & ~np.isfinite(x).reshape(len(x), -1).all(1)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(f'{name}: expected finite numbers, found others in sample {row}')
        facts = None if prepared else self.card.intake.preparation.get(name)
        if facts is not None:
            _check_range(name, x[allowed], facts.get('numbers', ''))
        ready = np.zeros(x.shape, np.float32)
        ready[allowed] = x[allowed] if facts is None else _normalised(x[allowed], facts)
        return torch.from_numpy(ready)


def _check_range(name: str, x: np.ndarray, trained: str) -> None:
    """Checks that values may be those of images as in the training.

    Args:
        name: The modality.
        x: Rows (B, *shape), finite.
        trained: The type of the training's numbers, e.g. 'whole numbers of 8 bits'; '' if unknown.

    Raises:
        UserError: A value is none of them, such as 4095 where they had 8 bits.
    """
    bits = re.fullmatch(r'whole numbers of (\d+) bits?', trained)
    if not bits or not x.size:
        return
    top = float(np.abs(x.astype(np.float64)).max())
    # Interpolation may overshoot the range a little.
    if top > 2 ** (1 + int(bits[1])):
        raise UserError(f'{name}: expected {trained} as in the training, found {top:g}')


def _numbers(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:  # lists of different lengths
        return np.asarray('')


def _marked(x: np.ndarray, frames: int) -> np.ndarray:
    """Pads sequences (..., t, D) to (..., T, D + 1), whose last feature is 1 in frames of data."""
    real = np.concatenate([x, np.ones_like(x[..., :1])], -1)
    short = frames - x.shape[-2]
    if x.ndim < 2 or short < 0:
        return x
    return np.pad(real, [(0, 0)] * (x.ndim - 2) + [(0, short), (0, 0)])


def _normalised(x: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """Returns normalised rows (B, *shape), as `benchmark.dataset.Preparation` says it."""
    mean, std = np.array(facts['mean']), np.array(facts['std'])
    values, mark = x.astype(np.float64), None
    if x.ndim == 3 and x.shape[-1] == mean.shape[-1] + 1:  # a sequence with its mark of padding
        values, mark = values[..., :-1], values[..., -1:]
    found = np.where(std == 0, 0, (values - mean) / np.where(std == 0, 1, std))
    if 'hole' in facts:
        found = np.where(values == facts['hole'], 0, found)
    return found if mark is None else np.concatenate([found * mark, mark], -1)


def load(run: str | Path, device: str = 'cpu', method_file: str | Path | None = None) -> Model:
    """Returns the trained networks of a run, in eval mode.

    Args:
        run: The folder of the run, or a file in it.
        device: 'cpu' or 'cuda'.
        method_file: The Python file of the method, if it lies outside `methods/`.

    Raises:
        UserError: The run is of an older version, not there or damaged, or the method is unknown
            or has changed so that the weights do not fit.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('device cuda: no CUDA device was found')
    if device == 'cuda':
        exact()
    found = cards.read(Path(run))
    discover()
    if method_file is not None:
        load_file(Path(method_file))
        check_registers(Path(method_file), found.method['name'], METHODS)
    networks = {subset: _network(found, subset, device) for subset in found.networks}
    model = Model(found, networks, device)
    cls = lookup(METHODS, found.method['name'])
    if code_of(*needed(cls, found.pretrain)) != found.method['code']:
        model.notes.append(
            f'{found.folder}: the code of {found.method["name"]} has changed since the training; '
            'predictions may differ from those of the record'
        )
    return model


def _network(card: Card, subset: str, device: str) -> Method:
    """Builds one network and gives it its weights."""
    name, task = card.method['name'], card.intake.task
    cls = lookup(METHODS, name)
    with quiet():
        options = resolve(cls, name, card.method['options'], {})
        method = untrained.built(name, untrained.frozen(options), task)
    file = card.checkpoint(subset)
    try:
        weights = state.load_weights(file, method.state_dict(), card.networks[subset])
    except state.Unusable as error:
        raise UserError(f'{file}: cannot be used: {error}') from None
    method.load_state_dict(weights)
    return placed(method, device).eval().requires_grad_(False)
