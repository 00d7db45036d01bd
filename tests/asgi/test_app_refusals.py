"""Refusals that are raised inside the app: which of them the middleware answers, and when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import httpx
import pytest
from answers import get
from fastapi import FastAPI
from placed_apps import Placed, added, in_every_place, mounted
from sent_credentials import NOBODY, UNKNOWN
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from clerk_m2m import (
    MachineAuthMiddleware,
    PermissionDeniedError,
    RefusalError,
    TokenInvalidError,
    Verifier,
    require_machine,
)
from clerk_m2m.testing import verifier_of
from harness import World, bearer, serve, whoami

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def service(handler: Handler) -> FastAPI:
    app = FastAPI()
    app.add_route("/", handler)
    return app


class Recorder:
    """An `on_error` that records the codes of its refusals and returns `answer`."""

    def __init__(self, answer: Response | None = None) -> None:
        self.codes: list[str] = []
        self._answer = answer

    def __call__(self, connection: HTTPConnection, refusal: RefusalError) -> Response | None:
        self.codes.append(refusal.code)
        return self._answer


async def refused_by_a_guard(request: Request) -> Response:
    require_machine(NOBODY).check(request)
    return PlainTextResponse("in")


@in_every_place
async def test_the_middleware_answers_a_guards_refusal_in_every_placement(
    world: World, placed: Placed
) -> None:
    recorder = Recorder()
    answer = await get(
        placed(service(refused_by_a_guard), world.verifier(), on_error=recorder), world.token()
    )

    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert recorder.codes == ["permission_denied"]


# A verifier that the app calls


@in_every_place
@pytest.mark.parametrize("of_its_own", [False, True])
@pytest.mark.parametrize(
    ("fault", "code"),
    [(None, "token_invalid"), ({"status": 500}, "verification_unavailable")],
)
async def test_a_refusal_of_a_verifier_that_the_app_calls_is_the_apps_own_error(
    world: World,
    placed: Placed,
    of_its_own: bool,
    fault: dict[str, Any] | None,
    code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    verifier = world.verifier()
    asked = world.verifier() if of_its_own else verifier
    caught: list[str] = []

    async def handler(request: Request) -> Response:
        if fault is not None:
            world.emulator.fail("verifyM2MToken", **fault)
        try:
            await asked.verify(UNKNOWN)
        except RefusalError as refusal:
            caught.append(refusal.code)
            raise
        return PlainTextResponse("in")

    recorder = Recorder()
    answer = await get(placed(service(handler), verifier, on_error=recorder), world.token())

    assert answer.status_code == 500
    assert caught == [code]
    assert recorder.codes == []
    assert "Refused" not in caplog.text


async def test_a_missing_edge_found_by_the_apps_own_verifier_is_the_apps_own_error(
    world: World,
) -> None:
    second = world.verifier(world.live_settings())
    other = world.jwt(world.stranger)

    async def handler(request: Request) -> Response:
        await second.verify(other)
        return PlainTextResponse("in")

    answer = await get(added(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


async def test_a_verifiers_refusal_that_is_raised_later_is_the_apps_own_error(
    world: World,
) -> None:
    with pytest.raises(RefusalError) as kept:
        await world.verifier().verify(UNKNOWN)

    async def handler(request: Request) -> Response:
        raise kept.value

    answer = await get(added(service(handler), world.verifier()), world.token())

    assert kept.value.code == "token_invalid"
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


async def test_a_refusal_of_the_test_kits_verifier_is_the_apps_own_error(world: World) -> None:
    second = verifier_of(TokenInvalidError())

    async def handler(request: Request) -> Response:
        await second.verify(UNKNOWN)
        return PlainTextResponse("in")

    answer = await get(added(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


async def test_a_verifiers_refusal_after_a_guards_is_the_apps_own_error(world: World) -> None:
    second = world.verifier()

    async def handler(request: Request) -> Response:
        try:
            require_machine(NOBODY).check(request)
        except RefusalError:
            await second.verify(UNKNOWN)
        return PlainTextResponse("in")

    answer = await get(mounted(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


# Refusals that handlers raise themselves


async def test_a_refusal_that_a_handler_raises_itself_is_answered(world: World) -> None:
    async def handler(request: Request) -> Response:
        raise PermissionDeniedError("Not on Sundays.", required_scopes=["sundays"])

    recorder = Recorder()
    answer = await get(added(service(handler), world.verifier(), on_error=recorder), world.token())

    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert answer.json()["detail"] == "Not on Sundays."
    assert recorder.codes == ["permission_denied"]


async def test_a_refusal_that_a_handler_raises_from_a_verifiers_is_answered(world: World) -> None:
    second = world.verifier()

    async def handler(request: Request) -> Response:
        try:
            await second.verify(UNKNOWN)
        except RefusalError as refusal:
            raise PermissionDeniedError("The second credential is not good.") from refusal
        return PlainTextResponse("in")

    answer = await get(added(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_a_refusal_that_a_mounted_apps_handler_raises_is_its_500(
    world: World,
) -> None:
    """Only guards notify the middleware of a refusal before the mounted app answers with 500."""

    async def handler(request: Request) -> Response:
        raise PermissionDeniedError("Not on Sundays.")

    answer = await get(mounted(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


# One middleware inside another


async def test_the_inner_middleware_answers_what_is_refused_inside_it(world: World) -> None:
    outer_recorder, inner_recorder = Recorder(), Recorder()
    inner = added(service(refused_by_a_guard), world.verifier(), on_error=inner_recorder)
    app = Starlette(routes=[Mount("/inner", app=inner), Route("/", refused_by_a_guard)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(), on_error=outer_recorder)

    answer = await get(app, world.token(), "/inner/")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert (outer_recorder.codes, inner_recorder.codes) == ([], ["permission_denied"])

    answer = await get(app, world.token())
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert (outer_recorder.codes, inner_recorder.codes) == (["permission_denied"],) * 2


async def test_the_inner_middleware_answers_what_its_own_check_refuses(world: World) -> None:
    other_service = world.emulator.add_machine("other service")
    settings = world.settings(
        machine_id=other_service.id, machine_secret_key=other_service.secret_key
    )
    outer_recorder, inner_recorder = Recorder(), Recorder()
    inner = added(service(whoami), world.verifier(settings), on_error=inner_recorder)
    app = Starlette(routes=[Mount("/", app=inner)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(), on_error=outer_recorder)

    answer = await get(app, world.token())

    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert (outer_recorder.codes, inner_recorder.codes) == ([], ["token_invalid"])


async def test_a_guard_reads_the_identity_of_the_innermost_running_middleware(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    inner = added(service(refused_by_a_guard), world.verifier(), required=False, exclude=["/"])
    seen: list[Any] = []

    async def cascade(scope: Scope, receive: Receive, send: Send) -> None:
        async def discard(message: Message) -> None: ...

        connection = HTTPConnection(scope)
        await inner(scope, receive, discard)  # excluded there: no identity
        seen.append(require_machine().check(connection).machine_id)
        seen.append(connection.state.machine.machine_id)
        await PlainTextResponse("in")(scope, receive, send)

    recorder = Recorder()
    app = MachineAuthMiddleware(cascade, verifier=world.verifier(), on_error=recorder)
    answer = await get(app, world.token())

    assert answer.text == "in"
    assert seen == [world.caller.id] * 2
    assert caplog.records == []


# The app's own answers


async def test_a_500_of_the_app_is_sent_before_its_background_task_ends(world: World) -> None:
    received = asyncio.Event()

    async def handler(request: Request) -> Response:
        return PlainTextResponse("broken", 500, background=BackgroundTask(received.wait))

    async with (
        asyncio.timeout(10),  # without the answer, the task waits forever
        serve(added(service(handler), world.verifier())) as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        answer = await client.get("/", headers=bearer(world.token()))
        received.set()

    assert (answer.status_code, answer.text) == (500, "broken")


async def test_a_refusal_in_a_background_task_does_not_change_the_apps_500(
    world: World,
) -> None:
    async def handler(request: Request) -> Response:
        task = BackgroundTask(refused_by_a_guard, request)
        return PlainTextResponse("broken", 500, background=task)

    answer = await get(added(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.text) == (500, "broken")


@in_every_place
async def test_a_500_after_a_refusal_that_the_app_caught_is_sent(
    world: World, placed: Placed
) -> None:
    async def handler(request: Request) -> Response:
        with pytest.raises(PermissionDeniedError):
            require_machine(NOBODY).check(request)
        return PlainTextResponse("broken", 500)

    answer = await get(placed(service(handler), world.verifier()), world.token())

    assert (answer.status_code, answer.text) == (500, "broken")


async def test_a_500_after_a_caught_refusal_is_streamed_piece_by_piece(world: World) -> None:
    received = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"bro"
        await received.wait()
        yield b"ken"

    async def handler(request: Request) -> Response:
        with pytest.raises(PermissionDeniedError):
            require_machine(NOBODY).check(request)
        return StreamingResponse(pieces(), 500)

    async with (
        asyncio.timeout(10),  # without the first piece, the second is never sent
        serve(added(service(handler), world.verifier())) as origin,
        httpx.AsyncClient(base_url=origin) as client,
        client.stream("GET", "/", headers=bearer(world.token())) as answer,
    ):
        body = b""
        async for piece in answer.aiter_raw():
            body += piece
            received.set()

    assert (answer.status_code, body) == (500, b"broken")


# An exception handler of the app


def handling(status: int, verifier: Verifier, **given: Any) -> ASGIApp:
    """An app that answers refusals itself."""

    async def handle(request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, RefusalError)
        return JSONResponse({"mine": refusal.code}, status)

    app = Starlette(
        routes=[Route("/", refused_by_a_guard)], exception_handlers={RefusalError: handle}
    )
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    return app


@pytest.mark.parametrize("status", [404, 403, 500])
async def test_an_exception_handler_of_the_app_answers_and_on_error_is_called_once(
    world: World, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    recorder = Recorder(PlainTextResponse("not used", 418))

    answer = await get(handling(status, world.verifier(), on_error=recorder), world.token())

    assert (answer.status_code, answer.json()) == (status, {"mine": "permission_denied"})
    assert recorder.codes == ["permission_denied"]
    assert [each.getMessage().partition(" [")[0] for each in caplog.records] == [
        f"Refused GET '/' with {status} permission_denied: "
        f"{world.caller.id} is not among this route's callers."
    ]


async def test_a_200_of_the_apps_exception_handler_is_not_reported_as_a_refusal(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    recorder = Recorder()

    answer = await get(handling(200, world.verifier(), on_error=recorder), world.token())

    assert (answer.status_code, answer.json()) == (200, {"mine": "permission_denied"})
    assert recorder.codes == []
    assert caplog.records == []


async def test_on_error_is_called_when_an_exception_handler_closes_a_websocket(
    world: World,
) -> None:
    async def endpoint(websocket: WebSocket) -> None:
        require_machine(NOBODY).check(websocket)

    async def close(websocket: WebSocket, refusal: Exception) -> None:
        await websocket.close(4403)

    recorder = Recorder()
    app = Starlette(
        routes=[WebSocketRoute("/", endpoint)],
        exception_handlers={RefusalError: close},
    )
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(), on_error=recorder)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {world.token()}".encode())]
    await app({"type": "websocket", "path": "/", "headers": headers}, receive, send)

    assert [(each["type"], each["code"]) for each in sent] == [("websocket.close", 4403)]
    assert recorder.codes == ["permission_denied"]
