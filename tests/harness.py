"""Shared by the tests of this package: clocks that a test moves, and a small emulated world.

The world has a callee (the service under test), a caller that may call it, and a stranger that may
not. It is built on the package's own test kit, `clerk_m2m.testing`, and adds what only tests of the
package itself need: two clocks that a test can set apart, and a network whose answers it can
replace. Everything runs in process; `serve` puts an ASGI app on a real socket where that matters.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

import clerk_m2m.testing
from clerk_m2m import Clock, MachineAuthMiddleware, Settings, Verifier
from clerk_m2m.emulator import EmulatedMachine, Emulator, new_signing_key
from clerk_m2m.testing import ClerkEmulator, ClerkEmulatorServer

API_URL = "https://clerk.test"  # the one in the settings that the test kit makes
USER_ID = "user_" + "u" * 27


class FakeTime:
    """Both clocks, moved by the test; `wall` can be moved alone."""

    def __init__(self) -> None:
        self.monotonic = 1_000.0
        self.wall = 1_800_000_000.0

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.monotonic += seconds
        self.wall += seconds

    def now(self) -> float:
        """Return the wall clock's time, as the emulator needs it."""
        return self.wall

    @property
    def clock(self) -> Clock:
        """Return both clocks, as the package needs them."""
        return Clock(monotonic=lambda: self.monotonic, wall=lambda: self.wall)


class PromptServer(uvicorn.Server):
    """A server that stops at once when asked to; uvicorn's checks for that ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        """Do what uvicorn does at each tick, until the server is asked to stop."""
        tick = 0
        while not await self.on_tick(tick):
            tick += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 0.1)

    def end(self) -> None:
        """Let the server finish the responses that it has begun, and stop."""
        self.should_exit = True
        self._told.set()


class Upstream(httpx.AsyncBaseTransport):
    """The network between the package and the emulator; a test may set `intercept`.

    `intercept(request)` returns an answer, raises, or returns None to let the emulator answer.
    Every request is kept in `requests`.
    """

    def __init__(self, emulator: httpx.AsyncBaseTransport) -> None:
        self._emulator = emulator
        self.intercept: Callable[[httpx.Request], Awaitable[httpx.Response | None]] | None = None
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as the test's `intercept` says, else as the emulator does."""
        self.requests.append(request)
        answer = await self.intercept(request) if self.intercept else None
        return answer or await self._emulator.handle_async_request(request)


@dataclass(kw_only=True)
class World:
    """An emulated instance with a caller -> callee edge and a stranger."""

    time: FakeTime
    emulator: ClerkEmulator
    upstream: Upstream
    callee: EmulatedMachine
    caller: EmulatedMachine
    stranger: EmulatedMachine
    verifiers: list[Verifier] = field(default_factory=list)

    def settings(self, **given: Any) -> Settings:
        """Settings of the callee with its machine key only; `given` adds or replaces."""
        return self.emulator.settings(self.callee, **given)

    def live_settings(self, **given: Any) -> Settings:
        """Settings of the callee with the instance's key too: live graph, JWTs, API keys, OAuth."""
        accepts = ["m2m_token", "api_key", "oauth_token"]
        return self.settings(
            **({"secret_key": self.emulator.secret_key, "accepts": accepts} | given)
        )

    def verifier(self, settings: Settings | None = None) -> Verifier:
        """A verifier of the callee; closed when the test ends."""
        verifier = Verifier(
            settings or self.settings(),
            transport=self.emulator.transport,
            clock=self.emulator.clock,
        )
        self.verifiers.append(verifier)
        return verifier

    def token(self, machine: EmulatedMachine | None = None, **given: Any) -> str:
        """A new M2M token of the caller's, or of another machine's."""
        return self.emulator.mint_m2m_token(machine or self.caller, **given).token

    def jwt(self, machine: EmulatedMachine | None = None, **given: Any) -> str:
        """A new M2M JWT of the caller's, or of another machine's."""
        return self.token(machine, token_format="jwt", **given)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An emulated instance on a real socket, in real time, with a caller -> callee edge."""

    emulator: ClerkEmulator
    callee: EmulatedMachine
    caller: EmulatedMachine
    environ: dict[str, str]

    @classmethod
    def on(cls, server: ClerkEmulatorServer) -> Instance:
        """Make the two machines; `environ` configures the callee."""
        callee = server.emulator.add_machine("callee")
        caller = server.emulator.add_machine("caller", may_call=[callee])
        environ = server.environ(callee)
        return cls(emulator=server.emulator, callee=callee, caller=caller, environ=environ)

    def token(self) -> str:
        """A new token of the caller's."""
        return self.emulator.mint_m2m_token(self.caller).token


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    """Make a world and close what was opened in it."""
    time = FakeTime()
    emulator = ClerkEmulator(clock=time.now, signing_key=SIGNING_KEY)
    upstream = Upstream(emulator.transport)
    emulator.transport, emulator.clock = upstream, time.clock
    callee = emulator.add_machine("callee")
    world = World(
        time=time,
        emulator=emulator,
        upstream=upstream,
        callee=callee,
        caller=emulator.add_machine("caller", may_call=[callee]),
        stranger=emulator.add_machine("stranger"),
    )
    try:
        yield world
    finally:
        for verifier in world.verifiers:
            await verifier.aclose()
        emulator.close()


def bearer(token: str | None) -> dict[str, str]:
    """The header that carries a token, or none."""
    return clerk_m2m.testing.bearer(token) if token else {}


async def whoami(request: Request) -> JSONResponse:
    """Answer with the caller that the middleware found."""
    identity = request.state.machine
    return JSONResponse({"subject": identity.subject if identity else None})


def protected(verifier: Verifier, **given: Any) -> Starlette:
    """A Starlette app with the routes `/` and `/healthz`, behind the middleware."""
    app = Starlette(routes=[Route("/", whoami), Route("/healthz", whoami)])
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    return app


def calling(app: ASGIApp) -> httpx.AsyncClient:
    """A client of an app in process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service.test")


@asynccontextmanager
async def serve(app: Any, **given: Any) -> AsyncIterator[str]:
    """Serve an ASGI app with uvicorn on a free loopback port and yield its origin."""
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio sets this only on sockets that name their protocol. Else an answer takes 40 ms more.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The emulator sends a Date of its own clock.
    options = {"date_header": not isinstance(app, Emulator)} | given
    config = uvicorn.Config(app, log_level="warning", ws="websockets-sansio", **options)
    server = PromptServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.005)  # uvicorn only sets a flag
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        await task
        listener.close()


# One for the whole run: making one takes a tenth of a second.
SIGNING_KEY = new_signing_key()
