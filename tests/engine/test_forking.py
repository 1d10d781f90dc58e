"""The process whose copies train: when it is started, and that it ends with the command."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from forks import ROOT, fork_jobs, status_of

from benchmark import run
from benchmark.engine import forking, jobs
from benchmark.progress import Progress

TWO = '--methods', 'majority', 'hemis'


@pytest.fixture
def started(monkeypatch):
    """The number of starts, in a list; nothing is started."""
    found = []
    monkeypatch.setattr(forking.forkserver, 'ensure_running', lambda: found.append(1))
    monkeypatch.setattr(forking, 'cores', lambda: 2)
    monkeypatch.setattr(forking, 'GPU', Path('no such file'))
    monkeypatch.setattr(forking, '_loaded_for', None)
    monkeypatch.setattr(forking.sys, 'platform', 'linux')
    context = forking.multiprocessing.get_context('forkserver')
    monkeypatch.setattr(type(context), 'set_forkserver_preload', lambda *_: None)
    return found


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (TWO, 1),
        (('--methods', 'majority'), 1),  # on both embedded sets
        (('--methods', 'majority', '--datasets', 'synth_faces'), 0),
        (('--methods', 'majority', '--datasets', 'synth_faces', '--seeds', '0', '1'), 1),
        (('--methods', 'majority', '--datasets', 'synth_faces', '--tune', '2'), 1),
        (('--grid', 'reference', '--datasets', 'synth_faces'), 1),
        ((*TWO, '--jobs', '1'), 0),
        ((*TWO, '--jobs', '2', '--device', 'cpu'), 1),
        ((*TWO, '--device', 'cuda'), 0),
        ((*TWO, '--dry-run'), 0),
        ((*TWO, '--launcher', 'slurm'), 0),
    ],
)
def test_it_is_started_where_several_experiments_will_run_on_a_cpu(words, expected, started):
    forking.load_beside(run.parser().parse_args(words))
    assert len(started) == expected
    method = 'forkserver' if expected else 'spawn'
    assert forking.context().get_start_method() == method


def test_a_single_core_and_a_gpu_need_none(started, monkeypatch):
    args = run.parser().parse_args(TWO)
    with monkeypatch.context() as patch:
        patch.setattr(forking, 'cores', lambda: 1)
        forking.load_beside(args)
    with monkeypatch.context() as patch:
        patch.setattr(forking, 'GPU', Path(os.devnull))
        forking.load_beside(args)
    with monkeypatch.context() as patch:
        patch.setattr(forking.sys, 'platform', 'darwin')
        forking.load_beside(args)
    assert started == []
    forking.load_beside(args)
    assert started == [1]


def test_a_fork_of_what_started_it_starts_new_processes(started, monkeypatch):
    args = run.parser().parse_args(TWO)
    forking.load_beside(args)
    assert forking.context().get_start_method() == 'forkserver'
    assert status_of(lambda: forking.context().get_start_method() != 'spawn') == 0

    def not_ours():
        raise ChildProcessError

    monkeypatch.setattr(forking.forkserver, 'ensure_running', not_ours)
    monkeypatch.setattr(forking, '_loaded_for', None)
    before = Path.cwd()
    forking.load_beside(args)
    assert forking.context().get_start_method() == 'spawn'
    assert Path.cwd() == before


def test_a_plan_for_a_gpu_starts_new_processes(started):
    forking.load_beside(run.parser().parse_args(TWO))
    forking.forget()
    assert forking.context().get_start_method() == 'spawn'


def blocked():
    """Whether an interruption does not reach this process at the moment."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interruption_reaches_the_command_and_not_what_it_is_starting():
    tells = 'import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))'
    reached = []

    def act():
        # The signal may reach any thread of the process.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        # A suite that runs in the background ignores the signal, and its processes inherit that.
        signal.signal(signal.SIGINT, lambda *_: reached.append(1))
        with forking.starting():
            done = subprocess.run([sys.executable, '-c', tells], capture_output=True, check=True)
            os.kill(os.getpid(), signal.SIGINT)
            early = [*reached]
        return 0 if (done.stdout, early, reached) == (b'True\n', [], [1]) and not blocked() else 1

    assert status_of(act) == 0


def tells_whether_blocked(reporter):
    reporter.end(f'blocked: {blocked()}')
    return True


def test_jobs_start_where_no_interruption_reaches_them(capsys, monkeypatch):
    fork_jobs(monkeypatch.setattr)
    with Progress({}, 1, jobs=1) as progress:
        assert jobs.share(tells_whether_blocked, 1, progress)
    assert 'blocked: True' in capsys.readouterr().out
    assert not blocked()


COPY = """
import json, sys
sys.path[0] = {root!r}
from benchmark.engine import forking

def tells(pipe):
    import os
    modules = 'torch', 'benchmark.running', 'methods.mmanet'
    files = [getattr(sys.modules.get(name), '__file__', None) for name in modules]
    pipe.send([os.getcwd(), *files])

if __name__ == '__main__':
    from benchmark import run
    forking.load_beside(run.parser().parse_args({words!r}))
    context = forking.context()
    ours, theirs = context.Pipe(duplex=False)
    context.Process(target=tells, args=(theirs,)).start()
    print(json.dumps(ours.recv()))
"""


def test_a_copy_has_loaded_this_checkout_wherever_the_command_is_typed(tmp_path):
    # The folder of the user holds what must not be taken for a part of the project.
    for name in ('benchmark', 'methods', 'torch'):
        (tmp_path / f'{name}.py').write_text("raise SystemExit('imported')")
    file = tmp_path / 'scripts' / 'program.py'
    file.parent.mkdir()
    words = [*TWO, '--device', 'cpu', '--jobs', '2']
    file.write_text(COPY.format(root=str(ROOT), words=words))
    done = subprocess.run(
        [sys.executable, file], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    where, torch, running, method = json.loads(done.stdout)
    assert done.stderr == ''
    assert Path(where) == tmp_path
    assert Path(torch).parent.name == 'torch'
    assert Path(running) == ROOT / 'benchmark/running.py'
    assert Path(method) == ROOT / 'methods/mmanet.py'


PROGRAM = """
import sys
sys.path[0] = {root!r}
from benchmark.engine import forking

forking.LOADED[:] = []  # loading PyTorch would take seconds

if __name__ == '__main__':
    import os
    from benchmark import run
    forking.load_beside(run.parser().parse_args({words!r}))
    pid = forking.forkserver._forkserver._forkserver_pid
    print(pid, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks for the process in /proc')
@pytest.mark.parametrize('killed', [False, True])
def test_it_ends_with_the_command_however_that_ends(tmp_path, killed):
    words = [*TWO, '--device', 'cpu', '--jobs', '2']
    file = tmp_path / 'program.py'
    file.write_text(PROGRAM.format(root=str(ROOT), words=words))
    with subprocess.Popen(
        [sys.executable, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as command:
        place = Path('/proc', command.stdout.readline().strip())
        assert place.is_dir()
        if killed:
            command.kill()
        else:
            command.stdin.write('\n')
    until = time.monotonic() + 60
    while place.is_dir() and time.monotonic() < until:
        time.sleep(0.01)
    assert not place.is_dir()
