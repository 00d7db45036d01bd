"""Callers in their own process: a few that send at a steady rate, or many with new tokens."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit


class Caller:
    """A keep-alive connection to a service."""

    def __init__(self, origin: str, path: str) -> None:
        self._address, self._path = urlsplit(origin), path

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(
            self._address.hostname, self._address.port
        )

    async def call(self, token: str) -> float:
        """Send one request and read the answer; return the seconds that it took."""
        began = perf_counter()
        self._writer.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._address.netloc}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        await self._reader.readexactly(length)
        return perf_counter() - began

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


async def steady(
    origin: str, path: str, token: str, connections: int, seconds: float, pause: float
) -> list[float]:
    """Send a request every `pause` seconds on each connection; return the latencies in seconds."""
    callers = [Caller(origin, path) for _ in range(connections)]
    end, took = perf_counter() + seconds, list[float]()

    async def ask(caller: Caller) -> None:
        await caller.open()
        took.append(await caller.call(token))
        while perf_counter() < end:
            await asyncio.sleep(pause)
            took.append(await caller.call(token))
        caller.close()

    await asyncio.gather(*map(ask, callers))
    return took


async def burst(
    origin: str, path: str, tokens: list[str], connections: int, after: float
) -> list[float]:
    """Connect, wait for `after` seconds, then send all tokens at once; return the latencies."""
    callers, rest = [Caller(origin, path) for _ in range(connections)], iter(tokens)
    for caller in callers:
        await caller.open()
    await asyncio.sleep(after)
    took: list[float] = []

    async def ask(caller: Caller, tokens: Iterable[str]) -> None:
        for token in tokens:
            took.append(await caller.call(token))
        caller.close()

    await asyncio.gather(*(ask(caller, rest) for caller in callers))
    return took


WORKS: dict[str, Callable[..., Awaitable[list[float]]]] = {"steady": steady, "burst": burst}


async def work(wanted: dict[str, Any]) -> list[float]:
    """Do the work that a line names."""
    return await WORKS[wanted.pop("work")](**wanted)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(work(json.loads(line)))), flush=True)
