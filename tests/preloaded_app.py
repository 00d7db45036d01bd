"""The service that `test_forks` runs on gunicorn, which loads it before it forks its workers.

Before the fork it uses its verifier, in an event loop that stays open with a connection to Clerk.
"""

from __future__ import annotations

import asyncio
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from clerk_m2m import MachineAuthMiddleware, Verifier

verifier = Verifier()
loop = asyncio.new_event_loop()
loop.run_until_complete(verifier.verify(os.environ["FIRST_TOKEN"]))


async def which(request: Request) -> JSONResponse:
    """Answer with the caller, and with the process that has verified its token."""
    return JSONResponse({"subject": request.state.machine.subject, "pid": os.getpid()})


app = Starlette(routes=[Route("/", which)])
app.add_middleware(MachineAuthMiddleware, verifier=verifier)
