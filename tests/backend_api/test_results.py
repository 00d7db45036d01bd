"""Results of the client: converting, copying and serializing them without their secrets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError

from clerk_m2m import ClerkClient, Secret
from clerk_m2m.backend_api import (
    ApiKey,
    CreatedApiKey,
    CreatedM2MToken,
    CreatedMachine,
    M2MToken,
    Machine,
    OAuthAccessToken,
    Page,
)
from harness import USER_ID, World

CLAIMS = {"tenant": {"ids": [1, None]}}


class Results:
    """One result of each type, by type, and the secrets in them."""

    def __init__(self) -> None:
        self.by_type: list[tuple[Any, Any]] = []
        self.secrets: list[str] = []


@pytest_asyncio.fixture
async def results(world: World, clerk: ClerkClient) -> AsyncIterator[Results]:
    """One of each kind of result."""
    machine = await clerk.machines.create("orders", scoped_machines=[world.callee.id])
    token = await clerk.m2m_tokens.create(claims=CLAIMS)
    key = await clerk.api_keys.create("reports", subject=USER_ID, claims=CLAIMS)
    oauth = world.emulator.add_oauth_token(subject=USER_ID, actor={"sub": "client_1"})
    results = Results()
    results.secrets = [each.reveal() for each in (machine.secret_key, token.token, key.secret)]
    results.by_type = [
        (CreatedMachine, machine),
        (CreatedM2MToken, token),
        (CreatedApiKey, key),
        (Page[Machine], await clerk.machines.list()),
        (Page[M2MToken], await clerk.m2m_tokens.list(world.caller.id)),
        (Page[ApiKey], await clerk.api_keys.list(USER_ID)),
        (OAuthAccessToken, await clerk.oauth_access_tokens.verify(oauth.token)),
    ]
    yield results


async def test_every_result_works_with_asdict_and_deepcopy(results: Results) -> None:
    for kind, result in results.by_type:
        assert deepcopy(result) == result
        apart = asdict(result)
        assert not any(secret in repr(apart) for secret in results.secrets), kind


async def test_pydantic_writes_every_result_and_reads_it_again(results: Results) -> None:
    for kind, result in results.by_type:
        adapter = TypeAdapter(kind)
        written = adapter.dump_json(result).decode()
        assert adapter.validate_python(adapter.dump_python(result)) == result
        assert json.loads(written).keys() == asdict(result).keys()
        assert not any(secret in written for secret in results.secrets), kind
        adapter.json_schema(mode="serialization")


def giving(value: Any) -> Callable[[], Any]:
    """A route that answers with this value."""
    return lambda: value


async def test_fastapi_does_not_serialize_secrets(results: Results) -> None:
    """A secret is serialized as `…`; a route that must return it calls `reveal()`."""
    app = FastAPI()
    for number, (kind, result) in enumerate(results.by_type):
        app.add_api_route(f"/{number}", giving(result), response_model=kind)
    app.add_api_route("/untyped", giving(results.by_type[0][1]), response_model=None)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a.test") as client:
        said = [await client.get(f"/{number}") for number in range(len(results.by_type))]
        untyped = await client.get("/untyped")

    assert [answer.status_code for answer in said] == [200] * len(said)
    assert said[0].json()["secret_key"] == said[1].json()["token"] == "…"
    assert said[1].json()["claims"] == CLAIMS
    for answer in (*said, untyped):
        assert not any(secret in answer.text for secret in results.secrets)
    # Without a response type FastAPI cannot serialize a secret: an error, not a leak.
    assert untyped.status_code == 500


def test_pydantic_reads_a_secret_only_from_text() -> None:
    adapter = TypeAdapter(Secret)

    assert adapter.validate_python("ak_1") == adapter.validate_json('"ak_1"') == Secret("ak_1")
    assert adapter.json_schema() == {"type": "string"}
    with pytest.raises(ValidationError):
        adapter.validate_python(7)
