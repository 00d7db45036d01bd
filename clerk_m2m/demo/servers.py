"""An ASGI app on a real socket of this process, which can be stopped and started again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """A server that leaves Ctrl-C to the event loop's runner, which ends all of them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ServedApp:
    """An app on a free port of loopback; the port stays the same over a stop and a start.

    An app that sends a `Date` of its own is served with `date_header=False`.
    """

    def __init__(self, app: Any, *, date_header: bool = True) -> None:
        self._app = app
        self._date_header = date_header
        self._port = 0
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def origin(self) -> str:
        """Where the app is served, `http://127.0.0.1:…`."""
        return f"http://{HOST}:{self._port}"

    async def start(self) -> None:
        """Serve; returns when the app answers."""
        listener = socket.create_server((HOST, self._port), backlog=2048)
        # asyncio does this for sockets that it makes itself; without it an answer takes 40 ms more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level="error",
            access_log=False,
            date_header=self._date_header,
            ws="websockets-sansio",
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("a server of the demo ended while it was starting")
            await asyncio.sleep(0.005)  # uvicorn tells by a flag only

    async def stop(self) -> None:
        """Stop, with every connection closed; nothing listens on the port afterwards."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = None
