"""Time as a parameter, so that tests move it and nothing waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# The clock skew that Clerk's own SDKs allow, in seconds.
LEEWAY: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The two clocks of this package, both in seconds.

    `monotonic` measures lives and is blind to wall-clock jumps; `wall` is Unix time, read once when
    an instant of Clerk's (`exp`, `expiration`) is turned into a remaining life.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
