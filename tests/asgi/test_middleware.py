"""The middleware itself: how it is made, what reaches the app, `on_error`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from answers import check_answer
from asgi_messages import ask, http_scope, play, receive_nothing, send_nowhere
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from clerk_m2m import MachineAuthMiddleware, RefusalError
from harness import USER_ID, World, bearer, calling, protected

# API keys


async def test_an_api_key_in_base64_is_verified(world: World) -> None:
    secret = "ak_" + "a" * 20 + "/+" + "b" * 20 + "="
    world.emulator.add_api_key("reports", subject=USER_ID, secret=secret)
    verifier = world.verifier(world.live_settings(api_key_header="X-API-Key"))

    async with calling(protected(verifier)) as client:
        as_bearer = await client.get("/", headers=bearer(secret))
        as_api_key = await client.get("/", headers={"X-API-Key": f"{secret} "})

    assert as_bearer.json() == as_api_key.json() == {"subject": USER_ID}
    assert verifier.stats.paid == 1


async def test_the_header_that_api_key_header_names_is_read(world: World) -> None:
    settings = world.live_settings(api_key_header="X-API-Key")
    key = world.emulator.add_api_key("reports", subject=USER_ID)
    async with calling(protected(world.verifier(settings))) as client:
        known = await client.get("/", headers={"X-API-Key": key.secret})
        both = await client.get("/", headers={"X-API-Key": key.secret, **bearer(key.secret)})

    assert known.json() == {"subject": USER_ID}
    assert both.json()["code"] == "token_malformed"


# How it is made


async def test_settings_or_the_environment_alone_make_a_verifier(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = MachineAuthMiddleware(
        Starlette(), world.settings(api_url="https://clerk.test", cache_ttl=7)
    )
    monkeypatch.setenv("CLERK_MACHINE_ID", world.callee.id)
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY", world.callee.secret_key)
    read = MachineAuthMiddleware(Starlette())

    assert given.verifier.settings.cache_ttl == 7
    assert read.verifier.settings.machine_id == world.callee.id


# What reaches the app


async def test_the_identity_is_added_to_the_state_of_the_scope(
    world: World,
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"])

    middleware = MachineAuthMiddleware(app, verifier=world.verifier())
    await play(middleware, http_scope(token=world.token(), state={"pool": 7}))
    await play(middleware, http_scope(token=world.token()))

    assert [state["machine"].subject for state in seen] == [world.caller.id] * 2
    assert seen[0]["pool"] == 7


async def test_the_messages_of_the_app_pass_through_unchanged(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = await receive()
        await send({"type": "http.response.start", "status": 299, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": request["body"]})

    sent = await play(
        MachineAuthMiddleware(app, verifier=world.verifier()),
        http_scope(token=world.token()),
        {"type": "http.request", "body": b"echo"},
    )

    assert sent == [
        {"type": "http.response.start", "status": 299, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"echo"},
    ]


async def test_an_error_of_the_app_is_not_caught(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("the app's own")

    with pytest.raises(KeyError, match="the app's own"):
        await play(
            MachineAuthMiddleware(app, verifier=world.verifier()), http_scope(token=world.token())
        )


# on_error


async def test_on_error_may_return_another_answer(world: World) -> None:
    def in_plain_text(connection: HTTPConnection, refusal: RefusalError) -> Response:
        return PlainTextResponse(f"{connection.url.path} {refusal.code}", refusal.status)

    async with calling(protected(world.verifier(), on_error=in_plain_text)) as client:
        answer = await client.get("/orders")

    assert (answer.status_code, answer.text) == (401, "/orders token_missing")


async def test_on_error_may_return_none(world: World) -> None:
    seen: list[str] = []

    def watch(connection: HTTPConnection, refusal: RefusalError) -> None:
        seen.append(refusal.code)

    async with calling(protected(world.verifier(), on_error=watch)) as client:
        answer = await client.get("/")
        await client.get("/", headers=bearer(world.token()))

    check_answer(answer, 401, "token_missing", "Bearer")
    assert seen == ["token_missing"]


# A server that shares the state, and an on_error that is wrong


async def test_a_state_dict_shared_between_requests_does_not_mix_up_callers(world: World) -> None:
    shared: dict[str, Any] = {}
    seen: list[str] = []
    both_in = asyncio.Barrier(2)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await both_in.wait()
        seen.append(scope["state"]["machine"].machine_id)

    world.emulator.allow(world.stranger, world.callee)
    middleware = MachineAuthMiddleware(app, verifier=world.verifier())
    callers = (world.caller, world.stranger)

    async def call(token: str) -> None:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "path": "/", "headers": headers, "state": shared}
        await middleware(scope, receive_nothing, send_nowhere)

    await asyncio.gather(*(call(world.token(machine)) for machine in callers))

    assert sorted(seen) == sorted(machine.id for machine in callers)


class Awaited:
    """An asynchronous `on_error` that `iscoroutinefunction` does not recognize."""

    async def __call__(self, connection: HTTPConnection, refusal: RefusalError) -> None: ...


@pytest.mark.parametrize(
    ("on_error", "kind"),
    [(lambda *_: {"detail": "no"}, "dict"), (lambda *_: True, "bool"), (Awaited(), "coroutine")],
)
async def test_an_on_error_that_returns_no_response_is_logged_once_and_the_request_refused(
    world: World, caplog: pytest.LogCaptureFixture, on_error: Any, kind: str
) -> None:
    app = protected(world.verifier(), on_error=on_error)
    answers = [await ask(app, http_scope()) for _ in range(2)]

    assert [(status, body["code"]) for status, body in answers] == [(401, "token_missing")] * 2
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.getMessage().startswith(f"on_error returned {kind}, which is not used. It must")
