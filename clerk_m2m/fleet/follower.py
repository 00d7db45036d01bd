"""`follow`: applies the rows of the log to a member, for as long as the member exists.

It runs in the event loop of `background` and holds no reference to the member while it waits for
rows. So a verifier that is no longer used is garbage-collected, and its follower stops within half
a second.
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

# Seconds between two attempts to reach Redis.
REDIAL: Final = 0.25
# Between two waits for rows that gave none to apply, in seconds at least.
PAUSE: Final = 0.05


class Following(Protocol):
    """The object whose methods the follower calls at each step. `Member` is one."""

    position: Position

    def open_log(self) -> Log:
        """Return a new client of the log for the running event loop."""

    def begin(self, page: Page) -> None:
        """Begin with the first page of a log, which starts at its oldest row."""

    def take(self, row: Row) -> None:
        """Apply the next row."""

    def caught_up(self, is_followed: Callable[[], bool]) -> None:
        """Note that all rows were applied, unless this following was stopped before."""

    def lost(self, exc: FleetUnavailableError) -> None:
        """Note that Redis cannot be read."""

    def reading(self) -> None:
        """Note that the log is about to be read."""

    def doubt(self, page: Page) -> None:
        """Handle a `page` that does not continue from the position: rows may have been lost."""

    def write_back_in(self) -> float:
        """Return for how many seconds `write_back` has nothing to do."""

    async def write_back(self, log: Log) -> None:
        """Write the known denials that the log does not have."""


async def follow(find: Callable[[], Following | None]) -> None:
    """Follow the log until `find` returns None."""
    while (member := find()) is not None:
        began_at = time.monotonic()
        try:
            # A new client each time: after a failure, other connections of the old one may be
            # broken too.
            log = member.open_log()
            del member
            try:
                await _follow(find, log)
            finally:
                await log.aclose()
        except FleetUnavailableError as exc:
            failure = exc
        except Exception as exc:  # noqa: BLE001  a bug of ours must not stop the follower silently
            failure = FleetUnavailableError(f"A row could not be applied: {type(exc).__name__}.")
        else:
            return
        if (member := find()) is not None:
            member.lost(failure)
            del member
            if time.monotonic() - began_at < REDIAL:
                await asyncio.sleep(REDIAL)  # a client that worked for longer is replaced at once


async def _follow(find: Callable[[], Following | None], log: Log) -> None:
    """Follow the log until Redis fails or `find` returns None."""
    while (member := find()) is not None:
        await _catch_up(member, find, log)
        number, timeout = member.position.number, min(WAIT, member.write_back_in())
        del member
        began_at = time.monotonic()
        rows = await log.wait(number, timeout=timeout)
        if (member := find()) is not None:
            # Applied at once, because a row can only void and deny. `_catch_up` then checks that
            # the log has lost no rows; only after that does the log count as applied up to here.
            for row in rows:
                if member.position.is_before(row):
                    member.take(row)
            goes_on = member.position.number != number
            del member
            if not goes_on and time.monotonic() - began_at < PAUSE:
                # Redis did not wait, or gave rows of another log. It may do so again at once.
                await asyncio.sleep(PAUSE)


async def _catch_up(member: Following, find: Callable[[], Following | None], log: Log) -> None:
    """Apply all rows of the log, then write the rows that it lacks."""
    position = member.position
    member.reading()
    while True:
        after = -1 if position.epoch is None else position.number
        page = await log.read(after, ending=position.ending)
        if find() is not member:
            return  # the member was closed during the read; a new follower may use its position
        if position.epoch is None:
            member.begin(page)
        elif not position.is_continued_by(page):
            member.doubt(page)
            continue
        for row in page.rows:
            member.take(row)
        if position.number >= page.number or not page.rows:
            break
    member.caught_up(lambda: find() is member)
    await member.write_back(log)
