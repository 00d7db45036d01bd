"""Mistakes on routes that FastAPI reports only at a request: they are found at the start."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from asgi_messages import http_scope, receive_nothing, send_nowhere
from fastapi import APIRouter, Depends, FastAPI, Security
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.types import Message

from clerk_m2m import (
    ConfigurationError,
    Guard,
    MachineAuthMiddleware,
    MachineIdentity,
    RefusalError,
    require_any,
    require_api_key,
    require_machine,
)
from clerk_m2m.asgi.refusals import EXCHANGE, Exchange
from clerk_m2m.asgi.routes import read_routes
from clerk_m2m.testing import api_key_identity, as_caller, machine_identity
from harness import World, calling


async def route() -> str:
    return "in"


async def reading(caller: MachineIdentity) -> str:
    return "in"


def on_the_app(dependency: Any) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/", route, dependencies=[dependency])
    return app


def on_the_inclusion(dependency: Any) -> FastAPI:
    router, app = APIRouter(), FastAPI()
    router.add_api_route("/", route)
    app.include_router(router, prefix="/v1", dependencies=[dependency])
    return app


def on_a_mounted_app(dependency: Any) -> FastAPI:
    app = FastAPI()
    app.mount("/sub", on_the_app(dependency))
    return app


def on_a_websocket(dependency: Any) -> FastAPI:
    app = FastAPI()
    app.add_api_websocket_route("/", route, dependencies=[dependency])
    return app


EVERYWHERE = [on_the_app, on_the_inclusion, on_a_mounted_app, on_a_websocket]


async def started(app: Any) -> list[Message]:
    """Start an app as a server does; return what it sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup" if not sent else "lifespan.shutdown"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "state": {}}, receive, send)
    return sent


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_scopes_around_a_guard_for_machines_stop_the_start(
    world: World, place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = place(Security(require_any(require_machine()), scopes=["write"]))
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError, match="an M2M token has no permissions"):
        await app({"type": "lifespan", "state": {}}, receive, send)
    (failed,) = sent
    assert failed["type"] == "lifespan.startup.failed"
    assert "an M2M token has no permissions" in failed["message"]
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_scopes_that_a_guard_can_check_do_not_stop_the_start(
    world: World, place: Any
) -> None:
    either = require_any(require_machine(), require_api_key())
    app = place(Security(either, scopes=["write"]))
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(world.live_settings()))

    assert [message["type"] for message in await started(app)] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    routes, mistake = read_routes(app)

    assert mistake is None
    assert [(guard, scopes) for _, guard, scopes in routes] == [(either, ["write"])]


async def test_an_identity_as_a_body_stops_the_start(world: World) -> None:
    inner = FastAPI()
    inner.add_api_route("/orders", reading, methods=["POST"])
    app = Starlette(routes=[Mount("/v1", inner)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())

    with pytest.raises(ConfigurationError, match=r"^/v1/orders: the parameter 'caller'"):
        await started(app)


@dataclass(frozen=True, kw_only=True)
class OurMachine(MachineIdentity):
    """A subclass whose field lacks the marker that makes FastAPI fail."""

    token_format: Literal["opaque", "jwt"] = "jwt"


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_a_subclass_of_an_identity_as_a_dependency_stops_the_start(
    world: World, place: Any
) -> None:
    app = place(Depends(OurMachine))
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(), required=False)

    with pytest.raises(ConfigurationError, match=r"Depends\(OurMachine\) would make an identity"):
        await started(app)


async def test_a_guard_without_parentheses_on_an_included_router_stops_the_start(
    world: World,
) -> None:
    """FastAPI reads the router when it is included, or later, depending on its version."""

    async def whole_start() -> None:
        app = on_the_inclusion(Depends(require_machine))
        app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
        await started(app)

    with pytest.raises(ConfigurationError, match=r"Write Depends\(require_machine\(\)\)"):
        await whole_start()


# A guard where an identity should be


async def test_the_error_about_a_guard_used_as_an_identity_says_so() -> None:
    app = FastAPI()

    @app.get("/")
    async def handler(caller: Annotated[Any, Depends(lambda: require_machine())]) -> str:
        return str(caller.machine_id)

    async with calling(as_caller(app, machine_identity())) as client:
        with pytest.raises(AttributeError, match="and it was not called") as failed:
            await client.get("/")
    assert "'machine_id'" in str(failed.value)


@pytest.mark.parametrize("guard", [require_machine(), require_any(require_api_key())])
def test_a_guard_has_no_other_attributes(guard: Guard[Any]) -> None:
    assert not hasattr(guard, "subject")
    assert not hasattr(guard, "__wrapped__")


# Guards by the scope, for frameworks other than Starlette's


async def test_a_guard_reads_a_bare_scope_as_it_reads_a_connection() -> None:
    machine = machine_identity()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        guard = require_machine()
        seen.extend([guard.check(scope), guard.check(HTTPConnection(scope)), await guard(scope)])
        with pytest.raises(RefusalError) as refused:
            require_api_key().check(scope)
        seen.append(refused.value.code)
        assert scope[EXCHANGE].refusal is refused.value
        raise refused.value

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await as_caller(app, machine)(http_scope(), receive_nothing, send)
    assert seen == [machine, machine, machine, "token_type_not_accepted"]
    assert sent[0]["status"] == 401


async def test_on_an_excluded_path_an_api_key_header_differs_from_no_credential(
    world: World,
) -> None:
    verifier = world.verifier(world.live_settings(api_key_header="x-api-key"))
    for headers, code in (
        ([], "token_missing"),
        ([(b"x-api-key", b"ak_" + b"a" * 20)], "token_type_not_accepted"),
    ):
        scope = http_scope(headers=headers)
        Exchange(scope, receive_nothing, send_nowhere, verifier)
        with pytest.raises(RefusalError) as refused:
            require_api_key().check(scope)
        assert refused.value.code == code


def test_a_guard_can_check_a_given_identity() -> None:
    assert require_api_key(scopes=["read"]).accept(api_key_identity(scopes=["read"])).name
