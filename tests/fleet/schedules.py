"""Random schedules: three services of a fleet invalidate tokens while Redis and its network fail.

After a schedule all faults end. From then on no service may accept an invalidated token. There are
two servers: a failover replaces the first by the second, which has an older copy of the data. The
clock of the services stands still, so no verdict expires.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import redis as redis_py

from clerk_m2m import (
    Fleet,
    FleetUnavailableError,
    ScopeDeniedError,
    TokenInvalidError,
    VerificationUnavailableError,
    Verifier,
)
from clerk_m2m.emulator import EmulatedMachine
from clerk_m2m.testing import ClerkEmulator
from harness import open_world

from .proxy import Fault, Proxy, proxy_to
from .services import FLEET_KEY, in_sync, until

# Seconds within which every service must refuse, counted from the end of the last fault or
# invalidation: without faults (with a reserve for two cores), and after faults.
CONNECTED = 0.25
HEALED = 1.0
# Seconds without an answer after which a service notices a half-open connection.
NOTICED = 1.0


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A token of a caller."""

    caller: EmulatedMachine
    text: str
    id: str

    @classmethod
    def to(
        cls,
        caller: EmulatedMachine,
        emulator: ClerkEmulator,
        token_format: Literal["opaque", "jwt"],
    ) -> Issued:
        """Mint a token, opaque or a JWT."""
        minted = emulator.mint_m2m_token(caller, token_format=token_format)
        return cls(caller=caller, text=minted.token, id=minted.id)


@dataclass(kw_only=True)
class Schedule:
    """The state of a schedule: two servers, and the services, each behind its own proxy."""

    seed: int
    servers: list[redis_py.Redis]
    emulator: ClerkEmulator
    callee: EmulatedMachine
    callers: list[EmulatedMachine]
    edges: set[str]
    proxies: list[Proxy]
    services: list[Verifier]
    prefix: str
    made: random.Random
    faults: list[str] = field(default_factory=list)
    revoked: dict[str, float] = field(default_factory=dict)
    revoking: list[asyncio.Task[None]] = field(default_factory=list)
    healed_at: float = 0.0

    @property
    def keys(self) -> list[str]:
        """The keys of the log."""
        return [f"{{{self.prefix}}}:log:{name}" for name in ("head", "rows")]


async def run(seed: int, ports: tuple[int, int]) -> tuple[float, list[str]]:
    """Run a schedule; return the seconds from the end of the faults to the last refusal.

    Returns the names of the faults, too.
    """
    async with _opened(seed, ports) as schedule:
        made = schedule.made
        tokens = [
            Issued.to(each, schedule.emulator, "jwt" if made.random() < 0.5 else "opaque")
            for each in schedule.callers
            for _ in range(2)
        ]
        for service in schedule.services:
            await _accepts(service, tokens[0].text)  # starts the follower
        await until(lambda: in_sync(*schedule.services))
        for service in schedule.services:
            for token in tokens:
                assert await _accepts(service, token.text), f"seed {seed}"

        for _ in range(made.randint(4, 8)):
            if made.random() < 0.5:
                fault = made.choice(FAULTS)
                schedule.faults.append(fault.__name__.strip("_"))
                await fault(schedule)
            else:
                token = made.choice(tokens)
                task = asyncio.create_task(_revoke(schedule, token))
                schedule.revoking.append(task)
            await asyncio.sleep(made.choice([0, 0.002, 0.01, 0.03]))
        for proxy in schedule.proxies:
            proxy.mend() if proxy.fault else None
        await asyncio.gather(*schedule.revoking)
        return await _until_nobody_accepts(schedule), schedule.faults


async def _until_nobody_accepts(schedule: Schedule) -> float:
    healed_at = time.monotonic()
    budget = HEALED if schedule.faults else CONNECTED
    if "half_open" in schedule.faults:
        budget += NOTICED
    refused_at: dict[tuple[int, str], float] = {}
    while len(refused_at) < len(schedule.services) * len(schedule.revoked):
        for number, service in enumerate(schedule.services):
            for token in schedule.revoked:
                if await _accepts(service, token):
                    refused_at.pop((number, token), None)
                else:
                    refused_at.setdefault((number, token), time.monotonic() - healed_at)
        assert time.monotonic() - healed_at < 5 * budget, (
            f"seed {schedule.seed}: accepted for long after {schedule.faults}"
        )
        await asyncio.sleep(0.005)
    took = max(refused_at.values(), default=0.0)
    assert took < budget, f"seed {schedule.seed}: accepted for {took:.2f} s after {schedule.faults}"
    return took


