"""The test kit without an emulator: made-up identities, and apps that receive them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from clerk_m2m import (
    MachineAuthMiddleware,
    RefusalError,
    Settings,
    TokenInvalidError,
    VerificationUnavailableError,
    require_api_key,
    require_machine,
)
from clerk_m2m.testing import (
    api_key_identity,
    as_caller,
    machine_identity,
    oauth_identity,
    verifier_of,
)
from harness import bearer as bearer_text
from harness import calling

BILLING = machine_identity("mch_" + "billing".ljust(27, "0"))
SETTINGS = Settings(
    machine_id="mch_" + "orders".ljust(27, "0"),
    machine_secret_key="ak_orders",
    api_url="http://127.0.0.1:1",  # no server listens there: every verification is a 503
)


# Made-up identities


def test_identities_from_the_test_kit_equal_those_of_the_middleware() -> None:
    machine = machine_identity(claims={"jobs": ["nightly"]}, scopes=["mch_x"], expires_at=5.0)
    assert (machine.token_type, machine.token_format) == ("m2m_token", "opaque")
    assert machine.claims["jobs"] == ("nightly",)
    assert machine.scopes == {"mch_x"}
    assert machine.expires_at == 5.0
    assert api_key_identity("org_" + "0" * 27).org_id == "org_" + "0" * 27
    user = oauth_identity(client_id="client_x", audience="https://a.test", actor={"sub": "x"})
    assert (user.client_id, user.audience, user.actor) == (
        "client_x",
        ("https://a.test",),
        {"sub": "x"},
    )
    assert (oauth_identity().audience, oauth_identity().actor) == ((), None)
    with pytest.raises(TypeError):
        machine.claims["jobs"] = ()  # type: ignore[index]  # read-only, as it is in a request


def test_an_impossible_identity_raises() -> None:
    with pytest.raises(ValueError, match="'billing' is not a machine id"):
        machine_identity("billing")
    with pytest.raises(ValueError, match="not one string"):
        api_key_identity(scopes="orders:read")


# An app called by a made-up identity


async def whoami(request: Request) -> JSONResponse:
    require_machine().check(request)
    return JSONResponse({"subject": request.state.machine.subject})


async def nobody(request: Request) -> JSONResponse:
    return JSONResponse({"found": request.state.machine is not None})


def with_middleware(*given: Any, **options: Any) -> Starlette:
    """A Starlette app with the middleware added to it."""
    app = Starlette(routes=[Route("/", whoami), Route("/open", nobody)])
    app.add_middleware(MachineAuthMiddleware, *given, **options)
    return app


def wrapped() -> ASGIApp:
    return MachineAuthMiddleware(Starlette(routes=[Route("/", whoami)]), SETTINGS)


def with_guards_only() -> ASGIApp:
    return Starlette(routes=[Route("/", whoami)])


def with_fastapi() -> ASGIApp:
    app = FastAPI()
    app.add_middleware(MachineAuthMiddleware, settings=SETTINGS)

    @app.get("/", dependencies=[Depends(require_machine())])
    async def read(request: Request) -> dict[str, str]:
        return {"subject": request.state.machine.subject}

    return app


APPS: list[Callable[[], ASGIApp]] = [
    lambda: with_middleware(SETTINGS),
    lambda: with_middleware(verifier=verifier_of(TokenInvalidError())),
    lambda: with_middleware(),
    wrapped,
    with_guards_only,
    with_fastapi,
]


@pytest.mark.parametrize("make", APPS)
async def test_the_handler_receives_the_identity_of_the_test(
    make: Callable[[], ASGIApp],
) -> None:
    async with calling(as_caller(make(), BILLING)) as client:
        assert (await client.get("/")).json() == {"subject": BILLING.subject}
        sent = await client.get("/", headers=bearer_text("mt_of_somebody_else"))
        assert sent.json() == {"subject": BILLING.subject}


# If the middleware wraps the whole app, that app answers its guards' errors, as in production.
@pytest.mark.parametrize("make", [each for each in APPS if each is not wrapped])
async def test_guards_still_refuse_another_identity(make: Callable[[], ASGIApp]) -> None:
    async with calling(as_caller(make(), api_key_identity())) as client:
        assert (await client.get("/")).json()["code"] == "token_type_not_accepted"


@pytest.mark.parametrize("make", APPS)
async def test_none_sends_no_credential(make: Callable[[], ASGIApp]) -> None:
    async with calling(as_caller(make(), None)) as client:
        refused = await client.get("/", headers=bearer_text("mt_of_somebody"))
    assert refused.json()["code"] == "token_missing"


async def test_a_refusal_is_answered_like_in_the_middleware() -> None:
    app = as_caller(with_middleware(SETTINGS), VerificationUnavailableError(retry_after=7))
    async with calling(app) as client:
        answers = [await client.get("/") for _ in range(2)]
    for answer in answers:
        assert answer.json()["code"] == "verification_unavailable"
        assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize("make", [lambda: with_middleware(SETTINGS), wrapped])
async def test_the_original_app_still_refuses(make: Callable[[], ASGIApp]) -> None:
    app = make()
    async with calling(app) as client:
        assert (await client.get("/")).json()["code"] == "token_missing"
    async with calling(as_caller(app, BILLING)) as client:
        assert (await client.get("/")).status_code == 200
    async with calling(app) as client:
        assert (await client.get("/")).json()["code"] == "token_missing"
        refused = await client.get("/", headers=bearer_text("mt_" + "0" * 64))
        assert refused.json()["code"] == "verification_unavailable"


async def test_the_middleware_keeps_its_options() -> None:
    def on_error(connection: HTTPConnection, refusal: RefusalError) -> Response:
        return JSONResponse({"mine": refusal.code}, refusal.status)

    app = with_middleware(settings=SETTINGS, exclude=["/open"], on_error=on_error)
    async with calling(as_caller(app, BILLING)) as client:
        assert (await client.get("/open")).json() == {"found": False}
    async with calling(as_caller(app, None)) as client:
        assert (await client.get("/")).json() == {"mine": "token_missing"}
    optional = with_middleware(SETTINGS, required=False)
    async with calling(as_caller(optional, None)) as client:
        assert (await client.get("/open")).json() == {"found": False}


async def test_a_mounted_app_with_its_own_middleware_still_refuses() -> None:
    app = Starlette()
    app.mount("/inner", with_middleware(SETTINGS))
    async with calling(as_caller(app, BILLING)) as client:
        assert (await client.get("/inner/")).json()["code"] == "verification_unavailable"


async def test_dependency_overrides_of_the_app_are_used() -> None:
    app = FastAPI()
    app.add_middleware(MachineAuthMiddleware)
    app.get("/")(_region_of_orders)
    caller = as_caller(app, BILLING)
    app.dependency_overrides[_region] = lambda: "test"
    async with calling(caller) as client:
        assert (await client.get("/")).json() == "test"


def _region() -> str:
    return "live"


async def _region_of_orders(region: str = Depends(_region)) -> str:
    return region


def test_websockets_and_starlettes_test_client_receive_the_identity() -> None:
    with warnings.catch_warnings():
        # Starlette's client warns about httpx; it works with httpx and httpx2.
        warnings.simplefilter("ignore")
        from starlette.testclient import TestClient

    async def prices(socket: WebSocket) -> None:
        caller = require_machine().check(socket)
        await socket.accept()
        await socket.send_json({"prices_for": caller.machine_id})

    app = Starlette(routes=[WebSocketRoute("/prices", prices)])
    app.add_middleware(MachineAuthMiddleware, SETTINGS)
    with (
        TestClient(as_caller(app, BILLING)) as client,
        client.websocket_connect("/prices") as socket,
    ):
        assert socket.receive_json() == {"prices_for": BILLING.machine_id}


async def test_verifier_of_returns_the_identity_for_every_token() -> None:
    assert await verifier_of(BILLING).verify("mt_any") is BILLING
    with pytest.raises(TokenInvalidError) as refused:
        await verifier_of(TokenInvalidError()).verify("mt_any")
    assert refused.value.code == "token_invalid"


async def test_guards_check_an_identity_from_the_test_kit() -> None:
    reader = api_key_identity(scopes=["orders:read"])
    guard = require_api_key(scopes=["orders:write"])
    with pytest.raises(RefusalError) as refused:
        guard.accept(reader)
    assert refused.value.code == "permission_denied"
