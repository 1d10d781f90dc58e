"""Experiments as tasks of Slurm: options, units of work, and a command in a real Slurm."""

import contextlib
import errno
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from flocks import refuse_flock
from forked import program
from forks import fork_jobs
from repetitions import scientific
from slurm import Unavailable, cluster
from submitit.core.utils import JobPaths
from submitit.slurm.slurm import SlurmExecutor
from tasks import TASKS, Toy

from benchmark import files, run, running
from benchmark.engine import locks, picking, plan, slurm, slurm_announced, slurm_jobs, slurm_options
from benchmark.engine.building import Machine
from benchmark.engine.locks import holding
from benchmark.engine.slurm_options import minutes, options
from benchmark.engine.slurm_task import Task
from benchmark.errors import UserError
from benchmark.records import store
from benchmark.registry import discover

discover()

COMMAND = slurm.COMMAND

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


def command(folder, results):
    """A command with two experiments; one needs a teacher that is no experiment of its own."""
    what = ('--methods', f'{folder / "patient.py"}:pupil', 'majority', '--datasets', 'synth_faces')
    how = ('--results', str(results), '--device', 'cpu', '--cfg-options', *SMALL)
    return [*what, *how]


SLURM = ('--launcher', 'slurm', '--slurm', 'time=1:00:00,cpus_per_task=1')


def records(results):
    found = store.scan(results / 'runs').complete.values()
    return {record['method']['label']: scientific(record) for record in found}


@pytest.fixture(scope='module')
def node():
    """A Slurm of one node; this process finds its commands, and its tasks are forked from here."""
    # The path of a socket may have 108 characters.
    with tempfile.TemporaryDirectory(prefix='slurm', ignore_cleanup_errors=True) as folder:
        try:
            with cluster(Path(folder)) as running, pytest.MonkeyPatch.context() as patch:
                for name, value in running.environment.items():
                    patch.setenv(name, value)
                with program(Path(folder), run.main) as command:
                    patch.setattr(slurm, 'COMMAND', (str(command),))
                    yield running
        except Unavailable as why:
            if 'CI' in os.environ:
                raise
            pytest.skip(str(why))


