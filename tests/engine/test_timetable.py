"""When experiments begin and end that jobs take, wait for and share networks of."""

from pathlib import Path

import pytest

from benchmark.engine.timetable import Expected, Timetable

TEACHER = Path('teacher')


def teaches(teacher, own, test=0.0):
    """A student that trains its teacher before itself."""
    return Expected(teacher + own + test, {TEACHER: teacher, Path('a'): teacher + own})


def learns(own):
    """A student of a teacher that another one trains."""
    return Expected(own, {Path(f'b{own}'): own}, frozenset([TEACHER]))


def alone(seconds):
    return Expected(seconds, {})


@pytest.mark.parametrize(
    ('jobs', 'found', 'end'),
    [
        (1, [alone(3), alone(2), alone(4)], 9),
        (2, [alone(3), alone(2), alone(4)], 6),
        (9, [alone(3), alone(2), alone(4)], 4),
        (1, [teaches(5, 10), learns(10)], 25),
        # Both students end at the same time: one trains the teacher, the other waits for it.
        (2, [teaches(5, 10), learns(10)], 15),
        (3, [teaches(5, 10), learns(10), learns(10)], 15),
        # What is short enough runs in the time for which the second job waits.
        (2, [teaches(5, 10), learns(10), alone(5)], 15),
        (2, [teaches(5, 10), learns(10), alone(6)], 21),
        (2, [teaches(5, 10), learns(10), alone(3), alone(2), alone(1)], 16),
        # A teacher that is an experiment itself is trained before it is tested.
        (2, [Expected(9.0, {TEACHER: 5.0}), learns(10)], 15),
        (2, [learns(10)], 10),
        (2, [alone(0), alone(0), alone(1), alone(1), alone(0)], 1),
    ],
)
def test_the_end_is_that_of_the_job_that_ends_last(jobs, found, end):
    timetable = Timetable(jobs)
    for expected in found:
        timetable.add(expected, expected)
    assert timetable.end == end


def test_the_seeds_of_a_search_begin_after_its_trials():
    search, other = object(), object()
    timetable = Timetable(2)
    for seconds in (2, 3, 4):
        timetable.add(search, alone(seconds), trial=True)
    timetable.add(search, alone(10))
    assert timetable.end == 6 + 10
    timetable.add(other, alone(3))
    assert timetable.end == 16
