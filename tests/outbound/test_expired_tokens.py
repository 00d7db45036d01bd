"""No call is ever sent with an expired token."""

from __future__ import annotations

import asyncio
import json
import math
import random
from typing import Any

import httpx
from outbound_calls import outbound, settle

from clerk_m2m import Clock, TokenUnavailableError
from harness import World


async def test_no_expired_token_is_sent_in_300_random_schedules(
    world: World,
) -> None:
    sent = 0
    for seed in range(300):
        sent += await Schedule(world, seed).run()

    assert sent > 900


class Schedule(httpx.AsyncBaseTransport):
    """A random run of lifetimes, pauses, slow and failing mints, and rejections.

    It acts as Clerk and as the callee. As the callee it knows when each token expires, and checks
    each token that arrives.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._time, self._dice = world.time, (dice := random.Random(seed))
        self._clerk = httpx.ASGITransport(app=world.emulator)
        self._ends_at: dict[str, float] = {}
        self._sent = 0
        life = self._life = dice.choice([1, 2, 5, 30, 60, 600, dice.uniform(0.5, 5000)])
        reuse = dice.random() < 0.3 and life > 2
        skew = 0.0 if reuse else dice.choice([0.0, -900.0, 900.0])
        # The time that a call takes on the network; three calls in turn stay within the margin.
        self._way = 0.0 if reuse else min(life / 24, 5) / 4
        self._auth_options: dict[str, Any] = {
            "token_format": "jwt" if not reuse and dice.random() < 0.1 else "opaque",
            "seconds_until_expiration": life,
            "min_remaining_ttl_seconds": dice.randrange(1, math.ceil(life)) if reuse else None,
            "claims": {"schedule": seed},
            "clock": Clock(
                monotonic=lambda: self._time.monotonic, wall=lambda: self._time.wall + skew
            ),
        }
        self._world = world
        self._loop = asyncio.get_running_loop()

    async def run(self) -> int:
        """Make calls, restart the service, make more calls; return how many were sent."""
        for _ in range(2):
            auth = outbound(self._world, transport=self, **self._auth_options)
            async with httpx.AsyncClient(transport=self, auth=auth) as client:
                for _ in range(3):
                    await self._call(client)
                await settle()
        return self._sent

    async def _call(self, client: httpx.AsyncClient) -> None:
        together = self._dice.choice([1, 1, 1, 3])
        calls = (client.get("http://callee.test/") for _ in range(together))
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, httpx.Response | TokenUnavailableError), repr(answer)
        self._pass(self._dice.choice([0, 0.01, 0.3, 0.9, 1, 1.2]) * self._life)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as Clerk or as the callee."""
        if request.url.host == "callee.test":
            return self._answer_call(request)
        # Runs in the loop of the calls: otherwise the fake time could advance between a call's
        # check of its token and the token's arrival.
        minting = asyncio.run_coroutine_threadsafe(self._answer_mint(request), self._loop)
        return await asyncio.wrap_future(minting)

    def _answer_call(self, request: httpx.Request) -> httpx.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self._pass(self._way)
        assert self._time.wall < self._ends_at[token]
        self._sent += 1
        return httpx.Response(self._dice.choice([200, 200, 200, 401]))

    async def _answer_mint(self, request: httpx.Request) -> httpx.Response:
        self._pass(self._dice.choice([0, 0, 0.1, 2]))
        if self._dice.random() < 0.2:
            # A `Retry-After` longer than the timeout of a mint, so the mint does not wait for it.
            later = {"Retry-After": "20"}
            return httpx.Response(self._dice.choice([500, 429, 401]), headers=later)
        answer = await self._clerk.handle_async_request(request)
        body = json.loads(await answer.aread())
        self._ends_at[body["token"]] = body["expiration"] / 1000
        self._pass(self._dice.choice([0, 0, 0.1, 2]))
        return httpx.Response(201, json=body)

    def _pass(self, seconds: float) -> None:
        self._time.advance(seconds * self._dice.random())
