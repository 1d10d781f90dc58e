"""Forecasts are what real runs take, by a clock that only reading, training and predicting move."""

import collections
import dataclasses
import itertools
import sys
import types

import pytest
import torch
from tasks import TASKS, Toy

from benchmark.engine import budget, dry_run, execution, forecast, hooks, pace, plan, state
from benchmark.engine.building import Machine
from benchmark.engine.forecast import Forecast
from benchmark.errors import UserError
from benchmark.registry import METHODS, discover
from methods.modality_dropout import ModalityDropout

discover()
AUGMENT, STEP, SAVE, PREDICT, HEARD = 0.5, 1.0, 0.25, 2.0, 3.0
SIZES = (43, 32, 48)
"""5 batches of 8 training samples, the rest of which is left out; 2 and 3 batches of 16."""


class Clock:
    """A clock that stands still but when it is told how long something took."""

    def __init__(self):
        self.time = 0.0
        self.counts = collections.Counter()

    def perf_counter(self):
        return self.time

    def passes(self, seconds, what):
        self.time += seconds
        self.counts[what] += 1


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(pace, 'time', found)
    monkeypatch.setattr(Counted, 'clock', found)
    real = state.save

    def save(content, path):
        if path.name == state.RESUME:
            found.passes(SAVE, 'saved')
        return real(content, path)

    monkeypatch.setattr(state, 'save', save)
    for cls in (Counted, Mining, Taught, Each):
        monkeypatch.setitem(METHODS.module_dict, cls.__name__.lower(), cls)
    return found


class Counted(ModalityDropout):
    """Takes as long as the clock is told (made up, 2026)."""

    clock = None

    def encode(self, inputs):
        if len(next(iter(inputs.values()))) > 1:  # FLOPs are counted of single samples
            if self.training:
                self.clock.passes(STEP, 'step')
            else:
                self.clock.passes(PREDICT, 'predicted')
        return super().encode(inputs)


class Mining(Counted):
    """Listens to the validations (made up, 2026)."""

    heard = []

    def on_validation(self, scores):
        assert all(score.n for score in scores.values())
        assert self.epochs == 5
        self.heard.append(self.epoch)
        self.clock.passes(HEARD, 'heard')


class Taught(Counted):
    """Has a teacher (made up, 2026)."""

    teacher = 'counted'


class Each(Counted):
    """Has a network for each subset (made up, 2026)."""

    dedicated = True


class Slow:
    """Rows of which each batch takes some time to read."""

    def __init__(self, rows, clock, seconds):
        self.rows, self.clock, self.seconds = rows, clock, seconds
        self.shape = rows.shape

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.clock.passes(self.seconds, 'read')
        return self.rows[index]


class SlowToy(Toy):
    """A data set that takes time to read and to augment; how large it is can be known."""

    published_sizes = {'val': 320, 'test': 480}
    embedded = False

    def __init__(self, clock, read):
        super().__init__(TASKS['vectors'], SIZES)
        self.clock, self.read = clock, read

    def split(self, name):
        split = super().split(name)
        inputs = {**split.inputs, 'a': Slow(split.inputs['a'], self.clock, self.read)}
        return dataclasses.replace(split, inputs=inputs, augment=self.augmented)

    def augmented(self, batch):
        self.clock.passes(AUGMENT, 'augmented')
        return batch


def one(clock, results, name='counted', read=5.0, **fields):
    fields = {'epochs': '4', **fields}
    request = plan.Request((name,), (0,), fields, results, 'cpu', None)
    (e,) = plan.experiments(request, [SlowToy(clock, read)])
    return e


def quiet(*_):
    """Reports nothing."""


def seconds_of(steps, predicted, heard=0, read=5.0):
    """Returns what a number of batches takes."""
    training = steps * (read + AUGMENT + STEP) + steps / 5 * SAVE
    return training + predicted * (read + PREDICT) + heard * HEARD


VALIDATIONS = {'epochs': '5', 'val_interval': '2'}
"""After epochs 2, 4 and 5, where these are wanted."""


