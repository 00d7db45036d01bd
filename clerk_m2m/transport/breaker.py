"""Circuit breakers: stop calls after failures in a row, or because the upstream asked for a pause.

There are two, one for calls about keys with a cached value and one for other calls. Otherwise
unknown tokens could decide whether stale values are used. A result on one side does not change the
other side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from clerk_m2m.errors import BackendAPIError, BackendUnavailableError, RateLimitedError
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.transport.admission import KNOWN, Priority

FAILURES_TO_OPEN: Final = 5
PROBE_EVERY: Final = 1.0
MAX_BACK_OFF: Final = 30.0


class Breaker:
    """Allows calls while the upstream answers, and one probe a second while it does not.

    `now` returns monotonic seconds. Event loops and threads share a breaker: each step is a single
    assignment. `reporter` is called when it opens and closes; `side` names the calls under it.
    """

    __slots__ = (
        "_asked_by",
        "_failures",
        "_last_failure",
        "_next_probe",
        "_now",
        "_opened_at",
        "_reporter",
        "_side",
        "_silent_until",
    )

    def __init__(
        self, now: Callable[[], float], *, side: str = "", reporter: Reporter | None = None
    ) -> None:
        self._now = now
        self._side = side
        self._reporter = reporter
        self._last_failure = ""
        self._opened_at: float | None = None
        self._failures = 0
        self._next_probe = 0.0
        self._silent_until = 0.0
        self._asked_by: type[RateLimitedError | BackendUnavailableError] = RateLimitedError

    @property
    def last_call_failed(self) -> bool:
        """Whether the last call that ended got no answer, or Clerk's pause is not over."""
        return self._failures > 0 or self._now() < self._silent_until

    @property
    def state(self) -> str:
        """The state: `closed`, `open` (only probes) or `silent` (a pause that Clerk asked for)."""
        if self._now() < self._silent_until:
            return "silent"
        return "open" if self._failures >= FAILURES_TO_OPEN else "closed"

    def check(self) -> None:
        """Raise `RateLimitedError` or `BackendUnavailableError` if no call may be sent now."""
        now = self._now()
        if now < self._silent_until:
            raise self._asked_by(
                f"Not sent: Clerk has asked for a pause. {self._last_failure}".rstrip(),
                retry_after=self._silent_until - now,
            )
        if self._failures >= FAILURES_TO_OPEN and now < self._next_probe:
            raise BackendUnavailableError(
                f"Not sent, because the last calls failed. The last error: {self._last_failure}",
                retry_after=PROBE_EVERY,
            )

    def enter(self) -> None:
        """Like `check`, for a call that is sent now; if a probe is due, this call is the probe."""
        self.check()
        if self._failures >= FAILURES_TO_OPEN:
            self._next_probe = self._now() + PROBE_EVERY

    def ended(self, exc: BackendAPIError | None) -> None:
        """Record the result of a call. A 4xx counts as a success: the upstream is up."""
        if isinstance(exc, BackendUnavailableError):
            self._last_failure = str(exc)
            self.failed()
        else:
            self._failures = 0
        if isinstance(exc, RateLimitedError) or (
            isinstance(exc, BackendUnavailableError) and exc.retry_after is not None
        ):
            self._last_failure = str(exc)
            self.back_off(exc)
        self._report(exc)

    def _report(self, exc: BackendAPIError | None) -> None:
        now, is_open = self._now(), self.state != "closed"
        if is_open and self._opened_at is None and exc is not None:
            self._opened_at = now
            if self._reporter is not None:
                self._reporter.breaker_opened(self._side, exc)
        elif self._failures == 0 and not is_open and self._opened_at is not None:
            opened_at, self._opened_at = self._opened_at, None
            if self._reporter is not None:
                self._reporter.breaker_closed(self._side, now - opened_at)

    def failed(self) -> None:
        """Count a failure: no answer came, or an unreadable one."""
        self._failures += 1
        if self._failures == FAILURES_TO_OPEN:
            self._next_probe = self._now() + PROBE_EVERY

    def back_off(self, exc: RateLimitedError | BackendUnavailableError) -> None:
        """Pause for the `retry_after` of `exc`, because the upstream asked for it.

        Concurrent calls may receive different times: the longest counts, and `retry_after` is set
        to it.
        """
        now = self._now()
        seconds = min(max(exc.retry_after or 0.0, 0.0), MAX_BACK_OFF)
        if now + seconds >= self._silent_until:
            self._silent_until, self._asked_by = now + seconds, type(exc)
        exc.retry_after = self._silent_until - now


class Breakers:
    """The two breakers of one upstream; `upstream` names it in events and log lines."""

    __slots__ = ("known", "others")

    def __init__(
        self,
        now: Callable[[], float],
        *,
        upstream: str = "credentials",
        reporter: Reporter | None = None,
    ) -> None:
        self.known = Breaker(now, side=f"known {upstream}", reporter=reporter)
        self.others = Breaker(now, side=f"other {upstream}", reporter=reporter)

    def states(self) -> dict[str, str]:
        """Return the state of each breaker, by the side it is for."""
        return {"known": self.known.state, "others": self.others.state}

    def of(self, priority: Priority) -> Breaker:
        """Return the breaker that a call of this priority runs under."""
        return self.known if priority in KNOWN else self.others
