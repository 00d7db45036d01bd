"""One mint: the request to Clerk, and when the new token is due for renewal and expires.

A token's lifetime is computed once, on the monotonic clock, from the instant before the request was
sent. The lifetime of a new token is `expires_at - created_at`. Both come from Clerk's clock, so the
result is right even if this host's clock is wrong.
"""

from __future__ import annotations

import asyncio
import random
import re
from math import inf
from typing import Final

import httpx

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import CreatedM2MToken
from clerk_m2m.clock import LEEWAY, Clock
from clerk_m2m.errors import BackendUnavailableError
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.outbound.options import TokenOptions
from clerk_m2m.outbound.rejections import Origin
from clerk_m2m.secret import Secret

# A token is renewed this part of its lifetime before it expires, but at most MAX_LEAD seconds.
LEAD: Final = 1 / 12
MAX_LEAD: Final = 300.0
# The longest pause before the one retry, in seconds.
MAX_JITTER: Final = 0.1
PASSING_STATUS: Final = frozenset({502, 503, 504})

# RFC 6750 section 2.1: the characters that a bearer token may have.
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Bearer:
    """A token as it is sent. `due_at` (renewal) and `ends_at` (expiry) are monotonic seconds.

    `rejected_by`: the callees that rejected it, while another token is minted for them.
    """

    __slots__ = ("due_at", "ends_at", "header", "rejected_by", "token")

    def __init__(self, token: Secret, minted_at: float, lifetime: float) -> None:
        lead = min(lifetime * LEAD, MAX_LEAD)
        self.token = token
        self.header = Secret(f"Bearer {token.reveal()}")
        self.due_at = minted_at + lifetime - lead
        # The margin covers the time on the network and a difference of the callee's clock.
        self.ends_at = minted_at + lifetime - min(lead / 2, LEEWAY)
        self.rejected_by: frozenset[Origin] = frozenset()

    def betters(self, other: Bearer) -> bool:
        """Return whether this is another token that expires later."""
        return self.header != other.header and self.ends_at > other.ends_at


class TokenMint:
    """Asks Clerk for a token (`createM2MToken`) with the key of `client`."""

    def __init__(
        self,
        client: ClerkClient,
        options: TokenOptions,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        self._reporter = reporter
        self._client = client
        self._options = options
        self._clock = clock

    async def __call__(self, replaced: Bearer | None, *, reuse: bool, repeat: bool) -> Bearer:
        """Return a token to send instead of `replaced`.

        `reuse` allows Clerk to return an existing token. `repeat` allows one retry after an error
        that a retry may cure (`_is_passing`).
        """
        reuse = reuse and self._options.min_remaining_ttl_seconds is not None
        bearer = await self._bearer(reuse=reuse, repeat=repeat)
        if reuse and replaced is not None and not bearer.betters(replaced):
            bearer = await self._bearer(reuse=False, repeat=repeat)
        return bearer

    async def aclose(self) -> None:
        """Close the connections: the next mint is minutes away, too long to keep one open."""
        await self._client.aclose()

    async def _bearer(self, *, reuse: bool, repeat: bool) -> Bearer:
        minted_at, wall = self._clock.monotonic(), self._clock.wall()
        created = await self._create(reuse=reuse, repeat=repeat)
        if not created.live or not _B64TOKEN.fullmatch(created.token.reveal()):
            raise BackendUnavailableError(
                "createM2MToken: Clerk returned a token that cannot be used."
            )
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
            # Clerk may have returned an existing token. Its age is known only by our own clock, so
            # the remaining life that Clerk promised is the lower bound.
            left = created.expires_at.timestamp() - wall
            lifetime = min(lifetime, max(left, self._options.min_remaining_ttl_seconds or 0.0))
        if lifetime <= 0:
            raise BackendUnavailableError(
                "createM2MToken: Clerk returned a token that has already expired."
            )
        return lifetime

    async def _create(self, *, reuse: bool, repeat: bool) -> CreatedM2MToken:
        try:
            return await self._ask(reuse)
        except BackendUnavailableError as exc:
            if not repeat or not _is_passing(exc):
                raise
        # If the first attempt did mint a token, that token costs $0.001 and is never used.
        await asyncio.sleep(MAX_JITTER * random.random())  # noqa: S311  it spreads load
        return await self._ask(reuse)

    async def _ask(self, reuse: bool) -> CreatedM2MToken:
        options = self._options
        return await self._client.m2m_tokens.create(
            token_format=options.token_format,
            seconds_until_expiration=options.seconds_until_expiration,
            claims=options.claims,
            min_remaining_ttl_seconds=options.min_remaining_ttl_seconds if reuse else None,
        )


def _is_passing(exc: BackendUnavailableError) -> bool:
    """Return whether a second attempt may succeed: after 502, 503, 504 or a lost connection.

    False if the answer has a `Retry-After`, and after a refused connection, which `transport` has
    already tried twice.
    """
    if exc.status is not None:
        return exc.status in PASSING_STATUS and exc.retry_after is None
    cause = exc.__cause__
    lost = isinstance(cause, httpx.NetworkError | httpx.RemoteProtocolError)
    return lost and not isinstance(cause, httpx.ConnectError)
