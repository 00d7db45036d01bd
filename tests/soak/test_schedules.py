"""A thousand random schedules of faults of Redis."""

from __future__ import annotations

import pytest
from fleet.schedules import run

from bench.own_valkey import own_valkey

pytestmark = pytest.mark.soak


async def test_after_a_thousand_schedules_nobody_accepts_what_was_invalidated() -> None:
    with own_valkey() as one, own_valkey() as two:
        for seed in range(1_000):
            await run(seed, (one.port, two.port))
