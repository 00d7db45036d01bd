"""A partly public Starlette service: requests need no credential, unless a guard requires one.

CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… uvicorn starlette_service:app
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from clerk_m2m import MachineAuthMiddleware, require_machine

any_machine = require_machine()


async def welcome(request: Request) -> PlainTextResponse:
    caller = request.state.machine
    return PlainTextResponse(f"Hello, {caller.machine_id if caller else 'stranger'}.")


async def stock(request: Request) -> JSONResponse:
    caller = any_machine.check(request)
    return JSONResponse({"stock_for": caller.machine_id})


app = Starlette(
    routes=[Route("/", welcome), Route("/stock", stock)],
    middleware=[Middleware(MachineAuthMiddleware, required=False)],
)
