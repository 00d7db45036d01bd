"""JWTs verified without a call: their identities, and how long they are accepted."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import httpx
import pytest
from forging import b64, resigned
from jwt_service import claims, service
from outcomes import code

from clerk_m2m import MachineIdentity, OAuthIdentity, ScopeDeniedError, TokenInvalidError
from clerk_m2m.identity import freeze
from harness import USER_ID, World

ACCESS_TOKEN = {"typ": "at+jwt"}


# Identities


async def test_the_identity_of_a_machines_jwt_has_its_machine_and_its_claims(world: World) -> None:
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


async def test_the_claims_of_a_jwt_are_read_only_at_every_depth(world: World) -> None:
    identity = await service(world).verify(world.jwt(claims={"list": [{"x": 1}]}))
    held: Any = identity.claims

    with pytest.raises(TypeError):
        held["list"] = []
    with pytest.raises(TypeError):
        held["list"][0]["x"] = 2


async def test_deeply_nested_claims_are_no_error_and_grant_no_access(world: World) -> None:
    nested: list[Any] = []
    for _ in range(800):
        nested = [nested]
    verifier = service(world)

    assert await code(verifier, world.jwt(claims={"x": nested})) == "accepted"
    assert await code(verifier, world.jwt(world.stranger, claims={"x": nested})) == "scope_denied"


async def test_the_identity_of_an_access_token_has_its_user_client_and_scopes(world: World) -> None:
    token = world.emulator.add_oauth_token(
        subject=USER_ID, scopes=["read", "write"], client_id="client_x", token_format="jwt"
    )

    identity = await service(world).verify(token.token)

    assert isinstance(identity, OAuthIdentity)
    assert (identity.user_id, identity.client_id) == (USER_ID, "client_x")
    assert identity.scopes == {"read", "write"}


@pytest.mark.parametrize(
    ("granted", "scopes"),
    [
        ({"scp": "read write"}, {"read", "write"}),
        ({"scp": ["read", "write"]}, {"read", "write"}),
        ({"scp": [], "scope": "read"}, set()),  # as Clerk's SDK: scp first
        ({"scp": "read", "scope": "write"}, {"read"}),
        ({"scope": "write"}, {"write"}),
        ({}, set()),
    ],
)
async def test_scopes_of_an_access_token_are_read_from_scp_or_from_scope(
    world: World, granted: dict[str, Any], scopes: set[str]
) -> None:
    token = world.emulator.sign_jwt(claims(world, sub=USER_ID, **granted), headers=ACCESS_TOKEN)

    assert (await service(world).verify(token)).scopes == scopes


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "AT+JWT"])
async def test_an_access_token_is_recognized_by_its_typ(world: World, typ: str) -> None:
    token = world.emulator.sign_jwt(claims(world, sub=USER_ID), headers={"typ": typ})

    assert isinstance(await service(world).verify(token), OAuthIdentity)


@pytest.mark.parametrize(
    "odd",
    [
        {"aud": 7},
        {"aud": None},
        {"aud": []},
        {"aud": {"a": 1}},
        {"aud": ["https://us.test", 7]},
        {"act": "client_1"},
        {"act": [{"sub": "client_1"}]},
        {"act": None},
        {"scp": 7},
        {"scp": None, "scope": "read"},
        {"scp": ["read", 7]},
        {"scope": ["read"]},
        {"client_id": 7},
        {"sub": "org_" + "o" * 27},
    ],
    ids=str,
)
async def test_an_access_token_with_an_invalid_claim_is_refused_without_a_fetch(
    world: World, odd: dict[str, Any]
) -> None:
    given = {"sub": USER_ID, "aud": "https://us.test"} | odd
    token = world.emulator.sign_jwt(claims(world, **given), headers=ACCESS_TOKEN)

    assert await code(service(world, oauth_audience="https://us.test"), token) == "token_invalid"
    assert world.upstream.requests == []


async def test_a_jwt_costs_no_paid_verification(world: World) -> None:
    verifier = service(world)

    for _ in range(3):
        await verifier.verify(world.jwt())

    assert (verifier.stats.paid, verifier.stats.offline) == (0, 3)
    assert set(world.emulator.calls) == {"GetJWKS"}


async def test_a_forged_jwt_is_refused_before_its_claims_are_copied(world: World) -> None:
    verifier, genuine = service(world), world.jwt(claims={"list": [[]] * 1000})
    await verifier.verify(world.jwt())  # fetches the key set, so nothing waits below
    copied = 0

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal copied
        copied += event == "call" and frame.f_code is freeze.__code__

    async def copies(token: str) -> int:
        nonlocal copied
        copied = 0
        sys.setprofile(watch)
        try:
            await code(verifier, token)
        finally:
            sys.setprofile(None)
        return copied

    assert await copies(resigned(genuine, signature=b64(bytes(256)))) == 0
    assert await copies(genuine) == 1


# Lifetimes


@pytest.mark.parametrize("seconds", [1, 30, 59, 61, 600])
async def test_no_jwt_is_accepted_five_seconds_past_its_expiry(world: World, seconds: int) -> None:
    verifier, token = service(world), world.jwt(seconds_until_expiration=seconds)
    await verifier.verify(token)

    world.time.advance(seconds + 4.9)
    assert await code(verifier, token) == "accepted"
    world.time.advance(0.1)
    assert await code(verifier, token) == "token_invalid"


async def test_a_cached_verdict_does_not_outlive_its_token_when_the_wall_clock_stands_still(
    world: World,
) -> None:
    verifier, token = service(world), world.jwt(seconds_until_expiration=20)
    await verifier.verify(token)
    world.time.monotonic += 20  # as if the clock had been set back in between
    hits = verifier.stats.hits

    await verifier.verify(token)

    assert verifier.stats.hits == hits


async def test_a_token_that_expires_while_the_key_set_is_fetched_is_refused(world: World) -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        world.time.advance(10)
        return httpx.Response(200, json=world.emulator.jwks())

    world.upstream.intercept = slow

    assert await code(service(world), world.jwt(seconds_until_expiration=1)) == "token_invalid"


# The graph


async def test_a_cached_jwt_is_refused_after_its_edge_is_removed(world: World) -> None:
    verifier = service(world, graph="live", graph_ttl=30)
    token = world.jwt()
    await verifier.verify(token)
    world.emulator.cut(world.caller, world.callee)

    world.time.advance(30)

    with pytest.raises(ScopeDeniedError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "scope_denied"


async def test_a_jwt_of_a_deleted_machine_is_scope_denied(world: World) -> None:
    verifier, token = service(world, graph="live", graph_ttl=30), world.jwt()
    await verifier.verify(token)
    world.emulator.delete_machine(world.caller)

    world.time.advance(30)

    assert await code(verifier, token) == "scope_denied"


async def test_the_refusal_of_a_jwt_is_not_cached(world: World) -> None:
    """A JWT that is not valid yet is refused, and accepted as soon as it is valid."""
    verifier = service(world)
    early = world.emulator.sign_jwt(claims(world, nbf=world.time.wall + 60))
    with pytest.raises(TokenInvalidError):
        await verifier.verify(early)

    world.time.advance(60)

    assert await code(verifier, early) == "accepted"
