"""`Member`: one verifier's part in the fleet.

Rules of this file:

- What is published is written by a task in the event loop of `background`, which no waiter cancels.
- What may still deny a JWT is kept, so that it can be written again where Redis has lost it.
- `position` and the counters are changed in the event loop of `background` only. `position` is
  changed last: a process that forks meanwhile does a step twice rather than never.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from math import inf
from typing import Final, Protocol, TypeAlias

from clerk_m2m.background import BACKGROUND
from clerk_m2m.clock import Clock
from clerk_m2m.errors import FleetUnavailableError, VerificationUnavailableError
from clerk_m2m.fleet.applied import Applied
from clerk_m2m.fleet.exchange import WARM_UP
from clerk_m2m.fleet.follower import follow
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import COMMAND_TIMEOUT, CONNECT_TIMEOUT, MAX_ROWS, Log, Page, check
from clerk_m2m.fleet.outbox import BATCH, Outbox, unstoppable
from clerk_m2m.fleet.position import Position
from clerk_m2m.fleet.rows import Row, RowFormat, needed_until
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind
from clerk_m2m.observe.counters import SharedVerdicts
from clerk_m2m.observe.measurements import FleetMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.tasks import PerLoop, fork_safe_lock, tell_of_forks

# How long the first reading of the log may hold up the first JWTs of a process, in seconds.
FIRST_READING: Final = 0.1
# Processes that write the same rows back begin at different moments within this time, in seconds.
WRITE_BACK_SPREAD: Final = 0.2


_Denials: TypeAlias = OrderedDict[tuple[str, object], Invalidation]


class Local(Protocol):
    """What a member does in its own process."""

    def apply(self, invalidation: Invalidation, *, live: bool) -> None:
        """Apply an invalidation; `live` tells that it was made a moment ago."""

    def void_everything(self, instant: float | None = None) -> None:
        """Verify everything again; deny JWTs that were issued up to `instant` (Unix s)."""


class Member:
    """Publishes invalidations to the fleet, and applies those of others to `local`.

    Raises `ConfigurationError` where redis-py is missing, or does not take the address.
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
        # Those of JWTs that nobody has verified by themselves: they displace no other denial.
        self._known: _Denials = OrderedDict()
        self._unproven: _Denials = OrderedDict()
        self._missing: dict[tuple[str, object], Invalidation] = {}
        self._write_back_at = -inf
        self._outbox = Outbox(partial(Log, fleet))
        self._lock = fork_safe_lock()
        self._following = False
        self._turn = 0  # a follower ends when its turn is over
        self._loops: PerLoop[object] = PerLoop(object)  # the event loops that use the verifier
        self._first_reading = unstoppable()
        self._started_at: float | None = None
        self._out_since: float | None = self._now()
        self._applied = self._refused = self._doubts = 0
        tell_of_forks(self)

    # What the verifier calls, in any event loop

    def start(self) -> None:
        """Follow the log from now on, if that is not being done yet."""
        self._loops.get()
        self._follow()

    def _follow(self) -> None:
        if self._following:
            return
        with self._lock:
            if self._following:
                return
            self._following = True
            self.applied.lost()  # whatever was known when the last follower ended
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
        """Wait for the first reading until so long after the start."""
        left = (self._started_at or 0.0) + seconds - self._now()
        if left > 0:
            reading = asyncio.wrap_future(self._first_reading)
            await asyncio.wait({reading}, timeout=left)
            reading.cancel()

    def publish(self, invalidation: Invalidation, *, patience: float) -> Future[None]:
        """Have an invalidation written to the log, with attempts for `patience` seconds.

        The future ends when the log has it, or with `FleetUnavailableError`.
        """
        row = self._format.write(
            invalidation, ends_at=needed_until(invalidation, self._clock.wall())
        )
        written = self._outbox.put(row, patience=patience)
        self._follow()  # not `start`: a synchronous client has no event loop
        BACKGROUND.start(self, self._outbox.write)
        return written

    def spread(self, invalidation: Invalidation, *, patience: float) -> None:
        """Like `publish`, for one that nobody waits for: a failure is logged as an error."""

        def ended(written: Future[None]) -> None:
            exc = written.exception()
            if exc is not None:
                self._reporter.fleet_write_failed(exc)

        self.publish(invalidation, patience=patience).add_done_callback(ended)

    async def leave_loop(self) -> None:
        """Note that the running event loop does not use the verifier; with the last one it ends.

        What waits to be written has 0.35 seconds then.
        """
        self._loops.pop()
        if self._loops.values():
            return
        writing = [asyncio.wrap_future(each) for each in self._outbox.pending()]
        if writing:
            await asyncio.wait(writing, timeout=CONNECT_TIMEOUT + COMMAND_TIMEOUT)
        for each in writing:
            each.cancel()  # nobody asks for what comes of it
        self._stop()
        BACKGROUND.leave(self)

    def _stop(self) -> None:
        """Follow no more. Whoever follows again reads the log first, as a process that starts."""
        with self._lock:
            self._turn += 1
            self._following = False
            self.applied.lost()
            self._first_reading, self._started_at = unstoppable(), None
            self._out_since = self._now()

    def leave_to_parent(self) -> None:
        """Begin without a follower, in a forked child; what waits to be written is the parent's."""
        self._stop()
        self._outbox.leave_to_parent()

    def measure(self) -> FleetMeasurements:
        """Give the counters, and how the log is followed; for any thread."""
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
        """How often the follower has ended; what belongs to one turn ends with it."""
        return self._turn

    def invalidated_here(self, invalidation: Invalidation) -> None:
        """Note what is about to be invalidated in this process: no shared verdict overrules it."""
        self.applied.invalidated_here(invalidation, self._clock.monotonic())

    # What the follower calls, in the event loop of `background`

    def open_log(self) -> Log:
        """Make a client of the log for the running event loop."""
        return Log(self._fleet)

    def reading(self) -> None:
        """Note which of this process's rows are in the log that is about to be read."""
        self._outbox.reading()

    def begin(self, page: Page) -> None:
        """Begin to apply a log that was read from its oldest row on."""
        self.applied.begin(page.before)
        # Each process in an order of its own, so that few rows are written by several.
        known, unproven = list(self._known.items()), list(self._unproven.items())
        random.shuffle(known)
        random.shuffle(unproven)
        self._missing = dict(known)
        for name, each in unproven:
            self._missing.setdefault(name, each)
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
            self.applied.note(row.number, invalidation)  # before it is applied: see there
            self._local.apply(invalidation, live=self._is_new(row, invalidation))
            self._applied += 1
            self._remember(invalidation)
            missing = self._missing.get(invalidation.name)
            if missing is not None and missing.instant <= invalidation.instant:
                del self._missing[invalidation.name]
        self._outbox.read(row)
        self.position.advance(row)

    def caught_up(self) -> None:
        """Note that all rows were applied."""
        self.applied.reached(self.position.epoch, self.position.number)
        if self._out_since is not None:
            self._reporter.fleet_in_sync(self._now() - self._out_since)
            self._out_since = None
        if not self._first_reading.done():
            self._first_reading.set_result(None)

    def lost(self, exc: FleetUnavailableError) -> None:
        """Note that Redis cannot be read."""
        self.applied.lost()
        if self._out_since is None:
            self._out_since = self._now()
        self._reporter.fleet_lost(exc)

    def doubt(self, page: Page) -> None:
        """Rows may have been lost: what was asked before now does not count."""
        self.applied.lost()
        self._local.void_everything()
        self.position.give_up(page)
        self._doubts += 1
        self._reporter.fleet_doubted()

    def write_back_in(self) -> float:
        """Give for how many seconds `write_back` has nothing to do."""
        return max(0.0, self._write_back_at - self._now()) if self._missing else inf

    async def write_back(self, log: Log) -> None:
        """Write what the log does not have, a part of it at a time; reading it ends that."""
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
                rows.append(self._format.write(invalidation, ends_at=ends_at))
            else:
                del self._missing[name]
        return rows

    # Inside

    def _is_new(self, row: Row, invalidation: Invalidation) -> bool:
        """Tell whether a row is of this moment.

        One that is known already was written back, or copied by somebody without a key.
        """
        known = self._denials_like(invalidation).get(invalidation.name)
        is_known = known is not None and known.instant >= invalidation.instant
        return row.number > self.position.history_to and not (is_known or invalidation.repeated)

    def _remember(self, invalidation: Invalidation) -> None:
        if invalidation.token_kind is TokenKind.OPAQUE or invalidation.caller is not None:
            return
        denials = self._denials_like(invalidation)
        before = denials.pop(invalidation.name, invalidation)
        denials[invalidation.name] = max(before, invalidation, key=lambda each: each.instant)
        oldest = next(iter(denials.values()))
        if oldest.ends_at is not None and oldest.ends_at <= self._clock.wall():
            del denials[oldest.name]
        # As many as the log takes, so that writing them back displaces nothing.
        if len(self._known) + len(self._unproven) > MAX_ROWS:
            (self._unproven or self._known).popitem(last=False)

    def _denials_like(self, invalidation: Invalidation) -> _Denials:
        is_unproven = invalidation.token_kind is TokenKind.UNPROVEN
        return self._unproven if is_unproven else self._known

    def _now(self) -> float:
        # Real time: Redis has no injected clock.
        return time.monotonic()
