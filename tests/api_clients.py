"""Clients of the Backend API: on the emulator, or with scripted answers."""

from __future__ import annotations

from typing import Any

import httpx

from clerk_m2m import ClerkClient
from harness import API_URL, World

UNKNOWN_MACHINE = "mch_" + "0" * 27
UNKNOWN_KEY = "ak_" + "0" * 32


def open_client(world: World, **given: Any) -> ClerkClient:
    """Open a client on the emulator with the given keys and no others."""
    return world.emulator.client(**({"secret_key": None} | given))


def answering(*answers: httpx.Response | Exception) -> tuple[ClerkClient, list[httpx.Request]]:
    """Return a client whose network sends these answers in turn, and the list of its requests."""
    asked: list[httpx.Request] = []
    waiting = list(answers)

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        given = waiting.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    client = ClerkClient(
        secret_key="sk_test_hidden",
        machine_secret_key="ak_hidden",
        api_url=API_URL,
        transport=httpx.MockTransport(answer),
        timeout=5.0,
    )
    return client, asked


def failing(status: int, **given: Any) -> httpx.Response:
    errors = [{"code": "odd", "message": "no"}]
    return httpx.Response(status, json={"errors": errors, "clerk_trace_id": "trace_1"}, **given)
