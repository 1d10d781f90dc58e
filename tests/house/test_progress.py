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


def test_off_a_terminal_only_finished_experiments_are_printed(capsys):
    with Progress({'faces': 4}, 2) as progress:
        progress.start('faces', 'mmanet:alpha=[1]', 3)
        progress.report('training', 0, 4, 0.0)
        progress.report('training', 2, 4, 6.0)
        progress.end('ACER 5.00 % mean')
    out, err = capsys.readouterr()
    assert out == '[1/2] faces  mmanet:alpha=[1]  seed 3  ACER 5.00 % mean  (0:00)\n'
    assert not err


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
