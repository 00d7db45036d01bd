"""Durations of calls to Clerk: a histogram for each operation and result."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Final, TypeAlias

from clerk_m2m.tasks import fork_safe_lock

logger = logging.getLogger("clerk_m2m")

# Upper bounds in seconds. Clerk answers within 20 to 200 ms, and the default `timeout` is 2 s.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

OnCall: TypeAlias = Callable[[str, str, float], None]


class CallResult(StrEnum):
    """The result of one call that was sent to Clerk."""

    OK = "ok"
    NOT_FOUND = "not_found"  # a definitive refusal, if the call was about a credential
    RATE_LIMITED = "rate_limited"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    NO_CONNECTION = "no_connection"
    BAD_ANSWER = "bad_answer"  # cut off, compressed or too large
    CANCELLED = "cancelled"  # closing the client ended it


def result_of(status: int) -> CallResult:
    """Return the result for an answer with this HTTP status."""
    match status:
        case 404:
            return CallResult.NOT_FOUND
        case 429:
            return CallResult.RATE_LIMITED
        case _ if status >= 500:
            return CallResult.SERVER_ERROR
        case _ if status >= 300:
            return CallResult.CLIENT_ERROR
    return CallResult.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """The numbers of calls per bucket of `BOUNDS`, of longer calls, and the sum in seconds."""

    counts: tuple[int, ...]
    seconds: float

    def cumulative(self) -> list[tuple[str, int]]:
        """Return each bound with the number of calls up to it, in Prometheus's form."""
        bounds = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")
        return list(zip(bounds, accumulate(self.counts), strict=True))


class CallTimes:
    """The histograms of one verifier; event loops and threads share them, and no call is lost."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._listeners: list[OnCall] = []

    def record(self, operation: str, result: CallResult, seconds: float) -> None:
        """Count one call and call the listeners."""
        key = operation, result.value
        with self._lock:
            counts = self._counts.setdefault(key, [0] * (len(BOUNDS) + 1))
            counts[bisect_left(BOUNDS, seconds)] += 1
            self._seconds[key] = self._seconds.get(key, 0.0) + seconds
        for listener in self._listeners:
            try:
                listener(operation, result.value, seconds)
            except Exception:  # an error of an exporter must not fail the call
                logger.exception("A listener of on_call raised an exception.")

    def on_call(self, listener: OnCall) -> None:
        """Call `listener(operation, result, seconds)` after each call from now on."""
        self._listeners.append(listener)

    def read(self) -> Mapping[tuple[str, str], Histogram]:
        """Return the histograms by operation and result."""
        with self._lock:
            return {
                key: Histogram(counts=tuple(counts), seconds=self._seconds[key])
                for key, counts in self._counts.items()
            }
