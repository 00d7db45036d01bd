"""Requests cancelled while their verification is in progress (encode/httpcore#1093)."""

from __future__ import annotations

import asyncio
import gc

import httpx
from upstreams import (
    RawUpstream,
    descriptors,
    eventually,
    http_answer,
    over_sockets,
    raw_upstream,
    record,
)

from harness import World, bearer, calling, protected

POOL = 10
REQUESTS = 20


async def drop_requests(world: World, *, rounds: int) -> None:
    """Cancel 20 requests twice in each round; then the service must work and leak nothing."""

    async def answer_late(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.005)
        writer.write(http_answer(record(world)))
        await writer.drain()

    gc.collect()
    descriptors_before = descriptors()
    async with raw_upstream(answer_late) as upstream:
        tasks_before = len(asyncio.all_tasks())
        verifier = over_sockets(world, upstream.origin, timeout=2.0, max_inflight=POOL)
        async with calling(protected(verifier)) as client:
            for number in range(rounds):
                await _drop_one_round(client, number, upstream)
            # On a slow host so many calls may time out that the breaker opens: let it close.
            world.time.advance(60.0)
            answer = await client.get("/", headers=bearer("mt_" + "n" * 40))
            assert answer.status_code == 200
        # Calls were in progress when their requests were cancelled.
        assert upstream.requests > rounds // 4
        assert upstream.connections <= POOL
        await eventually(lambda: len(asyncio.all_tasks()) == tasks_before + upstream.open)
        await verifier.aclose()
    gc.collect()
    assert descriptors() == descriptors_before


async def _drop_one_round(client: httpx.AsyncClient, number: int, upstream: RawUpstream) -> None:
    asked_before = upstream.requests
    requests = [
        asyncio.create_task(client.get("/", headers=bearer(f"mt_{number:032}{each:08}")))
        for each in range(REQUESTS)
    ]
    # Each round cancels at another moment: while connecting, sending, or receiving.
    await asyncio.sleep(0.001 * (number % 8))
    if number % 2:
        # On a slow host the requests may end by themselves before three calls were sent.
        await eventually(
            lambda: upstream.requests >= asked_before + 3 or all(each.done() for each in requests),
            within=30.0,
        )
    for _ in range(2):
        for request in requests:
            request.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*requests, return_exceptions=True)
