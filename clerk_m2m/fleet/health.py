"""The state of a fleet's Redis: our access rights, its settings, and the signatures in the log.

Nothing here writes, with one exception: reading a log that does not exist yet begins it.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from statistics import median
from typing import Final

from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import Log, client_of
from clerk_m2m.fleet.rows import RowFormat
from clerk_m2m.fleet_settings import Fleet

# Only the newest rows are checked: older ones may be signed with a key that was replaced.
LOOKED_AT: Final = 100
READS: Final = 5
PATIENCE: Final = 2.0  # seconds

# The commands of the log, and those of the shared verdicts, each with arguments that Redis accepts.
_LOG: Final = (
    ("xread", "streams", "ROWS", "0-0"),
    ("xlen", "ROWS"),
    ("xrange", "ROWS", "-", "+"),
    ("xrevrange", "ROWS", "+", "-"),
    ("xadd", "ROWS", "*", "nonce", ""),
    ("xdel", "ROWS", "0-1"),
    ("del", "ROWS"),
    ("hget", "HEAD", "nonce"),
    ("hmget", "HEAD", "nonce"),
    ("hset", "HEAD", "nonce", ""),
    ("time",),
    ("xinfo", "stream", "ROWS"),
)
_VERDICTS: Final = (
    ("getrange", "VERDICT", "0", "1"),
    ("set", "VERDICT", "", "px", "1"),
    ("set", "ASKING", "", "px", "1"),
    ("get", "ASKING"),
    ("del", "ASKING"),
)
_KEYS: Final = {
    "ROWS": "log:rows",
    "HEAD": "log:head",
    "VERDICT": "verdict:none",
    "ASKING": "asking:none",
}
# Finds the command's name in the error that Redis sends when it refuses a command.
_COMMAND: Final = re.compile(r"'([a-z|]+)' command")

# ARGV: for each command its number of words, then the words. Returns the indexes of the commands
# that the user may not run, or 'unknown' before Redis 7.0, which lacks `acl_check_cmd`.
_REFUSED: Final = """
if not redis.acl_check_cmd then return 'unknown' end
local refused, at, number = {}, 1, 0
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  if not redis.acl_check_cmd(unpack(ARGV, at + 1, at + words)) then
    refused[#refused + 1] = number
  end
  at, number = at + words + 1, number + 1
end
return refused
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of a fleet's Redis.

    `seconds` is the median duration of a few reads of the log, `rows` the number of its rows. The
    newest `looked_at` rows were read; `foreign` of them were not signed with any of our keys.
    The other fields come from `INFO` and are None if the user of Redis may not run it: `server` is
    the name and version, `is_replica` whether it is a replica, `eviction` the memory policy, and
    `persists` whether it writes to disk.
    """

    seconds: float
    rows: int
    looked_at: int
    foreign: int
    server: str | None
    is_replica: bool | None
    eviction: str | None
    persists: bool | None


async def refused_commands(fleet: Fleet) -> list[str] | None:
    """Return the ACL rules that the user of Redis lacks and the fleet needs, as `+xadd on log:*`.

    Returns None if Redis is older than 7.0 and cannot check them. Raises `FleetUnavailableError` if
    it does not answer.
    """
    commands = [*_LOG, *(_VERDICTS if fleet.share_verdicts else ())]
    arguments: list[str] = []
    for command in commands:
        words = (f"{{{fleet.prefix}}}:{_KEYS[each]}" if each in _KEYS else each for each in command)
        arguments += [str(len(command)), *words]
    client = client_of(fleet)
    try:
        async with asyncio.timeout(PATIENCE):
            refused = await client.eval(_REFUSED, 0, *arguments)
        if not isinstance(refused, list):
            return None
        return list(dict.fromkeys(_rule(commands[each]) for each in refused))
    except Exception as exc:  # noqa: BLE001  what a server that is no Redis makes the client raise
        failed = type(exc).__name__
        at_once = _command_in(exc)
    finally:
        await _closed(client)
    if failed == "NoPermissionError":  # for EVAL, or for a command that opens the connection
        return [f"+{at_once}"]
    # Raised after the `except` block, without a cause: the frames of the error may hold a password.
    raise FleetUnavailableError(f"Redis failed with {failed}.")


def _command_in(exc: Exception) -> str:
    named = _COMMAND.search(str(exc))
    return "eval" if named is None else named[1]


def _rule(command: tuple[str, ...]) -> str:
    name = "xinfo|stream" if command[0] == "xinfo" else command[0]
    keys = [_KEYS[each].partition(":")[0] for each in command if each in _KEYS]
    return f"+{name}" + "".join(f" on {each}:*" for each in keys)


async def examine(fleet: Fleet) -> Health:
    """Return the state of a fleet's Redis; raises `FleetUnavailableError` if it does not answer."""
    log = Log(fleet)
    try:
        page = newest = await log.read(-1)
        seconds = []
        for _ in range(READS):
            began_at = time.monotonic()
            newest = await log.read(max(page.first - 1, page.number - LOOKED_AT))
            seconds.append(time.monotonic() - began_at)
        form = RowFormat(tuple(log_key(each) for each in fleet.keys))
        told = await _told(log)
        return Health(
            seconds=median(seconds),
            rows=page.number - page.first + 1,
            looked_at=len(newest.rows),
            foreign=sum(form.read(each) is None for each in newest.rows),
            server=_server(told),
            is_replica=told.get("role") == "slave" if "role" in told else None,
            eviction=told.get("maxmemory_policy"),
            persists=_persists(told),
        )
    finally:
        await log.aclose()


async def _told(log: Log) -> dict[str, str]:
    try:
        return await log.info("default")
    except FleetUnavailableError:
        return {}  # the user of Redis may not run INFO


def _server(told: dict[str, str]) -> str | None:
    for name in ("Valkey", "Redis"):
        if (version := told.get(f"{name.lower()}_version")) is not None:
            return f"{name} {version}"
    return None


def _persists(told: dict[str, str]) -> bool | None:
    if "aof_enabled" not in told:
        return None
    # INFO does not say whether snapshots are configured, only how many were written.
    return told["aof_enabled"] == "1" or told.get("rdb_saves", "0") != "0"


async def _closed(client: object) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            await client.aclose()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001, S110  the connection is dropped in any case
        pass
