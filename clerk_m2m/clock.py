"""Time as a parameter, so that tests move it and nothing waits; and what Clerk says of the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final

# The clock skew that Clerk's own SDKs allow, in seconds.
LEEWAY: Final = 5.0
# `Date` has whole seconds, so it is up to this much older than the answer that carries it.
DATE_RESOLUTION: Final = 1.0
# A difference to Clerk's clock that is warned of. A measured one is wrong by `DATE_RESOLUTION` and
# the time that the answer took, which is far less.
MAX_SKEW: Final = 30.0


def steady_clock() -> Callable[[], float]:
    """Give the monotonic clock that also runs while the host is suspended, where there is one.

    `time.monotonic` stands still then on Linux and macOS: what is kept for 60 s would be kept for
    as long as the host sleeps, and 60 s more. Other systems get `time.monotonic`.
    """
    # macOS: `time.monotonic` is mach_absolute_time, and CLOCK_MONOTONIC counts the sleep.
    name = "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    clock_id: int | None = getattr(time, name, None)
    if clock_id is None:
        return time.monotonic
    try:
        time.clock_gettime(clock_id)
    except OSError:  # a sandbox, or a kernel without it
        return time.monotonic
    return partial(time.clock_gettime, clock_id)


_MONOTONIC: Final = steady_clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The two clocks of this package, both in seconds.

    `monotonic` measures lifetimes: it is blind to wall-clock jumps, and counts the time that the
    host is suspended (see `steady_clock`). `wall` is Unix time; the instants of a JWT are compared
    with it.
    """

    monotonic: Callable[[], float] = _MONOTONIC
    wall: Callable[[], float] = time.time


def read_date(date: str, age: str = "") -> float | None:
    """Give the instant at which an answer was made, by the sender's clock, in Unix seconds.

    `date` and `age` are the values of these headers (RFC 9110 section 6.6.1, RFC 9111 section 5.1).
    None where `date` is no date, and where there is an `age`: a cache gave the answer, which was
    made earlier.
    """
    if age:
        return None
    try:
        instant = parsedate_to_datetime(date)
        return instant.replace(tzinfo=instant.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


class ServerClock:
    """Clerk's wall clock, told by the `Date` of its last answer, and how far this host's is off.

    A denial counts from an instant, and this host's clock may be slow: what was minted before the
    denial would then look younger than it. `on_skew` is
    told how far this host's clock is off at each
    answer, in seconds.
    """

    def __init__(self, clock: Clock, on_skew: Callable[[float], None] | None = None) -> None:
        self._clock = clock
        self._noted: tuple[float, float] | None = None  # what `Date` said, and when (monotonic s)
        self._on_skew = on_skew

    def note(self, date: str, age: str = "") -> None:
        """Take the `Date` of an answer that has just come; what `read_date` cannot use is ignored.

        `age` is the `Age` of the same answer.
        """
        said = read_date(date, age)
        if said is not None:
            self._noted = (said, self._clock.monotonic())
            if self._on_skew is not None:
                self._on_skew(self._clock.wall() - said)

    def latest(self) -> float:
        """Give the later of this host's wall clock and Clerk's, in Unix seconds."""
        return self._clock.wall() - min(self.skew() or 0.0, 0.0)

    def skew(self) -> float | None:
        """Give by how many seconds this host's clock is ahead of Clerk's; negative where behind.

        None until Clerk has told its time.
        """
        if self._noted is None:
            return None
        said, noted_at = self._noted
        return self._clock.wall() - (said + self._clock.monotonic() - noted_at)

    def judge(self) -> str:
        """Name this host's clock in a refusal, with the skew where it is known and above 30 s."""
        skew = self.skew()
        if skew is None or abs(skew) <= MAX_SKEW:
            return "this host's clock"
        return f"this host's clock, which is {told_skew(skew)}"


def told_skew(skew: float) -> str:
    """Say by how many seconds this host's clock is off Clerk's, and in which direction."""
    return f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Clerk's"
