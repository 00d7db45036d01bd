"""When to leave an upstream alone: after failures in a row, or because it asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from clerk_m2m.errors import BackendAPIError, BackendUnavailableError, RateLimitedError

FAILURES_TO_OPEN: Final = 5
PROBE_EVERY: Final = 1.0
MAX_BACK_OFF: Final = 30.0


class Breaker:
    """Lets calls through while the upstream answers, and one probe a second while it does not.

    `now` gives monotonic seconds. Event loops and threads share it: each step is one assignment.
    """

    __slots__ = ("_failures", "_next_probe", "_now", "_silent_until")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures = 0
        self._next_probe = 0.0
        self._silent_until = 0.0

    def check(self) -> None:
        """Raise `RateLimitedError` or `BackendUnavailableError` where no call may go out now."""
        now = self._now()
        if now < self._silent_until:
            raise RateLimitedError(
                "Clerk's rate limit was reached.", retry_after=self._silent_until - now
            )
        if self._failures >= FAILURES_TO_OPEN and now < self._next_probe:
            raise BackendUnavailableError(
                "Clerk has not answered for a while.", retry_after=PROBE_EVERY
            )

    def enter(self) -> None:
        """Like `check`, for a call that goes out now: it is the probe where one is due."""
        self.check()
        if self._failures >= FAILURES_TO_OPEN:
            self._next_probe = self._now() + PROBE_EVERY

    @contextmanager
    def record(self, *, count_failure: bool = True) -> Iterator[None]:
        """Run one call under the breaker and record its result. A 4xx counts as a success.

        With `count_failure=False` a failure is not counted, because the call spent most of its time
        in our own queue.
        """
        self.enter()
        try:
            yield
        except BackendUnavailableError:
            if count_failure:
                self.failed()
            raise
        except RateLimitedError as exc:
            self.succeeded()
            exc.retry_after = self.back_off(exc.retry_after or 0.0)
            raise
        except BackendAPIError:
            self.succeeded()
            raise
        self.succeeded()

    def succeeded(self) -> None:
        """An answer came, whatever it said."""
        self._failures = 0

    def failed(self) -> None:
        """No answer came, or none that makes sense."""
        self._failures += 1
        if self._failures == FAILURES_TO_OPEN:
            self._next_probe = self._now() + PROBE_EVERY

    def back_off(self, seconds: float) -> float:
        """The upstream asked to be left alone; gives the seconds for which it will be."""
        now = self._now()
        seconds = min(max(seconds, 0.0), MAX_BACK_OFF)
        # Calls that were out together may be told different times: the longest holds.
        self._silent_until = max(self._silent_until, now + seconds)
        return self._silent_until - now
