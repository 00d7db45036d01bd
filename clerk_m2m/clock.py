"""Time as a parameter, so that tests move it and nothing waits; and what Clerk says of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

# The clock skew that Clerk's own SDKs allow, in seconds.
LEEWAY: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The two clocks of this package, both in seconds.

    `monotonic` measures lifetimes and is blind to wall-clock jumps; `wall` is Unix time, read once
    when an instant of Clerk's (`exp`, `expiration`) is turned into a remaining lifetime.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class ServerClock:
    """Clerk's wall clock, told by the `Date` of its last answer (RFC 9110 section 6.6.1).

    A denial counts from an instant, and this host's clock may be slow: what was minted before the
    denial would then look younger than it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noted: tuple[float, float] | None = None  # what `Date` said, and when (monotonic s)

    def note(self, date: str) -> None:
        """Take the `Date` of an answer; what is no date is passed over."""
        try:
            instant = parsedate_to_datetime(date)
            said = instant.replace(tzinfo=instant.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            return
        self._noted = (said, self._clock.monotonic())

    def latest(self) -> float:
        """Give the later of this host's wall clock and Clerk's, in Unix seconds."""
        wall = self._clock.wall()
        if self._noted is None:
            return wall
        said, noted_at = self._noted
        return max(wall, said + self._clock.monotonic() - noted_at)