async def _accepts(service: Verifier, token: str) -> bool:
    try:
        await service.verify(token)
    except (TokenInvalidError, ScopeDeniedError, VerificationUnavailableError):
        return False
    return True


async def _revoke(schedule: Schedule, token: Issued) -> None:
    """Revoke a token at one service, in a random way; retry until the log has the invalidation."""
    made, emulator = schedule.made, schedule.emulator
    service = made.choice(schedule.services)
    caller = token.caller
    is_jwt = token.text.count(".") == 2
    way = made.choice(["token", "token_id", "machine_id", "edge"])
    names = {"token": token.text, "token_id": token.id, "machine_id": caller.id}
    if way == "edge" and caller.id in schedule.edges:
        schedule.edges.remove(caller.id)
        client = emulator.client()
        stop = service.watch(client)
        await client.machines.delete_scope(caller.id, schedule.callee.id)
        stop()
    else:
        way = way if way in names else "token"
        if not is_jwt:
            emulator.revoke_m2m_token(token.id)
        while True:
            try:
                await service.invalidate_everywhere(**{way: names[way]})
                break
            except FleetUnavailableError:
                await asyncio.sleep(0.01)
    schedule.revoked[token.text] = time.monotonic()


async def _disconnect(schedule: Schedule) -> None:
    schedule.made.choice(schedule.proxies).cut()


async def _kill_clients(schedule: Schedule) -> None:
    schedule.servers[0].client_kill_filter(_type="normal")


async def _half_open(schedule: Schedule) -> None:
    schedule.made.choice(schedule.proxies).leave_half_open()


async def _partition(schedule: Schedule) -> None:
    await schedule.made.choice(schedule.proxies).break_with(schedule.made.choice(list(Fault)))


async def _trim(schedule: Schedule) -> None:
    schedule.servers[0].xtrim(schedule.keys[1], maxlen=schedule.made.randint(0, 1))


async def _delete_row(schedule: Schedule) -> None:
    rows: Any = schedule.servers[0].xrange(schedule.keys[1])
    if rows:
        schedule.servers[0].xdel(schedule.keys[1], schedule.made.choice(rows)[0])


async def _flush(schedule: Schedule) -> None:
    schedule.servers[0].flushall()


async def _restart_empty(schedule: Schedule) -> None:
    schedule.servers[0].flushall()
    for proxy in schedule.proxies:
        proxy.cut()


async def _evict(schedule: Schedule) -> None:
    schedule.servers[0].delete(schedule.made.choice(schedule.keys))


async def _fail_over(schedule: Schedule) -> None:
    """Copy the state to the second server, and let it take over a moment later."""
    old, new = schedule.servers
    new.flushall()
    for key in schedule.keys:
        state = old.dump(key)
        if state is not None:
            new.restore(key, 0, state)
    await asyncio.sleep(schedule.made.choice([0, 0.01, 0.05]))
    schedule.servers.reverse()
    port = new.connection_pool.connection_kwargs["port"]
    for proxy in schedule.proxies:
        proxy.upstream = port
        proxy.cut()


FAULTS: list[Callable[[Schedule], Awaitable[None]]] = [
    _disconnect,
    _kill_clients,
    _half_open,
    _partition,
    _trim,
    _delete_row,
    _flush,
    _restart_empty,
    _evict,
    _fail_over,
]


@asynccontextmanager
async def _opened(seed: int, ports: tuple[int, int]) -> AsyncIterator[Schedule]:
    prefix = f"schedule:{seed}"
    async with AsyncExitStack() as stack:
        servers = [stack.enter_context(redis_py.Redis(port=port)) for port in ports]
        proxies = [await stack.enter_async_context(proxy_to(ports[0])) for _ in range(3)]
        world = await stack.enter_async_context(open_world())
        fleets = [
            Fleet(f"redis://127.0.0.1:{each.port}", keys=[FLEET_KEY], prefix=prefix)
            for each in proxies
        ]
        callers = [
            world.emulator.add_machine(f"caller {number}", may_call=[world.callee])
            for number in range(4)
        ]
        yield Schedule(
            seed=seed,
            servers=servers,
            emulator=world.emulator,
            callee=world.callee,
            callers=callers,
            edges={each.id for each in callers},
            proxies=proxies,
            services=[world.verifier(world.live_settings(fleet=each)) for each in fleets],
            prefix=prefix,
            made=random.Random(seed),
        )
