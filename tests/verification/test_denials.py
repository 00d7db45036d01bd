"""JWTs that are denied: by the token itself, by its id, or with all JWTs of a machine."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from forging import jws
from jwt_service import claims, service
from outcomes import code

from clerk_m2m import Clock, Verifier
from clerk_m2m.lookups.invalidations import MAX_ROWS, MAX_UNPROVEN
from harness import World


async def test_a_jwt_is_denied_by_its_id_until_it_expires(world: World) -> None:
    verifier = service(world, cache_ttl=3600)
    denied = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    other = world.jwt()
    await verifier.verify(denied.token)

    verifier.invalidate(token_id=denied.id)

    for _ in range(61):
        assert await code(verifier, denied.token) == "token_invalid"
        world.time.advance(60)
    assert await code(verifier, other) == "token_invalid"  # this one has expired
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_jwt_can_be_denied_before_its_first_use(world: World) -> None:
    verifier = service(world)
    token = world.emulator.mint_m2m_token(world.caller, token_format="jwt")

    verifier.invalidate(token_id=token.id)

    assert await code(verifier, token.token) == "token_invalid"
    assert await code(verifier, world.jwt()) == "accepted"


async def test_invalidating_a_jwt_denies_only_that_jwt(world: World) -> None:
    verifier, token, other = service(world), world.jwt(), world.jwt()
    await verifier.verify(token)

    verifier.invalidate(token=token)

    assert await code(verifier, token) == "token_invalid"
    assert await code(verifier, other) == "accepted"


async def test_a_jwt_can_be_denied_before_the_key_set_is_fetched(world: World) -> None:
    verifier, token, other = service(world), world.jwt(), world.jwt()

    verifier.invalidate(token=token)

    assert world.upstream.requests == []
    assert await code(verifier, token) == "token_invalid"
    assert await code(verifier, other) == "accepted"


def forged(token_id: str, world: World, header: dict[str, Any] | None = None) -> str:
    """A JWT of that id that no key of the instance has signed."""
    return jws(header or {"alg": "none"}, claims(world, jti=token_id), lambda _: b"x")


@pytest.mark.parametrize("algorithm", ["none", "RS256"])
async def test_invalidating_a_forged_jwt_does_not_deny_the_genuine_one(
    world: World, algorithm: str
) -> None:
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


async def test_invalidating_a_machine_denies_all_jwts_that_it_minted_before(world: World) -> None:
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


@pytest.mark.parametrize("by", ["machine_id", "token_id", "token"])
async def test_a_denial_applies_longer_than_cache_ttl(world: World, by: str) -> None:
    verifier = service(world, cache_ttl=1)
    minted = world.emulator.mint_m2m_token(world.caller, token_format="jwt")
    named = {"machine_id": world.caller.id, "token_id": minted.id, "token": minted.token}

    verifier.invalidate(**{by: named[by]})
    world.time.advance(600)
    verifier.invalidate(machine_id=world.stranger.id)  # removes the rows that have expired

    assert await code(verifier, minted.token) == "token_invalid"
    assert await code(verifier, world.jwt()) == "accepted"


def slow_service(world: World, **given: Any) -> Verifier:
    """The same service on a host whose wall clock is 60 s slow."""
    time = world.time
    settings = world.live_settings(graph={world.caller.id: [world.callee.id]}, **given)
    clock = Clock(monotonic=lambda: time.monotonic, wall=lambda: time.wall - 60)
    verifier = Verifier(settings, transport=world.upstream, clock=clock)
    world.verifiers.append(verifier)
    return verifier


async def test_a_machine_is_denied_by_clerks_clock_when_this_hosts_is_slow(world: World) -> None:
    verifier = slow_service(world)
    await verifier.verify(world.token())  # its answer has a Date
    world.time.advance(100)
    token = world.jwt()
    world.time.advance(20)

    verifier.invalidate(machine_id=world.caller.id)

    world.time.advance(60)  # past the token's `nbf` by the slow clock
    assert await code(verifier, token) == "token_invalid"
    later = world.jwt()
    world.time.advance(60)
    assert await code(verifier, later) == "accepted"


async def test_the_date_of_a_public_key_set_is_not_used_as_clerks_time(world: World) -> None:
    async def fast(request: httpx.Request) -> httpx.Response:
        date = {"Date": "Fri, 31 Dec 2100 23:59:59 GMT"}
        return httpx.Response(200, json=world.emulator.jwks(), headers=date)

    world.upstream.intercept = fast
    verifier = service(world, jwks_url="https://keys.test/jwks")
    await verifier.verify(world.jwt())

    verifier.invalidate(machine_id=world.caller.id)

    world.time.advance(6)
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_denial_applies_to_a_verification_that_waits_for_the_key_set(world: World) -> None:
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


async def test_deleting_a_machine_through_a_watched_client_denies_its_jwts(world: World) -> None:
    verifier, token = service(world), world.jwt()
    await verifier.verify(token)
    client = world.emulator.client()
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


async def test_a_denial_does_not_apply_to_another_verifier(world: World) -> None:
    """As docs/security.md says, a denial applies to one verifier only, without a fleet."""
    here, there = service(world), service(world)
    token = world.emulator.mint_m2m_token(world.caller, token_format="jwt")

    here.invalidate(token_id=token.id)

    assert await code(here, token.token) == "token_invalid"
    assert await code(there, token.token) == "accepted"
