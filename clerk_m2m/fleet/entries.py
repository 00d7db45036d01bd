"""The entries of shared verdicts in Redis: one Lua program runs a batch of steps.

Each token has two keys: its entry, and a marker while one process asks Clerk about it. The program
does not fail on a value that another program wrote to these keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.contents import MAX_CONTENTS
from clerk_m2m.fleet.log import COMMAND_TIMEOUT, CONNECT_TIMEOUT, client_of
from clerk_m2m.fleet_settings import Fleet

# Characters: Base64 of the nonce, the encrypted contents and the tag.
MAX_ENTRY: Final = (MAX_CONTENTS + 64) * 4 // 3

# ARGV: the size of the largest entry, then the verb, marker, milliseconds and text of each step.
# KEYS: the entry and the marker of each step. Returns one answer for each step.
#
# look:  Return "entry:" and the entry.
# claim: Return "entry:" and the entry, unless its SHA-1 is the text: then the caller knows it. In
#        that case set the marker for these milliseconds and return "won", or return "held" if
#        another process has set it.
# keep:  Store the text as the entry for these milliseconds, and delete the marker.
# free:  Delete the marker.
_STEPS: Final = """
local answers = {}

local function entry(key)
  local found = redis.pcall('GETRANGE', key, 0, tonumber(ARGV[1]))
  return type(found) == 'string' and found or ''
end

local function free(key, marker)
  if redis.pcall('GET', key) == marker then redis.call('DEL', key) end
end

for at = 1, #KEYS / 2 do
  local kept, pending, from = KEYS[2 * at - 1], KEYS[2 * at], 4 * at - 2
  local verb, marker, ms, text = ARGV[from], ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
  local answer = ''
  if verb == 'keep' then
    redis.call('SET', kept, text, 'PX', ms)
    free(pending, marker)
  elseif verb == 'free' then
    free(pending, marker)
  else
    local found = entry(kept)
    if verb == 'look' or redis.sha1hex(found) ~= text then
      answer = 'entry:' .. found
    else
      answer = redis.call('SET', pending, marker, 'NX', 'PX', ms) and 'won' or 'held'
    end
  end
  answers[at] = answer
end
return answers
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the program, about the entry `name`; `lifetime` is in seconds."""

    verb: str
    name: str
    marker: str = ""
    lifetime: float = 1.0
    text: str = ""


def look(name: str) -> Step:
    """Read an entry."""
    return Step(verb="look", name=name)


def claim(name: str, marker: str, lifetime: float, known: str) -> Step:
    """Read the entry. If it still is `known`, set the marker instead, unless there is one."""
    text = sha1(known.encode("utf-8", "surrogateescape")).hexdigest()  # noqa: S324  tells texts apart
    return Step(verb="claim", name=name, marker=marker, lifetime=lifetime, text=text)


def keep(name: str, marker: str, lifetime: float, text: str) -> Step:
    """Set the entry, and delete the marker."""
    return Step(verb="keep", name=name, marker=marker, lifetime=lifetime, text=text)


def free(name: str, marker: str) -> Step:
    """Delete the marker, if it is still this one."""
    return Step(verb="free", name=name, marker=marker)


class Entries:
    """A client of the entries. Use it only in the event loop in which it was made."""

    def __init__(self, fleet: Fleet) -> None:
        # One slot of a Redis Cluster: a batch touches the keys of many tokens.
        self._prefix = f"{{{fleet.prefix}}}"
        self._client = client_of(fleet)
        self.failed = asyncio.Event()

    async def probe(self) -> None:
        """Try a write; raises `FleetUnavailableError`."""
        await self.run([keep("probe", "", 1.0, "probe")], timeout=CONNECT_TIMEOUT + COMMAND_TIMEOUT)

    async def run(self, steps: Sequence[Step], *, timeout: float | None = None) -> list[str]:
        """Run steps within `timeout` seconds, by default 0.1; raises `FleetUnavailableError`."""
        keys = [
            f"{self._prefix}:{kind}:{step.name}" for step in steps for kind in ("verdict", "asking")
        ]
        arguments = [
            part
            for step in steps
            for part in (step.verb, step.marker, str(max(int(step.lifetime * 1000), 1)), step.text)
        ]
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT if timeout is None else timeout):
                answers = await self._client.eval(
                    _STEPS, len(keys), *keys, str(MAX_ENTRY), *arguments
                )
            if not isinstance(answers, list) or len(answers) != len(steps):
                raise TypeError("not the answers of the program")
            return [_text(each) for each in answers]
        except Exception as exc:  # noqa: BLE001  what a server that is no Redis makes the client raise
            failed = f"Redis failed with {type(exc).__name__}."
        # Raised after the `except` block, without a cause: the frames of the error may hold a
        # password.
        raise FleetUnavailableError(failed)

    async def aclose(self) -> None:
        """Close the connections."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await self._client.aclose()
        except Exception:  # noqa: BLE001, S110  the connection is dropped in any case
            pass


def _text(value: object) -> str:
    # Bytes that are not UTF-8 must survive the round trip: `claim` hashes them.
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)
