"""An invalidation voids cached verdicts, and answers to calls in progress."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import pytest
from outcomes import accepts, at_once
from upstreams import record

from clerk_m2m import ScopeDeniedError, Verifier
from harness import USER_ID, World


class RacingClerk:
    """Decides at one moment and answers at another, each after a random number of steps."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self.dead: set[str] = set()
        self.believed_alive: set[str] = set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            await self._pass_time(5)
            return httpx.Response(200, json=machine(self._world))
        token = json.loads(request.content)["token"]
        await self._pass_time(5)
        alive = token not in self.dead
        if alive:
            self.believed_alive.add(token)
        await self._pass_time(15)
        self.believed_alive.discard(token)
        if alive:
            return httpx.Response(200, json=record(self._world, id=id_of(token)))
        return httpx.Response(404, json={"errors": []})

    async def _pass_time(self, most: int) -> None:
        for _ in range(self._chance.randrange(most)):
            await asyncio.sleep(0)


def id_of(token: str) -> str:
    return "mt_" + token[-32:]


def machine(world: World) -> dict[str, Any]:
    now = int(world.time.wall * 1000)
    callee = {
        "object": "machine",
        "id": world.callee.id,
        "name": "callee",
        "instance_id": "ins_" + "0" * 27,
        "created_at": now,
        "updated_at": now,
    }
    return callee | {"id": world.caller.id, "scoped_machines": [callee]}


@pytest.mark.parametrize("graph", ["live", None])
async def test_no_interleaving_accepts_a_token_after_its_invalidation(
    world: World, graph: str | None
) -> None:
    chance = random.Random(4)
    clerk = RacingClerk(world, chance)
    settings = world.live_settings(cache_size=20) if graph else world.settings(cache_size=20)
    verifier = Verifier(settings, transport=httpx.MockTransport(clerk), clock=world.time.clock)
    world.verifiers.append(verifier)
    accepted_before = accepted_after = raced = 0

    async def call(token: str) -> None:
        nonlocal accepted_before, accepted_after
        for _ in range(chance.randrange(10)):
            await asyncio.sleep(0)
        if await accepts(verifier, token):
            accepted_after += token in clerk.dead
            accepted_before += token not in clerk.dead

    async def end(token: str) -> None:
        nonlocal raced
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        raced += token in clerk.believed_alive
        clerk.dead.add(token)
        what = {"token": token, "token_id": id_of(token), "machine_id": world.caller.id}
        name = chance.choice(sorted(what))
        verifier.invalidate(**{name: what[name]})

    for number in range(1_000):
        token = f"mt_{number:040}"
        await asyncio.gather(end(token), *(call(token) for _ in range(2)))
        assert not await accepts(verifier, token)
    assert accepted_after == 0
    assert accepted_before > 100
    assert raced > 100


@pytest.mark.parametrize("what", ["token", "token_id", "machine_id"])
async def test_an_invalidated_token_is_verified_again(world: World, what: str) -> None:
    verifier, minted = world.verifier(), world.emulator.mint_m2m_token(world.caller)
    other = world.token(world.emulator.add_machine("other", may_call=[world.callee]))
    for token in (minted.token, other):
        await verifier.verify(token)
    world.emulator.revoke_m2m_token(minted.id)
    assert await accepts(verifier, minted.token)

    values = {"token": minted.token, "token_id": minted.id, "machine_id": world.caller.id}
    verifier.invalidate(**{what: values[what]})
    assert not await accepts(verifier, minted.token)
    at_once(verifier.verify(other))


@pytest.mark.parametrize("what", ["token", "token_id", "machine_id"])
async def test_an_invalidated_jwt_is_denied_until_it_expires(world: World, what: str) -> None:
    verifier = world.verifier(world.live_settings())
    minted = world.emulator.mint_m2m_token(
        world.caller, token_format="jwt", seconds_until_expiration=100
    )
    assert await accepts(verifier, minted.token)

    values = {"token": minted.token, "token_id": minted.id, "machine_id": world.caller.id}
    verifier.invalidate(**{what: values[what]})
    for _ in range(30):
        assert not await accepts(verifier, minted.token)
        world.time.advance(4)


async def test_a_token_revoked_through_a_watched_client_is_refused_at_once(world: World) -> None:
    verifier, minted = world.verifier(), world.emulator.mint_m2m_token(world.caller)
    await verifier.verify(minted.token)

    async with world.emulator.client() as clerk:
        verifier.watch(clerk)
        await clerk.m2m_tokens.revoke(minted.id)
    assert not await accepts(verifier, minted.token)


@pytest.mark.parametrize("act", ["revoke", "delete"])
async def test_an_api_key_revoked_or_deleted_through_a_watched_client_is_refused_at_once(
    world: World, act: str
) -> None:
    verifier = world.verifier(world.live_settings())
    key = world.emulator.add_api_key("key", subject=USER_ID)
    await verifier.verify(key.secret)

    async with world.emulator.client() as clerk:
        verifier.watch(clerk)
        await getattr(clerk.api_keys, act)(key.id)
    assert not await accepts(verifier, key.secret)


async def test_an_oauth_token_revoked_through_a_watched_client_is_refused_at_once(
    world: World,
) -> None:
    verifier = world.verifier(world.live_settings())
    token = world.emulator.add_oauth_token(subject=USER_ID, client_id="client_shop").token
    other = world.emulator.add_oauth_token(subject=USER_ID).token
    await verifier.verify(token)
    await verifier.verify(other)

    async with world.emulator.client() as clerk:
        stop = verifier.watch(clerk)
        await clerk.oauth_access_tokens.revoke(token, oauth_application_id="oauthapp_shop")
        assert not await accepts(verifier, token)
        stop()
        await clerk.oauth_access_tokens.revoke(other, oauth_application_id="oauthapp_emulator")
    assert await accepts(verifier, other)  # from the cache: the verifier no longer watches


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_a_machine_deleted_through_a_watched_client_is_refused_at_once(
    world: World, token_format: Any
) -> None:
    verifier, token = world.verifier(world.live_settings()), world.token(token_format=token_format)
    await verifier.verify(token)

    async with world.emulator.client() as clerk:
        verifier.watch(clerk)
        await clerk.machines.delete(world.caller.id)
    assert not await accepts(verifier, token)


async def test_removing_an_edge_through_a_watched_client_takes_effect_at_once(world: World) -> None:
    verifier, token = world.verifier(world.live_settings()), world.token()
    await verifier.verify(token)

    async with world.emulator.client() as clerk:
        verifier.watch(clerk)
        await clerk.machines.delete_scope(world.caller.id, world.callee.id)
    with pytest.raises(ScopeDeniedError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "scope_denied"
