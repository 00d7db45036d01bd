"""`MachineTokenAuth`: its secrets, the machine's key, its construction."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import httpx
import pytest
from outbound_calls import MINT, Callee, mints, outbound, settle
from starlette.responses import Response

from clerk_m2m import (
    ClerkClient,
    ConfigurationError,
    KeyRefusedError,
    KeyUnavailableError,
    Secret,
    TokenUnavailableError,
)
from harness import API_URL, FakeTime, World, serve

# Secrets


async def test_neither_token_nor_key_is_in_any_log_repr_or_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, seen = world.caller.secret_key, []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer "))
        await Response(status_code=401)(scope, receive, send)

    async with serve(world.emulator) as clerk, serve(app, lifespan="off") as origin:
        auth = outbound(world, api_url=clerk, transport=None)
        async with httpx.AsyncClient(base_url=origin, auth=auth) as client:
            answer = await client.get("/")
            with pytest.raises(httpx.HTTPStatusError) as error:
                answer.raise_for_status()
        echo = {"errors": [{"code": "x", "message": f"bad key {key}", "long_message": key}]}
        world.emulator.fail(MINT, status=401, body=echo)
        refused = outbound(world, api_url=clerk, transport=None)
        async with httpx.AsyncClient(base_url=origin, auth=refused) as client:
            with pytest.raises(TokenUnavailableError) as unavailable:
                await client.get("/")

    shown = [repr(auth), repr(vars(auth)), repr(answer.request.headers), repr(answer)]
    shown += [repr(error.value), str(error.value)]
    shown += [repr(unavailable.value), repr(unavailable.value.__cause__), caplog.text]
    assert len(seen) == 2
    assert "HTTP Request" in caplog.text
    assert not [text for text in shown for secret in (key, *seen) if secret in text]


# The machine's own key


async def test_after_a_refused_key_the_source_is_read_again_once(world: World) -> None:
    keys = iter(["ak_" + "0" * 40, world.caller.secret_key])
    callee = Callee()
    async with callee.client(outbound(world, machine_secret_key=lambda: next(keys))) as client:
        await client.get("/")

    assert len(callee.credentials) == 1
    assert mints(world) == 2


async def test_a_refused_key_that_has_not_changed_is_sent_once(world: World) -> None:
    asked = []

    def key() -> Secret:
        asked.append(1)
        return Secret("ak_" + "0" * 40)

    async with Callee().client(outbound(world, machine_secret_key=key)) as client:
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, KeyRefusedError)
    assert len(asked) == 2
    assert mints(world) == 1


async def test_a_refused_key_is_retried_after_growing_pauses(world: World) -> None:
    async with Callee().client(outbound(world, machine_secret_key="ak_" + "0" * 40)) as client:
        for _ in range(60):
            with pytest.raises(TokenUnavailableError) as unavailable:
                await client.get("/")
            assert unavailable.value.code == "token_unavailable"
            world.time.advance(1.0)

    assert mints(world) == 6  # after 0, 1, 3, 7, 15 and 31 s


async def test_rotating_a_key_in_a_file_fails_no_call(world: World, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(world.caller.secret_key, "utf-8")
    callee = Callee()
    auth = outbound(world, machine_secret_key=path, seconds_until_expiration=60)
    async with (
        callee.client(auth) as client,
        ClerkClient(
            secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
        ) as admin,
    ):
        for minute in range(10):
            new = await admin.machines.rotate_secret_key(world.caller.id, previous_token_ttl=0)
            path.write_text(f"{new.reveal()}\n", "utf-8")
            for _ in range(60):
                assert (await client.get("/")).status_code == 200, minute
                await settle()
                world.time.advance(1.0)

    assert len(callee.credentials) == 600
    assert 10 <= len(set(callee.credentials)) <= 12


async def test_white_space_around_a_key_from_a_callable_is_stripped(
    world: World,
) -> None:
    auth = outbound(world, machine_secret_key=lambda: f" {world.caller.secret_key}\n")

    assert await auth.token()


@pytest.mark.parametrize("key", ["", "sk_test_wrong_kind", "ak_with space"])
async def test_the_error_names_the_setting_when_its_callable_returns_no_key(
    world: World, key: str
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, machine_secret_key=lambda: key)) as client:
        with pytest.raises(TokenUnavailableError, match="machine_secret_key") as unavailable:
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, KeyUnavailableError)
    assert unavailable.value.__cause__.code == "key_unavailable"
    assert callee.credentials == []


async def test_the_error_names_the_type_but_not_the_text_of_what_a_callable_raises(
    world: World,
) -> None:
    def key() -> str:
        raise LookupError(f"cannot decrypt {world.caller.secret_key}")

    async with Callee().client(outbound(world, machine_secret_key=key)) as client:
        with pytest.raises(TokenUnavailableError, match="LookupError") as unavailable:
            await client.get("/")

    assert world.caller.secret_key not in str(unavailable.value)
    assert unavailable.value.retry_after == 1.0


# Construction


@pytest.mark.parametrize(
    "given",
    [
        {"machine_secret_key": None},
        {"machine_secret_key": ""},
        {"machine_secret_key": "sk_test_x"},
        {"token_format": "JWT"},
        {"seconds_until_expiration": 0},
        {"seconds_until_expiration": math.inf},
        {"seconds_until_expiration": math.nan},
        {"seconds_until_expiration": True},
        {"min_remaining_ttl_seconds": 0},
        {"min_remaining_ttl_seconds": 1.5},
        {"min_remaining_ttl_seconds": 60, "seconds_until_expiration": 60},
        {"min_remaining_ttl_seconds": 60, "token_format": "jwt"},
        {"claims": {"when": FakeTime()}},
        {"claims": {"ratio": math.nan}},
        {"claims": [1]},
        {"seconds_until_expiration": 10**400},
        {"timeout": 0},
        {"timeout": 61},
        {"api_url": "https://api.clerk.com/v2"},
        {"timeout": math.nan},
        {"timeout": math.inf},
        {"timeout": "5"},
        {"timeout": True},
        {"allow_http": "no"},
        {"hosts": "callee.test"},
        {"hosts": []},
        {"hosts": ["ftp://callee.test"]},
        {"hosts": ["://callee.test"]},
        {"hosts": ["http://"]},
        {"hosts": ["http://https://callee.test"]},
        {"hosts": ["callee.test/path"]},
        {"hosts": ["user@callee.test"]},
        {"hosts": ["*.callee.test"]},
        {"hosts": [""]},
        {"hosts": ["::1"]},
        {"hosts": ["a,b"]},
        {"hosts": ["."]},
        {"hosts": ["a..b"]},
        {"hosts": ["a:99999"]},
        {"hosts": ["a:0"]},
        {"hosts": ["a", None]},
        {"hosts": [b"a"]},
        {"hosts": b"a"},
        {"hosts": 7},
    ],
)
async def test_arguments_that_cannot_work_are_rejected_at_construction(
    world: World, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLERK_MACHINE_SECRET_KEY", raising=False)

    with pytest.raises(ConfigurationError) as refused:
        outbound(world, **given)

    assert refused.value.code == "configuration_invalid"
    assert set(given) & set(str(refused.value).replace(":", " ").replace(".", " ").split())
