"""Verdicts by digest, each with its own life, and one shared look-up per key.

Rules of this file:

- A verdict's life is fixed once, at insertion, on the monotonic clock.
- Verdicts that say no live in a store of their own, so that garbage never evicts a good one.
- What could not be found out is never kept.
- A look-up is a task of its own (a flight). Whoever waits for it may leave; it goes on, ends by
  itself, and its result is kept for the next one. Only one that has to queue before it is sent, and
  that nobody waits for any more, gives up its place (`abandoned`).
- An invalidation beats a flight: nothing asked before it is used after it.
- The stores are shared by all event loops and threads of the process; flights belong to a loop.

Sole owner of `cachetools`.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from cachetools import TLRUCache

from clerk_m2m.clock import Clock
from clerk_m2m.errors import VerificationUnavailableError
from clerk_m2m.lookups.verdict import Answer
from clerk_m2m.observe.counters import Stats
from clerk_m2m.tasks import abandoned, detached

K = TypeVar("K")
S = TypeVar("S")
V = TypeVar("V")

JITTER: Final = 0.1  # the part of `ttl` by which lives differ, so that they do not end together
REFRESH_FROM: Final = 0.75  # the part of its life after which a value in use is asked for again
REFRESH_PAUSE: Final = 1.0  # seconds between two such attempts
MAX_FLIGHTS: Final = 1000  # of one event loop
MAX_IN_USE: Final = 4096


class _Entry(Generic[V]):
    """A kept value: fresh until one instant, to be asked for again from another (monotonic s)."""

    __slots__ = ("due_at", "ends_at", "fresh_until", "value")

    def __init__(self, value: V, due_at: float, fresh_until: float, ends_at: float) -> None:
        self.value = value
        self.due_at = due_at
        self.fresh_until = fresh_until
        self.ends_at = ends_at


@dataclass(slots=True, eq=False)
class _Flight(Generic[K, S, V]):
    """One look-up under way.

    `generation` is the cache's when the answer was kept, -1 until then. `voided_by` are the
    invalidations that came meanwhile: an answer that one of them picks is not kept.
    """

    subject: S = field(repr=False)
    refresh: bool
    waiters: int = 0
    task: asyncio.Task[Answer[V]] = field(init=False)
    voided_by: list[Callable[[K, V], bool]] = field(default_factory=list)
    generation: int = -1


class VerdictCache(Generic[K, S, V]):
    """A bounded cache of what `load(subject)` answered, by key.

    `ttl`, `negative_ttl` and `stale_if_error` are seconds, `maxsize` counts entries of each of the
    two stores. `load` receives the subject and whether a value of the key is kept still,
    so that it goes apart from what strangers bring.
    """

    def __init__(
        self,
        load: Callable[[S, bool], Awaitable[Answer[V]]],
        *,
        ttl: float,
        maxsize: int,
        negative_ttl: float = 0.0,
        stale_if_error: float = 0.0,
        clock: Clock,
        stats: Stats,
    ) -> None:
        self._load = load
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._stale_if_error = stale_if_error
        self._now = clock.monotonic
        self._stats = stats
        self._lock = threading.Lock()
        self._positive = self._store(maxsize)
        self._negative = self._store(maxsize)
        # Positive entries in use, in front of the store: no lock, and a fifth of the time.
        self._in_use: dict[K, _Entry[V]] = {}
        self._max_in_use = min(MAX_IN_USE, maxsize)
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[K, _Flight[K, S, V]]] = (
            WeakKeyDictionary()
        )
        self.generation = 0

    def _store(self, maxsize: int) -> TLRUCache[K, _Entry[V]]:
        return TLRUCache(maxsize, ttu=lambda _key, entry, _now: entry.ends_at, timer=self._now)

    # Reading

    def lookup(self, key: K, subject: S) -> V | None:
        """Give the value kept for `key`, if it is fresh; one in use is refreshed in time."""
        entry = self._in_use.get(key)
        if entry is None:
            with self._lock:
                entry = self._find(key)
        if entry is None:
            return None
        if self._now() < entry.due_at:
            return entry.value
        return self._due(key, subject, entry)

    def stale(self, key: K) -> V | None:
        """Give the value kept for `key` even past its life, within `stale_if_error`."""
        with self._lock:
            entry = self._find(key)
        return None if entry is None else entry.value

    async def obtain(self, key: K, subject: S, *, within: float) -> V:
        """Wait for the shared look-up of `key`, for `within` seconds at most.

        Raises what the look-up raised, or `VerificationUnavailableError` when time runs out.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            flight = self._join(loop, key, subject)
            flight.waiters += 1
            try:
                # `wait` leaves the task alone when the waiter is cancelled or runs out of time.
                await asyncio.wait({flight.task}, timeout=deadline - loop.time())
            finally:
                flight.waiters -= 1
            if not flight.task.done() or flight.task.cancelled():
                raise VerificationUnavailableError
            answer = flight.task.result()
            if flight.generation == self.generation:
                return answer.value
            # An invalidation came in between: only what has survived it, or is asked anew, counts.
            value = self.lookup(key, subject)
            if value is not None:
                return value

    def _find(self, key: K) -> _Entry[V] | None:
        try:
            entry = self._positive[key]
        except KeyError:
            pass
        else:
            if len(self._in_use) >= self._max_in_use:
                self._in_use.clear()
            self._in_use[key] = entry
            return entry
        try:
            return self._negative[key]
        except KeyError:
            return None

    def _due(self, key: K, subject: S, entry: _Entry[V]) -> V | None:
        now = self._now()
        if now >= entry.fresh_until:
            return None
        # Whether it succeeds or not, the next attempt for this entry comes a little later.
        entry.due_at = min(now + REFRESH_PAUSE, entry.fresh_until)
        self._stats.refreshes += 1
        self._join(asyncio.get_running_loop(), key, subject, refresh=True)
        return entry.value

    # Asking

    def _join(
        self, loop: asyncio.AbstractEventLoop, key: K, subject: S, *, refresh: bool = False
    ) -> _Flight[K, S, V]:
        with self._lock:
            flights = self._flights.setdefault(loop, {})
            flight = flights.get(key)
            if flight is not None:
                self._stats.shared += not refresh
                return flight
            # What is kept, even past its life, is asked for apart from what strangers bring: their
            # crowd must not pass for an outage, in which a stale answer would count. There are
            # never more of these than entries.
            refresh = refresh or key in self._positive
            if len(flights) >= MAX_FLIGHTS and not refresh:
                raise VerificationUnavailableError("Too many verifications are under way.")
            flight = flights[key] = _Flight(subject, refresh)
        flight.task = detached(self._fly(flights, flight, key))
        return flight

    async def _fly(
        self, flights: dict[K, _Flight[K, S, V]], flight: _Flight[K, S, V], key: K
    ) -> Answer[V]:
        abandoned.set(lambda: self._gives_up(flights, flight, key))
        try:
            answer = await self._load(flight.subject, flight.refresh)
            with self._lock:
                if not any(match(key, answer.value) for match in flight.voided_by):
                    self._keep(key, answer)
                    flight.generation = self.generation
            return answer
        finally:
            with self._lock:
                if flights.get(key) is flight:
                    del flights[key]

    def _gives_up(
        self, flights: dict[K, _Flight[K, S, V]], flight: _Flight[K, S, V], key: K
    ) -> bool:
        """End the joining of a flight that nobody waits for; tell whether it is one."""
        if flight.refresh or flight.waiters:
            return False
        with self._lock:
            flights.pop(key, None)
        return True

    # Keeping

    def put(self, key: K, answer: Answer[V], *, generation: int) -> None:
        """Keep an answer that was found without a look-up, begun at that `generation`.

        Another thread may have invalidated it since: then it is not kept.
        """
        with self._lock:
            if generation == self.generation:
                self._keep(key, answer)

    def _keep(self, key: K, answer: Answer[V]) -> None:
        now = self._now()
        self._in_use.pop(key, None)
        if answer.negative:
            self._positive.pop(key, None)
            end = now + min(self._negative_ttl, answer.life)
            self._negative[key] = _Entry(answer.value, end, end, end)
            return
        ttl = self._ttl * (1 - JITTER * random.random())  # noqa: S311  not a secret: it spreads load
        end = now + min(ttl, answer.life)
        due = now + ttl * REFRESH_FROM if answer.refresh and ttl < answer.life else end
        ends_at = max(end, now + min(self._stale_if_error, answer.life))
        if key in self._negative:  # cachetools raises inside `pop` of what is not there
            self._negative.pop(key, None)
        self._positive[key] = _Entry(answer.value, due, end, ends_at)

    def invalidate(self, match: Callable[[K, V], bool]) -> None:
        """Forget every value that `match(key, value)` picks, those being asked for included.

        Reads every entry: an act of the operator's, not of a request's.
        """
        with self._lock:
            self.generation += 1
            self._in_use.clear()
            for store in (self._positive, self._negative):
                for key in list(_matching(store, match)):
                    store.pop(key, None)
            for flights in self._flights.values():
                for flight in flights.values():
                    flight.voided_by.append(match)

    def __len__(self) -> int:
        with self._lock:
            return len(self._positive) + len(self._negative)

    # Ending

    async def aclose(self) -> None:
        """End the look-ups under way in this event loop."""
        with self._lock:
            flights = self._flights.pop(asyncio.get_running_loop(), {})
            tasks = [flight.task for flight in flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _matching(store: TLRUCache[K, _Entry[V]], match: Callable[[K, V], bool]) -> Iterator[K]:
    for key in list(store):
        entry = store.get(key)
        if entry is not None and match(key, entry.value):
            yield key
