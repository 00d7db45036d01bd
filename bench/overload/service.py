"""The service under load: one route behind the middleware, on one uvicorn worker."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.processes import serve
from clerk_m2m import MachineAuthMiddleware, Settings, Verifier

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Give the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


async def orders(request: Request) -> JSONResponse:
    """Answer whose token it was, and whether its verdict was stale."""
    return JSONResponse({"stale": request.state.machine.stale})


def main() -> None:
    """Serve with the settings that stdin tells."""
    logging.disable(logging.CRITICAL)
    given = json.loads(sys.stdin.readline())
    verifier = Verifier(Settings(**given))

    async def stats(_request: Request) -> JSONResponse:
        return JSONResponse(verifier.stats.as_dict() | {"resident": resident()})

    app = Starlette(
        routes=[Route("/", orders), Route("/stats", stats)],
        middleware=[Middleware(MachineAuthMiddleware, verifier=verifier, exclude=["/stats"])],
    )
    serve(app, {}, access_log=False, backlog=2048, timeout_keep_alive=60)


if __name__ == "__main__":
    main()
