"""The scope graph as Clerk's Backend API gives it, one caller at a time."""

from __future__ import annotations

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.clock import Clock
from clerk_m2m.errors import (
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    VerificationUnavailableError,
)
from clerk_m2m.lookups.cache import VerdictCache
from clerk_m2m.lookups.verdict import Answer
from clerk_m2m.observe.counters import Stats


class LiveSource:
    """The graph as the Backend API knows it: `GetMachine` of each caller, once per `ttl` seconds.

    In an outage the last good answer of a caller is kept for at most `max_stale` seconds after it
    was given.
    """

    def __init__(
        self, client: ClerkClient, *, ttl: float, max_stale: float, maxsize: int, clock: Clock
    ) -> None:
        self._client = client
        self._cache: VerdictCache[str, str, frozenset[str]] = VerdictCache(
            self._load,
            ttl=ttl,
            stale_if_error=max_stale,
            maxsize=maxsize,
            clock=clock,
            stats=Stats(),
        )

    def callees(self, caller: str) -> frozenset[str] | None:
        """Give the machines that `caller` may call, if they were read within the last `ttl` s."""
        return self._cache.lookup(caller, caller)

    async def learn(self, caller: str, *, within: float) -> frozenset[str]:
        """Read the machines that `caller` may call; concurrent readers share one call."""
        try:
            return await self._cache.obtain(caller, caller, within=within)
        except (RateLimitedError, UnavailableError, VerificationUnavailableError):
            known = self._cache.stale(caller)
            if known is None:
                raise
            return known

    def forget(self, machine_id: str) -> None:
        """Read the edges of `machine_id` again before the next decision."""
        self._cache.invalidate(lambda caller, _callees: caller == machine_id)

    async def aclose(self) -> None:
        """End the reads under way in this event loop."""
        await self._cache.aclose()

    async def _load(self, caller: str, refresh: bool) -> Answer[frozenset[str]]:
        try:
            machine = await self._client.machines.get(caller, background=refresh)
        except NotFoundError:
            return Answer(value=frozenset())  # a machine that is gone may call nobody
        return Answer(value=frozenset(callee.id for callee in machine.scoped_machines))
