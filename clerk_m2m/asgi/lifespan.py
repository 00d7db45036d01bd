"""The ASGI lifespan: a start that fails with its reason, and a shutdown that closes the network."""

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
    """Answer the start with what is wrong, and raise it as `ConfigurationError`.

    An exception alone is taken for an app without a lifespan (uvicorn, hypercorn, granian), which
    is then served. After the message every server stops, and shows the reason.
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

    Awaits `warm_up` before its start is complete, and `close` before its shutdown is.
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
            return  # the app reports the error just raised, and the server has been told
        if kind == "lifespan.startup.complete":
            await warm_up()
        # Before the server hears that shutdown is complete: after that its loop may stop.
        if kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await close()
        await send(message)

    await app(scope, receive, watching_send)
