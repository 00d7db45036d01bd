"""The service that `test_servers` runs on real servers; granian imports it by name.

One path is excluded and returns a good token; paths below `/files/` are excluded too. Every other
path, in any encoding, needs a credential.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from clerk_m2m import MachineAuthMiddleware
from clerk_m2m.testing import ClerkEmulator

OPEN_PATH = "/open"


def build() -> Starlette:
    """A service with its own emulated instance in process."""
    emulator = ClerkEmulator()
    callee = emulator.add_machine("callee")
    caller = emulator.add_machine("caller", may_call=[callee])

    async def give_away(_: Request) -> JSONResponse:
        token = emulator.mint_m2m_token(caller).token
        return JSONResponse({"route": "open", "token": token, "caller": caller.id})

    async def inside(request: Request) -> JSONResponse:
        identity = request.state.machine
        return JSONResponse({"route": "inside", "subject": identity.subject if identity else None})

    async def file(request: Request) -> JSONResponse:
        identity = request.state.machine
        return JSONResponse({"route": "file", "subject": identity.subject if identity else None})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        emulator.close()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route(OPEN_PATH, give_away),
            Route("/files/{path:path}", file),
            Route("/{path:path}", inside),
            Route("/", inside),
        ],
    )
    app.router.redirect_slashes = False
    app.add_middleware(
        MachineAuthMiddleware,
        verifier=emulator.verifier(callee),
        exclude=[OPEN_PATH, "/files/*"],
    )
    return app
