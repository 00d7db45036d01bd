"""What the cache saves: verifications paid under ordinary traffic."""

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
    """A million requests by a Zipf law, on a clock that is moved."""
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
        title=f"Verifications paid: {requests:,} requests in 10 minutes, {TOKENS:,} tokens (Zipf)",
        ours="with the cache",
        against="one for each request, as the SDKs pay",
        pairs=[(paid, requests)],
        unit="count",
        note=(
            f"At this rate a month costs ${_a_month(paid):,.0f} against ${_a_month(requests):,.0f}"
            f" ($0.00001 each past {FREE_A_MONTH:,}). One for each request would also be"
            f" {requests / SECONDS:,.0f} a second, where Clerk's limit is 100."
        ),
    )


async def _paid_more_than(stats: Stats, paid: int) -> None:
    # The upstream answers before the next request comes. (A counter cannot be waited for.)
    while stats.paid == paid:  # noqa: ASYNC110
        await asyncio.sleep(0)


def _a_month(verifications: int) -> float:
    """The dollars of 30 days, of which ten minutes took so many verifications."""
    return DOLLARS_EACH * max(0.0, verifications * MONTH / SECONDS - FREE_A_MONTH)
