"""`SharedToken`: one token for all calls of a process, minted once and renewed before it expires.

Rules of this file:

- One mint at a time, for all event loops and threads. It runs in `background`. Cancelling a waiter
  does not cancel the mint.
- A live token is read without a lock. All changes of state are made under the lock.
- After a failed mint there is a pause before the next one, and it doubles with each further
  failure. A live token is used until it expires.
- After a callee rejected the token, it is not sent to that callee while a new one is minted. Other
  callees still receive it. If minting fails, it is sent to that callee again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

from clerk_m2m.background import BACKGROUND
from clerk_m2m.errors import (
    BackendUnavailableError,
    ClerkM2MError,
    KeyRefusedError,
    KeyUnavailableError,
    RateLimitedError,
    TokenUnavailableError,
)
from clerk_m2m.observe.measurements import MintMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.outbound.flight import Flight
from clerk_m2m.outbound.minting import Bearer, TokenMint
from clerk_m2m.outbound.rejections import origin_of
from clerk_m2m.tasks import current_task, fork_safe_lock, tell_of_forks

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

RETRY_PAUSE: Final = 1.0
MAX_RETRY_PAUSE: Final = 30.0
# Each pause is longer by a random part of up to this, so that processes do not retry together.
JITTER: Final = 0.25
# How long after its deadline a mint is cancelled, in seconds: its own error says more than ours.
GRACE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why the last mint failed, and from when on another is allowed (`retry_at`, monotonic s).

    `count` is the number of failed mints in a row. `waiting_helps`: the failure may be temporary.
    """

    text: str
    cause: BaseException
    waiting_helps: bool
    retry_at: float
    count: int


