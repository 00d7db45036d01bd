"""Three workers of one service, each in its own process, which share verdicts."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from clerk_m2m.demo.valkey import lacking, open_valkey

COUNT: Final = 3


class Worker:
    """The process of a worker."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._origin = ""

    async def origin(self) -> str:
        """Return the origin of the worker's server; waits until it is known."""
        if not self._origin:
            self._origin = (await self._answer())["origin"]
        return self._origin

    async def invalidate_everywhere(self, token_id: str) -> None:
        """Call `invalidate_everywhere` in the worker, for a revoked token."""
        await self._ask({"invalidate": token_id})

    async def counters(self) -> tuple[int, int]:
        """Return the numbers of verdicts from its cache and from other workers."""
        if not self._origin:
            return 0, 0  # the worker was not called yet
        answer = await self._ask({})
        return answer["cached"], answer["shared"]

    async def tell(self, line: Any) -> None:
        """Send it a line."""
        assert self._process.stdin is not None  # noqa: S101  a pipe was asked for
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()

    async def end(self) -> None:
        """Stop the worker and wait until it has exited."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        await self._process.wait()

    async def _ask(self, line: Any) -> Any:
        await self.tell(line)
        return await self._answer()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker of the demo ended before its time")
        return json.loads(line)


@asynccontextmanager
async def open_workers(settings: dict[str, Any]) -> AsyncIterator[list[Worker]]:
    """Start the workers and their Valkey server; a worker is ready when `origin()` returns.

    Yields no workers if something is `lacking()`.
    """
    if lacking():
        yield []
        return
    workers: list[Worker] = []
    async with open_valkey() as server:
        fleet = {"server": server, "keys": [secrets.token_urlsafe(32)]}
        try:
            for _ in range(COUNT):
                workers.append(Worker(await _start()))
                await workers[-1].tell({"settings": settings, "fleet": fleet})
            yield workers
        finally:
            await asyncio.gather(*(worker.end() for worker in workers))


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clerk_m2m.demo.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C stops the demo, which closes stdin
    )
