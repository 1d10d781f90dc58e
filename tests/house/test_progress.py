"""What the terminal shows while experiments run."""

import io
import sys

import pytest

from benchmark.progress import Progress, clock, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0:00'), (59.6, '1:00'), (754, '12:34'), (3723, '1:02:03')]
)
def test_seconds_are_told_as_a_clock_shows_them(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0, '0 s'), (59.6, '1 min 0 s'), (1613, '26 min 53 s'), (8833, '2 h 27 min')],
)
def test_a_duration_names_its_units(seconds, text):
    assert duration(seconds) == text


def test_a_line_that_stays_holds_nothing_that_a_terminal_obeys(capsys):
    with Progress({'faces': 1}, 1) as progress:
        progress.start('faces', 'm', 0)
        progress.end('FAILED: rgb of a\x1b[2Jb is not finite\r\n')
    assert capsys.readouterr().out.startswith(
        '[1/1] faces  m  seed 0  FAILED: rgb of a\ufffd[2Jb is not finite\ufffd\ufffd  ('
    )


def test_off_a_terminal_only_finished_experiments_are_printed(capsys):
    with Progress({'faces': 4}, 2) as progress:
        progress.start('faces', 'mmanet:alpha=[1]', 3)
        progress.report('training', 0, 4, 0.0)
        progress.report('training', 2, 4, 6.0)
        progress.end('ACER 5.00 % mean')
    out, err = capsys.readouterr()
    assert out == '[1/2] faces  mmanet:alpha=[1]  seed 3  ACER 5.00 % mean  (0:00)\n'
    assert not err


class Clock:
    """A clock that stands until it is set."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def test_off_a_terminal_a_line_a_minute_tells_what_runs(capsys):
    clock = Clock()
    with Progress({'faces': 40}, 3, now=clock) as progress:
        progress.start('faces', 'mmanet', 0)
        for epoch in range(31):
            clock.time = 1000.0 + 10 * epoch
            progress.report('training', epoch, 40, 10.0 * epoch)
        out, err = capsys.readouterr()
        assert out == ''
        assert err.splitlines() == [
            f'running   faces  mmanet  seed 0: training, epoch {epoch} of 40 | 0 of 3 done | '
            f'{left} left'
            for epoch, left in ((6, '5:40'), (12, '4:40'), (18, '3:40'), (24, '2:40'), (30, '1:40'))
        ]
        clock.time += 59.9
        progress.report('testing', 0, 0, 0.0)
        progress.end('ACER 5.00 % mean')
        out, err = capsys.readouterr()
        assert out == '[1/3] faces  mmanet  seed 0  ACER 5.00 % mean  (6:00)\n'
        assert not err
        clock.time += 0.1
        progress.start('faces', 'rfnet', 1)
        assert capsys.readouterr().err == (
            'running   faces  rfnet  seed 1: starting | 1 of 3 done | 1:40 left\n'
        )


def test_off_a_terminal_the_line_names_all_jobs_that_work(capsys):
    clock = Clock()
    with Progress({'faces': 8}, 3, jobs=3, now=clock) as progress:
        progress.start('faces', 'mmanet', 0, job=0)
        progress.start('faces', 'rfnet', 0, job=1)
        progress.start('faces', 'hemis', 0, job=2)
        progress.end('done', job=1)
        capsys.readouterr()
        progress.report('teacher complete', 2, 4, 30.0, job=0)
        clock.time += 60
        progress.report('testing', 0, 0, 0.0, job=2)
        # The time of an epoch is not known yet, and job 1 has nothing left to do.
        assert capsys.readouterr().err == (
            'running   faces  mmanet  seed 0: teacher complete, epoch 2 of 4 | '
            'faces  hemis  seed 0: testing | 1 of 3 done\n'
        )


def test_on_a_terminal_no_line_a_minute_is_printed(monkeypatch):
    stream, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, 'stderr', stream)
    with Progress({'faces': 4}, 1, now=clock) as progress:
        progress.start('faces', 'mmanet', 0)
        clock.time += 600
        progress.report('training', 1, 4, 5.0)
    assert 'running' not in stream.getvalue()


def test_the_time_left_follows_each_data_set_s_mean_epoch():
    progress = Progress({'faces': 4, 'rooms': 2}, 2)
    assert progress.remaining() is None
    progress.start('faces', 'mmanet', 0)
    progress.report('training', 0, 4, 0.0)
    progress.report('training', 2, 4, 6.0)
    # Two epochs of faces at 3 s each, and two of rooms, of which none has been timed yet.
    assert progress.remaining() == pytest.approx(2 * 3 + 2 * 3)
    progress.start('rooms', 'mmanet', 0)
    progress.report('training', 0, 2, 0.0)
    progress.report('training', 1, 2, 10.0)
    assert progress.remaining() == pytest.approx(2 * 3 + 1 * 10)


def test_epochs_of_a_resumed_stage_are_counted_from_where_it_resumes():
    progress = Progress({'faces': 4}, 1)
    progress.start('faces', 'mmanet', 0)
    progress.report('training', 2, 4, 50.0)
    progress.report('training', 3, 4, 53.0)
    assert progress.remaining() == pytest.approx(1 * 3)


def test_on_a_terminal_the_moving_line_names_experiment_stage_and_time_left(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setenv('TERM', 'xterm')
    with Progress({'faces': 4}, 1) as progress:
        progress.start('faces', 'mmanet:alpha=[1]', 3)
        progress.report('training', 0, 4, 0.0)
        progress.report('training', 1, 4, 5.0)
        progress._display.refresh()
    assert '[1/1] faces  mmanet:alpha=[1]  seed 3 | training 1/4' in stream.getvalue()
    assert '0:15 left' in stream.getvalue()
