"""Times that are measured in turns, and the table of their ratios."""

from __future__ import annotations

import datetime
import math
import operator
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmark.engine.building import cores
from benchmark.engine.environment import commit


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        repeats: Number of turns of each comparison; the medians are shown.
        samples: Number of training samples of the embedded data sets.
        paper: Side of an image, width of the networks and batch size of the papers.
        steps: Steps of the training whose memory is watched.
        matmul: Side of the matrices whose product gives the peak.
        modalities: Numbers of modalities whose subsets are tested.
        embedded: Further options of the embedded data sets.
        times: How many steps one timing of steps takes.
        many: Samples and epochs of the training on many modalities.
    """

    repeats: int = 5
    samples: int = 384
    paper: tuple[int, int, int] = (112, 64, 64)
    steps: int = 1000
    matmul: int = 1024
    modalities: tuple[int, ...] = (2, 3, 4, 8)
    embedded: str = ''
    times: int = 1
    many: tuple[int, int] = (1000, 100)


TINY = Sizes(1, 16, (16, 4, 4), 20, 64, (2, 3), ',size=32,width=4', many=(32, 1))
"""Sizes that show that the measurements run; the numbers mean nothing."""

ON_GPU = Sizes(samples=1536, matmul=8192, times=10)
"""Sizes for a GPU, whose steps are too short to be timed one by one."""


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        what: What is compared.
        values: The measured ratios, one for each turn; none if it was not measured.
        goal: What the median should be, e.g. '>= 0.97'; '' for none.
        note: Absolute numbers, or why nothing was measured.
    """

    what: str
    values: Sequence[float]
    goal: str = ''
    note: str = ''

    @property
    def reached(self) -> str:
        """Whether the median reaches the goal, in a word; '' without goal or measurement."""
        if not self.goal or not self.values:
            return ''
        sign, number = self.goal.split()
        compare = {'>=': operator.ge, '<=': operator.le}[sign]
        return 'yes' if compare(statistics.median(self.values), float(number)) else 'no'


def settle() -> None:
    """Waits until a GPU, if one is in use, has done all that it was given."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(job: Callable[[], object], times: int = 1) -> float:
    """Returns the wall seconds of one call, the mean of several calls in a row."""
    settle()
    start = time.perf_counter()
    for _ in range(times):
        job()
    settle()
    return (time.perf_counter() - start) / times


def in_turns(
    one: Callable[[], float], other: Callable[[], float], repeats: int
) -> list[tuple[float, float]]:
    """Returns the times of two jobs, which take turns so that a drifting machine hurts both.

    Args:
        one: Does the first job and returns its seconds.
        other: Likewise.
        repeats: Number of turns that count; if there are several, one more comes first, because
            caches are empty then.
    """
    pairs = []
    for turn in range(repeats + (repeats > 1)):
        if turn % 2:
            second = other()
            pairs.append((one(), second))
        else:
            pairs.append((one(), other()))
    return pairs[-repeats:]


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Returns the first over the second number of each pair."""
    return [a / b for a, b in pairs]


def matmul_peak(side: int, repeats: int, device: str = 'cpu') -> float:
    """Returns the highest FLOPs per second of a product of square matrices.

    Args:
        side: Rows and columns of the matrices.
        repeats: Number of products, after three that do not count.
        device: Where; on a GPU the product is in bfloat16, else in float32.
    """
    dtype = torch.float32 if device == 'cpu' else torch.bfloat16
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    best = min(seconds(lambda: a @ b) for _ in range(3 + repeats))
    return 2 * side**3 / best


def memory_mb(device: str) -> float:
    """Returns the memory of this process in MiB; 0 where the system does not tell it.

    Args:
        device: 'cpu', or 'cuda' for what its tensors take on the GPU.
    """
    if device == 'cuda':
        return torch.cuda.memory_allocated() / 2**20
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 2**20


def digits(ratio: float) -> str:
    """Returns a ratio with two decimals; one below 0.1 with two digits that tell something."""
    shown = float(f'{ratio:.2g}')
    if not 0 < shown < 0.1:
        return f'{ratio:.2f}'
    return f'{ratio:.{1 - math.floor(math.log10(shown))}f}'


def table(
    rows: Sequence[Row], unmeasured: Sequence[tuple[str, str]], command: str, gpu: str = ''
) -> str:
    """Returns the table as Markdown.

    Args:
        rows: What was measured.
        unmeasured: What was not, and why.
        command: What makes the table again.
        gpu: Name of the GPU that was timed; '' for none.
    """
    machine = (
        f'{cores()} cores ({_processor()}), {torch.get_num_threads()} thread for each operation, '
        f'PyTorch {torch.__version__}, Python {platform.python_version()}, {gpu or "no GPU"}'
    )
    lines = [
        '# Speed',
        '',
        f'Made by `{command}` from commit {commit()} on {datetime.date.today()}, in one run, on '
        f'{machine}. Both sides of a ratio were measured in turns, and the '
        'ratio is the median over the turns; the spread is from the smallest to the largest. Where '
        'a row says so, it has seconds instead of ratios.',
        '',
        '| what | ratio | spread | goal | reached | notes |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        median = digits(statistics.median(row.values)) if row.values else 'not measured'
        spread = f'{digits(min(row.values))} to {digits(max(row.values))}' if row.values else ''
        cells = row.what, median, spread, row.goal, row.reached, row.note
        lines.append(f'| {" | ".join(cells)} |')
    lines += ['', '## Not measured', '', '| what | why |', '| --- | --- |']
    lines += [f'| {what} | {why} |' for what, why in unmeasured]
    return '\n'.join(lines) + '\n'


def _processor() -> str:
    """Returns the name of the processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return named[0] if named else platform.machine()
