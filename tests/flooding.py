"""A flood of well-formed unknown tokens, while known callers keep sending requests.

The normal suite sends a part of the flood, the soak run all of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from upstreams import record

from clerk_m2m import TokenInvalidError, Verifier
from harness import World

IN_USE = 100
CROWD = 100
MOST_MEMORY = 20 * 1024 * 1024
UNKNOWN = {"errors": [{"code": "token_not_found", "message": "Unknown."}]}


class Clerk:
    """Knows the tokens in use and no others; counts the calls, and how many run at once."""

    def __init__(self, world: World, known: list[str]) -> None:
        self._answer = record(world)
        self._known = frozenset(known)
        self.calls: Counter[str] = Counter()
        self.out = self.most = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        known = json.loads(request.content)["token"] in self._known
        self.calls["known" if known else "garbage"] += 1
        self.out += 1
        self.most = max(self.most, self.out)
        await asyncio.sleep(0)
        self.out -= 1
        return httpx.Response(200 if known else 404, json=self._answer if known else UNKNOWN)


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if the block leaves more than 20 MB allocated. Slow: every allocation is traced."""
    gc.collect()
    tracemalloc.start()
    yield
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < MOST_MEMORY


async def flood(world: World, *, garbage: int, cache_size: int = 10_000) -> None:
    """Send `garbage` different unknown tokens, 100 at once, while 100 known ones stay in use."""
    known = [f"mt_known{number:040}" for number in range(IN_USE)]
    clerk = Clerk(world, known)
    # A long timeout: how long 100 requests wait for their slots depends on the host.
    verifier = Verifier(
        world.settings(timeout=20.0, cache_size=cache_size),
        transport=httpx.MockTransport(clerk),
        clock=world.time.clock,
    )
    world.verifiers.append(verifier)
    await _use(verifier, known)
    for first in range(0, garbage, CROWD):
        crowd = (_send_garbage(verifier, number) for number in range(first, first + CROWD))
        await asyncio.gather(*crowd)
        await _use(verifier, known)

    assert clerk.calls == {"known": IN_USE, "garbage": garbage}
    assert clerk.most <= world.settings().max_inflight


async def _use(verifier: Verifier, known: list[str]) -> None:
    for token in known:
        await verifier.verify(token)


async def _send_garbage(verifier: Verifier, number: int) -> None:
    try:
        await verifier.verify(f"mt_garbage{number:040}")
    except TokenInvalidError:
        return
    raise AssertionError("garbage was accepted")
