"""WebSockets: opened for a permitted caller, refused before they are accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import websockets
from answers import INVALID
from asgi_messages import CLOSE, CONNECT, play, websocket_scope
from fastapi import WebSocket
from sent_credentials import UNKNOWN
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute

from clerk_m2m import MachineAuthMiddleware, RefusalError, Verifier, require_api_key
from harness import World, bearer, serve


async def hello(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.state.machine.subject)
    await websocket.close()


async def guard_before_accept(websocket: WebSocket) -> None:
    require_api_key().check(websocket)


async def guard_after_accept(websocket: WebSocket) -> None:
    await websocket.accept()
    require_api_key().check(websocket)


def socket_app(endpoint: Any, verifier: Verifier, **given: Any) -> MachineAuthMiddleware:
    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
    return MachineAuthMiddleware(app, verifier=verifier, **given)


async def test_a_websocket_is_opened_for_a_permitted_caller(world: World) -> None:
    app = socket_app(hello, world.verifier())
    sent = await play(app, websocket_scope(world.token()), CONNECT)

    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == world.caller.id


@pytest.mark.parametrize("token", [None, UNKNOWN, "two tokens"])
async def test_a_websocket_is_closed_with_1008_before_accept_when_the_server_cannot_deny(
    world: World, token: str | None
) -> None:
    app = socket_app(hello, world.verifier())

    assert await play(app, websocket_scope(token), CONNECT) == [CLOSE]
    scope = websocket_scope(token)
    del scope["extensions"]
    assert await play(app, scope, CONNECT) == [CLOSE]


async def test_a_websocket_is_denied_with_the_answer_of_the_table_when_the_server_can(
    world: World,
) -> None:
    app = socket_app(hello, world.verifier())
    start, body = await play(app, websocket_scope(UNKNOWN, denial=True), CONNECT)

    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 401
    assert (b"www-authenticate", INVALID.encode()) in start["headers"]
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["code"] == "token_invalid"


async def test_a_websocket_is_denied_with_the_answer_of_on_error(world: World) -> None:
    def teapot(connection: HTTPConnection, refusal: RefusalError) -> Response:
        return JSONResponse({"code": refusal.code}, 418)

    app = socket_app(hello, world.verifier(), on_error=teapot)
    start, body = await play(app, websocket_scope(denial=True), CONNECT)

    assert (start["status"], json.loads(body["body"])) == (418, {"code": "token_missing"})


async def test_a_server_that_cannot_deny_a_websocket_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = socket_app(hello, world.verifier())
    await play(app, websocket_scope(denial=True), CONNECT)
    await play(app, websocket_scope(world.token()), CONNECT)
    assert caplog.records == []

    for _ in range(2):
        assert await play(app, websocket_scope(), CONNECT) == [CLOSE]

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "cannot refuse a WebSocket with an HTTP response" in record.getMessage()


@pytest.mark.parametrize("denial", [False, True])
async def test_a_guard_on_a_websocket_refuses_before_accept(world: World, denial: bool) -> None:
    app = socket_app(guard_before_accept, world.verifier())
    sent = await play(app, websocket_scope(world.token(), denial=denial), CONNECT)

    if denial:
        assert json.loads(sent[1]["body"])["code"] == "token_type_not_accepted"
    else:
        assert sent == [CLOSE]


@pytest.mark.parametrize("denial", [False, True])
async def test_a_guard_after_accept_closes_the_websocket(world: World, denial: bool) -> None:
    app = socket_app(guard_after_accept, world.verifier())
    sent = await play(app, websocket_scope(world.token(), denial=denial), CONNECT)

    assert sent[0]["type"] == "websocket.accept"
    assert sent[1:] == [CLOSE]


async def test_websockets_are_opened_and_denied_over_real_sockets(world: World) -> None:
    async with serve(socket_app(hello, world.verifier())) as origin:
        address = origin.replace("http", "ws") + "/ws"
        async with websockets.connect(
            address, additional_headers=bearer(world.token()), proxy=None
        ) as opened:
            assert await opened.recv() == world.caller.id
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(address, proxy=None)

    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body or b"")["code"] == "token_missing"
