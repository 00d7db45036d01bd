"""One worker of `orders`: `python -m clerk_m2m.demo.worker`, which `workers` starts.

The first line on stdin holds the settings, each further line a request, which gets one line on
stdout. The worker exits at the end of stdin.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from clerk_m2m import Fleet, MachineAuthMiddleware, Settings, Verifier
from clerk_m2m.demo.lines import read_line, write_line
from clerk_m2m.demo.servers import ServedApp


async def _read(request: Request) -> JSONResponse:
    return JSONResponse({"caller": request.state.machine.machine_id})


async def _work() -> None:
    wanted = await read_line()
    fleet = Fleet(**wanted["fleet"], share_verdicts=True)
    verifier = Verifier(Settings(**wanted["settings"], fleet=fleet))
    app = Starlette(routes=[Route("/", _read)])
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)
    served = ServedApp(app)
    await served.start()
    write_line({"origin": served.origin})
    while (request := await read_line()) is not None:
        if "invalidate" in request:
            await verifier.invalidate_everywhere(token_id=request["invalidate"])
        fleet_counters = verifier.measure().fleet
        shared = fleet_counters.shared["hits"] if fleet_counters is not None else 0
        write_line({"cached": verifier.stats.hits + verifier.stats.shared, "shared": shared})
    await served.stop()


if __name__ == "__main__":
    # No log lines about refusals, because the demo shows them.
    logging.getLogger("clerk_m2m").addHandler(logging.NullHandler())
    asyncio.run(_work())
