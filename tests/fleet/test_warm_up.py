"""The start of a server: it reaches Redis and reads the log before it accepts a request."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.types import Message

from clerk_m2m import Fleet, MachineAuthMiddleware, MachineIdentity, Verifier
from harness import World

from .services import in_sync, measured

MakeFleet = Callable[..., Fleet]


@asynccontextmanager
async def served(verifier: Verifier) -> AsyncIterator[None]:
    """Run the lifespan of a server that receives no request."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    app = MachineAuthMiddleware(Starlette(), verifier=verifier)
    running = asyncio.create_task(app({"type": "lifespan", "state": {}}, received.get, sent.put))
    received.put_nowait({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    yield
    received.put_nowait({"type": "lifespan.shutdown"})
    await running


@pytest.mark.parametrize("share", [True, False])
async def test_a_server_follows_the_log_before_its_first_request(
    world: World, fleet: MakeFleet, share: bool
) -> None:
    verifier = world.verifier(world.live_settings(fleet=fleet(share_verdicts=share)))

    async with served(verifier):
        assert in_sync(verifier)
        await verifier.verify(world.token())
        # The first token was already looked for in Redis.
        assert measured(verifier).shared.get("misses", 1) == 1


@pytest.mark.parametrize("share", [True, False])
async def test_a_server_starts_although_redis_does_not_answer(
    world: World, fleet: MakeFleet, share: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        made = fleet(server=address, share_verdicts=share)
        verifier = world.verifier(world.live_settings(fleet=made))
        began_at = time.monotonic()

        async with served(verifier):
            assert 0.4 < time.monotonic() - began_at < 5
            began_at = time.monotonic()
            assert isinstance(await verifier.verify(world.token()), MachineIdentity)
            assert time.monotonic() - began_at < 0.4  # it does not wait for Redis again
            assert not in_sync(verifier)