class SharedToken:
    """The token that all calls send, and the mints that renew it.

    `timeout` is the total time of a mint, in seconds; `now` returns monotonic seconds.
    """

    def __init__(
        self, mint: TokenMint, now: Callable[[], float], reporter: Reporter, *, timeout: float
    ) -> None:
        self._mint = mint
        self._now = now
        self._reporter = reporter
        self._timeout = timeout
        self._lock = fork_safe_lock()
        self._bearer: Bearer | None = None
        self._failure: _Failure | None = None
        self._flight: Flight | None = None
        self._may_reuse = True  # False after `drop()`: Clerk would return the same token again
        self._minted = 0
        self._mints_failed = 0
        tell_of_forks(self)

    def live(self, url: httpx.URL | None = None) -> Bearer | None:
        """Return the token if it may be sent to `url` now, else None; never waits.

        If the token is due for renewal, a mint starts in the background.
        """
        bearer, now = self._bearer, self._now()
        if bearer is None or not _may_be_sent(bearer, url, now):
            return None
        if now >= bearer.due_at and self._flight is None and self._pausing() is None:
            self._renew(bearer)
        return bearer

    def obtain(self, url: httpx.URL | None = None) -> Generator[Flight, None, Bearer]:
        """Return a token to send to `url`; yield each mint that must be waited for.

        Raises `TokenUnavailableError`.
        """
        while True:
            bearer = self.live(url)
            if bearer is not None:
                return bearer
            flight = self._join(url)
            if flight is None:
                continue  # a mint ended between the two checks
            yield flight
            if not flight.ended:
                self._abandon(flight)
                raise _unavailable(f"none was minted within {self._timeout:g} s.", RETRY_PAUSE)
            if flight.closed:
                raise _unavailable("aclose() cancelled the mint.", 0.0)

    def is_sent(self, bearer: Bearer, url: httpx.URL) -> bool:
        """Return whether `bearer` is the current token and may still be sent to `url`."""
        return self._bearer is bearer and _may_be_sent(bearer, url, self._now())

    def replace(self, rejected: Bearer, hold_from: httpx.URL | None = None) -> bool:
        """Start a mint that replaces `rejected`; return True if another token exists or is coming.

        The rejected token is not sent to the callee at `hold_from` until that mint ends.
        """
        with self._lock:
            if self._bearer is not rejected:
                return True
            if self._pausing():
                return False
            flight, begun = self._flight_or_new(reuse=False)
            if hold_from is not None:
                rejected.rejected_by |= {origin_of(hold_from)}
        if begun:
            self._begin(flight)
        return True

    def drop(self) -> bool:
        """Drop the token and return True; False if there is none or mints pause after a failure."""
        with self._lock:
            if self._bearer is None or self._pausing():
                return False
            self._bearer, self._may_reuse = None, False
            return True

    @property
    def is_there(self) -> bool:
        """Whether there is a token to drop."""
        return self._bearer is not None

    def measure(self) -> MintMeasurements:
        """Return the numbers of mints and for how long the token may still be sent; thread-safe."""
        bearer = self._bearer
        left = None if bearer is None else max(0.0, bearer.ends_at - self._now())
        return MintMeasurements(
            minted=self._minted,
            failed=self._mints_failed,
            remaining=None if left == inf else left,
        )

    def close(self) -> Generator[Flight, None, None]:
        """Cancel the mint in progress and close its connections; yield what must be waited for."""
        with self._lock:
            flight, self._flight = self._flight, None
            self._release_holds()
            serves = BACKGROUND.serves(self)
        if flight is not None:
            flight.closed = True
            flight.end()
        if serves:
            closing = Flight(patience=2 * self._timeout)
            BACKGROUND.start(self, partial(self._close, flight, closing))
            yield closing
            BACKGROUND.leave(self)

    def leave_to_parent(self) -> None:
        """In a forked child: forget the mint in progress, which runs in the parent."""
        self._flight = None
        self._release_holds()

    # Mints, in the event loop of `background`

    async def _fly(self, flight: Flight) -> None:
        if flight.closed:
            return
        flight.task = current_task()
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                # After a failed mint this one is already a retry, so it is not retried again.
                repeat = self._failure is None
                bearer = await self._mint(flight.replaced, reuse=flight.reuse, repeat=repeat)
            if self._now() >= bearer.ends_at:
                raise BackendUnavailableError(
                    "createM2MToken: the token expired before Clerk's answer arrived."
                )
        except TimeoutError:
            self._failed(flight, self._too_late())
        except BaseException as exc:  # noqa: BLE001  a user's transport or callable may raise any
            # Record every failure: without one, waiters would start the next mint at once.
            if not flight.closed:
                self._failed(flight, exc)
        else:
            self._keep(flight, bearer)
        finally:
            with self._lock:
                self._land(flight)  # only after a cancellation: `_keep` and `_failed` did it before
            flight.end()
        await self._mint.aclose()

    async def _close(self, flight: Flight | None, closing: Flight) -> None:
        try:
            if flight is not None and flight.task is not None:
                flight.task.cancel()
            await self._mint.aclose()
        finally:
            closing.end()

    def _keep(self, flight: Flight, bearer: Bearer) -> None:
        with self._lock:
            self._minted += 1
            self._land(flight)
            self._failure, self._may_reuse = None, True
            self._bearer = bearer

    def _failed(self, flight: Flight, exc: BaseException) -> None:
        with self._lock:
            self._mints_failed += 1
            self._land(flight)
            count = 0 if self._failure is None else self._failure.count
            self._failure = failure = _failure(exc, self._now(), count)
        self._reporter.mint_failed(exc, failure.text)

    def _abandon(self, flight: Flight) -> None:
        """Forget a mint that never started, for example because of Ctrl-C."""
        with self._lock:
            if flight.task is None:
                flight.closed = True
                self._land(flight)

    def _land(self, flight: Flight) -> None:
        if self._flight is flight:
            self._flight = None
            self._release_holds()

    def _release_holds(self) -> None:
        if self._bearer is not None:
            self._bearer.rejected_by = frozenset()

    def _too_late(self) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"createM2MToken: Clerk returned no token within the timeout of {self._timeout:g} s."
        )

    # Join a mint or start one

    def _join(self, url: httpx.URL | None) -> Flight | None:
        """Return the mint in progress, or a new one; None if there is a token to send by now.

        Raises `TokenUnavailableError` during the pause after a failed mint.
        """
        with self._lock:
            if self._flight is None:
                if self._bearer is not None and _may_be_sent(self._bearer, url, self._now()):
                    return None
                failure = self._pausing()
                if failure is not None:
                    raise self._pause_error(failure)
            flight, begun = self._flight_or_new(reuse=True)
        if begun:
            self._begin(flight)
        return flight

    def _renew(self, bearer: Bearer) -> None:
        with self._lock:
            if self._bearer is not bearer or self._pausing():
                return
            flight, begun = self._flight_or_new(reuse=True)
        if begun:
            self._begin(flight)

    def _flight_or_new(self, *, reuse: bool) -> tuple[Flight, bool]:
        if self._flight is not None:
            return self._flight, False
        # After a rejection `reuse` is False: for Clerk the rejected token is valid, so it would
        # return the same one.
        self._flight = Flight(
            patience=self._timeout + 2 * GRACE,
            replaced=self._bearer,
            reuse=reuse and self._may_reuse,
        )
        return self._flight, True

    def _begin(self, flight: Flight) -> None:
        try:
            BACKGROUND.start(self, partial(self._fly, flight))
        except RuntimeError as exc:  # no thread can be started while the interpreter exits
            self._failed(flight, exc)
            flight.end()
        except BaseException:  # Ctrl-C
            self._abandon(flight)
            raise

    def _pausing(self) -> _Failure | None:
        """Return the last failure while its pause lasts, else None."""
        failure = self._failure
        return None if failure is None or self._now() >= failure.retry_at else failure

    def _pause_error(self, failure: _Failure) -> TokenUnavailableError:
        left = max(0.0, failure.retry_at - self._now()) if failure.waiting_helps else None
        error = _unavailable(failure.text, left)
        error.__cause__ = failure.cause
        return error


def _may_be_sent(bearer: Bearer, url: httpx.URL | None, now: float) -> bool:
    if now >= bearer.ends_at:
        return False
    return not bearer.rejected_by or url is None or origin_of(url) not in bearer.rejected_by


def _unavailable(text: str, retry_after: float | None) -> TokenUnavailableError:
    return TokenUnavailableError(f"There is no token to send: {text}", retry_after=retry_after)


def _failure(exc: BaseException, now: float, count: int) -> _Failure:
    text, helps = str(exc), False
    if isinstance(exc, RateLimitedError | BackendUnavailableError | KeyUnavailableError):
        helps = True
    elif not isinstance(exc, ClerkM2MError):
        # The error is not from this package, so its text may contain a key.
        text, helps = f"minting raised {type(exc).__name__}.", True
    if isinstance(exc, KeyRefusedError | KeyUnavailableError):
        pause = RETRY_PAUSE  # `KeySource` has longer pauses of its own
    else:
        count += 1
        asked = getattr(exc, "retry_after", None) or 0.0
        pause = min(max(asked, RETRY_PAUSE * 2.0 ** min(count - 1, 10)), MAX_RETRY_PAUSE)
        pause *= 1 + JITTER * random.random()  # noqa: S311  it spreads load
    return _Failure(text=text, cause=exc, waiting_helps=helps, retry_at=now + pause, count=count)
