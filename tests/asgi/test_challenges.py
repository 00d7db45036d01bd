"""The headers of an answer are well-formed, whatever the refusal says."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from clerk_m2m import (
    PermissionDeniedError,
    RefusalError,
    TokenInvalidError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)
from clerk_m2m.asgi.refusals import answer
from harness import World, bearer, calling, protected


async def test_an_expired_token_of_a_caller_without_an_edge_is_invalid_not_denied(
    world: World,
) -> None:
    expired = world.token(world.stranger, seconds_until_expiration=5)
    live = world.token(world.stranger)
    world.time.advance(60)
    # With the instance's key, Clerk verifies whatever the instance minted.
    app = protected(world.verifier(world.live_settings(machine_secret_key=None)))

    async with calling(app) as client:
        of_expired = await client.get("/", headers=bearer(expired))
        of_live = await client.get("/", headers=bearer(live))

    assert (of_expired.status_code, of_expired.json()["code"]) == (401, "token_invalid")
    assert (of_live.status_code, of_live.json()["code"]) == (403, "scope_denied")


# RFC 9110 section 11.6.1, RFC 6750 section 3: quoted strings that need no escapes.
_PARAMETER = rb'(error|scope)="[\x20\x21\x23-\x5b\x5d-\x7e]*"'
CHALLENGE = re.compile(rb"Bearer( " + _PARAMETER + rb"(, " + _PARAMETER + rb")*)?")


@given(detail=st.text(), scopes=st.lists(st.text(), max_size=4))
def test_a_challenge_is_well_formed_whatever_the_refusal_says(
    detail: str, scopes: list[str]
) -> None:
    for refusal in (
        TokenMissingError(detail),
        TokenMalformedError(detail),
        TokenInvalidError(detail),
        TokenTypeNotAcceptedError(detail),
        PermissionDeniedError(detail, required_scopes=scopes),
    ):
        response = answer(refusal)
        headers = dict(response.raw_headers)

        assert CHALLENGE.fullmatch(headers[b"www-authenticate"])
        assert headers[b"cache-control"] == b"no-store"
        assert json.loads(bytes(response.body))["code"] == refusal.code


@given(detail=st.text(), retry_after=st.floats(allow_nan=False, allow_infinity=False))
def test_an_outage_has_a_retry_after_and_no_challenge(detail: str, retry_after: float) -> None:
    refusals: list[RefusalError] = [
        VerificationUnavailableError(detail, retry_after=retry_after),
        VerifierMisconfiguredError(detail, retry_after=retry_after),
    ]
    for refusal in refusals:
        headers = dict(answer(refusal).raw_headers)

        assert re.fullmatch(rb"[1-9][0-9]*", headers[b"retry-after"])
        assert headers[b"cache-control"] == b"no-store"
        assert b"www-authenticate" not in headers
