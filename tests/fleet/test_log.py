"""Revocations that reach every service of a fleet, over a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from clerk_m2m import Fleet, Verifier
from harness import World

from .services import Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]


async def two(world: World, fleet: MakeFleet) -> tuple[Verifier, Verifier]:
    """Two services of one fleet that follow the log."""
    one, other = (world.verifier(world.live_settings(fleet=fleet())) for _ in range(2))
    for each in (one, other):
        await accepts(each, world.token())
    await until(lambda: in_sync(one, other))
    return one, other


async def test_an_opaque_token_revoked_at_one_service_is_asked_for_again_at_another(
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

    late = world.verifier(world.live_settings(fleet=fleet()))

    assert not await accepts(late, jwt)


async def test_denials_are_written_again_where_redis_has_lost_them(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    # At once, each in a fleet of its own: what each one waits for takes a second.
    async with asyncio.TaskGroup() as group:
        for lost in ("everything", "head", "rows"):
            own = replace(redis, prefix=f"{redis.prefix}:{lost}")
            of_its_own = partial(fleet, prefix=own.prefix)
            group.create_task(_denials_are_written_again(world, of_its_own, own, lost))


async def _denials_are_written_again(
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
    late = world.verifier(world.live_settings(fleet=fleet()))
    assert not await accepts(late, jwt)
