"""The main path: from a token to an identity or a refusal."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from minted_credentials import NO_ACCESS
from outcomes import outcome

from clerk_m2m import MachineIdentity, TokenInvalidError, VerificationUnavailableError
from harness import World, bearer, calling, protected, serve


async def test_an_accepted_caller_is_identified_by_its_machine(world: World) -> None:
    identity = await world.verifier().verify(world.token())

    assert isinstance(identity, MachineIdentity)
    assert identity.machine_id == world.caller.id


async def test_a_cached_verdict_costs_no_call(world: World) -> None:
    verifier, token = world.verifier(), world.token()

    for _ in range(5):
        await verifier.verify(token)

    assert world.emulator.calls["verifyM2MToken"] == 1
    assert verifier.stats.hits == 4


async def test_two_hundred_concurrent_requests_with_one_new_token_cost_one_call(
    world: World,
) -> None:
    verifier, token = world.verifier(), world.token()
    async with calling(protected(verifier)) as client:
        answers = await asyncio.gather(
            *(client.get("/", headers=bearer(token)) for _ in range(200))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert world.emulator.calls["verifyM2MToken"] == 1


async def test_an_unknown_token_is_invalid(world: World) -> None:
    with pytest.raises(TokenInvalidError) as refused:
        await world.verifier().verify("mt_" + "x" * 40)

    assert refused.value.code == "token_invalid"


async def test_the_middleware_works_over_real_sockets(world: World) -> None:
    async with (
        serve(protected(world.verifier())) as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        answer = await client.get("/", headers=bearer(world.token()))

    assert answer.json() == {"subject": world.caller.id}


async def test_invalidate_takes_exactly_one_name(world: World) -> None:
    verifier = world.verifier()
    for given in ({}, {"token": "mt_1", "token_id": "mt_1"}, {"token_id": "a", "machine_id": "b"}):
        with pytest.raises(TypeError, match="exactly one of"):
            verifier.invalidate(**given)


async def test_a_watched_clients_changes_apply_to_cached_verdicts_at_once(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    token = world.emulator.mint_m2m_token(world.caller)
    assert await outcome(verifier, token.token) == "allowed"
    async with world.emulator.client() as clerk:
        verifier.watch(clerk)
        await clerk.machines.delete_scope(world.caller.id, world.callee.id)
        assert await outcome(verifier, token.token) == NO_ACCESS
        await clerk.machines.create_scope(world.caller.id, world.callee.id)
        await clerk.m2m_tokens.revoke(token.id)
        assert await outcome(verifier, token.token) == "token_invalid"


async def test_a_verification_that_failed_is_repeated_at_the_next_request(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", status=500, times=1)
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)

    assert refused.value.code == "verification_unavailable"
    assert await outcome(verifier, token) == "allowed"
