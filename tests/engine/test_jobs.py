"""Several processes that share the experiments of one command."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from forks import fork_jobs, get_ready, status_of, typed

from benchmark import run
from benchmark.dataset import Dataset
from benchmark.engine import forking, granted, jobs
from benchmark.engine.granted import cores
from benchmark.errors import UserError
from benchmark.progress import Progress
from benchmark.records import store
from tests.helpers.repetitions import scientific

ROOT = Path(__file__).resolve().parents[2]


def command(results, count, *words):
    """A command with three experiments; one distils the network of another."""
    options = ('train=16', 'val=8', 'test=8', 'size=16', 'width=4', 'batch_size=8', 'epochs=1')
    what = ('--methods', 'complete', 'distilled', 'majority', '--datasets', 'synth_faces')
    how = ('--results', str(results), '--jobs', str(count), '--device', 'cpu', '--cfg-options')
    return [*what, *how, *options, *words]


def records(results):
    return {
        record['method']['label']: scientific(record)
        for record in store.scan(results / 'runs').complete.values()
    }


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """The records that one process leaves."""
    results = tmp_path_factory.mktemp('alone')
    assert run.main(command(results, 1)) == 0
    return records(results)


class Mixed:
    """A context that starts the first process anew, as jobs are, and forks the others."""

    Pipe = staticmethod(multiprocessing.Pipe)

    def __init__(self):
        names = itertools.chain(['spawn'], itertools.repeat('fork'))
        self._contexts = map(multiprocessing.get_context, names)

    def Process(self, **given):
        return next(self._contexts).Process(**given)


@pytest.fixture(scope='module', params=['copies', 'new'])
def two(tmp_path_factory, request):
    """The results of a command with two jobs that is typed in some folder, its status and output.

    The jobs are copies of one process or, as on a machine with a GPU, new ones. Another package
    called datasets is installed, which a job must not import.
    """
    folder = tmp_path_factory.mktemp('two')
    decoy = folder / 'decoy' / 'datasets'
    decoy.mkdir(parents=True)
    (decoy / '__init__.py').write_text("raise SystemExit('the decoy was imported')")

    def act():
        os.chdir(folder)
        sys.path[:] = [str(decoy.parent), *(p for p in sys.path if p not in ('', str(ROOT)))]
        if request.param == 'new':
            context = Mixed()
            forking.context = lambda: context
            forking.load_beside = lambda args: None
        typed('benchmark/run.py', *command(folder / 'results', 2))

    get_ready()
    status = status_of(act, folder / 'told')
    return folder / 'results', status, (folder / 'told').read_text()


def test_two_jobs_do_what_one_does_beside_another_package_called_datasets(two, alone):
    results, status, told = two
    assert status == 0, told
    assert 'decoy' not in told
    assert 'ended: ' not in told
    lines = [line for line in told.splitlines() if line.startswith('[')]
    assert [line[:5] for line in lines] == ['[1/3]', '[2/3]', '[3/3]']
    assert not any('another process' in line for line in lines)
    # The data are described and the table is printed by one of the processes alone.
    assert told.count('synth_faces.md, .tex, .csv') == 1
    assert records(results) == alone
    assert len(records(results)) == 3
    assert list((results / 'runs').rglob('.*')) == []


@pytest.fixture
def forked(monkeypatch):
    """Forks the jobs of a test: new processes, as above, would load the libraries anew."""
    fork_jobs(monkeypatch.setattr)


def dies(reporter):
    """A job that is killed once another has said that it works."""
    reporter.start('toy', f'of process {os.getpid()}', 0)
    os.kill(os.getpid(), signal.SIGKILL)


def tells(ok, reporter):
    """A job that runs one experiment and sees that of another job and that of a stranger."""
    mine = f'mine {os.getpid()}'
    reporter.start('toy', mine, 0)
    reporter.report('training', 0, 2, 0.0)
    reporter.report('training', 2, 2, 4.0)
    reporter.elsewhere('toy', mine, 0, 'done, run by another process')
    reporter.elsewhere('toy', 'strange', 0, 'done, run by another process')
    reporter.waiting(1)
    reporter.end('well')
    return ok


def works(reporter):
    return tells(True, reporter)


def fails(reporter):
    return tells(False, reporter)


def sleeps(reporter):
    """A job that tells its process and then works for long."""
    reporter.start('toy', str(os.getpid()), 0)
    time.sleep(600)


@pytest.mark.parametrize(('job', 'result'), [(works, True), (fails, False)])
def test_what_jobs_tell_is_shown_once(job, result, forked, capsys):
    with Progress({'toy': 4}, 3, jobs=2) as progress:
        assert jobs.share(job, 2, progress) is result
    assert progress.seen == {'toy': 4}
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line[:5] for line in lines) == ['[1/3]', '[2/3]', '[3/3]']
    assert sum('well' in line for line in lines) == 2
    assert sum('strange  seed 0  done' in line for line in lines) == 1
    assert not any('waiting' in line for line in lines)


def test_a_job_that_dies_is_named_and_its_work_is_left(forked, capsys):
    with Progress({}, 1, jobs=1) as progress:
        assert jobs.share(dies, 1, progress) is None
    assert 'job 1 of 1 ended: signal 9 (Killed)' in capsys.readouterr().out


def refuses(reporter):
    """A job whose data have vanished since the command was planned."""
    raise UserError('no such data')


def test_a_job_that_is_refused_leaves_its_work_without_a_traceback(forked, capfd):
    with Progress({}, 1, jobs=1) as progress:
        assert jobs.share(refuses, 1, progress) is None
    told = capfd.readouterr()
    assert 'job 1 of 1 ended: exit status 1' in told.out
    assert told.err == ''


def test_an_interruption_ends_all_jobs(forked):
    started = []

    class Interrupted(Progress):
        """Is interrupted when the first job speaks."""

        def start(self, dataset, label, seed, folder=None, job=0):
            """Remembers the process."""
            started.append(int(label))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.share(sleeps, 2, Interrupted({}, 1, jobs=2))
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_an_interruption_while_a_job_is_started_ends_that_job_too(forked, monkeypatch):
    started = []

    @contextlib.contextmanager
    def starting():
        yield
        # As where the signal waits for the end of the block.
        started[:] = multiprocessing.active_children()
        if len(started) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs.forking, 'starting', starting)
    with Progress({}, 1, jobs=2) as progress, pytest.raises(KeyboardInterrupt):
        jobs.share(sleeps, 2, progress)
    assert len(started) == 2
    assert not any(process.is_alive() for process in started)


def shares(jobs_started):
    """Starts a job that says nothing any more, and tells the number of its process."""

    class Telling(Progress):
        """Passes on what the job tells."""

        def start(self, dataset, label, seed, folder=None, job=0):
            """Takes the number of the job's process."""
            jobs_started.send(int(label))

    jobs.share(sleeps, 1, Telling({}, 1, jobs=1))


