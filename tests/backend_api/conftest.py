"""Fixtures of the tests of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from api_clients import open_client

from clerk_m2m import ClerkClient
from harness import World


@pytest_asyncio.fixture
async def clerk(world: World) -> AsyncIterator[ClerkClient]:
    """A client with the instance's key and the caller's key."""
    async with open_client(
        world,
        secret_key=world.emulator.secret_key,
        machine_secret_key=world.caller.secret_key,
        timeout=5.0,
    ) as opened:
        yield opened
