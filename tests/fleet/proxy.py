"""A TCP proxy in front of Redis that a test can make faulty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

from clerk_m2m.tasks import current_task


class Fault(Enum):
    """A fault: the proxy's behaviour instead of forwarding."""

    HUNG = "hung"  # accepts connections and bytes, and answers nothing
    KILLED = "killed"  # closes every connection
    GARBAGE = "garbage"  # sends bytes that are not Redis's protocol
    ENDLESS = "endless"  # sends a string that never ends
    READ_ONLY = "read-only"  # answers like a replica
    OUT_OF_MEMORY = "out of memory"  # answers like a server whose memory is full


_ANSWERS = {
    Fault.GARBAGE: b"HTTP/1.1 400 Bad Request\r\n\r\n\xff\xfe",
    Fault.READ_ONLY: b"-READONLY You can't write against a read only replica.\r\n",
    Fault.OUT_OF_MEMORY: b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
}


class Proxy:
    """Forwards to `port` until `fault` is set."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self._generation = 0
        self.delay = 0.0  # seconds, each way
        self._connections: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.fault: Fault | None = None
        self.port = 0

    async def break_with(self, fault: Fault) -> None:
        """Begin to behave as `fault`, on open connections too."""
        self.fault = fault
        if fault is not Fault.HUNG:
            self.cut()

    def mend(self) -> None:
        """Forward again; close the connections that had the fault."""
        self.fault = None
        self.cut()

    def leave_half_open(self) -> None:
        """Forward nothing more on open connections, and do not close them."""
        self._generation += 1

    async def aclose(self) -> None:
        """Close all connections, and wait until their tasks have ended."""
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """Close all connections."""
        for writer in list(self._connections):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._serving.add(current_task())
        self._connections.add(writer)
        try:
            if self.fault is None or self.fault is Fault.HUNG:
                await self._pass_on(reader, writer)
            elif self.fault is not Fault.KILLED:
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two sides has closed its connection
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.fault
        while fault is not None and await reader.read(65536):
            if fault is Fault.ENDLESS:
                writer.write(b"$9999999999\r\n")
                while self.fault is fault:
                    writer.write(b"x" * 65536)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                return
            writer.write(_ANSWERS[fault])
            await writer.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        ways = [
            asyncio.create_task(self._copy(reader, up_writer)),
            asyncio.create_task(self._copy(up_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            up_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generation = self._generation
        while data := await reader.read(65536):
            await asyncio.sleep(self.delay)
            if self.fault is not Fault.HUNG and generation == self._generation:
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """Open a proxy on a free port of loopback."""
    proxy = Proxy(port)
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = proxy.serve
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for _ in range(3):
            await asyncio.sleep(0)  # let accepted connections start their tasks
        await proxy.aclose()
