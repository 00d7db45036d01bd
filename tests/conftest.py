"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from harness import Instance, World, open_instance, open_world

SOAK_SECONDS = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a soak test a timeout of its own; the others have the one in pyproject.toml."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(SOAK_SECONDS))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A small world on the emulator, in process, with time that the test moves."""
    async with open_world() as opened:
        yield opened


@pytest_asyncio.fixture
async def instance(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Instance]:
    """A served instance, with the environment set for a service that is its callee."""
    async with open_instance() as opened:
        for name, value in opened.environ.items():
            monkeypatch.setenv(name, value)
        yield opened
