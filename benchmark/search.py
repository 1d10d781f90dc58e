"""What a hyper-parameter's value is drawn from when methods are tuned.

A distribution is its quantile function, and values have three significant digits, so that a choice
can be quoted and given again on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.missing import generator


def _between(low: float, high: float, value: float) -> float:
    return min(max(float(f'{value:.3g}'), low), high)


@dataclass(frozen=True)
class Uniform:
    """Every value from low to high alike, for shares such as dropout."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f'expected low < high, found {self.low:g} and {self.high:g}')

    def at(self, share: float) -> float:
        """Returns the value below which a share in [0, 1) of the draws lies."""
        return _between(self.low, self.high, self.low + share * (self.high - self.low))

    def __str__(self) -> str:
        return f'uniform {self.low:g} to {self.high:g}'


@dataclass(frozen=True)
class LogUniform:
    """Every order of magnitude from low to high alike, for weights of losses."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f'expected 0 < low < high, found {self.low:g} and {self.high:g}')

    def at(self, share: float) -> float:
        """Returns the value below which a share in [0, 1) of the draws lies."""
        return _between(self.low, self.high, self.low * (self.high / self.low) ** share)

    def __str__(self) -> str:
        return f'log-uniform {self.low:g} to {self.high:g}'


class Choice:
    """Every one of some values alike, for whole numbers and names.

    Args:
        values: The values, of the type of the option's default.
    """

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise ValueError(f'expected 2 values or more, found {len(values)}')
        self.values = values

    def at(self, share: float) -> Any:
        """Returns the value at a share in [0, 1) of the list."""
        return self.values[int(share * len(self.values))]

    def __str__(self) -> str:
        return f'one of {", ".join(map(str, self.values))}'


Distribution = Uniform | LogUniform | Choice


def draw(method: str, key: str, trial: int, distribution: Distribution) -> Any:
    """Draws one hyper-parameter's value for one trial.

    It depends on these arguments alone: a further hyper-parameter or trial changes no other draw,
    and no seed of a run does.
    """
    return distribution.at(generator(0, 'tuning', method, key, trial).random())
