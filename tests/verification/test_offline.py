"""JWTs verified without a call: what their claims become, how long they live, how to deny one."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any

import httpx
import pytest
from forging import b64, jws, resigned

from clerk_m2m import (
    Clock,
    MachineIdentity,
    OAuthIdentity,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    Verifier,
)
from clerk_m2m.identity import freeze
from clerk_m2m.lookups.invalidations import MAX_ROWS, MAX_UNPROVEN
from harness import USER_ID, World

ACCESS_TOKEN = {"typ": "at+jwt"}


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
async def test_an_access_token_is_told_by_its_type(world: World, typ: str) -> None:
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
async def test_an_access_token_with_an_odd_claim_is_refused_without_a_key(
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
    await verifier.verify(world.jwt())  # the key set is at hand, so nothing waits below
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


async def test_a_jwt_is_denied_by_itself_before_any_key_is_known(world: World) -> None:
    verifier, token, other = service(world), world.jwt(), world.jwt()

    verifier.invalidate(token=token)

    assert world.upstream.requests == []
    assert await code(verifier, token) == "token_invalid"
    assert await code(verifier, other) == "accepted"


def forged(token_id: str, world: World, header: dict[str, Any] | None = None) -> str:
    """A JWT of that id that no key of the instance has signed."""
    return jws(header or {"alg": "none"}, claims(world, jti=token_id), lambda _: b"x")


@pytest.mark.parametrize("algorithm", ["none", "RS256"])
async def test_a_forged_jwt_denies_nobody_else(world: World, algorithm: str) -> None:
    verifier = service(world)
    victim = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    await verifier.verify(victim.token)
    header = {"alg": algorithm, "kid": world.emulator.instance_id}

    verifier.invalidate(token=forged(victim.id, world, header))

    world.time.advance(61)  # so that it is verified again
    assert await code(verifier, victim.token) == "accepted"


async def test_a_flood_of_forged_jwts_displaces_no_denial(world: World) -> None:
    verifier = service(world)
    denied = [world.emulator.mint_m2m_token(world.caller, token_format="jwt") for _ in range(2)]
    for token in denied:
        await verifier.verify(token.token)
    verifier.invalidate(token=denied[0].token)
    verifier.invalidate(token_id=denied[1].id)

    for number in range(MAX_UNPROVEN + 1):
        verifier._invalidations.add_unproven(number.to_bytes(16, "big"))

    assert len(verifier._invalidations) == 2
    assert [await code(verifier, token.token) for token in denied] == ["token_invalid"] * 2


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


def slow_service(world: World, **given: Any) -> Verifier:
    """The same service on a host whose wall clock is 60 s slow."""
    time = world.time
    settings = world.live_settings(graph={world.caller.id: [world.callee.id]}, **given)
    clock = Clock(monotonic=lambda: time.monotonic, wall=lambda: time.wall - 60)
    verifier = Verifier(settings, transport=world.upstream, clock=clock)
    world.verifiers.append(verifier)
    return verifier


async def test_a_machine_is_denied_by_clerks_clock_where_this_hosts_is_slow(world: World) -> None:
    verifier = slow_service(world)
    await verifier.verify(world.token())  # its answer has a Date
    world.time.advance(100)
    token = world.jwt()
    world.time.advance(20)

    verifier.invalidate(machine_id=world.caller.id)

    world.time.advance(60)  # past the moment when the token begins by the slow clock
    assert await code(verifier, token) == "token_invalid"
    later = world.jwt()
    world.time.advance(60)
    assert await code(verifier, later) == "accepted"


async def test_a_date_of_the_public_key_set_is_not_clerks(world: World) -> None:
    async def fast(request: httpx.Request) -> httpx.Response:
        date = {"Date": "Fri, 31 Dec 2100 23:59:59 GMT"}
        return httpx.Response(200, json=world.emulator.jwks(), headers=date)

    world.upstream.intercept = fast
    verifier = service(world, jwks_url="https://keys.test/jwks")
    await verifier.verify(world.jwt())

    verifier.invalidate(machine_id=world.caller.id)

    world.time.advance(6)
    assert await code(verifier, world.jwt()) == "accepted"


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


async def test_when_the_table_is_full_no_denial_is_lost(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest row becomes the floor: every JWT that was issued before it is refused."""
    verifier = service(world)
    first = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    verifier.invalidate(token_id=first.id)
    for number in range(MAX_ROWS - 1):
        verifier._invalidations.add(f"mt_{number}")
    assert await code(verifier, world.jwt()) == "accepted"
    assert not caplog.records

    verifier._invalidations.add("mt_one_more")

    assert await code(verifier, first.token) == "token_invalid"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    world.time.advance(6)
    assert await code(verifier, world.jwt()) == "accepted"


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
