"""The billed verifications that the cache saves under ordinary traffic."""

from __future__ import annotations

import asyncio
import random
from itertools import accumulate
from typing import Final

from bench import endless
from bench.measure import Effort, Row
from clerk_m2m import Clock, Stats

REQUESTS: Final = 1_000_000
TOKENS: Final = 1000
SECONDS: Final = 600.0

# Clerk's price list: the first 100,000 verifications of a month are free.
DOLLARS_EACH: Final = 0.00001
FREE_A_MONTH: Final = 100_000
MONTH: Final = 30 * 86_400


async def verifications_paid(effort: Effort) -> Row:
    """Measure a million requests with a Zipf distribution of tokens, on an injected clock."""
    requests = effort.count(REQUESTS)
    now = 1_000.0
    verifier = endless.verifier(clock=Clock(monotonic=lambda: now))
    tokens = [endless.new_token() for _ in range(TOKENS)]
    weights = list(accumulate(1 / rank for rank in range(1, TOKENS + 1)))
    chance = random.Random(1)
    for token in chance.choices(tokens, cum_weights=weights, k=requests):
        now += SECONDS / requests
        paid, refreshes = verifier.stats.paid, verifier.stats.refreshes
        await verifier.verify(token)
        if verifier.stats.refreshes != refreshes:
            await _paid_more_than(verifier.stats, paid)
    await verifier.aclose()
    paid = verifier.stats.paid
    return Row(
        title=f"Billed verifications: {requests:,} requests in 10 min, {TOKENS:,} tokens (Zipf)",
        ours="with the cache",
        against="one for each request, as with the SDKs",
        pairs=[(paid, requests)],
        unit="count",
        note=(
            f"At this rate a month costs ${_a_month(paid):,.0f} against ${_a_month(requests):,.0f}"
            f" ($0.00001 for each after the first {FREE_A_MONTH:,}). One for each request would"
            f" also be {requests / SECONDS:,.0f} a second, and Clerk's limit is 100."
        ),
    )


async def _paid_more_than(stats: Stats, paid: int) -> None:
    # The upstream must answer before the next request is sent. A counter cannot be awaited.
    while stats.paid == paid:  # noqa: ASYNC110
        await asyncio.sleep(0)


def _a_month(verifications: int) -> float:
    """Return the dollars for 30 days with this number of verifications in each ten minutes."""
    return DOLLARS_EACH * max(0.0, verifications * MONTH / SECONDS - FREE_A_MONTH)
