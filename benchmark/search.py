"""Distributions from which tuning draws the values of options.

A distribution is given by its quantile function. Drawn numbers are rounded to three significant
digits, so that a chosen value can be quoted and typed on the command line again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.errors import UserError, unknown
from benchmark.missing import generator


def _between(low: float, high: float, value: float) -> float:
    # Rounding may leave the interval, e.g. 0.9996 becomes 1.0.
    return min(max(float(f'{value:.3g}'), low), high)


@dataclass(frozen=True)
class Uniform:
    """Uniform distribution between two bounds, for shares such as a dropout rate.

    Attributes:
        low: Least value.
        high: Greatest value.

    Raises:
        ValueError: `low` is not below `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f'expected low < high, found {self.low:g} and {self.high:g}')

    def at(self, share: float) -> float:
        """Returns the quantile of a share in [0, 1), rounded to three significant digits."""
        return _between(self.low, self.high, self.low + share * (self.high - self.low))

    def __str__(self) -> str:
        return f'uniform {self.low:g} to {self.high:g}'


@dataclass(frozen=True)
class LogUniform:
    """Uniform distribution of the logarithm between two bounds, for weights of losses.

    Attributes:
        low: Least value, above 0.
        high: Greatest value.

    Raises:
        ValueError: `low` is not positive or not below `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f'expected 0 < low < high, found {self.low:g} and {self.high:g}')

    def at(self, share: float) -> float:
        """Returns the quantile of a share in [0, 1), rounded to three significant digits."""
        return _between(self.low, self.high, self.low * (self.high / self.low) ** share)

    def __str__(self) -> str:
        return f'log-uniform {self.low:g} to {self.high:g}'


class Choice:
    """Uniform distribution over a list of values, for whole numbers and names.

    Args:
        *values: The values, of the option's type.

    Raises:
        ValueError: Fewer than two values are given.
    """

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise ValueError(f'expected 2 values or more, found {len(values)}')
        self.values = values

    def at(self, share: float) -> Any:
        """Returns the value at the relative position `share`, in [0, 1), of the list."""
        return self.values[int(share * len(self.values))]

    def __str__(self) -> str:
        return f'one of {", ".join(map(str, self.values))}'


Distribution = Uniform | LogUniform | Choice


def check_space(where: str, method: str, space: Any, options: Collection[str]) -> None:
    """Checks that a search space names options of the method, each with a distribution.

    Args:
        where: File of the method, for the message.
        method: Name of the method.
        space: What the method declares.
        options: Names of the method's options.

    Raises:
        UserError: The message names the file, the option and what was expected.
    """
    if not isinstance(space, Mapping):
        raise UserError(
            f'{where}: search of {method}: expected option -> distribution, found {space!r:.80}'
        )
    for key, distribution in space.items():
        if key not in options:
            raise unknown(f'option in the search space of {method}', key, options)
        if not isinstance(distribution, Distribution):
            raise UserError(
                f'{where}: search of {method}: {key}: expected Uniform, LogUniform or Choice of '
                f'benchmark.search, found {distribution!r:.80}'
            )


def draw(method: str, key: str, trial: int, distribution: Distribution) -> Any:
    """Draws the value of one option for one trial.

    The value depends on the arguments alone: adding an option or a trial, or training with another
    seed, changes no other draw.

    Args:
        method: Name of the method.
        key: Name of the option.
        trial: Number of the trial, from 0.
        distribution: What the value is drawn from.

    Returns:
        The value, of the option's type.
    """
    return distribution.at(generator(0, 'tuning', method, key, trial).random())
