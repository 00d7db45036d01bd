"""`Tier`: one verification at Clerk for all processes of a service.

It wraps the verification at Clerk. It first looks whether another process has shared its verdict,
and asks Clerk if none has. Rules of this file:

- Only positive verdicts are shared, and only while the log is followed. A verdict carries the
  position in the log at which Clerk was asked; a later invalidation makes it unusable.
- A process sets a marker before it asks Clerk. A process that finds a marker looks again every
  20 ms, and holds no place in the queue of calls while it waits. After a quarter of `timeout` it
  asks Clerk itself. So whatever is in Redis, no request fails because of it.
- A refresh without a waiter uses a shared verdict that is younger than half of `cache_ttl`. If
  another process is asking Clerk, it looks again after a second.
- A verdict is checked against the log after it was decrypted. An invalidation that comes after that
  check is newer than `demand.asked_at`, so it voids the answer in the caller's cache.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from clerk_m2m.clock import Clock
from clerk_m2m.credentials import OpaqueCredential
from clerk_m2m.fleet.applied import Applied, Mark
from clerk_m2m.fleet.contents import Shared, read
from clerk_m2m.fleet.entries import Step, claim, free, keep, look
from clerk_m2m.fleet.exchange import PATIENCE, WARM_UP, Exchange, Follows
from clerk_m2m.fleet.seal import Seal
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.identity import TokenClass
from clerk_m2m.lookups.cache import JITTER
from clerk_m2m.lookups.digest import digest_of
from clerk_m2m.lookups.invalidations import Name
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer, Ask, Refused, Verdict
from clerk_m2m.observe.counters import SharedVerdicts
from clerk_m2m.secret import Secret
from clerk_m2m.transport.admission import Priority
from clerk_m2m.transport.gate import nobody_waits

# How many seconds the clock of the process that asked Clerk may be ahead of this host's.
MAX_AHEAD: Final = 5.0
# The part of `cache_ttl` for which a verdict is shared: the shortest time for which a process
# caches it. Refreshes use only verdicts that are younger than the second part.
SHARED_PART: Final = 1 - JITTER
YOUNG_PART: Final = 0.5
# The part of `timeout` for which a request waits for another process; the rest is for its own call.
WAITING_PART: Final = 0.25
# Seconds between two looks at the marker of another process: of a request, and of a refresh.
POLL: Final = 0.02
REFRESH_LOOK: Final = 1.0


class Member(Follows, Protocol):
    """The follower of the log, as far as the tier uses it."""

    applied: Applied

    def start(self) -> None:
        """Start to follow the log, unless a follower runs already."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The name of a token's entry in Redis, and the seal that encrypts it."""

    seal: Seal
    digest: bytes
    name: str


