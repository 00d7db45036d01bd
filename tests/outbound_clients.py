"""The four clients that `MachineTokenAuth` serves, behind one function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import httpx2

from clerk_m2m import MachineTokenAuth

CLIENTS: dict[str, Callable[..., Any]] = {
    "httpx.AsyncClient": httpx.AsyncClient,
    "httpx.Client": httpx.Client,
    "httpx2.AsyncClient": httpx2.AsyncClient,
    "httpx2.Client": httpx2.Client,
}


def raising_hook(client: str) -> Callable[[Any], Any]:
    """The response hook of httpx's documentation, `raise_for_status`."""

    async def hook(response: Any) -> None:
        response.raise_for_status()

    return hook if "Async" in client else lambda response: response.raise_for_status()


async def get(
    client: str, auth: MachineTokenAuth, url: str, *, times: int = 1, **given: Any
) -> list[int]:
    """Call `url` this many times, one by one; return the statuses, also those that were raised."""
    if "Async" not in client:
        return await asyncio.to_thread(_get_sync, CLIENTS[client], auth, url, times, given)
    statuses = []
    async with CLIENTS[client](auth=auth, **given) as opened:
        for _ in range(times):
            try:
                statuses.append((await opened.get(url)).status_code)
            except (httpx.HTTPStatusError, httpx2.HTTPStatusError) as exc:
                statuses.append(exc.response.status_code)
    return statuses


def _get_sync(
    make: Callable[..., Any],
    auth: MachineTokenAuth,
    url: str,
    times: int,
    given: dict[str, Any],
) -> list[int]:
    statuses = []
    with make(auth=auth, **given) as opened:
        for _ in range(times):
            try:
                statuses.append(opened.get(url).status_code)
            except (httpx.HTTPStatusError, httpx2.HTTPStatusError) as exc:
                statuses.append(exc.response.status_code)
    return statuses
