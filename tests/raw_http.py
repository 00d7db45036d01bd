"""HTTP over a socket as raw bytes: nothing is checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass
class Reply:
    """The answer on a socket; `status` is None if the server closed without an answer."""

    status: int | None
    body: bytes = b""

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object, or an empty dict."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


async def exchange(port: int, request: bytes) -> Reply:
    """Send these bytes on a new connection, and read one answer or until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    # A server that refuses early closes the connection while we still send.
    with contextlib.suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while chunk := await reader.read(65_536):
                received += chunk
                if _is_whole(received):
                    break
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    line = re.match(rb"HTTP/1\.[01] ([0-9]{3})", received)
    return Reply(int(line[1]) if line else None, received.partition(b"\r\n\r\n")[2])


def _is_whole(received: bytes) -> bool:
    head, mark, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    return bool(mark and length and len(body) >= int(length[1]))


def get(target: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a GET request with any target and fields."""
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: service.test", b"Connection: close"]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join([*lines, b"", b""])
