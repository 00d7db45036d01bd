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
    """A server that does not handle Ctrl-C: the event loop's runner stops all servers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ServedApp:
    """An app on a free port of loopback; after a stop, it starts again on the same port.

    An app that sends its own `Date` header is served with `date_header=False`.
    """

    def __init__(self, app: Any, *, date_header: bool = True) -> None:
        self._app = app
        self._date_header = date_header
        self._port = 0
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def origin(self) -> str:
        """The origin of the app, `http://127.0.0.1:…`."""
        return f"http://{HOST}:{self._port}"

    async def start(self) -> None:
        """Start the server; return when the app answers."""
        listener = socket.create_server((HOST, self._port), backlog=2048)
        # asyncio sets this on its own sockets; without it an answer takes 40 ms longer.
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
            await asyncio.sleep(0.005)  # uvicorn has only a flag for this

    async def stop(self) -> None:
        """Stop the server and close every connection; afterwards nothing listens on the port."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = None
