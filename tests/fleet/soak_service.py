"""A service of the soak run, in its own process: one route behind the middleware.

`POST /invalidate` calls `invalidate_everywhere`, and `GET /state` returns the process's state.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import threading
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
from clerk_m2m import (
    Fleet,
    FleetUnavailableError,
    MachineAuthMiddleware,
    RefusalError,
    Settings,
    Verifier,
)
from clerk_m2m.background import BACKGROUND
from fleet.services import FLEET_KEY, measured

PAGE = os.sysconf("SC_PAGE_SIZE")


class Service:
    """The state that the routes share."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.refusals: Counter[str] = Counter()
        self.stood_still = 0.0

    def count(self, _connection: HTTPConnection, refusal: RefusalError) -> None:
        if refusal.status != 401:
            self.refusals[f"{refusal.status} {refusal.code}: {refusal.__cause__!r}"] += 1

    async def watch(self) -> None:
        """Record the longest time for which the event loop was blocked."""
        while True:
            began_at = monotonic()
            await asyncio.sleep(0.02)
            self.stood_still = max(self.stood_still, monotonic() - began_at - 0.02)

    async def orders(self, _request: Request) -> JSONResponse:
        return JSONResponse({"in_sync": measured(self.verifier).in_sync})

    async def invalidate(self, request: Request) -> JSONResponse:
        try:
            await self.verifier.invalidate_everywhere(**await request.json())
        except FleetUnavailableError as exc:
            return JSONResponse({"error": str(exc)}, 503)
        return JSONResponse({})

    async def state(self, _request: Request) -> JSONResponse:
        gc.collect()
        fleet = measured(self.verifier)
        background = BACKGROUND._loop
        return JSONResponse(
            {
                "in_sync": fleet.in_sync,
                "resident": _resident(),
                "objects": len(gc.get_objects()),
                "tasks": len(asyncio.all_tasks()),
                "background_tasks": len(asyncio.all_tasks(background)) if background else 0,
                "threads": threading.active_count(),
                "files": len(os.listdir("/proc/self/fd")),
                "applied": fleet.applied,
                "doubts": fleet.doubts,
                "shared": fleet.shared,
                "verifications": self.verifier.stats.sent,
                "refusals": self.refusals,
                "stood_still": self.stood_still,
            }
        )


def _resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


def main() -> None:
    logging.disable(logging.CRITICAL)  # each fault is logged
    given = json.loads(sys.stdin.readline())
    fleet = Fleet(given["redis"], keys=[FLEET_KEY], share_verdicts=True)
    service = Service(Verifier(Settings(**given["settings"], fleet=fleet)))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(service.watch())
        yield
        task.cancel()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", service.orders),
            Route("/invalidate", service.invalidate, methods=["POST"]),
            Route("/state", service.state),
        ],
        middleware=[
            Middleware(
                MachineAuthMiddleware,
                verifier=service.verifier,
                exclude=["/invalidate", "/state"],
                on_error=service.count,
            )
        ],
    )
    serve(app, {}, access_log=False)


if __name__ == "__main__":
    main()
