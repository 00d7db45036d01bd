"""The httpx client of one event loop: what every call is sent with, and nothing else."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from clerk_m2m.errors import BackendUnavailableError
from clerk_m2m.transport.sockets import deadline_pool, own_headers

API_VERSION: Final = "2026-05-12"


def open_client(
    api_url: str,
    transport: httpx.AsyncBaseTransport,
    proxies: Mapping[str, httpx.AsyncBaseTransport | None],
) -> httpx.AsyncClient:
    """Open a client; headers that others put on its requests (tracing) are taken off again.

    `proxies` are transports by a pattern of addresses; None is `transport`. Each request gets a
    timeout of its own.
    """
    return httpx.AsyncClient(
        base_url=api_url,
        transport=transport,
        mounts=proxies,
        follow_redirects=False,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Clerk-API-Version": API_VERSION,
            "User-Agent": "clerk-m2m",
        },
        event_hooks={"request": [_keep_own_headers]},
    )


def trusted_certificates() -> ssl.SSLContext:
    """Read the certificates to trust: `SSL_CERT_FILE`, else `SSL_CERT_DIR`, else httpx's own.

    Raises `BackendUnavailableError` where they cannot be read: then nothing can be asked.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        raise BackendUnavailableError(
            "Not sent: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read "
            f"({exc.strerror or type(exc).__name__})."
        ) from exc


async def _keep_own_headers(request: httpx.Request) -> None:
    request.headers = httpx.Headers(own_headers(request.headers.raw))


class DeadlineTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, over sockets that keep the deadline."""

    def __init__(
        self, ssl_context: ssl.SSLContext, max_connections: int, proxy: httpx.Proxy | None = None
    ) -> None:
        super().__init__(verify=ssl_context)
        # httpx has no parameter for the pool; a test over a slow socket watches this.
        self._pool = deadline_pool(ssl_context, max_connections, proxy)


class LentTransport(httpx.AsyncBaseTransport):
    """A transport of the user's own, which only the user closes."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Hand the request on."""
        return await self._transport.handle_async_request(request)
