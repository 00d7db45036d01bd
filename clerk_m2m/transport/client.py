"""The httpx client of one event loop: what every call is sent with, and nothing else."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from clerk_m2m.transport.sockets import deadline_pool, own_headers

API_VERSION: Final = "2026-05-12"


def open_client(
    api_url: str, transport: httpx.AsyncBaseTransport, *, timeout: float
) -> httpx.AsyncClient:
    """Open a client; headers that others put on its requests (tracing) are taken off again."""
    return httpx.AsyncClient(
        base_url=api_url,
        transport=transport,
        follow_redirects=False,
        timeout=timeout,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Clerk-API-Version": API_VERSION,
            "User-Agent": "clerk-m2m",
        },
        event_hooks={"request": [_keep_own_headers]},
    )


async def _keep_own_headers(request: httpx.Request) -> None:
    request.headers = httpx.Headers(own_headers(request.headers.raw))


class DeadlineTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, over sockets that keep the deadline."""

    def __init__(self, ssl_context: ssl.SSLContext, max_connections: int) -> None:
        super().__init__(verify=ssl_context)
        # httpx has no parameter for the pool; a test over a slow socket watches this.
        self._pool = deadline_pool(ssl_context, max_connections)
