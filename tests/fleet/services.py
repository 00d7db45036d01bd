"""What the tests of the fleet share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis as redis_py

from clerk_m2m import TokenInvalidError, Verifier
from clerk_m2m.observe.measurements import FleetMeasurements

FLEET_KEY = "f" * 40
OTHER_KEY = "o" * 40


@dataclass(frozen=True)
class Redis:
    """A server and the prefix of a test's keys; `call` sends a command as another client does."""

    port: int
    prefix: str

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def head(self) -> str:
        """The key of the head of the log."""
        return f"{{{self.prefix}}}:log:head"

    @property
    def rows(self) -> str:
        """The key of the rows of the log."""
        return f"{{{self.prefix}}}:log:rows"

    def call(self, *command: object) -> Any:
        """Run a command and give its answer."""
        with redis_py.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*command)


async def until(condition: Callable[[], object], *, within: float = 20.0) -> None:
    """Wait until something is so, and fail where it does not come in time."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        await asyncio.sleep(0.002)


def measured(verifier: Verifier) -> FleetMeasurements:
    """Give what a verifier measures of its fleet."""
    fleet = verifier.measure().fleet
    assert fleet is not None
    return fleet


def in_sync(*verifiers: Verifier) -> bool:
    """Tell whether all of them follow the log."""
    return all(measured(each).in_sync for each in verifiers)


async def accepts(verifier: Verifier, token: str) -> bool:
    """Tell whether a verifier lets a token in; what could not be found out fails the test."""
    try:
        await verifier.verify(token)
    except TokenInvalidError:
        return False
    return True
