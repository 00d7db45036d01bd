"""The service under load: one route behind the middleware, on one uvicorn worker."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.processes import serve
from clerk_m2m import MachineAuthMiddleware, RefusalError, Settings, Verifier

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


async def orders(request: Request) -> JSONResponse:
    """Answer whether the verdict of the request was stale."""
    return JSONResponse({"stale": request.state.machine.stale})


def main() -> None:
    """Serve with the settings that are read from stdin."""
    logging.disable(logging.CRITICAL)
    given = json.loads(sys.stdin.readline())
    verifier = Verifier(Settings(**given))

    causes: Counter[str] = Counter()

    def count(_connection: HTTPConnection, refusal: RefusalError) -> None:
        causes[f"{refusal.code}: {refusal.__cause__!r}"] += 1

    async def stats(_request: Request) -> JSONResponse:
        return JSONResponse(
            verifier.stats.as_dict()
            | {"resident": resident(), "causes": causes, "stall": stalls[0]}
        )

    stalls: list[float] = [0.0]

    async def watch_stalls() -> None:
        while True:
            begun = monotonic()
            await asyncio.sleep(0.05)
            stalls[0] = max(stalls[0], monotonic() - begun - 0.05)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(watch_stalls())
        yield
        task.cancel()

    app = Starlette(
        lifespan=lifespan,
        routes=[Route("/", orders), Route("/stats", stats)],
        middleware=[
            Middleware(MachineAuthMiddleware, verifier=verifier, exclude=["/stats"], on_error=count)
        ],
    )
    serve(app, {}, access_log=False, backlog=2048, timeout_keep_alive=60)


if __name__ == "__main__":
    main()
