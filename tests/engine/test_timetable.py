"""When experiments begin and end that jobs take, wait for and share networks of."""

import random
import statistics
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


LATE = Expected(11.0, {Path('late'): 9.0}, frozenset([TEACHER]))


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
        # What takes longer is begun all the same, and the student after it.
        (2, [teaches(5, 10), learns(10), alone(6)], 16),
        (2, [teaches(5, 10), learns(10), alone(3), alone(2), alone(1)], 16),
        # A student whose teacher's student waits for encoders.
        (2, [teaches(5, 10), LATE, Expected(1.0, {}, frozenset([Path('late')])), alone(6)], 17),
        # A teacher that is an experiment itself is trained before it is tested.
        (2, [Expected(9.0, {TEACHER: 5.0}), learns(10)], 15),
        # One that is a row of its own, and that a student before it trains, waits to be tested.
        (2, [teaches(5, 10), Expected(2.0, {}, frozenset([TEACHER]))], 15),
        (3, [teaches(5, 1), Expected(7.0, {}, frozenset([TEACHER])), alone(6)], 12),
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


def test_what_is_added_to_a_copy_does_not_stay():
    timetable = Timetable(2)
    for expected in (teaches(5, 10), learns(10)):
        timetable.add(expected, expected)
    other = timetable.copy()
    for expected in (alone(30), learns(11)):
        other.add(expected, expected)
    assert (timetable.end, other.end) == (15, 36)
    assert Timetable(10**30).end == 0


def taken(jobs, plan):
    """Returns when a run ends whose jobs go through a plan as `Worker.work` does, each by itself.

    Args:
        jobs: Number of jobs.
        plan: Name of the teacher, its seconds and the seconds of the student, for each experiment.
    """
    trained, ended = {}, {}
    free = [(0.0, list(range(len(plan))), []) for _ in range(jobs)]
    while free:
        now, left, busy = free.pop(free.index(min(free, key=lambda job: job[0])))
        if not left:
            if busy:
                free.append((now + 0.01, busy, []))
            continue
        number, *left = left
        teacher, before, own = plan[number]
        if ended.get(number, now + 1) <= now:
            free.append((now, left, busy))
        elif number in ended or trained.get(teacher, now) > now:
            free.append((now, left, [*busy, number]))
        else:
            took = own if teacher in trained or teacher is None else before + own
            if teacher is not None:
                trained.setdefault(teacher, now + before)
            ended[number] = now + took
            free.append((now + took, left, busy))
    return max(ended.values())


def test_the_end_is_about_that_of_jobs_that_go_through_the_plan_each_by_itself():
    draw, differences = random.Random(0), []
    for _ in range(200):
        jobs, teachers = draw.choice([1, 2, 3, 4, 8]), [draw.uniform(5, 60) for _ in range(3)]
        plan, timetable, known = [], Timetable(jobs), set()
        for number in range(draw.randint(1, 20)):
            teacher, own = draw.choice([None, None, 0, 1, 2]), draw.uniform(5, 100)
            before = 0.0 if teacher is None else teachers[teacher]
            plan.append((teacher, before, own))
            folder, student = Path(f't{teacher}'), Path(str(number))
            if teacher is None:
                timetable.add(number, Expected(own, {student: own}))
            elif teacher in known:
                timetable.add(number, Expected(own, {student: own}, frozenset([folder])))
            else:
                trains = {folder: before, student: before + own}
                timetable.add(number, Expected(before + own, trains))
            known.add(teacher)
        differences.append(timetable.end / taken(jobs, plan) - 1)
    assert abs(statistics.mean(differences)) < 0.01
    assert statistics.mean(map(abs, differences)) < 0.02
    assert max(map(abs, differences)) < 0.35
