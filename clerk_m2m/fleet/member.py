"""`Member`: one verifier's part in the fleet.

Rules of this file:

- A task in the event loop of `background` writes the rows that are published; cancelling a waiter
  does not cancel it.
- Each invalidation that may still deny a JWT is kept. It is written again if Redis loses it.
- `position` and the counters are changed only in the event loop of `background`. A step changes
  `position` last: if the process forks during a step, the child repeats it and skips none.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from math import inf
from typing import Final, Protocol

from clerk_m2m.background import BACKGROUND
from clerk_m2m.clock import Clock
from clerk_m2m.errors import FleetUnavailableError, VerificationUnavailableError
from clerk_m2m.fleet.applied import Applied
from clerk_m2m.fleet.denials import Denials
from clerk_m2m.fleet.exchange import WARM_UP
from clerk_m2m.fleet.follower import follow
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import COMMAND_TIMEOUT, CONNECT_TIMEOUT, Log, Page, check
from clerk_m2m.fleet.outbox import BATCH, Outbox, unstoppable
from clerk_m2m.fleet.position import Position
from clerk_m2m.fleet.rows import Row, RowFormat, needed_until
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.lookups.invalidation import Invalidation
from clerk_m2m.observe.counters import SharedVerdicts
from clerk_m2m.observe.measurements import FleetMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.tasks import PerLoop, fork_safe_lock, tell_of_forks

# Seconds that the first JWTs of a process may wait for the first reading of the log.
FIRST_READING: Final = 0.1
# Processes that write the same rows back begin at random moments within this time, in seconds.
WRITE_BACK_SPREAD: Final = 0.2


class Local(Protocol):
    """The verifier of this process, to which a member applies invalidations."""

    def apply(self, invalidation: Invalidation, *, live: bool) -> None:
        """Apply an invalidation; `live` is True if it was made a moment ago."""

    def void_everything(self, instant: float | None = None) -> None:
        """Void all cached verdicts; deny JWTs that were issued up to `instant` (Unix s)."""


class Member:
    """Publishes invalidations to the fleet, and applies those of other processes to `local`.

    Raises `ConfigurationError` if redis-py is missing or rejects the address.
    """

    def __init__(self, fleet: Fleet, *, local: Local, clock: Clock, reporter: Reporter) -> None:
        check(fleet)
        self._fleet = fleet
        self._local = local
        self._clock = clock
        self._reporter = reporter
        self._format = RowFormat(tuple(log_key(each) for each in fleet.keys))
        self.position = Position()
        self.applied = Applied()
        self.shared: SharedVerdicts | None = None
        self._denials = Denials(clock.wall)
        self._missing: dict[tuple[str, object], Invalidation] = {}
        self._write_back_at = -inf
        self._outbox = Outbox(partial(Log, fleet))
        self._lock = fork_safe_lock()
        self._following = False
        self._turn = 0  # a follower stops when this is no longer the number that it started with
        self._loops: PerLoop[object] = PerLoop(object)  # the event loops that use the verifier
        self._first_reading = unstoppable()
        self._started_at: float | None = None
        self._out_since: float | None = self._now()
        self._applied = self._refused = self._doubts = 0
        tell_of_forks(self)

    # What the verifier calls, in any event loop

    def start(self) -> None:
        """Start to follow the log, unless a follower runs already."""
        self._loops.get()
        self._follow()

    def _follow(self) -> None:
        if self._following:
            return
        with self._lock:
            if self._following:
                return
            self._following = True
            self.applied.lost()  # what the last follower knew may be out of date
            if self._started_at is None:
                self._started_at = self._now()
            reference, turn = weakref.ref(self), self._turn

        def find() -> Member | None:
            member = reference()
            return member if member is not None and member._turn == turn else None

        BACKGROUND.start(self, partial(follow, find), lasting=True)

    async def ready(self) -> None:
        """Wait until the log was read for the first time; raises `VerificationUnavailableError`."""
        if self._first_reading.done() or not self._fleet.require_log:
            return
        self.start()
        await self._read_within(FIRST_READING)
        if not self._first_reading.done():
            raise VerificationUnavailableError from FleetUnavailableError(
                "The fleet's log of revocations could not be read yet, so it is not known which "
                "JWTs are denied."
            )

    async def warm_up(self) -> None:
        """Read the log before the first request, for 0.5 s at most."""
        self.start()
        await self._read_within(WARM_UP)

    async def _read_within(self, seconds: float) -> None:
        """Wait for the first reading of the log, until `seconds` after the start."""
        left = (self._started_at or 0.0) + seconds - self._now()
        if left > 0:
            reading = asyncio.wrap_future(self._first_reading)
            await asyncio.wait({reading}, timeout=left)
            reading.cancel()

    def publish(self, invalidation: Invalidation, *, patience: float) -> Future[None]:
        """Write an invalidation to the log, with retries for `patience` seconds.

        The future is done when the log has it, or fails with `FleetUnavailableError`.
        """
        row = self._format.write(
            invalidation, ends_at=needed_until(invalidation, self._clock.wall())
        )
        written = self._outbox.put(row, patience=patience)
        self._follow()  # not `start`: a synchronous client has no event loop
        BACKGROUND.start(self, self._outbox.write)
        return written

    def spread(self, invalidation: Invalidation, *, patience: float) -> None:
        """Publish an invalidation without a waiter: a failure is logged as an error."""

        def ended(written: Future[None]) -> None:
            exc = written.exception()
            if exc is not None:
                self._reporter.fleet_write_failed(exc)

        self.publish(invalidation, patience=patience).add_done_callback(ended)

    async def leave_loop(self) -> None:
        """Note that the running event loop no longer uses the verifier; with the last one, close.

        Rows that are not yet written then have 0.35 seconds left.
        """
        self._loops.pop()
        if self._loops.values():
            return
        writing = [asyncio.wrap_future(each) for each in self._outbox.pending()]
        if writing:
            await asyncio.wait(writing, timeout=CONNECT_TIMEOUT + COMMAND_TIMEOUT)
        for each in writing:
            each.cancel()  # only this wrapper; nobody reads its result
        self._stop()
        BACKGROUND.leave(self)

    def _stop(self) -> None:
        """Stop following. The next follower reads the log from the start, as in a new process."""
        with self._lock:
            self._turn += 1
            self._following = False
            self.applied.lost()
            self._first_reading, self._started_at = unstoppable(), None
            self._out_since = self._now()

    def leave_to_parent(self) -> None:
        """Begin without a follower, in a forked child; the parent writes the rows in the outbox."""
        self._stop()
        self._outbox.leave_to_parent()

    def measure(self) -> FleetMeasurements:
        """Return the counters and the state of the follower; callable in any thread."""
        since = self._out_since
        return FleetMeasurements(
            in_sync=since is None,
            out_of_sync=0.0 if since is None else self._now() - since,
            applied=self._applied,
            refused=self._refused,
            doubts=self._doubts,
            shared={} if self.shared is None else asdict(self.shared),
        )

    @property
    def turn(self) -> int:
        """How often the follower was stopped. Tasks of an earlier turn must stop."""
        return self._turn

    def invalidated_here(self, invalidation: Invalidation) -> None:
        """Note an invalidation that this process is about to apply; no shared verdict overrules it.

        It need not be in the log.
        """
        self.applied.invalidated_here(invalidation, self._clock.monotonic())

    # What the follower calls, in the event loop of `background`

    def open_log(self) -> Log:
        """Return a new client of the log for the running event loop."""
        return Log(self._fleet)

    def reading(self) -> None:
        """Note which rows of this process the read that now begins must find."""
        self._outbox.reading()

    def begin(self, page: Page) -> None:
        """Begin with the first page of a log, which starts at its oldest row."""
        self.applied.begin(page.before)
        self._missing = self._denials.shuffled()
        self._write_back_at = self._now() + WRITE_BACK_SPREAD * random.random()  # noqa: S311  it spreads load
        if page.floor is not None:
            dropped = self._format.read(page.floor)
            if dropped is not None:
                self._local.void_everything(dropped.instant)
        self.position.begin(page)

    def take(self, row: Row) -> None:
        """Apply the next row."""
        invalidation = self._format.read(row)
        if invalidation is None:
            self._refused += 1
            self._reporter.fleet_row_refused()
        else:
            self.applied.note(row.number, invalidation)  # must come before `apply`: see `applied`
            self._local.apply(invalidation, live=self._is_new(row, invalidation))
            self._applied += 1
            self._denials.add(invalidation)
            missing = self._missing.get(invalidation.name)
            if missing is not None and missing.instant <= invalidation.instant:
                del self._missing[invalidation.name]
        self._outbox.read(row)
        self.position.advance(row)

    def caught_up(self, is_followed: Callable[[], bool]) -> None:
        """Note that all rows were applied, unless this following was stopped before."""
        with self._lock:  # `_stop` runs in any thread
            if not is_followed():
                return
            reading, out_since = self._first_reading, self._out_since
            self.applied.reached(self.position.epoch, self.position.number)
            self._out_since = None
        if out_since is not None:
            self._reporter.fleet_in_sync(self._now() - out_since)
        if not reading.done():
            reading.set_result(None)

    def lost(self, exc: FleetUnavailableError) -> None:
        """Note that the log cannot be read."""
        self.applied.lost()
        if self._out_since is None:
            self._out_since = self._now()
        self._reporter.fleet_lost(exc)

    def doubt(self, page: Page) -> None:
        """Void all verdicts, as the log may have lost rows, and read the log from the start."""
        self.applied.lost()
        self._local.void_everything()
        self.position.give_up(page)
        self._doubts += 1
        self._reporter.fleet_doubted()

    def write_back_in(self) -> float:
        """Return for how many seconds `write_back` has nothing to do."""
        return max(0.0, self._write_back_at - self._now()) if self._missing else inf

    async def write_back(self, log: Log) -> None:
        """Write one batch of the rows that the log lacks, until the follower has read them all."""
        rows = self._outbox.lost()
        if self._now() >= self._write_back_at:
            rows += self._denials_to_repeat()
        if rows:
            await log.append(rows[:BATCH])

    def _denials_to_repeat(self) -> list[Row]:
        now, rows = self._clock.wall(), []
        for name in list(islice(self._missing, BATCH)):
            invalidation = replace(self._missing[name], repeated=True)
            ends_at = needed_until(invalidation, now)
            if ends_at is None or ends_at > now:
                try:
                    rows.append(self._format.write(invalidation, ends_at=ends_at))
                except ValueError:
                    # Too long, and a holder of a key has written it by other means. It stays in
                    # force here, and must not stop the following.
                    del self._missing[name]
            else:
                del self._missing[name]
        return rows

    # Inside

    def _is_new(self, row: Row, invalidation: Invalidation) -> bool:
        """Return True if a row was made a moment ago.

        If its invalidation is known already, the row was written back, or somebody without a key
        copied it.
        """
        is_known = self._denials.have(invalidation)
        return row.number > self.position.history_to and not (is_known or invalidation.repeated)

    def _now(self) -> float:
        # Real time, not the injected clock: Redis runs in real time.
        return time.monotonic()
