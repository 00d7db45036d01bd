"""One shared look-up per key: concurrent requests for the same key wait for the same task.

Rules of this file:

- A look-up is a task of its own. Cancelling a waiter does not cancel it: it finishes, and its
  result is kept for the next request. Exception: a look-up that is still queued for an HTTP slot
  and has no waiters left is dropped (`Demand.give_up`).
- Look-ups belong to one event loop. At most 1,000 are under way in each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeAlias, TypeVar

from clerk_m2m.errors import VerificationUnavailableError
from clerk_m2m.tasks import PerLoop, detached

K = TypeVar("K")
V = TypeVar("V")

MAX_FLIGHTS: Final = 1000


class Demand:
    """Who wants a look-up. It stays up to date while the look-up is under way.

    `refresh` is True when a value of the key is kept still: such calls use the HTTP slots that are
    reserved for them, so that a flood of unknown tokens cannot delay them. `asked_at` is the number
    of the last invalidation that had been applied when the look-up was asked for. `waiters` counts
    the requests that wait for it.
    """

    __slots__ = ("_withdraw", "asked_at", "refresh", "waiters")

    def __init__(self, withdraw: Callable[[], None], *, asked_at: int, refresh: bool) -> None:
        self._withdraw = withdraw
        self.asked_at = asked_at
        self.refresh = refresh
        self.waiters = 0

    def give_up(self) -> bool:
        """If nobody waits for the look-up, stop new requests from joining it and return True."""
        if self.refresh or self.waiters:
            return False
        self._withdraw()
        return True


Load: TypeAlias = Callable[[Demand], Awaitable[V]]


class Flight(Generic[K, V]):
    """One look-up under way among the `flights` of its event loop, and the demand for it."""

    __slots__ = ("_flights", "_key", "demand", "task")

    task: asyncio.Task[V]

    def __init__(
        self, flights: dict[K, Flight[K, V]], key: K, *, asked_at: int, refresh: bool
    ) -> None:
        self._flights = flights
        self._key = key
        self.demand = Demand(self._leave, asked_at=asked_at, refresh=refresh)

    async def run(self, load: Load[V]) -> V:
        """Do the look-up; requests may join it until it ends."""
        try:
            return await load(self.demand)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._flights.get(self._key) is self:
            del self._flights[self._key]

    async def wait(self, timeout: float) -> V:
        """Wait for the result, for `timeout` seconds at most.

        Raises what the look-up raised, or `VerificationUnavailableError` when time runs out.
        """
        self.demand.waiters += 1
        try:
            # `asyncio.wait` leaves the task alone when the waiter is cancelled or times out.
            await asyncio.wait({self.task}, timeout=timeout)
        finally:
            self.demand.waiters -= 1
        if not self.task.done() or self.task.cancelled():
            raise VerificationUnavailableError
        return self.task.result()


class SingleFlight(Generic[K, V]):
    """The look-ups under way, by key, in each event loop."""

    def __init__(self) -> None:
        self._loops: PerLoop[dict[K, Flight[K, V]]] = PerLoop(dict)

    def join(
        self, key: K, load: Load[V], *, asked_at: int, refresh: bool
    ) -> tuple[Flight[K, V], bool]:
        """Give the look-up of `key`, and whether it was under way already.

        Raises `VerificationUnavailableError` where too many are.
        """
        flights = self._loops.get()
        flight = flights.get(key)
        if flight is not None:
            return flight, True
        if len(flights) >= MAX_FLIGHTS and not refresh:
            raise VerificationUnavailableError("Too many verifications are under way.")
        flight = flights[key] = Flight(flights, key, asked_at=asked_at, refresh=refresh)
        flight.task = detached(flight.run(load))
        return flight, False

    async def aclose(self) -> None:
        """Cancel the look-ups under way in this event loop."""
        tasks = [flight.task for flight in (self._loops.pop() or {}).values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
