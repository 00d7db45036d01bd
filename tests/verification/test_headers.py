"""The headers of any framework, read as the middleware reads them, and the answer to a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from django.http import HttpHeaders
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clerk_m2m import (
    MachineAuthMiddleware,
    RefusalError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    refusal_answer,
)
from clerk_m2m.testing import machine_identity, verifier_of
from harness import USER_ID, World, bearer, calling, protected

KEY = "ak_" + "k" * 24

# Headers by what is sent; TOKEN and KEY stand for a good token and a good API key.
SENT: dict[str, list[tuple[str, str]]] = {
    "nothing": [("accept", "*/*")],
    "a token": [("Authorization", "Bearer TOKEN")],
    "a token in odd case": [("aUTHORIZATION", "bEARER  TOKEN ")],
    "an API key in its header": [("X-API-Key", KEY)],
    "a token in the header for keys": [("X-Api-Key", "TOKEN")],
    "another scheme": [("Authorization", "Basic dTpw")],
    "a header twice": [("Authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")],
    "a header joined": [("Authorization", "Bearer TOKEN, Bearer TOKEN")],
    "a token and a key": [("Authorization", "Bearer TOKEN"), ("x-api-key", KEY)],
    "illegal characters": [("Authorization", "Bearer TOKEN\u00e9")],
    "too long": [("Authorization", "Bearer " + "a" * 9000)],
    "no form of Clerk's": [("Authorization", "Bearer abc")],
}


@pytest.mark.parametrize("what", SENT)
async def test_headers_are_read_as_the_middleware_reads_them(world: World, what: str) -> None:
    settings = world.live_settings(api_key_header="X-Api-Key")
    world.emulator.add_api_key("reports", subject=USER_ID, secret=KEY)
    verifier = world.verifier(settings)
    token = world.token()
    headers = [(name, value.replace("TOKEN", token)) for name, value in SENT[what]]
    in_bytes = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    async with calling(protected(verifier)) as client:
        answer = await client.get("/", headers=in_bytes)

    for given in (headers, in_bytes, iter(headers)):
        try:
            identity = await verifier.verify_headers(given)
        except RefusalError as refusal:
            status, headers_of_answer, body = refusal_answer(refusal)
            assert (status, json.loads(body)) == (answer.status_code, answer.json())
            assert (
                headers_of_answer.items()
                <= {
                    name.title().replace("Www", "WWW"): value
                    for name, value in answer.headers.items()
                }.items()
            )
            assert token not in body.decode()
        else:
            assert answer.json() == {"subject": identity.subject}


@pytest.mark.parametrize("kind", [dict, Headers, httpx.Headers, HttpHeaders])
async def test_verify_headers_accepts_the_header_mappings_of_frameworks(
    world: World, kind: Any
) -> None:
    given = {"HTTP_AUTHORIZATION" if kind is HttpHeaders else "Authorization": "Bearer TOKEN"}
    headers: Mapping[str, str] = kind({k: f"Bearer {world.token()}" for k in given})

    assert (await world.verifier().verify_headers(headers)).subject == world.caller.id


@pytest.mark.parametrize("value", ["Bearer \u0101bc", "Basic \u2003Bearer x", "B\u0117arer x"])
async def test_a_header_with_characters_that_http_does_not_allow_is_refused(
    world: World, value: str
) -> None:
    with pytest.raises(RefusalError) as refused:
        await world.verifier().verify_headers({"Authorization": value})
    assert refused.value.code in {"token_malformed", "token_missing"}


async def test_a_header_name_with_a_unicode_lookalike_is_another_header(world: World) -> None:
    with pytest.raises(TokenMissingError) as refused:
        await world.verifier().verify_headers({"Authori\u017fation": f"Bearer {world.token()}"})
    assert refused.value.code == "token_missing"


async def test_a_refusal_of_verify_headers_in_a_handler_is_the_apps_own_error(world: World) -> None:
    verifier = world.verifier()

    async def handler(request: Request) -> Response:
        await verifier.verify_headers([])
        return Response()

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        answer = await client.get("/", headers=bearer(world.token()))

    assert answer.status_code == 500


async def test_the_verifier_of_the_test_kit_reads_headers_too() -> None:
    machine = machine_identity()
    given: Any = verifier_of(machine)

    assert await given.verify_headers(bearer("mt_" + "0" * 20)) is machine
    with pytest.raises(TokenMissingError):
        await given.verify_headers({})
    refusing: Any = verifier_of(TokenTypeNotAcceptedError())
    with pytest.raises(TokenTypeNotAcceptedError):
        await refusing.verify_headers(bearer("mt_" + "0" * 20))
