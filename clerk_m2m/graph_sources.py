"""Where the edges of the scope graph come from: a value, a TOML file, or the Backend API."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from clerk_m2m._cache import Answer, VerdictCache
from clerk_m2m._clock import Clock
from clerk_m2m.client import ClerkClient
from clerk_m2m.decisions import Stats
from clerk_m2m.errors import (
    ConfigurationError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    VerificationUnavailableError,
)
from clerk_m2m.scopes import ScopeGraph

logger = logging.getLogger("clerk_m2m")


class GraphSource(Protocol):
    """Who may be called by a machine, as far as is known now."""

    def callees(self, caller: str) -> frozenset[str] | None:
        """Give the machines that `caller` may call, or None where that must be `learn`ed first."""

    async def learn(self, caller: str, *, within: float) -> frozenset[str]:
        """Find out whom `caller` may call, within so many seconds.

        Raises `BackendAPIError` or `VerificationUnavailableError` where that cannot be found out.
        """

    def forget(self, machine_id: str) -> None:
        """Forget what is known of the edges that start at `machine_id`."""

    async def aclose(self) -> None:
        """End what is under way in this event loop."""


class StaticSource:
    """A graph that never changes."""

    def __init__(self, graph: ScopeGraph) -> None:
        self._graph = graph

    def callees(self, caller: str) -> frozenset[str] | None:
        """Give the machines that `caller` may call."""
        return self._graph.callees(caller)

    async def learn(self, caller: str, *, within: float) -> frozenset[str]:
        """Give the machines that `caller` may call."""
        return self._graph.callees(caller)

    def forget(self, machine_id: str) -> None:
        """Do nothing: the graph is not learned."""

    async def aclose(self) -> None:
        """Do nothing."""


class FileSource:
    """A graph in a TOML file, read at construction and again when the file changes.

    The file is looked at once per `ttl` seconds at most. A change that cannot be read is logged as
    an error and the last good graph is used, for `max_stale` seconds.
    """

    def __init__(self, path: Path, *, ttl: float, max_stale: float, clock: Clock) -> None:
        self._path = path
        self._ttl = ttl
        self._max_stale = max_stale
        self._now = clock.monotonic
        self._graph, self._stamp = self._read()
        self._good_at = self._looked_at = self._now()

    def callees(self, caller: str) -> frozenset[str] | None:
        """Give the machines that `caller` may call, or None while the file is unreadable."""
        now = self._now()
        if now - self._looked_at >= self._ttl:
            self._looked_at = now
            self._look(now)
        if now - self._good_at > self._ttl + self._max_stale:
            return None
        return self._graph.callees(caller)

    async def learn(self, caller: str, *, within: float) -> frozenset[str]:
        """Raise: only a readable file can tell."""
        raise UnavailableError(
            f"The scope graph {self._path.name} has been unreadable for too long."
        )

    def forget(self, machine_id: str) -> None:
        """Look at the file again before the next decision."""
        self._looked_at = self._now() - self._ttl

    async def aclose(self) -> None:
        """Do nothing."""

    def _look(self, now: float) -> None:
        try:
            if self._stamp_now() != self._stamp:
                self._graph, self._stamp = self._read()
            self._good_at = now
        except (OSError, ConfigurationError) as exc:
            logger.error("The scope graph cannot be read, so the last one is used: %s", exc)

    def _read(self) -> tuple[ScopeGraph, tuple[int, int, int, int]]:
        try:
            stamp = self._stamp_now()
            return ScopeGraph.from_toml(self._path.read_text("utf-8")), stamp
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"The scope graph {self._path} cannot be read: {exc}") from exc
        except ConfigurationError as exc:
            raise ConfigurationError(f"{self._path}: {exc}") from exc

    def _stamp_now(self) -> tuple[int, int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


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