@pytest.mark.parametrize(
    ('name', 'fields', 'steps', 'predicted', 'heard'),
    [
        # Both splits are predicted at the end: 5 batches.
        ('counted', {}, 20, 2 + 5, ()),
        ('counted', VALIDATIONS, 25, 2 + 5, ()),
        ('counted', {**VALIDATIONS, 'selection': 'mean'}, 25, 3 * 2 + 5, ()),
        ('counted', {'mask_schedule': 'learned:0.5'}, 20, 4 * 2 + 5, ()),
        ('mining', VALIDATIONS, 25, 3 * 2 + 5, (1, 3, 4)),
        # A teacher is not tested.
        ('taught', {**VALIDATIONS, 'selection': 'worst'}, 50, 2 * 3 * 2 + 5, ()),
        ('each', {**VALIDATIONS, 'epochs': '3'}, 3 * 15, 3 * (2 + 5), ()),
    ],
)
def test_a_run_takes_what_was_forecast(
    name, fields, steps, predicted, heard, clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(Mining, 'heard', [])
    e = one(clock, tmp_path, name, **fields)
    told = Forecast(Machine('cpu')).expected(e).seconds
    listened, began = [*Mining.heard], clock.time
    assert 'test' not in e.data.opened
    clock.counts.clear()
    execution.run(e, Machine('cpu'), quiet)
    assert clock.counts['step'] == clock.counts['augmented'] == steps
    assert clock.counts['predicted'] == predicted
    assert told == pytest.approx(clock.time - began)
    assert told == pytest.approx(seconds_of(steps, predicted, len(heard)))
    assert listened == [*heard]
    assert Mining.heard == 2 * [*heard]


def test_building_and_counting_flops_are_counted_for_each_network(clock, tmp_path, monkeypatch):
    real_build, real_flops = forecast.build, forecast.cost.flops

    def build(*words):
        clock.passes(0.5, 'built')
        return real_build(*words)

    def flops(method, only):
        clock.passes(0.1 * len(only), 'counted')
        return real_flops(method, only)

    alone, each = (one(clock, tmp_path, name, epochs='1') for name in ('counted', 'each'))
    before = [Forecast(Machine('cpu')).expected(e).seconds for e in (alone, each)]
    monkeypatch.setattr(forecast, 'build', build)
    monkeypatch.setattr(forecast.cost, 'flops', flops)
    after = [Forecast(Machine('cpu')).expected(e).seconds for e in (alone, each)]
    count = len(alone.subsets)
    assert count == 3
    expected = 0.5 + 0.1 * count
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx(
        [expected, count * expected]
    )


def test_validations_for_the_curves_count_and_trials_are_not_tested(clock, tmp_path):
    e = one(clock, tmp_path)
    whole, curves = (
        Forecast(Machine('cpu', curves=on)).expected(e).seconds for on in (False, True)
    )
    assert curves - whole == pytest.approx(3 * 2 * (5.0 + PREDICT))
    trial = Forecast(Machine('cpu')).expected(e, tests=False).seconds
    assert whole - trial == pytest.approx(5 * (5.0 + PREDICT))


def test_slow_reading_counts_and_few_batches_are_read(clock, tmp_path):
    for read, batches in ((5.0, 11), (50.0, 6)):
        e = one(clock, tmp_path, read=read)
        clock.counts.clear()
        told = Forecast(Machine('cpu')).expected(e).seconds
        assert told == pytest.approx(seconds_of(20, 7, read=read))
        assert clock.counts['read'] <= batches


def test_of_a_stopped_training_the_rest_counts_with_its_validations(clock, tmp_path):
    e = one(clock, tmp_path, **VALIDATIONS, selection='mean')

    def stop(_stage, epoch, *_):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execution.run(e, Machine('cpu'), stop)
    told, began = Forecast(Machine('cpu')).expected(e).seconds, clock.time
    # Epochs 4 and 5 are left, and both are validated.
    assert told == pytest.approx(seconds_of(10, 2 * 2 + 5))
    execution.run(e, Machine('cpu'), quiet)
    # The state that a training goes on from is saved once more.
    assert told + SAVE == pytest.approx(clock.time - began)


class Processes:
    """A loader whose processes read batches at the same time, two of them ahead each."""

    def __init__(self, clock, batches, readers, start, read):
        self.clock, self.batches, self.num_workers = clock, batches, readers
        self.start, self.read = start, read

    def __len__(self):
        return self.batches

    def __iter__(self):
        begun = self.clock.time + self.start
        ready, taken = [], []
        for k in range(self.batches):
            before = ready[k - self.num_workers] if k >= self.num_workers else begun
            asked = taken[k - 2 * self.num_workers] if k >= 2 * self.num_workers else begun
            ready.append(max(before, asked) + self.read)
            self.clock.time = max(self.clock.time, ready[k])
            taken.append(self.clock.time)
            yield k


@pytest.mark.parametrize(
    ('readers', 'start', 'read', 'step'),
    [
        (4, 3.0, 0.5, 0.01),  # the processes are slow to start
        (4, 0.1, 2.0, 0.01),  # reading takes longer than the steps
        (3, 0.1, 2.0, 0.5),
        (2, 0.5, 1.0, 0.3),
        (4, 1.0, 2.0, 1.0),  # the steps take longer than reading
        (1, 0.1, 1.0, 0.2),
        (2, 1.0, 40.0, 1.0),  # one batch says enough
        (2, 1.0, 4.0, 8.0),
    ],
)
def test_loader_processes_read_beside_the_steps(readers, start, read, step, clock):
    loader = Processes(clock, 60, readers, start, read)
    found = pace.measure(loader, lambda _: clock.passes(step, 'step'), 'cpu')
    assert clock.counts['step'] <= 2 + 4
    began = clock.time
    for _ in loader:
        clock.passes(step, 'step')
    assert found.seconds(60) == pytest.approx(clock.time - began, rel=0.1)


def test_what_is_slow_once_does_not_count(clock):
    slow = itertools.chain([100.0], itertools.repeat(1.0))
    loader = Processes(clock, 7, 0, 0.0, 0.0)
    loader.num_workers, loader.read = 1, 0.0
    found = pace.measure(loader, lambda _: clock.passes(next(slow), 'step'), 'cpu')
    assert found == (1.0, 1.0)


@pytest.mark.parametrize(('batches', 'steps'), [(1, 4), (2, 5), (3, 4), (50, 5)])
def test_short_loops_are_measured_several_times(batches, steps, clock):
    loader = Processes(clock, batches, 1, 0.0, 0.0)
    took = iter([9.0, *map(float, range(1, steps))])
    pace.measure(loader, lambda _: clock.passes(next(took), 'step'), 'cpu')
    assert clock.counts['step'] == steps


def test_the_clock_waits_for_the_gpu(clock, monkeypatch):
    launched = []

    def synchronize():
        clock.time += sum(launched)
        launched.clear()

    monkeypatch.setattr(torch.cuda, 'synchronize', synchronize)
    loader = Processes(clock, 9, 1, 0.0, 0.0)
    assert pace.measure(loader, lambda _: launched.append(0.25), 'cuda') == (0.25, 0.25)


@pytest.mark.parametrize(
    ('options', 'published', 'count'),
    [
        ({'test': 70}, {'val': 10, 'test': 20}, 70),
        ({'test': '0.2'}, {}, 32),
        ({}, {}, 32),
        ({}, {'train': 10, 'val': 10, 'test': 20}, 64),
        ({}, {'test': 20}, 20),
    ],
)
def test_how_many_test_samples_there_are_is_known_without_opening_them(options, published, count):
    data = types.SimpleNamespace(options=options, published_sizes=published)
    assert forecast._tested(data, 32) == count


def test_the_machine_is_set_up_as_for_a_run(clock, tmp_path, monkeypatch):
    exact, made = [], []

    def loss(self, batch):
        exact.append(torch.are_deterministic_algorithms_enabled())
        return super(Counted, self).loss(batch)

    monkeypatch.setattr(Counted, 'loss', loss)
    monkeypatch.setattr(forecast, 'compiled', lambda method: made.append(type(method)))
    e = one(clock, tmp_path, 'taught')
    torch.use_deterministic_algorithms(False)
    Forecast(Machine('cpu')).expected(e)
    assert exact
    assert all(exact)
    assert not made
    exact.clear()
    Forecast(Machine('cpu', deterministic=False, compiled=True)).expected(e)
    assert exact
    assert not any(exact)
    assert made == [Counted, Taught]
    execution.deterministic(Machine('cpu'))


def test_a_method_that_ends_the_interpreter_ends_no_plan(clock, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Mining, 'loss', lambda *_: sys.exit(0))
    ends, other = one(clock, tmp_path, 'mining', epochs='5'), one(clock, tmp_path)
    grid = [ends, other]
    assert budget.within(grid, Machine('cpu'), 10_000.0) == grid
    assert '2 of 2 fit, expected 3 min 0 s' in capsys.readouterr().out  # of the other one
    assert not dry_run.show_plan(grid, Machine('cpu'))
    told = capsys.readouterr().out
    assert 'refused   toy  mining  seed 0' in told
    assert 'SystemExit: 0' in told
    assert 'to run    toy  counted  seed 0' in told


@pytest.mark.parametrize(('epochs', 'saves'), [('1', 1), ('2', 2), ('4', 2)])
def test_the_first_and_the_last_save_count_where_saving_takes_longer_than_its_share(
    epochs, saves, clock, tmp_path, monkeypatch
):
    e = one(clock, tmp_path, epochs=epochs)
    monkeypatch.setattr(forecast, 'SHARE', 0.0)
    told = Forecast(Machine('cpu')).expected(e).seconds
    monkeypatch.setattr(hooks, 'SHARE', 1e-12)
    began = clock.time
    execution.run(e, Machine('cpu'), quiet)
    assert clock.counts['saved'] - 1 == saves  # one was the forecast's
    assert told == pytest.approx(clock.time - began)


def test_a_forecast_needs_no_room_on_the_disk(clock, tmp_path, monkeypatch):
    e = one(clock, tmp_path)
    told = Forecast(Machine('cpu')).expected(e).seconds

    def full(content, path):
        raise UserError(f'{path}: cannot be written')

    monkeypatch.setattr(state, 'save', full)
    assert Forecast(Machine('cpu')).expected(e).seconds == pytest.approx(told - 4 * SAVE)
