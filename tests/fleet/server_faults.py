"""A Valkey in its own process, and the faults of it and of its network in the soak run."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis.asyncio as redis_asyncio

from bench.own_valkey import own_valkey

from .proxy import Fault, Proxy

# Seconds: the length of a fault, of a partition, and the delay each way of a slow network, which is
# more than a command may take.
LASTS = 2.0
PARTED = 5.0
SLOW = 0.15


class Server:
    """A Valkey that writes to disk each second, and proxies in front of it."""

    def __init__(self, proxies: Sequence[Proxy], seed: int) -> None:
        self.proxies = proxies
        self.made = random.Random(seed)
        self._directory = Path(tempfile.mkdtemp(prefix="clerk-m2m-soak-"))
        self._valkey = own_valkey(data_dir=self._directory, appendonly="yes", save="")
        self._valkey.start()
        self.port = self._valkey.port

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def call(self, *command: Any) -> Any:
        """Run a command with a separate client."""
        async with redis_asyncio.Redis(port=self.port, decode_responses=True) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def log_rows(self) -> str:
        """Return the name of the key that holds the rows of the log."""
        keys: list[str] = [each async for each in self._keys("*:log:rows")]
        return keys[0] if keys else "none"

    async def _keys(self, pattern: str) -> Any:
        async with redis_asyncio.Redis(port=self.port, decode_responses=True) as client:
            async for each in client.scan_iter(pattern):
                yield each

    @property
    def _process(self) -> Any:
        return self._valkey._process

    async def start_again(self, *, empty: bool) -> None:
        """Kill the server, and start it again on the same port."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        if empty:
            shutil.rmtree(self._directory / "appendonlydir", ignore_errors=True)
        self._valkey._process = None
        self._valkey._desired_port = self.port
        await asyncio.to_thread(self._valkey.start)

    async def pause(self) -> None:
        """Stop the server's process for a while: it accepts connections and answers nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(LASTS)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


async def kill_clients(server: Server) -> None:
    await server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def stop(server: Server) -> None:
    await server.pause()


async def restart_empty(server: Server) -> None:
    await server.start_again(empty=True)


async def kill(server: Server) -> None:
    await server.start_again(empty=False)


async def trim(server: Server) -> None:
    await server.call("XTRIM", await server.log_rows(), "MAXLEN", server.made.randint(0, 1))


async def flush(server: Server) -> None:
    await server.call("FLUSHALL")


async def read_only(server: Server) -> None:
    await server.call("REPLICAOF", "127.0.0.1", 1)
    await asyncio.sleep(LASTS)
    await server.call("REPLICAOF", "NO", "ONE")


async def out_of_memory(server: Server) -> None:
    await server.call("CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(LASTS)
    await server.call("CONFIG", "SET", "maxmemory", 0)


async def slow(server: Server) -> None:
    for each in server.proxies:
        each.delay = SLOW
    await asyncio.sleep(LASTS)
    for each in server.proxies:
        each.delay = 0.0


async def half_open(server: Server) -> None:
    for each in server.proxies:
        each.leave_half_open()


async def part(server: Server) -> None:
    """Cut one service off from Redis."""
    proxy = server.made.choice(server.proxies)
    await proxy.break_with(server.made.choice([Fault.HUNG, Fault.KILLED]))
    await asyncio.sleep(PARTED)
    proxy.mend()


FAULTS: list[Callable[[Server], Awaitable[None]]] = [
    kill_clients,
    stop,
    restart_empty,
    trim,
    flush,
    read_only,
    out_of_memory,
    kill,
    slow,
    half_open,
    part,
]
