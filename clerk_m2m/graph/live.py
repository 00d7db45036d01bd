"""The scope graph from Clerk's Backend API, read for one caller at a time."""

from __future__ import annotations

from typing import Final

from clerk_m2m.backend_api.calls import BackendAPI
from clerk_m2m.backend_api.machines import get_machine
from clerk_m2m.clock import Clock
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    VerificationUnavailableError,
)
from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.single_flight import Demand, Load
from clerk_m2m.lookups.verdict import Answer
from clerk_m2m.observe.reporter import Reporter

# The longest `Settings.timeout`, in seconds: the longest time that a read may take.
MAX_TIMEOUT: Final = 60.0


class LiveSource:
    """The graph at Clerk: reads `GetMachine` of each caller, at most once per `ttl` seconds.

    In an outage the last good answer about a caller is used for at most `max_stale` seconds after
    it was requested.
    """

    def __init__(
        self,
        api: BackendAPI,
        *,
        ttl: float,
        max_stale: float,
        maxsize: int,
        clock: Clock,
        reporter: Reporter | None = None,
    ) -> None:
        self._api = api
        self._reporter = reporter or Reporter(clock)
        self._now = clock.monotonic
        self._good_at: float | None = None
        self._invalidations = Invalidations(clock)
        # No value that was read before an invalidation is used for longer than this.
        self._lifetime = ttl + max_stale + MAX_TIMEOUT
        self._cache: Cache[tuple[str, str], bool] = Cache(
            ttl=ttl,
            stale_if_error=max_stale,
            maxsize=maxsize,
            clock=clock,
            invalidations=self._invalidations,
            names=lambda edge, _allowed: edge[:1],
        )

    def allows(self, caller: str, callee: str) -> bool | None:
        """Return whether the edge existed when it was read, within the last `ttl` seconds."""
        found = self._cache.read((caller, callee))
        if found is None:
            return None
        allowed, due = found
        if due:
            self._cache.refresh((caller, callee), self._load(caller, callee))
        return allowed

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Read whether `caller` may call `callee`; concurrent requests share one call."""
        edge = caller, callee
        try:
            allowed, _ = await self._cache.get_or_load(
                edge, self._load(caller, callee), timeout=timeout
            )
        except (
            RateLimitedError,
            BackendUnavailableError,
            OverloadedError,
            VerificationUnavailableError,
        ) as exc:
            known = self._cache.stale(edge)
            if known is None or not self._api.is_outage(exc):
                raise
            return known
        return allowed

    def forget(self, caller: str) -> None:
        """Read the edges of `caller` again before the next decision."""
        self._invalidations.add(caller, lifetime=self._lifetime)

    def forget_everything(self) -> None:
        """Read the edges of every caller again before the next decision."""
        self._invalidations.void_everything()

    def age(self) -> float | None:
        """Return the seconds since Clerk's last good answer; None if there was none yet."""
        return None if self._good_at is None else self._now() - self._good_at

    async def aclose(self) -> None:
        """Cancel the reads in progress in this event loop."""
        await self._cache.aclose()

    def _load(self, caller: str, callee: str) -> Load[Answer[bool]]:
        async def load(demand: Demand) -> Answer[bool]:
            try:
                answered = await get_machine(self._api, caller, demand=demand)
            except NotFoundError:
                self._good_at = self._now()
                return Answer(value=False)  # a deleted machine may call nobody
            except OverloadedError:
                raise  # our own congestion is no failure of the graph
            except BackendAPIError as exc:
                self._reporter.fetch_failed("scope graph", exc)
                raise
            self._reporter.fetched("scope graph")
            self._good_at = self._now()
            callees = answered.value.scoped_machines
            return Answer(value=any(each.id == callee for each in callees))

        return load
