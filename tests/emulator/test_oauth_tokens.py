"""Verification of OAuth access tokens; only the emulator's own controls can make them."""

from __future__ import annotations

import math
import re
from typing import Any

import httpx
import jwt
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27
PATH = "/oauth_applications/access_tokens/verify"


async def test_a_token_verifies_with_its_scopes(api: httpx.AsyncClient, emulator: Emulator) -> None:
    token = emulator.add_oauth_token(subject=USER, scopes=["read", "write"], client_id="client_1")
    now = int(emulator.now())
    assert re.fullmatch(r"oat_[0-9A-Za-z]{48}", token.token)
    answer = await api.post(PATH, json={"access_token": token.token})
    assert answer.status_code == 200
    assert answer.json() == {
        "object": "clerk_idp_oauth_access_token",
        "id": token.id,
        "client_id": "client_1",
        "subject": USER,
        "scopes": ["read", "write"],
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": now + 86_400,
        "created_at": now,
        "updated_at": now,
    }


async def test_instants_are_milliseconds_when_oauth_instants_is_milliseconds(client: Any) -> None:
    emulator = Emulator(oauth_instants="milliseconds", clock=lambda: 1_700_000_000.5)
    token = emulator.add_oauth_token(subject=USER, seconds_until_expiration=60)
    answer = await client(emulator.secret_key, emulator).post(
        PATH, json={"access_token": token.token}
    )
    assert answer.json()["created_at"] == 1_700_000_000_500
    assert answer.json()["expiration"] == 1_700_000_060_500
    emulator.close()


def test_another_value_of_oauth_instants_is_rejected() -> None:
    with pytest.raises(ValueError, match="oauth_instants"):
        Emulator(oauth_instants="minutes")  # type: ignore[arg-type]


async def test_a_token_that_never_expires_has_no_expiration(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    token = emulator.add_oauth_token(subject=USER, seconds_until_expiration=math.inf)
    answer = await api.post(PATH, json={"access_token": token.token})
    assert answer.json()["expiration"] is None


@pytest.mark.parametrize("audience", ["https://a.test", ["https://a.test", "https://b.test"]])
@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_an_audience_and_an_actor_are_in_the_answer_and_in_the_jwt(
    api: httpx.AsyncClient, emulator: Emulator, token_format: Any, audience: Any
) -> None:
    actor = {"sub": "client_1", "act": {"sub": "client_2"}}
    token = emulator.add_oauth_token(
        subject=USER, token_format=token_format, audience=audience, actor=actor
    )
    answer = (await api.post(PATH, json={"access_token": token.token})).json()
    assert (answer["aud"], answer["act"]) == (audience, actor)
    if token_format == "jwt":
        claims = jwt.decode(token.token, options={"verify_signature": False})
        assert (claims["aud"], claims["act"]) == (audience, actor)


async def test_a_token_without_an_audience_and_an_actor_has_no_such_claims(
    emulator: Emulator,
) -> None:
    token = emulator.add_oauth_token(subject=USER, token_format="jwt").token
    assert {"aud", "act"}.isdisjoint(jwt.decode(token, options={"verify_signature": False}))


@pytest.mark.parametrize("given", [{"audience": 7}, {"audience": ["a", 7]}, {"actor": "a"}])
def test_an_audience_or_actor_of_a_wrong_type_is_rejected(
    emulator: Emulator, given: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        emulator.add_oauth_token(subject=USER, **given)


async def test_the_deprecated_secret_property_works_and_access_token_overrides_it(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    token = emulator.add_oauth_token(subject=USER).token
    assert (await api.post(PATH, json={"secret": token})).status_code == 200
    both = {"access_token": "oat_unknown", "secret": token}
    assert (await api.post(PATH, json=both)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"token": "oat_1"}, 400),
        ({"access_token": None}, 400),
        ({"access_token": 7}, 400),
        ({"access_token": "oat_1"}, 404),
        ({"access_token": ""}, 404),
    ],
)
async def test_a_missing_malformed_or_unknown_token_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    assert (await api.post(PATH, json=body)).status_code == status


async def test_a_jwt_access_token_is_signed_by_the_instance(emulator: Emulator) -> None:
    token = emulator.add_oauth_token(subject=USER, scopes=["read", "write"], token_format="jwt")
    assert jwt.get_unverified_header(token.token)["typ"] == "at+jwt"
    claims = jwt.decode(
        token.token, emulator.public_key_pem(), ["RS256"], options={"verify_exp": False}
    )
    assert (claims["jti"], claims["sub"], claims["scope"]) == (token.id, USER, "read write")


async def test_an_expired_jwt_is_answered_as_not_active(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    token = emulator.add_oauth_token(subject=USER, token_format="jwt", seconds_until_expiration=60)
    assert (await api.post(PATH, json={"access_token": token.token})).status_code == 200
    emulator.travel(60)
    answer = await api.post(PATH, json={"access_token": token.token})
    assert (answer.status_code, answer.json()) == (200, {"active": False})


@pytest.mark.parametrize(("dead_token_answer", "status"), [("error", 404), ("flag", 200)])
async def test_dead_tokens_are_refused_or_flagged_according_to_dead_token_answer(
    client: Any, dead_token_answer: Any, status: int
) -> None:
    emulator = Emulator(dead_token_answer=dead_token_answer)
    api = client(emulator.secret_key, emulator)
    revoked = emulator.add_oauth_token(subject=USER)
    expired = emulator.add_oauth_token(subject=USER, seconds_until_expiration=10)
    emulator.revoke_oauth_token(revoked.id, "left")
    emulator.travel(10)
    first = await api.post(PATH, json={"access_token": revoked.token})
    second = await api.post(PATH, json={"access_token": expired.token})
    assert (first.status_code, second.status_code) == (status, status)
    if status == 200:
        assert (first.json()["revoked"], first.json()["revocation_reason"]) == (True, "left")
        assert (second.json()["revoked"], second.json()["expired"]) == (False, True)
    emulator.close()


def test_the_python_api_raises_for_bad_subjects_and_unknown_tokens(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="user_"):
        emulator.add_oauth_token(subject="org_" + "o" * 27)
    with pytest.raises(LookupError):
        emulator.revoke_oauth_token("oat_" + "0" * 32)
