"""Helpers of the fleet's tests."""

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
    """A server and the prefix of a test's keys; `call` runs a command with a separate client."""

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
        """Run a command and return its answer."""
        with redis_py.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*command)


async def until(condition: Callable[[], object], *, within: float = 20.0) -> None:
    """Wait until a condition is true; fail after `within` seconds."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        await asyncio.sleep(0.002)


def measured(verifier: Verifier) -> FleetMeasurements:
    """Return a verifier's measurements of its fleet."""
    fleet = verifier.measure().fleet
    assert fleet is not None
    return fleet


def in_sync(*verifiers: Verifier) -> bool:
    """Return True if all these verifiers are in sync with the log."""
    return all(measured(each).in_sync for each in verifiers)


async def accepts(verifier: Verifier, token: str) -> bool:
    """Return whether a verifier accepts a token; `VerificationUnavailableError` fails the test."""
    try:
        await verifier.verify(token)
    except TokenInvalidError:
        return False
    return True
