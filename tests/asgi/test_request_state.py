"""`request.state.machine`: who sees it, and servers that share the dict behind `request.state`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from answers import get
from sent_credentials import UNKNOWN
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m import ConfigurationError, MachineAuthMiddleware, RefusalError, require_machine
from harness import World, protected, whoami


def seen_in(state: dict[str, Any]) -> str | None:
    """The subject of the caller in a dict behind `request.state`."""
    machine = state.get("machine")
    return machine.subject if machine else None


class SharingServer:
    """Calls an app as hypercorn 0.17 does: all requests of a connection get one state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "state": self.state}, receive, send)


# Outer middleware


async def test_outer_middleware_sees_the_identity_and_what_a_handler_sets(world: World) -> None:
    seen: list[Any] = []

    async def log(request: Request, call_next: Any) -> Response:
        request.state.request_id = "r1"  # makes the state before the middleware inside does
        response: Response = await call_next(request)
        seen.append((request.state.machine.subject, request.state.rows))
        return response

    async def handler(request: Request) -> Response:
        request.state.rows = 7
        return PlainTextResponse(request.state.request_id)

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    app.add_middleware(BaseHTTPMiddleware, dispatch=log)

    assert (await get(app, world.token())).text == "r1"
    assert seen == [(world.caller.id, 7)]


