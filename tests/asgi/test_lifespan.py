"""The network is opened at the first call and closed when the service ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from sent_credentials import UNKNOWN
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from clerk_m2m import MachineAuthMiddleware, RefusalError, Verifier
from harness import World, bearer, calling, protected, serve, whoami


class WatchedVerifier(Verifier):
    """Records when it has closed its network."""

    events: list[str]

    async def aclose(self) -> None:
        await super().aclose()
        self.events.append("closed")


def watched(world: World, events: list[str]) -> WatchedVerifier:
    """A verifier of the callee that adds to `events` when it is closed."""
    verifier = WatchedVerifier(world.settings(), transport=world.upstream)
    verifier.events = events
    return verifier


@asynccontextmanager
async def noisy_lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    yield {"pool": "open"}


async def run_lifespan(
    app: ASGIApp, events: list[str], between: Callable[[], Awaitable[None]]
) -> None:
    """Start an app, run `between`, shut the app down; add what it sends to `events`."""
    incoming = ["lifespan.startup", "lifespan.shutdown"]

    async def receive() -> Message:
        if len(incoming) == 1:
            await between()
        return {"type": incoming.pop(0)}

    async def send(message: Message) -> None:
        events.append(message["type"])

    await app({"type": "lifespan", "app": app, "state": {}}, receive, send)


async def test_the_network_is_opened_at_the_first_call_and_closed_before_shutdown_completes(
    world: World,
) -> None:
    events: list[str] = []
    verifier = watched(world, events)
    app = Starlette(routes=[Route("/", whoami)], lifespan=noisy_lifespan)
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)

    async def one_request() -> None:
        async with calling(app) as client:
            events.append((await client.get("/", headers=bearer(UNKNOWN))).json()["code"])

    await run_lifespan(app, events, one_request)

    assert events == [
        "lifespan.startup.complete",
        "token_invalid",
        "closed",
        "lifespan.shutdown.complete",
    ]


async def test_the_network_is_closed_even_if_the_shutdown_of_the_app_fails(world: World) -> None:
    @asynccontextmanager
    async def failing(app: Starlette) -> AsyncIterator[None]:
        yield
        raise OSError("the app's own")

    events: list[str] = []
    verifier = watched(world, events)
    app = Starlette(lifespan=failing)
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)

    async def one_call() -> None:
        with pytest.raises(RefusalError) as refused:
            await verifier.verify(UNKNOWN)
        assert refused.value.code == "token_invalid"

    with pytest.raises(OSError, match="the app's own"):
        await run_lifespan(app, events, one_call)

    assert events == ["lifespan.startup.complete", "closed", "lifespan.shutdown.failed"]


async def test_a_server_that_shuts_down_closes_the_network(world: World) -> None:
    events: list[str] = []
    verifier = watched(world, events)
    async with (
        serve(protected(verifier), lifespan="on") as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        answer = await client.get("/", headers=bearer(UNKNOWN))
        assert events == []

    assert answer.json()["code"] == "token_invalid"
    assert events == ["closed"]