def wait(happened, seconds=90.0):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def asked(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def queue(form):
    """What Slurm says of all tasks that have not ended, a line each."""
    return sorted(asked('squeue', '--noheader', '--array', f'--format={form}').splitlines())


class Life:
    """A command in Slurm from its submission to its tables: what was told and seen, by moment.

    The node has one core, so that of two tasks that could begin, one waits.
    """

    def __init__(self, folder):
        self.folder, self.results, self.whole = folder, folder / 'results', folder / 'whole'
        (folder / 'patient.py').write_text(METHODS)
        self.told, self.queue = {}, {}

    def tell(self, moment, *words, results=None):
        # A fixture of a module has no capsys.
        with io.StringIO() as text, contextlib.redirect_stdout(text):
            assert run.main([*command(self.folder, results or self.results), *words]) == 0
            self.told[moment] = text.getvalue()
        self.queue[moment] = queue('%i %E')

    def job_of(self, moment):
        """The only task that was submitted at a moment."""
        (found,) = re.findall(r'submitted 1 task: (\d+)\n', self.told[moment])
        return found

    def stopped(self):
        self.tell('stopped', '--status')
        return 'running' not in self.told['stopped']

    def put_back(self):
        # Its process ends some moments later than its state says.
        return queue('%i %T')[0] == '1_0 PENDING' and self.stopped()

    @staticmethod
    def start_again():
        # Slurm lets a task that was put back wait for two minutes, and needs some seconds.
        asked('scontrol', 'update', 'JobId=1_0', 'StartTime=now+3')

    def live(self):
        self.tell('submitted', *SLURM)
        wait(lambda: any('resume.pth' in files for *_, files in os.walk(self.results)))
        asked('scancel', '1_1')
        self.tell('a task was cancelled', *SLURM)
        asked('scancel', self.job_of('a task was cancelled'))
        self.tell('alone', '--methods', 'majority')
        self.tell('again', *SLURM)
        self.tell('running', '--status')
        asked('scancel', '--signal=USR2', '1_0')  # as Slurm does some time before its limit
        wait(self.put_back)
        self.start_again()
        wait(lambda: not self.stopped())
        asked('sbatch', '--partition=urgent', '--output=/dev/null', '--wrap=true')
        wait(self.put_back)
        (self.folder / 'open').touch()
        self.start_again()
        self.tell('one process', results=self.whole)
        wait(lambda: not queue('%i'))
        self.table = (self.results / 'tables' / 'synth_faces.md').read_text()
        self.tell('collected', *SLURM)


@pytest.fixture(scope='module')
def life(node, tmp_path_factory):
    found = Life(tmp_path_factory.mktemp('life'))
    found.live()
    return found


def test_teachers_begin_first_and_students_wait_for_them(life):
    assert 'submitted 2 tasks: 1_0 to 1_1\n' in life.told['submitted']
    assert 'submitted 1 task: 2; begins after 1_0\n' in life.told['submitted']
    assert life.queue['submitted'] == ['1_0 (null)', '1_1 (null)', '2 afterany:1_0(unfulfilled)']


def test_what_waits_or_runs_is_not_submitted_again_and_what_was_cancelled_is(life):
    told = life.told['a task was cancelled']
    assert 'tasks in the queue already: 1 pending, 1 running (jobs 1, 2)\n' in told
    job = life.job_of('a task was cancelled')
    others = ['1_0 (null)', '2 afterany:1_0(unfulfilled)']
    assert life.queue['a task was cancelled'] == [*others, f'{job} (null)']
    assert 'submitted' not in life.told['again']
    assert life.queue['again'] == others


def test_the_tables_of_what_is_recorded_are_there_while_tasks_run(life):
    assert '1 of 2 experiments are recorded already\n' in life.told['again']
    assert re.search('^majority', life.told['again'], re.MULTILINE)
    assert 'pupil' not in life.told['again'].partition('synth_faces (')[2]
    # The last task has written the table; nobody has collected anything before.
    assert re.search(r'^\| pupil', life.table, re.MULTILINE)


def test_the_status_tells_what_runs_and_waits(life):
    assert 'seed 0 running (epoch 2 of 3)' in life.told['running']
    assert 'tasks in the queue: 1 pending, 1 running (jobs 1, 2)\n' in life.told['running']
    assert 'seed 0 resumable (at epoch 2 of 3)' in life.told['stopped']


def test_a_task_that_ran_into_its_limit_or_was_preempted_went_on_from_its_epoch(life):
    (log,) = life.results.rglob('patient/*/seed0/train.log')
    assert re.findall(r'epoch (\d): loss', log.read_text()) == ['0', '1', '2']
    text = next((life.results / 'slurm').rglob('1_0_0_log.out')).read_text()
    assert text.count('Starting with') == 3
    # submitit puts a task back before its limit, and Slurm itself one that it preempts.
    assert text.count('Requeued job 1_0') == 1
    assert 'DUE TO PREEMPTION' in text


def test_the_same_command_collects_the_records_of_one_process(life):
    assert '2 of 2 experiments are recorded already\n' in life.told['collected']
    assert 'submitted' not in life.told['collected']
    assert life.told['collected'].count('synth_faces.md, .tex, .csv') == 1
    assert life.queue['collected'] == []
    found = records(life.results)
    assert found.keys() == {'pupil', 'majority'}
    assert found == records(life.whole)
    # The teacher was trained, and is no row.
    assert not list(life.results.rglob('patient/*/seed0/record.json'))


def killed_at(place, name, call):
    """Lets this process die at one of the calls of a function."""
    real, calls = getattr(place, name), []

    def dying(*args, **more):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)

    setattr(place, name, dying)


