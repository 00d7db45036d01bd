"""Three services of a fleet under steady load, while tokens are revoked and Redis keeps failing.

`python -m fleet.soaking SECONDS WARM_UP` prints the results of a run of that length as JSON. Each
service, Clerk and Redis run in their own processes. Each revoked token is sent to every service
until the longest time has passed for which it may still be accepted, and for a while longer. These
times are those of `docs/fleet.md`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

import httpx

from bench.processes import child
from clerk_m2m import BackendUnavailableError, ClerkClient

from .proxy import proxy_to
from .schedules import CONNECTED, HEALED, NOTICED
from .server_faults import FAULTS, Server

SERVICES = 3
CALLERS = 8
TOKENS_EACH = 6  # half of them JWTs
CACHE_TTL = 10.0
JWT_LIFE = 120.0
OPERATIONS = 40.0  # per second
REVOKING = 0.05  # the part of the operations that revoke
FAULT_EVERY = 20.0  # seconds
# Seconds for which a revoked token is sent again and again.
WATCHED = 1.5 * CACHE_TTL
# Seconds without new tokens after the invalidation of a machine: its JWTs that are issued up to 5 s
# later are denied too.
MACHINE_RESTS = 6.5
# Seconds after which all idle connections are closed: uvicorn and httpx close theirs after 5.
REST = 8.0


@dataclass(eq=False, kw_only=True)
class Token:
    """A token that is in use."""

    caller: int
    text: str
    id: str
    is_jwt: bool
    minted_at: float


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A fault, from its beginning until everything works again."""

    name: str
    began_at: float
    healed_at: float = inf

    @property
    def over_at(self) -> float:
        """When every service must have noticed the fault and applied the rows that it missed."""
        return self.healed_at + HEALED + (NOTICED if self.name == "half_open" else 0.0)


