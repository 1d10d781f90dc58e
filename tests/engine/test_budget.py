"""What fits into a time: by forecasts, in the order of the plan, with a teacher counted once."""

import pytest
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import arguments, execution, plan
from benchmark.engine.budget import within
from benchmark.engine.building import Machine
from benchmark.engine.dry_run import show_plan
from benchmark.engine.forecast import Forecast, Measured, Training
from benchmark.errors import UserError
from benchmark.records import store
from benchmark.registry import discover

discover()


def taking(training, **earlier):
    """Returns what a network measures that trains for one epoch and is then tested for 4 s."""
    before = {kind: Training(seconds, 0.0, [1]) for kind, seconds in earlier.items()}
    return Measured(before, Training(training, 0.0, [1]), 4.0)


SECONDS = {
    'hemis': taking(100.0),
    'rfnet': taking(1000.0),
    'distilled': taking(100.0, teacher=50.0),
    'mmanet': taking(100.0, teacher=50.0),
    'complete': taking(50.0),
}


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    found = []
    monkeypatch.setattr(Forecast, '_measure', lambda _, e: found.append(e.name) or SECONDS[e.name])
    return found


def grid_of(results, *methods, seeds=(0,), tune=None, **fields):
    data = Toy(TASKS['vectors'], sizes=(16, 8, 8))
    data.recipe = {**Toy.recipe, 'epochs': 1}
    return plan.experiments(plan.Request(methods, seeds, fields, results, 'cpu', tune), [data])


def fitting(grid, budget, jobs=1):
    return [f'{e.label} {e.seed}' for e in within(grid, Machine('cpu', jobs=jobs), budget)]


@pytest.mark.parametrize(
    ('given', 'seconds'),
    [('4h', 14400), ('90min', 5400), ('90m', 5400), ('45s', 45), ('1h30min', 5400), ('1.5h', 5400),
     ('2 hours 30 minutes 5 seconds', 9005), ('1 hour', 3600), ('0.5 s', 0.5)],
)  # fmt: skip
def test_a_time_is_read_in_hours_minutes_and_seconds(given, seconds):
    assert arguments.seconds(given) == seconds


@pytest.mark.parametrize(
    'given', ['', '4', 'h', '4d', '-4h', '0h', 'nan', '30min4h', '4h4h', '1e3s', '٤h', '4h\x1b[2J']
)
def test_a_wrong_time_is_one_line(given, capsys):
    assert run.main(['--methods', 'hemis', f'--budget={given}']) == 2
    told = capsys.readouterr().err
    assert told.startswith('error: --budget: expected a time in hours, minutes or seconds, e.g. 4h')
    assert told.count('\n') == 1
    assert told.strip().isprintable()


def test_what_fits_is_taken_in_order_and_shorter_ones_may_follow(tmp_path, capsys, measured):
    grid = grid_of(tmp_path, 'hemis', 'rfnet', 'mmanet', seeds=(0, 1))
    # 104 s each for hemis, 1004 s for rfnet, and 154 s for mmanet with its teacher
    assert fitting(grid, 520.0) == ['hemis 0', 'hemis 1', 'mmanet 0', 'mmanet 1']
    assert capsys.readouterr().out.splitlines() == [
        'fits      toy  hemis  seed 0  about 1 min 44 s',
        'fits      toy  hemis  seed 1  about 1 min 44 s',
        'left out  toy  rfnet  seed 0  about 16 min 44 s',
        'left out  toy  rfnet  seed 1  about 16 min 44 s',
        'fits      toy  mmanet  seed 0  about 2 min 34 s',
        'fits      toy  mmanet  seed 1  about 2 min 34 s',
        'budget of 8 min 40 s: 4 of 6 fit, expected 8 min 36 s; the others are not begun',
    ]
    assert fitting(grid, 515.0) == ['hemis 0', 'hemis 1', 'mmanet 0']
    assert measured == 2 * ['hemis', 'rfnet', 'mmanet']