@pytest.mark.parametrize(
    ('where', 'name', 'call', 'kept'),
    [
        (slurm_jobs, 'write', 1, 2),  # Slurm has both tasks; nothing in the folder tells their ids
        (JobPaths, 'move_temporary_file', 3, 1),  # what the second task runs is not in its place
        (SlurmExecutor, '_submit_command', 1, 0),  # nothing has been submitted
    ],
)
def test_what_a_killed_command_had_submitted_is_not_submitted_again(
    where, name, call, kept, life, tmp_path, capsys, monkeypatch
):
    # Slurm counts jobs from the first of `life`, whose tasks have ended.
    assert life.queue['collected'] == []
    monkeypatch.setattr(slurm_announced, 'SETTLED', 0.5)
    words = [*command(tmp_path, tmp_path / 'new'), '--methods', 'majority', 'hemis', *SLURM[:2]]
    words += ['--slurm', 'time=5,begin=now+1hour,comment=of mine']
    child = os.fork()
    if not child:
        killed_at(where, name, call)
        run.main(words)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before = queue('%i %k')
    try:
        assert len(before) == (2 if kept else 0)
        assert run.main(['--status', str(tmp_path / 'new')]) == 0
        told = capsys.readouterr().out
        assert (f'tasks in the queue: {kept} pending' in told) == bool(kept)
        assert run.main(words) == 0
        told = capsys.readouterr().out
        assert (f'tasks in the queue already: {kept} pending' in told) == bool(kept)
        assert told.count('cancelled, because a killed command had not finished them') == (
            kept == 1
        )
        new = {0: 'submitted 2 tasks', 1: 'submitted 1 task:', 2: 'tasks in the queue already'}
        assert new[kept] in told
        assert ('submitted' in told) == (kept < 2)
        after = queue('%i %k')
        assert len(after) == 2
        assert all(' of mine benchmark-' in line for line in after)
        assert set(before[:kept]) <= set(after)
        # Typed once more, nothing changes.
        assert run.main(words) == 0
        assert 'submitted' not in capsys.readouterr().out
        assert queue('%i %k') == after
        assert sorted(slurm_jobs.read(tmp_path / 'new').values()) == [x.split()[0] for x in after]
        # What Slurm does not know is looked for again, for a day.
        file = tmp_path / 'new' / 'slurm' / slurm_announced.ANNOUNCED
        assert file.exists() == (kept == 0)
    finally:
        asked('scancel', f'--user={os.getuid()}')
        wait(lambda: not queue('%i'))


def test_what_slurm_refuses_is_one_line(node, tmp_path, capsys):
    words = [*command(tmp_path, tmp_path / 'new'), '--methods', 'majority']
    assert run.main([*words, *SLURM[:2], '--slurm', 'time=5,partition=none']) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r'error: sbatch: Slurm refuses the jobs: invalid partition.*\n', error)
    assert slurm_jobs.read(tmp_path / 'new') == {}
    assert not (tmp_path / 'new' / 'slurm' / slurm_announced.ANNOUNCED).exists()


def test_what_slurm_was_too_slow_to_answer_is_looked_for(tmp_path, capsys, monkeypatch):
    late = tmp_path / 'late'
    for name in slurm_options.COMMANDS:
        stub(tmp_path, monkeypatch, 'exit 0', name)
    stub(
        tmp_path, monkeypatch, 'echo Socket timed out on send/recv operation >&2; exit 1', 'sbatch'
    )
    words = [*command(tmp_path, tmp_path / 'new'), '--methods', 'majority', *SLURM]
    assert run.main(words) == 2
    assert 'Socket timed out' in capsys.readouterr().err
    (announced,) = (tmp_path / 'new').rglob(slurm_announced.ANNOUNCED)
    (mark,) = (one['mark'] for one in files.read_json(announced))
    # Slurm tells of the task the second time that it is asked.
    stub(tmp_path, monkeypatch, f'test -e {late} && echo 7 {mark}; touch {late}')
    monkeypatch.setattr(slurm_announced.time, 'sleep', lambda seconds: None)
    (path := tmp_path / 'new' / 'slurm' / '7' / '7_submitted.pkl').parent.mkdir()
    path.touch()
    assert slurm_announced.recovered(tmp_path / 'new', wait=False) == ({}, [], set())
    late.unlink()
    found = slurm_announced.recovered(tmp_path / 'new')
    assert [*found.jobs.values()] == ['7']
    assert (found.lost, found.marks) == ([], {mark})
    assert capsys.readouterr().out.count('waiting for what a command that was killed') == 1


