"""`follow`: applies the rows of the log to a member, for as long as the member is there.

It runs in the event loop of `background`, and holds the member only while it reads: a verifier that
nobody uses any longer is collected, and its follower ends within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.log import Log, Page
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

    def doubt(self) -> None:
        """Rows may have been lost."""

    async def write_back(self, log: Log) -> None:
        """Write what the log does not have."""


async def follow(find: Callable[[], Following | None]) -> None:
    """Follow the log until `find` gives no member any longer."""
    member = find()
    if member is None:
        return
    log = member.open_log()
    del member
    try:
        while True:
            await _follow(find, log)
            if find() is None:
                return
            await asyncio.sleep(REDIAL)
    finally:
        await log.aclose()


async def _follow(find: Callable[[], Following | None], log: Log) -> None:
    """Follow until Redis fails, or until there is no member any longer."""
    try:
        while (member := find()) is not None:
            await _catch_up(member, find, log)
            number = member.position.number
            del member
            await log.wait(number)
    except FleetUnavailableError as exc:
        member = find()
        if member is not None:
            member.lost(exc)


async def _catch_up(member: Following, find: Callable[[], Following | None], log: Log) -> None:
    """Apply all rows that there are, then write those that are missing.

    Nothing is done for a member that is followed no longer: another follower may have begun.
    """
    position = member.position
    while True:
        page = await log.read(-1 if position.epoch is None else position.number)
        if find() is None:
            return
        if position.epoch is not None and not position.is_continued_by(page):
            # Rows may have been lost. Where the epoch is still the same one, nobody else has
            # noticed: it must end, so that all processes write the denials that they know.
            known_epoch = position.epoch
            member.doubt()
            page = await log.read(-1, ending=known_epoch)
            if find() is None:
                return
        if position.epoch is None:
            member.begin(page)
        for row in page.rows:
            member.take(row)
        if position.number >= page.number or not page.rows:
            break
    member.caught_up()
    await member.write_back(log)
