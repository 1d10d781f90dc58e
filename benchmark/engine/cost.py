"""What a method costs: parameters, FLOPs per subset, memory, and time before it is spent."""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.protocol import Protocol
from benchmark.engine.training import optim_wrapper
from benchmark.method import Method
from benchmark.missing import subset_ids, subset_masks

STEPS = 3
"""Steps that a forecast measures, after one to warm up."""


def _one_sample(method: Method) -> dict[str, torch.Tensor]:
    device = next(method.parameters()).device
    return {m.name: torch.zeros(1, *m.shape, device=device) for m in method.task.modalities}


def deployed_parameters(method: Method) -> int:
    """Counts the parameters that a prediction from all modalities depends on."""
    inputs = _one_sample(method)
    mask = torch.ones(1, len(inputs), dtype=torch.bool, device=next(iter(inputs.values())).device)
    method.eval().zero_grad()
    method.predict(inputs, mask).sum().backward()
    count = sum(p.numel() for p in method.parameters() if p.grad is not None)
    method.zero_grad()
    return count


def flops(method: Method, only: list[str] | None = None) -> dict[str, int]:
    """Counts the FLOPs of predicting one sample, per subset.

    Sensors that are off are not encoded. A method that mixes modalities in its encoders is given
    all inputs, and charged for them.

    Args:
        method: The method.
        only: Subset ids to count; all by default.
    """
    names = method.task.names
    pairs = zip(subset_ids(names), subset_masks(len(names)), strict=True)
    return {s: _flops(method, mask) for s, mask in pairs if only is None or s in only}


def _flops(method: Method, mask: np.ndarray) -> int:
    inputs = _one_sample(method)
    if type(method).predict is Method.predict:
        inputs = {m: x for (m, x), on in zip(inputs.items(), mask, strict=True) if on}
    device = next(iter(inputs.values())).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        method.eval().predict(inputs, torch.as_tensor(mask, device=device)[None])
    return int(counter.get_total_flops())


def reset_peak(device: str) -> None:
    """Starts a new measurement of peak memory."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux only: resets the peak that peak_memory reads
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory(device: str) -> float:
    """Returns the peak memory in MiB: the device's on CUDA, else the process's (0 if unknown)."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        status = Path('/proc/self/status').read_text()
    except OSError:
        return 0.0
    line = next(row for row in status.splitlines() if row.startswith('VmHWM'))
    return int(line.split()[1]) / 1024


def forecast(
    method: Method, loaders: tuple[DataLoader, DataLoader], protocol: Protocol
) -> tuple[float, float]:
    """Measures a few steps and one evaluated batch of an untrained method.

    Args:
        method: The method, with a teacher where it has one; its weights change.
        loaders: Training and validation loaders.
        protocol: Gives epochs and optimiser.

    Returns:
        Expected seconds of the whole training, and seconds to test one sample on every subset.
    """
    each = _rehearse_validation(method, loaders[1], protocol.epochs)
    wrapper = build_optim_wrapper(method, optim_wrapper(protocol))
    batches = itertools.cycle(itertools.islice(iter(loaders[0]), STEPS))
    seconds = []
    for batch in itertools.islice(batches, STEPS + 1):
        start = time.perf_counter()
        method.train().train_step(batch, optim_wrapper=wrapper)
        seconds.append(time.perf_counter() - start)
    return protocol.epochs * len(loaders[0]) * sum(seconds[1:]) / STEPS, each


def _rehearse_validation(method: Method, loader: DataLoader, epochs: int) -> float:
    """Takes a method to its last epoch, where terms that start late are part of the price.

    Every epoch's validation is given the scores of one batch, for methods that mine there.

    Returns:
        Seconds to test one sample on every subset.
    """
    evaluator = SubsetEvaluator(method.task)
    batch = method.data_preprocessor(next(iter(loader)), False)
    start = time.perf_counter()
    with torch.no_grad():
        for mask, logits in subset_logits(method.eval(), batch, list(evaluator.masks.values())):
            evaluator.process_subset(mask, logits, batch)
    evaluator.evaluate(len(batch.ids))
    each = (time.perf_counter() - start) / len(batch.ids)
    method.epochs = epochs
    for method.epoch in range(epochs):
        method.on_validation(evaluator.scores)
    return each
