"""One shared look-up per key: concurrent requests for the same key wait for the same task.

Rules of this file:

- A look-up is a separate task. Cancelling a waiter does not cancel the look-up: it finishes, and
  its result is cached. Exception: a look-up that has no waiters left and whose call still waits for
  an HTTP slot is dropped (`Demand.leave`).
- A look-up belongs to one event loop. The number of look-ups in progress is not limited here, but
  where their calls are sent (`transport.admission`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

from clerk_m2m.errors import BackendUnavailableError, VerificationUnavailableError
from clerk_m2m.observe.spans import with_span
from clerk_m2m.tasks import PerLoop, detached
from clerk_m2m.transport.admission import Priority

K = TypeVar("K")
V = TypeVar("V")


class Demand:
    """The demand for one look-up; it is updated while the look-up is in progress.

    `asked_at` is the number of the last invalidation that had been applied when the look-up was
    started. `waiters` is the number of requests that wait for it. A look-up `in_background` was
    started without waiters, and is not dropped when it has none.
    """

    __slots__ = ("_priority", "_withdraw", "asked_at", "in_background", "on_change", "waiters")

    def __init__(
        self,
        withdraw: Callable[[], None],
        *,
        asked_at: int,
        priority: Priority,
        in_background: bool = False,
    ) -> None:
        self._withdraw = withdraw
        self._priority = priority
        self.asked_at = asked_at
        self.in_background = in_background
        self.waiters = 0
        self.on_change: Callable[[], None] | None = None

    @property
    def priority(self) -> Priority:
        """The priority of its key, or `REFRESH` for a background look-up without waiters."""
        return Priority.REFRESH if self.in_background and not self.waiters else self._priority

    @property
    def given_up(self) -> bool:
        """Whether the last waiter has left a look-up that is not in the background."""
        return not self.in_background and not self.waiters

    def join(self) -> None:
        """Count one more waiter."""
        self.waiters += 1
        if self.on_change is not None:
            self.on_change()

    def leave(self) -> None:
        """Count one waiter less; if none is left, a call that still waits for a slot is dropped."""
        self.waiters -= 1
        if self.on_change is not None:
            if self.given_up:
                self._withdraw()  # later requests start a new look-up
            self.on_change()


Load: TypeAlias = Callable[[Demand], Awaitable[V]]


class Flight(Generic[K, V]):
    """One look-up in progress, and the demand for it; `flights` are those of its event loop."""

    __slots__ = ("_flights", "_key", "demand", "task")

    task: asyncio.Task[V]

    def __init__(
        self,
        flights: dict[K, Flight[K, V]],
        key: K,
        *,
        asked_at: int,
        priority: Priority,
        in_background: bool,
    ) -> None:
        self._flights = flights
        self._key = key
        self.demand = Demand(
            self._leave, asked_at=asked_at, priority=priority, in_background=in_background
        )

    async def run(self, load: Load[V]) -> V:
        """Run the look-up; requests may join it until it ends."""
        try:
            return await load(self.demand)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._flights.get(self._key) is self:
            del self._flights[self._key]

    async def wait(self, timeout: float) -> V:
        """Wait for the result, for `timeout` seconds at most.

        Raises what the look-up raised, or `VerificationUnavailableError` after the timeout.
        """
        self.demand.join()
        try:
            # `asyncio.wait` leaves the task alone when the waiter is cancelled or times out.
            await asyncio.wait({self.task}, timeout=timeout)
        finally:
            self.demand.leave()
        if not self.task.done() or self.task.cancelled():
            raise VerificationUnavailableError from BackendUnavailableError(
                f"this request waited for {max(timeout, 0.0):.3g} s and received no answer"
            )
        return self.task.result()


class SingleFlight(Generic[K, V]):
    """The look-ups in progress, by key, in each event loop."""

    def __init__(self) -> None:
        self._loops: PerLoop[dict[K, Flight[K, V]]] = PerLoop(dict)

    def join(
        self, key: K, load: Load[V], *, asked_at: int, priority: Priority, in_background: bool
    ) -> tuple[Flight[K, V], bool]:
        """Return the look-up of `key`, started if there is none, and whether it existed before."""
        flights = self._loops.get()
        flight = flights.get(key)
        if flight is not None:
            return flight, True
        flight = flights[key] = Flight(
            flights, key, asked_at=asked_at, priority=priority, in_background=in_background
        )
        flight.task = detached(with_span(flight.run(load)))
        return flight, False

    async def aclose(self) -> None:
        """Cancel the look-ups in progress in this event loop."""
        tasks = [flight.task for flight in (self._loops.pop() or {}).values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
