"""The flood of garbage at its full size."""

from __future__ import annotations

import pytest
from flooding import flood, little_memory

from harness import World

pytestmark = pytest.mark.soak


async def test_a_hundred_thousand_garbage_tokens_cost_the_callers_in_use_nothing_and_little_memory(
    world: World,
) -> None:
    with little_memory():
        await flood(world, garbage=100_000)
