"""In which unit a metric is printed: the one place that tables, pages, figures and files ask."""

from __future__ import annotations

from typing import NamedTuple

from benchmark.records.distances import is_distance
from benchmark.records.values import ERRORS, UNBOUNDED


class Unit(NamedTuple):
    """How the values of a metric are printed.

    Attributes:
        name: What stands in parentheses behind the metric; empty for numbers in units of their own.
        factor: By what a recorded value is multiplied.
        digits: Number of decimals.
        words: The unit in a sentence, behind the name of the metric.
        points: What differences are counted in, empty for units of their own.
        point: A recorded difference that is worth being told apart.
    """

    name: str
    factor: float
    digits: int
    words: str
    points: str
    point: float

    @property
    def suffix(self) -> str:
        """What stands behind the metric in a title: ' (%)', or nothing."""
        return f' ({self.name})' if self.name else ''

    @property
    def counted(self) -> str:
        """In what differences are counted, behind the name of the metric: 'in points'."""
        return f'in {self.points}' if self.points else self.words

    def text(self, value: float, sign: str = '') -> str:
        """Returns a recorded value as it is printed, without the unit; '' for NaN.

        Args:
            value: The value.
            sign: '+' for a sign in front of positive numbers, too.
        """
        return self.printed(self.factor * value, sign)

    def printed(self, value: float, sign: str = '') -> str:
        """Returns a value that has been multiplied by `factor` as it is printed; '' for NaN."""
        return '' if value != value else f'{value:{sign}.{self.digits}f}'


PERCENT = Unit('%', 100.0, 2, 'in percent', 'points', 0.01)
DISTANCE = Unit('mm', 1.0, 2, 'in millimetres', 'mm', 1.0)
ERROR = Unit('', 1.0, 3, 'in the units of the target', '', 0.01)
NUMBER = ERROR._replace(words='as a plain number')


def unit_of(metric: str) -> Unit:
    """Returns the unit of a metric: percent of a fraction, or the metric's own."""
    if is_distance(metric):
        return DISTANCE
    if metric in ERRORS:
        return ERROR
    return NUMBER if metric in UNBOUNDED else PERCENT


def named(metric: str) -> str:
    """Returns a metric with its unit as a title of a column has it, e.g. 'UAR %' or 'RMSE'."""
    return f'{metric} {unit_of(metric).name}'.rstrip()


def gained(metric: str) -> str:
    """Returns what differences of a metric are called, e.g. 'points of ACER' or 'MAE'."""
    points = unit_of(metric).points
    return f'{points} of {metric}' if points else metric


def shown(score: float, metric: str) -> str:
    """Returns a score as lines of text show it, e.g. '12.34 %' or '0.593'."""
    unit = unit_of(metric)
    return f'{unit.text(score)} {unit.name}'.rstrip()
