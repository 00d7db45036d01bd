"""`Outbox`: the rows that a process writes to the log.

A row that was written is kept until the follower has read it. A failover may lose a row before any
process has read it, and then only the process that wrote it can notice. `write`, and all methods
that the follower calls, run in the event loop of `background`; `put` and `pending` may be called in
any thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.follower import REDIAL
from clerk_m2m.fleet.log import Log
from clerk_m2m.fleet.rows import Row

BATCH: Final = 100


def unstoppable() -> Future[None]:
    """Return a future that no waiter can cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(slots=True)
class _Letter:
    """A row to be written, with retries until `ends_at` (monotonic s)."""

    row: Row
    ends_at: float
    written: Future[None] = field(default_factory=unstoppable)

    @property
    def is_written(self) -> bool:
        """Return True if Redis has confirmed the row."""
        return self.written.done() and self.written.exception() is None


class Outbox:
    """Writes rows to the log. `open_log` returns a new client of it."""

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open_log = open_log
        self._letters: deque[_Letter] = deque()
        self._writing = False
        self._unread: dict[str, _Letter] = {}  # by nonce: sent, and not yet read by the follower
        self._awaited: list[str] = []  # the nonces that the current read of the log must find

    def put(self, row: Row, *, patience: float) -> Future[None]:
        """Queue a row for `write`, with retries for `patience` seconds.

        The future is done when Redis has the row, or fails with `FleetUnavailableError`.
        """
        letter = _Letter(row, time.monotonic() + patience)
        self._letters.append(letter)
        return letter.written

    def pending(self) -> list[Future[None]]:
        """Return the futures of all rows that are neither written nor failed."""
        letters = {id(each): each for each in (*list(self._letters), *list(self._unread.values()))}
        return [each.written for each in letters.values() if not each.written.done()]

    def leave_to_parent(self) -> None:
        """Begin without rows, in a forked child: the parent writes them."""
        self._letters.clear()
        self._unread.clear()
        self._awaited = []
        self._writing = False

    async def write(self) -> None:
        """Write all queued rows. Returns at once if another task is writing."""
        if self._writing or not self._letters:
            return
        self._writing = True
        try:
            while self._letters:  # also rows that were queued while the last log was being closed
                if not await self._write_all():
                    await asyncio.sleep(REDIAL)
        except asyncio.CancelledError:
            # The thread stops, because the verifier was closed.
            self._fail_all(
                FleetUnavailableError("The verifier was closed before the row was written.")
            )
            raise
        finally:
            self._writing = False

    def reading(self) -> None:
        """Note which rows the read that now begins must find: those that Redis has confirmed."""
        self._awaited = [nonce for nonce, each in self._unread.items() if each.is_written]

    def read(self, row: Row) -> None:
        """Note that the follower has read a row."""
        self._unread.pop(row.nonce, None)

    def lost(self) -> list[Row]:
        """Return the rows that Redis had confirmed before the log was read, and that it lacks."""
        letters = (self._unread.get(nonce) for nonce in self._awaited)
        return [each.row for each in letters if each is not None]

    async def _write_all(self) -> bool:
        # A new client each time: after a failure, other connections of the old one may be broken.
        log = self._open_log()
        try:
            while self._letters:
                if not await self._write_some(log):
                    return False
            return True
        finally:
            await log.aclose()

    async def _write_some(self, log: Log) -> bool:
        letters = [self._letters.popleft() for _ in range(min(BATCH, len(self._letters)))]
        # Noted before the rows are sent: the follower may read them before Redis's answer arrives.
        self._unread.update((each.row.nonce, each) for each in letters)
        try:
            await log.append(each.row for each in letters)
        except FleetUnavailableError as exc:
            for letter in letters:
                if time.monotonic() >= letter.ends_at:
                    self._unread.pop(letter.row.nonce, None)
                    letter.written.set_exception(exc)
            return False
        else:
            for letter in letters:
                letter.written.set_result(None)
            return True
        finally:
            self._letters.extendleft(each for each in reversed(letters) if not each.written.done())

    def _fail_all(self, exc: FleetUnavailableError) -> None:
        while self._letters:
            self._letters.popleft().written.set_exception(exc)