@dataclass(kw_only=True)
class Seen:
    """The results of a run. Times are in seconds; `at_rest` holds the states of each service."""

    seconds: float = 0.0
    operations: int = 0
    revocations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    unwritten: int = 0
    stale: list[str] = field(default_factory=list)
    refused_in_error: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    longest_connected: float = 0.0
    longest_healed: float = 0.0
    longest_own: float = 0.0
    connected: list[float] = field(default_factory=list)
    at_rest: list[dict[str, Any]] = field(default_factory=list)
    stood_still: float = 0.0
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Soak:
    """One run."""

    def __init__(
        self,
        services: list[httpx.AsyncClient],
        server: Server,
        clerk: ClerkClient,
        machine_keys: list[str],
        machine_ids: list[str],
        seed: int,
    ) -> None:
        self.services = services
        self.server = server
        self.clerk = clerk
        self.machine_keys = machine_keys
        self.machine_ids = machine_ids
        self.made = random.Random(seed)
        self.seen = Seen()
        self.tokens: list[Token] = []
        self.troubles: list[Trouble] = []
        # For each caller: how many rests after an invalidation of its machine are in progress, and
        # how many there were in total.
        self.resting = [0] * len(machine_ids)
        self.rests = [0] * len(machine_ids)
        self.working: set[asyncio.Task[None]] = set()
        self.began_at = monotonic()

    async def run(self, seconds: float, *, warm_up: float, every: float) -> Seen:
        """Run for `seconds`; read the states at rest after `warm_up` s, then every `every` s."""
        for caller in range(CALLERS):
            for number in range(TOKENS_EACH):
                await self._mint(caller, is_jwt=number % 2 == 0)
        standing = asyncio.create_task(self._watch_itself())
        look_at, end = self.began_at + warm_up, self.began_at + seconds
        while True:
            until = min(look_at, end)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._operate(until))
                group.create_task(self._harm(until))
            await asyncio.gather(*self.working)
            await self._look_at_rest()
            look_at += every
            if until == end:
                break
        standing.cancel()
        self.seen.seconds = monotonic() - self.began_at
        self.seen.load = os.getloadavg()
        return self.seen

    # Load

    async def _operate(self, end: float) -> None:
        next_at = monotonic()
        while (now := monotonic()) < end:
            if now < next_at:
                await asyncio.sleep(next_at - now)
            next_at += 1 / OPERATIONS
            self.seen.operations += 1
            revokes = self.made.random() < REVOKING
            task = asyncio.create_task(self._revoke() if revokes else self._use())
            self.working.add(task)
            task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.working.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.seen.failed.append(f"{self._now():.1f}: {exc!r}")

    async def _use(self) -> None:
        if not self.tokens:
            return
        token, number = self.made.choice(self.tokens), self.made.randrange(SERVICES)
        if token.is_jwt and monotonic() - token.minted_at > JWT_LIFE / 2:
            self.tokens.remove(token)
            await self._mint(token.caller, is_jwt=True)
            return
        status = (await self._send(number, token)).status_code
        if status != 200 and token in self.tokens:  # not in the list: revoked during the request
            kind = "JWT" if token.is_jwt else "opaque token"
            self.seen.refused_in_error.append(
                f"{self._now():.1f}: {kind} at {number}: {status}, {self._last_trouble()}"
            )

    async def _send(self, number: int, token: Token) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token.text}"}
        answer = await self.services[number].get("/", headers=headers)
        self.seen.answers[str(answer.status_code)] += 1
        return answer

    async def _mint(self, caller: int, *, is_jwt: bool) -> None:
        while self.resting[caller]:  # noqa: ASYNC110  rests may overlap, so an event would not do
            await asyncio.sleep(0.1)
        rests = self.rests[caller]
        minted = await self.clerk.m2m_tokens.create(
            token_format="jwt" if is_jwt else "opaque",
            seconds_until_expiration=JWT_LIFE if is_jwt else 3600,
            machine_secret_key=self.machine_keys[caller],
        )
        if rests == self.rests[caller]:
            token = Token(
                caller=caller,
                text=minted.token.reveal(),
                id=minted.id,
                is_jwt=is_jwt,
                minted_at=monotonic(),
            )
            self.tokens.append(token)

    # Revocations

    async def _revoke(self) -> None:
        if not self.tokens:
            return
        token, number = self.made.choice(self.tokens), self.made.randrange(SERVICES)
        way = self.made.choices(["token", "token_id", "machine_id"], weights=[7, 2, 1])[0]
        caller, revoked = token.caller, [token]
        if way == "machine_id":
            self.resting[caller] += 1
            self.rests[caller] += 1
            revoked = [each for each in self.tokens if each.caller == caller]
        for each in revoked:
            self.tokens.remove(each)
        for each in revoked:
            if not each.is_jwt:
                await self._revoke_at_clerk(each)
        at_clerk = monotonic()
        names = {"token": token.text, "token_id": token.id, "machine_id": self.machine_ids[caller]}
        here_at = inf
        while True:
            answer = await self.services[number].post("/invalidate", json={way: names[way]})
            told_at = monotonic()
            here_at = min(here_at, told_at)
            if answer.status_code == 200:
                break
            self.seen.unwritten += 1
            await asyncio.sleep(0.05)
        self.seen.revocations += 1
        await asyncio.gather(
            *(
                self._watch(each, at, here_at if at == number else None, at_clerk, told_at)
                for each in revoked
                for at in range(SERVICES)
            ),
            self._replace(revoked, resting=way == "machine_id"),
        )

    async def _revoke_at_clerk(self, token: Token) -> None:
        while True:
            try:
                await self.clerk.m2m_tokens.revoke(token.id)
            except BackendUnavailableError:  # the idle connection was closed at that moment
                await asyncio.sleep(0.05)
            else:
                return

    async def _replace(self, revoked: list[Token], *, resting: bool) -> None:
        if resting:
            # A process that applies the revocation late refuses JWTs minted until then: see the
            # known limits in docs/fleet.md.
            revoked_at = monotonic()
            while monotonic() < self._over_at(revoked_at) + MACHINE_RESTS:  # noqa: ASYNC110  faults overlap
                await asyncio.sleep(0.1)
            self.resting[revoked[0].caller] -= 1
        for each in revoked:
            await self._mint(each.caller, is_jwt=each.is_jwt)

    async def _watch(
        self, token: Token, number: int, here_at: float | None, at_clerk: float, told_at: float
    ) -> None:
        """Send a revoked token to a service, and judge when it was last accepted."""
        accepted_at, since, accepted = -inf, told_at, ""
        while (sent_at := monotonic()) < told_at + WATCHED or sent_at < self._over_at(told_at):
            answer = await self._send(number, token)
            if answer.status_code == 200:
                accepted_at, since, accepted = sent_at, sent_at, answer.text
            # Often at first, and after it was accepted; later once a second.
            await asyncio.sleep(0.01 if sent_at < since + 0.3 else 1.0)
        if here_at is not None:
            late, allowed = accepted_at - here_at, 0.0
            self.seen.longest_own = max(self.seen.longest_own, late)
        else:
            late, over_at = accepted_at - told_at, self._over_at(told_at)
            if not token.is_jwt:
                over_at = min(over_at, at_clerk + CACHE_TTL)
            allowed = over_at - told_at
            if allowed <= CONNECTED:
                self.seen.connected.append(max(late, 0.0))
                self.seen.longest_connected = max(self.seen.longest_connected, late)
            else:
                healed_at = max([told_at, *(each.healed_at for each in self._troubles_at(told_at))])
                self.seen.longest_healed = max(self.seen.longest_healed, accepted_at - healed_at)
        if late > allowed:
            kind = "JWT" if token.is_jwt else "opaque token"
            self.seen.stale.append(
                f"{told_at - self.began_at:.1f}: {kind} at {number}: {late:.3f} s instead of "
                f"{allowed:.3f} s, last with {accepted}, {self._last_trouble(told_at)}"
            )

    def _over_at(self, told_at: float) -> float:
        """Return when a revocation must be in force at every service."""
        over_at = told_at + CONNECTED
        for each in self._troubles_at(told_at):
            over_at = max(over_at, each.over_at)
        return over_at

    def _troubles_at(self, told_at: float) -> list[Trouble]:
        """Return the faults that may have delayed a revocation."""
        over_at, those = told_at + CONNECTED, []
        for each in self.troubles:
            if each.began_at <= over_at and each.over_at > told_at:
                those.append(each)
                over_at = max(over_at, each.over_at)
        return those

    # Faults

    async def _harm(self, end: float) -> None:
        while monotonic() + FAULT_EVERY < end:
            await asyncio.sleep(FAULT_EVERY * self.made.uniform(0.9, 1.0) - FAULT_EVERY / 20)
            faults = self.seen.faults
            fewest = min(faults[each.__name__] for each in FAULTS)
            fault = self.made.choice([each for each in FAULTS if faults[each.__name__] == fewest])
            faults[fault.__name__] += 1
            began_at = monotonic()
            self.troubles.append(Trouble(name=fault.__name__, began_at=began_at))
            await fault(self.server)
            self.troubles[-1] = Trouble(
                name=fault.__name__, began_at=began_at, healed_at=monotonic()
            )

    # What was seen

    async def _look_at_rest(self) -> None:
        """Ask each service for its state while there is no load."""
        await asyncio.sleep(REST)
        states = []
        for each in self.services:
            answer = await each.get("/state")
            states.append(answer.json())
        redis = await self.server.call("INFO", "clients")
        self.seen.at_rest.append(
            {
                "at": self._now(),
                "services": states,
                "connections": int(redis["connected_clients"]),
                "rows": await self.server.call("XLEN", await self.server.log_rows()),
            }
        )

    async def _watch_itself(self) -> None:
        while True:
            began_at = monotonic()
            await asyncio.sleep(0.02)
            self.seen.stood_still = max(self.seen.stood_still, monotonic() - began_at - 0.02)

    def _now(self) -> float:
        return monotonic() - self.began_at

    def _last_trouble(self, before: float = inf) -> str:
        those = [each for each in self.troubles if each.began_at <= before + CONNECTED]
        if not those:
            return "no fault yet"
        last = those[-1]
        times = [each - self.began_at for each in (last.began_at, last.healed_at)]
        return f"after {last.name} from {times[0]:.1f} to {times[1]:.1f}"


