"""`follow`: applies the rows of the log to a member, for as long as the member is there.

It runs in the event loop of `background`, and holds the member only while it reads: a verifier that
nobody uses any longer is collected, and its follower ends within half a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.log import WAIT, Log, Page
from clerk_m2m.fleet.position import Position
from clerk_m2m.fleet.rows import Row

# Between two attempts to reach Redis, in seconds.
REDIAL: Final = 0.25


class Following(Protocol):
    """What follows the log: it is told of each step. `Member` is one."""

    position: Position

    def open_log(self) -> Log:
        """Make a client of the log for the running event loop."""

    def begin(self, page: Page) -> None:
        """Begin with a log that was read from its oldest row on."""

    def take(self, row: Row) -> None:
        """Apply the next row."""

    def caught_up(self) -> None:
        """Note that all rows were applied."""

    def lost(self, exc: FleetUnavailableError) -> None:
        """Note that Redis cannot be read."""

    def reading(self) -> None:
        """Note that the log is about to be read."""

    def doubt(self, page: Page) -> None:
        """The log does not go on from the position as `page` has it: rows may have been lost."""

    def write_back_in(self) -> float:
        """Give for how many seconds `write_back` has nothing to do."""

    async def write_back(self, log: Log) -> None:
        """Write what the log does not have."""


async def follow(find: Callable[[], Following | None]) -> None:
    """Follow the log until `find` gives no member any longer."""
    while (member := find()) is not None:
        began_at = time.monotonic()
        try:
            # A new client each time: after a failure no connection of the old one is to be trusted.
            log = member.open_log()
            del member
            try:
                await _follow(find, log)
            finally:
                await log.aclose()
        except FleetUnavailableError as exc:
            failure = exc
        except Exception as exc:  # noqa: BLE001  a fault of ours must not end the following unseen
            failure = FleetUnavailableError(f"A row could not be applied: {type(exc).__name__}.")
        else:
            return
        if (member := find()) is not None:
            member.lost(failure)
            del member
            if time.monotonic() - began_at < REDIAL:
                await asyncio.sleep(REDIAL)  # a client that held for longer is replaced at once


async def _follow(find: Callable[[], Following | None], log: Log) -> None:
    """Follow until Redis fails, or until there is no member any longer."""
    while (member := find()) is not None:
        await _catch_up(member, find, log)
        number, timeout = member.position.number, min(WAIT, member.write_back_in())
        del member
        rows = await log.wait(number, timeout=timeout)
        if (member := find()) is not None:
            # At once, as it can only void and deny. Whether the log is still the same one is what
            # `_catch_up` finds out; until then it does not count as applied up to there.
            for row in rows:
                if member.position.is_before(row):
                    member.take(row)


async def _catch_up(member: Following, find: Callable[[], Following | None], log: Log) -> None:
    """Apply all rows that there are, then write those that are missing."""
    position = member.position
    member.reading()
    while True:
        after = -1 if position.epoch is None else position.number
        page = await log.read(after, ending=position.ending)
        if find() is not member:
            return  # it has left meanwhile, and another follower may be at its position
        if position.epoch is None:
            member.begin(page)
        elif not position.is_continued_by(page):
            member.doubt(page)
            continue
        for row in page.rows:
            member.take(row)
        if position.number >= page.number or not page.rows:
            break
    member.caught_up()
    await member.write_back(log)
