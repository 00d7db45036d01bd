"""`SharedToken`: one live token for every call of a process: minted once, shared, renewed in time.

Rules of this file:

- One mint at a time, for all event loops and threads. It runs in `background`; whoever waits for it
  may leave.
- A live token is read without a lock. Everything that changes is changed under the lock.
- After a failed mint nothing is asked for a while, which doubles with each further failure; a live
  token goes on to its end.
- A token that a callee rejected is held back from that callee while another is minted, and is sent
  there again where none could be had. Other callees get it meanwhile.
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
# Each pause is longer by up to this part of it, so that processes do not come back together.
JITTER: Final = 0.25
# What ends at the deadline of a mint has this long to say by itself why, in seconds.
GRACE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why there is no new token, and when (monotonic s) another attempt is made.

    `count` is how many mints have failed one after the other.
    """

    text: str
    cause: BaseException
    waiting_helps: bool
    retry_at: float
    count: int


class SharedToken:
    """The token that all calls send, and the mints that keep it live.

    `timeout` is the total of a mint, in seconds; `now` gives monotonic seconds.
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
        self._may_reuse = True  # False once a token was dropped: Clerk would give it again
        self._minted = 0
        self._mints_failed = 0
        tell_of_forks(self)

    def live(self, url: httpx.URL | None = None) -> Bearer | None:
        """Give the token if it may be sent to `url` now, without waiting for anything.

        One that is due is renewed in the background.
        """
        bearer, now = self._bearer, self._now()
        if bearer is None or not _may_be_sent(bearer, url, now):
            return None
        if now >= bearer.due_at and self._flight is None and self._pausing() is None:
            self._renew(bearer)
        return bearer

    def obtain(self, url: httpx.URL | None = None) -> Generator[Flight, None, Bearer]:
        """Give a token to send to `url`; yields each mint to wait for.

        Raises `TokenUnavailableError`.
        """
        while True:
            bearer = self.live(url)
            if bearer is not None:
                return bearer
            flight = self._join(url)
            if flight is None:
                continue  # a mint has ended just now
            yield flight
            if not flight.ended:
                self._abandon(flight)
                raise _unavailable(f"none was minted within {self._timeout:g} s.", RETRY_PAUSE)
            if flight.closed:
                raise _unavailable("aclose() has ended its minting.", 0.0)

    def is_sent(self, bearer: Bearer, url: httpx.URL) -> bool:
        """Tell whether `bearer` is still what is sent to `url`, and no other is under way there."""
        return self._bearer is bearer and _may_be_sent(bearer, url, self._now())

    def replace(self, rejected: Bearer, hold_from: httpx.URL | None = None) -> bool:
        """Have another token minted; tells whether there is one, or one under way.

        The callee at `hold_from` does not get the rejected one meanwhile.
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
        """Send the token no more; tells whether that was done. While mints fail, it stays."""
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
        """Give what was minted, and how long the token may still be sent; for any thread."""
        bearer = self._bearer
        left = None if bearer is None else max(0.0, bearer.ends_at - self._now())
        return MintMeasurements(
            minted=self._minted,
            failed=self._mints_failed,
            remaining=None if left == inf else left,
        )

    def close(self) -> Generator[Flight, None, None]:
        """End the mint under way, and close what it used; yields what to wait for."""
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
        """Leave a mint under way to the parent, in a forked child."""
        self._flight = None
        self._release_holds()

    # Mints, in the event loop of `background`

    async def _fly(self, flight: Flight) -> None:
        if flight.closed:
            return
        flight.task = current_task()
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                # After a failure the next mint is itself the repetition.
                repeat = self._failure is None
                bearer = await self._mint(flight.replaced, reuse=flight.reuse, repeat=repeat)
            if self._now() >= bearer.ends_at:
                raise BackendUnavailableError("createM2MToken: it took longer than its lifetime.")
        except TimeoutError:
            self._failed(flight, self._too_late())
        except BaseException as exc:  # noqa: BLE001  a user's transport or callable may raise any
            # Who waits asks again at once after a mint that has neither failed nor given a token.
            if not flight.closed:
                self._failed(flight, exc)
        else:
            self._keep(flight, bearer)
        finally:
            with self._lock:
                self._land(flight)  # where it was cancelled; else it has landed
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
        """Forget a mint that was never begun, as where Ctrl-C came before it."""
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
            f"createM2MToken: no token came within the deadline of {self._timeout:g} s."
        )

    # Under way or not

    def _join(self, url: httpx.URL | None) -> Flight | None:
        """Give the mint under way, or a new one; None where a token has just come.

        Raises `TokenUnavailableError` while mints pause.
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
        # Clerk still takes a rejected token for a good one, and would give it again.
        self._flight = Flight(
            patience=self._timeout + 2 * GRACE,
            replaced=self._bearer,
            reuse=reuse and self._may_reuse,
        )
        return self._flight, True

    def _begin(self, flight: Flight) -> None:
        try:
            BACKGROUND.start(self, partial(self._fly, flight))
        except RuntimeError as exc:  # no thread can be started, as at the end of the interpreter
            self._failed(flight, exc)
            flight.end()
        except BaseException:  # Ctrl-C
            self._abandon(flight)
            raise

    def _pausing(self) -> _Failure | None:
        """Give the failure after which no mint is made yet."""
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
    return TokenUnavailableError(f"No token to send: {text}", retry_after=retry_after)


def _failure(exc: BaseException, now: float, count: int) -> _Failure:
    text, helps = str(exc), False
    if isinstance(exc, RateLimitedError | BackendUnavailableError | KeyUnavailableError):
        helps = True
    elif not isinstance(exc, ClerkM2MError):
        # Not of this package, so its text may hold a key.
        text, helps = f"minting raised {type(exc).__name__}.", True
    if isinstance(exc, KeyRefusedError | KeyUnavailableError):
        pause = RETRY_PAUSE  # the source of the key has pauses of its own, until it gives another
    else:
        count += 1
        asked = getattr(exc, "retry_after", None) or 0.0
        pause = min(max(asked, RETRY_PAUSE * 2.0 ** min(count - 1, 10)), MAX_RETRY_PAUSE)
        pause *= 1 + JITTER * random.random()  # noqa: S311  it spreads load
    return _Failure(text=text, cause=exc, waiting_helps=helps, retry_at=now + pause, count=count)