def test_what_was_announced_is_looked_for_until_it_is_found_or_a_day_has_passed(
    tmp_path, monkeypatch
):
    (tmp_path / 'slurm').mkdir()
    first = slurm_announced.announce(tmp_path, [['runs/a'], ['runs/b']])
    second = slurm_announced.announce(tmp_path, [['runs/a']])
    monkeypatch.setattr(slurm_announced.time, 'sleep', lambda seconds: None)
    # `sbatch` took so long that its tasks came after the next command had given them up.
    stub(tmp_path, monkeypatch, f'echo 7_1 mine {first}; echo 8 {second}; echo 9 benchmark-12')
    found = slurm_announced.recovered(tmp_path)
    assert (found.jobs, found.lost, found.marks) == ({}, ['7_1', '8'], {first, second})
    slurm_announced.settle(tmp_path, [second])
    found = slurm_announced.recovered(tmp_path)
    assert (found.lost, found.marks) == (['7_1'], {first})
    # The tasks of the folder that a folder is a copy of are none of its own.
    shutil.copytree(tmp_path / 'slurm', tmp_path / 'copy' / 'slurm')
    assert slurm_announced.recovered(tmp_path / 'copy') == ({}, [], set())
    monkeypatch.setattr(slurm_announced, 'FORGOTTEN', -1.0)
    assert slurm_announced.recovered(tmp_path) == ({}, [], set())
    slurm_announced.settle(tmp_path, [first])
    assert not (tmp_path / 'slurm' / slurm_announced.ANNOUNCED).exists()


def test_a_full_disk_after_the_submission_submits_nothing_twice(
    life, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(slurm_announced, 'SETTLED', 0.5)
    words = [*command(tmp_path, tmp_path / 'new'), '--methods', 'majority', 'hemis', *SLURM[:2]]
    words += ['--slurm', 'time=5,begin=now+1hour']
    with monkeypatch.context() as patch:
        real, calls = JobPaths.move_temporary_file, []

        def full(self, *args, **more):
            calls.append(args)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, 'No space left on device')
            return real(self, *args, **more)

        patch.setattr(JobPaths, 'move_temporary_file', full)
        assert run.main(words) == 2
    assert re.fullmatch(
        r'error: \S+/new/slurm: cannot be written: .*No space left on device\n',
        capsys.readouterr().err,
    )
    before = queue('%i')
    try:
        assert len(before) == 2
        assert run.main(words) == 0
        assert 'cancelled, because a killed command' in capsys.readouterr().out
        assert len(queue('%i')) == 2
    finally:
        asked('scancel', f'--user={os.getuid()}')
        wait(lambda: not queue('%i'))


def test_options_are_words_or_a_file_and_words_come_first(tmp_path):
    (tmp_path / 'a.yaml').write_text('time: 4:00:00\npartition: gpu\nsetup:\n- module load cuda\n')
    (tmp_path / 'a.json').write_text('{"time": 90, "exclusive": true, "tasks": "3"}')
    file = options([str(tmp_path / 'a.yaml'), 'partition=cpu,nodelist=a1,a2,gpus=2', 'timeouts=0'])
    assert file.timeouts == 0
    assert file.tasks is None
    assert file.executor == {
        'job_name': 'benchmark', 'time': 240, 'partition': 'cpu', 'setup': ['module load cuda'],
        'signal_delay_s': 90,
        'nodelist': 'a1,a2', 'additional_parameters': {'gpus': '2', 'requeue': True},
    }  # fmt: skip
    json = options([str(tmp_path / 'a.json')])
    assert (json.tasks, json.timeouts, json.executor['time']) == (3, 10, 90)
    assert json.executor['exclusive'] is True


def test_submitit_knows_the_options_that_are_handed_to_it():
    from submitit.slurm.slurm import _get_default_parameters

    ours = {*slurm_options.KEYS} - {*slurm_options.UNKNOWN_TO_SUBMITIT, 'tasks', 'timeouts'}
    assert ours <= set(_get_default_parameters())


@pytest.mark.parametrize(
    ('given', 'found'),
    [('90', 90), ('90:30', 91), ('4:00:00', 240), ('0:00:01', 1), ('2-0', 2880), ('1-02:30', 1590),
     ('1-02:30:59', 1591)],
)  # fmt: skip
def test_times_are_read_as_slurm_writes_them(given, found):
    assert minutes(given) == found


