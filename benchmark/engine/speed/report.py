"""All measurements, one after the other, and the file that they make."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.engine.building import use_threads
from benchmark.engine.memory import keep_freed
from benchmark.engine.speed import processes, starting, testing, trainings
from benchmark.engine.speed.measuring import TINY, Row, Sizes, table
from benchmark.files import writing
from benchmark.registry import discover

GPU = 'needs a GPU; no measurement has been made on one'
UNMEASURED = (
    ('`--jobs` on one GPU', GPU),
    ('bfloat16 / float32', GPU),
    ('`--compile` / without, on a GPU', GPU),
    ('`--no-deterministic` / `--deterministic`', GPU),
    ("share of the step's bfloat16 roofline at the papers' size (goal: >= 0.40)", GPU),
    ("images a second at the papers' size / of the released loop's work (goal: >= 5)", GPU),
    ('the whole reference of both embedded data sets with 8 seeds (goal: under an hour)', GPU),
)
"""What has no number, and why."""


def rows(sizes: Sizes, folder: Path, alone: bool) -> list[Row]:
    """Measures everything and tells each ratio as soon as it is known.

    Args:
        sizes: How much is measured.
        folder: Takes what trainings write.
        alone: Leave out what needs a second core.
    """
    jobs: list[Callable[[], Sequence[Row] | Row]] = [
        lambda: trainings.loops(sizes, folder),
        lambda: trainings.mmanet(sizes, folder),
        lambda: testing.all_subsets(sizes, folder),
        lambda: trainings.papers(sizes, folder),
        lambda: testing.papers(sizes, folder),
        lambda: trainings.peak(sizes, folder),
        lambda: trainings.memory(sizes, folder),
    ]
    if not alone:
        jobs += [
            lambda: trainings.threads(sizes, folder),
            lambda: starting.starts(sizes),
            lambda: processes.kept(sizes),
            lambda: processes.jobs(sizes),
            lambda: processes.shared(sizes),
        ]
    found: list[Row] = []
    for job in jobs:
        made = job()
        new = [made] if isinstance(made, Row) else list(made)
        for row in new:
            values = ', '.join(f'{x:.2f}' for x in row.values) or 'not measured'
            print(f'{row.what}: {values} {row.note and f"({row.note})"}', flush=True)
        found += new
    return found


def write(out: Path, quick: bool, alone: bool) -> None:
    """Measures everything and writes the table.

    Args:
        out: The file.
        quick: Measure with sizes that mean nothing, only to show that it runs.
        alone: Leave out what needs a second core.

    Raises:
        UserError: The file cannot be written.
    """
    discover()
    use_threads(1, 'cpu')
    keep_freed()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(TINY if quick else Sizes(), Path(folder), alone)
    words = ' --quick' * quick + ' --alone' * alone
    text = table(found, UNMEASURED, f'python benchmark/speed.py{words}')
    with writing(out) as file:
        file.write(text.encode())
