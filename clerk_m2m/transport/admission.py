"""Decides which call is sent now, which waits, and which is refused; without any I/O.

Rules of this file:

- At most `slots` calls are in progress. One slot in twenty is reserved for calls about keys that
  have a cached value.
- Calls wait in queues, one per priority. A higher priority always goes first. Inside a queue it is
  first come, first served.
- The queue limit is a time, not a count: as many calls may wait as are answered within `patience`
  seconds at the measured service time. If more wait, the newest calls of the lowest priority are
  refused. This one rule refuses new calls when the queue is full, shortens the queue when the
  upstream gets slower, and makes room for calls of a higher priority.
- Only answers change the measured service time. If timeouts did, a hanging upstream would shorten
  the queue, and calls about known keys would be refused.
- `unknown_rate` limits the calls about unknown keys. A call is charged when it enters, before it
  waits, and the charge is returned if the call is not sent.

Instants are parameters (monotonic seconds). `gate` applies these rules in an event loop.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from clerk_m2m.tasks import fork_safe_lock

FIRST_SERVICE_TIME: Final = 0.1
# `unknown_rate` if the user has not set it, in calls a second. The maximum is nine tenths of the
# rate limit of a production instance (1,000 requests in 10 s): known callers need the rest.
START_RATE: Final = 50.0
LEAST_RATE: Final = 1.0
MOST_RATE: Final = 90.0
RATE_GROWTH: Final = 1.0
RETURNING_SHARE: Final = 0.25
LEAST_BURST: Final = 1.5  # at least 1, so that calls are sent at a rate below 1/s too


def spread(seconds: float) -> float:
    """Return a `Retry-After` in seconds, with jitter so that clients do not return together."""
    share, more = random.random(), random.random()  # noqa: S311  not secrets: they spread load
    return seconds * (1 + share / 4) + more


class Priority(IntEnum):
    """The priority of a call; the lowest number goes first."""

    KEPT = 0  # the key has a cached value, fresh or stale, and a request waits
    REFRESH = 1  # the key has a cached value, which is refreshed early; no request waits
    RECENT = 2  # the key was valid within the last hour, or the call is not about a credential
    RETURNING = 3  # the key is unknown, but was refused here (too much load) some seconds ago
    STRANGER = 4  # the key is unknown


# Calls that `unknown_rate` limits.
UNKNOWN: Final = frozenset({Priority.RETURNING, Priority.STRANGER})
# Calls with reserved slots and their own breaker: a flood of unknown tokens cannot make them fail.
KNOWN: Final = frozenset({Priority.KEPT, Priority.REFRESH})


class State(Enum):
    """The state of a ticket."""

    WAITING = "waiting"
    OUT = "out"
    REFUSED = "refused"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Ticket:
    """One call that asks for a slot."""

    priority: Priority
    state: State = State.WAITING
    charged: bool = False
    refused_by_rate: bool = False


class UnknownRate:
    """Limits the rate of calls about unknown keys, for all event loops together (a token bucket).

    `fixed` is in calls a second. None adapts: each 429 halves the rate, and it grows by 1/s in each
    second without one. The bucket holds the calls of one second. A quarter of it is reserved for
    keys that return after a refusal.
    """

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._rate = START_RATE if fixed is None else fixed
        self._left = max(LEAST_BURST, self._rate)
        self._counted_at: float | None = None
        self._lock = fork_safe_lock()

    def rate(self, now: float) -> float:
        """Return the calls that are allowed in a second; changes nothing, thread-safe."""
        counted_at = self._counted_at
        return self._rate if counted_at is None else self._grown(now - counted_at)

    def take(self, now: float, *, returning: bool = False) -> bool:
        """Charge one call; return False if the rate is used up."""
        with self._lock:
            self._count(now)
            if self._left < 1.0 + (0.0 if returning else self._rate * RETURNING_SHARE):
                return False
            self._left -= 1.0
            return True

    def give_back(self) -> None:
        """Return the charge of a call that was not sent."""
        with self._lock:
            self._left += 1.0

    def slow_down(self, now: float) -> None:
        """Halve the rate, if it adapts, because Clerk answered 429."""
        with self._lock:
            self._count(now)
            if self._fixed is None:
                self._rate = max(LEAST_RATE, self._rate / 2)
                self._left = min(self._left, max(LEAST_BURST, self._rate))

    def _count(self, now: float) -> None:
        passed = 0.0 if self._counted_at is None else max(0.0, now - self._counted_at)
        self._counted_at = now
        self._rate = self._grown(passed)
        self._left = min(max(LEAST_BURST, self._rate), self._left + self._rate * passed)

    def _grown(self, passed: float) -> float:
        if self._fixed is not None:
            return self._fixed
        return min(MOST_RATE, self._rate + RATE_GROWTH * max(0.0, passed))


class Admission:
    """The calls of one event loop: those in progress and those that wait.

    Without an `unknown_rate` no slot is reserved. `enter` sets the state of its ticket. `enter`,
    `change` and `done` return the waiting tickets whose state has changed. `refused` counts
    refusals by reason: `rate` (above `unknown_rate`) or `room` (too many calls wait).
    """

    def __init__(
        self,
        *,
        slots: int,
        patience: float,
        unknown_rate: UnknownRate | None = None,
        refused: Counter[str] | None = None,
    ) -> None:
        self._slots = slots
        self._reserved = max(1, slots // 20) if unknown_rate is not None else 0
        self._patience = patience
        self._unknown_rate = unknown_rate
        self._refused: Counter[str] = Counter() if refused is None else refused
        # Dictionaries as queues: removing a ticket from the middle takes constant time.
        self._queues: tuple[dict[Ticket, None], ...] = tuple({} for _ in Priority)
        self.service_time = FIRST_SERVICE_TIME
        self.out = 0
        self.waiting = 0

    def enter(self, ticket: Ticket, now: float) -> Iterable[Ticket]:
        """Send a new call, queue it, or refuse it: set the state of its ticket."""
        if ticket.priority in UNKNOWN and self._unknown_rate is not None:
            returning = ticket.priority is Priority.RETURNING
            if not self._unknown_rate.take(now, returning=returning):
                ticket.refused_by_rate = True
                ticket.state = State.REFUSED
                self._refused["rate"] += 1
                return ()
            ticket.charged = True
        if self.waiting == 0 and self.out < self._slots_for(ticket.priority):
            ticket.state = State.OUT
            self.out += 1
            return ()
        self._queues[ticket.priority][ticket] = None
        self.waiting += 1
        return self._settle()

    def change(self, ticket: Ticket, priority: Priority) -> Iterable[Ticket]:
        """Move a waiting call to the end of the queue of another priority."""
        del self._queues[ticket.priority][ticket]
        ticket.priority = priority
        self._queues[priority][ticket] = None
        return self._settle()

    def leave(self, ticket: Ticket) -> None:
        """Remove a waiting call that has no waiters left."""
        del self._queues[ticket.priority][ticket]
        self._end_unsent(ticket, State.LEFT)

    def done(self, ticket: Ticket, *, service_time: float | None) -> Iterable[Ticket]:
        """Free the slot of a call that has ended; `service_time` is None if no answer came."""
        ticket.state = State.LEFT
        self.out -= 1
        if service_time is not None:
            self.service_time += (service_time - self.service_time) / self._slots
        return self._settle() if self.waiting else ()

    def queued(self) -> Mapping[str, int]:
        """Return the number of waiting calls by priority."""
        return {each.name.lower(): len(self._queues[each]) for each in Priority}

    def _settle(self) -> Iterable[Ticket]:
        """Send the calls that have a slot, then refuse the newest of the lowest priorities."""
        changed = []
        for priority, queue in zip(Priority, self._queues, strict=True):
            while queue and self.out < self._slots_for(priority):
                ticket = next(iter(queue))
                del queue[ticket]
                ticket.state = State.OUT
                self.out += 1
                self.waiting -= 1
                changed.append(ticket)
        # The number of calls that are answered within `patience`.
        room = self._patience * self._slots / max(self.service_time, 1e-6)
        for queue in reversed(self._queues):
            while queue and self.waiting > room:
                ticket, _ = queue.popitem()
                self._end_unsent(ticket, State.REFUSED)
                self._refused["room"] += 1
                changed.append(ticket)
        return changed

    def _slots_for(self, priority: Priority) -> int:
        return self._slots if priority in KNOWN else self._slots - self._reserved

    def _end_unsent(self, ticket: Ticket, state: State) -> None:
        ticket.state = state
        self.waiting -= 1
        if ticket.charged and self._unknown_rate is not None:
            self._unknown_rate.give_back()