@pytest.mark.parametrize('given', ['', '0', '4h', '1-', '1:2:3:4', '-5', '1.5', '１'])
def test_a_wrong_time_is_one_line(given):
    with pytest.raises(UserError, match='--slurm: time: expected a time limit such as 4:00:00'):
        minutes(given)


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (
            ['partion=gpu', 'time=5'],
            "unknown option in --slurm 'partion'; did you mean 'partition'",
        ),
        (['partition=gpu'], 'expected the time limit of a task, e.g. time=4:00:00, found none'),
        (['time=5', 'tasks=0'], "tasks: expected a number from 1, found '0'"),
        (['time=5', 'timeouts=x'], "timeouts: expected a number from 0, found 'x'"),
        (['time=5', 'mem='], "mem: expected a line of text, found ''"),
        (['time=5', 'comment=a\nrm'], "comment: expected a line of text, found 'a"),
        (['time=5', 'time=6'], 'expected one value of time, found two'),
        (['time=5,=6'], "expected KEY=VALUE, found '=6'"),
        (['nowhere.yaml'], 'expected KEY=VALUE or a file, found no file nowhere.yaml'),
        (['time=5,gpus=-1'], 'gpus: expected a number from 1, or a type and a number such as'),
        (['time=5,signal_delay_s=300'], 'expected fewer seconds than the limit of 300, found 300'),
        (['time=5', '--device', 'cuda'], 'expected --device cuda with a GPU in --slurm'),
        (['time=5,gpus=1', '--device', 'cuda:1'], 'or neither, found --device cuda:1'),
    ],
)
def test_a_wrong_option_is_one_line(words, error, capsys):
    assert run.main(['--methods', 'hemis', '--launcher', 'slurm', '--slurm', *words]) == 2
    told = capsys.readouterr().err
    assert told.count('\n') == 1
    assert error in told


@pytest.mark.parametrize(
    ('text', 'error'),
    [('time: [', 'a.yaml, line [12]: it is no YAML'), ('- 1', 'line 1: expected keys with values'),
     ('time: {a: 1}', 'line 1: expected one value, found keys with values'),
     ('time: 5\npartion: gpu', "line 2: unknown key 'partion'; did you mean 'partition'?"),
     ('time: [5]', 'time: expected a line of text'), ('\0', 'a.yaml: it is no YAML')],
)  # fmt: skip
def test_a_wrong_file_is_one_line(text, error, tmp_path):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(UserError, match=error):
        options([str(tmp_path / 'a.yaml')])


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['--slurm', 'time=5'], '--slurm: expected --launcher slurm beside it'),
        ([*SLURM, '--force'], 'expected no --force beside it'),
        ([*SLURM, '--budget', '4h'], 'expected no --budget beside it'),
        ([*SLURM, '--shard', '1/2'], 'expected no --shard beside it'),
        ([*SLURM, '--only', 'runs/a'], 'expected no --only beside it: each task gets its own'),
        (SLURM, 'expected the commands of Slurm on this machine, found no sbatch'),
    ],
)
def test_what_does_not_go_with_the_launcher_is_one_line(words, error, capsys, monkeypatch):
    monkeypatch.setattr(slurm_options.shutil, 'which', lambda name: None)
    assert run.main(['--methods', 'hemis', *words]) == 2
    told = capsys.readouterr().err
    assert told.count('\n') == 1
    assert error in told


def test_a_missing_package_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(slurm_options.shutil, 'which', lambda name: name)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'submitit' else real(name)
    )
    assert run.main(['--methods', 'hemis', *SLURM]) == 2
    assert "install it: pip install '.[slurm]'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'device'),
    [('time=5', 'cpu'), ('time=5,gpus=1', 'cuda'), ('time=5,gres=gpu:a100:1', 'cuda'),
     ('time=5,gpus_per_node=1', 'cuda'), ('time=5,gres=shard:1', 'cpu'),
     ('time=5,gres=gpu', 'cuda'), ('time=5,gres=gpu:0', 'cpu'), ('time=5,gres=gpu:a100:0', 'cpu')],
)  # fmt: skip
def test_tasks_compute_on_a_gpu_if_they_ask_for_one(words, device):
    args = run.parser().parse_args(['--slurm', words])
    assert slurm_options.device_of(args) == device
    args.device = 'cpu'
    assert slurm_options.device_of(args) == 'cpu'


def test_a_short_task_is_told_to_stop_in_time():
    assert options(['time=1,gpus=a100:2']).executor['signal_delay_s'] == 30
    assert options(['time=4:00:00']).executor['signal_delay_s'] == 90


