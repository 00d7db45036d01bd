"""Which call goes out now, which waits, and which is refused: the rules, without any I/O.

Rules of this file:

- At most `slots` calls are out at once. One slot in twenty is for calls about what is known.
- Calls wait in queues, by priority. Between the queues the order is strict, inside each it is
  first come, first served.
- How many may wait is a time, not a count: as many as are answered within `patience` seconds, by
  the service time that was measured last. Where more wait, the newest of the lowest priority are
  refused. This one rule closes the door when the queue is full, shortens the queue when the
  upstream gets slower, and makes room for calls of a higher priority.
- Only answers are measured. A timeout measures our own patience: counted as a service time, it
  would shorten the queue while the upstream hangs, and refuse calls about what is known.
- A rate bounds the calls about unknown keys. It is charged when the call enters, before it waits,
  and given back where the call is not sent.

The instants are parameters (monotonic seconds). `gate` puts this to work in an event loop.
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
# What `unknown_rate` is where nobody has set it, in calls a second. The most is nine tenths of the
# rate limit of a production instance (1,000 requests in 10 s): known callers need the rest.
START_RATE: Final = 50.0
LEAST_RATE: Final = 1.0
MOST_RATE: Final = 90.0
RATE_GROWTH: Final = 1.0
RETURNING_SHARE: Final = 0.25
LEAST_BURST: Final = 1.5  # a rate below 1/s must let somebody through too


def spread(seconds: float) -> float:
    """Give when to come back, in seconds: a little later each, so that not all come at once."""
    share, more = random.random(), random.random()  # noqa: S311  not secrets: they spread load
    return seconds * (1 + share / 4) + more


class Priority(IntEnum):
    """Whose call goes first; the lower number wins."""

    KEPT = 0  # a value is kept, fresh or stale, and somebody waits
    REFRESH = 1  # a value is kept and asked for again ahead of time; nobody waits
    RECENT = 2  # the key was good within the last hour, or the call is not about a credential
    RETURNING = 3  # nothing is known but that the key was refused here a few seconds ago
    STRANGER = 4  # nothing is known


# Calls that `unknown_rate` bounds.
UNKNOWN: Final = frozenset({Priority.RETURNING, Priority.STRANGER})
# Calls whose failures must not depend on what strangers send, and the others.
KNOWN: Final = frozenset({Priority.KEPT, Priority.REFRESH})


class State(Enum):
    """Where a ticket stands."""

    WAITING = "waiting"
    OUT = "out"
    REFUSED = "refused"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Ticket:
    """One call that wants to go out."""

    priority: Priority
    state: State = State.WAITING
    charged: bool = False
    refused_by_rate: bool = False


class UnknownRate:
    """Bounds the calls about unknown keys, for all event loops together.

    `fixed` is in calls a second. None adapts: the rate is halved by each 429 and grows by 1/s each
    second without one. One second's worth may go out at once; a quarter of it is left to those who
    come back after they were refused.
    """

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._rate = START_RATE if fixed is None else fixed
        self._left = max(LEAST_BURST, self._rate)
        self._counted_at: float | None = None
        self._lock = fork_safe_lock()

    def rate(self, now: float) -> float:
        """Give the calls that are allowed in a second; changes nothing, for any thread."""
        counted_at = self._counted_at
        return self._rate if counted_at is None else self._grown(now - counted_at)

    def take(self, now: float, *, returning: bool = False) -> bool:
        """Charge one call; False where there is nothing left for it."""
        with self._lock:
            self._count(now)
            if self._left < 1.0 + (0.0 if returning else self._rate * RETURNING_SHARE):
                return False
            self._left -= 1.0
            return True

    def give_back(self) -> None:
        """Take back the charge of a call that was not sent."""
        with self._lock:
            self._left += 1.0

    def slow_down(self, now: float) -> None:
        """Clerk answered 429."""
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
    """The calls of one event loop: who is out, who waits.

    Without an `unknown_rate` there are no strangers, and no slot is kept from anybody. `enter` sets
    the state of the ticket; each method gives the tickets whose state has changed since they wait.
    `refused` counts refusals by reason: `rate` (above `unknown_rate`) or `room` (too many wait).
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
        # Dictionaries as queues: a ticket in the middle leaves in constant time.
        self._queues: tuple[dict[Ticket, None], ...] = tuple({} for _ in Priority)
        self.service_time = FIRST_SERVICE_TIME
        self.out = 0
        self.waiting = 0

    def enter(self, ticket: Ticket, now: float) -> Iterable[Ticket]:
        """A call wants to go out: it goes, waits or is refused."""
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
        """A call that waits has another priority from now on: it is the last in that queue."""
        del self._queues[ticket.priority][ticket]
        ticket.priority = priority
        self._queues[priority][ticket] = None
        return self._settle()

    def leave(self, ticket: Ticket) -> None:
        """Nobody wants a call any longer that waits: it gives its place back."""
        del self._queues[ticket.priority][ticket]
        self._end_unsent(ticket, State.LEFT)

    def done(self, ticket: Ticket, *, service_time: float | None) -> Iterable[Ticket]:
        """A call that was out has ended; `service_time` is None where no answer came."""
        ticket.state = State.LEFT
        self.out -= 1
        if service_time is not None:
            self.service_time += (service_time - self.service_time) / self._slots
        return self._settle() if self.waiting else ()

    def queued(self) -> Mapping[str, int]:
        """Give how many calls wait, by priority."""
        return {each.name.lower(): len(self._queues[each]) for each in Priority}

    def _settle(self) -> Iterable[Ticket]:
        """Send what may go out now, then refuse the newest of the lowest where too many wait."""
        changed = []
        for priority, queue in zip(Priority, self._queues, strict=True):
            while queue and self.out < self._slots_for(priority):
                ticket = next(iter(queue))
                del queue[ticket]
                ticket.state = State.OUT
                self.out += 1
                self.waiting -= 1
                changed.append(ticket)
        # As many as are answered within the patience of a waiter.
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
