"""`Member`: one verifier's part in the fleet.

Rules of this file:

- What is published is written by a task in the event loop of `background`, which no waiter cancels.
- What may still deny a JWT is kept, so that it can be written again where Redis has lost it.
- `position` and the counters are changed in the event loop of `background` only.
- A fork may come at any moment. So `position` goes on only when what it stands for is in force.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final, Protocol

from clerk_m2m.background import BACKGROUND
from clerk_m2m.clock import Clock
from clerk_m2m.errors import FleetUnavailableError, VerificationUnavailableError
from clerk_m2m.fleet.follower import REDIAL, follow
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import MAX_ROWS, Log, Page, require_redis
from clerk_m2m.fleet.position import Position
from clerk_m2m.fleet.rows import Row, RowFormat, needed_until
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind
from clerk_m2m.observe.measurements import FleetMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.tasks import PerLoop, tell_of_forks

# How long the first reading of the log may hold up the first JWTs of a process, in seconds.
FIRST_READING: Final = 0.1
BATCH: Final = 100
# Processes that write the same rows back begin at different moments within this time, in seconds.
WRITE_BACK_SPREAD: Final = 0.5


class Local(Protocol):
    """What a member does in its own process."""

    def apply(self, invalidation: Invalidation, *, live: bool) -> None:
        """Apply an invalidation; `live` tells that it was made a moment ago."""

    def void_everything(self, instant: float | None = None) -> None:
        """Verify everything again; deny JWTs that were issued up to `instant` (Unix s)."""


@dataclass(slots=True)
class _Letter:
    """A row that waits to be written, until `ends_at` (monotonic s)."""

    row: Row
    ends_at: float
    written: Future[None] = field(default_factory=Future)


class Member:
    """Publishes invalidations to the fleet, and applies those of others to `local`.

    Raises `ConfigurationError` where redis-py is missing.
    """

    def __init__(self, fleet: Fleet, *, local: Local, clock: Clock, reporter: Reporter) -> None:
        require_redis()
        self._fleet = fleet
        self._local = local
        self._clock = clock
        self._reporter = reporter
        self._format = RowFormat(tuple(log_key(each) for each in fleet.keys))
        self.position = Position()
        # Both are sets in the order in which their members came.
        self._known: dict[Invalidation, None] = {}
        self._missing: dict[Invalidation, None] = {}
        self._write_back_at = -inf
        self._outbox: deque[_Letter] = deque()
        self._writing = self._following = False
        self._turn = 0  # a follower ends when its turn is over
        self._loops: PerLoop[object] = PerLoop(object)  # the event loops that use the verifier
        self._first_reading: Future[None]
        self._started_at: float | None
        self._out_since: float | None
        self._await_reading()
        self._applied = self._refused = self._doubts = 0
        tell_of_forks(self)

    # What the verifier calls, in any event loop

    def start(self) -> None:
        """Follow the log from now on, if that is not being done yet."""
        self._loops.get()
        if self._following:
            return
        self._following = True
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
        left = (self._started_at or 0.0) + FIRST_READING - self._now()
        if left > 0:
            reading = asyncio.wrap_future(self._first_reading)
            await asyncio.wait({reading}, timeout=left)
            reading.cancel()
        if not self._first_reading.done():
            raise VerificationUnavailableError from FleetUnavailableError(
                "The fleet's log of revocations could not be read yet, so it is not known which "
                "JWTs are denied."
            )

    def publish(self, invalidation: Invalidation, *, patience: float) -> Future[None]:
        """Have an invalidation written to the log, with attempts for `patience` seconds.

        The future ends when the log has it, or with `FleetUnavailableError`.
        """
        ends_at = needed_until(invalidation, self._clock.wall())
        row = self._format.write(invalidation, ends_at=ends_at)
        letter = _Letter(row, self._now() + patience)
        letter.written.set_running_or_notify_cancel()
        self._outbox.append(letter)
        self.start()
        BACKGROUND.start(self, self._write)
        return letter.written

    def spread(self, invalidation: Invalidation, *, patience: float) -> None:
        """Like `publish`, for one that nobody waits for: a failure is logged as an error."""

        def ended(written: Future[None]) -> None:
            exc = written.exception()
            if exc is not None:
                self._reporter.fleet_write_failed(exc)

        self.publish(invalidation, patience=patience).add_done_callback(ended)

    def leave_loop(self) -> None:
        """Note that the running event loop does not use the verifier; with the last one it ends."""
        self._loops.pop()
        if self._loops.values():
            return
        self._stop_following()
        BACKGROUND.leave(self)

    def leave_to_parent(self) -> None:
        """Begin without a follower, in a forked child; what waits to be written is the parent's."""
        self._stop_following()
        self._writing = False
        self._outbox.clear()

    def measure(self) -> FleetMeasurements:
        """Give the counters, and how the log is followed; for any thread."""
        since = self._out_since
        return FleetMeasurements(
            in_sync=since is None,
            out_of_sync=0.0 if since is None else self._now() - since,
            applied=self._applied,
            refused=self._refused,
            doubts=self._doubts,
        )

    # What the follower calls, in the event loop of `background`

    def open_log(self) -> Log:
        """Make a client of the log for the running event loop."""
        return Log(self._fleet)

    def begin(self, page: Page) -> None:
        """Begin to apply a log that was read from its oldest row on."""
        self._missing = dict(self._known)
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
            self._apply(invalidation, live=row.number > self.position.history_to)
        self.position.advance(row)

    def caught_up(self) -> None:
        """Note that all rows were applied."""
        if self._out_since is not None:
            self._reporter.fleet_in_sync(self._now() - self._out_since)
            self._out_since = None
        if not self._first_reading.done():
            self._first_reading.set_result(None)

    def lost(self, exc: FleetUnavailableError) -> None:
        """Note that Redis cannot be read."""
        if self._out_since is None:
            self._out_since = self._now()
        self._reporter.fleet_lost(exc)

    def doubt(self) -> None:
        """Rows may have been lost: what was asked before now does not count."""
        self._local.void_everything()
        self.position.epoch = None
        self._doubts += 1
        self._reporter.fleet_doubted()

    async def write_back(self, log: Log) -> None:
        """Write denials that the log does not have, a part of them at a time."""
        if not self._missing or self._now() < self._write_back_at:
            return
        now, rows = self._clock.wall(), []
        batch = list(self._missing)[:BATCH]
        for invalidation in batch:
            ends_at = needed_until(invalidation, now)
            if ends_at is None or ends_at > now:
                rows.append(self._format.write(invalidation, ends_at=ends_at))
        if rows:
            await log.append(rows)
        for invalidation in batch:  # only now: what could not be written is still missing
            self._missing.pop(invalidation, None)

    # Inside

    def _stop_following(self) -> None:
        self._turn += 1
        self._following = False
        self._await_reading()  # what is written from now on is not known

    def _await_reading(self) -> None:
        self._first_reading = Future()
        self._first_reading.set_running_or_notify_cancel()  # so that no waiter can cancel it
        self._started_at = None
        self._out_since = self._now()

    def _apply(self, invalidation: Invalidation, *, live: bool) -> None:
        # One that is known was written back, or again by somebody without a key: it is not new.
        self._local.apply(invalidation, live=live and invalidation not in self._known)
        self._applied += 1
        self._remember(invalidation)
        self._missing.pop(invalidation, None)

    def _remember(self, invalidation: Invalidation) -> None:
        if invalidation.token_kind is TokenKind.OPAQUE or invalidation.caller is not None:
            return
        self._known.pop(invalidation, None)
        self._known[invalidation] = None
        if len(self._known) > MAX_ROWS:
            del self._known[next(iter(self._known))]

    async def _write(self) -> None:
        """Write what waits in the outbox; one task at a time does."""
        if self._writing or not self._outbox:
            return
        self._writing = True
        log = self.open_log()
        try:
            while self._outbox:
                if not await self._write_some(log):
                    await asyncio.sleep(REDIAL)
        finally:
            self._writing = False
            await log.aclose()

    async def _write_some(self, log: Log) -> bool:
        letters = [self._outbox.popleft() for _ in range(min(BATCH, len(self._outbox)))]
        try:
            await log.append(each.row for each in letters)
        except FleetUnavailableError as exc:
            now = self._now()
            for letter in letters:
                if now >= letter.ends_at:
                    letter.written.set_exception(exc)
            self._outbox.extendleft(
                letter for letter in reversed(letters) if not letter.written.done()
            )
            return False
        for letter in letters:
            letter.written.set_result(None)
        return True

    def _now(self) -> float:
        # Real time: Redis has no injected clock.
        return time.monotonic()
