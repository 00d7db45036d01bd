"""The ASGI lifespan: makes a faulty start fail, and closes the connections at shutdown."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m.errors import ConfigurationError

logger = logging.getLogger("clerk_m2m")

_STATE: Final = (
    "The lifespan state has an entry `machine`, which is where MachineAuthMiddleware puts the "
    "caller's identity. Rename the entry."
)


async def fail_start(fault: str, receive: Receive, send: Send) -> NoReturn:
    """Send `lifespan.startup.failed` with the fault, and raise it as `ConfigurationError`.

    If the app only raised, uvicorn, hypercorn and granian would assume that it has no lifespan, and
    would serve it. After the message every server shows the reason and stops.
    """
    await receive()
    logger.critical("This service cannot start: %s", fault)
    await send({"type": "lifespan.startup.failed", "message": fault})
    raise ConfigurationError(fault)


async def run_lifespan(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    warm_up: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
) -> None:
    """Run the app's own lifespan.

    Awaits `warm_up` before the message that the start is complete goes to the server, and `close`
    before the message that the shutdown is complete.
    """
    state: dict[str, Any] = scope.get("state", {})
    refused = False

    async def watching_send(message: Message) -> None:
        nonlocal refused
        kind = message["type"]
        if kind == "lifespan.startup.complete" and "machine" in state:
            refused = True
            await send({"type": "lifespan.startup.failed", "message": _STATE})
            raise ConfigurationError(_STATE)
        if refused:
            return  # the app reports the error raised above; the server has its message already
        if kind == "lifespan.startup.complete":
            await warm_up()
        # Close before the message is sent: after it the server may stop its event loop.
        if kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await close()
        await send(message)

    await app(scope, receive, watching_send)