def ends(process, seconds=20.0):
    """Whether a process that is no child of this one ends soon."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not Path(f'/proc/{process}').exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='asks Linux for the processes')
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_jobs_end_with_the_process_that_started_them(how, forked):
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    parent = context.Process(target=shares, args=(theirs,))
    parent.start()
    theirs.close()
    job = ours.recv()
    os.kill(parent.pid, how)
    parent.join()
    assert parent.exitcode == -how
    assert ends(job)


def shared(results):
    """The command with two jobs, as if it had been typed."""
    sys.argv = ['benchmark/run.py', *command(results, 2)]
    run.main()


def test_a_command_whose_process_was_killed_is_finished_by_the_next(
    tmp_path, alone, forked, capsys
):
    parent = multiprocessing.get_context('fork').Process(target=shared, args=(tmp_path,))
    parent.start()
    until = time.monotonic() + 200
    while not (first := store.files(tmp_path)) and time.monotonic() < until:
        time.sleep(0.01)
    parent.kill()
    parent.join()
    written = {file: file.stat().st_mtime_ns for file in first}
    capsys.readouterr()
    assert run.main(command(tmp_path, 1)) == 0
    assert 'of 3 experiments are recorded already' in capsys.readouterr().out
    assert (
        written.items() <= {file: file.stat().st_mtime_ns for file in store.files(tmp_path)}.items()
    )
    assert records(tmp_path) == alone


class Streams(Dataset):
    """Data that are decoded while they are read."""

    streams = True


def test_the_usual_number_of_jobs_fills_the_cores_of_a_cpu(monkeypatch):
    plain, streaming = Dataset(), Streams()
    monkeypatch.setattr(jobs, 'cores', lambda: 8)
    monkeypatch.setattr(jobs, 'MEMORY', 1)
    assert jobs.usual('cpu', 1, [plain]) == 8
    assert jobs.usual('cpu', 3, [plain]) == 2
    assert jobs.usual('cpu', 16, [plain]) == 1
    assert jobs.usual('cpu', 1, [plain, streaming]) == 1
    assert jobs.usual('cuda', 1, [plain]) == 1
    monkeypatch.setattr(jobs, 'MEMORY', 2**60)
    assert jobs.usual('cpu', 1, [plain]) == 1
    assert cores() >= 1


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 cores and 64 GB, whose groups of processes are in a folder."""
    for name in ('SLURM_CPUS_PER_TASK', 'SLURM_MEM_PER_NODE', 'SLURM_MEM_PER_CPU'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(granted, 'CGROUP', tmp_path)
    monkeypatch.setattr(granted, 'MINE', tmp_path / 'mine')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, 'sysconf', lambda name: 2**24 if name == 'SC_PHYS_PAGES' else 4096)
    return tmp_path


