"""The invalidations of one verifier: a bounded table of void values and of denied JWTs.

Rules of this file:

- A row is a name (the digest of a token, the id of a token, the id of a machine) with the number of
  its invalidation. It voids every value of that name whose look-up started before it, including
  look-ups in progress.
- A cache keeps, with each value, the number that the value was last checked against. Until the next
  invalidation, a check only compares two integers. An invalidation never scans a store, so its time
  does not depend on the number of cached values.
- A row also denies JWTs, because Clerk cannot revoke them. A digest or a token id denies that JWT.
  A machine denies its JWTs issued up to the row's instant, and up to 5 s after it. The instant of a
  name never decreases, because the log of a fleet may deliver an older invalidation later.
- A row is removed when everything that it could void or deny has expired.
- There are at most 100,000 rows. When the table is full, the oldest row is removed and becomes the
  floor: every value whose look-up started before it is void, and every JWT issued up to its instant
  (and 5 s after it) is denied. No denial is lost.
- Event loops and threads share one table. Readers take no lock, and still never miss a denial: a
  row is replaced in one step, and the floor is raised before the oldest row is removed.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

from clerk_m2m.clock import LEEWAY, Clock
from clerk_m2m.tasks import fork_safe_lock

logger = logging.getLogger("clerk_m2m")

MAX_ROWS: Final = 100_000
MAX_UNPROVEN: Final = 100_000

# The digest of a token (bytes), or a Clerk id (str): the two are never equal.
Name: TypeAlias = bytes | str


@dataclass(frozen=True, slots=True)
class _Row:
    """The number of an invalidation, and its instant (Unix s)."""

    number: int
    instant: float


class Invalidations:
    """The invalidations of one verifier, numbered in the order in which they were applied."""

    def __init__(self, clock: Clock) -> None:
        self.number = 0
        self._clock = clock
        self._rows: OrderedDict[Name, _Row] = OrderedDict()
        self._unproven: OrderedDict[Name, _Row] = OrderedDict()
        self._has_dropped = False
        self._floor = _Row(0, -inf)
        self._ends: list[tuple[float, int, Name]] = []
        self._lock = fork_safe_lock()

    def add(self, name: Name, *, lifetime: float = inf, instant: float | None = None) -> None:
        """Void earlier values of `name`, and deny JWTs; the row is removed after `lifetime` s.

        `instant` is Unix time in seconds; by default, the time of this host's clock.
        """
        now = self._clock.monotonic()
        with self._lock:
            self._end_rows(now)
            row = self._next(instant)
            known = self._rows.get(name)
            if known is not None and known.instant > row.instant:
                row = _Row(row.number, known.instant)
            self._rows[name] = row
            self._rows.move_to_end(name)  # also a repeated name becomes the youngest row
            if lifetime < inf:
                heapq.heappush(self._ends, (now + lifetime, row.number, name))
            if len(self._rows) > MAX_ROWS:
                self._raise_floor()
            # Last: a reader that sees the number must find the row.
            self.number = row.number

    def add_unproven(self, digest: bytes) -> None:
        """Like `add`, for a JWT whose signature no known key verifies.

        Anybody can make any number of such tokens. They have a separate table, so that they
        displace no other denial. When it is full, its oldest row is dropped.
        """
        with self._lock:
            row = self._next(None)
            self._unproven[digest] = row
            self._unproven.move_to_end(digest)
            if len(self._unproven) > MAX_UNPROVEN:
                self._drop_unproven()
            self.number = row.number

    def void_everything(self, instant: float | None = None) -> None:
        """Void all values looked up before now, and deny JWTs issued up to `instant` (Unix s)."""
        with self._lock:
            row = self._next(None)
            floor = self._floor.instant if instant is None else max(instant, self._floor.instant)
            self._floor = _Row(row.number, floor)
            self.number = row.number

    def void(self, names: Iterable[Name], asked_at: int) -> bool:
        """Return whether a value with these names, asked for at number `asked_at`, is void."""
        if self._floor.number > asked_at:
            return True
        return any(
            row is not None and row.number > asked_at
            for name in names
            for row in (self._rows.get(name), self._unproven.get(name))
        )

    def deny(self, *, digest: bytes, token_id: str, machine_id: str, issued_at: float) -> bool:
        """Return whether a JWT is denied; `issued_at` is Unix time in seconds."""
        if digest in self._rows or digest in self._unproven or token_id in self._rows:
            return True
        machine = self._rows.get(machine_id)
        instant = self._floor.instant if machine is None else machine.instant
        return issued_at <= max(instant, self._floor.instant) + LEEWAY

    def __len__(self) -> int:
        return len(self._rows)

    def _next(self, instant: float | None) -> _Row:
        return _Row(self.number + 1, self._clock.wall() if instant is None else instant)

    def _end_rows(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, number, name = heapq.heappop(self._ends)
            row = self._rows.get(name)
            if row is not None and row.number == number:
                del self._rows[name]

    def _drop_unproven(self) -> None:
        del self._unproven[next(iter(self._unproven))]
        if not self._has_dropped:
            self._has_dropped = True
            logger.error(
                "More than %d JWTs that cannot be verified were invalidated: the oldest of these "
                "denials are dropped from now on.",
                MAX_UNPROVEN,
            )

    def _raise_floor(self) -> None:
        oldest = next(iter(self._rows))
        row = self._rows[oldest]
        # Rows are numbered in order, but their instants come from several clocks.
        self._floor = _Row(row.number, max(row.instant, self._floor.instant))
        del self._rows[oldest]
        logger.error(
            "More than %d invalidations are in force. Everything that was verified before the "
            "oldest of them is verified again, and JWTs issued before it are refused.",
            MAX_ROWS,
        )
