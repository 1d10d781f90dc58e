"""A whole command on a data set of 20 modalities, of whose subsets a sample is tested."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.engine.speed.measuring import Row, Sizes
from benchmark.files import ROOT
from benchmark.records import store

COUNT, FEATURES = 20, 16
"""Number of the modalities, and of the features of each, which all tell something of the class."""


def many(sizes: Sizes) -> Row:
    """Measures a training and the test of the default's sample of subsets, from start to table."""
    samples, epochs = sizes.many
    what = f'seconds in which {COUNT} vectors train for {epochs} epochs and are tested'
    with tempfile.TemporaryDirectory() as folder:
        results, file = Path(folder, 'results'), Path(folder, 'twenty.npz')
        _write(file, samples)
        command = [
            sys.executable, str(ROOT / 'benchmark/run.py'), '--methods', 'modality_dropout',
            '--datasets', 'arrays', '--data-root', str(file), '--results', str(results),
            '--device', 'cpu', '--jobs', '1', '--threads', '1', '--cfg-options', f'epochs={epochs}',
        ]  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        took = time.perf_counter() - start
        records = list(results.rglob(store.RECORD))
        if done.returncode or len(records) != 1:
            return Row(what, [], note='the command failed')
        record = json.loads(records[0].read_text())
        kept = sum(file.stat().st_size for file in results.rglob('*') if file.is_file())
    tested = len(record['scores']['test'])
    note = (
        f'{samples} samples to train; {tested} of {2**COUNT - 1:,} subsets of {samples // 2} '
        f'samples; peak memory {record["cost"]["peak_memory_mb"]:.0f} MiB; all files with table '
        f'and page {kept / 2**20:.1f} MiB; one measurement'
    )
    return Row(what, [took], '<= 300', note)


def _write(file: Path, samples: int) -> None:
    """Writes the data set: half as many samples to validate and to test as to train."""
    split = np.repeat([0, 1, 2], [samples, samples // 2, samples // 2])
    target = np.arange(len(split)) % 2
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {'target': target, 'split': split}
    for k in range(COUNT):
        noise = rng.normal(size=(len(split), FEATURES))
        arrays[f'inputs/m{k:02}'] = noise + 0.2 * target[:, None]
    np.savez(file, **arrays)