async def run(seconds: float, *, warm_up: float, every: float, seed: int = 1) -> Seen:
    """Run for this number of seconds, and return the results."""
    async with _opened(seed) as soak:
        return await soak.run(seconds, warm_up=warm_up, every=every)


@asynccontextmanager
async def _opened(seed: int) -> AsyncIterator[Soak]:
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(proxy_to(0)) for _ in range(SERVICES)]
        server = await stack.enter_async_context(Server(proxies, seed))
        clerk = stack.enter_context(child("fleet.soak_clerk")).ask({"callers": CALLERS})
        services = []
        for proxy in proxies:
            proxy.upstream = server.port
            settings = {
                "machine_id": clerk["callee"],
                "machine_secret_key": clerk["callee_key"],
                "secret_key": clerk["secret_key"],
                "api_url": clerk["origin"],
                "cache_ttl": CACHE_TTL,
                "unknown_rate": 1e6,
            }
            process = stack.enter_context(child("fleet.soak_service"))
            redis = f"redis://127.0.0.1:{proxy.port}"
            service = process.ask({"settings": settings, "redis": redis})
            # Closes connections before uvicorn does, which would make a request fail now and then.
            limits = httpx.Limits(keepalive_expiry=2.0)
            to_service = httpx.AsyncClient(base_url=service["origin"], timeout=30.0, limits=limits)
            services.append(await stack.enter_async_context(to_service))
        client = ClerkClient(secret_key=clerk["secret_key"], api_url=clerk["origin"])
        await stack.enter_async_context(client)
        yield Soak(
            services,
            server,
            client,
            machine_keys=[key for _, key in clerk["callers"]],
            machine_ids=[machine_id for machine_id, _ in clerk["callers"]],
            seed=seed,
        )


def report(seen: Seen) -> dict[str, Any]:
    """Return the results in the form in which they are printed."""
    told = dict(vars(seen))
    connected = sorted(told.pop("connected"))
    told["connected"] = {
        "watched": len(connected),
        "at_once": sum(each == 0.0 for each in connected),
        "p99": connected[int(len(connected) * 0.99)] if connected else None,
        "longest": connected[-1] if connected else None,
    }
    return told


if __name__ == "__main__":
    length, warm_up = map(float, sys.argv[1:])
    print(json.dumps(report(asyncio.run(run(length, warm_up=warm_up, every=warm_up))), indent=1))
