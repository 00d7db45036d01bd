"""A network between a process and a server, in its own process, that can be interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from bench.processes import Process, child
from clerk_m2m.demo.lines import read_line, write_line
from clerk_m2m.tasks import current_task

CHUNK = 65536


class Network:
    """Forwards to `port`; while `joined` is not set, nothing arrives on either side."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.joined = asyncio.Event()
        self.joined.set()
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side closes it."""
        task = current_task()
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        await self.joined.wait()
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, up_writer))
                group.create_task(self._copy(up_reader, writer))
        except* OSError:
            pass  # one of the two sides has closed its connection
        finally:
            for each in (up_writer, writer):
                each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self.joined.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # ends the copy in the other direction too

    async def end(self) -> None:
        """Close all connections."""
        for each in self._serving:
            each.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


async def work() -> None:
    """Answer lines until there are no more.

    The first one is the port to forward to. Each later one is true to join the network and false to
    interrupt it.
    """
    network = Network(await read_line())
    server = await asyncio.start_server(network.serve, "127.0.0.1", 0)
    write_line(server.sockets[0].getsockname()[1])
    while (joined := await read_line()) is not None:
        if joined:
            network.joined.set()
        else:
            network.joined.clear()
        write_line(monotonic())
    server.close()
    await network.end()


@contextmanager
def network_to(port: int) -> Iterator[tuple[int, Process]]:
    """Open a network to `port`; yield its own port and its process.

    Ask that process with True to join the network and with False to interrupt it. It answers with
    the instant (monotonic s).
    """
    with child("bench.partition") as process:
        yield process.ask(port), process


if __name__ == "__main__":
    asyncio.run(work())
