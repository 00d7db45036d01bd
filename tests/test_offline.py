"""JWTs verified without a call: what their claims become, how long they live, how to deny one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from clerk_m2m import (
    MachineIdentity,
    OAuthIdentity,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    Verifier,
)
from clerk_m2m._offline import MAX_DENIED
from harness import USER_ID, World


def service(world: World, **given: Any) -> Verifier:
    """A service that takes JWTs of machines and of users, and knows its graph."""
    graph = {world.caller.id: [world.callee.id]}
    return world.verifier(world.live_settings(**({"graph": graph} | given)))


def claims(world: World, **given: Any) -> dict[str, Any]:
    """The claims of a good M2M JWT of the caller's, with some of them given."""
    now = int(world.time.wall)
    token_id = "mt_" + "c" * 32
    times = {"iat": now, "nbf": now, "exp": now + 600}
    return {"iss": "x", "sub": world.caller.id, "jti": token_id, **times, **given}


async def code(verifier: Verifier, token: str) -> str:
    """What the verifier says of the token, in a word."""
    try:
        await verifier.verify(token)
    except RefusalError as refusal:
        return refusal.code
    return "accepted"


# Identities


async def test_a_machines_jwt_gives_its_machine_and_what_it_says_of_itself(world: World) -> None:
    token = world.emulator.mint_m2m_token(
        world.caller, token_format="jwt", claims={"tenant": "a", "list": [{"x": 1}]}
    )

    identity = await service(world).verify(token.token)

    assert isinstance(identity, MachineIdentity)
    assert (identity.machine_id, identity.token_format) == (world.caller.id, "jwt")
    assert identity.token_id == token.id
    assert identity.claims["tenant"] == "a"
    assert identity.expires_at == world.time.wall + 3600


async def test_claims_of_a_machine_never_become_scopes(world: World) -> None:
    wished = {"scopes": [world.callee.id], "aud": world.callee.id, "scope": "a b"}

    identity = await service(world).verify(world.jwt(claims=wished))

    assert identity.scopes == frozenset()
    assert set(wished) <= set(identity.claims)


async def test_nothing_reachable_in_the_claims_can_be_changed(world: World) -> None:
    identity = await service(world).verify(world.jwt(claims={"list": [{"x": 1}]}))
    held: Any = identity.claims

    with pytest.raises(TypeError):
        held["list"] = []
    with pytest.raises(TypeError):
        held["list"][0]["x"] = 2


async def test_deeply_nested_claims_are_neither_an_error_nor_a_way_in(world: World) -> None:
    nested: list[Any] = []
    for _ in range(800):
        nested = [nested]
    verifier = service(world)

    assert await code(verifier, world.jwt(claims={"x": nested})) == "accepted"
    assert await code(verifier, world.jwt(world.stranger, claims={"x": nested})) == "scope_denied"


async def test_an_access_token_gives_its_user_and_what_was_granted(world: World) -> None:
    token = world.emulator.add_oauth_token(
        subject=USER_ID, scopes=["read", "write"], client_id="client_x", token_format="jwt"
    )

    identity = await service(world).verify(token.token)

    assert isinstance(identity, OAuthIdentity)
    assert (identity.user_id, identity.client_id) == (USER_ID, "client_x")
    assert identity.scopes == {"read", "write"}


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "AT+JWT"])
async def test_an_access_token_is_told_by_its_type(world: World, typ: str) -> None:
    token = world.emulator.sign_jwt(claims(world, sub=USER_ID), headers={"typ": typ})

    assert isinstance(await service(world).verify(token), OAuthIdentity)


async def test_a_jwt_costs_no_paid_verification(world: World) -> None:
    verifier = service(world)

    for _ in range(3):
        await verifier.verify(world.jwt())

    assert (verifier.stats.paid, verifier.stats.offline) == (0, 3)
    assert set(world.emulator.calls) == {"GetJWKS"}


# Life


@pytest.mark.parametrize("seconds", [1, 30, 59, 61, 600])
async def test_nothing_is_accepted_five_seconds_past_its_end(world: World, seconds: int) -> None:
    verifier, token = service(world), world.jwt(seconds_until_expiration=seconds)
    await verifier.verify(token)

    world.time.advance(seconds + 4.9)
    assert await code(verifier, token) == "accepted"
    world.time.advance(0.1)
    assert await code(verifier, token) == "token_invalid"


async def test_a_kept_verdict_does_not_outlive_its_token_when_the_wall_clock_stands_still(
    world: World,
) -> None:
    verifier, token = service(world), world.jwt(seconds_until_expiration=20)
    await verifier.verify(token)
    world.time.monotonic += 20  # as if the clock had been set back in between
    hits = verifier.stats.hits

    await verifier.verify(token)

    assert verifier.stats.hits == hits


async def test_a_token_that_ends_while_the_key_set_is_fetched_is_refused(world: World) -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        world.time.advance(10)
        return httpx.Response(200, json=world.emulator.jwks())

    world.upstream.intercept = slow

    assert await code(service(world), world.jwt(seconds_until_expiration=1)) == "token_invalid"


