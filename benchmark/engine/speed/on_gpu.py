"""What only a GPU can tell: precision, compiling, and how near a step comes to the hardware."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmark.engine.experiment import Experiment
from benchmark.engine.speed.cases import Noise, any_kernels, embedded, machine, of_noise
from benchmark.engine.speed.measuring import Row, Sizes, in_turns, matmul_peak, ratios, seconds
from benchmark.engine.speed.trainings import DATASETS, UNIFIED, prepared

TOGETHER = (2, 16)
"""Numbers of trainings that share the GPU."""


class Bound(TorchDispatchMode):
    """Adds up the least time that each operation needs on some hardware: its roofline.

    An operation needs the longer of two times: its floating-point operations at the highest rate,
    and the bytes of its inputs and outputs, each moved once, at the bandwidth of the memory (S.
    Williams et al., Roofline, 2009). What only looks at memory in another way takes no time.

    Args:
        rate: Floating-point operations a second.
        bandwidth: Bytes a second.

    Attributes:
        seconds: The sum.
        flops: The floating-point operations.
        bytes: The bytes of operations that are not bound by their arithmetic.
    """

    def __init__(self, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.rate, self.bandwidth = rate, bandwidth
        self.seconds, self.flops, self.bytes = 0.0, 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and adds its least time."""
        made = func(*args, **(kwargs or {}))
        given, new = _tensors((args, kwargs)), _tensors(made)
        memory = {x.untyped_storage()._cdata for x in given}
        looks = not func._schema.is_mutable and bool(new)
        if looks and all(x.untyped_storage()._cdata in memory for x in new):
            return made
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=made) if count else 0
        different = {id(x): x.numel() * x.element_size() for x in given + new}
        moved = sum(different.values())
        self.flops += flops
        if flops / self.rate < moved / self.bandwidth:
            self.bytes += moved
        self.seconds += max(flops / self.rate, moved / self.bandwidth)
        return made


def _tensors(tree: Any) -> list[Tensor]:
    """Returns the tensors in nested containers."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def bandwidth(size: int, repeats: int, device: str) -> float:
    """Returns the highest rate of a copy on the device, in bytes a second, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(seconds(lambda: target.copy_(source)) for _ in range(3 + repeats))


def _cases(sizes: Sizes, folder: Path, **fields: Any) -> dict[str, Experiment]:
    """Returns what is timed: the unified model at the papers' size and on the embedded data."""
    side, width, batch = sizes.paper
    data = Noise((3, 1, 1), side, width, batch, 2 * batch)
    found = {
        f"papers' size ({side} x {side}, width {width}, batch {batch})": of_noise(
            UNIFIED, data, folder, **fields
        )
    }
    for dataset in DATASETS:
        e = embedded(UNIFIED, dataset, sizes, folder)
        found[dataset] = replace(e, protocol=replace(e.protocol, **fields))
    return found


def _compared(what: str, one: Callable[[], float], other: Callable[[], float], sizes: Sizes) -> Row:
    """Compares the seconds of two kinds of steps; the note has the milliseconds of both."""
    pairs = in_turns(one, other, sizes.repeats)
    a, b = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(what, ratios(pairs), '', f'{a:.2f} ms and {b:.2f} ms')


def precision(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares steps in bfloat16 with steps in float32."""
    single = _cases(sizes, folder, precision='float32')
    rows = []
    for name, e in _cases(sizes, folder).items():
        mixed, plain = (partial(seconds, prepared(x), sizes.times) for x in (e, single[name]))
        what = f'{name}: step in {e.protocol.precision} / in float32'
        rows.append(_compared(what, mixed, plain, sizes))
    return rows


def compiling(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares compiled steps with others; the first calls, which compile, do not count."""
    rows = []
    for name, e in list(_cases(sizes, folder).items())[:2]:  # compiling takes long
        fast, usual = prepared(e, compile_=True), prepared(e)
        took = seconds(fast)
        row = _compared(
            f'{name}: step with `--compile` / without',
            partial(seconds, fast, sizes.times),
            partial(seconds, usual, sizes.times),
            sizes,
        )
        rows.append(row._replace(note=f'{row.note}; the first step took {took:.0f} s'))
    return rows


def repeatable(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares steps that may give other numbers every time with the usual ones."""
    rows = []
    for name, e in _cases(sizes, folder).items():
        step = prepared(e)

        def usual(step: Callable[[], None] = step) -> float:
            step()  # kernels are chosen anew, which does not count
            return seconds(step, sizes.times)

        def free(usual: Callable[[], float] = usual) -> float:
            with any_kernels():
                return usual()

        what = f'{name}: step with `--no-deterministic` / with `--deterministic`'
        rows.append(_compared(what, free, usual, sizes))
    return rows


def roofline(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares the least time that a step's operations need on this GPU with the step's time."""
    device = machine().device
    rate = matmul_peak(sizes.matmul, 5, device)
    speed = bandwidth(sizes.matmul**2 * 16, 5, device)
    rows = []
    for number, (name, e) in enumerate(_cases(sizes, folder).items()):
        step = prepared(e)
        step()
        with Bound(rate, speed) as bound:
            step()
        took = [seconds(step, sizes.times) for _ in range(sizes.repeats + 1)][1:]
        note = (
            f'{bound.flops / 1e9:.1f} GFLOP; {1e3 * bound.flops / rate:.2f} ms at '
            f'{rate / 1e12:.2f} TFLOP/s; {1e3 * bound.seconds:.2f} ms with the bytes of '
            f'each operation at {speed / 1e12:.2f} TB/s; '
            f'{1e3 * statistics.median(took):.2f} ms measured'
        )
        goal = '' if number else '>= 0.40'
        what = f"{name}: roofline of the step's operations / measured time"
        rows.append(Row(what, [bound.seconds / t for t in took], goal, note))
    return rows
