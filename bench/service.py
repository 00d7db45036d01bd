"""A service in a process of its own: the same handler unprotected, and protected in two ways."""

from __future__ import annotations

import json
import sys

from starlette.applications import Starlette
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.cached import DictBackend
from bench.processes import serve
from clerk_m2m import MachineAuthMiddleware, Settings


async def orders(request: Request) -> JSONResponse:
    """The handler."""
    return JSONResponse({"orders": [1, 2, 3]})


def service(settings: Settings, token: str) -> ASGIApp:
    """One handler behind three doors; which of them a request takes is decided in front of all."""
    unprotected = Starlette(routes=[Route("/orders", orders)])
    doors: dict[bytes, ASGIApp] = {
        b"protected": MachineAuthMiddleware(unprotected, settings),
        b"dict": AuthenticationMiddleware(unprotected, DictBackend({token: "caller"})),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await doors.get(scope.get("query_string", b""), unprotected)(scope, receive, send)

    return app


if __name__ == "__main__":
    wanted = json.loads(sys.stdin.readline())
    serve(service(Settings(**wanted["settings"]), wanted["token"]), {}, **wanted["options"])
