"""The measurements of speed: that they run, and that their table is complete."""

import re
import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch
from sentences import text_of

from benchmark import speed
from benchmark.engine.speed import many, processes, report, starting
from benchmark.engine.speed.measuring import TINY, Row, Sizes, digits, in_turns, table


def test_everything_that_needs_one_process_is_measured(tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        assert speed.main(['--quick', '--alone', '--out', str(tmp_path / 'speed.md')]) == 0
    finally:
        torch.set_num_threads(threads)
    text = (tmp_path / 'speed.md').read_text()
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ')]
    measured = {row[0].removeprefix('| '): row[1:] for row in rows if len(row) == 6}
    for wanted in (
        'samples a second in the suite', 'loading / whole epoch', 'step of `mmanet`',
        'all 7 subsets of 3', 'all 3 subsets of 2', 'images a second of `mmanet`',
        '7 full passes', 'of matrix products', 'memory of the process', '20 vectors',
    ):  # fmt: skip
        found = [cells for what, cells in measured.items() if wanted in what]
        assert found, wanted
        assert [cells for cells in found if 'not measured' in cells] == []
        for ratio, spread, goal, reached, _ in found:
            low, high = map(float, spread.split(' to '))
            assert low <= float(ratio) <= high
            assert bool(goal) == (reached in ('yes', 'no'))
    assert 'GPU' in text.partition('## Not measured')[2]
    assert [what for what, _ in report.UNMEASURED['cpu'] if f'| {what} |' not in text] == []
    for what in ('threads', 'starts', 'freed memory', '`--jobs`', '`torchrun`', report.README):
        assert f'| {what} | left out by `--alone` |' in text
    assert capsys.readouterr().out.count(':') > len(measured) - 1


def test_what_needs_two_processes_is_measured_beside_it(monkeypatch):
    for name in ('loops', 'few', 'mmanet', 'papers', 'peak', 'threads'):
        monkeypatch.setattr(f'benchmark.engine.speed.trainings.{name}', lambda *_: [])
    for name in ('all_subsets', 'papers'):
        monkeypatch.setattr(f'benchmark.engine.speed.testing.{name}', lambda *_: [])
    monkeypatch.setattr(starting, 'starts', lambda _: [Row('starts', [2], '<= 6')])
    monkeypatch.setattr(processes, 'memory', lambda _: [])
    monkeypatch.setattr(many, 'many', lambda _: [])
    monkeypatch.setattr(processes, 'kept', lambda _: Row('kept', [0.7]))
    monkeypatch.setattr(processes, 'jobs', lambda _: Row('jobs', [0.5], '<= 0.60'))
    monkeypatch.setattr(processes, 'shared', lambda _: Row('ddp', [], note='none'))
    monkeypatch.setattr(processes, 'together', lambda _: Row('README', [0.6], '<= 0.60'))
    assert report.rows(TINY, None, alone=True) == []
    made = table(report.rows(TINY, None, alone=False), [], 'x')
    assert '| jobs | 0.50 | 0.50 to 0.50 | <= 0.60 | yes |  |' in made
    assert '| starts | 2.00 | 2.00 to 2.00 | <= 6 | yes |  |' in made
    assert '| kept | 0.70 | 0.70 to 0.70 |  |  |  |' in made
    assert '| ddp | not measured |  |  |  | none |' in made
    assert '| README | 0.60 | 0.60 to 0.60 | <= 0.60 | yes |  |' in made


def test_starts_are_measured_until_a_command_answers_or_trains(monkeypatch):
    asked = []

    def run(words, **_):
        asked.append(words[1:])

    monkeypatch.setattr(starting.subprocess, 'run', run)
    rows = starting.starts(TINY)
    assert [len(row.values) for row in rows] == [1, 1, 1, 1, 1, 1]
    # The last one is measured here: both processes began to train, and were ended.
    assert 1 < rows[-1].values[0] < starting.LONGEST
    assert [words[1] for words in asked[:8:2]] == ['--help', '--metods', '--methods', '--list']
    compile(asked[-1][1], 'program', 'exec')
    assert asked[-1][2:4] == ['--methods', 'modality_dropout']


def test_an_interruption_ends_the_experiments_that_wait(monkeypatch):
    began = []

    def popen(*args, real=subprocess.Popen, **kwargs):
        began.append(real(*args, **kwargs))
        return began[0]

    def sleep(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(starting.subprocess, 'Popen', popen)
    monkeypatch.setattr(starting.time, 'sleep', sleep)
    with pytest.raises(KeyboardInterrupt):
        starting._two()
    monkeypatch.undo()  # waiting sleeps, too
    assert began[0].wait(10) == -signal.SIGKILL


def test_the_readmes_command_is_held_against_one_experiment_at_a_time(monkeypatch):
    asked, ended = [], SimpleNamespace(returncode=0)

    def run(words, **_):
        asked.append(words[2:])
        return ended

    monkeypatch.setattr(processes, 'cores', lambda: 2)
    monkeypatch.setattr(processes.subprocess, 'run', run)
    row = processes.together(Sizes())
    assert (len(row.values), row.goal) == (1, '<= 0.60')
    assert f'python benchmark/run.py {" ".join(asked[0][:3])}' in text_of('README.md')
    default, alone = ([w for w in words if '/' not in w] for words in asked)
    assert alone == [*default, '--jobs', '1', '--threads', '2']
    processes.together(TINY)
    assert 'synth_rooms:train=16,val=16,test=16,size=32,width=4' in asked[2]
    ended.returncode = 1
    assert processes.together(Sizes()) == Row(row.what, [], note='the command failed')


def test_experiments_that_never_begin_to_train_are_told(monkeypatch):
    monkeypatch.setattr(starting, 'WAITING', 'raise SystemExit(1)')
    with pytest.raises(RuntimeError, match='two experiments did not begin to train within'):
        starting._two()


def test_ratios_that_mean_nothing_take_no_place_of_a_table(capsys, monkeypatch):
    monkeypatch.setattr(report, 'write', lambda *_: pytest.fail('it was measured'))
    assert speed.main(['--quick']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: --quick: expected --out beside it')


@pytest.mark.parametrize(
    ('ratio', 'shown'),
    [(12.345, '12.35'), (0.1, '0.10'), (0.0999, '0.10'), (0.0949, '0.095'), (0.0123, '0.012'),
     (0.001, '0.0010'), (0.000123, '0.00012'), (0.0, '0.00')],
)  # fmt: skip
def test_small_ratios_keep_two_digits(ratio, shown):
    assert digits(ratio) == shown
    row = table([Row('x', [ratio])], [], 'y').splitlines()[6]
    assert row == f'| x | {shown} | {shown} to {shown} |  |  |  |'


@pytest.mark.parametrize(
    ('values', 'goal', 'reached'),
    [([1, 2, 3], '<= 2', 'yes'), ([1, 2, 3], '<= 1.9', 'no'), ([2], '>= 2', 'yes'), ([2], '', '')],
)
def test_the_median_is_held_against_the_goal(values, goal, reached):
    assert Row('x', values, goal).reached == reached


def test_the_two_sides_take_turns_and_the_first_turn_does_not_count():
    told = []
    pairs = in_turns(
        lambda: told.append('a') or len(told), lambda: told.append('b') or len(told), 2
    )
    assert re.fullmatch('abbaab', ''.join(told))
    assert pairs == [(4, 3), (5, 6)]
