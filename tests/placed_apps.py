"""The ways to put the middleware around a service, and a service with guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from sent_credentials import NOBODY
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp

from clerk_m2m import (
    ApiKeyIdentity,
    MachineAuthMiddleware,
    MachineIdentity,
    Verifier,
    require_api_key,
    require_machine,
)


async def machine_route(
    caller: Annotated[MachineIdentity, Depends(require_machine())],
) -> dict[str, str]:
    return {"caller": caller.machine_id}


async def reports_route(
    key: Annotated[ApiKeyIdentity, Depends(require_api_key(scopes=["read", "write"]))],
) -> dict[str, str | None]:
    return {"user": key.user_id}


async def check_in_handler(request: Request) -> JSONResponse:
    identity = require_machine(NOBODY).check(request)
    return JSONResponse({"caller": identity.machine_id})


async def broken(request: Request) -> Response:
    raise KeyError("the app's own")


async def machine_socket(
    websocket: WebSocket, caller: Annotated[MachineIdentity, Depends(require_machine())]
) -> None:
    await websocket.accept()
    await websocket.send_text(caller.machine_id)
    await websocket.close()


def fastapi_service() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/machine", machine_route)
    app.add_api_route("/reports", reports_route)
    app.add_route("/handler", check_in_handler)
    app.add_route("/broken", broken)
    app.add_api_websocket_route("/ws", machine_socket)
    return app


def added(app: Starlette, verifier: Verifier, **given: Any) -> ASGIApp:
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    return app


def wrapped(app: Starlette, verifier: Verifier, **given: Any) -> ASGIApp:
    return MachineAuthMiddleware(app, verifier=verifier, **given)


def wrapped_in_debug(app: Starlette, verifier: Verifier, **given: Any) -> ASGIApp:
    app.debug = True
    return wrapped(app, verifier, **given)


def mounted(app: Starlette, verifier: Verifier, **given: Any) -> ASGIApp:
    return added(Starlette(routes=[Mount("/", app=app)]), verifier, **given)


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def mounted_in_streams(app: Starlette, verifier: Verifier, **given: Any) -> ASGIApp:
    outer = Starlette(routes=[Mount("/", app=app)])
    outer.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return added(outer, verifier, **given)


Placed = Callable[..., ASGIApp]
in_every_place = pytest.mark.parametrize(
    "placed", [added, wrapped, wrapped_in_debug, mounted, mounted_in_streams]
)
