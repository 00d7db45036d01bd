"""The latency of requests while their caller's verdict is refreshed."""

from __future__ import annotations

import asyncio
import time

import httpx

from bench.cached import bare, request, template
from bench.measure import Effort, Row, compared
from bench.upstream import Upstream
from clerk_m2m import Clock, MachineAuthMiddleware, Verifier

UPSTREAM_TAKES = 0.2
CACHE_TTL = 60.0


class Latencies:
    """Sends requests with one cached token, one after another, with or without a refresh."""

    def __init__(self, upstream: Upstream, window: float) -> None:
        self._window = window
        self._ahead = 0.0
        clock = Clock(monotonic=lambda: time.monotonic() + self._ahead)
        self.verifier = Verifier(upstream.settings(cache_ttl=CACHE_TTL), clock=clock)
        app = MachineAuthMiddleware(bare, verifier=self.verifier)
        self._request = request(app, template(upstream.opaque_tokens[0]))

    async def undisturbed(self) -> float:
        """Return the 99.9th percentile while nothing is refreshed."""
        return await self._worst_of_a_window()

    async def refreshed(self) -> float:
        """Return the 99.9th percentile while the verdict is refreshed."""
        paid = self.verifier.stats.paid
        self._ahead += 0.8 * CACHE_TTL
        worst = await self._worst_of_a_window()
        while self.verifier.stats.paid == paid:  # noqa: ASYNC110  a counter cannot be awaited
            await asyncio.sleep(0.01)
        return worst

    async def _worst_of_a_window(self) -> float:
        took: list[float] = []
        end = time.perf_counter() + self._window
        began = 0.0
        while began < end:
            began = time.perf_counter()
            # The turn of the event loop is timed too: the work of the refresh delays the request.
            await asyncio.sleep(0)
            await self._request()
            took.append(time.perf_counter() - began)
        took.sort()
        return took[int(len(took) * 0.999)]


async def latency(upstream: Upstream, effort: Effort) -> Row:
    """Measure the 99.9th percentile of requests with a cached token."""
    latencies = Latencies(upstream, UPSTREAM_TAKES / effort.divisor)
    async with httpx.AsyncClient(base_url=upstream.origin) as script:
        await latencies.undisturbed()
        delay = {"operation": "verifyM2MToken", "delay": UPSTREAM_TAKES / effort.divisor}
        (await script.post("/_emulator/faults", json=delay)).raise_for_status()
        pairs = await compared(effort.some(31), latencies.refreshed, latencies.undisturbed)
        (await script.delete("/_emulator/faults")).raise_for_status()
    await latencies.verifier.aclose()
    return Row(
        title="Cached token, Clerk takes 200 ms: 99.9th percentile of the latency",
        ours="while its verdict is refreshed",
        against="while it is not",
        pairs=pairs,
        aim=2.0,
    )
