"""Guards of handlers, and errors of the app, in every placement of the middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from answers import INVALID, check_answer
from asgi_messages import CLOSE, CONNECT, http_scope, play, receive_nothing, websocket_scope
from placed_apps import Placed, fastapi_service, in_every_place, wrapped_in_debug
from sent_credentials import NOBODY, session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from clerk_m2m import MachineAuthMiddleware, MiddlewareMissingError, RefusalError, require_machine
from harness import USER_ID, World, bearer, calling

# Guards behind the middleware


@in_every_place
async def test_a_guard_passes_the_caller_to_a_handler(world: World, placed: Placed) -> None:
    async with calling(placed(fastapi_service(), world.verifier())) as client:
        answer = await client.get("/machine", headers=bearer(world.token()))

    assert answer.json() == {"caller": world.caller.id}


@in_every_place
async def test_the_refusals_of_guards_are_answered_by_the_table(
    world: World, placed: Placed
) -> None:
    key = world.emulator.add_api_key("reports", subject=USER_ID, scopes=["read"])
    app = placed(fastapi_service(), world.verifier(world.live_settings()), required=False)
    async with calling(app) as client:
        other = await client.get("/handler", headers=bearer(world.token()))
        lacking = await client.get("/reports", headers=bearer(key.secret))
        other_type = await client.get("/machine", headers=bearer(key.secret))
        nobody = await client.get("/machine")
        browser = await client.get("/machine", headers=bearer(await session(world)))

    denied = 'Bearer error="insufficient_scope"'
    check_answer(other, 403, "permission_denied", denied)
    check_answer(lacking, 403, "permission_denied", denied + ', scope="read write"')
    check_answer(other_type, 401, "token_type_not_accepted", INVALID)
    check_answer(nobody, 401, "token_missing", "Bearer")
    check_answer(browser, 401, "token_type_not_accepted", INVALID)


@pytest.mark.parametrize("path", ["/machine", "/reports"])
async def test_a_route_with_a_guard_and_no_middleware_raises(path: str) -> None:
    async with calling(fastapi_service()) as client:
        with pytest.raises(MiddlewareMissingError) as failed:
            await client.get(path)

    assert failed.value.code == "middleware_missing"


async def refuse_midway(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        require_machine(NOBODY).check(request)

    return StreamingResponse(body())


async def test_a_refusal_after_the_response_has_begun_sends_no_second_response(
    world: World,
) -> None:
    app = Starlette(routes=[Route("/", refuse_midway)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(RefusalError) as refused:
        await app(http_scope(token=world.token()), receive, send)

    assert refused.value.code == "permission_denied"
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]


async def test_a_refusal_after_the_apps_own_response_to_it_has_begun_sends_no_second_response(
    world: World,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            require_machine(NOBODY).check(Request(scope))
        except RefusalError:
            await send({"type": "http.response.start", "status": 418, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            raise

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(RefusalError) as refused:
        await MachineAuthMiddleware(app, verifier=world.verifier())(
            http_scope(token=world.token()), receive_nothing, send
        )

    assert refused.value.code == "permission_denied"
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]


@in_every_place
async def test_an_error_of_the_app_keeps_its_500(world: World, placed: Placed) -> None:
    transport = httpx.ASGITransport(
        app=placed(fastapi_service(), world.verifier()), raise_app_exceptions=False
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        answer = await client.get("/broken", headers=bearer(world.token()))

    said = "Traceback" if placed is wrapped_in_debug else "Internal Server Error"
    assert answer.status_code == 500
    assert answer.text.startswith(said)


async def test_a_500_of_the_app_is_passed_on_whole_and_piece_by_piece(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        if scope["path"] == "/streamed":
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            seen.append(len(sent))
        await send({"type": "http.response.body", "body": b"b"})

    sent: list[Message] = []
    seen: list[int] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    middleware = MachineAuthMiddleware(app, verifier=world.verifier())
    for path in ("/", "/streamed"):
        await middleware(http_scope(path, world.token()), receive, send)

    assert [message.get("body") for message in sent] == [None, b"b", None, b"a", b"b"]
    assert seen == [4]  # a streamed body is not buffered


# WebSockets


@in_every_place
async def test_a_guard_is_a_dependency_of_a_fastapi_websocket(world: World, placed: Placed) -> None:
    app = placed(fastapi_service(), world.verifier(), required=False)
    permitted = await play(app, websocket_scope(world.token()), CONNECT)
    refused = await play(app, websocket_scope(), CONNECT)

    assert permitted[1]["text"] == world.caller.id
    assert refused == [CLOSE]
