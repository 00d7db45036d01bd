"""A load generator in its own process: each keep-alive connection has one request in progress."""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the last one is answered, until none is left."""

    def __init__(self, request: bytes, left: list[int], done: asyncio.Event) -> None:
        self._request, self._left, self._done = request, left, done
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the answer, which is short and ends with a JSON object."""
        self._received += data
        if not self._received.endswith(b"}"):
            return
        assert self._received.startswith(b"HTTP/1.1 200"), self._received
        self._received = b""
        self._next()

    def _next(self) -> None:
        if self._left[0] <= 0:
            self._transport.close()
            return
        self._left[0] -= 1
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that this connection is done."""
        self._done.set()


async def rate(origin: str, path: str, token: str, times: int, connections: int) -> float:
    """Send a request `times` times; return the requests per second."""
    address = urlsplit(origin)
    host, port = address.hostname or "", address.port or 80
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: */*\r\n"
        "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
        f"User-Agent: python-httpx/0.28.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
    left, done = [times], [asyncio.Event() for _ in range(connections)]
    began = perf_counter()
    for each in done:
        await asyncio.get_running_loop().create_connection(
            partial(Connection, request, left, each), host, port
        )
    for each in done:
        await each.wait()
    return times / (perf_counter() - began)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(rate(**json.loads(line)))), flush=True)
