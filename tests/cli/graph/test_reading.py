"""Reading a whole instance: the pages and the calls to Clerk."""

from __future__ import annotations

import httpx

from clerk_m2m import ClerkClient
from clerk_m2m.cli.graph.reading import read_snapshot
from clerk_m2m.testing import ClerkEmulator
from harness import API_URL, Upstream


def advance(steps: int, total: int | None = None, /) -> None:
    """A progress callback that does nothing."""


async def test_all_pages_are_read_oldest_machine_first(clerk_emulator: ClerkEmulator) -> None:
    clerk_emulator.seed({"machines": {f"m{number:03}": {} for number in range(501)}})
    upstream = Upstream(clerk_emulator.transport)
    async with ClerkClient(
        secret_key=clerk_emulator.secret_key, api_url=API_URL, transport=upstream
    ) as clerk:
        snapshot = await read_snapshot(clerk, advance)

    assert len(snapshot.machines) == 501
    assert [dict(request.url.params) for request in upstream.requests] == [
        {"limit": "500", "offset": "0", "order_by": "+created_at"},
        {"limit": "500", "offset": "500", "order_by": "+created_at"},
    ]


async def test_a_page_that_is_too_large_is_read_in_smaller_pages(
    clerk_emulator: ClerkEmulator,
) -> None:
    clerk_emulator.seed({"machines": {f"m{number}": {} for number in range(126)}})
    upstream = Upstream(clerk_emulator.transport)

    async def refuse_500(request: httpx.Request) -> httpx.Response | None:
        too_large = request.url.params["limit"] == "500"
        return httpx.Response(200, content=bytes(40 * 2**20)) if too_large else None

    upstream.intercept = refuse_500
    async with ClerkClient(
        secret_key=clerk_emulator.secret_key, api_url=API_URL, transport=upstream
    ) as clerk:
        snapshot = await read_snapshot(clerk, advance)

    assert len(snapshot.machines) == 126
    assert [request.url.params["limit"] for request in upstream.requests] == ["500", "125", "125"]
