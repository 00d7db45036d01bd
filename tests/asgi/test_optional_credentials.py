"""`required=False`: which requests pass without an identity, and which are still refused."""

from __future__ import annotations

import pytest
from answers import code_of
from sent_credentials import (
    Prepare,
    api_key_not_accepted,
    garbage,
    ill_formed,
    jwt_without_a_graph,
    revoked,
    session,
    two_tokens,
    unknown,
)

from harness import World, bearer, calling, protected


@pytest.mark.parametrize("authorization", [None, "Basic dXNlcjpwYXNz", "Digest a=b"])
async def test_with_required_false_a_request_without_our_credential_passes_without_identity(
    world: World, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with calling(protected(world.verifier(), required=False)) as client:
        answer = await client.get("/", headers=headers)

    assert answer.json() == {"subject": None}


@pytest.mark.parametrize("prepare", [session, garbage])
async def test_with_required_false_a_credential_of_another_kind_passes_without_identity(
    world: World, prepare: Prepare
) -> None:
    async with calling(protected(world.verifier(), required=False)) as client:
        answer = await client.get("/", headers=bearer(await prepare(world)))

    assert answer.json() == {"subject": None}
    assert not world.emulator.calls


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (two_tokens, "token_malformed"),
        (ill_formed, "token_invalid"),
        (unknown, "token_invalid"),
        (revoked, "token_invalid"),
        (api_key_not_accepted, "token_type_not_accepted"),
        (jwt_without_a_graph, "token_type_not_accepted"),
    ],
)
async def test_with_required_false_an_invalid_machine_credential_is_refused(
    world: World, prepare: Prepare, code: str
) -> None:
    token = await prepare(world)

    assert await code_of(protected(world.verifier(), required=False), token) == code


async def test_with_required_false_an_outage_is_503(world: World) -> None:
    world.emulator.fail("verifyM2MToken", status=500)
    app = protected(world.verifier(), required=False)

    assert await code_of(app, world.token()) == "verification_unavailable"


async def test_with_required_false_a_machine_is_identified(world: World) -> None:
    async with calling(protected(world.verifier(), required=False)) as client:
        answer = await client.get("/", headers=bearer(world.token()))

    assert answer.json() == {"subject": world.caller.id}
