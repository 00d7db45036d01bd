"""A thousand random schedules of faults of Redis."""

from __future__ import annotations

import pytest
from fleet.schedules import run

from bench.own_valkey import own_valkey

pytestmark = [
    pytest.mark.soak,
    # As in tests/fleet: asyncio leaves cancelled connection attempts to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
    ),
]


async def test_after_a_thousand_schedules_nobody_accepts_what_was_invalidated() -> None:
    with own_valkey() as one, own_valkey() as two:
        for seed in range(1_000):
            await run(seed, (one.port, two.port))
