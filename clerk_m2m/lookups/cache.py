"""A cache of look-up results, in which each value has its own lifetime.

Rules of this file:

- A value's lifetime is fixed when the value is put in, on the monotonic clock.
- Negative verdicts are kept in a separate store, so that a flood of invalid tokens never evicts a
  positive value.
- The failure of a look-up is not cached.
- A value whose look-up started before an invalidation of its names is never returned after it.
- Event loops and threads share the stores. A look-up in progress belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

from clerk_m2m.clock import Clock
from clerk_m2m.errors import OverloadedError
from clerk_m2m.lookups.invalidations import Invalidations, Name
from clerk_m2m.lookups.recent_keys import RecentKeys
from clerk_m2m.lookups.single_flight import Demand, Flight, SingleFlight
from clerk_m2m.lookups.store import Entry, Store
from clerk_m2m.lookups.verdict import Answer
from clerk_m2m.tasks import fork_safe_lock
from clerk_m2m.transport.admission import Priority

K = TypeVar("K")
V = TypeVar("V")

JITTER: Final = 0.1  # the part of `ttl` by which lifetimes vary, so that they do not end together
REFRESH_FROM: Final = 0.75  # the part of its `ttl` after which a value is due for a refresh
REFRESH_PAUSE: Final = 1.0  # seconds between two attempts to refresh a value
# For at least so many seconds, remember a key with a positive answer, and one whose look-up was
# refused because too many calls were waiting.
RECENT: Final = 3600.0
REFUSED: Final = 15.0


class Cache(Generic[K, V]):
    """A bounded cache of answers by key, with one shared look-up for each key.

    `ttl`, `negative_ttl` and `stale_if_error` are seconds; `maxsize` is the number of entries of
    each of the two stores. `names(key, value)` returns the names by which `invalidations` may void
    a value. Set `has_strangers` if callers choose the keys freely: the look-up of a key that had no
    positive answer within the last hour then has a low priority.
    """

    def __init__(
        self,
        *,
        ttl: float,
        maxsize: int,
        negative_ttl: float = 0.0,
        stale_if_error: float = 0.0,
        clock: Clock,
        invalidations: Invalidations,
        names: Callable[[K, V], Iterable[Name]],
        has_strangers: bool = False,
    ) -> None:
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._stale_if_error = stale_if_error
        self._now = clock.monotonic
        self._invalidations = invalidations
        self._names = names
        self._lock = fork_safe_lock()
        self._positive: Store[K, V] = Store(maxsize, self._now)
        self._negative: Store[K, V] = Store(maxsize, self._now)
        self._flights: SingleFlight[K, Answer[V]] = SingleFlight()
        self._recent = RecentKeys[K](RECENT, maxsize, self._now) if has_strangers else None
        self._refused = RecentKeys[K](REFUSED, maxsize, self._now)

    # Reading

    def settled(self, key: K) -> V | None:
        """Return the positive value of `key` if it needs no further check, else None.

        The value is not due for a refresh, and nothing was invalidated since it was last checked.
        If this returns None, call `read`: there may still be a value.
        """
        entry = self._positive.get(key)
        if entry is None or self._now() >= entry.due_at:
            return None
        entry.used = True
        return entry.value if entry.checked == self._invalidations.number else None

    def read(self, key: K) -> tuple[V, bool] | None:
        """Return the value of `key` if it is fresh, and whether it is due for a refresh, else None.

        After a call that reports a value as due, at least 1 s passes until another call does.
        """
        entry = self._positive.get(key) or self._negative.get(key)
        if entry is None:
            return None
        entry.used = True
        now = self._now()
        if now < entry.due_at and entry.checked == self._invalidations.number:
            return entry.value, False
        return self._read_closely(key, entry, now)

    def stale(self, key: K) -> V | None:
        """Return the value of `key`, also past its lifetime but within `stale_if_error`."""
        entry = self._positive.get(key) or self._negative.get(key)
        if entry is None or self._now() >= entry.ends_at or self._is_void(key, entry):
            return None
        return entry.value

    def _read_closely(self, key: K, entry: Entry[V], now: float) -> tuple[V, bool] | None:
        if now >= entry.fresh_until or self._is_void(key, entry):
            return None
        due = now >= entry.due_at
        if due:
            # The next refresh of this entry starts later, also if this one fails.
            entry.due_at = min(now + REFRESH_PAUSE, entry.fresh_until)
        return entry.value, due

    def _is_void(self, key: K, entry: Entry[V]) -> bool:
        number = self._invalidations.number
        if not self._is_outdated(key, entry.value, entry.checked):
            entry.checked = number
            return False
        with self._lock:
            self._positive.discard(key, entry)
            self._negative.discard(key, entry)
        return True

    def _is_outdated(self, key: K, value: V, asked_at: int) -> bool:
        """Return whether an invalidation with a number above `asked_at` voids the value."""
        if asked_at == self._invalidations.number:
            return False  # nothing was invalidated since
        return self._invalidations.void(self._names(key, value), asked_at)

    # Asking

    async def get_or_load(
        self, key: K, load: Callable[[Demand], Awaitable[Answer[V]]], *, timeout: float
    ) -> tuple[V, bool]:
        """Return the answer of the shared look-up of `key`, and whether that was in progress.

        Waits for `timeout` seconds at most. Raises what `load` raises, or
        `VerificationUnavailableError` after the timeout.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            flight, shared = self._join(key, load, refresh=False)
            answer = await flight.wait(deadline - loop.time())
            if not self._is_outdated(key, answer.value, flight.demand.asked_at):
                return answer.value, shared
            # The answer was invalidated during the look-up: use only a look-up started since.
            found = self.read(key)
            if found is not None:
                return found[0], shared

    def refresh(self, key: K, load: Callable[[Demand], Awaitable[Answer[V]]]) -> None:
        """Start a background look-up of `key`, unless a look-up of it is in progress."""
        self._join(key, load, refresh=True)

    async def aclose(self) -> None:
        """Cancel the look-ups in progress in this event loop."""
        await self._flights.aclose()

    def _join(
        self, key: K, load: Callable[[Demand], Awaitable[Answer[V]]], *, refresh: bool
    ) -> tuple[Flight[K, Answer[V]], bool]:
        async def load_and_keep(demand: Demand) -> Answer[V]:
            try:
                answer = await load(demand)
            except OverloadedError:
                if demand.waiters and self._recent is not None:
                    self._refused.add(key)
                raise
            self.put(key, answer, asked_at=demand.asked_at)
            return answer

        return self._flights.join(
            key,
            load_and_keep,
            asked_at=self._invalidations.number,
            priority=self._priority(key),
            in_background=refresh,
        )

    def _priority(self, key: K) -> Priority:
        if self._positive.has(key):
            return Priority.KEPT
        if self._recent is None or key in self._recent:
            return Priority.RECENT
        return Priority.RETURNING if key in self._refused else Priority.STRANGER

    # Keeping

    def put(self, key: K, answer: Answer[V], *, asked_at: int) -> None:
        """Store an answer; `asked_at` is the number of the last invalidation when it was asked for.

        An answer that was invalidated since then is not stored, and replaces nothing.
        """
        if self._is_outdated(key, answer.value, asked_at):
            return
        now = self._now()
        if self._recent is not None:
            (self._recent.discard if answer.negative else self._recent.add)(key)
        with self._lock:
            if answer.negative:
                self._positive.discard(key)
                end = now + min(self._negative_ttl, answer.lifetime)
                self._negative.put(key, Entry(answer.value, end, end, end, asked_at))
            else:
                self._negative.discard(key)
                self._positive.put(key, self._positive_entry(answer, now, asked_at))

    def _positive_entry(self, answer: Answer[V], now: float, asked_at: int) -> Entry[V]:
        ttl = self._ttl * (1 - JITTER * random.random())  # noqa: S311  not a secret: spreads load
        asked, last = now - answer.age, now + answer.lifetime
        end = min(asked + ttl, last)
        due = asked + ttl * REFRESH_FROM if answer.refresh and asked + ttl < last else end
        ends_at = max(end, min(asked + self._stale_if_error, last))
        return Entry(answer.value, due, end, ends_at, asked_at)

    def sizes(self) -> dict[str, int]:
        """Return the number of positive and of negative values in the cache."""
        with self._lock:
            return {"positive": self._positive.size(), "negative": self._negative.size()}

    def __len__(self) -> int:
        return sum(self.sizes().values())
