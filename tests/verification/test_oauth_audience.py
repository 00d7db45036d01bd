"""The audience of an OAuth access token (`aud`), and who acts for its user (`act`)."""

from __future__ import annotations

from typing import Any

import pytest
from outcomes import code

from clerk_m2m import OAuthIdentity, TokenInvalidError, Verifier
from harness import USER_ID, World

US, OTHER = "https://us.test", "https://other.test"

both_formats = pytest.mark.parametrize("token_format", ["opaque", "jwt"])


def service(world: World, **given: Any) -> Verifier:
    """A service that accepts access tokens of users."""
    return world.verifier(world.live_settings(**given))


def access_token(world: World, **given: Any) -> str:
    """A new access token of the user's."""
    return world.emulator.add_oauth_token(subject=USER_ID, **given).token


@both_formats
@pytest.mark.parametrize(
    ("ours", "audience", "expected"),
    [
        (None, None, "accepted"),
        (None, OTHER, "token_invalid"),
        (None, [OTHER, US], "token_invalid"),
        (US, None, "token_invalid"),
        (US, OTHER, "token_invalid"),
        (US, US.upper(), "token_invalid"),
        (US, US + "/", "token_invalid"),
        (US, "", "token_invalid"),
        (US, US, "accepted"),
        (US, [OTHER, US], "accepted"),
        ([US, OTHER], OTHER, "accepted"),
        ([US, OTHER], "https://third.test", "token_invalid"),
    ],
)
async def test_a_token_is_accepted_only_with_an_audience_of_this_service(
    world: World, token_format: Any, ours: Any, audience: Any, expected: str
) -> None:
    verifier = service(world, oauth_audience=ours)
    token = access_token(world, token_format=token_format, audience=audience)

    assert await code(verifier, token) == expected
    assert await code(verifier, token) == expected  # from the cache too


@both_formats
async def test_a_refusal_names_no_audience(world: World, token_format: Any) -> None:
    verifier = service(world, oauth_audience=US)
    token = access_token(world, token_format=token_format, audience=OTHER)

    with pytest.raises(TokenInvalidError) as refused:
        await verifier.verify(token)

    assert (refused.value.code, refused.value.status) == ("token_invalid", 401)
    assert str(refused.value) == "The access token is not meant for this service."


async def test_a_jwt_for_another_audience_causes_no_fetch_of_the_key_set(world: World) -> None:
    token = access_token(world, token_format="jwt", audience=OTHER)

    assert await code(service(world), token) == "token_invalid"
    assert world.upstream.requests == []


async def test_the_audience_of_a_machines_jwt_is_ignored(world: World) -> None:
    verifier = service(world, oauth_audience=US)

    assert await code(verifier, world.jwt(claims={"aud": OTHER})) == "accepted"
    assert await code(verifier, world.token()) == "accepted"


@both_formats
async def test_an_identity_has_the_audience_and_the_actor(world: World, token_format: Any) -> None:
    actor = {"sub": "client_1", "act": {"sub": "client_2", "list": [{"x": 1}]}}
    verifier = service(world, oauth_audience=US)
    token = access_token(world, token_format=token_format, audience=[OTHER, US], actor=actor)

    identity = await verifier.verify(token)

    assert isinstance(identity, OAuthIdentity)
    assert identity.audience == (OTHER, US)
    held: Any = identity.actor
    assert held["act"]["sub"] == "client_2"
    for change in (held, held["act"], held["act"]["list"][0]):
        with pytest.raises(TypeError):
            change["sub"] = "client_3"
    assert isinstance(hash(identity), int)
    assert "client_1" not in repr(identity)


@both_formats
async def test_an_identity_has_no_audience_and_no_actor_unless_its_token_has(
    world: World, token_format: Any
) -> None:
    identity = await service(world).verify(access_token(world, token_format=token_format))

    assert isinstance(identity, OAuthIdentity)
    assert (identity.audience, identity.actor) == ((), None)


@pytest.mark.parametrize("odd", ['"aud": 7', '"aud": []', '"aud": [7]', '"act": "client_1"'])
async def test_an_answer_with_an_invalid_audience_or_actor_is_503(world: World, odd: str) -> None:
    token = access_token(world)
    answer = f"""{{"id": "oat_{"0" * 32}", "client_id": "client_1", "subject": "{USER_ID}",
        "scopes": [], "revoked": false, "expired": false, "expiration": null, {odd}}}"""
    world.emulator.fail("verifyOAuthAccessToken", body=answer)

    assert await code(service(world), token) == "verification_unavailable"


@pytest.mark.parametrize("unit", [1, 1000])
async def test_an_opaque_token_is_verified_whatever_the_unit_of_its_instants(
    world: World, unit: int
) -> None:
    token, end = access_token(world), int(world.time.wall) + 60
    answer = f"""{{"id": "oat_{"0" * 32}", "client_id": "client_1", "subject": "{USER_ID}",
        "scopes": [], "revoked": false, "expired": false, "expiration": {end * unit}}}"""
    world.emulator.fail("verifyOAuthAccessToken", body=answer, times=1)
    verifier = service(world)

    identity = await verifier.verify(token)

    assert identity.expires_at == end
    world.time.advance(61)
    world.emulator.fail("verifyOAuthAccessToken", body=answer, times=1)
    world.time.advance(5)
    assert await code(verifier, token) == "token_invalid"
