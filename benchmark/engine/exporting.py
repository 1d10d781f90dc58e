"""Trained networks for other runtimes: torch.export and ONNX, checked on every subset."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.dataset import Preparation
from benchmark.engine.deployed import Model
from benchmark.engine.outputs import answers
from benchmark.errors import UserError, cause
from benchmark.files import writing
from benchmark.method import Method, Task
from benchmark.subsets import extremes, subset_table
from benchmark.tested import EVERY

FORMATS = ('onnx', 'pt2')
"""ONNX, and the programs of torch.export."""

PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
"""What ONNX needs: the optional dependencies `export`."""

MASK = 'mask'
TOLERANCE = 1e-4
"""Greatest difference between probabilities; float32 sums differ in their order."""
BATCH = 3
"""Samples of the check; another number than that of the export, which must not be built in."""


class Deployable(nn.Module):
    """A network with what surrounds it: from values as they are measured to answers.

    Args:
        network: The network.
        preparation: How inputs are normalised.
    """

    def __init__(self, network: Method, preparation: Preparation) -> None:
        super().__init__()
        self.network, self.task = network, network.task
        self.facts = {m: preparation[m] for m in self.task.names if m in preparation}
        for name, facts in self.facts.items():
            place, std = self.task.names.index(name), torch.tensor(facts['std'])
            self.register_buffer(f'mean{place}', torch.tensor(facts['mean']))
            self.register_buffer(f'scale{place}', torch.where(std == 0, 0, 1 / std))

    def forward(self, *values: Tensor) -> Tensor:
        """Returns the probabilities (B, K) or (B, K, H, W), or the values of a regression (B, K).

        Args:
            values: For each modality (B, *shape) float32, then the mask (B, M) bool. What the mask
                leaves out may hold any value.
        """
        *inputs, mask = values
        ready = {}
        for k, (modality, x) in enumerate(zip(self.task.modalities, inputs, strict=True)):
            there = mask[:, k].reshape(-1, *[1] * len(modality.shape))
            x = torch.where(there, x, torch.zeros_like(x))
            if modality.name in self.facts:
                x = torch.where(there, self._normalised(k, x), torch.zeros_like(x))
            ready[modality.name] = x
        return answers(self.task, self.network.predict(ready, mask).float())

    def _normalised(self, place: int, x: Tensor) -> Tensor:
        mean, scale = getattr(self, f'mean{place}'), getattr(self, f'scale{place}')
        modality = self.task.modalities[place]
        if modality.padded:
            mark = x[..., -1:]
            return torch.cat([(x[..., :-1] - mean) * scale * mark, mark], -1)
        found = (x - mean) * scale
        hole = self.facts[modality.name].get('hole')
        return found if hole is None else torch.where(x == hole, torch.zeros_like(x), found)


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        file: The file.
        difference: Greatest difference of a probability or value from PyTorch's, over all subsets.
        subsets: Number of subsets that were compared.
        single: Whether the program takes one sample at a time rather than batches of any size.
    """

    file: Path
    difference: float
    subsets: int
    single: bool


def check_formats(formats: tuple[str, ...]) -> None:
    """Checks that the packages of the formats are installed.

    Raises:
        UserError: One is not.
    """
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if 'onnx' in formats and lacking:
        raise UserError(
            f'ONNX needs {", ".join(lacking)}: run pip install ".[export]", '
            'or use --formats pt2, which needs nothing else'
        )


def answered(task: Task) -> str:
    """Returns what a network answers, in the plural."""
    return 'values' if task.kind == 'regression' else 'probabilities'


def export(model: Model, folder: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Exported]:
    """Writes and checks the networks of a run, each in every format.

    A method with a network of its own per subset gives a file per subset.

    Args:
        model: The networks, on the CPU.
        folder: Takes the files `model.onnx` and `model.pt2`, or `model-<subset>.onnx`, ....
        formats: Some of `FORMATS`.

    Raises:
        UserError: A package is missing, a network cannot be exported, a file cannot be written, or
            the exported network gives other probabilities.
    """
    check_formats(formats)
    label = model.card.method['label']
    placed = [n for n in model.networks.values() if type(n).predict_at is not Method.predict_at]
    if model.task.volumes and placed:
        raise UserError(
            f'{label}: cannot be exported: what it answers for a window of a volume depends on '
            'where the window lies, of which an exported network is not told; use predict.py'
        )
    # Values of a regression have the size of its targets, probabilities are at most one.
    unit = max([1.0, *(std for _, std in model.task.scale)])
    for subset, network in model.networks.items():
        whole = Deployable(network, model.card.intake.preparation).eval()
        program, single = traced(whole, label)
        stem = f'model-{subset}' if subset else 'model'
        for kind in formats:
            content = _onnx(program, model) if kind == 'onnx' else _pt2(program)
            run = _in_onnxruntime(content) if kind == 'onnx' else program.module()
            difference, subsets = compared(whole, run, subset, 1 if single else BATCH)
            if not difference <= TOLERANCE * unit:
                raise UserError(
                    f'{stem}.{kind}: expected the {answered(model.task)} of PyTorch up to '
                    f'{TOLERANCE * unit:g}, found a difference of {difference:.3g}'
                )
            file = folder / f'{stem}.{kind}'
            with writing(file) as out:
                out.write(content)
            yield Exported(file, difference, subsets, single)


