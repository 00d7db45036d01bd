"""Every row of the table of answers: status, code, challenge and body."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from answers import INVALID, check_answer
from sent_credentials import (
    Prepare,
    api_key_not_accepted,
    edge_cut,
    expired,
    flagged_expired,
    flagged_revoked,
    garbage,
    ill_formed,
    jwt_without_a_graph,
    no_credential,
    not_ascii,
    revoked,
    session,
    strange_jwt,
    stranger,
    too_long,
    two_tokens,
    unknown,
)

from clerk_m2m import VerificationUnavailableError
from clerk_m2m.asgi.refusals import answer
from harness import USER_ID, World, bearer, calling, protected


@pytest.mark.parametrize(
    ("prepare", "status", "code", "challenge"),
    [
        (no_credential, 401, "token_missing", "Bearer"),
        (two_tokens, 400, "token_malformed", 'Bearer error="invalid_request"'),
        (not_ascii, 400, "token_malformed", 'Bearer error="invalid_request"'),
        (too_long, 400, "token_malformed", 'Bearer error="invalid_request"'),
        (api_key_not_accepted, 401, "token_type_not_accepted", INVALID),
        (session, 401, "token_type_not_accepted", INVALID),
        (jwt_without_a_graph, 401, "token_type_not_accepted", INVALID),
        (unknown, 401, "token_invalid", INVALID),
        (ill_formed, 401, "token_invalid", INVALID),
        (garbage, 401, "token_invalid", INVALID),
        (expired, 401, "token_invalid", INVALID),
        (revoked, 401, "token_invalid", INVALID),
        (flagged_revoked, 401, "token_invalid", INVALID),
        (flagged_expired, 401, "token_invalid", INVALID),
        (stranger, 401, "token_invalid", INVALID),
    ],
)
async def test_a_refused_credential_is_answered_by_the_table(
    world: World, prepare: Prepare, status: int, code: str, challenge: str
) -> None:
    token = await prepare(world)
    async with calling(protected(world.verifier())) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, status, code, challenge)
    assert token is None or token not in answer.text


async def test_two_authorization_headers_are_answered_with_400(world: World) -> None:
    token = world.token()
    async with calling(protected(world.verifier())) as client:
        answer = await client.get("/", headers=[("Authorization", f"Bearer {token}")] * 2)

    check_answer(answer, 400, "token_malformed", 'Bearer error="invalid_request"')


@pytest.mark.parametrize("prepare", [edge_cut, strange_jwt])
async def test_a_missing_edge_is_answered_with_403(world: World, prepare: Prepare) -> None:
    async with calling(protected(world.verifier(world.live_settings()))) as client:
        answer = await client.get("/", headers=bearer(await prepare(world)))

    check_answer(answer, 403, "scope_denied", 'Bearer error="insufficient_scope"')


async def test_a_token_minted_without_the_scope_is_answered_with_403_under_the_instance_key(
    world: World,
) -> None:
    token = world.token(world.stranger)
    world.emulator.allow(world.stranger, world.callee)
    settings = world.live_settings(machine_secret_key=None)
    async with calling(protected(world.verifier(settings))) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, 403, "scope_denied", 'Bearer error="insufficient_scope"')
    assert "mint a new token" in answer.json()["detail"]


async def test_an_inactive_oauth_token_is_answered_with_401(world: World) -> None:
    world.emulator.fail("verifyOAuthAccessToken", kind="inactive")
    token = world.emulator.add_oauth_token(subject=USER_ID).token
    async with calling(protected(world.verifier(world.live_settings()))) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, 401, "token_invalid", INVALID)


@pytest.mark.parametrize(
    ("fault", "code", "retry_after"),
    [
        ({"status": 500}, "verification_unavailable", 1),
        ({"status": 503, "retry_after": 7}, "verification_unavailable", 7),
        ({"status": 429, "retry_after": 5}, "verification_unavailable", 5),
        ({"status": 429, "retry_after": 86_400}, "verification_unavailable", 30),
        ({"status": 302}, "verification_unavailable", 1),
        ({"kind": "drop"}, "verification_unavailable", 1),
        ({"kind": "malformed_json"}, "verification_unavailable", 1),
        ({"kind": "wrong_shape"}, "verification_unavailable", 1),
        ({"kind": "html"}, "verification_unavailable", 1),
        ({"kind": "oversize"}, "verification_unavailable", 1),
        ({"status": 401}, "verifier_misconfigured", 1),
        ({"status": 403}, "verifier_misconfigured", 1),
    ],
)
async def test_a_failed_verification_is_answered_with_503_and_no_challenge(
    world: World, fault: dict[str, Any], code: str, retry_after: float
) -> None:
    world.emulator.fail("verifyM2MToken", **fault)
    token = world.token()
    async with calling(protected(world.verifier())) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, 503, code, None, retry_after)


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "1"), (0.3, "1"), (1.2, "2"), (30.0, "30")])
def test_retry_after_is_rounded_up_to_whole_seconds(seconds: float, said: str) -> None:
    refusal = VerificationUnavailableError(retry_after=seconds)

    assert answer(refusal).headers["retry-after"] == said


async def test_no_answer_of_clerk_before_the_deadline_is_answered_with_503(world: World) -> None:
    async def never(request: httpx.Request) -> httpx.Response | None:
        await asyncio.Event().wait()
        return None

    world.upstream.intercept = never
    app = protected(world.verifier(world.settings(timeout=0.05)))
    async with calling(app) as client:
        answer = await client.get("/", headers=bearer(world.token()))

    check_answer(answer, 503, "verification_unavailable", None, 1)
