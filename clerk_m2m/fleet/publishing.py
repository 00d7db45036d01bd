"""Write an invalidation to the log from a process that does not follow the log."""

from __future__ import annotations

from clerk_m2m.fleet.keys import digest_key, log_key
from clerk_m2m.fleet.log import Log, check
from clerk_m2m.fleet.rows import RowFormat, needed_until
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.lookups.invalidation import Invalidation


async def publish_once(fleet: Fleet, invalidation: Invalidation, *, now: float) -> int:
    """Write an invalidation to the log, and return its row's number; `now` is in Unix seconds.

    Raises `FleetUnavailableError` if it could not be written.
    """
    check(fleet)
    form = RowFormat(tuple(log_key(each) for each in fleet.keys))
    log = Log(fleet)
    try:
        return await log.append([form.write(invalidation, ends_at=needed_until(invalidation, now))])
    finally:
        await log.aclose()


def digest_keys(fleet: Fleet, origin: str) -> tuple[bytes, ...]:
    """Return the keys with which the services of a fleet digest the tokens of a Clerk instance."""
    return tuple(digest_key(each, origin) for each in fleet.keys)