@pytest.mark.parametrize(
    ('quota', 'count'),
    [('200000 100000', 2), ('150000 100000', 2), ('50000 100000', 1), ('1600000 100000', 8),
     ('max 100000', 8), (None, 8), ('', 8)],
)  # fmt: skip
def test_a_container_grants_some_of_the_cores(quota, count, machine):
    # Docker's --cpus and Kubernetes' limits change no affinity.
    if quota is not None:
        (machine / 'cpu.max').write_text(f'{quota}\n')
    assert cores() == count


def test_a_container_grants_some_of_the_memory(machine, monkeypatch):
    monkeypatch.setattr(jobs, 'cores', lambda: 64)
    assert jobs.usual('cpu', 1, [Dataset()]) == 32  # of 64 GB
    (machine / 'memory.max').write_text('max\n')
    assert jobs.usual('cpu', 1, [Dataset()]) == 32
    (machine / 'memory.max').write_text(f'{5 * 2**30}\n')
    assert jobs.usual('cpu', 1, [Dataset()]) == 2
    (machine / 'memory.max').write_text(f'{2**30}\n')
    assert jobs.usual('cpu', 1, [Dataset()]) == 1


@pytest.mark.parametrize(
    ('mine', 'count', 'size'),
    [('0::/slurm/job_7/step', 3, 5), ('0::/slurm', 6, 9), ('1:name=systemd:/slurm/job_7', 7, 40),
     ('0::/', 7, 40), ('0::/../slurm/job_7', 7, 40), ('0::/gone/job_7', 7, 40)],
)  # fmt: skip
def test_the_limits_of_all_groups_around_a_process_hold(mine, count, size, machine):
    limits = {'.': ('7', '40'), 'slurm': ('6', '9'), 'slurm/job_7': ('3', '5')}
    (machine / 'slurm' / 'job_7' / 'step').mkdir(parents=True)
    for group, (quota, most) in limits.items():
        (machine / group / 'cpu.max').write_text(f'{quota}00000 100000\n')
        (machine / group / 'memory.max').write_text(f'{int(most) * 2**30}\n')
    (machine / 'slurm' / 'job_7' / 'step' / 'cpu.max').write_text('max 100000\n')
    (machine / 'mine').write_text(f'2:cpu:/elsewhere\n{mine}\n')
    assert (cores(), granted.memory()) == (count, size * 2**30)


@pytest.mark.parametrize(
    ('variables', 'count', 'size'),
    [
        ({}, 8, 64), ({'CPUS_PER_TASK': '4'}, 4, 64), ({'CPUS_PER_TASK': '40'}, 8, 64),
        ({'MEM_PER_NODE': '8192'}, 8, 8), ({'MEM_PER_NODE': '0'}, 8, 64),
        ({'CPUS_PER_TASK': '4', 'MEM_PER_CPU': '2048'}, 4, 8), ({'MEM_PER_CPU': '2048'}, 8, 16),
        ({'CPUS_PER_TASK': 'x', 'MEM_PER_NODE': ''}, 8, 64),
    ],
)  # fmt: skip
def test_slurm_grants_some_of_the_cores_and_the_memory(
    variables, count, size, machine, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    assert (cores(), granted.memory()) == (count, size * 2**30)
