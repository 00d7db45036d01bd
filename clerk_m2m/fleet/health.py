"""How the Redis of a fleet stands: whether it answers, keeps the log, and the keys agree."""

from __future__ import annotations

import time
from dataclasses import dataclass

from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import Log
from clerk_m2m.fleet.rows import RowFormat
from clerk_m2m.fleet_settings import Fleet

# Only the newest rows are looked at: older ones may be of a key that was replaced.
LOOKED_AT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a fleet's Redis stands.

    `seconds` is how long a read of the log took, `rows` how many it holds; `foreign` counts those
    of the newest hundred that none of the keys has signed. `eviction` is the memory policy and
    `persists` whether Redis writes to disk: None where the Redis user may not ask.
    """

    seconds: float
    rows: int
    foreign: int
    eviction: str | None
    persists: bool | None


async def examine(fleet: Fleet) -> Health:
    """Look at the Redis of a fleet; raises `FleetUnavailableError` where it does not answer."""
    log = Log(fleet)
    try:
        began_at = time.monotonic()
        page = await log.read(-1)
        seconds = time.monotonic() - began_at
        newest = await log.read(max(page.first - 1, page.number - LOOKED_AT))
        form = RowFormat(tuple(log_key(each) for each in fleet.keys))
        return Health(
            seconds=seconds,
            rows=page.number - page.first + 1,
            foreign=sum(form.read(each) is None for each in newest.rows),
            eviction=await _eviction(log),
            persists=await _persists(log),
        )
    finally:
        await log.aclose()


async def _eviction(log: Log) -> str | None:
    memory = await _info(log, "memory")
    return None if memory is None else memory.get("maxmemory_policy")


async def _persists(log: Log) -> bool | None:
    persistence = await _info(log, "persistence")
    if persistence is None:
        return None
    return persistence.get("aof_enabled") == "1" or persistence.get("rdb_saves", "0") != "0"


async def _info(log: Log, section: str) -> dict[str, str] | None:
    try:
        return await log.info(section)
    except FleetUnavailableError:
        return None  # the user of Redis may not ask
