"""Upstreams for faults that need a real socket: they write raw bytes and count connections.

A coroutine of the test answers each request; open connections are closed at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from clerk_m2m import Verifier
from harness import World

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class RawUpstream:
    """Its origin, and how many connections and requests it has had and has open."""

    origin: str = ""
    connections: int = 0
    open: int = 0
    requests: int = 0


@asynccontextmanager
async def raw_upstream(
    handle: Handler, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawUpstream]:
    """Serve `handle(reader, writer)` on a free port of loopback, for each request that comes."""
    upstream = RawUpstream()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream.connections += 1
        upstream.open += 1
        try:
            while await read_request(reader):
                upstream.requests += 1
                await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has disconnected, or the test has ended
        finally:
            upstream.open -= 1
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    upstream.origin = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next step


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request with its body; empty if the client has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
    return head


def http_answer(
    body: Any = b"", *, status: int = 200, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes of an answer; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(content))}
    lines = [f"{name}: {value}" for name, value in (fields | dict(headers or {})).items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "", ""]).encode() + content


def answering(content: bytes) -> Handler:
    """Answer every request with the same bytes."""

    async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return handle


def record(world: World, **given: Any) -> dict[str, Any]:
    """A good answer of `verifyM2MToken` to the world's caller; `given` replaces."""
    now = int(world.time.wall * 1000)
    good = {
        "object": "machine_to_machine_token",
        "id": "mt_" + "0" * 32,
        "subject": world.caller.id,
        "scopes": [world.callee.id],
        "claims": None,
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": None,
        "created_at": now,
        "updated_at": now,
    }
    return good | given


def over_sockets(world: World, origin: str, **given: Any) -> Verifier:
    """A verifier of the world's callee whose upstream is at `origin`; closed with the world."""
    settings = world.settings(**({"api_url": origin, "timeout": 0.3} | given))
    verifier = Verifier(settings, clock=world.time.clock)
    world.verifiers.append(verifier)
    return verifier


async def quiet(known: set[asyncio.Task[Any]], *, within: float = 2.0) -> None:
    """Wait until every task that is not in `known` has ended; fail after `within` seconds."""
    async with asyncio.timeout(within):
        while others := asyncio.all_tasks() - known - {asyncio.current_task()}:
            await asyncio.wait(others)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/dev/fd"))


async def eventually(condition: Callable[[], bool], *, within: float = 2.0) -> None:
    """Wait until the condition is true; fail after `within` seconds. For the far end of sockets."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  nothing in this process signals it
            await asyncio.sleep(0.005)
