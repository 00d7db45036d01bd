"""Fixtures: an emulator in process, one on a port, and the clock that both use."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from clerk_m2m.emulator import Emulator

SECRET_KEY = "sk_test_emulator"
USER = "user_" + "u" * 27


class Clock:
    """Unix seconds that change only when a test advances them."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def emulator(clock: Clock) -> Iterator[Emulator]:
    emulator = Emulator(secret_key=SECRET_KEY, clock=clock)
    yield emulator
    emulator.close()


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[Client]:
    """A function that makes in-process clients of the emulator, each with its own key."""
    clients = []

    def make(key: str | None = SECRET_KEY, app: Any = emulator) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://emulator.test/v1",
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
        )
        clients.append(made)
        return made

    yield make
    for made in clients:
        await made.aclose()


@pytest.fixture
def api(client: Client) -> httpx.AsyncClient:
    """A client that holds the instance's secret key."""
    return client()


class _Server(uvicorn.Server):
    """A server that sets `ready` after its startup."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serve an application on a free loopback port and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio sets this only on sockets that it opens. Without it, an answer takes 40 ms more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(app, log_level="error", http="h11", ws="none", **options)
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert server.ready.wait(10)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def address(emulator: Emulator) -> Iterator[str]:
    """The emulator on a real socket."""
    with serving(emulator) as address:
        yield address
