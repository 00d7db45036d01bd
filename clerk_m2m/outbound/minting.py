"""One live token for every call of a process: minted once, shared, renewed ahead of its end.

Rules of this file:

- A token's lifetime is fixed once, on the monotonic clock, from before its mint left. A new token's
  lifetime is `expires_at` less `created_at`, both of Clerk's clock, so ours may be wrong.
- One mint at a time per event loop, in a task of its own: whoever waits for it may leave.
- After a failed mint nothing is asked for a while; a live token goes on to its end.
- A token that a callee rejected is held back while another is minted, and used again where none
  could be had: it may be good for other callees.
- The token is shared by all event loops and threads of the process.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import CreatedM2MToken
from clerk_m2m.clock import LEEWAY, Clock
from clerk_m2m.errors import (
    BackendUnavailableError,
    ClerkM2MError,
    KeyUnavailableError,
    RateLimitedError,
    TokenUnavailableError,
)
from clerk_m2m.observe.measurements import MintMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret
from clerk_m2m.tasks import detached, fork_safe_lock

# A twelfth of its lifetime before its end a token is renewed, but not earlier than this.
LEAD: Final = 1 / 12
MAX_LEAD: Final = 300.0
RETRY_PAUSE: Final = 1.0
MAX_RETRY_PAUSE: Final = 30.0

# RFC 6750 section 2.1: what can stand in the header.
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """What to ask Clerk for; durations are seconds, None leaves it to the machine's settings."""

    token_format: Literal["opaque", "jwt"] = "opaque"
    seconds_until_expiration: float | None = None
    claims: Mapping[str, Any] | None = field(default=None, repr=False)
    min_remaining_ttl_seconds: int | None = None


class Bearer:
    """A token as it is sent, due for renewal and at its end at two instants (monotonic s).

    `held` is set while another is minted because a callee rejected this one.
    """

    __slots__ = ("due_at", "ends_at", "header", "held")

    def __init__(self, token: Secret, minted_at: float, lifetime: float) -> None:
        lead = min(lifetime * LEAD, MAX_LEAD)
        self.header = Secret(f"Bearer {token.reveal()}")
        self.due_at = minted_at + lifetime - lead
        # The margin is for the way to the callee, and for its clock.
        self.ends_at = minted_at + lifetime - min(lead / 2, LEEWAY)
        self.held = False

    def betters(self, other: Bearer) -> bool:
        """Tell whether this is another token, with a later end."""
        return self.header != other.header and self.ends_at > other.ends_at