def test_a_plan_for_gpus_needs_none_here_and_submits_nothing(tmp_path, capsys):
    words = [*command(tmp_path, tmp_path / 'new'), '--methods', 'majority', 'distilled']
    task = ['--launcher', 'slurm', '--slurm', 'time=2:00:00,gpus=1', '--device', 'auto']
    assert run.main([*words, *task, '--dry-run']) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-4:] == [
        'to submit  at once        synth_faces  teacher complete  seed 0',
        'to submit  at once        synth_faces  majority  seed 0',
        'to submit  after another  synth_faces  distilled  seed 0',
        '3 tasks, each on cuda with 120 minutes',
    ]
    assert not (tmp_path / 'new' / 'slurm').exists()
    assert run.main([*words[:-1], *task, '--dry-run', '--device', 'cpu']) == 0
    assert capsys.readouterr().out.endswith('\n1 task, each on cpu with 120 minutes\n')


def grid_of(results, *methods, tune=None):
    data = Toy(TASKS['vectors'], sizes=(16, 8, 8))
    return plan.experiments(plan.Request(methods, (0,), {}, results, 'cpu', tune), [data])


def needs(found):
    return {unit.text.split('  ', 1)[1]: len(unit.after) for unit in found}


def test_a_teacher_that_is_an_experiment_of_the_command_is_no_task_of_its_own(tmp_path):
    both = picking.units(grid_of(tmp_path, 'distilled', 'mmanet', 'complete'), lambda item: True)
    assert needs(both) == {'distilled  seed 0': 1, 'mmanet  seed 0': 1, 'complete  seed 0': 0}
    assert both[0].after == {both[2].folder}
    grid = grid_of(tmp_path, 'distilled', 'mmanet', 'hemis')
    alone = picking.units(grid, lambda item: True)
    assert [*needs(alone).items()] == [
        ('teacher complete  seed 0', 0), ('distilled  seed 0', 1), ('mmanet  seed 0', 1),
        ('hemis  seed 0', 0),
    ]  # fmt: skip
    assert needs(picking.units(grid, lambda item: item is grid[2])) == {'hemis  seed 0': 0}


def test_a_trained_teacher_is_waited_for_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(picking, 'is_trained', lambda folder, identity: True)
    found = picking.units(grid_of(tmp_path, 'distilled', 'hemis'), lambda item: True)
    assert needs(found) == {'distilled  seed 0': 0, 'hemis  seed 0': 0}


def test_a_search_waits_for_the_teachers_of_its_trials_and_of_its_seeds(tmp_path):
    grid = grid_of(tmp_path, 'mmanet', tune=2)
    teacher, other, search = picking.units(grid, lambda item: True)
    assert search.after == {teacher.folder, other.folder}
    only = [str(unit.folder.relative_to(tmp_path)) for unit in (search, teacher, other)]
    assert picking.picked(grid, only[:1], tmp_path) == (grid, [])
    items, teachers = picking.picked(grid, only[1:], tmp_path)
    assert items == []
    assert {e.folder for e in teachers} == search.after


def test_another_command_that_submits_is_waited_for(tmp_path, monkeypatch, capsys):
    naps = []
    monkeypatch.setattr(slurm.time, 'sleep', naps.append)
    with holding(tmp_path), pytest.raises(UserError) as caught, slurm._alone(tmp_path):
        pass
    assert str(caught.value).startswith(f'{tmp_path}: another command has been submitting jobs for')
    assert sum(naps) == pytest.approx(slurm.PATIENCE, abs=2)
    assert capsys.readouterr().out.count('waiting for another command') == 1


def test_a_submission_that_was_killed_is_waited_for_where_files_cannot_be_locked(
    tmp_path, monkeypatch
):
    clock = [0.0]
    refuse_flock(monkeypatch)
    monkeypatch.setattr(locks.time, 'monotonic', lambda: clock[0])
    monkeypatch.setattr(slurm.time, 'sleep', lambda seconds: clock.append(clock.pop() + seconds))
    (tmp_path / locks.FOLDER).mkdir()
    (tmp_path / locks.FOLDER / 'dead').touch()
    with slurm._alone(tmp_path):
        assert locks.STALE < clock[0] < slurm.PATIENCE


def test_a_folder_of_no_experiment_is_one_line(tmp_path):
    grid = grid_of(tmp_path, 'hemis')
    folder = str(grid[0].folder.relative_to(tmp_path))
    (tmp_path / 'runs' / 'toy' / 'rfnet').mkdir(parents=True)
    # One that is not there, one that is there and holds another experiment, and one above it.
    for other in ('runs/toy/mmanet', 'runs/toy/rfnet', str(Path(folder).parent), '.'):
        with pytest.raises(UserError, match='--only: expected the folder of something that this c'):
            picking.picked(grid, [folder, other], tmp_path)


