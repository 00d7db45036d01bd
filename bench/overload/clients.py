"""Clients that send requests at a given rate, whether they are answered or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request: when it was sent (monotonic s), its duration, and the answer.

    `status` 0 means that the client disconnected before it was answered.
    """

    sent_at: float
    seconds: float
    status: int
    retry_after: float = 0.0
    stale: bool = False


class Clients:
    """Sends requests to one origin, over connections that are reused."""

    def __init__(self, origin: str) -> None:
        address = urlsplit(origin)
        self._host, self._port = address.hostname or "", address.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, token: str, *, leave_after: float | None = None) -> Answer:
        """Send one request with a token; the client disconnects after `leave_after` seconds."""
        sent_at = monotonic()
        head = f"GET / HTTP/1.1\r\nHost: service\r\nAuthorization: Bearer {token}\r\n\r\n"
        try:
            async with asyncio.timeout(leave_after):
                status, headers, body = await self._exchange(head.encode())
        except TimeoutError:
            return Answer(sent_at, monotonic() - sent_at, 0)
        return Answer(
            sent_at,
            monotonic() - sent_at,
            status,
            float(headers.get("retry-after", 0)),
            status == 200 and bool(json.loads(body)["stale"]),
        )

    async def ask(self, path: str, **sent: Any) -> Any:
        """POST the arguments as JSON, or send a GET if there are none; return the JSON answer."""
        content = json.dumps(sent).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: it\r\nContent-Length: {len(content)}\r\n\r\n"
        if not sent:
            head, content = f"GET {path} HTTP/1.1\r\nHost: it\r\n\r\n", b""
        _, _, body = await self._exchange(head.encode() + content)
        return json.loads(body)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = self._kept() or await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            pairs = (line.partition(":") for line in lines[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            writer.transport.abort()
            raise
        self._idle.append((reader, writer))
        return int(lines[0].split(" ")[1]), headers, body

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()  # the server has closed the idle connection
        return None


async def steadily(
    rate: float, seconds: float, send: Callable[[int], Awaitable[T]], into: list[T]
) -> None:
    """Start `send(number)` `rate` times a second, and append the answers to `into`."""
    begun = monotonic()
    tasks: list[asyncio.Task[None]] = []

    async def one(number: int) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            into.append(await send(number))

    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if (wait := due - monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
