"""`Outbox`: the rows that a process writes to the log.

A row that was written is kept until the follower has read it: a failover may lose it before anybody
has, and then nobody else would notice. `write`, and all that the follower calls, run in the event
loop of `background`; `put` and `pending` are for any thread.
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
    """Give a future that no waiter can cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(slots=True)
class _Letter:
    """A row that waits to be written, until `ends_at` (monotonic s)."""

    row: Row
    ends_at: float
    written: Future[None] = field(default_factory=unstoppable)

    @property
    def is_written(self) -> bool:
        """Tell whether Redis has said that it has the row."""
        return self.written.done() and self.written.exception() is None


class Outbox:
    """Writes rows to logs that `open_log` gives."""

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open_log = open_log
        self._letters: deque[_Letter] = deque()
        self._writing = False
        self._unread: dict[str, _Letter] = {}  # by nonce: sent, and not read yet
        self._awaited: list[str] = []  # the nonces that this reading of the log must find

    def put(self, row: Row, *, patience: float) -> Future[None]:
        """Have `write` write a row, with attempts for `patience` seconds.

        The future ends when Redis has it, or with `FleetUnavailableError`.
        """
        letter = _Letter(row, time.monotonic() + patience)
        self._letters.append(letter)
        return letter.written

    def pending(self) -> list[Future[None]]:
        """Give the futures of all rows that are neither written nor given up."""
        letters = {id(each): each for each in (*list(self._letters), *list(self._unread.values()))}
        return [each.written for each in letters.values() if not each.written.done()]

    def leave_to_parent(self) -> None:
        """Begin without rows, in a forked child: the parent writes them."""
        self._letters.clear()
        self._unread.clear()
        self._awaited = []
        self._writing = False

    async def write(self) -> None:
        """Write what there is; one task at a time does."""
        if self._writing or not self._letters:
            return
        self._writing = True
        try:
            while self._letters:  # also those that came while the last log was being closed
                if not await self._write_all():
                    await asyncio.sleep(REDIAL)
        except asyncio.CancelledError:
            # The thread ends, as the verifier was closed.
            self._fail_all(FleetUnavailableError("The verifier was closed before Redis had it."))
            raise
        finally:
            self._writing = False

    def reading(self) -> None:
        """Note which rows are in the log that is about to be read."""
        self._awaited = [nonce for nonce, each in self._unread.items() if each.is_written]

    def read(self, row: Row) -> None:
        """Note that the follower has read a row."""
        self._unread.pop(row.nonce, None)

    def lost(self) -> list[Row]:
        """Give the rows that were written before the log was read, and are not in it."""
        letters = (self._unread.get(nonce) for nonce in self._awaited)
        return [each.row for each in letters if each is not None]

    async def _write_all(self) -> bool:
        # A new client each time: after a failure no connection of the old one is to be trusted.
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
        # Before it is sent: the follower may have read it before the answer is here.
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