# Denial


async def test_a_jwt_is_denied_by_its_id_until_its_end(world: World) -> None:
    verifier = service(world, cache_ttl=3600)
    denied = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    other = world.jwt()
    await verifier.verify(denied.token)

    verifier.invalidate(token_id=denied.id)

    for _ in range(61):
        assert await code(verifier, denied.token) == "token_invalid"
        world.time.advance(60)
    assert await code(verifier, other) == "token_invalid"  # this one by its age alone
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_jwt_may_be_denied_before_it_was_ever_seen(world: World) -> None:
    verifier = service(world)
    token = world.emulator.mint_m2m_token(world.caller, token_format="jwt")

    verifier.invalidate(token_id=token.id)

    assert await code(verifier, token.token) == "token_invalid"
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_jwt_is_denied_by_itself(world: World) -> None:
    verifier, token, other = service(world), world.jwt(), world.jwt()
    await verifier.verify(token)

    verifier.invalidate(token=token)

    assert await code(verifier, token) == "token_invalid"
    assert await code(verifier, other) == "accepted"


async def test_a_machine_is_denied_with_all_that_it_minted_until_then(world: World) -> None:
    verifier = service(
        world, graph={m.id: [world.callee.id] for m in (world.caller, world.stranger)}
    )
    seen, unseen, stranger = world.jwt(), world.jwt(), world.jwt(world.stranger)
    await verifier.verify(seen)

    verifier.invalidate(machine_id=world.caller.id)

    assert await code(verifier, seen) == "token_invalid"
    assert await code(verifier, unseen) == "token_invalid"
    assert await code(verifier, stranger) == "accepted"
    world.time.advance(6)  # past the leeway for Clerk's clock
    assert await code(verifier, world.jwt()) == "accepted"
    assert await code(verifier, seen) == "token_invalid"


async def test_a_denial_beats_a_verification_that_waits_for_the_key_set(world: World) -> None:
    verifier = service(world)
    token = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: httpx.Request) -> httpx.Response:
        asked.set()
        await go_on.wait()
        return httpx.Response(200, json=world.emulator.jwks())

    world.upstream.intercept = wait
    waiting = asyncio.create_task(code(verifier, token.token))
    await asked.wait()
    verifier.invalidate(token_id=token.id)
    go_on.set()

    assert await waiting == "token_invalid"
    assert await code(verifier, token.token) == "token_invalid"


async def test_revoking_through_our_own_client_denies(world: World) -> None:
    from clerk_m2m import ClerkClient

    verifier, token = service(world), world.jwt()
    await verifier.verify(token)
    client = ClerkClient(
        secret_key=world.emulator.secret_key, api_url="http://clerk.test", transport=world.upstream
    )
    verifier.watch(client)

    await client.machines.delete(world.caller.id)
    await client.aclose()

    assert await code(verifier, token) == "token_invalid"


async def test_denials_are_bounded_and_the_loss_of_one_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = service(world)
    first = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    last = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    offline = verifier._offline
    assert offline is not None
    offline.deny_token(first.id)
    for number in range(MAX_DENIED - 1):
        offline.deny_token(f"mt_{number}")
    assert await code(verifier, first.token) == "token_invalid"
    assert not caplog.records

    offline.deny_token(last.id)

    assert await code(verifier, last.token) == "token_invalid"
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_another_verifier_does_not_know_of_a_denial(world: World) -> None:
    """The budget of docs/security.md: a denial is this verifier's alone."""
    here, there = service(world), service(world)
    token = world.emulator.mint_m2m_token(world.caller, token_format="jwt")

    here.invalidate(token_id=token.id)

    assert await code(here, token.token) == "token_invalid"
    assert await code(there, token.token) == "accepted"


# The graph


async def test_a_cut_edge_bites_a_jwt_that_is_kept(world: World) -> None:
    verifier = service(world, graph="live", graph_ttl=30)
    token = world.jwt()
    await verifier.verify(token)
    world.emulator.cut(world.caller, world.callee)

    world.time.advance(30)

    with pytest.raises(ScopeDeniedError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "scope_denied"


async def test_a_deleted_machine_may_call_nobody(world: World) -> None:
    verifier, token = service(world, graph="live", graph_ttl=30), world.jwt()
    await verifier.verify(token)
    world.emulator.delete_machine(world.caller)

    world.time.advance(30)

    assert await code(verifier, token) == "scope_denied"


async def test_an_invalid_jwt_is_never_kept(world: World) -> None:
    """The category decides before the cache does, so a refusal leaves nothing behind."""
    verifier = service(world)
    early = world.emulator.sign_jwt(claims(world, nbf=world.time.wall + 60))
    with pytest.raises(TokenInvalidError):
        await verifier.verify(early)

    world.time.advance(60)

    assert await code(verifier, early) == "accepted"
