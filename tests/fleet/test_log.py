"""Revocations that reach every service of a fleet, over a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from clerk_m2m import Fleet, Verifier
from clerk_m2m.fleet.log import Log
from clerk_m2m.fleet.rows import RowFormat
from clerk_m2m.lookups.invalidation import Invalidation
from harness import World

from .services import Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]


async def two(world: World, fleet: MakeFleet) -> tuple[Verifier, Verifier]:
    """Return two services of one fleet that follow the log."""
    one, other = (world.verifier(world.live_settings(fleet=fleet())) for _ in range(2))
    for each in (one, other):
        await accepts(each, world.token())
    await until(lambda: in_sync(one, other))
    return one, other


async def started(world: World, fleet: MakeFleet) -> Verifier:
    """Return a new service that has read the log, which takes over 0.1 s on a busy host."""
    verifier = world.verifier(world.live_settings(fleet=fleet()))
    await verifier.warm_up()
    await until(lambda: in_sync(verifier))
    return verifier


async def test_an_opaque_token_invalidated_at_one_service_is_verified_again_at_another(
    world: World, fleet: MakeFleet
) -> None:
    one, other = await two(world, fleet)
    minted = world.emulator.mint_m2m_token(world.caller)
    token = minted.token
    assert await accepts(other, token)
    world.emulator.revoke_m2m_token(minted.id)
    assert await accepts(other, token)  # from its cache

    await one.invalidate_everywhere(token=token)

    assert not await accepts(one, token)
    await until(lambda: measured(other).applied == 1)
    assert not await accepts(other, token)


@pytest.mark.parametrize("by", ["token", "token_id", "machine_id"])
async def test_a_jwt_is_denied_at_every_service(world: World, fleet: MakeFleet, by: str) -> None:
    one, other = await two(world, fleet)
    jwt = world.jwt()
    identity = await other.verify(jwt)
    names = {"token": jwt, "token_id": identity.token_id, "machine_id": world.caller.id}

    await one.invalidate_everywhere(**{by: names[by]})

    await until(lambda: measured(other).applied == 1)
    assert not await accepts(one, jwt)
    assert not await accepts(other, jwt)


async def test_a_service_that_starts_later_knows_the_denials(
    world: World, fleet: MakeFleet
) -> None:
    one, _ = await two(world, fleet)
    jwt = world.jwt()
    await one.invalidate_everywhere(token=jwt)

    assert not await accepts(await started(world, fleet), jwt)


async def test_denials_that_redis_lost_are_written_back(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    # All cases at the same time, each in its own fleet: each has to wait for about a second.
    async with asyncio.TaskGroup() as group:
        for lost in ("everything", "head", "rows"):
            own = replace(redis, prefix=f"{redis.prefix}:{lost}")
            of_its_own = partial(fleet, prefix=own.prefix)
            group.create_task(_lost_denials_are_written_back(world, of_its_own, own, lost))


async def _lost_denials_are_written_back(
    world: World, fleet: MakeFleet, redis: Redis, lost: str
) -> None:
    one, other = await two(world, fleet)
    jwt, minted = world.jwt(), world.emulator.mint_m2m_token(world.caller)
    token = minted.token
    await one.invalidate_everywhere(token=jwt)
    await until(lambda: measured(other).applied == 1)
    assert await accepts(other, token)
    world.emulator.revoke_m2m_token(minted.id)

    keys = {"head": redis.head, "rows": redis.rows}
    redis.call("DEL", *(key for name, key in keys.items() if lost in (name, "everything")))

    await until(lambda: measured(other).doubts and measured(one).doubts)
    assert not await accepts(other, token)  # it was verified again
    await until(lambda: redis.call("XLEN", redis.rows))
    assert not await accepts(await started(world, fleet), jwt)


@pytest.mark.parametrize("shape", [{}, {"protocol": 2}, {"protocol": 3}], ids=["own", "2", "3"])
async def test_wait_returns_the_rows_after_the_given_number(
    redis: Redis, fleet: MakeFleet, shape: dict[str, Any]
) -> None:
    log = Log(fleet(lambda: Client(port=redis.port, **shape)))
    form = RowFormat((b"k" * 32,))
    invalidations = [Invalidation(token_id=f"mt_{at}", instant=1.5) for at in range(3)]
    rows = [form.write(each, ends_at=None) for each in invalidations]
    await log.append(rows)

    given = await log.wait(1, timeout=0.1)

    assert [each.body for each in given] == [each.body for each in rows[1:]]
    assert tuple(given) == (await log.read(1)).rows
    assert await log.wait(3, timeout=0.01) == []
    await log.aclose()


async def test_a_row_is_applied_before_the_head_of_the_log_is_read(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    # Once in sync, this user of Redis may still wait for rows, but not run the program that reads
    # the head.
    user = f"waits-{redis.prefix[-8:]}"
    redis.call("ACL", "SETUSER", user, "reset", "on", "nopass", "~*", "+@all")
    one = world.verifier(world.live_settings(fleet=fleet()))
    server = f"redis://{user}:any@127.0.0.1:{redis.port}"
    other = world.verifier(world.live_settings(fleet=fleet(server=server)))
    for each in (one, other):
        await accepts(each, world.token())
    await until(lambda: in_sync(one, other))
    jwt = world.jwt()
    assert await accepts(other, jwt)
    redis.call("ACL", "SETUSER", user, "-eval")

    await one.invalidate_everywhere(token=jwt)

    await until(lambda: measured(other).applied == 1)
    assert not await accepts(other, jwt)
    await until(lambda: not in_sync(other))
