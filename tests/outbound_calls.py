"""A callee whose answers a test scripts, and the caller's auth on the emulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from upstreams import record

from clerk_m2m import MachineTokenAuth
from clerk_m2m.background import BACKGROUND
from harness import API_URL, World

MINT = "createM2MToken"


@dataclass
class Callee(httpx.AsyncBaseTransport):
    """A service that answers as `decide` says, and keeps the credential of each request."""

    decide: Callable[[httpx.Request], int] = lambda request: 200
    credentials: list[str | None] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Take the whole request, then answer."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for _ in request.stream:
            pass
        self.credentials.append(request.headers.get("Authorization"))
        # As on a network, other tasks run before the answer arrives.
        await asyncio.sleep(0)
        return httpx.Response(self.decide(request))

    def client(self, auth: httpx.Auth, **given: Any) -> httpx.AsyncClient:
        """A client of this service."""
        return httpx.AsyncClient(transport=self, base_url="http://callee.test", auth=auth, **given)


def outbound(world: World, **given: Any) -> MachineTokenAuth:
    """The caller's auth, on the emulator."""
    defaults: dict[str, Any] = {
        "machine_secret_key": world.caller.secret_key,
        "api_url": API_URL,
        "transport": world.upstream,
        "clock": world.time.clock,
    }
    return MachineTokenAuth(**(defaults | given))


def mints(world: World) -> int:
    """The number of mint requests at Clerk."""
    return world.emulator.calls[MINT]


def mint_bodies(world: World) -> list[dict[str, Any]]:
    """The bodies of the mint requests."""
    return [json.loads(request.content) for request in world.upstream.requests]


def rejecting(*credentials: str | None) -> Callable[[httpx.Request], int]:
    """Answer these with 401, and others with 200."""
    return lambda request: 401 if request.headers.get("Authorization") in credentials else 200


async def settle() -> None:
    """Wait until no mint is in progress."""
    async with asyncio.timeout(5):
        while _under_way():  # noqa: ASYNC110  they end in another thread
            await asyncio.sleep(0.0005)


def _under_way() -> bool:
    return any(getattr(user, "_flight", None) for user in list(BACKGROUND._users))


class Gate:
    """Blocks requests, in any event loop, until a test opens it."""

    def __init__(self) -> None:
        self._is_open = False

    def open(self) -> None:
        """Let all requests continue, from now on."""
        self._is_open = True

    async def hold(self, request: httpx.Request) -> None:
        """Wait; an `intercept` of `Upstream`."""
        while not self._is_open:  # noqa: ASYNC110  it is opened by another thread
            await asyncio.sleep(0.001)


def minted(world: World, *, token: str, life: float | None, **given: Any) -> dict[str, Any]:
    """An answer of `createM2MToken`."""
    expiration = None if life is None else int(world.time.wall * 1000) + int(life * 1000)
    made = record(world, scopes=[], token=token, expiration=expiration, last_used_at=None)
    return made | given
