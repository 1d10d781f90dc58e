"""What a method costs: parameters, FLOPs per subset, and peak memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.method import Method
from benchmark.subsets import subset_table


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
    return {s: _flops(method, mask) for s, mask in subset_table(method.task.names, only).items()}


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