def test_the_teacher_of_what_has_been_recorded_is_nothing_to_do(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, 'distilled')
    teacher = str(grid[0].teacher.folder.relative_to(tmp_path))
    assert picking.picked(grid, [teacher], tmp_path) == ([], [grid[0].teacher])
    monkeypatch.setattr(picking, 'is_done', lambda e: True)
    assert picking.picked(grid, [teacher], tmp_path) == ([], [])


def fails(*_):
    raise ValueError('no')


def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ('ends', 'told'),
    [
        (fails, '[1/1] toy  teacher complete  seed 0  FAILED: ValueError: no'),
        (dies, 'job 1 of 1 ended: signal 9 (Killed)'),
    ],
)
def test_a_teacher_that_cannot_be_trained_stops_nothing_else_of_its_task(
    ends, told, tmp_path, capsys, monkeypatch
):
    fork_jobs(monkeypatch.setattr)
    monkeypatch.setattr(picking, 'train', ends)
    grid = grid_of(tmp_path, 'distilled', 'majority')
    teacher = grid[0].teacher
    names = [str(e.folder.relative_to(tmp_path)) for e in (teacher, grid[1])]
    args = run.parser().parse_args(['--only', *names, '--results', str(tmp_path)])

    def trains(folder, reporter):
        assert folder == teacher.folder
        return picking.train_teacher(teacher, Machine('cpu'), reporter)

    assert running.own_share(grid, args, Machine('cpu'), trains) == ([grid[1]], False)
    shown = capsys.readouterr()
    assert told in shown.out
    assert shown.err == 'error: 1 of 1 teachers cannot be trained\n'
    if ends is fails:
        assert 'ValueError: no' in (teacher.folder / 'train.log').read_text()


