"""All measurements, one after the other, and the file that they make."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmark.engine.building import use_threads
from benchmark.engine.memory import keep_freed
from benchmark.engine.speed import many, on_gpu, processes, starting, testing, trainings
from benchmark.engine.speed.cases import compute_on, machine
from benchmark.engine.speed.measuring import ON_GPU, TINY, Row, Sizes, digits, table
from benchmark.errors import UserError
from benchmark.files import ROOT, writing
from benchmark.registry import discover

README = "the README's main command"
GPU = 'needs a GPU, and has not been measured on one yet'
UNMEASURED = {
    'cpu': (
        ('`--jobs` on one GPU', 'needs a GPU; not measured by this command, once by hand'),
        ('the whole reference with eight seeds on a GPU (goal: an hour)', GPU),
        ('several GPUs', 'needs a machine with several; no measurement has been made on one'),
        ('bfloat16 / float32', GPU),
        ('`--compile` / without, on a GPU', GPU),
        ('`--no-deterministic` / `--deterministic`', GPU),
        ("share of the step's roofline at the papers' size", GPU),
        (
            "images a second at the papers' size / of the released loop's work, on a GPU",
            'needs a GPU: results/gpu/speed.md',
        ),
    ),
    'cuda': (
        ('several GPUs', 'needs a machine with several; no measurement has been made on one'),
        ('starts, threads, `torchrun`', 'do not depend on the GPU: results/reference/speed.md'),
    ),
}
"""Device -> what has no number in its table, and why."""

Job = Callable[[], Sequence[Row] | Row]


def _alone(sizes: Sizes, folder: Path) -> dict[str, Job]:
    """Returns what one process measures."""
    return {
        'trainings in the suite': lambda: trainings.loops(sizes, folder),
        'a training on few vectors': lambda: trainings.few(sizes, folder),
        'steps of MMANet': lambda: trainings.mmanet(sizes, folder),
        'tests of all subsets': lambda: testing.all_subsets(sizes, folder),
        "training at the papers' size": lambda: trainings.papers(sizes, folder),
        "tests at the papers' size": lambda: testing.papers(sizes, folder),
        'FLOPs a second': lambda: trainings.peak(sizes, folder),
        'memory': lambda: processes.memory(sizes),
        '20 modalities': lambda: many.many(sizes),
    }


def _together(sizes: Sizes, folder: Path) -> dict[str, Job]:
    """Returns what needs a second core, or what several processes share on a GPU."""
    if machine().device == 'cuda':
        return {
            f'`--jobs {count}` on one GPU': partial(processes.jobs, sizes, count)
            for count in on_gpu.TOGETHER
        }
    return {
        'threads': lambda: trainings.threads(sizes, folder),
        'starts': lambda: starting.starts(sizes),
        'freed memory': lambda: processes.kept(sizes),
        '`--jobs`': lambda: processes.jobs(sizes),
        '`torchrun`': lambda: processes.shared(sizes),
        README: lambda: processes.together(sizes),
    }


def _all(sizes: Sizes, folder: Path) -> dict[str, Job]:
    """Returns everything that is measured on the device; what takes longest comes last."""
    alone, together = _alone(sizes, folder), _together(sizes, folder)
    if machine().device == 'cpu':
        return alone | together
    return {
        **alone,
        'bfloat16 / float32': lambda: on_gpu.precision(sizes, folder),
        '`--no-deterministic` / `--deterministic`': lambda: on_gpu.repeatable(sizes, folder),
        'share of the roofline of a step (goal: >= 0.40)': lambda: on_gpu.roofline(sizes, folder),
        **together,
        '`--compile` / without': lambda: on_gpu.compiling(sizes, folder),
    }


def rows(
    sizes: Sizes,
    folder: Path,
    alone: bool,
    save: Callable[[list[Row], list[str]], None] | None = None,
) -> list[Row]:
    """Measures everything and tells each ratio as soon as it is known.

    Args:
        sizes: How much is measured.
        folder: Takes what trainings write.
        alone: Leave out what needs a second core.
        save: Called with all rows so far, and what is left to measure, whenever there are new ones.
    """
    left_out = _together(sizes, folder) if alone else {}
    jobs = {what: job for what, job in _all(sizes, folder).items() if what not in left_out}
    found: list[Row] = []
    left = list(jobs)
    for job in jobs.values():
        made = job()
        new = [made] if isinstance(made, Row) else list(made)
        for row in new:
            values = ', '.join(map(digits, row.values)) or 'not measured'
            print(f'{row.what}: {values} {row.note and f"({row.note})"}', flush=True)
        found += new
        del left[0]
        if save is not None:
            save(found, left)
    return found


def write(out: Path | None, quick: bool, alone: bool, device: str = 'cpu') -> Path:
    """Measures everything and writes the table.

    Args:
        out: The file; None for the one of the device in results/reference/.
        quick: Measure with sizes that mean nothing, only to show that it runs.
        alone: Leave out what needs a second core.
        device: 'cpu' or 'cuda'.

    Returns:
        The file.

    Raises:
        UserError: There is no GPU, or the file cannot be written.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: no CUDA device was found')
    discover()
    use_threads(1, device)
    keep_freed()
    compute_on(device)
    gpu = '' if device == 'cpu' else torch.cuda.get_device_name()
    out = out or ROOT / 'results' / ('gpu' if gpu else 'reference') / 'speed.md'
    sizes = TINY if quick else ON_GPU if gpu else Sizes()
    words = f' --device {device}' * bool(gpu) + ' --quick' * quick + ' --alone' * alone

    def save(found: list[Row], left: list[str]) -> None:
        missing = [(what, 'the measurement ended before it') for what in left]
        left_out = _together(sizes, Path()) if alone else {}
        missing += [(what, 'left out by `--alone`') for what in left_out]
        lacking = [*missing, *UNMEASURED[device]]
        text = table(found, lacking, f'python benchmark/speed.py{words}', gpu)
        with writing(out) as file:
            file.write(text.encode())

    with tempfile.TemporaryDirectory() as folder:
        rows(sizes, Path(folder), alone, save)
    return out
