"""Fixtures of the whole suite."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings

from clerk_m2m.testing import ClerkEmulatorServer
from harness import SIGNING_KEY, Instance, World, open_world

SOAK_SECONDS = 1800

# For `bench` and `live`. Appended, so that an installed package is still the one tested.
sys.path.append(str(Path(__file__).parent.parent))


# A busy machine makes an example slow, and that says nothing about the code.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the timeout of soak tests; the others have the one in pyproject.toml."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(SOAK_SECONDS))


def pytest_collection_finish() -> None:
    """Exclude what was imported and collected so far from garbage collection.

    Many tests collect garbage, and each would spend 0.3 s on these objects.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_proxy_of_this_host() -> Iterator[None]:
    """Keep the calls of all tests off a proxy that the environment names."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            environment.delenv(name, raising=False)
            environment.delenv(name.upper(), raising=False)
        yield


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A small world on the emulator, in process, with time that the test moves."""
    async with open_world() as opened:
        yield opened


@pytest.fixture(scope="session")
def clerk_signing_key() -> str:
    """The signing key of the worlds; one for the whole run."""
    return SIGNING_KEY


@pytest.fixture
def instance(
    clerk_emulator_server: ClerkEmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> Instance:
    """A served instance, with the environment set for a service that is its callee."""
    served = Instance.on(clerk_emulator_server)
    for name, value in served.environ.items():
        monkeypatch.setenv(name, value)
    return served