def test_a_teacher_whose_log_cannot_be_written_is_told_all_the_same(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise UserError('cannot be written')

    monkeypatch.setattr(picking, 'train', fails)
    monkeypatch.setattr(picking, 'log', full)
    teachers = grid_of(tmp_path, 'complete', 'hemis')
    assert not picking.teach(teachers, Machine('cpu'), None)
    assert capsys.readouterr().out.count('FAILED: ValueError: no') == 2


@pytest.mark.parametrize('trained', [True, False])
def test_a_task_does_its_experiments_whatever_becomes_of_its_teachers(
    trained, tmp_path, monkeypatch
):
    words = ['--methods', 'distilled', 'majority', '--datasets', 'synth_faces', '--device', 'cpu',
             '--results', str(tmp_path), '--cfg-options', 'train=16', 'val=8', 'test=8',
             'size=16', 'width=4']  # fmt: skip
    first, second = running.prepare(run.parser().parse_args(words))[0]
    only = [str(e.folder.relative_to(tmp_path)) for e in (first.teacher, second)]
    monkeypatch.setattr(picking, 'train_teacher', lambda *_: trained)
    assert run.main([*words, '--only', *only]) == (0 if trained else 1)
    assert [r['method']['name'] for r in store.scan(tmp_path / 'runs').complete.values()] == [
        'majority'
    ]
    assert run.main([*words, '--only', only[0]]) == (0 if trained else 1)


def test_a_plan_trains_no_teacher(tmp_path, capsys, monkeypatch):
    e = grid_of(tmp_path, 'distilled')[0].teacher
    args = run.parser().parse_args(['--only', 'runs/a', '--dry-run'])
    monkeypatch.setattr(running, 'picked', lambda *_: ([], [e]))
    monkeypatch.setattr(picking, 'train', lambda *_: pytest.fail('it was trained'))
    assert running.own_share([], args, Machine('cpu'), None) == ([], True)
    assert capsys.readouterr().out == 'to train  toy  teacher complete  seed 0\n'
    monkeypatch.setattr(picking, 'is_trained', lambda *_: True)
    running.own_share([], args, Machine('cpu'), None)
    assert capsys.readouterr().out == 'trained   toy  teacher complete  seed 0\n'
    assert not list(tmp_path.iterdir())


def test_units_are_dealt_out_to_at_most_so_many_tasks(tmp_path):
    found = picking.units(grid_of(tmp_path, 'hemis', 'rfnet', 'uhved'), lambda item: True)
    two = slurm._bundles(found, options(['time=5,tasks=2']))
    assert [needs(bundle) for bundle in two] == [
        {'hemis  seed 0': 0, 'uhved  seed 0': 0}, {'rfnet  seed 0': 0}
    ]  # fmt: skip
    assert len(slurm._bundles(found, options(['time=5']))) == 3
    assert len(slurm._bundles(found * 500, options(['time=5']))) == slurm.LARGEST_ARRAY


GOOD = {'mark': f'benchmark-{"0" * 16}', 'results': '', 'time': 1.0, 'user': 0, 'tasks': []}


@pytest.mark.parametrize(
    'found',
    [{}, ['a'], [{}], [{**GOOD, 'mark': 'x'}], [{**GOOD, 'tasks': [['a'], [1]]}],
     [{**GOOD, 'time': None}], [{**GOOD, 'results': 1}], [GOOD, {**GOOD, 'tasks': None}]],
)  # fmt: skip
def test_a_damaged_announcement_is_one_line(found, tmp_path):
    (tmp_path / 'slurm').mkdir()
    (tmp_path / 'slurm' / slurm_announced.ANNOUNCED).write_text(json.dumps(found))
    with pytest.raises(UserError, match=r'submitting.json: cannot be used: .*; remove it if no j'):
        slurm_announced.recovered(tmp_path)


@pytest.mark.parametrize('text', ['[]', '{"runs/a": 1}', '{"runs/a": "1; rm"}', '{'])
def test_a_damaged_file_of_jobs_is_one_line(text, tmp_path):
    (tmp_path / 'slurm').mkdir()
    (tmp_path / 'slurm' / 'jobs.json').write_text(text)
    with pytest.raises(UserError, match=r'jobs.json: cannot be used: .*; remove it if no jobs'):
        slurm_jobs.read(tmp_path)


@pytest.mark.parametrize(
    ('script', 'found'),
    [('echo 7_0 RUNNING; echo 7_1 PENDING', {'7_0': 'RUNNING'}),
     ('echo slurm_load_jobs error: Invalid job id specified >&2; exit 1', {})],
)  # fmt: skip
def test_jobs_that_slurm_has_forgotten_have_ended(script, found, tmp_path, monkeypatch):
    stub(tmp_path, monkeypatch, script)
    assert slurm_jobs.alive({'runs/a': '7_0', 'runs/b': '8'}) == found
    assert slurm_jobs.alive({}) == {}


def stub(folder, monkeypatch, script, name='squeue'):
    """Puts a script in the place of a command of Slurm."""
    (folder / name).write_text(f'#!/bin/sh\n{script}\n')
    (folder / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')


def test_a_slurm_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    stub(tmp_path, monkeypatch, 'echo Unable to contact slurm controller >&2; exit 1')
    with pytest.raises(UserError, match='squeue: Slurm does not answer: Unable to contact'):
        slurm_jobs.alive({'runs/a': '7'})


def test_a_task_runs_the_command_with_the_same_python():
    assert (sys.executable, run.__file__) == COMMAND


def test_a_task_hands_on_where_it_ran_and_whether_it_failed(tmp_path):
    Task(['touch', 'here'], str(tmp_path))(['there'])
    assert {file.name for file in tmp_path.iterdir()} == {'here', 'there'}
    with pytest.raises(SystemExit):
        Task(['false'], str(tmp_path))([])


@pytest.mark.parametrize(
    ('how', 'told'),
    [('KILL', '9 (Killed), for example for lack of memory'), ('SEGV', '11 (Segmentation fault)')],
)
def test_a_task_tells_which_signal_has_ended_its_command(how, told, tmp_path, capsys):
    with pytest.raises(SystemExit):
        Task(['sh', '-c', f'ulimit -c 0; kill -{how} $$'], str(tmp_path))([])
    assert capsys.readouterr().out == f'error: the command was ended by signal {told}\n'


@pytest.mark.parametrize('announced', [signal.SIGUSR2, signal.SIGTERM])
def test_the_signal_before_the_limit_ends_no_process_that_a_task_has_started(announced, tmp_path):
    # The first before its time limit, the second before it is preempted.
    Task(['sh', '-c', f'kill -{announced.value} $$; touch done'], str(tmp_path))([])
    assert (tmp_path / 'done').exists()
