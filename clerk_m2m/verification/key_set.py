"""The public keys of the Clerk instance: one fixed key, or a key set that is fetched regularly."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from clerk_m2m.backend_api.calls import Answered
from clerk_m2m.clock import Clock
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    VerificationUnavailableError,
)
from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.verification.signature import Keys, required_kid, usable_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

KEY_SET_LIFETIME: Final = 240.0
FETCH_PAUSE: Final = 25.0
FIRST_FETCH_PAUSE: Final = 1.0


class KeySet:
    """The public keys of the Clerk instance: a fetched key set, or the one `fixed` key.

    A fetched set is fresh for 240 s at most, and is then fetched again; earlier, if a token has an
    unknown `kid`. At least 25 s pass between two attempts (1 s while there are no keys at all,
    because no JWT can be accepted then). If a fetch fails, or returns no usable key, the keys of
    the last set stay in use.
    """

    def __init__(
        self,
        fetch: Callable[..., Awaitable[Answered[Mapping[str, Any]]]],
        *,
        fixed: RSAPublicKey | None = None,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        self._fetch = fetch
        self._fixed = fixed
        self._reporter = reporter
        self._now = clock.monotonic
        self._next_attempt_at = -math.inf
        self._good_at: float | None = None
        self._last_attempt_failed = False
        self._cache: Cache[str, Keys] = Cache(
            ttl=KEY_SET_LIFETIME,
            maxsize=1,
            stale_if_error=math.inf,
            clock=clock,
            invalidations=Invalidations(clock),
            names=lambda _key, _keys: (),
        )

    async def find(self, kid: str | None, *, timeout: float) -> tuple[RSAPublicKey, ...]:
        """Return the keys that may have signed a token with this `kid`; empty if it is unknown.

        Raises `TokenInvalidError` if `kid` is None and is needed to choose a key. Raises
        `BackendAPIError` or `VerificationUnavailableError` if the keys cannot be fetched.
        """
        if self._fixed is not None:
            return (self._fixed,)
        kid = required_kid(kid)
        keys = self._fresh()
        if keys is None or kid not in keys:
            keys = await self._fetched(kid, timeout)
        return keys.get(kid, ())

    def at_hand(self, kid: str | None) -> tuple[RSAPublicKey, ...]:
        """Return the keys with this `kid` that are in memory, however old; fetches nothing."""
        if self._fixed is not None:
            return (self._fixed,)
        keys = self._cache.stale("")
        return () if keys is None or kid is None else keys.get(kid, ())

    def age(self) -> float | None:
        """Return the seconds since the set was last fetched; None if it never was."""
        return None if self._good_at is None else self._now() - self._good_at

    def _fresh(self) -> Keys | None:
        found = self._cache.read("")
        if found is None:
            return None
        keys, due = found
        if due:
            self._cache.refresh("", self._load)
        return keys

    async def _fetched(self, kid: str, timeout: float) -> Keys:
        try:
            fetched, _ = await self._cache.get_or_load("", self._load, timeout=timeout)
            return fetched
        except (BackendAPIError, VerificationUnavailableError) as exc:
            keys = self._cache.stale("")
            too_soon = isinstance(exc, _TooSoonError) and not self._last_attempt_failed
            if keys is not None and (kid in keys or too_soon):
                return keys
            raise

    async def _load(self, demand: Demand) -> Answer[Keys]:
        if self._now() < self._next_attempt_at:
            raise _TooSoonError("The key set was requested too recently to request it again.")
        try:
            keys = usable_keys((await self._fetch(demand=demand)).value)
            if not keys:
                raise BackendUnavailableError("The key set holds no usable key.")
        except BackendAPIError as exc:
            self._reporter.fetch_failed("key set", exc)
            self._attempted(failed=True)
            raise
        self._attempted(failed=False)
        self._reporter.fetched("key set")
        self._good_at = self._now()
        return Answer(value=keys)

    def _attempted(self, *, failed: bool) -> None:
        self._last_attempt_failed = failed
        has_keys = not failed or self._cache.stale("") is not None
        self._next_attempt_at = self._now() + (FETCH_PAUSE if has_keys else FIRST_FETCH_PAUSE)

    async def aclose(self) -> None:
        """Cancel a fetch that is in progress in this event loop."""
        await self._cache.aclose()


class _TooSoonError(BackendUnavailableError):
    """The minimum pause since the last fetch of the key set has not passed."""
