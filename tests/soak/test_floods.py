"""The flood of unknown tokens at its full size."""

from __future__ import annotations

import pytest
from flooding import flood, little_memory

from harness import World

pytestmark = pytest.mark.soak


async def test_100000_unknown_tokens_do_not_affect_known_callers_and_use_little_memory(
    world: World,
) -> None:
    with little_memory():
        await flood(world, garbage=100_000)