def traced(whole: Deployable, label: str) -> tuple[Any, bool]:
    """Returns torch.export's program of a network, and whether it takes one sample at a time.

    Batches may have any size, unless the network does with them what torch.export cannot follow,
    such as joining the samples of all modalities in one batch.

    Raises:
        UserError: The network computes something that depends on its values.
    """
    batch = torch.export.Dim('batch', min=1)
    with contextlib.suppress(Exception):
        return _traced(whole, BATCH - 1, batch), False
    try:
        return _traced(whole, 1, None), True
    # Whatever a network computes with Python can raise anything here.
    except Exception as error:
        raise UserError(
            f'{label}: cannot be exported by torch.export, which cannot follow what the method '
            f'computes: {cause(error)}; use predict.py or benchmark.deploy'
        ) from None


def _traced(whole: Deployable, count: int, batch: Any) -> Any:
    arguments = samples(whole.task, whole.facts, count)
    shapes = None if batch is None else (tuple({0: batch} for _ in arguments),)
    with _quiet():
        return torch.export.export(whole, arguments, dynamic_shapes=shapes, strict=False)


def samples(task: Task, facts: Preparation, count: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Returns random samples as they are measured, and a mask of all modalities."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for modality in task.modalities:
        x = torch.randn(count, *modality.shape, generator=rng)
        if modality.name in facts:
            mean, std = (torch.tensor(facts[modality.name][k]) for k in ('mean', 'std'))
            plain = x[..., :-1] if modality.padded else x
            plain = plain * std + mean
            x = torch.cat([plain, x[..., -1:]], -1) if modality.padded else plain
        if modality.padded:
            x[..., -1] = 1
        found.append(x)
    return *found, torch.ones(count, len(task.names), dtype=torch.bool)


@torch.no_grad()
def compared(whole: Deployable, run: Any, only: str = '', batch: int = BATCH) -> tuple[float, int]:
    """Compares an exported network with PyTorch's on every subset; absent inputs are NaN.

    Of more than 8 modalities it is each alone, each subset that lacks one, and all of them.

    Args:
        whole: The network.
        run: The exported network, called with the same tensors.
        only: The one subset that the network is for; '' for all.
        batch: Number of samples.

    Returns:
        The greatest difference between two probabilities, and the number of subsets.
    """
    names, worst, count = whole.task.names, 0.0, 0
    some = None if len(names) <= EVERY else [only] if only else extremes(names)
    for seed, (subset, chosen) in enumerate(subset_table(names, some).items()):
        if only not in ('', subset):
            continue
        *inputs, mask = samples(whole.task, whole.facts, batch, seed)
        mask &= torch.from_numpy(chosen)
        for k in np.flatnonzero(~chosen):
            inputs[k].fill_(torch.nan)
        gap = (whole(*inputs, mask) - run(*inputs, mask)).abs().max().item()
        worst, count = max(worst, gap) if gap == gap else float('inf'), count + 1
    return worst, count


def _pt2(program: Any) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(program: Any, model: Model) -> bytes:
    """Returns the bytes of an ONNX file, which names its inputs, modalities and classes."""
    names = [*model.names, MASK]
    try:
        with _quiet():
            found: Any = torch.onnx.export(
                program, input_names=names, output_names=[answered(model.task)], verbose=False
            )
            properties: Mapping[str, str] = {
                'modalities': ','.join(model.names),
                'classes': '\n'.join(model.classes),
                'method': model.card.method['label'],
                'dataset': model.card.dataset['name'],
            }
            found.model.metadata_props.update(properties)
            content: bytes = found.model_proto.SerializeToString()
    except Exception as error:  # operators that ONNX lacks raise what the converter likes
        raise UserError(
            f'{model.card.method["label"]}: cannot be exported to ONNX: {cause(error)}; '
            'use --formats pt2'
        ) from None
    return content


def _in_onnxruntime(content: bytes) -> Any:
    """Returns a function that runs an ONNX file on tensors."""
    runtime = importlib.import_module('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    names = [one.name for one in session.get_inputs()]

    def run(*values: Tensor) -> Tensor:
        given = {name: x.numpy() for name, x in zip(names, values, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporters say of their own progress."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        told = io.StringIO()
        with (
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