def test_a_teacher_counts_with_the_first_student_that_fits(tmp_path, capsys):
    grid = grid_of(tmp_path, 'distilled', 'mmanet')
    assert fitting(grid, 258.0) == ['distilled 0', 'mmanet 0']
    told = capsys.readouterr().out
    assert told.endswith('budget of 4 min 18 s: 2 of 2 fit, expected 4 min 18 s\n')
    # distilled is left out, so that its teacher is trained by the next student.
    slow = {**SECONDS, 'distilled': taking(900.0, teacher=50.0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forecast, '_measure', lambda _, e: slow[e.name])
        assert fitting(grid, 154.0) == ['mmanet 0']
        with pytest.raises(UserError, match='the shortest takes about 2 min 34 s'):
            fitting(grid, 153.0)


def test_each_job_has_the_whole_time(tmp_path, capsys):
    grid = grid_of(tmp_path, 'rfnet', 'hemis', seeds=(0, 1, 2))
    assert fitting(grid, 150.0, jobs=2) == ['hemis 0', 'hemis 1']
    assert '2 of 6 fit, expected 1 min 44 s, 2 experiments at a time' in capsys.readouterr().out
    # Together they would fit into seven jobs, but one alone takes longer than the time.
    assert fitting(grid, 150.0, jobs=7) == ['hemis 0', 'hemis 1', 'hemis 2']


def test_a_training_is_not_divided_between_jobs(tmp_path, capsys):
    grid = grid_of(tmp_path, 'hemis', seeds=(0, 1, 2))
    # Two of 104 s side by side, then the third one.
    assert fitting(grid, 207.0, jobs=2) == ['hemis 0', 'hemis 1']
    assert fitting(grid, 208.0, jobs=2) == ['hemis 0', 'hemis 1', 'hemis 2']
    told = capsys.readouterr().out
    assert '3 of 3 fit, expected 3 min 28 s, 2 experiments at a time' in told
    show_plan(grid, Machine('cpu', jobs=2))
    told = capsys.readouterr().out
    assert 'expected: 3 min 28 s on cpu, 2 experiments at a time, from steps measured' in told


def test_seeds_of_a_search_begin_after_its_trials(tmp_path, capsys):
    (search,) = grid_of(tmp_path, 'rfnet', tune=3, seeds=(0, 1))
    # Two trials of 1000 s side by side, then the third one, then two seeds of 1004 s side by side.
    assert within([search], Machine('cpu', jobs=2), 3004.0) == [search]
    with pytest.raises(UserError, match='nothing fits'):
        within([search], Machine('cpu', jobs=2), 3003.0)
    capsys.readouterr()
    show_plan([search], Machine('cpu', jobs=4))
    assert 'expected: 33 min 24 s on cpu, 4 experiments at a time' in capsys.readouterr().out


def test_a_search_fits_with_all_its_trials_and_seeds(tmp_path, capsys):
    grid = grid_of(tmp_path, 'rfnet', 'hemis', tune=3, seeds=(0, 1))
    # three trials, which are not tested, and two seeds
    whole = 3 * 1000 + 2 * 1004
    assert len(within(grid, Machine('cpu'), whole)) == 1
    assert f'fits      toy  {grid[0].label}  3 trials, seeds 0 1  ' in capsys.readouterr().out
    kept = within(grid, Machine('cpu'), whole - 1)
    assert [e.name for e in kept] == ['hemis', 'hemis']


def test_what_is_recorded_takes_no_time_and_what_fails_is_left_to_the_run(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, 'hemis', seeds=(0, 1))
    execution.run(grid[0], Machine('cpu'), lambda *_: None)
    assert fitting(grid, 104.0) == ['hemis 0', 'hemis 1']
    with pytest.raises(UserError, match='nothing fits into 1 min 43 s'):
        fitting(grid, 103.0)
    execution.run(grid[1], Machine('cpu'), lambda *_: None)
    assert fitting(grid, 1.0) == ['hemis 0', 'hemis 1']
    broken = grid_of(tmp_path, 'rfnet')
    monkeypatch.setattr(Forecast, '_measure', lambda *_: 1 / 0)
    assert fitting(broken, 1.0) == ['rfnet 0']


def test_a_student_waits_for_a_teacher_that_another_one_trains(tmp_path, capsys):
    three = grid_of(tmp_path, 'distilled', 'mmanet', seeds=(0,)) + grid_of(tmp_path, 'hemis')
    # 50 s of the teacher, 100 s of each student beside the other, and 4 s of a test.
    fitting(three[:2], 10_000.0, jobs=2)
    assert 'expected 2 min 34 s, 2 experiments at a time' in capsys.readouterr().out
    assert fitting(three, 155.0, jobs=2) == ['distilled 0', 'mmanet 0']
    assert fitting(three, 155.0, jobs=3) == ['distilled 0', 'mmanet 0', 'hemis 0']
    assert fitting(three[1:], 155.0, jobs=2) == ['mmanet 0', 'hemis 0']
    assert fitting(three, 153.0, jobs=2) == ['hemis 0']


def test_a_row_that_a_student_trains_as_its_teacher_waits_for_it(tmp_path):
    student, teacher = grid_of(tmp_path, 'distilled', 'complete')
    forecast = Forecast(Machine('cpu'))
    expected = forecast.expected(student)
    assert expected.trains == {teacher.folder: 50.0, student.folder: 150.0}
    assert forecast.expected(teacher) == (4.0, {}, {teacher.folder})


def test_the_rest_is_not_begun(tmp_path, capsys):
    options = ('train=32', 'val=8', 'test=16', 'size=24', 'width=8', 'batch_size=16', 'epochs=1')
    what = ('--methods', 'rfnet', 'hemis', '--datasets', 'synth_faces', '--device', 'cpu')
    words = [*what, '--results', str(tmp_path), '--cfg-options', *options, '--budget', '5min']
    assert run.main([*words, '--dry-run']) == 0
    told = capsys.readouterr().out
    assert 'left out  synth_faces  rfnet  seed 0' in told
    assert [line[:9] for line in told.splitlines() if 'to run' in line] == ['to run   ']
    assert not list(tmp_path.rglob(store.RECORD))
    assert run.main(words) == 0
    told = capsys.readouterr().out
    assert told.index('fits      synth_faces  hemis') < told.index('[1/1] synth_faces  hemis')
    assert [r.parts[-4] for r in tmp_path.rglob(store.RECORD)] == ['hemis']
    assert not (tmp_path / 'runs' / 'synth_faces' / 'rfnet').exists()
    assert run.main([*words, '--force']) == 2
    assert 'expected no --force beside it' in capsys.readouterr().err


def test_a_measurement_serves_the_seeds_of_one_protocol_alone(tmp_path, monkeypatch):
    asked = []

    def measure(_, e):
        asked.append(e.protocol.batch_size)
        return Measured({}, Training(100.0 * e.protocol.batch_size, 0.0, [1]), 0.0)

    monkeypatch.setattr(Forecast, '_measure', measure)
    grids = [grid_of(tmp_path, 'hemis', seeds=(0, 1), batch_size=size) for size in ('2', '4')]
    forecast = Forecast(Machine('cpu'))
    found = [[forecast.expected(e).seconds for e in grid] for grid in grids]
    assert found == [[200, 200], [400, 400]]
    assert asked == [2, 4]