async def test_outer_middleware_sees_no_identity_for_a_refused_request(world: World) -> None:
    seen: list[Any] = []

    async def log(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        seen.append(request.state.machine)
        return response

    app = protected(world.verifier())
    app.add_middleware(BaseHTTPMiddleware, dispatch=log)

    assert (await get(app, UNKNOWN)).json()["code"] == "token_invalid"
    assert seen == [None]


async def test_the_servers_state_dict_and_its_entries_are_kept(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["state"] is server.state
        assert scope["state"]["pool"] == 7
        await PlainTextResponse("in")(scope, receive, send)

    server = SharingServer(MachineAuthMiddleware(app, verifier=world.verifier()))
    server.state["pool"] = 7

    assert (await get(server, world.token())).text == "in"
    assert seen_in(server.state) == world.caller.id


async def test_a_guard_ignores_request_state(world: World) -> None:
    async def handler(request: Request) -> Response:
        request.state.machine = world.stranger.id
        return PlainTextResponse(require_machine().check(request).machine_id)

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())

    assert (await get(app, world.token())).text == world.caller.id


async def test_a_middleware_inside_another_writes_to_the_same_state(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    states: list[dict[str, Any]] = []

    async def log(request: Request, call_next: Any) -> Response:
        request.state.outer = True
        response: Response = await call_next(request)
        states.append(request.scope["state"])
        return response

    inner = Starlette(routes=[Route("/", whoami)])
    inner.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    app = Starlette(routes=[Mount("/", app=inner)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    app.add_middleware(BaseHTTPMiddleware, dispatch=log)

    for _ in range(2):
        assert (await get(app, world.token())).json() == {"subject": world.caller.id}
    assert [seen_in(state) for state in states] == [world.caller.id] * 2
    assert caplog.records == []


# A server that shares the state between requests


async def test_concurrent_requests_on_one_state_each_see_their_own_caller(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.emulator.allow(world.stranger, world.callee)
    both_in, seen = asyncio.Barrier(2), list[tuple[str, str, str]]()

    async def handler(request: Request) -> Response:
        before = request.state.machine.subject
        await both_in.wait()
        guarded = require_machine().check(request).machine_id
        seen.append((before, request.state.machine.subject, guarded))
        return PlainTextResponse(f"{request.state.a_pool} {request.state.zone}")

    app = Starlette(routes=[Route("/", handler)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    server = SharingServer(app)
    server.state.update(a_pool=7, zone="eu")
    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            get(server, world.token()), get(server, world.token(world.stranger))
        )

    assert [each.text for each in answers] == ["7 eu"] * 2  # the server's own
    assert sorted(seen) == sorted((each.id,) * 3 for each in (world.caller, world.stranger))
    assert "machine" not in server.state  # the first one's is removed when its app returns
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "hypercorn before 0.18" in record.getMessage()


async def test_the_caller_of_an_earlier_request_is_removed_from_a_shared_state(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.emulator.allow(world.stranger, world.callee)
    after: list[str | None] = []

    async def log(request: Request, call_next: Any) -> Response:
        request.state.outer = True
        response: Response = await call_next(request)
        after.append(getattr(request.state, "machine", None) and request.state.machine.subject)
        return response

    app = protected(world.verifier())
    app.add_middleware(BaseHTTPMiddleware, dispatch=log)
    server = SharingServer(app)
    answers = [
        (await get(server, world.token(machine))).json()["subject"]
        for machine in (world.caller, world.stranger, world.stranger)
    ]

    assert answers == [world.caller.id, world.stranger.id, world.stranger.id]
    assert after == [world.caller.id, None, None]
    assert len(caplog.records) == 1


async def test_no_request_gets_the_caller_of_an_earlier_one(world: World) -> None:
    heard: list[Any] = []

    def on_error(connection: HTTPConnection, refusal: RefusalError) -> None:
        heard.append((refusal.code, connection.state.machine))

    app = protected(world.verifier(), exclude=["/healthz"], on_error=on_error)
    server = SharingServer(app)
    await get(server, world.token())
    excluded = await get(server, None, "/healthz")
    await get(server, world.token())
    refused = await get(server, UNKNOWN)

    assert excluded.json() == {"subject": None}
    assert refused.json()["code"] == "token_invalid"
    assert heard == [("token_invalid", None)]


async def test_a_machine_entry_of_other_code_in_the_state_is_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    server = SharingServer(protected(world.verifier()))
    server.state["machine"] = "printer-7"
    answers = [(await get(server, world.token())).json() for _ in range(2)]

    assert answers == [{"subject": world.caller.id}] * 2
    assert server.state == {"machine": "printer-7"}
    assert len(caplog.records) == 1


# A lifespan state


def lifespan_of(state: dict[str, Any]) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield state

    return lifespan


async def start(app: ASGIApp, sent: list[Message]) -> None:
    """Start and stop an app as a server does; append what the app sends to `sent`."""
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "state": {}}, receive, send)


def add_to(app: Starlette, world: World) -> ASGIApp:
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    return app


def put_around(app: Starlette, world: World) -> ASGIApp:
    return MachineAuthMiddleware(app, verifier=world.verifier())


def around_a_bare_app(app: Starlette, world: World) -> ASGIApp:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["machine"] = "press"
        await receive()
        await send({"type": "lifespan.startup.complete"})

    return MachineAuthMiddleware(bare, verifier=world.verifier())


@pytest.mark.parametrize("placed", [add_to, put_around, around_a_bare_app])
async def test_a_lifespan_state_with_a_machine_stops_the_start(
    world: World, placed: Callable[[Starlette, World], ASGIApp]
) -> None:
    app = placed(Starlette(lifespan=lifespan_of({"machine": "press"})), world)
    sent: list[Message] = []

    with pytest.raises(ConfigurationError, match="Rename the entry") as failed:
        await start(app, sent)

    assert failed.value.code == "configuration_invalid"
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "Rename the entry" in message["message"]


async def test_a_lifespan_state_without_a_machine_starts(world: World) -> None:
    sent: list[Message] = []
    await start(add_to(Starlette(lifespan=lifespan_of({"pool": 7})), world), sent)

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_server_does_not_serve_with_a_machine_in_the_lifespan_state(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = add_to(Starlette(lifespan=lifespan_of({"machine": "press"})), world)
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_config=None))
    # Another test may have configured uvicorn's logging, which then does not propagate.
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "propagate", True)

    async with asyncio.timeout(10):  # else it would serve forever
        with suppress(SystemExit):  # what newer versions of uvicorn raise here
            await server.serve()

    assert not server.started
    assert "Rename the entry" in caplog.text
