"""Experiments as tasks of Slurm: options, units of work, and a command in a real Slurm."""

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from repetitions import scientific
from slurm import Unavailable, cluster

from benchmark import run
from benchmark.engine import slurm_jobs, slurm_options
from benchmark.errors import UserError
from benchmark.records import store

SMALL = ('train=32', 'val=16', 'test=16', 'size=24', 'width=8', 'batch_size=16', 'epochs=3')

METHODS = '''"""A teacher that waits in its second epoch, and its student."""

import time
from pathlib import Path

from benchmark.registry import METHODS
from methods.complete import Complete
from methods.distilled import Distilled

OPEN = Path(__file__).with_name('open')


@METHODS.register_module('patient')
class Patient(Complete):
    """Waits for a file (unpublished, 2026)."""

    def loss(self, batch):
        """Returns the loss of `complete`, in the second epoch once the file is there."""
        while self.epoch == 1 and not OPEN.exists():
            time.sleep(0.02)
        return super().loss(batch)


@METHODS.register_module('pupil')
class Pupil(Distilled):
    """Learns from it (unpublished, 2026)."""

    teacher = 'patient'
'''


def command(folder, results, *words):
    """A command with two experiments; one needs a teacher that is no experiment of its own."""
    what = ('--methods', f'{folder / "patient.py"}:pupil', 'majority', '--datasets', 'synth_faces')
    how = ('--results', str(results), '--device', 'cpu', '--cfg-options', *SMALL)
    return [*what, *how, *words]


SLURM = ('--launcher', 'slurm', '--slurm', 'time=1:00:00,cpus_per_task=1')


def records(results):
    found = store.scan(results / 'runs').complete.values()
    return {record['method']['label']: scientific(record) for record in found}


def files_of(results):
    return {file: file.stat().st_mtime_ns for file in results.rglob(store.RECORD)}


@pytest.fixture(scope='module')
def node():
    """A Slurm of one node, whose commands this process finds."""
    # The path of a socket may have 108 characters.
    with tempfile.TemporaryDirectory(prefix='slurm') as folder:
        try:
            with cluster(Path(folder)) as running, pytest.MonkeyPatch.context() as patch:
                for name, value in running.environment.items():
                    patch.setenv(name, value)
                yield running
        except Unavailable as why:
            if 'CI' in os.environ:
                raise
            pytest.skip(str(why))


def wait(happened, seconds=60.0):
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def queue(*form):
    """What Slurm says of all tasks that have not ended, a line each."""
    done = subprocess.run(
        ['squeue', '--noheader', '--array', *form], capture_output=True, text=True, check=True
    )
    return sorted(done.stdout.split('\n')[:-1])


@pytest.fixture(scope='module')
def lived(node, tmp_path_factory):
    """A results folder through a life in Slurm: what was told and seen, by moment."""
    folder = tmp_path_factory.mktemp('lived')
    (folder / 'patient.py').write_text(METHODS)
    results, seen = folder / 'results', {}

    def told(*words):
        # The output of a process is its own: a fixture of this scope has no capsys.
        with tempfile.TemporaryFile('w+') as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr('sys.stdout', file)
            assert run.main([*command(folder, results), *words]) == 0
            file.seek(0)
            return file.read()

    def at_epoch_two():
        found = list(results.rglob('resume.pth'))
        return found and slurm_jobs.alive({'': '1_0'}) == {'1_0': 'RUNNING'}

    seen['submitted'] = told(*SLURM)
    seen['queue'] = queue('--format=%i %E')
    wait(at_epoch_two)
    seen['again'] = told(*SLURM)
    seen['same queue'] = queue('--format=%i %E')
    seen['status'] = told('--status', str(results))
    wait(lambda: (results / 'tables' / 'synth_faces.md').is_file())
    seen['partial'] = (results / 'tables' / 'synth_faces.md').read_text()
    # As Slurm does some time before the limit of a task.
    subprocess.run(['scancel', '--signal=USR2', '1_0'], check=True)
    wait(lambda: slurm_jobs.alive({'': '1_0'}) == {'1_0': 'PENDING'})
    seen['stopped'] = told('--status', str(results))
    (folder / 'open').touch()
    # Slurm lets a task that was put back wait for two minutes.
    subprocess.run(['scontrol', 'update', 'JobId=1_0', 'StartTime=now'], check=True)
    wait(lambda: not queue())
    before = files_of(results)
    seen['collected'] = told(*SLURM)
    seen['kept'] = files_of(results) == before
    seen['queue at the end'] = queue()
    seen['logs'] = {f.name: f.read_text() for f in (results / 'slurm').rglob('*.out')}
    return folder, results, seen


def test_it_lives(lived):
    folder, results, seen = lived
    for k, v in seen.items():
        print('=====', k); print(v if isinstance(v, str) else json.dumps(v, indent=1).replace('\\n', '\n'))
    assert 0
