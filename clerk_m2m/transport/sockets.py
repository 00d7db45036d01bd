"""Sockets that enforce the deadline of the call that uses them.

httpx limits each socket operation, not their sum: a server that sends one byte per second could
hold a connection for hours. Here each operation gets the time until the call's deadline as its
timeout. So the call ends with an ordinary timeout, and its connection returns to the pool.

Sole owner of `httpcore`, the engine of httpx.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any, Final

import httpcore

if TYPE_CHECKING:
    import httpx

# The headers of a call to Clerk. Tracing adds others to every request of httpx (`traceparent`, and
# `baggage` with data of the service), which must not be sent to third parties.
OWN_HEADERS: Final = frozenset(
    {b"accept", b"accept-encoding", b"authorization", b"clerk-api-version", b"connection"}
    | {b"content-length", b"content-type", b"host", b"transfer-encoding", b"user-agent"}
)

_deadline: ContextVar[float] = ContextVar("deadline", default=inf)


def set_deadline(instant: float) -> None:
    """Set the deadline for all socket operations of this task; `instant` is on the loop's clock."""
    _deadline.set(instant)


def own_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return only the headers that this package sets."""
    return [each for each in headers if each[0].lower() in OWN_HEADERS]


def deadline_pool(
    ssl_context: ssl.SSLContext, max_connections: int, proxy: httpx.Proxy | None = None
) -> httpcore.AsyncConnectionPool:
    """Open a connection pool whose sockets enforce the deadline, through `proxy` if that is set.

    A proxy that is reached over TLS is verified with the same certificates as Clerk.
    """
    return _Pool(
        ssl_context=ssl_context,
        proxy=None if proxy is None else _httpcore_proxy(proxy, ssl_context),
        max_connections=max_connections,
        max_keepalive_connections=max_connections,
        keepalive_expiry=30.0,
        network_backend=_DeadlineBackend(),
    )


def _left(timeout: float | None) -> float:
    left = _deadline.get() - asyncio.get_running_loop().time()
    return max(0.0, left if timeout is None else min(timeout, left))


def _httpcore_proxy(proxy: httpx.Proxy, ssl_context: ssl.SSLContext) -> httpcore.Proxy:
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
    )
    over_tls = ssl_context if proxy.url.scheme == "https" else None
    return httpcore.Proxy(url, auth=proxy.raw_auth, ssl_context=over_tls)


class _Pool(httpcore.AsyncConnectionPool):
    """Removes headers that are not ours, here because instrumentation adds them above httpcore."""

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        request.headers = own_headers(request.headers)
        return await super().handle_async_request(request)


class _DeadlineStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, _left(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, _left(timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._stream.start_tls(ssl_context, server_hostname, _left(timeout))
        return _DeadlineStream(stream)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _DeadlineBackend(httpcore.AnyIOBackend):
    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.AsyncNetworkStream:
        stream = await super().connect_tcp(host, port, _left(timeout), *args, **kwargs)
        return _DeadlineStream(stream)
