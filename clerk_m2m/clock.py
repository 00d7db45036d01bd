"""The clocks of this package, which tests replace, and Clerk's clock from its `Date` headers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Final

# The clock skew that Clerk's own SDKs allow, in seconds.
LEEWAY: Final = 5.0
# `Date` has whole seconds, so it may be this much older than its answer.
DATE_RESOLUTION: Final = 1.0
# Above this difference to Clerk's clock, a warning is logged. The error of a measured difference is
# `DATE_RESOLUTION` plus the time that the answer took, which is far less.
MAX_SKEW: Final = 30.0


def steady_clock() -> Callable[[], float]:
    """Return a monotonic clock that also runs while the host is suspended, if there is one.

    On Linux and macOS `time.monotonic` stops while the host sleeps: a value cached for 60 s would
    be used for 60 s after the host wakes up, too. On other systems this is `time.monotonic`.
    """
    # macOS: `time.monotonic` is mach_absolute_time, and CLOCK_MONOTONIC counts the sleep.
    name = "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    clock_id: int | None = getattr(time, name, None)
    if clock_id is None:
        return time.monotonic
    try:
        time.clock_gettime(clock_id)
    except OSError:  # not available in a sandbox or an old kernel
        return time.monotonic
    return partial(time.clock_gettime, clock_id)


_MONOTONIC: Final = steady_clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The two clocks of this package, both in seconds.

    `monotonic` measures lifetimes. It ignores changes of the wall clock, and includes the time for
    which the host is suspended (see `steady_clock`). `wall` is Unix time; the instants of a JWT are
    compared with it.
    """

    monotonic: Callable[[], float] = _MONOTONIC
    wall: Callable[[], float] = time.time


# Both users of an answer's `Date` read it, and the answers of one second have the same.
@lru_cache(maxsize=8)
def read_date(date: str, age: str = "") -> float | None:
    """Return the instant at which an answer was made, by the sender's clock, in Unix seconds.

    `date` and `age` are the values of these headers (RFC 9110 section 6.6.1, RFC 9111 section 5.1).
    None if `date` is not a date, or if there is an `age`: then the answer came from a cache and was
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
    """Clerk's wall clock, from the `Date` of its last answer, and the skew of this host's clock.

    A denial of JWTs applies to tokens that were minted before an instant. If this host's clock is
    slow, a token from before the denial could look newer than it. `on_skew` is called with the skew
    in seconds at each answer.
    """

    def __init__(self, clock: Clock, on_skew: Callable[[float], None] | None = None) -> None:
        self._clock = clock
        self._noted: tuple[float, float] | None = (
            None  # the last `Date`, and when it was received (monotonic s)
        )
        self._on_skew = on_skew

    def note(self, date: str, age: str = "") -> None:
        """Read the `Date` of a new answer; ignored if `read_date` cannot use it.

        `age` is the `Age` of the same answer.
        """
        said = read_date(date, age)
        if said is not None:
            self._noted = (said, self._clock.monotonic())
            if self._on_skew is not None:
                self._on_skew(self._clock.wall() - said)

    def latest(self) -> float:
        """Return the later of this host's wall clock and Clerk's, in Unix seconds."""
        return self._clock.wall() - min(self.skew() or 0.0, 0.0)

    def skew(self) -> float | None:
        """Return the seconds by which this host's clock is ahead of Clerk's; negative if behind.

        None until the first answer of Clerk's with a usable `Date`.
        """
        if self._noted is None:
            return None
        said, noted_at = self._noted
        return self._clock.wall() - (said + self._clock.monotonic() - noted_at)

    def judge(self) -> str:
        """Return a text for a refusal: this host's clock, with its skew if that is above 30 s."""
        skew = self.skew()
        if skew is None or abs(skew) <= MAX_SKEW:
            return "this host's clock"
        return f"this host's clock, which is {told_skew(skew)}"


def told_skew(skew: float) -> str:
    """Return the skew to Clerk's clock as text: the seconds and the direction."""
    return f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Clerk's"
