"""Creates the httpx client of one event loop, with the headers and certificates of all calls."""

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
    """Open a client. Its transports remove headers that others (tracing) add to a request.

    `proxies` maps URL patterns to transports; None means `transport`. Each request has its own
    timeout.
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
    )


def trusted_certificates() -> ssl.SSLContext:
    """Read the trusted certificates: `SSL_CERT_FILE`, else `SSL_CERT_DIR`, else httpx's default.

    Raises `BackendUnavailableError` if they cannot be read, because no call can be sent then.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        raise BackendUnavailableError(
            "Not sent: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read "
            f"({exc.strerror or type(exc).__name__})."
        ) from exc


class DeadlineTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, with sockets that enforce the deadline."""

    def __init__(
        self, ssl_context: ssl.SSLContext, max_connections: int, proxy: httpx.Proxy | None = None
    ) -> None:
        super().__init__(verify=ssl_context)
        # httpx has no parameter for the pool; a test with a slow socket checks that this works.
        self._pool = deadline_pool(ssl_context, max_connections, proxy)


class LentTransport(httpx.AsyncBaseTransport):
    """A user's transport, which only the user closes."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass the request on, with our own headers only."""
        request.headers = httpx.Headers(own_headers(request.headers.raw))
        return await self._transport.handle_async_request(request)