class TokenMint:
    """Asks Clerk for a token (`createM2MToken`) with the key of `client`."""

    def __init__(
        self, client: ClerkClient, options: TokenOptions, clock: Clock, reporter: Reporter
    ) -> None:
        self._reporter = reporter
        self._client = client
        self._options = options
        self._clock = clock

    async def __call__(self, replaced: Bearer | None, reuse: bool) -> Bearer:
        """Give a token to send instead of `replaced`; `reuse` lets Clerk give an existing one."""
        reuse = reuse and self._options.min_remaining_ttl_seconds is not None
        try:
            bearer = await self._bearer(reuse)
            if reuse and replaced is not None and not bearer.betters(replaced):
                bearer = await self._bearer(reuse=False)
            return bearer
        finally:
            # Mints are minutes apart: a connection kept for the next would only have to be closed.
            await self._client.aclose()

    async def _bearer(self, reuse: bool) -> Bearer:
        minted_at, wall = self._clock.monotonic(), self._clock.wall()
        created = await self._create(reuse)
        if not created.live or not _B64TOKEN.fullmatch(created.token.reveal()):
            raise BackendUnavailableError("createM2MToken: Clerk gave a token that cannot be used.")
        bearer = Bearer(created.token, minted_at, self._lifetime(created, wall, reuse))
        self._reporter.minted(
            seconds=self._clock.monotonic() - minted_at,
            token_id=created.id,
            caller=created.subject,
            token_type="m2m_token",
        )
        return bearer

    def _lifetime(self, created: CreatedM2MToken, wall: float, reuse: bool) -> float:
        if created.expires_at is None:
            return inf
        lifetime = (created.expires_at - created.created_at).total_seconds()
        if reuse:
            # It may be an old one: only our own clock tells its age, within what Clerk promised.
            left = created.expires_at.timestamp() - wall
            lifetime = min(lifetime, max(left, self._options.min_remaining_ttl_seconds or 0.0))
        if lifetime <= 0:
            raise BackendUnavailableError(
                "createM2MToken: Clerk gave a token without any lifetime left."
            )
        return lifetime

    async def _create(self, reuse: bool) -> CreatedM2MToken:
        options = self._options
        return await self._client.m2m_tokens.create(
            token_format=options.token_format,
            seconds_until_expiration=options.seconds_until_expiration,
            claims=options.claims,
            min_remaining_ttl_seconds=options.min_remaining_ttl_seconds if reuse else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why there is no new token, and when (monotonic s) another attempt is made."""

    text: str
    cause: Exception
    waiting_helps: bool
    retry_at: float


class SharedToken:
    """The token that all calls send, and the mints that keep it live."""

    def __init__(
        self,
        mint: Callable[[Bearer | None, bool], Awaitable[Bearer]],
        now: Callable[[], float],
        reporter: Reporter,
    ) -> None:
        self._reporter = reporter
        self._mint = mint
        self._now = now
        self._lock = fork_safe_lock()
        self._bearer: Bearer | None = None
        self._failure: _Failure | None = None
        self._minted = 0
        self._mints_failed = 0
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = (
            WeakKeyDictionary()
        )

    def live(self) -> Bearer | None:
        """Give the token if it may be sent now; one that is due is renewed in the background."""
        bearer, now = self._bearer, self._now()
        if bearer is None or bearer.held or now >= bearer.ends_at:
            return None
        if now >= bearer.due_at:
            self._renew(bearer, now)
        return bearer

    async def obtain(self) -> Bearer:
        """Wait for the shared mint and give its token; raises `TokenUnavailableError`."""
        if self._pausing(self._now()):
            raise self._unavailable()
        # `wait` leaves the task alone when the waiter is cancelled.
        await asyncio.wait({self._join(reuse=True)})
        bearer = self.live()
        if bearer is None:
            raise self._unavailable()
        return bearer

    def replace(self, rejected: Bearer) -> None:
        """Hold back a token that a callee rejected, and have another minted."""
        if self._bearer is not rejected or self._pausing(self._now()):
            return
        rejected.held = True
        # Clerk still takes the rejected token for a good one, and would give it again.
        self._join(reuse=False)

    def measure(self) -> MintMeasurements:
        """Give what was minted, and how long the token may still be sent; for any thread."""
        bearer = self._bearer
        left = None if bearer is None else max(0.0, bearer.ends_at - self._now())
        return MintMeasurements(
            minted=self._minted,
            failed=self._mints_failed,
            remaining=None if left == inf else left,
        )

    async def aclose(self) -> None:
        """End the mint under way in this event loop."""
        flight = self._flight()
        if flight is not None:
            flight.cancel()
            await asyncio.wait({flight})

    def _renew(self, bearer: Bearer, now: float) -> None:
        # For all loops: whether this attempt succeeds or not, the next comes a little later.
        bearer.due_at = now + RETRY_PAUSE
        if not self._pausing(now):
            self._join(reuse=True)

    def _pausing(self, now: float) -> bool:
        failure = self._failure
        return failure is not None and now < failure.retry_at

    # Minting

    def _flight(self) -> asyncio.Task[None] | None:
        with self._lock:
            flight = self._flights.get(asyncio.get_running_loop())
        return None if flight is None or flight.done() else flight

    def _join(self, *, reuse: bool) -> asyncio.Task[None]:
        flight = self._flight()
        if flight is None:
            flight = detached(self._fly(self._bearer, reuse))
            with self._lock:
                self._flights[flight.get_loop()] = flight
            flight.add_done_callback(self._landed)
        return flight

    async def _fly(self, replaced: Bearer | None, reuse: bool) -> None:
        try:
            bearer = await self._mint(replaced, reuse)
        except Exception as exc:  # noqa: BLE001  the user's transport may raise anything
            self._failed(exc)
        else:
            self._keep(bearer, replaced)
        finally:
            with self._lock:
                if self._bearer is not None:
                    self._bearer.held = False

    def _landed(self, flight: asyncio.Task[None]) -> None:
        with self._lock:
            # A task refers to its loop: kept here, it would keep a loop that has ended.
            if self._flights.get(flight.get_loop()) is flight:
                del self._flights[flight.get_loop()]

    def _keep(self, bearer: Bearer, replaced: Bearer | None) -> None:
        with self._lock:
            self._minted += 1
            current = self._bearer
            # Another loop may have minted meanwhile: then the one that lives longer stays.
            if current is replaced or current is None or current.ends_at < bearer.ends_at:
                self._bearer = bearer
            self._failure = None

    def _failed(self, exc: Exception) -> None:
        now = self._now()
        with self._lock:
            self._mints_failed += 1
        self._failure = _failure(exc, now)
        self._reporter.mint_failed(exc, self._failure.text)

    def _unavailable(self) -> TokenUnavailableError:
        failure = self._failure
        if failure is None:
            return TokenUnavailableError(
                "No token to send: its minting was ended, or took longer than its lifetime.",
                retry_after=0.0,
            )
        left = max(0.0, failure.retry_at - self._now()) if failure.waiting_helps else None
        error = TokenUnavailableError(f"No token to send: {failure.text}", retry_after=left)
        error.__cause__ = failure.cause
        return error


def _failure(exc: Exception, now: float) -> _Failure:
    pause, text, helps = RETRY_PAUSE, str(exc), False
    if isinstance(exc, RateLimitedError | BackendUnavailableError | KeyUnavailableError):
        pause = min(max(exc.retry_after or 0.0, RETRY_PAUSE), MAX_RETRY_PAUSE)
        helps = True
    elif not isinstance(exc, ClerkM2MError):
        # Not of this package, so its text may hold a key.
        text, helps = f"minting raised {type(exc).__name__}.", True
    return _Failure(text=text, cause=exc, waiting_helps=helps, retry_at=now + pause)