class Tier:
    """Verifies opaque credentials once for all processes that have the same keys and `context`.

    `ask` asks Clerk. `digest_keys` make the digests of tokens, one for each key of the fleet.
    `key_at_hand(kind)` returns the Clerk key that verifies a kind of credential, or None if it is
    not known yet. `context` names everything else that a verdict depends on. `cache_ttl` and
    `timeout` are in seconds. `counted` counts the results: hits, misses, waits and refused entries.
    """

    def __init__(
        self,
        ask: Ask,
        fleet: Fleet,
        member: Member,
        *,
        digest_keys: tuple[bytes, ...],
        key_at_hand: Callable[[TokenClass], Secret | None],
        context: str,
        cache_ttl: float,
        timeout: float,
        clock: Clock,
        counted: SharedVerdicts,
    ) -> None:
        self._ask = ask
        self._fleet_keys = fleet.keys
        self._member = member
        self._applied = member.applied
        self._exchange = Exchange(fleet, member)
        self._digest_keys = digest_keys
        self._key_at_hand = key_at_hand
        self._context = context
        self._cache_ttl = cache_ttl
        self._timeout = timeout
        self._clock = clock
        self._counted = counted
        self._seals: dict[TokenClass, tuple[Secret, tuple[Seal, ...]]] = {}

    async def warm_up(self) -> None:
        """Reach Redis and read the log before the first request, for 0.5 s at most."""
        self._member.start()
        await self._exchange.ready(self._in_sync, within=WARM_UP)

    async def __call__(self, credential: OpaqueCredential, demand: Demand) -> Answer[Verdict]:
        """Return another process's shared verdict, else Clerk's; raises `BackendAPIError`."""
        self._member.start()  # the first call of a forked process may be a refresh
        places = self._places(credential)
        if not places or not await self._exchange.ready(self._in_sync):
            return await self._ask(credential, demand)
        marker = secrets.token_hex(16)
        found, claimed = await self._find(places, credential.token_class, marker, demand)
        if found is not None:
            self._counted.hits += 1
            return found
        self._counted.misses += 1
        mark, asked_at, place = self._applied.mark, self._clock.wall(), places[0]
        last = free(place.name, marker) if claimed else None
        try:
            answer = await self._ask(credential, demand)
            last = self._kept(place, marker, answer, mark, asked_at) or last
        finally:
            if last is not None:
                self._exchange.tell(last)
        return answer

    def _in_sync(self) -> bool:
        return self._applied.mark is not None

    # Looking

    async def _find(
        self, places: list[_Place], kind: TokenClass, marker: str, demand: Demand
    ) -> tuple[Answer[Verdict] | None, bool]:
        """Return the shared verdict, or None and whether this process has set the marker."""
        loop = asyncio.get_running_loop()
        began_at, waits, known = loop.time(), False, ""
        waited_since: float | None = None  # by a request
        for each in places[1:]:  # while one key of the fleet replaces another
            said = await self._exchange.ask(look(each.name))
            answer = self._answer_of(places, each, kind, said or "", demand)
            if answer is not None:
                return answer, False
        place = places[0]
        while True:
            step = claim(place.name, marker, self._timeout, known)
            within = PATIENCE if waits else began_at + PATIENCE - loop.time()
            said = await self._exchange.ask(step, within=within)
            if said is None or said == "won":
                return None, said is not None
            if said.startswith("entry:"):
                answer = self._answer_of(places, place, kind, said, demand)
                if answer is not None:
                    return answer, False
                known = said.removeprefix("entry:")
            if demand.priority is Priority.REFRESH:
                end = began_at + self._timeout
            else:
                waited_since = waited_since or loop.time()
                end = waited_since + WAITING_PART * self._timeout
            if loop.time() >= end:
                return None, False
            if said == "held":
                self._counted.waits += not waits
                waits = True
                await self._wait(demand)

    async def _wait(self, demand: Demand) -> None:
        """Wait before the next look; raises `OverloadedError` if the call has no waiters left.

        If a request joins the call or leaves it, the wait ends at once.
        """
        changed = asyncio.Event()
        demand.on_change = changed.set
        try:
            refresh = demand.priority is Priority.REFRESH
            async with asyncio.timeout(REFRESH_LOOK if refresh else POLL):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            demand.on_change = None
        if demand.given_up:
            raise nobody_waits("verification")

    def _answer_of(
        self, places: list[_Place], place: _Place, kind: TokenClass, said: str, demand: Demand
    ) -> Answer[Verdict] | None:
        """Return the answer in an entry, with its remaining lifetime; None if it must not count."""
        entry = said.removeprefix("entry:")
        if not entry:
            return None
        contents = place.seal.open(place.digest, entry)
        shared = None if contents is None else read(kind, contents)
        now = self._clock.wall()
        if shared is None or shared.asked_at > now + MAX_AHEAD:
            self._counted.refused += 1
            return None
        age = max(now - shared.asked_at, 0.0)
        part = YOUNG_PART if demand.priority is Priority.REFRESH else SHARED_PART
        if age >= min(part * self._cache_ttl, shared.left):
            return None
        identity = shared.identity
        names: list[Name] = [each.digest for each in places]
        names += [identity.token_id, identity.subject]
        since = self._clock.monotonic() - self._cache_ttl - MAX_AHEAD
        if self._applied.outlaws(names, shared.mark, since=since):
            return None
        return Answer(value=identity, lifetime=shared.left - age, age=age)

    # Sharing

    def _kept(
        self,
        place: _Place,
        marker: str,
        answer: Answer[Verdict],
        mark: Mark | None,
        asked_at: float,
    ) -> Step | None:
        """Return the step that shares an answer, or None if it must not be shared."""
        now = self._applied.mark
        if mark is None or now is None or now.epoch != mark.epoch:
            return None
        if answer.negative or isinstance(answer.value, Refused):
            return None
        passed = self._clock.wall() - asked_at
        lifetime = min(SHARED_PART * self._cache_ttl, answer.lifetime) - passed
        shared = Shared(identity=answer.value, asked_at=asked_at, left=answer.lifetime, mark=mark)
        contents = shared.write()
        if contents is None or lifetime <= 0:
            return None
        return keep(place.name, marker, lifetime, place.seal.close(place.digest, contents))

    def _places(self, credential: OpaqueCredential) -> list[_Place]:
        """Return the entry's place under each key of the fleet; empty if no Clerk key is known.

        The verdict is written to the first place and read from all of them.
        """
        token = credential.token
        pairs = zip(self._digest_keys, self._seals_of(credential.token_class), strict=False)
        digests = [(digest_of(key, token.reveal()), seal) for key, seal in pairs]
        return [_Place(seal, digest, seal.name(digest)) for digest, seal in digests]

    def _seals_of(self, kind: TokenClass) -> tuple[Seal, ...]:
        clerk_key = self._key_at_hand(kind)
        if clerk_key is None:
            return ()
        known = self._seals.get(kind)
        if known is None or known[0] != clerk_key:
            context = f"{self._context}\n{kind.value}"
            seals = tuple(Seal(each, clerk_key, context) for each in self._fleet_keys)
            known = self._seals[kind] = (clerk_key, seals)
        return known[1]
