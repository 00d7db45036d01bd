"""How rows are measured: the sides of a row are timed in turn, round after round.

A single timing on a shared machine says little. A ratio of two things done within the same few
milliseconds says a lot, so every row is a list of such pairs, and its figure is their median.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Literal, TypeAlias

Unit: TypeAlias = Literal["time", "per second", "bytes", "count"]

# One stretch of work; returns the seconds of one operation (or another amount, by the unit).
Side: TypeAlias = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do: `rounds` rounds for each row, with stretches `divisor` times shorter."""

    rounds: int = 41
    divisor: int = 1

    def count(self, full: int) -> int:
        """Return the number of operations in a stretch."""
        return max(1, full // self.divisor)

    def some(self, fewer: int) -> int:
        """Return the number of rounds for a row whose rounds are long."""
        return min(self.rounds, fewer)


FULL: Final = Effort()
TINY: Final = Effort(rounds=1, divisor=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison: `pairs` holds (this package, the other) of each round, in `unit`.

    `aim` is the upper bound of the ratio, or the lower bound with `at_least`. None means no aim.
    If `is_control`, both sides do the same work. A row without pairs was not measured; `note` says
    why.
    """

    title: str
    ours: str
    against: str
    pairs: Sequence[tuple[float, float]]
    aim: float | None = None
    at_least: bool = False
    unit: Unit = "time"
    note: str = ""
    is_control: bool = False

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round."""
        return [ours / other for ours, other in self.pairs]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The lower and upper quartile of the ratios."""
        if len(self.pairs) < 2:
            return self.ratio, self.ratio
        lower, _, upper = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return lower, upper

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None if there is no aim or nothing was measured."""
        if self.aim is None or not self.pairs:
            return None
        return self.ratio >= self.aim if self.at_least else self.ratio <= self.aim


async def interleaved(rounds: int, *sides: Side) -> list[tuple[float, ...]]:
    """Run the sides in turn. Each round begins with another side; the first one only warms up."""
    for side in sides:
        await side()
    results = []
    for number in range(rounds):
        took = [0.0] * len(sides)
        for offset in range(len(sides)):
            index = (number + offset) % len(sides)
            took[index] = await sides[index]()
        results.append(tuple(took))
    return results


async def compared(rounds: int, ours: Side, other: Side) -> list[tuple[float, float]]:
    """Return the pairs of a row with the times of its two sides."""
    return [(first, second) for first, second in await interleaved(rounds, ours, other)]


async def overheads(
    rounds: int, without: Side, ours: Side, other: Side
) -> list[tuple[float, float]]:
    """Return the pairs of a row with the times that its two sides add to `without`."""
    results = await interleaved(rounds, without, ours, other)
    return [(first - bare, second - bare) for bare, first, second in results]


async def seconds_each(times: int, operation: Callable[[], Awaitable[object]]) -> float:
    """Run `operation` a number of times; return the seconds of one."""
    began = perf_counter()
    for _ in range(times):
        await operation()
    return (perf_counter() - began) / times
