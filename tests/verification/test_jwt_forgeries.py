"""Forged and confused JWTs (RFC 8725 and above): the middleware refuses each without a call.

What an attacker can make is made with `forging`. What only Clerk can sign, but a service must
refuse, is signed with the instance's own key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from answers import ask
from forgeries import FORGERIES, INVALID, KEY, TYPE, WITHOUT_A_KEY, Case, Forge, Parts
from forging import jwk, number, rs256, rsa_key

from clerk_m2m import Verifier
from clerk_m2m.emulator import Emulator
from harness import SIGNING_KEY, USER_ID, World, open_world


def _named(forgeries: list[Case]) -> Any:
    return [pytest.param(forge, code, id=sentence) for sentence, forge, code in forgeries]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene() -> AsyncIterator[tuple[World, Parts, Verifier]]:
    """One service for all forgeries; it has fetched the key set and the caller's edge."""
    async with open_world() as world:
        verifier = world.verifier(world.live_settings())
        await verifier.verify(world.jwt())
        parts = Parts(world.emulator.instance_id, world.caller.id, int(world.time.wall))
        yield world, parts, verifier


Scene = tuple[World, Parts, Verifier]


def test_there_are_at_least_80_different_forgeries() -> None:
    sentences = [sentence for sentence, _, _ in FORGERIES]

    assert len(set(sentences)) == len(sentences) >= 80


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("forge", "code"), _named(FORGERIES))
async def test_a_forgery_is_refused_without_a_call(scene: Scene, forge: Forge, code: str) -> None:
    world, parts, verifier = scene
    calls, requests = world.emulator.calls.copy(), len(world.upstream.requests)

    answer = await ask(verifier, forge(parts))

    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert (world.emulator.calls, len(world.upstream.requests)) == (calls, requests)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("forge", "code"), _named(FORGERIES))
async def test_a_forgery_gives_no_identity_where_no_credential_is_required(
    scene: Scene, forge: Forge, code: str
) -> None:
    _, parts, verifier = scene

    answer = await ask(verifier, forge(parts), required=False)

    assert answer.json().get("subject") is None
    assert answer.status_code == 200 or answer.json()["code"] == code


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda p: p.token(), id="as Clerk writes it"),
        pytest.param(lambda p: p.headed(cat=...), id="without a category, as older tokens"),
        pytest.param(lambda p: p.headed(typ=...), id="without a type"),
        pytest.param(lambda p: p.headed(typ="jwt"), id="with its type in lower case"),
        pytest.param(lambda p: p.token(nbf=...), id="without nbf"),
        pytest.param(lambda p: p.token(aud=...), id="without an audience"),
        pytest.param(lambda p: p.token(exp=p.now - 4), id="ended within the leeway"),
        pytest.param(lambda p: p.token(iat=p.now + 4, nbf=p.now + 4), id="begins in the leeway"),
        pytest.param(lambda p: p.token(iat=p.now - 0.5, exp=p.now + 1.5), id="with broken seconds"),
        pytest.param(lambda p: p.headed(jku="http://attacker.test/"), id="with a jku to ignore"),
    ],
)
async def test_the_jwts_that_forgeries_are_made_from_are_accepted(
    scene: Scene, forge: Forge
) -> None:
    world, parts, verifier = scene

    answer = await ask(verifier, forge(parts))

    assert (answer.status_code, answer.json()) == (200, {"subject": world.caller.id})


@pytest.mark.parametrize(("forge", "code"), _named(WITHOUT_A_KEY))
async def test_a_forgery_that_shows_without_a_key_causes_no_fetch(
    world: World, forge: Forge, code: str
) -> None:
    parts = Parts(world.emulator.instance_id, world.caller.id, int(world.time.wall))

    answer = await ask(world.verifier(world.live_settings()), forge(parts))

    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert world.upstream.requests == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"payload":"e30","signatures":[]}', id="JSON serialization"),
        pytest.param("a.b.c d", id="a space within"),
        pytest.param("a.b.c,a.b.c", id="two joined with a comma"),
        pytest.param("=a.b.c", id="padding first"),
        pytest.param("a.b.c;d", id="a semicolon"),
        pytest.param('"a.b.c"', id="in quotes"),
    ],
)
async def test_a_text_with_characters_that_no_token_has_is_malformed(
    world: World, text: str
) -> None:
    answer = await ask(world.verifier(), text)

    assert (answer.status_code, answer.json()["code"]) == (400, "token_malformed")
    assert world.upstream.requests == []


async def test_a_token_of_another_instance_is_refused_even_under_the_same_kid(world: World) -> None:
    other = Emulator(clock=world.time.now)
    parts = Parts(world.emulator.instance_id, world.caller.id, int(world.time.wall))
    foreign = other.sign_jwt(parts.claims, headers=parts.header)

    answer = await ask(world.verifier(world.live_settings()), foreign)

    other.close()
    assert (answer.status_code, answer.json()["code"]) == (401, INVALID)


async def test_claims_of_a_jwt_never_grant_an_edge(world: World) -> None:
    wished = {"scopes": [world.callee.id], "aud": [world.callee.id], "scope": world.callee.id}
    token = world.jwt(world.stranger, claims=wished)

    answer = await ask(world.verifier(world.live_settings()), token)

    assert (answer.status_code, answer.json()["code"]) == (403, "scope_denied")


async def test_an_expired_jwt_without_an_edge_is_401_and_not_403(world: World) -> None:
    token = world.jwt(world.stranger, seconds_until_expiration=10)
    world.time.advance(20)

    answer = await ask(world.verifier(world.live_settings()), token)

    assert (answer.status_code, answer.json()["code"]) == (401, INVALID)


@pytest.mark.parametrize("accepts", [["m2m_token"], ["m2m_token", "api_key"]])
async def test_an_access_token_is_refused_unless_accepts_has_its_type(
    world: World, accepts: list[str]
) -> None:
    token = world.emulator.add_oauth_token(subject=USER_ID, token_format="jwt").token

    answer = await ask(world.verifier(world.live_settings(accepts=accepts)), token)

    assert (answer.status_code, answer.json()["code"]) == (401, TYPE)
    assert world.upstream.requests == []


async def test_a_machines_jwt_is_not_accepted_without_a_graph(world: World) -> None:
    answer = await ask(world.verifier(), world.jwt())

    assert (answer.status_code, answer.json()["code"]) == (401, TYPE)
    assert "graph" in answer.json()["detail"]
    assert world.upstream.requests == []


async def test_a_jwt_of_a_weak_key_in_the_key_set_is_refused(world: World) -> None:
    weak = rsa_key("short", 1024)

    async def weak_set(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"keys": [jwk(weak, kid="weak"), jwk(KEY, kid="good")]})

    world.upstream.intercept = weak_set
    parts = Parts("weak", world.caller.id, int(world.time.wall))
    verifier = world.verifier(world.live_settings(graph={world.caller.id: [world.callee.id]}))

    refused = await ask(verifier, parts.token(rs256(weak)))
    accepted = await ask(verifier, parts.headed(kid="good"))

    assert (refused.status_code, refused.json()["code"]) == (401, INVALID)
    assert accepted.status_code == 200


def test_numbers_of_a_key_are_written_as_the_key_set_writes_them() -> None:
    """The forgeries that key HMAC with the modulus would otherwise prove nothing."""
    emulator = Emulator(signing_key=SIGNING_KEY)
    published = emulator.jwks()["keys"][0]
    emulator.close()

    assert published["n"] == number(KEY.public_key().public_numbers().n)
