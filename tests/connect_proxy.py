"""An HTTP proxy that tunnels by CONNECT (RFC 9110 section 9.3.6), and keeps what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class ConnectProxy:
    """Its address, the heads of the requests that it received, and the bytes that it carried."""

    address: str = ""
    heads: list[str] = field(default_factory=list)
    carried: bytearray = field(default_factory=bytearray)

    def asked_for(self) -> list[str]:
        """Return the target of each request."""
        return [head.split()[1] for head in self.heads]


@asynccontextmanager
async def connect_proxy(port: int, *, answer: bytes | None = None) -> AsyncIterator[ConnectProxy]:
    """Tunnel everything to `port` of loopback, whatever host is asked for.

    With `answer`, it sends that instead and leaves the connection open.
    """
    proxy = ConnectProxy()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers = [writer]
        try:
            proxy.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if answer is not None:
                writer.write(answer)
                await reader.read()
                return
            from_clerk, to_clerk = await asyncio.open_connection("127.0.0.1", port)
            writers.append(to_clerk)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(carry(reader, to_clerk), carry(from_clerk, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two has disconnected
        finally:
            tasks.discard(task)
            for each in writers:
                each.transport.abort()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            proxy.carried += piece
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next step
